package delivery

import (
	"errors"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/cwprelay/cwprelay/sinks"
)

// Classes of dead letters.
const (
	classPoison = "poison" // the destination refused the record, alone, while others passed
	classStuck  = "stuck"  // the record alone got the same unclear answer for an hour, while others passed
	classEncode = "encode" // the record has no form in the sink's format
	classGap    = "gap"    // the record was never sent: it waits to fill a gap, and is not counted as refused
)

// sameAnswers is how often a batch gets the same unclassified answer before one
// of its records is held to be the cause.
const sameAnswers = 10

// A job is what one attempt sends: a batch as it was read, or a part of one.
type job struct {
	items    []item
	attempts int    // made with exactly these items, or with a batch that held them
	failure  string // of the last attempt that failed
	answer   string // the last unclassified answer
	same     int    // how often in a row it came
	suspect  *suspect
	arena    []byte // of the bodies; nil when other jobs have a part of it
	followed any    // what Options.Follow returned last
}

// part is a job of some of j's items, with j's history.
func (j *job) part(items []item) *job {
	return &job{items: items, attempts: j.attempts, failure: j.failure, answer: j.answer, same: j.same}
}

// halves cuts j in two, the first not the smaller.
func (j *job) halves() []*job {
	mid := (len(j.items) + 1) / 2
	return []*job{j.part(j.items[:mid]), j.part(j.items[mid:])}
}

// An outcome is what an attempt means for the items of its job.
type outcome struct {
	accepted []item
	again    []*job // what is sent again, in order

	suspect error // the single record of the job was refused: it becomes a suspect
	stuck   bool  // by unclassified answers, not by a verdict

	answered bool // the destination said something about the whole job

	halt  error // the destination refuses everything
	retry error // something failed that is worth repeating: back off
	after time.Duration
	label string // of the metric
}

// judge says what follows an attempt. It changes only j's history.
func judge(j *job, err error) outcome {
	j.attempts++
	for i := range j.items {
		j.items[i].attempts++
	}
	if err == nil {
		return outcome{accepted: j.items, label: "ok"}
	}
	j.failure = clean(err)
	if p, ok := errors.AsType[*sinks.PartialError](err); ok && fits(p, len(j.items)) {
		if len(j.items) > 1 || len(p.Failed) == 0 {
			return judgeEach(j, p.Failed)
		}
		err = p.Failed[0]
		j.failure = clean(err)
	}
	return judgeWhole(j, err)
}

// fits reports whether a partial error speaks of a batch of n records.
func fits(p *sinks.PartialError, n int) bool {
	for i, err := range p.Failed {
		if i < 0 || i >= n || err == nil {
			return false
		}
	}
	return true
}

// judgeWhole judges an attempt of which nothing was accepted.
func judgeWhole(j *job, err error) outcome {
	o := outcome{label: sinks.ClassOf(err).String(), answered: sinks.IsAnswer(err)}
	alone := len(j.items) == 1
	switch sinks.ClassOf(err) {
	case sinks.ClassHalt:
		o.halt, o.again = err, []*job{j}
	case sinks.ClassTooLarge, sinks.ClassPoison:
		// A verdict that names no record: halve down to the one.
		if alone {
			o.suspect = err
		} else {
			o.again = j.halves()
		}
	default:
		o.retry, o.after = err, sinks.RetryAfter(err)
		stuck := j.repeats(err)
		switch {
		case !stuck:
			o.again = []*job{j}
		case alone:
			o.suspect, o.stuck = err, true
		default:
			o.again = j.halves()
		}
	}
	return o
}

// judgeEach judges an attempt of which a part was accepted, or whose failures
// differ: each record by its own class.
func judgeEach(j *job, failed map[int]error) outcome {
	o := outcome{label: "partial"}
	var named bool // a record was named as too large or refused
	for i, it := range j.items {
		err, ok := failed[i]
		if !ok {
			o.accepted = append(o.accepted, it)
			continue
		}
		switch sinks.ClassOf(err) {
		case sinks.ClassTooLarge, sinks.ClassPoison:
			named = true
		case sinks.ClassHalt:
			o.halt = errOr(o.halt, err)
		default:
			o.retry = errOr(o.retry, err)
			o.after = max(o.after, sinks.RetryAfter(err))
		}
	}
	if len(o.accepted) > 0 || o.retry == nil {
		j.answer, j.same = "", 0 // there is progress
	} else {
		j.repeats(o.retry)
	}
	o.again = regroup(j, failed)
	if named && o.after == 0 {
		// The destination works; the others failed because of the named ones,
		// and are sent without those at once.
		o.retry = nil
	}
	return o
}

// regroup makes the jobs of what failed, in order: each refused record alone,
// runs of too large ones in halves, runs of the others together.
func regroup(j *job, failed map[int]error) []*job {
	var jobs []*job
	var group []item
	var class sinks.Class
	flush := func() {
		switch part := j.part(group); {
		case len(group) == 0:
		case len(group) > 1 && (class == sinks.ClassTooLarge || (class == sinks.ClassRetry && part.same >= sameAnswers)):
			jobs = append(jobs, part.halves()...)
		default:
			jobs = append(jobs, part)
		}
		group = nil
	}
	for i, it := range j.items {
		err, ok := failed[i]
		if !ok {
			continue
		}
		c := sinks.ClassOf(err)
		if c == sinks.ClassHalt {
			c = sinks.ClassRetry // both are sent again as they are
		}
		if c != class || c == sinks.ClassPoison {
			flush()
		}
		class = c
		group = append(group, it)
	}
	flush()
	return jobs
}

// repeats counts unclassified answers and reports whether the same one came
// too often to be the destination's trouble alone. Failures of the network do
// not count, and a destination that says when to come back is not stuck.
func (j *job) repeats(err error) bool {
	if !sinks.IsAnswer(err) || sinks.RetryAfter(err) > 0 {
		return false
	}
	if text := clean(err); text != j.answer {
		j.answer, j.same = text, 0
	}
	j.same++
	return j.same >= sameAnswers
}

func errOr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// cleanMax is the longest reason that is kept, in bytes.
const cleanMax = 1000

// clean brings an error to one line of bounded length.
func clean(err error) string {
	s := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return ' '
		}
		return r
	}, err.Error())
	if len(s) > cleanMax {
		s = strings.ToValidUTF8(s[:cleanMax], "") + "…"
	}
	return s
}
