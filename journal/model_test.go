package journal_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
)

// A model is what a journal must hold, in memory.
type model struct {
	log     []*event.Record
	states  map[string]uint64 // id → sequence
	cursors map[string]journal.Cursor
	dead    map[string]map[uint64]int // sink → sequence → attempts
	memos   map[string]string         // sink NUL id → memo
	replay  map[string]journal.Replay
}

// A machine does the same to a journal and to its model.
type machine struct {
	tb    testing.TB
	root  string // of the directories of this history
	dir   string
	f     *journal.File
	m     model
	names []string
}

func (s *machine) reopen(dir string) {
	s.dir = dir
	var err error
	s.f, err = journal.Open(config(dir), sinks(journal.SinkRule{Name: "a"}, journal.SinkRule{Name: "b"}))
	if err != nil {
		s.tb.Fatal(err)
	}
}

func (s *machine) lease(owner string) journal.Lease {
	l, err := s.f.Lease(s.tb.Context(), owner)
	if err != nil {
		s.tb.Fatal(err)
	}
	return l
}

// Append appends a batch, at times with a wrong expectation.
func (s *machine) Append(t *rapid.T) {
	ids := rapid.SliceOfNDistinct(rapid.IntRange(0, 30), 1, 6, rapid.ID).Draw(t, "ids")
	wrong := rapid.IntRange(0, 9).Draw(t, "wrong") == 0
	var batch journal.Batch
	var recs []*event.Record
	for i, id := range ids {
		key := fmt.Sprint(id)
		rec := journaltest.Record(key, s.m.states[key]+1)
		c := journaltest.Change(rec)
		if wrong && i == len(ids)-1 {
			c.Expect += 3
		}
		if rapid.IntRange(0, 4).Draw(t, "silent") == 0 {
			c.Record = nil
		} else {
			recs = append(recs, rec)
		}
		batch.Changes = append(batch.Changes, c)
	}
	_, err := s.f.Append(s.tb.Context(), s.lease("source/prod/risk_process"), batch)
	if wrong {
		if !errors.Is(err, journal.ErrConflict) {
			t.Fatalf("append with a wrong expectation: %v", err)
		}
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range ids {
		s.m.states[fmt.Sprint(id)]++
	}
	s.m.log = append(s.m.log, recs...)
}

// Forget forgets a key.
func (s *machine) Forget(t *rapid.T) {
	known := slices.Sorted(maps.Keys(s.m.states))
	if len(known) == 0 {
		t.Skip("no key is known")
	}
	id := rapid.SampledFrom(known).Draw(t, "id")
	c := journal.Change{Key: journaltest.Record(id, 1).Key, Expect: s.m.states[id], Forget: true}
	if _, err := s.f.Append(s.tb.Context(), s.lease("source/prod/risk_process"), journal.Batch{Changes: []journal.Change{c}}); err != nil {
		t.Fatal(err)
	}
	delete(s.m.states, id)
	for _, sink := range s.names {
		delete(s.m.memos, sink+"\x00"+id)
	}
}

// Settle settles a part of what a sink has not had.
func (s *machine) Settle(t *rapid.T) {
	if len(s.m.log) == 0 {
		t.Skip("the log is empty")
	}
	sink := rapid.SampledFrom(s.names).Draw(t, "sink")
	at := s.m.cursors[sink].Seq
	what := journal.Settlement{Sink: sink, Cursor: journal.Cursor{Seq: at + uint64(rapid.IntRange(0, int(s.last()-at)).Draw(t, "by"))}}
	rec := rapid.SampledFrom(s.m.log).Draw(t, "record")
	attempts := rapid.IntRange(1, 1000).Draw(t, "attempts")
	switch rapid.IntRange(0, 4).Draw(t, "beside") {
	case 0:
		what.Dead = []journal.DeadLetter{{Record: rec, Class: "poison", Attempts: attempts}}
		s.m.dead[sink][rec.Seq] = attempts
	case 1:
		what.Revived = []uint64{rec.Seq}
		delete(s.m.dead[sink], rec.Seq)
	case 2:
		what.Memos = map[event.Key]string{rec.Key: fmt.Sprint(attempts)}
		s.m.memos[sink+"\x00"+rec.Key.ID] = fmt.Sprint(attempts)
	case 3:
		what.Replay = s.replayed(t, sink)
	default:
	}
	if err := s.f.Settle(s.tb.Context(), s.lease("sink/"+sink), what); err != nil {
		t.Fatal(err)
	}
	s.m.cursors[sink] = what.Cursor
}

// replayed begins, moves or ends the replay of a sink.
func (s *machine) replayed(t *rapid.T, sink string) *journal.Replay {
	r, ok := s.m.replay[sink]
	if !ok {
		r = journal.Replay{From: 1, Begun: time.Unix(int64(len(s.m.log)), 0).UTC()}
	} else {
		r.After += uint64(rapid.IntRange(0, 3).Draw(t, "replayed"))
		r.Ended = rapid.IntRange(0, 3).Draw(t, "ended") == 0
	}
	s.m.replay[sink] = r
	if r.Ended {
		delete(s.m.replay, sink)
	}
	return &r
}

func (s *machine) last() uint64 {
	if len(s.m.log) == 0 {
		return 0
	}
	return s.m.log[len(s.m.log)-1].Seq
}

// Restart closes and opens the journal.
func (s *machine) Restart(t *rapid.T) {
	if err := s.f.Close(); err != nil {
		t.Fatal(err)
	}
	s.reopen(s.dir)
}

// Crash goes on with a copy of the file of a journal that was never closed.
func (s *machine) Crash(t *rapid.T) {
	text, err := os.ReadFile(filepath.Join(s.dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.f.Close(); err != nil { // only to let go of it
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(s.root, "")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "journal.db"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	s.reopen(dir)
}

// Check compares the journal with its model.
func (s *machine) Check(t *rapid.T) {
	ctx := s.tb.Context()
	recs, err := s.f.Read(ctx, 0, len(s.m.log)+10, 0)
	if err != nil || len(recs) != len(s.m.log) {
		t.Fatalf("%d records, %v, want %d", len(recs), err, len(s.m.log))
	}
	for i, r := range recs {
		if want := s.m.log[i]; r.Seq != want.Seq || r.UID != want.UID || !bytes.Equal(r.Raw, want.Raw) {
			t.Fatalf("record %d is %+v, want %+v", i, r, want)
		}
	}
	states, err := s.f.States(ctx, "1300000001", "risk_process", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]uint64{}
	for _, st := range states {
		got[st.Key.ID] = st.State.Sequence
	}
	if !maps.Equal(got, s.m.states) {
		t.Fatalf("states %v, want %v", got, s.m.states)
	}
	if st, err := s.f.Status(ctx); err != nil || st.Keys != len(s.m.states) || len(st.Gaps) > 0 || st.Damaged > 0 {
		t.Fatalf("status %+v, %v, want %d keys", st, err, len(s.m.states))
	}
	for _, sink := range s.names {
		s.checkSink(t, sink)
	}
}

func (s *machine) checkSink(t *rapid.T, sink string) {
	ctx := s.tb.Context()
	if c, err := s.f.Cursor(ctx, sink); err != nil || !reflect.DeepEqual(c, s.m.cursors[sink]) {
		t.Fatalf("cursor of %s is %+v, %v, want %+v", sink, c, err, s.m.cursors[sink])
	}
	letters, err := s.f.DeadLetters(ctx, sink, 0, 1000)
	if err != nil {
		t.Fatal(err)
	}
	dead := map[uint64]int{}
	for _, d := range letters {
		dead[d.Record.Seq] = d.Attempts
	}
	if !maps.Equal(dead, s.m.dead[sink]) {
		t.Fatalf("dead letters of %s are %v, want %v", sink, dead, s.m.dead[sink])
	}
	keys := []event.Key{}
	want := map[event.Key]string{}
	for id := range 31 {
		k := journaltest.Record(fmt.Sprint(id), 1).Key
		keys = append(keys, k)
		if memo, ok := s.m.memos[sink+"\x00"+k.ID]; ok {
			want[k] = memo
		}
	}
	if memos, err := s.f.Memos(ctx, sink, keys); err != nil || !maps.Equal(memos, want) {
		t.Fatalf("memos of %s are %v, %v, want %v", sink, memos, err, want)
	}
	r, err := s.f.Replay(ctx, sink)
	if stored, ok := s.m.replay[sink]; err != nil || ok != (r != nil) || ok && *r != stored {
		t.Fatalf("replay of %s is %+v, %v, want %+v", sink, r, err, stored)
	}
}

// TestHoldsWhatItsModelHolds does random things to a journal, crashes among
// them, and compares it with a model after each.
func TestHoldsWhatItsModelHolds(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		// Each history opens many files; more of them are for who asks.
		if err := checks.Value.Set("25"); err != nil {
			t.Fatal(err)
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		s := &machine{tb: t, names: []string{"a", "b"}, m: model{
			states: map[string]uint64{}, cursors: map[string]journal.Cursor{}, memos: map[string]string{},
			dead: map[string]map[uint64]int{"a": {}, "b": {}}, replay: map[string]journal.Replay{},
		}}
		s.root = t.TempDir()
		rt.Cleanup(func() { _ = os.RemoveAll(s.root) }) // there may be ten thousand
		s.reopen(s.root)
		rt.Repeat(map[string]func(*rapid.T){
			"append": s.Append, "forget": s.Forget, "settle": s.Settle, "settle again": s.Settle, "restart": s.Restart, "crash": s.Crash, "": s.Check,
		})
		if err := s.f.Close(); err != nil {
			rt.Fatal(err)
		}
	})
}
