package journal

import (
	"errors"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/event"
)

// Who waits for a commit that failed, and whose copy failed too, is told that
// the journal is dead: what can still be seen of the commit counts for nothing.
// Nothing is copied again then.
func TestWhoWaitsIsToldThatTheJournalIsDead(t *testing.T) {
	copies := 0
	f, err := Open(Config{Dir: t.TempDir(), MinFreeDisk: 1}.WithDefaults(), Options{Report: func(m string) {
		if strings.Contains(m, "going on with a copy") {
			copies++
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	lease, err := f.Lease(t.Context(), "source/prod/risk_process")
	if err != nil {
		t.Fatal(err)
	}
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
