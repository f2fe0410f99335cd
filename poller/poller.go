// Package poller decides what to ask the API and when, and takes in what it
// answers.
//
// It promises that an event and status that the API showed during the whole of
// a certified sweep are in the journal when the sweep ends, and that every
// record was once true. It promises nothing about what lived for less than a
// sweep, though head scans see most of that too, and it infers nothing from
// absence. What is not certified is asked again, and says why.
package poller

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// ErrAccount means that the source's account is not the one that its stored
// keys belong to. Going on would take in everything a second time.
var ErrAccount = errors.New("the account changed")

// API is one list action, as the poller asks it: one attempt, no retries.
type API interface {
	// List returns an answer or a *cwp.Error. It waits for the request budget
	// first and returns promptly once ctx is done.
	List(ctx context.Context, q cwp.Query) (*cwp.Page, error)
}

// Options are what a Poller is made of.
type Options struct {
	Source  string // configured name
	Kind    *cwp.Kind
	Config  Config // with defaults, valid
	Filters map[string]cwp.FilterValues
	API     API
	// Rate is the configured number of requests per second; it says how many
	// parts are worth reading side by side.
	Rate float64
	// Identify asks the API whose events it shows. Nil: the account is that of
	// Config, else event.DefaultAccount.
	Identify func(context.Context) (string, error)
	Journal  journal.Journal
	Log      *zap.Logger
	Metrics  *Metrics // nil: none
	// Swept, if not nil, is told of each sweep that ended. It must not block.
	Swept func(Sweep)
	// Beat is told by when a loop will be back; 0: when something comes. Nil:
	// nobody watches.
	Beat func(loop string, within time.Duration)
}

// A Poller takes in the events of one source and kind.
type Poller struct {
	opt   Options
	cfg   Config
	kind  *cwp.Kind
	loc   *time.Location
	log   *zap.Logger
	turns turns
	beat  func(loop string, within time.Duration)

	mu      sync.Mutex // guards what follows, which every goroutine of the poller writes
	status  Status
	trouble time.Time // when the tries began to fail; zero while they do not
	faults  []Fault   // since the last sweep ended; at most maxFaults

	asked chan *showing
	over  chan struct{} // closed when Run has ended

	in   *intake       // set before the goroutines begin
	mark atomic.Uint32 // number of the sweep that runs or ran last

	sweeping  sync.Mutex    // held while a sweep runs; guards the rest
	rtt       time.Duration // smoothed time of one request
	exclusive bool          // BeginTime excludes the second it names
	endExcl   bool          // EndTime does
	degraded  bool          // the last sweep could not rely on filter and order; reported once
}

// New makes a Poller. It asks and stores nothing.
func New(opt Options) (*Poller, error) {
	loc, err := time.LoadLocation(opt.Config.Timezone)
	if err != nil {
		return nil, fmt.Errorf("timezone: %w", err)
	}
	if opt.Beat == nil {
		opt.Beat = func(string, time.Duration) {}
	}
	if opt.Metrics != nil {
		opt.Metrics.begin(opt.Source, opt.Kind.Name)
	}
	return &Poller{
		opt: opt, cfg: opt.Config, kind: opt.Kind, loc: loc,
		log:   opt.Log.With(zap.String("source", opt.Source), zap.String("kind", opt.Kind.Name)),
		turns: turns{moved: make(chan struct{})}, beat: opt.Beat,
		asked: make(chan *showing), over: make(chan struct{}),
		status: Status{Source: opt.Source, Kind: opt.Kind.Name, SweepInterval: opt.Config.SweepInterval},
	}, nil
}

// Run polls until ctx is done. It returns an error only if the program cannot
// go on: the account is another one, or the journal is dead. It is called once.
func (p *Poller) Run(ctx context.Context) error {
	defer close(p.over)
	defer p.rest()
	return p.with(ctx, 0, func(ctx context.Context, in *intake) error {
		g, ctx := errgroup.WithContext(ctx)
		g.Go(func() error { return p.sweeps(ctx, in) })
		g.Go(func() error { return p.heads(ctx, in) })
		return g.Wait()
	})
}

// Once sweeps until a sweep is certified, at most tries times, and returns the
// last certificate. The error is why there is none: an *cwp.Error when the API
// could not be reached or refused.
func (p *Poller) Once(ctx context.Context, tries int) (journal.Certificate, error) {
	var cert journal.Certificate
	err := p.with(ctx, tries, func(ctx context.Context, in *intake) error {
		var err error
		for range tries {
			cert, err = p.sweep(ctx, in, nil)
			if cert.Certified || ctx.Err() != nil || refused(err) {
				break
			}
		}
		return err
	})
	return cert, err
}

// with opens what every way of polling needs, runs f, and closes it. tries
// bounds how often the account is asked for; 0: until it is known.
func (p *Poller) with(ctx context.Context, tries int, f func(context.Context, *intake) error) error {
	lease, err := p.opt.Journal.Lease(ctx, "source/"+p.opt.Source+"/"+p.kind.Name)
	if err != nil {
		return p.ended(ctx, fmt.Errorf("take the lease of source %s: %w", p.opt.Source, err))
	}
	defer func() { _ = lease.Release() }() // the journal's close frees it too

	source, err := p.identify(ctx, tries)
	if err != nil {
		return p.ended(ctx, err)
	}
	in, err := newIntake(ctx, p, lease, source)
	if err != nil {
		return p.ended(ctx, err)
	}
	p.in, p.exclusive = in, source.Exclusive

	g, gctx := errgroup.WithContext(ctx)
	stop := make(chan struct{})
	g.Go(func() error { return in.run(gctx, stop) })
	g.Go(func() error {
		defer close(stop)
		return f(gctx, in)
	})
	return p.ended(ctx, g.Wait())
}

// ended turns what ctx caused into nil: being told to stop is no failure.
func (p *Poller) ended(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, ctx.Err()) {
		return nil
	}
	return err
}

// identify settles whose events these are: the account is part of every key.
func (p *Poller) identify(ctx context.Context, tries int) (journal.Source, error) {
	source, err := p.opt.Journal.Source(ctx, p.opt.Source, p.kind.Name)
	if err != nil {
		return source, fmt.Errorf("read source %s from the journal: %w", p.opt.Source, err)
	}
	account := p.cfg.AccountID
	if account == "" && source.Account == "" && p.opt.Identify != nil {
		wait := newBackoff()
		for n := 1; ; n++ {
			if account, err = p.opt.Identify(ctx); err == nil {
				p.answered()
				break
			}
			p.failed(err)
			if tries > 0 && (n >= tries || refused(err)) {
				return source, fmt.Errorf("ask whose account this is: %w", err)
			}
			if err := wait.sleep(ctx); err != nil {
				return source, err
			}
		}
	}
	if account == "" {
		account = source.Account
	}
	if account == "" {
		account = event.DefaultAccount
	}
	if source.Account != "" && source.Account != account {
		err := fmt.Errorf("sources.%s: %w: it is %s now, the stored events belong to %s; restore account_id or the credentials, or give the source a new name",
			p.opt.Source, ErrAccount, account, source.Account)
		p.update(func(s *Status) { s.Error, s.ErrorClass, s.Since = err.Error(), classAccount, time.Now() })
		return source, err
	}
	source.Source, source.Kind, source.Account = p.opt.Source, p.kind.Name, account
	p.update(func(s *Status) { s.Account = account })
	return source, nil
}

// filterText is the source's filters in one canonical line.
func filterText(filters map[string]cwp.FilterValues) string {
	var parts []string
	for _, name := range slices.Sorted(maps.Keys(filters)) {
		parts = append(parts, fmt.Sprintf("%s=%q", name, []string(filters[name])))
	}
	return strings.Join(parts, " ")
}

// sweeps runs sweep after sweep until ctx is done.
func (p *Poller) sweeps(ctx context.Context, in *intake) error {
	wait := newBackoff()
	var next *showing // whoever asked for the next sweep
	select {
	case next = <-p.asked:
	default:
	}
	for ctx.Err() == nil {
		began := time.Now()
		p.beat(loopSweeps, working)
		_, err := p.sweep(ctx, in, next)
		if errors.Is(err, errFatal) || ctx.Err() != nil {
			return err
		}
		pause := p.cfg.SweepInterval - time.Since(began)
		if err != nil {
			pause = max(wait.next(), time.Second)
		} else {
			wait.reset()
		}
		pause = max(pause, time.Second)
		p.beat(loopSweeps, pause+working)
		if next, err = p.pause(ctx, pause); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// pause waits, or until somebody asks for a sweep.
func (p *Poller) pause(ctx context.Context, d time.Duration) (*showing, error) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case next := <-p.asked:
		return next, nil
	case <-t.C:
		return nil, nil //nolint:nilnil // nobody asked
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}
