package delivery_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

// A watch notes by when a loop said that it would be back, and the latest that
// it ever was.
type watch struct {
	mu    sync.Mutex
	beats int
	due   time.Time // zero: not expected
	late  time.Duration
}

func (w *watch) beat(_ string, within time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	w.beats++
	w.due = time.Time{}
	if within != 0 {
		w.due = time.Now().Add(within)
	}
}

func (w *watch) look() {
	if !w.due.IsZero() {
		w.late = max(w.late, time.Since(w.due))
	}
}

// latest is how late the loop is or was; not positive: never.
func (w *watch) latest() (late time.Duration, beats int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.look()
	return w.late, w.beats
}

// A watched loop comes back by when it said, whatever the destination and the
// journal do.
func TestComesBackWhenItSaid(t *testing.T) {
	down := simply(func(int, []uint64) error { return errNetwork })
	for name, tc := range map[string]struct {
		answer func(context.Context, int, []uint64) (sinks.Receipt, error)
		setup  func(*memory)
	}{
		"nothing to do":         {answer: fine, setup: func(j *memory) { j.records = nil }},
		"accepting":             {answer: fine},
		"down for hours":        {answer: down},
		"halted":                {answer: simply(func(int, []uint64) error { return sinks.Halt(errNetwork) })},
		"refusing every record": {answer: simply(func(int, []uint64) error { return sinks.Poison(errNetwork) })},
		"until the attempt ends": {answer: func(ctx context.Context, _ int, _ []uint64) (sinks.Receipt, error) {
			<-ctx.Done()
			return sinks.Receipt{}, ctx.Err()
		}},
		"a journal that fails": {answer: fine, setup: func(j *memory) { j.failWith = func(int) error { return errors.New("input/output error") } }},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				j.add(records(1, 100)...)
				if tc.setup != nil {
					tc.setup(j)
				}
				var w watch
				r := start(t, j, &dest{answer: tc.answer}, func(o *delivery.Options) { o.Beat = w.beat })
				after(26 * time.Hour)
				if late, beats := w.latest(); late > 0 || beats == 0 {
					t.Errorf("late by %s after %d signs of life", late, beats)
				}
				r.close()
				after(time.Hour)
				if late, _ := w.latest(); late > 0 {
					t.Errorf("expected back %s after its end", late)
				}
			})
		})
	}
}

// hanging is a journal that does not come back from Settle until free is closed.
type hanging struct {
	journal.Journal
	free chan struct{}
}

func (h hanging) Settle(ctx context.Context, l journal.Lease, s journal.Settlement) error {
	<-h.free
	return h.Journal.Settle(ctx, l, s)
}

// A sink that ignores that its time is over, and a journal that never answers,
// make the loop late, also while other things wake it.
func TestStuckLoopIsLate(t *testing.T) {
	for name, stuckIn := range map[string]func(o *delivery.Options, d *dest, free chan struct{}){
		"sink": func(_ *delivery.Options, d *dest, free chan struct{}) {
			d.answer = func(context.Context, int, []uint64) (sinks.Receipt, error) { <-free; return sinks.Receipt{}, nil }
		},
		"journal": func(o *delivery.Options, _ *dest, free chan struct{}) {
			o.Journal = hanging{o.Journal, free}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j, d, free := newMemory(), &dest{answer: fine}, make(chan struct{})
				j.add(records(1, 100)...)
				var w watch
				r := start(t, j, d, func(o *delivery.Options) { o.Beat = w.beat; stuckIn(o, d, free) })
				for range 60 {
					after(time.Minute)
					r.w.Pause(false) // wakes the loop
				}
				if late, _ := w.latest(); late < 50*time.Minute {
					t.Errorf("late by %s after an hour", late)
				}
				close(free)
				r.close()
			})
		})
	}
}
