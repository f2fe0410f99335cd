package cwp

import (
	"context"
	"math"
	"slices"
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

// The API counts arrivals in a second. When a request arrived is known only
// between its being written and its answer: it may have been on its way for as
// long as its answer was later than answers are at best, of which as much is
// allowed for as costs no more than a twentieth of the rate.
const (
	window   = time.Second + 10*time.Millisecond
	mostLate = 40 * time.Millisecond
)

// A limiter spaces requests evenly and lets no window hold more arrivals than
// the rate. A request whose connection is still being made counts as long as it
// is not written. Refusals for the rate slow
// it down, quiet speeds it up again: others may use up the account's budget too.
type limiter struct {
	rate *rate.Limiter

	mu       sync.Mutex // guards the rest
	full     float64    // configured: the least of shares
	shares   map[*float64]bool
	changed  time.Time // of the rate
	busy     bool      // somebody has the turn
	urgent   []chan struct{}
	patient  []chan struct{}
	recent   []*departure  // those of the last window
	progress chan struct{} // closed and replaced when a request is written
	best     time.Duration // from written to answered, at best; 0: none was answered
}

// A departure is a request that had its turn.
type departure struct {
	written time.Time // zero: not yet
	arrived time.Time // at the latest, as far as is known
}

func newLimiter(perSecond float64) *limiter {
	return &limiter{
		rate: rate.NewLimiter(rate.Limit(perSecond), 1), full: perSecond,
		shares: map[*float64]bool{}, progress: make(chan struct{}),
	}
}

// share takes part with a rate until it is left.
func (l *limiter) share(perSecond float64) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shares[&perSecond] = true
	l.adjust()
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.shares, &perSecond)
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

// wait waits for a turn; its error is ctx's. Urgent requests go before others
// that wait. What it returns must be told to written.
func (l *limiter) wait(ctx context.Context, urgent bool) (*departure, error) {
	if err := l.enter(ctx, urgent); err != nil {
		return nil, err
	}
	defer l.leave()
	l.raise()
	r := l.rate.Reserve()
	if err := pause(ctx, r.Delay(), nil); err != nil {
		r.Cancel()
		return nil, err
	}
	for {
		d, full, progress := l.depart()
		if d != nil {
			return d, nil
		}
		if err := pause(ctx, full, progress); err != nil {
			return nil, err
		}
	}
}

// enter waits for the turn, which leave passes on.
func (l *limiter) enter(ctx context.Context, urgent bool) error {
	l.mu.Lock()
	if !l.busy {
		l.busy = true
		l.mu.Unlock()
		return nil
	}
	turn := make(chan struct{})
	if urgent {
		l.urgent = append(l.urgent, turn)
	} else {
		l.patient = append(l.patient, turn)
	}
	l.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
	}
	l.mu.Lock()
	isTurn := func(c chan struct{}) bool { return c == turn }
	before := len(l.urgent) + len(l.patient)
	l.urgent, l.patient = slices.DeleteFunc(l.urgent, isTurn), slices.DeleteFunc(l.patient, isTurn)
	had := len(l.urgent)+len(l.patient) == before
	l.mu.Unlock()
	if had { // it was passed on to us meanwhile
		l.leave()
	}
	return ctx.Err()
}

func (l *limiter) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	next := &l.urgent
	if len(*next) == 0 {
		next = &l.patient
	}
	if len(*next) == 0 {
		l.busy = false
		return
	}
	close((*next)[0])
	*next = slices.Delete(*next, 0, 1)
}

// raise speeds up after a quiet time.
func (l *limiter) raise() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); float64(l.rate.Limit()) < l.full && now.Sub(l.changed) >= quietFor {
		l.rate.SetLimit(rate.Limit(min(l.full, float64(l.rate.Limit())+l.full/raisePart)))
		l.changed = now
	}
}

// depart takes a place in the window. If there is none, it returns how long to
// wait for one at most, and what is closed when there may be one sooner.
func (l *limiter) depart() (d *departure, full time.Duration, progress <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	most := int(math.Ceil(l.full))
	if len(l.recent) >= most { // else there is a place whatever is gone
		gone := func(d *departure) bool { return !d.written.IsZero() && now.Sub(d.arrived) >= window }
		l.recent = slices.DeleteFunc(l.recent, gone)
	}
	if len(l.recent) < most {
		d = &departure{}
		l.recent = append(l.recent, d)
		return d, 0, nil
	}
	full = window
	for _, d := range l.recent {
		if !d.written.IsZero() {
			full = min(full, window-now.Sub(d.arrived))
		}
	}
	return nil, full, l.progress
}

// written tells that a request is on its way, or will not be. Only the first
// call for a departure counts.
func (l *limiter) written(d *departure) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !d.written.IsZero() {
		return
	}
	d.written = time.Now()
	d.arrived = d.written
	close(l.progress)
	l.progress = make(chan struct{})
}

// answered tells when the answer to a request began to come. A refusal is no
// answer: it comes sooner.
func (l *limiter) answered(d *departure, at time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	took := at.Sub(d.written)
	if took <= 0 {
		return // it began before the request was whole
	}
	if l.best == 0 || took < l.best {
		l.best = took
	}
	d.arrived = d.written.Add(min(took-l.best, mostLate))
	l.best += l.best / 1000 // the way may have become a longer one
}

// pause waits, or until something is closed; its error is ctx's.
func pause(ctx context.Context, d time.Duration, sooner <-chan struct{}) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-sooner:
	case <-ctx.Done():
	}
	return ctx.Err()
}

// refused slows down: a little for a single refusal, by half where one follows
// another.
func (l *limiter) refused() {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := time.Now()
	since := now.Sub(l.changed)
	if !l.changed.IsZero() && since < oneSlowing {
		return
	}
	slower := float64(l.rate.Limit()) - l.full/raisePart
	if !l.changed.IsZero() && since < quietFor {
		slower = float64(l.rate.Limit()) / 2
	}
	l.rate.SetLimit(rate.Limit(max(slower, min(leastRate, l.full))))
	l.changed = now
}

func (l *limiter) perSecond() float64 { return float64(l.rate.Limit()) }
