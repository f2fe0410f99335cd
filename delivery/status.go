package delivery

import (
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/journal"
)

// A State is what a sink's worker is at, in one word.
type State string

// The states, the most urgent first.
const (
	Halted   State = "halted"   // the destination refuses everything; a person must act; probed slowly
	Paused   State = "paused"   // by the operator
	Retrying State = "retrying" // the last attempt failed, refused records wait for their proof, or heartbeats are not accepted
	Behind   State = "behind"   // records wait, and they are being sent
	OK       State = "ok"       // everything is settled
)

// States are all states, the most urgent first.
func States() []State { return []State{Halted, Paused, Retrying, Behind, OK} }

// A Status is a sink as its worker sees it.
type Status struct {
	Name   string
	State  State
	Since  time.Time      // of State
	Cursor journal.Cursor // as stored

	Behind   int       // records not settled; up to 5 seconds old
	Oldest   time.Time // ObservedAt of the oldest of them, zero when none; up to 5 seconds old
	Dead     int       // dead letters; up to 5 seconds old
	InFlight int       // attempts under way
	Suspects int       // records refused alone and not yet proven undeliverable
	Held     int       // records that wait for a suspect of their own key

	Failures    int       // retryable failures in a row
	LastSuccess time.Time // of this process; zero when none
	LastAnswer  string    // of the last accepted attempt
	LastError   string    // of the last attempt that failed
	LastErrorAt time.Time
	HaltReason  string // why the sink is halted; empty when it is not

	LastHeartbeat  time.Time // accepted by this process; zero when none
	HeartbeatError string    // why the last one was not accepted; empty when it was

	Replay *Replay // nil when none runs
}

// A Replay is how far a replay is.
type Replay struct {
	From, After, Until uint64 // asked for; sent again up to here; goes up to here
	Begun              time.Time
	Sent               int // records accepted, since the process started
}

// figuresEvery is the longest age of the figures that the journal computes.
const figuresEvery = 5 * time.Second

// figuresApart is the least time between two looks at the journal.
const figuresApart = time.Second

// Status returns the worker's present status. It does not touch the journal.
func (w *Worker) Status() Status {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.status
}

// Wait blocks until every record up to seq is settled, the sink is halted, or
// ctx is done, and returns the state that it found.
func (w *Worker) Wait(ctx context.Context, seq uint64) (State, error) {
	for {
		w.mu.Lock()
		s, changed := w.status, w.changed
		w.mu.Unlock()
		if s.Cursor.Seq >= seq || s.State == Halted {
			return s.State, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return s.State, ctx.Err()
		}
	}
}

// update changes the status and wakes those who wait for a change.
func (w *Worker) update(change func(s *Status)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change(&w.status)
	if state := w.state(&w.status); state != w.status.State {
		w.status.State, w.status.Since = state, time.Now()
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

func (w *Worker) state(s *Status) State {
	switch {
	case s.HaltReason != "":
		return Halted
	case w.paused.Load():
		return Paused
	case s.Failures > 0 || s.Suspects > 0 || s.HeartbeatError != "":
		return Retrying
	case s.Behind > 0 || s.InFlight > 0:
		return Behind
	default:
		return OK
	}
}

// watch keeps the figures that only the journal knows fresh until ctx is done.
func (w *Worker) watch(ctx context.Context) {
	for ctx.Err() == nil {
		w.figures(ctx)
		if !sleep(ctx, figuresApart) {
			return
		}
		select {
		case <-w.look:
		case <-time.After(figuresEvery - figuresApart):
		case <-ctx.Done():
		}
	}
}

func (w *Worker) figures(ctx context.Context) {
	st, err := w.journal.Status(ctx)
	if err != nil {
		if ctx.Err() == nil {
			w.log.Warn("figures of the journal cannot be read", zap.Error(err))
		}
		return
	}
	s := journal.SinkStatus{Behind: st.Records} // what holds for a sink that has settled nothing yet
	if i := slices.IndexFunc(st.Sinks, func(s journal.SinkStatus) bool { return s.Sink == w.name }); i >= 0 {
		s = st.Sinks[i]
	}
	w.update(func(own *Status) { own.Behind, own.Oldest, own.Dead = s.Behind, s.Oldest, s.Dead })
	w.metrics.behind.Set(float64(s.Behind))
	age := 0.0
	if !s.Oldest.IsZero() {
		age = max(0, time.Since(s.Oldest).Seconds())
	}
	w.metrics.oldest.Set(age)
}

// sleep waits for d and reports whether ctx is still not done.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
