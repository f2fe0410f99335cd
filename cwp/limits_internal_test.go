package cwp

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestNoSecondHoldsMoreArrivalsThanTheRate lets requests take differently long
// to be written, as when a connection must be made first, and asks for as many
// as the limit lets through.
func TestNoSecondHoldsMoreArrivalsThanTheRate(t *testing.T) {
	for name, delay := range map[string]func(n int) time.Duration{
		"at once":           func(int) time.Duration { return 0 },
		"a new connection":  func(n int) time.Duration { return time.Duration(n%50/49) * 400 * time.Millisecond },
		"all connections":   func(n int) time.Duration { return max(0, time.Duration(16-n)) * 100 * time.Millisecond },
		"late now and then": func(n int) time.Duration { return time.Duration(n*7919%23) * time.Millisecond },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const perSecond = 20
				l := newLimiter(perSecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				var mu sync.Mutex
				var arrivals []time.Time
				var asking sync.WaitGroup
				for range 16 {
					asking.Go(func() {
						for {
							d, err := l.wait(ctx, false)
							if err != nil {
								return
							}
							mu.Lock()
							n := len(arrivals)
							arrivals = append(arrivals, time.Time{})
							mu.Unlock()
							time.Sleep(delay(n))
							l.written(d)
							mu.Lock()
							arrivals[n] = time.Now()
							mu.Unlock()
							time.Sleep(200 * time.Millisecond)
							l.answered(d, time.Now())
						}
					})
				}
				asking.Wait()
				slices.SortFunc(arrivals, time.Time.Compare)
				for i := range arrivals[perSecond:] {
					if d := arrivals[i+perSecond].Sub(arrivals[i]); d < time.Second {
						t.Fatalf("%d requests arrive within %s", perSecond+1, d)
					}
				}
				if share := float64(len(arrivals)) / (60 * perSecond); share < 0.95 {
					t.Errorf("%.3f of the allowed requests were used", share)
				}
			})
		})
	}
}

// TestUrgentRequestsGoFirst has many wait when an urgent one comes.
func TestUrgentRequestsGoFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(10)
		var asking sync.WaitGroup
		ask := func(ctx context.Context, urgent bool) (took time.Duration, err error) {
			began := time.Now()
			d, err := l.wait(ctx, urgent)
			if err == nil {
				l.written(d)
			}
			return time.Since(began), err
		}
		for range 30 {
			asking.Go(func() {
				if _, err := ask(t.Context(), false); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		// One that gives up leaves its turn to others.
		gone, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, err := ask(gone, true); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("error %v", err)
		}
		if took, err := ask(t.Context(), true); err != nil || took > 250*time.Millisecond {
			t.Errorf("an urgent request waited for %s, %v", took, err)
		}
		asking.Wait()
	})
}

// TestRefusalsSlowDownAndQuietSpeedsUp follows the rate.
func TestRefusalsSlowDownAndQuietSpeedsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLimiter(8)
		at := func(want float64) {
			t.Helper()
			if got := l.perSecond(); got != want {
				t.Errorf("%g requests per second, want %g", got, want)
			}
		}
		l.refused()
		l.refused() // was under way together with the first
		at(7)
		time.Sleep(2 * time.Second)
		l.refused()
		at(3.5)
		time.Sleep(quietFor)
		l.raise()
		at(4.5)
		for range 4 {
			time.Sleep(quietFor)
			l.raise()
		}
		at(8)
		for range 20 {
			time.Sleep(2 * time.Second)
			l.refused()
		}
		at(leastRate)
	})
}

// The lowest rate of those that share a budget holds, until it leaves.
func TestBudgetIsThatOfTheLowestShare(t *testing.T) {
	limits := NewLimits()
	lim, leaveTen := limits.of("key", "action", 10)
	same, leaveFour := limits.of("key", "action", 4)
	if lim != same {
		t.Fatal("two limiters for one credential and action")
	}
	rate := func(want float64) {
		t.Helper()
		if got := lim.perSecond(); got < want-0.01 || got > want+0.01 {
			t.Errorf("%.2f requests a second, want %.2f", got, want)
		}
	}
	rate(4)
	lim.refused()
	rate(3.5)
	leaveFour()
	rate(3.5) // what a refusal took comes back by quiet, not by this
	leaveTen()
	rate(3.5)
	_, leave := limits.of("key", "action", 1)
	defer leave()
	rate(1)
}
