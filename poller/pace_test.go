package poller_test

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// A budget lets so many requests a second through to an API that takes a while
// to answer, the urgent ones first, as the client does.
type budget struct {
	next    poller.API
	perSec  int
	rtt     time.Duration
	urgent  chan struct{}
	patient chan struct{}
}

func (r *rig) budget(ctx context.Context, perSec int, rtt time.Duration) *sync.WaitGroup {
	b := &budget{next: r.api, perSec: perSec, rtt: rtt, urgent: make(chan struct{}), patient: make(chan struct{})}
	r.opt.API, r.opt.Rate = b, float64(perSec)
	var running sync.WaitGroup
	running.Go(func() { b.run(ctx) })
	return &running
}

func (b *budget) run(ctx context.Context) {
	for ctx.Err() == nil {
		select {
		case b.urgent <- struct{}{}:
		default:
			select {
			case b.urgent <- struct{}{}:
			case b.patient <- struct{}{}:
			case <-ctx.Done():
			}
		}
		time.Sleep(time.Second / time.Duration(b.perSec))
	}
}

func (b *budget) List(ctx context.Context, q cwp.Query) (*cwp.Page, error) {
	turn := b.patient
	if q.Urgent {
		turn = b.urgent
	}
	select {
	case <-turn:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	time.Sleep(b.rtt / 2)
	page, err := b.next.List(ctx, q)
	time.Sleep(b.rtt / 2)
	if page != nil {
		page.SentAt, page.ReceivedAt = page.SentAt.Add(-b.rtt/2), time.Now()
	}
	return page, err
}

// ago is the API's text for a time that has passed.
func ago(d time.Duration) string {
	return time.Now().Add(-d).In(time.FixedZone("", 8*60*60)).Format("2006-01-02 15:04:05")
}

// spread inserts events, each of a second of its own.
func (r *rig) spread(events int) {
	r.t.Helper()
	list := make([]emulator.Event, events)
	for i := range list {
		list[i].Start = ago(time.Duration(i) * 7 * time.Second)
		list[i].Detect = list[i].Start
	}
	if _, err := r.world.Insert(list...); err != nil {
		r.t.Fatal(err)
	}
}

// TestSweepUsesTheWholeBudget sweeps a list that was never read, and again with
// what was learned of it: at all times something waits for the budget, and
// hardly a request is not needed.
func TestSweepUsesTheWholeBudget(t *testing.T) {
	t.Parallel()
	const (
		perSec = 20
		rtt    = 200 * time.Millisecond
	)
	for name, tc := range map[string]struct {
		events, crowd int
		requests      int // at most
	}{
		"every event in a second of its own": {events: 15_000, requests: 160},
		"one crowded second":                 {events: 5_000, crowd: 700, requests: 160},
		"many without a time":                {events: 5_000, crowd: -700, requests: 160},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newRig(t, 1, 0)
				r.spread(tc.events)
				crowd := make([]emulator.Event, max(tc.crowd, -tc.crowd))
				for i := range crowd {
					crowd[i].Start = ago(25_001 * time.Second)
					if tc.crowd < 0 {
						crowd[i].Start = emulator.Null
					}
				}
				if _, err := r.world.Insert(crowd...); err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				defer r.budget(ctx, perSec, rtt).Wait()
				defer cancel()
				for _, sweep := range []string{"first", "second"} {
					began := time.Now()
					cert, err := r.once(ctx)
					if err != nil || !cert.Certified {
						t.Fatalf("%s: %+v, %v", sweep, cert, err)
					}
					idle := time.Since(began) - time.Duration(cert.Requests)*time.Second/perSec
					t.Logf("%s: %d requests in %s, idle for %s", sweep, cert.Requests, time.Since(began), idle)
					// The first request and the last count are alone under way, and
					// a collect is a few questions one after the other.
					if idle > 7*rtt {
						t.Errorf("%s: the budget was not used for %s", sweep, idle)
					}
					if cert.Requests > tc.requests {
						t.Errorf("%s: %d requests, want at most %d", sweep, cert.Requests, tc.requests)
					}
				}
			})
		})
	}
}

// TestNewEventsAreSeenSoon lets a hundred events a second come while the list is
// swept again and again.
func TestNewEventsAreSeenSoon(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{2 * time.Second, 5 * time.Second, 15 * time.Second} {
		t.Run(interval.String(), func(t *testing.T) {
			delays := flow(t, flowing{interval: interval, listed: 5_000, perSec: 10, rtt: 100 * time.Millisecond, rest: 20 * time.Second})
			median, late := delays[len(delays)/2], delays[len(delays)*99/100]
			t.Logf("median %s, 99th percentile %s, most %s", median, late, delays[len(delays)-1])
			if median > interval/2+300*time.Millisecond || late > interval+time.Second {
				t.Errorf("median %s, 99th percentile %s", median, late)
			}
		})
	}
}

// TestBurstIsSeenSoon lets a hundred events a second begin to come while a sweep
// of minutes runs: the first of them, which pile up for a poll interval, do not
// wait for it.
func TestBurstIsSeenSoon(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]flowing{
		"a slow budget":       {perSec: 10, rtt: 100 * time.Millisecond},
		"the vendor's budget": {perSec: 20, rtt: 200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			f.interval, f.listed = 15*time.Second, 60_000
			delays := flow(t, f)
			// The emulator gives the events of a second in another order each time:
			// some are in none of the pages, and are left to the sweep.
			late := delays[len(delays)*97/100]
			t.Logf("median %s, 97th percentile %s, most %s", delays[len(delays)/2], late, delays[len(delays)-1])
			if late > f.interval+12*time.Second {
				t.Errorf("97th percentile %s", late)
			}
		})
	}
}

// A flowing list holds events, and for 70 seconds a hundred more a second.
type flowing struct {
	interval time.Duration // of polls
	listed   int
	perSec   int // requests
	rtt      time.Duration
	rest     time.Duration // nothing is measured of the first events: they pile up before anything says how many come
}

// flow returns, in order, how long after their births events were shown; an
// hour for those that never were.
func flow(t *testing.T, f flowing) (delays []time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, 0)
		r.spread(f.listed)
		r.opt.Config.PollInterval = f.interval
		ctx, cancel := context.WithCancel(t.Context())
		defer r.budget(ctx, f.perSec, f.rtt).Wait()
		defer cancel()
		if _, err := r.once(ctx); err != nil { // and begins again after it
			t.Fatal(err)
		}
		p, err := poller.New(r.opt)
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- p.Run(ctx) }()
		born := map[string]time.Time{}
		began := time.Now()
		for range 700 {
			ids, err := r.world.Insert(make([]emulator.Event, 10)...)
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range ids {
				born[id] = time.Now()
			}
			time.Sleep(100 * time.Millisecond)
			r.world.Advance(time.Now()) // the present that new events bear
		}
		time.Sleep(2 * f.interval)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		for _, rec := range r.records() {
			if at, ok := born[rec.Key.ID]; ok {
				if at.Sub(began) >= f.rest {
					delays = append(delays, rec.ObservedAt.Sub(at))
				}
				delete(born, rec.Key.ID)
			}
		}
		for _, at := range born { // those that only the next sweep would show
			if at.Sub(began) >= f.rest {
				delays = append(delays, time.Hour)
			}
		}
	})
	slices.Sort(delays)
	return delays
}

// TestHeadScanCertifiesTheWholeListOnly polls a list that one page holds, and
// one that it does not hold, with a single sweep at the beginning.
func TestHeadScanCertifiesTheWholeListOnly(t *testing.T) {
	t.Parallel()
	for events, whole := range map[int]bool{50: true, 300: false} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, 1, 0)
			r.spread(events)
			r.opt.Config.PollInterval, r.opt.Config.SweepInterval = 2*time.Second, time.Hour
			p, err := poller.New(r.opt)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := p.Run(ctx); err != nil {
				t.Fatal(err)
			}
			certs, err := r.file.Certificates(context.WithoutCancel(t.Context()), "prod", "risk_process", 100)
			if err != nil || len(certs) == 0 {
				t.Fatalf("%d certificates, %v", len(certs), err)
			}
			heads := slices.DeleteFunc(certs, func(c journal.Certificate) bool { return c.Method != "whole" })
			if (len(heads) > 0) != whole {
				t.Errorf("%d events: %d certificates by head scans", events, len(heads))
			}
		})
	}
}

// refusing refuses head scans, and counts them.
type refusing struct {
	poller.API
	asked *atomic.Int64
}

func (r refusing) List(ctx context.Context, q cwp.Query) (*cwp.Page, error) {
	if q.Sort == cwp.ByHeadTimeDesc {
		r.asked.Add(1)
		return nil, &cwp.Error{Class: cwp.ClassRequest, Code: "InvalidParameter", Message: "no such order"}
	}
	return r.API.List(ctx, q)
}

// What is left to read does not make head scans come sooner where they fail.
func TestRefusedHeadScansAreNotHurried(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 1, 0)
		r.spread(500)
		var asked atomic.Int64
		r.opt.API = refusing{r.api, &asked}
		p, err := poller.New(r.opt)
		if err != nil {
			t.Fatal(err)
		}
		const scans = 20
		ctx, cancel := context.WithTimeout(t.Context(), scans*r.opt.Config.PollInterval)
		defer cancel()
		if err := p.Run(ctx); err != nil {
			t.Fatal(err)
		}
		if n := asked.Load(); n < scans-2 || n > scans+1 {
			t.Errorf("asked %d times in %d poll intervals", n, scans)
		}
	})
}
