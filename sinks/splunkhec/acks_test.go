package splunkhec_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
	"weak"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
)

// watch notes when which ids were asked for, on which channel.
type watch struct {
	next  http.Handler
	start time.Time

	mu    sync.Mutex // guards the fields below
	polls []poll
	posts []string // channels
}

type poll struct {
	At      time.Duration
	Channel string
	IDs     []int
}

func newWatch(next http.Handler) *watch { return &watch{next: next, start: time.Now()} }

func (w *watch) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	channel := r.Header.Get("X-Splunk-Request-Channel")
	w.mu.Lock()
	if strings.HasSuffix(r.URL.Path, "/ack") {
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(strings.NewReader(string(body)))
		var ask struct{ Acks []int }
		_ = json.Unmarshal(body, &ask)
		slices.Sort(ask.Acks)
		w.polls = append(w.polls, poll{At: time.Since(w.start), Channel: channel, IDs: ask.Acks})
	} else {
		w.posts = append(w.posts, channel)
	}
	w.mu.Unlock()
	w.next.ServeHTTP(rw, r)
}

func (w *watch) seen() (polls []poll, posts []string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.polls), slices.Clone(w.posts)
}

func (w *watch) times() []time.Duration {
	polls, _ := w.seen()
	times := make([]time.Duration, 0, len(polls))
	for _, p := range polls {
		times = append(times, p.At)
	}
	return times
}

// send sends in the background.
type sending struct {
	ended   chan struct{}
	receipt sinks.Receipt
	err     error
	at      time.Duration // when it ended
}

func send(ctx context.Context, s sinks.Sink, batch []sinks.Message) *sending {
	start := time.Now()
	d := &sending{ended: make(chan struct{})}
	go func() {
		d.receipt, d.err = s.Send(ctx, batch)
		d.at = time.Since(start)
		close(d.ended)
	}()
	return d
}

func (d *sending) done() bool {
	select {
	case <-d.ended:
		return true
	default:
		return false
	}
}

func seconds(all ...int) []time.Duration {
	var ds []time.Duration
	for _, n := range all {
		ds = append(ds, time.Duration(n)*time.Second)
	}
	return ds
}

func TestDeliveredMeansConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch(hectest.New(hectest.Config{Ack: true, AckDelay: 20 * time.Second}))
		s := open(t, w, splunkhec.Config{})
		d := send(t.Context(), s, sinktest.Messages(2))
		time.Sleep(19 * time.Second)
		synctest.Wait()
		if d.done() {
			t.Fatalf("Send returned %v before the acknowledgement", d.err)
		}
		<-d.ended
		if d.err != nil || d.receipt.Answer != "200 code=0 ackId=0" {
			t.Errorf("Send: %q, %v", d.receipt.Answer, d.err)
		}
		// 1 s after the post, then 2, 4, 8 and 10 s apart.
		if diff := cmp.Diff(seconds(1, 3, 7, 15, 25), w.times()); diff != "" {
			t.Errorf("polls (-want +got):\n%s", diff)
		}
		if d.at != 25*time.Second {
			t.Errorf("Send took %s, want until the poll at 25s", d.at)
		}
	})
}

func TestPollsEveryTenSecondsAtMost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch(hectest.New(hectest.Config{Ack: true, AckDelay: 50 * time.Second}))
		s := open(t, w, splunkhec.Config{})
		if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(seconds(1, 3, 7, 15, 25, 35, 45, 55), w.times()); diff != "" {
			t.Errorf("polls (-want +got):\n%s", diff)
		}
	})
}

func TestPollsOpenIDsTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch(hectest.New(hectest.Config{Ack: true, AckDelay: 2 * time.Second}))
		s := open(t, w, splunkhec.Config{Ack: splunkhec.AckOn})
		var all []*sending
		for range 5 {
			all = append(all, send(t.Context(), s, sinktest.Messages(1)))
			time.Sleep(100 * time.Millisecond)
		}
		for _, d := range all {
			<-d.ended
			if d.err != nil {
				t.Errorf("Send: %v", d.err)
			}
		}
		polls, posts := w.seen()
		want := []poll{
			{At: time.Second, Channel: posts[0], IDs: []int{0, 1, 2, 3, 4}},
			{At: 3 * time.Second, Channel: posts[0], IDs: []int{0, 1, 2, 3, 4}},
		}
		if diff := cmp.Diff(want, polls); diff != "" {
			t.Errorf("polls (-want +got):\n%s", diff)
		}
	})
}

// A post after an idle time is asked for after a second again.
func TestPollsSoonAfterIdle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWatch(hectest.New(hectest.Config{Ack: true, AckDelay: 500 * time.Millisecond}))
		s := open(t, w, splunkhec.Config{})
		for range 3 {
			d := send(t.Context(), s, sinktest.Messages(1))
			<-d.ended
			if d.err != nil || d.at != time.Second {
				t.Errorf("Send took %s, %v, want 1s", d.at, d.err)
			}
			time.Sleep(time.Minute)
		}
		if got := len(w.times()); got != 3 {
			t.Errorf("%d polls, want 3: none while nothing is open", got)
		}
	})
}

// A stuck id does not keep younger ones from being asked for soon once it is
// given up.
func TestCancelledWaitLetsOthersBePolledSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Next(hectest.NeverAck())
		s := open(t, hec, splunkhec.Config{Ack: splunkhec.AckOn})
		ctx, cancel := context.WithCancel(t.Context())
		stuck := send(ctx, s, sinktest.Messages(1))
		time.Sleep(16 * time.Second) // the next poll is at 25 s
		cancel()
		<-stuck.ended
		d := send(t.Context(), s, sinktest.Messages(1))
		<-d.ended
		if d.err != nil || d.at != time.Second {
			t.Errorf("Send took %s, %v, want 1s", d.at, d.err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Next(hectest.NeverAck())
		s := open(t, hec, splunkhec.Config{Ack: splunkhec.AckOn})
		ctx, cancel := context.WithCancel(t.Context())
		stuck := send(ctx, s, sinktest.Messages(1))
		time.Sleep(16 * time.Second) // the next poll is at 25 s
		d := send(t.Context(), s, sinktest.Messages(1))
		synctest.Wait()
		cancel() // with the younger already open
		<-stuck.ended
		<-d.ended
		if d.err != nil || d.at != time.Second {
			t.Errorf("Send beside it took %s, %v, want 1s", d.at, d.err)
		}
	})
}

func TestWindow(t *testing.T) {
	for ack, want := range map[string][2]int{ // before and after an answer with an ackId
		splunkhec.AckAuto: {1, 32}, splunkhec.AckOn: {32, 32}, splunkhec.AckOff: {1, 1},
	} {
		t.Run(ack, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hec := hectest.New(hectest.Config{Ack: true})
				s := open(t, hec, splunkhec.Config{Ack: ack})
				before := s.Window()
				d := send(t.Context(), s, sinktest.Messages(1))
				synctest.Wait()
				if got := [2]int{before, s.Window()}; got != want {
					t.Errorf("windows %v, want %v", got, want)
				}
				<-d.ended
				if d.err != nil {
					t.Fatal(d.err)
				}
				if ack == splunkhec.AckAuto {
					hec.SetAck(false)
					if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
						t.Fatal(err)
					}
					if got := s.Window(); got != 1 {
						t.Errorf("window %d after an answer without ackId, want 1", got)
					}
				}
			})
		})
	}
}

func TestNotConfirmedIsSentAgainOnANewChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Next(hectest.NeverAck())
		w := newWatch(hec)
		s := open(t, w, splunkhec.Config{})
		batch := sinktest.Messages(2)
		d := send(t.Context(), s, batch)
		<-d.ended
		if d.err == nil || sinks.ClassOf(d.err) != sinks.ClassRetry || d.at != 5*time.Minute {
			t.Errorf("Send took %s, class %v of %v, want retry after 5m", d.at, sinks.ClassOf(d.err), d.err)
		}
		polls := len(w.times())
		time.Sleep(time.Hour)
		if got := len(w.times()); got != polls {
			t.Errorf("%d polls after it was given up", got-polls)
		}
		if _, err := s.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		if _, posts := w.seen(); len(posts) != 2 || posts[0] == posts[1] {
			t.Errorf("channels %v, want two different", posts)
		}
		if hec.Distinct() != 2 || hec.Duplicates() != 2 {
			t.Errorf("%d events, %d duplicates, want 2 and 2", hec.Distinct(), hec.Duplicates())
		}
	})
}

// What is open on the former channel is still confirmed there.
func TestFormerChannelIsStillPolled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true, AckDelay: 20 * time.Second})
		hec.Next(hectest.NeverAck())
		s := open(t, hec, splunkhec.Config{Ack: splunkhec.AckOn, AckTimeout: 10 * time.Second})
		stuck := send(t.Context(), s, sinktest.Messages(1))
		time.Sleep(9 * time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		short := send(ctx, s, sinktest.Messages(1))
		<-stuck.ended
		<-short.ended
		if !errors.Is(short.err, context.DeadlineExceeded) {
			t.Errorf("error %v does not say that the deadline passed", short.err)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true, AckDelay: 5 * time.Second})
		hec.Next(hectest.NeverAck())
		s := open(t, hec, splunkhec.Config{Ack: splunkhec.AckOn, AckTimeout: 10 * time.Second})
		stuck := send(t.Context(), s, sinktest.Messages(1))
		time.Sleep(9 * time.Second)
		slow := send(t.Context(), s, sinktest.Messages(1))
		<-stuck.ended // leaves the channel
		next := send(t.Context(), s, sinktest.Messages(1))
		<-slow.ended
		<-next.ended
		if stuck.err == nil || slow.err != nil || next.err != nil {
			t.Errorf("stuck: %v, on its channel: %v, on the next: %v", stuck.err, slow.err, next.err)
		}
	})
}

func TestTrueIsToldOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Next(hectest.Fault{On: hectest.Acks, Apply: true, Drop: true}) // the answer with the only "true" is lost
		s := open(t, hec, splunkhec.Config{AckTimeout: time.Minute})
		_, err := s.Send(t.Context(), sinktest.Messages(1))
		if err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
			t.Errorf("class %v of %v, want retry: nobody knows that it was indexed", sinks.ClassOf(err), err)
		}
	})
}

func TestRefusedPollsNeverDeliver(t *testing.T) {
	for name, c := range map[string]struct {
		fault hectest.Fault
		cfg   splunkhec.Config
		want  sinks.Class
	}{
		"token disabled":      {hectest.Fault{Status: 403, Code: 1}, splunkhec.Config{}, sinks.ClassHalt},
		"invalid token":       {hectest.Fault{Status: 403, Code: 4}, splunkhec.Config{}, sinks.ClassHalt},
		"channel missing":     {hectest.Fault{Status: 400, Code: 10}, splunkhec.Config{}, sinks.ClassHalt},
		"invalid format":      {hectest.Fault{Status: 400, Code: 6}, splunkhec.Config{}, sinks.ClassRetry},
		"ack disabled":        {hectest.Fault{Status: 400, Code: 14}, splunkhec.Config{}, sinks.ClassRetry},
		"ack disabled, on":    {hectest.Fault{Status: 400, Code: 14}, splunkhec.Config{Ack: splunkhec.AckOn}, sinks.ClassHalt},
		"not found":           {hectest.Fault{Status: 404, Body: "not found"}, splunkhec.Config{}, sinks.ClassHalt},
		"redirect":            {hectest.Fault{Status: 302, Body: "elsewhere"}, splunkhec.Config{}, sinks.ClassHalt},
		"question too large":  {hectest.Fault{Status: 413, Body: "large"}, splunkhec.Config{}, sinks.ClassRetry},
		"unprocessable":       {hectest.Fault{Status: 422, Body: "no"}, splunkhec.Config{}, sinks.ClassRetry},
		"page with status ok": {hectest.Fault{Status: 200, Body: "<html>"}, splunkhec.Config{AckTimeout: time.Minute}, sinks.ClassRetry},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hec := hectest.New(hectest.Config{Ack: true})
				c.fault.On = hectest.Acks
				hec.Always(c.fault)
				_, err := open(t, hec, c.cfg).Send(t.Context(), sinktest.Messages(1))
				if err == nil || sinks.ClassOf(err) != c.want {
					t.Errorf("class %v of %v, want %v", sinks.ClassOf(err), err, c.want)
				}
			})
		})
	}
}

func TestPollsThroughOutages(t *testing.T) {
	for name, fault := range map[string]hectest.Fault{
		"busy": hectest.Busy(), "internal": hectest.Internal(false), "bad gateway": hectest.BadGateway(),
		"cut": {Drop: true}, "timeout": {Status: 408, Body: "late"}, "too early": {Status: 425, Body: "early"},
		"page": {Status: 200, Body: "<html>"}, "too many": hectest.TooMany("1"),
		"silent": {Delay: time.Hour, Status: 200, Body: "{}"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				hec := hectest.New(hectest.Config{Ack: true})
				fault.On = hectest.Acks
				hec.Next(fault, fault, fault)
				d := send(t.Context(), open(t, hec, splunkhec.Config{}), sinktest.Messages(1))
				<-d.ended
				if d.err != nil {
					t.Errorf("Send: %v after %s", d.err, d.at)
				}
			})
		})
	}
}

func TestPollsWaitForRetryAfter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		fault := hectest.TooMany("40")
		fault.On = hectest.Acks
		hec.Next(fault)
		w := newWatch(hec)
		if _, err := open(t, w, splunkhec.Config{}).Send(t.Context(), sinktest.Messages(1)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(seconds(1, 41), w.times()); diff != "" {
			t.Errorf("polls (-want +got):\n%s", diff)
		}
	})
}

// Code 14 means that the token has no acknowledgement: go on without.
func TestAckDisabledGoesOnWithout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		s := open(t, hec, splunkhec.Config{})
		d := send(t.Context(), s, sinktest.Messages(2))
		synctest.Wait()
		hec.SetAck(false) // while one waits
		<-d.ended
		if d.err == nil || sinks.ClassOf(d.err) != sinks.ClassRetry {
			t.Errorf("class %v of %v, want retry", sinks.ClassOf(d.err), d.err)
		}
		if _, err := s.Send(t.Context(), sinktest.Messages(2)); err != nil {
			t.Errorf("without acknowledgement: %v", err)
		}
		if got := s.Window(); got != 1 {
			t.Errorf("window %d, want 1", got)
		}
	})
	hec := hectest.New(hectest.Config{})
	hec.Next(hectest.Fault{Status: 400, Code: 14})
	s := open(t, hec, splunkhec.Config{})
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
		t.Errorf("class %v of %v, want retry", sinks.ClassOf(err), err)
	}
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
		t.Error(err)
	}
	hec.Next(hectest.Fault{Status: 400, Code: 14})
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("said again: class %v of %v, want halt: there is nothing more to switch off", sinks.ClassOf(err), err)
	}
}

func TestWithoutAckIDHaltsWhereAckIsOn(t *testing.T) {
	hec := hectest.New(hectest.Config{})
	receipt, err := open(t, hec, splunkhec.Config{Ack: splunkhec.AckOn}).Send(t.Context(), sinktest.Messages(1))
	if err == nil || sinks.ClassOf(err) != sinks.ClassHalt || !strings.Contains(err.Error(), "enable indexer acknowledgement") {
		t.Errorf("class %v of %v, want halt with what to do", sinks.ClassOf(err), err)
	}
	if receipt.Answer != "200 code=0" {
		t.Errorf("answer %q", receipt.Answer)
	}
}

// After a restart ids begin at 0 again. An old batch must not be taken as
// confirmed because a new one with its id was.
func TestRestartConfirmsNoOldBatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Next(hectest.NeverAck())
		w := newWatch(hec)
		s := open(t, w, splunkhec.Config{Ack: splunkhec.AckOn})
		old := send(t.Context(), s, sinktest.Messages(1))
		synctest.Wait()
		hec.Restart()
		young := send(t.Context(), s, sinktest.Messages(1))
		<-old.ended
		<-young.ended
		if old.err == nil || young.err == nil {
			t.Errorf("old: %v, young: %v, want errors: one id for two batches", old.err, young.err)
		}
		if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		if _, posts := w.seen(); posts[0] != posts[1] || posts[1] == posts[2] {
			t.Errorf("channels %v, want a new one for the third", posts)
		}
	})
}

func TestNewChannelAfterAFailureOfTheNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		w := newWatch(hec)
		s := open(t, w, splunkhec.Config{Ack: splunkhec.AckOn})
		hec.Next(hectest.Fault{NeverAck: true}, hectest.Fault{Drop: true})
		old := send(t.Context(), s, sinktest.Messages(1))
		synctest.Wait()
		if _, err := s.Send(t.Context(), sinktest.Messages(1)); err == nil {
			t.Fatal("a cut connection was a success")
		}
		hec.Restart()
		if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
			t.Errorf("Send: %v", err)
		}
		if old.done() {
			t.Errorf("the old batch ended with %v", old.err)
		}
		if _, posts := w.seen(); posts[1] == posts[2] {
			t.Error("same channel after the failure")
		}
	})
}

func TestFullAckChannelIsLeft(t *testing.T) {
	hec := hectest.New(hectest.Config{})
	hec.Next(hectest.Fault{Status: 429, Code: 27})
	w := newWatch(hec)
	s := open(t, w, splunkhec.Config{})
	_, _ = s.Send(t.Context(), sinktest.Messages(1))
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
		t.Fatal(err)
	}
	if _, posts := w.seen(); posts[0] == posts[1] {
		t.Error("same channel after it was at capacity")
	}
}

// Behind a load balancer only the indexer that took a batch knows its id.
func TestStickyCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		members := []*hectest.Server{
			hectest.New(hectest.Config{Ack: true}), hectest.New(hectest.Config{Ack: true}), hectest.New(hectest.Config{Ack: true}),
		}
		w := newWatch(hectest.NewBalancer(true, members[0], members[1], members[2]))
		s := open(t, w, splunkhec.Config{Ack: splunkhec.AckOn})
		var all []*sending
		for i := range 12 {
			all = append(all, send(t.Context(), s, sinktest.Messages(i+1)))
		}
		for _, d := range all {
			<-d.ended
			if d.err != nil || d.at != time.Second {
				t.Errorf("Send took %s, %v, want 1s: the poll went elsewhere", d.at, d.err)
			}
		}
		busy := 0
		for _, m := range members {
			if m.Requests(hectest.Events) > 0 {
				busy++
			}
		}
		if polls := w.times(); busy != 1 || len(polls) != 1 {
			t.Errorf("%d members had posts, %d polls; want 1 and 1", busy, len(polls))
		}
	})
}

// Without sticky sessions a batch is confirmed when a poll happens to come to
// its indexer; never one because of another.
func TestBalancerWithoutStickySessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := hectest.New(hectest.Config{Ack: true})
		b := hectest.New(hectest.Config{Ack: true})
		b.Always(hectest.NeverAck())
		s := open(t, hectest.NewBalancer(false, a, b), splunkhec.Config{Ack: splunkhec.AckOn, AckTimeout: time.Minute})
		one := send(t.Context(), s, sinktest.Messages(1))
		synctest.Wait()
		two := send(t.Context(), s, sinktest.Messages(1)) // the same id of another indexer
		<-one.ended
		<-two.ended
		if one.err == nil || two.err == nil {
			t.Errorf("%v, %v, want errors: one id for two batches", one.err, two.err)
		}
	})
}

// The first posts do not run ahead of the cookie that binds them, and a first
// post that fails does not block those behind it.
func TestFirstPostGoesAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var running, most atomic.Int64
		hec := hectest.New(hectest.Config{Ack: true})
		slow := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/event") && len(hec.Events()) == 0 {
				most.Store(max(most.Load(), running.Add(1)))
				time.Sleep(time.Second)
				defer running.Add(-1)
			}
			hec.ServeHTTP(w, r)
		})
		hec.Next(hectest.Fault{Drop: true}, hectest.BadGateway())
		s := open(t, slow, splunkhec.Config{Ack: splunkhec.AckOn})
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		var all []*sending
		for range 6 {
			all = append(all, send(t.Context(), s, sinktest.Messages(1)))
		}
		synctest.Wait()
		impatient := send(ctx, s, sinktest.Messages(1))
		<-impatient.ended
		if impatient.at != 500*time.Millisecond || !errors.Is(impatient.err, context.DeadlineExceeded) {
			t.Errorf("Send in the queue took %s, %v, want until its deadline", impatient.at, impatient.err)
		}
		failed := 0
		for _, d := range all {
			<-d.ended
			if d.err != nil {
				failed++
			}
		}
		if failed != 2 || most.Load() != 1 {
			t.Errorf("%d failed, %d at once before the first success; want 2 and 1", failed, most.Load())
		}
	})
}

func TestReturnsWhenContextIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Always(hectest.NeverAck())
		s := open(t, hec, splunkhec.Config{})
		ctx, cancel := context.WithCancel(t.Context())
		d := send(ctx, s, sinktest.Messages(1))
		time.Sleep(90 * time.Second)
		cancel()
		synctest.Wait()
		if !d.done() || !errors.Is(d.err, context.Canceled) || d.receipt.Answer != "200 code=0 ackId=0" {
			t.Errorf("done %t, %q, %v", d.done(), d.receipt.Answer, d.err)
		}
	})
}

func TestCloseLeavesNothingBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // a bubble does not end while a goroutine of it lives
		hec := hectest.New(hectest.Config{Ack: true})
		hec.Always(hectest.NeverAck())
		var polling atomic.Bool
		s := open(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if strings.HasSuffix(r.URL.Path, "/ack") {
				polling.Store(true)
				<-r.Context().Done()
				polling.Store(false)
			}
			hec.ServeHTTP(w, r)
		}), splunkhec.Config{})
		d := send(t.Context(), s, sinktest.Messages(1))
		time.Sleep(10 * time.Second) // within a poll
		start := time.Now()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took > 0 {
			t.Errorf("Close took %s", took)
		}
		synctest.Wait()
		if polling.Load() || !d.done() {
			t.Errorf("after Close: polling %t, Send ended %t", polling.Load(), d.done())
		}
		<-d.ended
		if d.err == nil || sinks.ClassOf(d.err) != sinks.ClassRetry {
			t.Errorf("class %v of %v, want retry", sinks.ClassOf(d.err), d.err)
		}
		if _, err := s.Send(t.Context(), sinktest.Messages(1)); err == nil {
			t.Error("Send after Close waits for nothing and succeeds")
		}
	})
}

// Many batches at once, each confirmed at its own time, under the race detector.
func TestManyAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hec := hectest.New(hectest.Config{Ack: true, AckDelay: 1500 * time.Millisecond})
		hec.Next(hectest.Slow(3*time.Second), hectest.Slow(time.Second), hectest.Fault{}, hectest.Slow(2*time.Second))
		s := open(t, hec, splunkhec.Config{Ack: splunkhec.AckOn})
		var wg sync.WaitGroup
		for i := range 32 {
			wg.Go(func() {
				for n := range 10 {
					batch := []sinks.Message{{Record: sinktest.Record(i*100 + n), Body: fmt.Appendf(nil, `{"n":%d}`, n)}}
					if _, err := s.Send(t.Context(), batch); err != nil {
						t.Errorf("Send: %v", err)
					}
				}
			})
		}
		wg.Wait()
		if hec.Distinct() != 320 || hec.Duplicates() != 0 {
			t.Errorf("%d events, %d duplicates, want 320 and 0", hec.Distinct(), hec.Duplicates())
		}
		if got, most := hec.Requests(hectest.Acks), 4*320; got > most {
			t.Errorf("%d polls for 320 batches", got)
		}
	})
}

func TestKeepsNoBatchThatWasConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := open(t, hectest.New(hectest.Config{Ack: true}), splunkhec.Config{})
		record := func() weak.Pointer[event.Record] {
			batch := sinktest.Messages(1)
			if _, err := s.Send(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			return weak.Make(batch[0].Record)
		}()
		for range 20 {
			runtime.GC()
		}
		if record.Value() != nil {
			t.Error("the sink still refers to a record that was confirmed")
		}
	})
}

// trip is a network of one function.
type trip func(*http.Request) (*http.Response, error)

func (f trip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

func TestCloseWaitsForAPoll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var ended atomic.Bool
		hec := memory{hectest.New(hectest.Config{Ack: true})}
		s := splunkhec.NewWithTransport(splunkhec.Config{URL: "http://splunk.test", Token: secret.New(hectest.DefaultToken)},
			trip(func(req *http.Request) (*http.Response, error) {
				if !strings.HasSuffix(req.URL.Path, "/ack") {
					return hec.RoundTrip(req)
				}
				<-req.Context().Done()
				time.Sleep(time.Second) // what a connection may need to end
				ended.Store(true)
				return nil, req.Context().Err()
			}))
		d := send(t.Context(), s, sinktest.Messages(1))
		time.Sleep(2 * time.Second)
		if err := s.Close(); err != nil || !ended.Load() {
			t.Errorf("Close: %v, poll ended %t", err, ended.Load())
		}
		<-d.ended
	})
}
