package console_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
	"github.com/cwprelay/cwprelay/poller"
)

// A world is a journal, an API that shows some of its events, and sinks that
// note what they are handed.
type world struct {
	t      *testing.T
	j      *journal.File
	api    map[string]string // status code by id
	failed error
	cert   journal.Certificate
	handed map[string][]uint64
}

func newWorld(t *testing.T, dir string, names ...string) *world {
	t.Helper()
	var rules []journal.SinkRule
	for _, name := range names {
		rules = append(rules, journal.SinkRule{Name: name, StartFrom: journal.StartNow})
	}
	return worldOf(t, journal.Config{Dir: dir, MinFreeDisk: 1}, rules)
}

func worldOf(t *testing.T, cfg journal.Config, rules []journal.SinkRule) *world {
	t.Helper()
	j, err := journal.Open(cfg.WithDefaults(), journal.Options{Sinks: rules})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	return &world{t: t, j: j, api: map[string]string{}, cert: journal.Certificate{Sweep: "s-1", Certified: true}, handed: map[string][]uint64{}}
}

// key is that of journaltest's records.
func key(n int) event.Key { return journaltest.Record(fmt.Sprint(n), 1).Key }

// add puts events first to last into the journal, and into what the API shows.
func (w *world) add(first, last int) {
	w.t.Helper()
	lease, err := w.j.Lease(w.t.Context(), "source/prod/risk_process")
	if err != nil {
		w.t.Fatal(err)
	}
	var batch journal.Batch
	for n := first; n <= last; n++ {
		rec := journaltest.Record(fmt.Sprint(n), 1)
		batch.Changes = append(batch.Changes, journaltest.Change(rec))
		w.api[rec.Key.ID] = rec.Status.Code
	}
	if _, err := w.j.Append(w.t.Context(), lease, batch); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) settle(s journal.Settlement) {
	w.t.Helper()
	lease, err := w.j.Lease(w.t.Context(), "sink/"+s.Sink)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.j.Settle(w.t.Context(), lease, s); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) show(_ context.Context, keep func(event.Key) bool) ([]*poller.Shown, []error) {
	account := key(1).Account
	s := &poller.Shown{Source: "prod", Kind: "risk_process", Account: account, Zone: "Asia/Shanghai", Certificate: w.cert, Events: map[string]poller.ShownEvent{}}
	for id, code := range w.api {
		s.Events[id] = poller.ShownEvent{Status: event.Status{Code: code, Symbol: "status" + code}, At: time.Now()}
		if k := (event.Key{Account: account, Kind: "risk_process", ID: id}); keep(k) {
			states, err := w.j.States(w.t.Context(), account, "risk_process", "", 10_000)
			if err != nil {
				w.t.Fatal(err)
			}
			for _, ks := range states {
				if ks.Key == k {
					s.Kept = append(s.Kept, &event.Record{Key: k, Seq: ks.State.LastRecord, Raw: []byte("{}")})
				}
			}
		}
	}
	return []*poller.Shown{s}, []error{w.failed}
}

// steered is a worker that does what Resend promises.
type steered struct {
	delivery.Worker // never called

	w    *world
	sink string
}

func (s *steered) Resend(ctx context.Context, records []*event.Record, filled []journal.Range) (int, error) {
	for _, r := range records {
		s.w.handed[s.sink] = append(s.w.handed[s.sink], r.Seq)
	}
	c, err := s.w.j.Cursor(ctx, s.sink)
	if err != nil {
		return 0, err
	}
	s.w.settle(journal.Settlement{Sink: s.sink, Cursor: c, Filled: filled})
	return 0, nil
}

func (w *world) reconcile(q console.Comparing) console.Reconciliation {
	w.t.Helper()
	admin := console.NewAdmin(console.AdminOptions{
		Store: w.j, Show: w.show, Sink: func(name string) console.Steered { return &steered{w: w, sink: name} },
		Options: console.Options{
			Journal: w.j.Status, Metrics: prometheus.NewRegistry(),
			Sources: func() []poller.Status { return nil }, Sinks: func() []delivery.Status { return nil },
		},
	})
	body, err := json.Marshal(q)
	if err != nil {
		w.t.Fatal(err)
	}
	rec := httptest.NewRecorder()
	admin.ServeHTTP(rec, httptest.NewRequest(http.MethodPost, "/v1/reconcile", bytes.NewReader(body)))
	var v console.Reconciliation
	if err := json.Unmarshal(rec.Body.Bytes(), &v); err != nil || rec.Code != http.StatusOK {
		w.t.Fatalf("%d %s", rec.Code, rec.Body)
	}
	return v
}

func TestReconcileAgreesWhereNothingIsMissing(t *testing.T) {
	w := newWorld(t, t.TempDir(), "soc", "slow")
	w.add(1, 20)
	w.settle(journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 20}})
	w.settle(journal.Settlement{Sink: "slow", Cursor: journal.Cursor{Seq: 5, Ahead: []journal.Range{{First: 9, Last: 10}}}})
	delete(w.api, key(3).ID) // the vendor deleted it: no gap
	v := w.reconcile(console.Comparing{})
	if !v.Agrees || len(v.Differ) > 0 {
		t.Fatalf("%+v", v)
	}
	if s := v.Sources[0]; s.Gone != 1 || s.Missing != 0 || sum(s.API) != 19 || sum(s.Journal) != 19 {
		t.Errorf("source %+v", s)
	}
	for i, want := range [][2]int{{7, 13}, {20, 0}} {
		if s := v.Sinks[i]; sum(s.Settled) != want[0] || sum(s.Waiting) != want[1] {
			t.Errorf("sink %s has settled %v, waiting %v; want %v", s.Sink, s.Settled, s.Waiting, want)
		}
	}
}

func sum(counts map[string]int) (n int) {
	for _, c := range counts {
		n += c
	}
	return n
}

func TestReconcileNamesWhatDiffers(t *testing.T) {
	tests := map[string]struct {
		breaks func(w *world)
		want   console.Difference
	}{
		"not in the journal": {
			func(w *world) { w.api["987654"] = "0" },
			console.Difference{Where: "journal", ID: "987654", Status: "status0", Why: "the API shows it, the journal does not know it"},
		},
		"another status": {
			func(w *world) { w.api[key(4).ID] = "77" },
			console.Difference{Where: "journal", ID: key(4).ID, Seq: 4, Status: "status77", Why: "the journal has it as pending"},
		},
		"dead letter": {
			func(w *world) {
				rec, err := w.j.Get(w.t.Context(), 7)
				if err != nil {
					w.t.Fatal(err)
				}
				w.settle(journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 20}, Dead: []journal.DeadLetter{{Record: rec, Class: "poison", Reason: "400"}}})
			},
			console.Difference{Where: "soc", ID: key(7).ID, Seq: 7, Status: "pending", Why: "dead letter: poison: 400"},
		},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, t.TempDir(), "soc")
			w.add(1, 20)
			w.settle(journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 20}})
			tt.breaks(w)
			v := w.reconcile(console.Comparing{})
			if v.Agrees || len(v.Differ) != 1 {
				t.Fatalf("%+v", v)
			}
			got := v.Differ[0]
			got.Finding = ""
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("difference (-want +got):\n%s", diff)
			}
		})
	}
}

// A sweep that proves nothing, and an API that cannot be asked, never agree.
func TestReconcileNeedsACertificate(t *testing.T) {
	w := newWorld(t, t.TempDir(), "soc")
	w.add(1, 3)
	w.settle(journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 3}})
	w.cert = journal.Certificate{Sweep: "s-2", Reason: "withheld", Detail: "2 hidden"}
	if v := w.reconcile(console.Comparing{}); v.Agrees || v.Sources[0].Verdict != "withheld: 2 hidden" {
		t.Errorf("%+v", v)
	}
	w.failed = errors.New("network: refused")
	if v := w.reconcile(console.Comparing{}); v.Agrees || !v.Sources[0].Error || v.Sources[0].Verdict != "network: refused" {
		t.Errorf("%+v", v)
	}
}

// A sink that begins later is given the rest where it is asked for by name, and
// then has it.
func TestResendGivesANewSinkTheRest(t *testing.T) {
	dir := t.TempDir()
	w := newWorld(t, dir, "soc")
	w.add(1, 20)
	w.settle(journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 20}})
	api := w.api
	if err := w.j.Close(); err != nil {
		t.Fatal(err)
	}
	w = newWorld(t, dir, "soc", "late")
	w.api = api
	w.add(21, 22)
	if v := w.reconcile(console.Comparing{Resend: true}); !v.Agrees || len(w.handed) > 0 || sum(v.Sinks[0].Before) != 20 {
		t.Fatalf("where the sink began was its owner's choice: handed %v, %+v", w.handed, v)
	}
	v := w.reconcile(console.Comparing{Sink: "late", Resend: true})
	if v.Sinks[0].Resent != 20 || v.Sinks[0].Lost+v.Sinks[0].Later > 0 {
		t.Fatalf("%+v", v.Sinks[0])
	}
	var want []uint64
	for seq := range uint64(20) {
		want = append(want, seq+1)
	}
	if diff := cmp.Diff(map[string][]uint64{"late": want}, w.handed); diff != "" {
		t.Errorf("handed over (-want +got):\n%s", diff)
	}
	if v := w.reconcile(console.Comparing{Sink: "late"}); !v.Agrees || sum(v.Sinks[0].Before) > 0 {
		t.Errorf("afterwards %+v", v.Sinks[0])
	}
}

// What a full journal took from a sink is named, handed over as far as somebody
// still has it, and then owed no longer; what nobody has any more stays a gap
// until that is accepted.
func TestResendFillsTheGapOfAFullJournal(t *testing.T) {
	w := worldOf(t, journal.Config{Dir: t.TempDir(), MinFreeDisk: 1, MaxBytes: 1 << 20}, []journal.SinkRule{{Name: "slow", OnFull: journal.OnFullSkip}})
	gaps := func() []journal.Gap {
		st, err := w.j.Status(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return st.Gaps
	}
	for n := 1; len(gaps()) == 0; n += 200 {
		w.add(n, n+199)
	}
	lost := gaps()[0].Range
	if lost.Last-lost.First < 10 {
		t.Fatalf("the gap is %+v", lost)
	}
	delete(w.api, key(int(lost.First)+2).ID)
	v := w.reconcile(console.Comparing{})
	if s := v.Sinks[0]; v.Agrees || sum(s.Missing) != int(lost.Last-lost.First)+1 || s.Superseded != 0 {
		t.Fatalf("%d missing of the gap %+v, agrees %v", sum(s.Missing), lost, v.Agrees)
	}
	v = w.reconcile(console.Comparing{Resend: true})
	if s := v.Sinks[0]; s.Resent != int(lost.Last-lost.First) || s.Lost != 1 {
		t.Fatalf("%+v", s)
	}
	if got := gaps(); len(got) != 1 || got[0].Range.First != lost.First+2 || got[0].Range.Last != lost.First+2 {
		t.Errorf("the gap is %+v, want record %d alone", got, lost.First+2)
	}
	if v = w.reconcile(console.Comparing{}); v.Agrees || sum(v.Sinks[0].Missing) != 1 {
		t.Errorf("what nobody has any more agrees: %+v", v.Sinks[0])
	}
	w.reconcile(console.Comparing{Resend: true, Accept: true})
	if v = w.reconcile(console.Comparing{}); !v.Agrees || len(gaps()) > 0 {
		t.Errorf("accepted, and still missing: %+v", v.Sinks[0])
	}
}
