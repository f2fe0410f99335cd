// Package delivery carries records from the journal to a sink: one Worker for
// each sink reads in order, filters, batches, encodes, sends, and decides what
// follows an attempt. It alone retries, halts and buries.
//
// It promises that the stored cursor passes a record only when the sink has
// accepted it, when the sink's own condition (or start_from: now) refused it,
// when it lies in the sink's dead letters, or when the journal no longer has
// it, which is counted; and that no sink waits for another. It never gives up.
// What was in flight when the process ended is sent again.
//
// # Order
//
// One batch is in flight and is settled before the next is sent, so records
// reach the destination in the order of the journal, unless the sink is a
// Windower, whose destination keeps no order. A record that the destination
// refuses alone (a suspect) does not hold up the others; only later records of
// its own key wait until it is accepted or buried, so that an older state of
// an event never follows a newer one. Within one attempt order is the sink's:
// where it accepts a part of a batch, what it did not accept comes later.
//
// How a sink reports is said by package sinks, what is stored by package
// journal.
package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

// Options are what a Worker is made of.
type Options struct {
	Name   string // of the sink: cursor, log field and metric label
	Sink   sinks.Sink
	Config Config
	// Encoder is the sink's format. Nil: the sink builds its payload itself and
	// messages have no body. It is called by one goroutine at a time.
	Encoder format.Encoder
	// Rules read records before anything else looks at them; the same for all
	// workers. Nil: the built-in ones.
	Rules   *format.Rules
	Journal journal.Journal
	Log     *zap.Logger // nil: nothing is logged
	Metrics *Metrics    // nil: nothing is registered
	// Follow, if not nil, is told of each attempt when it has ended. What it
	// returns it is given with the next attempt of the same batch or of a part
	// of it; with the first one it is given nil. It must not block.
	Follow func(before any, a Attempt) any
	// Heartbeat is what heartbeats say of the process; the worker adds what it
	// knows of the sink. Nil: that all is well. It is called by other goroutines.
	Heartbeat func(context.Context) format.Heartbeat
	// Grace is how long attempts may go on after Run's context is done; zero
	// means 20 seconds. SetGrace changes it.
	Grace time.Duration
	// Beat is told by when a loop will be back; 0: when something comes. Nil:
	// nobody watches.
	Beat func(loop string, within time.Duration)
}

// An Attempt is what Options.Follow is told of one attempt. No text in it holds
// a secret.
type Attempt struct {
	Sink        string
	First, Last uint64 // sequences of the records sent
	Records     int
	Number      int  // of the attempt, from 1, among those with these records
	Again       bool // by a replay, or out of the dead letters
	Began       time.Time
	Took        time.Duration
	Outcome     string // as the metric names it
	Failed      bool   // something of it was not accepted
	Answer      string // the destination's words, or why there were none, in one line
}

// An AckTimeouter is a sinks.Windower that says how long it waits for the
// confirmation of a batch after the destination's answer.
type AckTimeouter interface {
	AckTimeout() time.Duration
}

// ackTimeout is what the attempt of a Windower that does not say may take
// beyond Config.Timeout. Such a sink bounds its wait itself.
const ackTimeout = time.Hour

// A Worker serves one sink.
type Worker struct {
	name    string
	sink    sinks.Sink
	cfg     Config
	encode  format.Encoder
	rules   *format.Rules // nil: the built-in ones
	when    *condition    // nil: everything passes
	journal journal.Journal
	log     *zap.Logger
	metrics sinkMetrics
	follow  func(before any, a Attempt) any
	beat    func(loop string, within time.Duration)
	says    func(context.Context) format.Heartbeat // nil: all is well
	grace   atomic.Int64                           // a time.Duration

	encoding sync.Mutex // serializes encode: the reader and a reload may meet

	paused atomic.Bool
	poke   chan struct{} // buffered by one: paused changed
	look   chan struct{} // buffered by one: the figures are stale

	requests chan request
	over     chan struct{} // closed when Run has ended

	mu      sync.Mutex // guards status and changed
	status  Status
	changed chan struct{} // closed and replaced when status changes
}

// New makes the worker of a valid configuration. It touches neither the
// journal nor the destination.
func New(opts Options) (*Worker, error) {
	w := &Worker{
		name: opts.Name, sink: opts.Sink, cfg: opts.Config.WithDefaults(), encode: opts.Encoder, rules: opts.Rules, says: opts.Heartbeat,
		journal: opts.Journal, log: cmp.Or(opts.Log, zap.NewNop()),
		poke: make(chan struct{}, 1), look: make(chan struct{}, 1), changed: make(chan struct{}),
		requests: make(chan request), over: make(chan struct{}), follow: opts.Follow,
	}
	w.SetGrace(cmp.Or(opts.Grace, 20*time.Second))
	if w.beat = opts.Beat; w.beat == nil {
		w.beat = func(string, time.Duration) {}
	}
	w.log = w.log.Named("sink." + opts.Name)
	w.metrics = cmp.Or(opts.Metrics, NewMetrics(nil)).of(opts.Name)
	w.status = Status{Name: opts.Name, State: OK, Since: time.Now()}
	if w.cfg.When != "" {
		c, err := compile(w.cfg.When)
		if err != nil {
			return nil, fmt.Errorf("sink %s: when: %w", opts.Name, err)
		}
		c.rules = opts.Rules
		w.when = c
	}
	return w, nil
}

// Run serves the sink until ctx is done and then returns nil. Attempts that
// have begun may end within Options.Grace and are then cancelled; their records
// stay in the journal. It returns an error only when the journal was closed or
// the sink's lease was lost. It is called once.
//
// Run waits for the sink, also for one that ignores its context; whoever must
// not wait leaves without it.
func (w *Worker) Run(ctx context.Context) (err error) {
	defer close(w.over)
	defer w.beat(sending, 0)
	lease, err := w.journal.Lease(ctx, "sink/"+w.name)
	if err != nil {
		return w.ended(ctx, err)
	}
	defer func() { err = errors.Join(err, lease.Release()) }()

	hard, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	inner, stop := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer stop()

	r := &run{
		w: w, lease: lease, ctx: ctx, hard: hard, cancel: cancel, pace: newPace(),
		arrivals: make(chan *batch), results: make(chan result), spare: make(chan []byte, 2),
	}
	if err := r.start(); err != nil {
		return w.ended(ctx, err)
	}
	reader := r.reader() // from here on what is stored is the loop's
	helpers.Go(func() { reader.run(inner, r.arrivals) })
	helpers.Go(func() { w.watch(inner) })
	helpers.Go(func() {
		<-inner.Done()
		if sleep(hard, time.Duration(w.grace.Load())) {
			cancel()
		}
	})
	err = r.loop() //nolint:contextcheck // a run has the context it lives by
	return w.ended(ctx, err)
}

// ended is what Run returns for err: an end that was asked for is none.
func (w *Worker) ended(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("sink %s: %w", w.name, err)
	}
	return nil
}

// Pause makes the worker begin nothing new, or go on, and then at once, also
// where it waits after failures or is halted. What is in flight ends. It is not
// kept over a restart.
func (w *Worker) Pause(paused bool) {
	w.paused.Store(paused)
	signal(w.poke)
}

// Paused reports whether the worker was told to begin nothing new.
func (w *Worker) Paused() bool { return w.paused.Load() }

// SetGrace changes how long attempts may go on after Run's context is done. It
// has no effect once that is done.
func (w *Worker) SetGrace(d time.Duration) { w.grace.Store(int64(d)) }

// signal leaves a note in a channel that is buffered by one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
