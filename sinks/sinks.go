// Package sinks says what a destination is and how it reports what became of
// a batch. It promises nothing by itself: one attempt is made by a Sink, and
// package delivery alone decides what follows.
package sinks

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A Sink sends records to one destination. It makes one attempt and reports
// what happened; it does not retry, batch, queue or log.
type Sink interface {
	// Send makes one attempt to deliver the batch, in order, and returns nil
	// only when the destination has accepted all of it. It returns promptly
	// once ctx is done, and keeps no reference to the batch after it returns.
	// A batch is never empty.
	//
	// An error means that nothing was accepted, unless it is a *PartialError.
	// An unmarked error is retryable; Poison, Halt, TooLarge and After mark
	// the rest.
	//
	// Send is called by one goroutine, unless the sink is a Windower.
	Send(ctx context.Context, batch []Message) (Receipt, error)

	// Close releases connections. It is called once, after the last Send.
	Close() error
}

// A Windower is a Sink whose destination confirms later than it answers and
// keeps no order itself (HEC with indexer acknowledgement).
type Windower interface {
	// Window is the number of Sends that may run at once, at least 1. It is
	// asked again before each new batch and may change between answers.
	Window() int
}

// A Prober is a Sink that can tell its health without sending a record.
type Prober interface {
	// Probe asks the destination whether it would accept records now and
	// returns its answer in one line without secrets, or an error classed as
	// those of Send are.
	Probe(ctx context.Context) (answer string, err error)
}

// A Limiter is a Sink with its own bounds on one batch.
type Limiter interface {
	// Limits returns the bounds; zero fields mean no bound of the sink's own.
	Limits() Limits
}

// Limits bound one batch.
type Limits struct {
	Records int // number of records
	Bytes   int // sum of the lengths of the bodies
}

// A Message is one record on its way to one sink.
type Message struct {
	Record *event.Record // read only
	Body   []byte        // encoded by delivery in the sink's format; nil for Slack, which builds its own
	Memo   string        // what this sink last remembered for this key
}

// A Receipt is what the destination said; it also comes with an error.
type Receipt struct {
	Answer     string         // one line, no secret: "200 ackId=7", "partition=3 offset=991-1010"
	Duplicates int            // how many were already there
	Memo       map[int]string // by index: given back with the key's next record (a Slack thread)
}

// A PartialError says that some records of a batch were accepted and some were
// not. It has no Unwrap: each failure has a class of its own, and none of them
// is the class of the batch.
type PartialError struct {
	// Failed holds, by index into the batch, why a record was not accepted.
	// Every index that is not a key was accepted.
	Failed map[int]error
}

// Error counts the failures and shows the first by index.
func (e *PartialError) Error() string {
	first := -1
	for i := range e.Failed {
		if first < 0 || i < first {
			first = i
		}
	}
	if first < 0 {
		return "no record failed"
	}
	return fmt.Sprintf("%d records not accepted, first is number %d: %v", len(e.Failed), first, e.Failed[first])
}

// A Class is what an error means for the records of an attempt.
type Class int

// The classes. Retry is the zero value: what nobody classed is tried again.
const (
	ClassRetry    Class = iota // keep and try again with backoff, for ever
	ClassTooLarge              // the batch is too large: halve it; a single record becomes a suspect
	ClassPoison                // this record can never be accepted: prove it, then bury it
	ClassHalt                  // the destination refuses everything: our setup is wrong, the records are not
)

// String names the class as metrics and logs do.
func (c Class) String() string {
	switch c {
	case ClassRetry:
		return "retry"
	case ClassTooLarge:
		return "too_large"
	case ClassPoison:
		return "poison"
	case ClassHalt:
		return "halt"
	default:
		return "unknown"
	}
}

type classed struct {
	err   error
	class Class
	after time.Duration
}

func (e *classed) Error() string { return e.err.Error() }
func (e *classed) Unwrap() error { return e.err }

// Poison marks err: this record can never be accepted.
func Poison(err error) error { return &classed{err: err, class: ClassPoison} }

// Halt marks err: credentials, a missing topic or index, a wrong URL.
func Halt(err error) error { return &classed{err: err, class: ClassHalt} }

// TooLarge marks err: the destination takes no batch of this size.
func TooLarge(err error) error { return &classed{err: err, class: ClassTooLarge} }

// After marks err as retryable, not before d has passed.
func After(err error, d time.Duration) error {
	return &classed{err: err, class: ClassRetry, after: max(d, 0)}
}

// answered marks a retryable error as an answer of the destination.
type answered struct{ err error }

func (e *answered) Error() string { return e.err.Error() }
func (e *answered) Unwrap() error { return e.err }

// Answered marks err as something the destination said, in contrast to a
// failure of the network. The same answer ten times over points at an event
// that causes it. The class stays what it was.
func Answered(err error) error { return &answered{err: err} }

// IsAnswer reports whether err was marked by Answered or has a class other
// than ClassRetry, which only an answer can give it.
func IsAnswer(err error) bool {
	var a *answered
	return errors.As(err, &a) || ClassOf(err) != ClassRetry
}

// ClassOf returns the class of err: ClassRetry when it has no mark, also when
// it is a *PartialError, whose failures are classed one by one.
func ClassOf(err error) Class {
	if c, ok := errors.AsType[*classed](err); ok {
		return c.class
	}
	return ClassRetry
}

// RetryAfter returns the least time that the destination asked to wait, 0 when
// it did not say.
func RetryAfter(err error) time.Duration {
	if c, ok := errors.AsType[*classed](err); ok {
		return c.after
	}
	return 0
}
