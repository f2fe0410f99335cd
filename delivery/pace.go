package delivery

import (
	"math/rand/v2"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// The schedule of attempts after a failure.
const (
	retryFirst = 500 * time.Millisecond
	retryMax   = time.Minute
	afterMax   = time.Hour // the longest Retry-After that is honoured
	// breakerAfter failures in a row, only single records are sent until one is
	// accepted: a destination that comes back is not met with full batches.
	breakerAfter = 5

	haltFirst = 5 * time.Second
	haltMax   = 5 * time.Minute
)

// newBackoff returns a schedule that never gives up. The intervals vary by
// half in both directions.
func newBackoff(first, longest time.Duration) *backoff.ExponentialBackOff {
	return backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(first),
		backoff.WithMaxInterval(longest),
		backoff.WithMultiplier(2),
		backoff.WithRandomizationFactor(0.5),
		backoff.WithMaxElapsedTime(0), // the default gives up after 15 minutes
	)
}

// A pace says when the next attempt may begin and whether it must be a probe.
// Attempts are numbered in the order in which they begin.
type pace struct {
	backoff   *backoff.ExponentialBackOff
	failures  int       // retryable failures in a row
	mark      uint64    // number of the last attempt begun when the last failure was counted
	notBefore time.Time // nothing begins before
}

func newPace() pace { return pace{backoff: newBackoff(retryFirst, retryMax)} }

// failed notes that an attempt failed in a way that is worth repeating. begun
// is the number of the newest attempt. What several attempts side by side ran
// into together counts once.
func (p *pace) failed(attempt, begun uint64, after time.Duration, now time.Time) {
	wait := spread(after)
	if attempt > p.mark {
		p.mark = begun
		p.failures++
		wait = max(p.backoff.NextBackOff(), wait)
	}
	if until := now.Add(wait); until.After(p.notBefore) {
		p.notBefore = until
	}
}

// accepted notes that records of an attempt were accepted. One that began
// before the last failure proves nothing.
func (p *pace) accepted(attempt uint64) {
	if attempt > p.mark {
		p.failures = 0
		p.backoff.Reset()
		p.notBefore = time.Time{}
	}
}

// suspend allows single records only, until one is accepted.
func (p *pace) suspend() { p.failures = max(p.failures, breakerAfter) }

// probing reports whether only single records may be sent.
func (p *pace) probing() bool { return p.failures >= breakerAfter }

// spread is the wait that a destination asked for, bounded, and up to a tenth
// longer, so that several senders do not come back together.
func spread(after time.Duration) time.Duration {
	if after <= 0 {
		return 0
	}
	after = min(after, afterMax)
	return after + rand.N(after/10+1) //nolint:gosec // G404: chance spreads load here, it guards nothing
}
