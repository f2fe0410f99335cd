package poller_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a poller over an emulated list and a real journal.
type rig struct {
	t     *testing.T
	world *emulator.World
	api   *emulator.Lister
	file  *journal.File
	opt   poller.Options
}

func newRig(t *testing.T, seed uint64, events int) *rig {
	t.Helper()
	file, err := journal.Open(journal.Config{Dir: t.TempDir(), MinFreeDisk: 1}.WithDefaults(), journal.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	})
	r := &rig{t: t, world: emulator.NewWorld(seed, events, time.Now()), file: file}
	r.api = &emulator.Lister{World: r.world}
	log := zap.NewNop()
	if testing.Verbose() && os.Getenv("CWPRELAY_LONG") == "" {
		log = zaptest.NewLogger(t)
	}
	r.opt = poller.Options{
		Source: "prod", Kind: cwp.KindByName("risk_process"), Config: poller.Config{}.WithDefaults(),
		API: r.api, Rate: 20, Journal: file, Log: log,
	}
	return r
}

// once runs one sweep with a new poller, as after a restart.
func (r *rig) once(ctx context.Context) (journal.Certificate, error) {
	r.t.Helper()
	p, err := poller.New(r.opt)
	if err != nil {
		r.t.Fatal(err)
	}
	return p.Once(ctx, 1)
}

// pairs are the statuses that the journal holds, by id.
func (r *rig) pairs() map[string]string {
	r.t.Helper()
	out := map[string]string{}
	after := ""
	for {
		states, err := r.file.States(context.Background(), event.DefaultAccount, "risk_process", after, 1000)
		if err != nil {
			r.t.Fatal(err)
		}
		if len(states) == 0 {
			return out
		}
		for _, s := range states {
			out[s.Key.ID] = s.State.Status.Code
			after = s.Key.ID
		}
	}
}

// records are all that the journal holds.
func (r *rig) records() []*event.Record {
	r.t.Helper()
	recs, err := r.file.Read(context.Background(), 0, 1<<20, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return recs
}

func TestCertifiedSweepHoldsTheWholeQuietList(t *testing.T) {
	t.Parallel()
	for _, events := range []int{0, 1, 99, 100, 101, 1000, 5000, 20000} {
		t.Run(fmt.Sprint(events), func(t *testing.T) {
			r := newRig(t, 1, events)
			cert, err := r.once(t.Context())
			if err != nil || !cert.Certified {
				t.Fatalf("certificate %+v, error %v", cert, err)
			}
			got := r.pairs()
			for _, pair := range r.world.Visible(r.world.Tick()) {
				if got[pair.ID] != pair.Status {
					t.Errorf("event %s has status %q in the journal, %q in the list", pair.ID, got[pair.ID], pair.Status)
				}
			}
			if len(got) != events {
				t.Errorf("%d events known, the list has %d", len(got), events)
			}
			t.Logf("%d requests, %d collects", cert.Requests, cert.Collected)
		})
	}
}
