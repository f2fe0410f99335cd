package cwp

import (
	"context"
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits holds one limiter per credential and action, as the API counts: all
// sources that ask the same with the same keys share one.
type Limits struct {
	mu       sync.Mutex // guards limiters
	limiters map[string]*limiter
}

// NewLimits returns an empty set.
func NewLimits() *Limits { return &Limits{limiters: map[string]*limiter{}} }

// of returns the limiter of a credential and action. The lowest configured
// rate of all that share it holds, each until it leaves.
func (l *Limits) of(identity, action string, perSecond float64) (lim *limiter, leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	key := identity + "\x00" + action
	if lim = l.limiters[key]; lim == nil {
		lim = newLimiter(perSecond)
		l.limiters[key] = lim
	}
	return lim, lim.share(perSecond)
}

// How a limiter answers RequestLimitExceeded and quiet.
const (
	leastRate  = 0.5
	quietFor   = 10 * time.Second
	raisePart  = 8           // of the configured rate, for each quiet time
	oneSlowing = time.Second // refusals within it are one: they were under way together
)

// A limiter spaces requests evenly, so that no second holds more than the
// rate. Refusals for the rate halve it, quiet raises it again: others may use
// up the account's budget too.
type limiter struct {
	rate *rate.Limiter

	mu      sync.Mutex // guards the rest
	full    float64    // configured: the least of shares
	shares  map[*float64]bool
	changed time.Time // of the rate
}

// spacing widens the gaps a little: requests that leave evenly do not arrive
// evenly, and the API counts arrivals.
const spacing = 0.98

func newLimiter(perSecond float64) *limiter {
	perSecond *= spacing
	return &limiter{rate: rate.NewLimiter(rate.Limit(perSecond), 1), full: perSecond, shares: map[*float64]bool{}}
}

// share takes part with a rate until it is left.
func (l *limiter) share(perSecond float64) (leave func()) {
	one := perSecond * spacing
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shares[&one] = true
	l.adjust()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.shares, &one)
		l.adjust()
	}
}

// adjust brings the rate to the least of the shares; what refusals took from it
// comes back as ever.
func (l *limiter) adjust() {
	if len(l.shares) == 0 {
		return // whoever comes next sets it
	}
	full := math.Inf(1)
	for one := range l.shares {
		full = min(full, *one)
	}
	now := float64(l.rate.Limit())
	if slowed := now < l.full; !slowed || now > full {
		l.rate.SetLimit(rate.Limit(full))
	}
	l.full = full
}

// wait waits for a turn; its error is ctx's.
func (l *limiter) wait(ctx context.Context) error {
	l.mu.Lock()
	if now := time.Now(); float64(l.rate.Limit()) < l.full && now.Sub(l.changed) >= quietFor {
		l.rate.SetLimit(rate.Limit(min(l.full, float64(l.rate.Limit())+l.full/raisePart)))
		l.changed = now
	}
	l.mu.Unlock()
	r := l.rate.Reserve()
	d := r.Delay()
	if d == 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		r.Cancel()
		return ctx.Err()
	}
}

// refused slows down.
func (l *limiter) refused() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	if !l.changed.IsZero() && now.Sub(l.changed) < oneSlowing {
		return
	}
	l.rate.SetLimit(rate.Limit(max(float64(l.rate.Limit())/2, min(leastRate, l.full))))
	l.changed = now
}

func (l *limiter) perSecond() float64 { return float64(l.rate.Limit()) }
