package poller_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/poller"
)

// changing lets the list change before each answer, by a rate of changes per
// request.
func (r *rig) changing(perRequest float64) {
	var mu sync.Mutex
	due := 0.0
	before := r.api.Before
	r.api.Before = func(n int, q cwp.Query) error {
		mu.Lock()
		defer mu.Unlock()
		for due += perRequest; due >= 1; due-- {
			r.world.Step(time.Now())
		}
		if before != nil {
			return before(n, q)
		}
		return nil
	}
}

// purging lets what was shown be deleted, once in each sweep, when that is half
// of what the list counts: from then on the count agrees with what was read,
// wherever the sweep ends.
func (r *rig) purging() (newSweep func()) {
	var mu sync.Mutex
	var shown map[string]bool
	after := r.api.After
	r.api.After = func(n int, q cwp.Query, p *cwp.Page) (*cwp.Page, error) {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range p.Items {
			if shown != nil {
				shown[item.ID] = true
			}
		}
		if shown != nil && 2*len(shown) >= r.world.Len() {
			r.world.Delete(slices.Collect(maps.Keys(shown))...)
			shown = nil
		}
		if after != nil {
			return after(n, q, p)
		}
		return p, nil
	}
	return func() {
		mu.Lock()
		defer mu.Unlock()
		shown = map[string]bool{}
	}
}

// missed are the pairs that were visible during the whole of a window and that
// the journal has no record of.
func (r *rig) missed(from, to uint64) []emulator.Pair {
	r.t.Helper()
	have := map[emulator.Pair]bool{}
	for _, rec := range r.records() {
		have[emulator.Pair{ID: rec.Key.ID, Status: rec.Status.Code}] = true
	}
	var out []emulator.Pair
	for _, pair := range r.world.VisibleThroughout(from, to) {
		if !have[pair] {
			out = append(out, pair)
		}
	}
	return out
}

// untrue are the records that the list never showed.
func (r *rig) untrue() []*event.Record {
	r.t.Helper()
	var out []*event.Record
	for _, rec := range r.records() {
		if !r.world.EverShown(rec.Key.ID, rec.Raw) {
			out = append(out, rec)
		}
	}
	return out
}

// unordered names an event whose records tell its states in another order than
// they were true in, "" if there is none.
func (r *rig) unordered() string {
	r.t.Helper()
	next := map[string]int{} // by id: the first version that a further record may be
	for _, rec := range r.records() {
		versions := r.world.History(rec.Key.ID)
		i := next[rec.Key.ID]
		for i < len(versions) && versions[i].Status != rec.Status.Code {
			i++
		}
		if i == len(versions) {
			return fmt.Sprintf("record %d of event %s says %s, which was not true after what the record before it says", rec.Sequence, rec.Key.ID, rec.Status.Code)
		}
		next[rec.Key.ID] = i + 1
		if rec.Action == event.Redetected {
			next[rec.Key.ID] = i
		}
	}
	return ""
}

// TestCertifiedSweepsMissNothing is the promise: over lists that change while
// they are read, with ties in no fixed order, crowded seconds, errors and
// delayed answers, a pair that is visible during the whole of a certified
// sweep is in the journal at its end, and no record was never true.
func TestCertifiedSweepsMissNothing(t *testing.T) {
	t.Parallel()
	certified := 0
	rapid.Check(t, func(rt *rapid.T) {
		w := weather{
			seed:    rapid.Uint64().Draw(rt, "seed"),
			events:  rapid.IntRange(0, 1500).Draw(rt, "events"),
			rate:    rapid.Float64Range(0, 3).Draw(rt, "changes per request"),
			broken:  rapid.IntRange(0, 4).Draw(rt, "tens of requests between errors"),
			tracked: rapid.Bool().Draw(rt, "changed on DetectTime"),
			overlap: rapid.Bool().Draw(rt, "answers overtake each other"),
			purge:   rapid.IntRange(0, 3).Draw(rt, "what was shown is deleted") == 0,
			quirks: emulator.Quirks{
				ExclusiveBegin: rapid.Bool().Draw(rt, "BeginTime is exclusive"),
				ExclusiveEnd:   rapid.Bool().Draw(rt, "EndTime is exclusive"),
				StatusAsRecord: rapid.Bool().Draw(rt, "Status has the record's numbering"),
				NullWhenEmpty:  rapid.Bool().Draw(rt, "List is null when empty"),
			},
		}
		var failure string
		synctest.Test(t, func(t *testing.T) {
			n, err := w.sweeps(t)
			certified += n
			if err != nil {
				failure = err.Error()
			}
		})
		if failure != "" {
			rt.Fatal(failure)
		}
	})
	if certified == 0 {
		t.Fatal("no sweep was certified: the test proves nothing")
	}
	t.Logf("%d certified sweeps", certified)
}

// While a sweep runs, half of the list is deleted, which it has read: the count
// agrees from then on, and only reading on finds the other half.
func TestCountThatAgreesEndsNoSweep(t *testing.T) {
	t.Parallel()
	for _, events := range []int{250, 600, 900, 1500, 4000} {
		w := weather{seed: 11, events: events, purge: true}
		synctest.Test(t, func(t *testing.T) {
			if n, err := w.sweeps(t); err != nil || n == 0 {
				t.Errorf("%d events: %d certified sweeps, %v", events, n, err)
			}
		})
	}
}

// A list that does not change is read to its end page by page: nothing is left
// to be looked for because of the count.
func TestQuietListIsReadToItsEnd(t *testing.T) {
	t.Parallel()
	for _, events := range []int{300, 900, 3000} {
		r := newRig(t, 2, events)
		for sweep := range 2 { // the second is cut at remembered places
			searches := atomic.Int64{}
			r.api.Before = func(_ int, q cwp.Query) error {
				if q.Begin != "" && q.End != "" && q.Begin != q.End {
					searches.Add(1)
				}
				return nil
			}
			if cert, err := r.once(t.Context()); err != nil || !cert.Certified || searches.Load() > 0 {
				t.Errorf("%d events, sweep %d: %+v, %v, %d requests looked for what was missing", events, sweep+1, cert, err, searches.Load())
			}
		}
	}
}

// One part finds out that EndTime excludes the second it names while others
// read crowded seconds by the other bound: what they were shown then proves
// nothing. Which part comes first differs from run to run.
func TestPartsDoNotMisleadEachOtherAboutBounds(t *testing.T) {
	t.Parallel()
	for range 8 {
		w := weather{
			seed: 0x504, events: 1090, rate: 3, broken: 1, tracked: true, overlap: true,
			quirks: emulator.Quirks{ExclusiveEnd: true, StatusAsRecord: true, NullWhenEmpty: true},
		}
		synctest.Test(t, func(t *testing.T) {
			if _, err := w.sweeps(t); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCrowdedSecondIsReadUntilTwoReadingsAgree hides one of many events of a
// second in two readings, as an order that changes from answer to answer can,
// once alone and once while another is deleted, so that the count fits.
func TestCrowdedSecondIsReadUntilTwoReadingsAgree(t *testing.T) {
	t.Parallel()
	for name, deleted := range map[string]int{"hidden": 0, "hidden while another is deleted": 1} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 1, 0)
			ids := r.world.Burst(150, time.Now())
			hidden, others := ids[7], ids[20:]
			reading := 0
			r.api.Before = func(_ int, q cwp.Query) error {
				if q.Begin == "" || q.Begin != q.End || q.Status != "" || q.Where.Name != "" || q.Offset > 0 {
					return nil
				}
				switch reading++; reading {
				case 1: // so that the number of all events does not give it away
					_, err := r.world.Insert(emulator.Event{Start: ago(-time.Minute)})
					return err
				case 2:
					r.world.Delete(others[:deleted]...)
				}
				return nil
			}
			r.api.After = func(_ int, _ cwp.Query, p *cwp.Page) (*cwp.Page, error) {
				if reading > 2 {
					return p, nil
				}
				for i := range p.Items {
					if p.Items[i].ID == hidden {
						p.Items[i] = p.Items[(i+1)%len(p.Items)] // twice, in its place
					}
				}
				return p, nil
			}
			cert, err := r.once(t.Context())
			if err != nil || !cert.Certified {
				t.Fatalf("%+v, %v", cert, err)
			}
			if _, ok := r.pairs()[hidden]; !ok {
				t.Errorf("certified after %d readings without an event that was there all the time", reading)
			}
		})
	}
}

// A weather is the circumstances of some sweeps.
type weather struct {
	seed             uint64
	events           int
	rate             float64
	broken           int
	tracked, overlap bool
	purge            bool
	quirks           emulator.Quirks
}

// sweeps runs three sweeps and returns how many were certified, and what broke
// the promise.
func (w weather) sweeps(t *testing.T) (certified int, err error) {
	t.Helper()
	r := newRig(t, w.seed, w.events)
	r.world.SetQuirks(w.quirks)
	if w.tracked {
		r.opt.Config.ChangedOn = []string{"HandleStatus", "DetectTime"}
	}
	if w.broken > 0 {
		r.api.Before = func(n int, _ cwp.Query) error {
			if n%(w.broken*10) == 0 {
				return &cwp.Error{Class: cwp.ClassServer, Code: "InternalError"}
			}
			return nil
		}
	}
	r.changing(w.rate)
	// Every answer takes its time: of two at one and the same moment nobody could
	// say which is the older.
	r.api.Lead = func(int) time.Duration { return time.Millisecond }
	if w.overlap {
		r.opt.Rate = 1000 // parts side by side
		r.api.Lead = func(n int) time.Duration { return time.Duration(1+n*7919%13) * time.Millisecond }
		r.api.Lag = func(n int) time.Duration { return time.Duration(n*104729%17) * time.Millisecond }
	}
	newSweep := func() {}
	if w.purge {
		newSweep = r.purging()
	}
	for range 3 {
		newSweep()
		from := r.world.Tick()
		cert, err := r.once(t.Context())
		to := r.world.Tick()
		if err != nil && !errors.As(err, new(*cwp.Error)) {
			return certified, err
		}
		if !cert.Certified {
			continue
		}
		certified++
		if lost := r.missed(from, to); len(lost) > 0 {
			return certified, fmt.Errorf("certified sweep %+v missed %d pairs, the first is %+v", cert, len(lost), lost[0])
		}
	}
	if made := r.untrue(); len(made) > 0 {
		return certified, fmt.Errorf("%d records were never true, the first is %s", len(made), made[0].Raw)
	}
	if what := r.unordered(); what != "" {
		return certified, errors.New(what)
	}
	return certified, nil
}

// TestPlainOffsetPagingMisses shows that the world above is one in which the
// usual way of paging loses events: the reason for keyset paging.
func TestPlainOffsetPagingMisses(t *testing.T) {
	t.Parallel()
	missed := 0
	for seed := range uint64(20) {
		r := newRig(t, seed, 1500)
		r.changing(3)
		seen := map[emulator.Pair]bool{}
		from := r.world.Tick()
		for offset := 0; ; offset += 100 {
			page, err := r.api.List(t.Context(), cwp.Query{Sort: cwp.BySweepTime, Offset: offset, Limit: 100})
			if err != nil {
				t.Fatal(err)
			}
			for _, item := range page.Items {
				seen[emulator.Pair{ID: item.ID, Status: item.Status}] = true
			}
			if len(page.Items) < 100 {
				break
			}
		}
		for _, pair := range r.world.VisibleThroughout(from, r.world.Tick()) {
			if !seen[pair] {
				missed++
			}
		}
	}
	if missed < 20 {
		t.Errorf("offset paging missed %d pairs only: the list does not change enough to prove anything", missed)
	}
	t.Logf("offset paging missed %d pairs in 20 passes", missed)
}

// TestServerThatHidesRowsGetsNoCertificate lets the server count rows that it
// never gives.
func TestServerThatHidesRowsGetsNoCertificate(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, 500)
	r.api.After = func(_ int, _ cwp.Query, p *cwp.Page) (*cwp.Page, error) {
		kept := p.Items[:0]
		for _, item := range p.Items {
			if item.ID[len(item.ID)-1] != '7' {
				kept = append(kept, item)
			}
		}
		p.Items = kept
		return p, nil
	}
	cert, err := r.once(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cert.Certified || cert.Reason != "withheld" {
		t.Errorf("certificate %+v, want none for withheld rows", cert)
	}
}

// TestFallbacks reads lists of servers that honour not the order, not the time
// filter, or neither.
func TestFallbacks(t *testing.T) {
	t.Parallel()
	ignoreTimes := func(next func(cwp.Query) (*cwp.Page, error), q cwp.Query) (*cwp.Page, error) {
		q.Begin, q.End = "", ""
		return next(q)
	}
	reverse := func(p *cwp.Page) {
		for i, j := 0, len(p.Items)-1; i < j; i, j = i+1, j-1 {
			p.Items[i], p.Items[j] = p.Items[j], p.Items[i]
		}
	}
	for name, tc := range map[string]struct {
		noFilter, noOrder bool
		quirks            emulator.Quirks
		timed             bool // all events have a time
		method            string
	}{
		"no filter":                         {noFilter: true, method: "anchored"},
		"no order":                          {noOrder: true, timed: true, method: "slices"},
		"no order, and bounds that exclude": {noOrder: true, timed: true, method: "slices", quirks: emulator.Quirks{ExclusiveBegin: true, ExclusiveEnd: true}},
		"no order, and events without time": {noOrder: true, method: "passes"},
		"neither":                           {noFilter: true, noOrder: true, method: "passes"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 5, 700)
			if tc.timed {
				r = newRig(t, 5, 0)
				r.spread(700)
			}
			r.world.SetQuirks(tc.quirks)
			honest := r.api
			r.opt.API = apiFunc(func(ctx context.Context, q cwp.Query) (*cwp.Page, error) {
				ask := func(q cwp.Query) (*cwp.Page, error) { return honest.List(ctx, q) }
				var p *cwp.Page
				var err error
				if tc.noFilter {
					p, err = ignoreTimes(ask, q)
				} else {
					p, err = ask(q)
				}
				if err == nil && tc.noOrder {
					reverse(p)
				}
				return p, err
			})
			cert, err := r.once(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if cert.Method != tc.method {
				t.Errorf("method %s, want %s", cert.Method, tc.method)
			}
			if got := len(r.pairs()); got != 700 || tc.timed && !cert.Certified {
				t.Errorf("%d of 700 events, %+v", got, cert)
			}
		})
	}
}

// An API that refuses questions with an upper bound is read to the end another
// way, and what cannot be proved that way is said.
func TestRefusedBoundEndsNoSweep(t *testing.T) {
	t.Parallel()
	for name, crowd := range map[string]int{"no crowded second": 0, "a crowded second": 150} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 5, 0)
			r.spread(600)
			list := make([]emulator.Event, crowd)
			for i := range list {
				list[i].Start = ago(1000 * time.Second)
			}
			if _, err := r.world.Insert(list...); err != nil {
				t.Fatal(err)
			}
			honest := r.api
			r.opt.API = apiFunc(func(ctx context.Context, q cwp.Query) (*cwp.Page, error) {
				if q.End != "" {
					return nil, &cwp.Error{Class: cwp.ClassRequest, Code: "InvalidParameter"}
				}
				return honest.List(ctx, q)
			})
			cert, err := r.once(t.Context())
			if err != nil || cert.Certified != (crowd == 0) {
				t.Fatalf("%+v, %v", cert, err)
			}
			if crowd > 0 && cert.Reason != "crowded-second" {
				t.Errorf("not certified for %s: %s", cert.Reason, cert.Detail)
			}
			if got, least := len(r.pairs()), 600+crowd*9/10; got < least { // chance hides some of a crowd
				t.Errorf("%d events are known, want at least %d", got, least)
			}
		})
	}
}

type apiFunc func(context.Context, cwp.Query) (*cwp.Page, error)

func (f apiFunc) List(ctx context.Context, q cwp.Query) (*cwp.Page, error) { return f(ctx, q) }

// TestStatusChangesAndReopeningsAreRecords follows one event through its life.
func TestStatusChangesAndReopeningsAreRecords(t *testing.T) {
	r := newRig(t, 1, 0)
	ids, err := r.world.InsertJSON([]byte(`{"EventId":24,"HandleStatus":0,"StartTime":"2026-11-01 10:00:00","DetectTime":"2026-11-01 10:00:05","VirusName":"Linux.Risk.Miner"}`))
	if err != nil {
		t.Fatal(err)
	}
	sweep := func() {
		t.Helper()
		cert, err := r.once(t.Context())
		if err != nil || !cert.Certified {
			t.Fatalf("%+v, %v", cert, err)
		}
	}
	sweep()
	for _, status := range []int{3, 3, 0, 9} {
		r.world.SetStatus(status, ids...)
		sweep()
	}
	var got []string
	for _, rec := range r.records() {
		got = append(got, fmt.Sprintf("%d %s %s<-%s backfill=%t", rec.Sequence, rec.Action, rec.Status.Symbol, rec.Previous.Symbol, rec.Backfill))
	}
	want := []string{
		"1 detected pending<- backfill=true", "2 closed scanned<-pending backfill=false",
		"3 reopened pending<-scanned backfill=false", "4 status-changed unknown<-pending backfill=false",
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("records\n%v, want\n%v", got, want)
	}
}

// TestOlderAnswerNeverUndoesANewerOne polls with head scans beside sweeps while
// answers overtake each other.
func TestOlderAnswerNeverUndoesANewerOne(t *testing.T) {
	t.Parallel()
	for seed := range uint64(10) {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, seed, 250)
			r.opt.Config.PollInterval, r.opt.Config.SweepInterval = time.Second, time.Second
			r.changing(2)
			r.api.Lead = func(n int) time.Duration { return time.Duration(n*7919%400) * time.Millisecond }
			r.api.Lag = func(n int) time.Duration { return time.Duration(n*104729%1300) * time.Millisecond }
			p, err := poller.New(r.opt)
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			if err := p.Run(ctx); err != nil {
				t.Fatal(err)
			}
			if what := r.unordered(); what != "" {
				t.Error(what)
			}
			if n := len(r.records()); n < 300 {
				t.Errorf("%d records only: too little happened to prove anything", n)
			}
			if p.Status().Certified.Ended.IsZero() {
				t.Error("no sweep was certified")
			}
		})
	}
}
