package poller

import (
	"context"
	"sync"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// A schedule says how long to wait between attempts.
type schedule struct{ b *backoff.ExponentialBackOff }

func newBackoff() *schedule {
	return &schedule{backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(500*time.Millisecond),
		backoff.WithMaxInterval(time.Minute),
		backoff.WithMultiplier(2),
		backoff.WithMaxElapsedTime(0), // the default gives up after 15 minutes
	)}
}

func (s *schedule) next() time.Duration { return s.b.NextBackOff() }
func (s *schedule) reset()              { s.b.Reset() }

// sleep waits for the next interval; its error is ctx's.
func (s *schedule) sleep(ctx context.Context) error { return sleep(ctx, s.next()) }

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// The loops, for Options.Beat.
const (
	loopSweeps = "sweeps"
	loopHeads  = "head scans"
	loopIntake = "intake"
)

const (
	// working is the longest that a loop may take for what it does between two
	// waits: the journal may be on a slow disk.
	working = 2 * time.Minute
	// asking is the longest that one question may take, with all its tries.
	asking = 45 * time.Minute
)

// rest says that nothing is to be waited for.
func (p *Poller) rest() {
	for _, loop := range []string{loopSweeps, loopHeads, loopIntake} {
		p.beat(loop, 0)
	}
}

// turns lets a head scan ask once for each request of a running sweep, so that
// it takes at most half of the budget.
type turns struct {
	mu       sync.Mutex // guards the rest
	sweeping bool
	asked    int           // requests of the sweep since the last head request
	moved    chan struct{} // closed and replaced at each change
}

func (t *turns) change(f func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f()
	close(t.moved)
	t.moved = make(chan struct{})
}

func (t *turns) sweep(running bool) {
	t.change(func() { t.sweeping, t.asked = running, 0 })
}

func (t *turns) sweepAsked() { t.change(func() { t.asked++ }) }

// head waits until a head scan may ask; its error is ctx's.
func (t *turns) head(ctx context.Context) error {
	for {
		t.mu.Lock()
		ready, moved := !t.sweeping || t.asked > 0, t.moved
		if ready {
			t.asked = 0
		}
		t.mu.Unlock()
		if ready {
			return ctx.Err()
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
