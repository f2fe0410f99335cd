package poller_test

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// A watch notes by when each loop said that it would be back, and how late each
// is or was.
type watch struct {
	mu   sync.Mutex
	due  map[string]time.Time
	late map[string]time.Duration
	seen map[string]bool
}

func newWatch() *watch {
	return &watch{due: map[string]time.Time{}, late: map[string]time.Duration{}, seen: map[string]bool{}}
}

func (w *watch) beat(loop string, within time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	w.seen[loop] = true
	delete(w.due, loop)
	if within != 0 {
		w.due[loop] = time.Now().Add(within)
	}
}

func (w *watch) look() {
	for loop, due := range w.due {
		if by := time.Since(due); by > 0 {
			w.late[loop] = max(w.late[loop], by)
		}
	}
}

func (w *watch) latest() (late map[string]time.Duration, loops int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	return w.late, len(w.seen)
}

// failing is an API that fails, and a journal that takes nothing in.
type failing struct{ err error }

func (f failing) List(context.Context, cwp.Query) (*cwp.Page, error) { return nil, f.err }

type obstinate struct {
	journal.Journal
	append func() error
}

func (o obstinate) Append(ctx context.Context, lease journal.Lease, batch journal.Batch) (uint64, error) {
	if err := o.append(); err != nil {
		return 0, err
	}
	return o.Journal.Append(ctx, lease, batch)
}

// during polls for so long and returns how late each loop was.
func during(t *testing.T, d time.Duration, change func(r *rig) (end func())) (late map[string]time.Duration, loops int) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 7, 120)
		r.opt.Config.SweepInterval, r.opt.Config.PollInterval = 10*time.Minute, 5*time.Minute
		end := change(r)
		w := newWatch()
		r.opt.Beat = w.beat
		p, err := poller.New(r.opt)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		time.Sleep(d)
		synctest.Wait()
		late, loops = w.latest()
		if end != nil {
			end()
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if now, _ := w.latest(); end == nil && len(now) > 0 {
			t.Errorf("expected back after the end: %v", now)
		}
	})
	return late, loops
}

// Watched loops come back by when they said, whatever the API and the journal
// do.
func TestComesBackWhenItSaid(t *testing.T) {
	const unidentified = "the account is unknown" // nothing is begun
	for name, change := range map[string]func(r *rig){
		"polling":             func(*rig) {},
		"seldom":              func(r *rig) { r.opt.Config.SweepInterval, r.opt.Config.PollInterval = 40*time.Minute, 30*time.Minute },
		"a list that fits":    func(r *rig) { *r = *smaller(r) },
		"the API is down":     func(r *rig) { r.opt.API = failing{&cwp.Error{Class: cwp.ClassNetwork}} },
		"the API refuses":     func(r *rig) { r.opt.API = failing{&cwp.Error{Class: cwp.ClassCredentials}} },
		"too many requests":   func(r *rig) { r.opt.API = failing{&cwp.Error{Class: cwp.ClassRate}} },
		"the journal is full": func(r *rig) { r.opt.Journal = obstinate{r.file, func() error { return &journal.FullError{} }} },
		unidentified: func(r *rig) {
			r.opt.Identify = func(context.Context) (string, error) { return "", context.DeadlineExceeded }
		},
	} {
		t.Run(name, func(t *testing.T) {
			late, loops := during(t, 100*time.Minute, func(r *rig) func() { change(r); return nil })
			if len(late) > 0 {
				t.Errorf("late: %v", late)
			}
			if loops == 0 && name != unidentified {
				t.Error("no sign of life")
			}
		})
	}
}

// smaller is r with a list that one answer holds: head scans certify it.
func smaller(r *rig) *rig {
	s := newRig(r.t, 7, 20)
	s.opt.Config.SweepInterval = 40 * time.Minute
	return s
}

// A journal that never answers makes the loops late.
func TestStuckLoopIsLate(t *testing.T) {
	late, _ := during(t, time.Hour, func(r *rig) func() {
		free := make(chan struct{})
		r.opt.Journal = blocking{r.file, new(int), free}
		return func() { close(free) }
	})
	if late["intake"] < 50*time.Minute || late["sweeps"] < 50*time.Minute {
		t.Errorf("late after an hour: %v", late)
	}
}

// blocking is a journal whose second Append hangs until free is closed.
type blocking struct {
	*journal.File
	calls *int
	free  chan struct{}
}

func (b blocking) Append(ctx context.Context, l journal.Lease, batch journal.Batch) (uint64, error) {
	if *b.calls++; *b.calls > 1 {
		<-b.free
	}
	return b.File.Append(ctx, l, batch)
}

// Whoever is told to stop while a verdict is stored shares nothing with what is
// still at it; the race detector tells.
func TestStopDuringTheVerdict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 7, 20)
		ctx, stop := context.WithCancel(t.Context())
		groups := 0 // the beginning, the answer, the verdict
		r.opt.Beat = func(loop string, within time.Duration) {
			if loop != "intake" || within == 0 {
				return
			}
			if groups++; groups == 3 {
				stop()
				time.Sleep(time.Second) // the sweep returns meanwhile
			}
		}
		if cert, err := r.once(ctx); err != nil || cert.Certified || groups != 3 {
			t.Errorf("%+v, %v after %d groups, want no verdict", cert, err, groups)
		}
	})
}
