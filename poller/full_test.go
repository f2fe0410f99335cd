package poller_test

import (
	"testing"
	"testing/synctest"

	"github.com/cwprelay/cwprelay/journal"
)

// What a full journal refused is stored as soon as there is room: nothing of it
// counts as known before.
func TestFullJournalIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 5, 300)
		refused := 0
		r.opt.Journal = obstinate{r.file, func() error {
			if refused++; refused%4 != 0 {
				return &journal.FullError{Limit: "state.max_bytes"}
			}
			return nil
		}}
		cert, err := r.once(t.Context())
		if err != nil || !cert.Certified {
			t.Errorf("%+v, %v", cert, err)
		}
		if n := len(r.records()); n != 300 || len(r.pairs()) != 300 {
			t.Errorf("%d records and %d states, want 300", n, len(r.pairs()))
		}
		if refused < 8 {
			t.Errorf("the journal was asked %d times: too few to prove anything", refused)
		}
	})
}
