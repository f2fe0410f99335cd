package journal

import (
	"errors"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/event"
)

// leased opens a new journal, and a source's lease of it.
func leased(t *testing.T, report func(string)) (*File, Lease) {
	t.Helper()
	f, err := Open(Config{Dir: t.TempDir(), MinFreeDisk: 1}.WithDefaults(), Options{Report: report})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // it may be dead
	lease, err := f.Lease(t.Context(), "source/prod/risk_process")
	if err != nil {
		t.Fatal(err)
	}
	return f, lease
}

// Who waits for a commit that failed, and whose copy failed too, is told that
// the journal is dead: what can still be seen of the commit counts for nothing.
// Nothing is copied again then.
func TestWhoWaitsIsToldThatTheJournalIsDead(t *testing.T) {
	copies := 0
	f, lease := leased(t, func(m string) {
		if strings.Contains(m, "going on with a copy") {
			copies++
		}
	})
	if err := f.db.Close(); err != nil { // neither commit nor copy can be
		t.Fatal(err)
	}
	batch := Batch{Changes: []Change{{
		Key: event.Key{Account: "a", Kind: "risk_process", ID: "1"}, State: event.State{Sequence: 1},
	}}}
	for n := range 3 {
		if _, err := f.Append(t.Context(), lease, batch); !errors.Is(err, ErrDead) {
			t.Errorf("append %d: %v", n+1, err)
		}
	}
	if copies != 1 {
		t.Errorf("%d copies were tried, want 1", copies)
	}
}

// A commit that failed may have changed the figures, and may be seen: what the
// copy holds counts.
func TestFiguresAreThoseOfTheCopy(t *testing.T) {
	f, lease := leased(t, nil)
	if _, err := f.Append(t.Context(), lease, Batch{Changes: []Change{{
		Key:    event.Key{Account: "a", Kind: "risk_process", ID: "1"},
		State:  event.State{Sequence: 1},
		Record: &event.Record{Key: event.Key{Account: "a", Kind: "risk_process", ID: "1"}, Sequence: 1, Raw: []byte("{}")},
	}}}); err != nil {
		t.Fatal(err)
	}
	want := f.meta
	f.meta.Bytes, f.meta.Keys, f.meta.Dead = want.Bytes+4096, want.Keys+1, want.Dead+1
	f.mu.Lock()
	f.last = 0 // who waits was not told
	f.mu.Unlock()
	changed := f.Changed(0)
	f.rescue(errors.New("commit: input/output error"))
	if f.meta != want {
		t.Errorf("figures %+v, want %+v", f.meta, want)
	}
	select {
	case <-changed:
	default:
		t.Error("who waits for the record is not told")
	}
}
