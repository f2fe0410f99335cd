// Package journaltest is what every storage engine behind journal.Journal has
// to pass: the promises of the interface, as tests that know no engine.
package journaltest

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// Sink is the sink that the journals of the suite must be configured with: it
// starts from the oldest record.
const Sink = "soc"

// An Engine opens journals for the suite.
type Engine struct {
	// Open opens a new journal, whose Sink is configured.
	Open func(t *testing.T) journal.Journal
	// Reopen closes a journal that Open gave and opens it again.
	Reopen func(t *testing.T, j journal.Journal) journal.Journal
}

// Record makes a record of an event with a body of its own.
func Record(id string, sequence uint64) *event.Record {
	key := event.Key{Account: "1300000001", Kind: "risk_process", ID: id}
	return &event.Record{
		Key: key, UID: key.EventUID(sequence, "r"), Sequence: sequence, Revision: "r",
		Action: event.Detected, Status: event.Status{Code: "0", Symbol: "pending"},
		FirstDetect: "2026-11-01 10:00:00", ObservedAt: time.Date(2026, 11, 1, 2, 0, 1, 5e6, time.UTC),
		Dialect: "record", Zone: "Asia/Shanghai", Source: "prod", Sweep: "s-1", Page: 3, RequestID: "id-1",
		Raw: fmt.Appendf(nil, `{"EventId":%s,"CmdLine":"日本 %d"}`, id, sequence),
	}
}

// Change is the change that a record tells.
func Change(rec *event.Record) journal.Change {
	return journal.Change{
		Key: rec.Key, Expect: rec.Sequence - 1, Record: rec,
		State: event.State{Status: rec.Status, Sequence: rec.Sequence, FirstDetect: rec.FirstDetect, Tracked: []string{"2026-11-01 10:00:00"}},
	}
}

type suite struct {
	j      journal.Journal
	source journal.Lease
	sink   journal.Lease
}

func open(t *testing.T, j journal.Journal) *suite {
	t.Helper()
	s := &suite{j: j}
	var err error
	if s.source, err = j.Lease(t.Context(), "source/prod/risk_process"); err != nil {
		t.Fatal(err)
	}
	if s.sink, err = j.Lease(t.Context(), "sink/"+Sink); err != nil {
		t.Fatal(err)
	}
	return s
}

func (s *suite) append(t *testing.T, recs ...*event.Record) uint64 {
	t.Helper()
	var b journal.Batch
	for _, r := range recs {
		b.Changes = append(b.Changes, Change(r))
	}
	last, err := s.j.Append(t.Context(), s.source, b)
	if err != nil {
		t.Fatal(err)
	}
	return last
}

func (s *suite) read(t *testing.T, after uint64) []*event.Record {
	t.Helper()
	recs, err := s.j.Read(t.Context(), after, 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	return recs
}

// Run tests an engine.
func Run(t *testing.T, e Engine) {
	t.Helper()
	for name, test := range map[string]func(*testing.T, Engine){
		"records come back as they were, over a restart": recordsComeBack,
		"a conflict fails the whole batch":               conflictFailsWhole,
		"every write needs a lease of its kind":          writesNeedLeases,
		"a later lease ends the former":                  laterLeaseEndsFormer,
		"readers never see a later record first":         readersSeeNoHoles,
		"a cursor never goes back":                       cursorNeverGoesBack,
		"a settlement is stored whole":                   settlementIsWhole,
		"a forgotten key is gone":                        forgottenKeyIsGone,
		"a source and its certificates are kept":         sourceIsKept,
		"Changed wakes for what is behind":               changedWakes,
		"dead letters are replaced and removed":          deadLettersChange,
		"a replay is kept, alone, and never goes back":   replayIsKept,
		"a sink that is not configured can be forgotten": sinkIsForgotten,
	} {
		t.Run(name, func(t *testing.T) { test(t, e) })
	}
}

func recordsComeBack(t *testing.T, e Engine) {
	t.Helper()
	j := e.Open(t)
	s := open(t, j)
	a, b := Record("24", 1), Record("9007199254740993", 1)
	b.Backfill, b.Action = true, event.Redetected
	b.Previous = event.Status{Code: "3", Symbol: "scanned", Closed: true}
	last := s.append(t, a, b)
	if a.Seq == 0 || b.Seq <= a.Seq || last != b.Seq {
		t.Fatalf("sequences %d and %d, last %d", a.Seq, b.Seq, last)
	}
	j = e.Reopen(t, j)
	s = open(t, j)
	got := s.read(t, 0)
	if len(got) != 2 || !reflect.DeepEqual(got[0], a) || !reflect.DeepEqual(got[1], b) {
		t.Errorf("read %+v, want %+v and %+v", got, a, b)
	}
	one, err := j.Get(t.Context(), b.Seq)
	if err != nil || !reflect.DeepEqual(one, b) {
		t.Errorf("got %+v, %v", one, err)
	}
	states, err := j.States(t.Context(), "1300000001", "risk_process", "", 1)
	if err != nil || len(states) != 1 || states[0].Key.ID != "24" || states[0].State.LastRecord != a.Seq || states[0].State.Tracked[0] != "2026-11-01 10:00:00" {
		t.Errorf("states %+v, %v", states, err)
	}
	states, err = j.States(t.Context(), "1300000001", "risk_process", "24", 10)
	if err != nil || len(states) != 1 || states[0].Key.ID != "9007199254740993" {
		t.Errorf("further states %+v, %v", states, err)
	}
	if next := Record("24", 2); s.append(t, next) <= last {
		t.Error("a sequence was given twice")
	}
}

func conflictFailsWhole(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	s.append(t, Record("1", 1))
	_, err := s.j.Append(t.Context(), s.source, journal.Batch{
		Changes: []journal.Change{Change(Record("2", 1)), Change(Record("1", 1))},
		Source:  &journal.Source{Source: "prod", Kind: "risk_process", Account: "x"},
	})
	if !errors.Is(err, journal.ErrConflict) {
		t.Fatalf("error %v, want ErrConflict", err)
	}
	if n := len(s.read(t, 0)); n != 1 {
		t.Errorf("%d records after a conflict, want 1", n)
	}
	if src, err := s.j.Source(t.Context(), "prod", "risk_process"); err != nil || src.Account != "" {
		t.Errorf("a part of the batch was stored: %+v, %v", src, err)
	}
}

func writesNeedLeases(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	if _, err := s.j.Append(t.Context(), s.sink, journal.Batch{Changes: []journal.Change{Change(Record("1", 1))}}); !errors.Is(err, journal.ErrLeaseLost) {
		t.Errorf("append with a sink's lease: %v", err)
	}
	if err := s.j.Settle(t.Context(), s.source, journal.Settlement{Sink: Sink}); !errors.Is(err, journal.ErrLeaseLost) {
		t.Errorf("settle with a source's lease: %v", err)
	}
}

func laterLeaseEndsFormer(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	last := s.append(t, Record("1", 1))
	next, err := s.j.Lease(t.Context(), s.sink.Owner())
	if err != nil {
		t.Fatal(err)
	}
	settle := func(l journal.Lease) error {
		return s.j.Settle(t.Context(), l, journal.Settlement{Sink: Sink, Cursor: journal.Cursor{Seq: last}})
	}
	if err := settle(s.sink); !errors.Is(err, journal.ErrLeaseLost) {
		t.Errorf("settle under a lease that another has: %v", err)
	}
	if c, err := s.j.Cursor(t.Context(), Sink); err != nil || c.Seq != 0 {
		t.Errorf("the cursor was moved: %+v, %v", c, err)
	}
	if err := s.sink.Release(); err != nil { // not the one of the next
		t.Error(err)
	}
	if err := settle(next); err != nil {
		t.Errorf("settle under the present lease: %v", err)
	}
	if err := next.Release(); err != nil {
		t.Error(err)
	}
	if err := settle(next); !errors.Is(err, journal.ErrLeaseLost) {
		t.Errorf("settle under a lease that was given back: %v", err)
	}
	s.append(t, Record("2", 1)) // the source's lease is another
}

func readersSeeNoHoles(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	const writers, each = 4, 25
	var wg sync.WaitGroup
	errs := make(chan error, writers)
	for w := range writers {
		wg.Go(func() {
			for n := range each {
				rec := Record(fmt.Sprint(w*1000+n), 1)
				if _, err := s.j.Append(context.Background(), s.source, journal.Batch{Changes: []journal.Change{Change(rec)}}); err != nil {
					errs <- err
					return
				}
			}
		})
	}
	seen := map[uint64]bool{}
	after := uint64(0)
	for len(seen) < writers*each {
		select {
		case err := <-errs:
			t.Fatal(err)
		case <-s.j.Changed(after):
		case <-time.After(20 * time.Second):
			t.Fatalf("%d of %d records seen", len(seen), writers*each)
		}
		for _, r := range s.read(t, after) {
			if r.Seq <= after || seen[r.Seq] {
				t.Fatalf("record %d after %d", r.Seq, after)
			}
			seen[r.Seq], after = true, r.Seq
		}
	}
	wg.Wait()
}

func cursorNeverGoesBack(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	for i := range uint64(6) {
		s.append(t, Record(fmt.Sprint(i), 1))
	}
	want := journal.Cursor{Seq: 2, Ahead: []journal.Range{{First: 4, Last: 5}}}
	for _, c := range []journal.Cursor{want, {Seq: 1, Ahead: []journal.Range{{First: 4, Last: 5}}}} {
		if err := s.j.Settle(t.Context(), s.sink, journal.Settlement{Sink: Sink, Cursor: c}); err != nil {
			t.Fatal(err)
		}
		if got, err := s.j.Cursor(t.Context(), Sink); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("cursor %+v, %v, want %+v", got, err, want)
		}
	}
}

func settlementIsWhole(t *testing.T, e Engine) {
	t.Helper()
	j := e.Open(t)
	s := open(t, j)
	a, b := Record("1", 1), Record("2", 1)
	s.append(t, a, b)
	at := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	err := s.j.Settle(t.Context(), s.sink, journal.Settlement{
		Sink: Sink, Cursor: journal.Cursor{Seq: b.Seq},
		Dead:     []journal.DeadLetter{{Record: b, Reason: "code 6", Class: "poison", Attempts: 3, At: at}},
		Receipts: []journal.Receipt{{Range: journal.Range{First: a.Seq, Last: b.Seq}, At: at, Attempts: 1, Records: 2, Answer: "200 code=0"}},
		Memos:    map[event.Key]string{a.Key: "thread-1"},
	})
	if err != nil {
		t.Fatal(err)
	}
	j = e.Reopen(t, j)
	dead, err := j.DeadLetters(t.Context(), Sink, 0, 10)
	if err != nil || len(dead) != 1 || dead[0].Reason != "code 6" || !dead[0].At.Equal(at) || !reflect.DeepEqual(dead[0].Record, b) {
		t.Errorf("dead letters %+v, %v", dead, err)
	}
	memos, err := j.Memos(t.Context(), Sink, []event.Key{a.Key, b.Key})
	if err != nil || !reflect.DeepEqual(memos, map[event.Key]string{a.Key: "thread-1"}) {
		t.Errorf("memos %v, %v", memos, err)
	}
	st, err := j.Status(t.Context())
	if err != nil || len(st.Sinks) != 1 || st.Sinks[0].Behind != 0 || st.Sinks[0].Dead != 1 || st.Sinks[0].Last.Answer != "200 code=0" || st.Keys != 2 || st.Records != 2 {
		t.Errorf("status %+v, %v", st, err)
	}
}

func forgottenKeyIsGone(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	rec := Record("1", 1)
	s.append(t, rec)
	if err := s.j.Settle(t.Context(), s.sink, journal.Settlement{Sink: Sink, Memos: map[event.Key]string{rec.Key: "m"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.j.Append(t.Context(), s.source, journal.Batch{Changes: []journal.Change{{Key: rec.Key, Expect: 1, Forget: true}}}); err != nil {
		t.Fatal(err)
	}
	states, err := s.j.States(t.Context(), rec.Key.Account, rec.Key.Kind, "", 10)
	if err != nil || len(states) != 0 {
		t.Errorf("states %+v, %v", states, err)
	}
	if memos, err := s.j.Memos(t.Context(), Sink, []event.Key{rec.Key}); err != nil || len(memos) != 0 {
		t.Errorf("memos %v, %v", memos, err)
	}
}

func sourceIsKept(t *testing.T, e Engine) {
	t.Helper()
	j := e.Open(t)
	s := open(t, j)
	src := journal.Source{Source: "prod", Kind: "risk_process", Account: "1300000001", Boundaries: []string{"2026-11-01 10:00:00"}, FirstCertAt: time.Unix(5, 0).UTC()}
	for i := range 3 {
		cert := journal.Certificate{Source: "prod", Kind: "risk_process", Sweep: fmt.Sprint("s-", i), Ended: time.Unix(int64(100+i), 0).UTC(), Certified: i%2 == 0}
		if _, err := s.j.Append(t.Context(), s.source, journal.Batch{Source: &src, Certificate: &cert}); err != nil {
			t.Fatal(err)
		}
	}
	j = e.Reopen(t, j)
	if got, err := j.Source(t.Context(), "prod", "risk_process"); err != nil || !reflect.DeepEqual(got, src) {
		t.Errorf("source %+v, %v", got, err)
	}
	certs, err := j.Certificates(t.Context(), "prod", "risk_process", 2)
	if err != nil || len(certs) != 2 || certs[0].Sweep != "s-2" || certs[1].Sweep != "s-1" {
		t.Errorf("certificates %+v, %v", certs, err)
	}
}

func changedWakes(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	wake := s.j.Changed(0)
	select {
	case <-wake:
		t.Fatal("woken by nothing")
	default:
	}
	last := s.append(t, Record("1", 1))
	select {
	case <-wake:
	case <-time.After(10 * time.Second):
		t.Fatal("not woken")
	}
	select {
	case <-s.j.Changed(last - 1):
	default:
		t.Error("there is a record behind, and the channel is open")
	}
}

func (s *suite) settle(t *testing.T, what journal.Settlement) error {
	t.Helper()
	what.Sink = Sink
	return s.j.Settle(t.Context(), s.sink, what)
}

func deadLettersChange(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	a, b := Record("1", 1), Record("2", 1)
	last := s.append(t, a, b)
	letters := func(attempts int, recs ...*event.Record) (out []journal.DeadLetter) {
		for _, r := range recs {
			out = append(out, journal.DeadLetter{Record: r, Class: "stuck", Attempts: attempts})
		}
		return out
	}
	for _, what := range []journal.Settlement{
		{Cursor: journal.Cursor{Seq: last}, Dead: letters(1, a, b)},
		{Cursor: journal.Cursor{Seq: last}, Dead: letters(7, b), Revived: []uint64{a.Seq, 4711}},
	} {
		if err := s.settle(t, what); err != nil {
			t.Fatal(err)
		}
	}
	dead, err := s.j.DeadLetters(t.Context(), Sink, 0, 10)
	if err != nil || len(dead) != 1 || dead[0].Record.Seq != b.Seq || dead[0].Attempts != 7 {
		t.Errorf("dead letters %+v, %v", dead, err)
	}
}

func replayIsKept(t *testing.T, e Engine) {
	t.Helper()
	j := e.Open(t)
	s := open(t, j)
	last := s.append(t, Record("1", 1), Record("2", 1), Record("3", 1))
	cursor := journal.Cursor{Seq: last}
	if r, err := j.Replay(t.Context(), Sink); err != nil || r != nil {
		t.Fatalf("replay %+v, %v of a sink that has none", r, err)
	}
	begun := time.Date(2026, 11, 2, 3, 4, 5, 0, time.UTC)
	want := journal.Replay{From: 1, Begun: begun}
	if err := s.settle(t, journal.Settlement{Cursor: cursor, Replay: &want}); err != nil {
		t.Fatal(err)
	}
	other := journal.Replay{From: 1, Begun: begun.Add(time.Second)}
	if err := s.settle(t, journal.Settlement{Cursor: cursor, Replay: &other}); !errors.Is(err, journal.ErrReplay) {
		t.Errorf("a second replay: %v, want ErrReplay", err)
	}
	for _, after := range []uint64{2, 1} { // a settlement repeated after an unknown outcome
		want.After = after
		if err := s.settle(t, journal.Settlement{Cursor: cursor, Replay: &want}); err != nil {
			t.Fatal(err)
		}
	}
	want.After = 2
	j = e.Reopen(t, j)
	s = open(t, j)
	if r, err := j.Replay(t.Context(), Sink); err != nil || !reflect.DeepEqual(r, &want) {
		t.Errorf("replay %+v, %v, want %+v", r, err, want)
	}
	if st, err := j.Status(t.Context()); err != nil || !reflect.DeepEqual(st.Sinks[0].Replay, &want) {
		t.Errorf("status %+v, %v", st, err)
	}
	want.Ended = true
	for range 2 {
		if err := s.settle(t, journal.Settlement{Cursor: cursor, Replay: &want}); err != nil {
			t.Fatal(err)
		}
	}
	if r, err := j.Replay(t.Context(), Sink); err != nil || r != nil {
		t.Errorf("replay %+v, %v after its end", r, err)
	}
}

func sinkIsForgotten(t *testing.T, e Engine) {
	t.Helper()
	s := open(t, e.Open(t))
	rec := Record("1", 1)
	last := s.append(t, rec)
	former, err := s.j.Lease(t.Context(), "sink/former")
	if err != nil {
		t.Fatal(err)
	}
	err = s.j.Settle(t.Context(), former, journal.Settlement{
		Sink: "former", Cursor: journal.Cursor{Seq: last}, Memos: map[event.Key]string{rec.Key: "m"},
		Dead:     []journal.DeadLetter{{Record: rec, Class: "poison"}},
		Receipts: []journal.Receipt{{Range: journal.Range{First: 1, Last: last}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.j.Forget(t.Context(), s.sink, Sink); !errors.Is(err, journal.ErrConfigured) {
		t.Errorf("forgetting a configured sink: %v", err)
	}
	if n, err := s.j.Forget(t.Context(), former, "former"); err != nil || n != 1 {
		t.Errorf("%d dead letters forgotten, %v", n, err)
	}
	st, err := s.j.Status(t.Context())
	if err != nil || len(st.Sinks) != 1 || st.Sinks[0].Sink != Sink {
		t.Errorf("status %+v, %v", st, err)
	}
	if memos, err := s.j.Memos(t.Context(), "former", []event.Key{rec.Key}); err != nil || len(memos) != 0 {
		t.Errorf("memos %v, %v", memos, err)
	}
}
