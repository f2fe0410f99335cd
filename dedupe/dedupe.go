// Package dedupe holds the set of (EventId, HandleStatus) pairs that were taken
// in, one pair per event, and says of each sight of an event whether it is
// news.
//
// A plain grow-only set of pairs would hide that an event became open again:
// taking a pair in replaces the event's former pair. The set is memory; what
// it is filled from and written to is the caller's, who changes it only after
// the change is stored. A Set belongs to one goroutine.
package dedupe

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A Verdict is what a sight of an event means.
type Verdict int

// The verdicts.
const (
	Known      Verdict = iota // the pair is in the set: nothing happened
	Unseen                    // the event was never seen, or was forgotten
	Changed                   // its status differs
	Redetected                // its status is the same, a tracked field moved on
	Baseline                  // a field is tracked that was not tracked before: remember it, tell nobody
	Stale                     // the answer is older than what is known of the event: not judged
)

// A Sight is one event as one answer showed it.
type Sight struct {
	ID      string
	Status  string    // the vendor's value as text
	Tracked []string  // values of the tracked fields, times as wall time; "" where there is none
	At      int64     // wall second of the sweep time, see Set.Count
	Mark    uint32    // number of the running sweep
	SentAt  time.Time // when the request was sent that the answer belongs to
}

// A Set is the pairs of one source and kind. The zero value is not usable.
type Set struct {
	packed table
	odd    map[string]*entry // what does not fit the table
}

// An entry is all that is known of one event.
type entry struct {
	state   event.State
	changed time.Time // when the answer was received that changed the state; zero: before this process
	at      int64
	mark    uint32
}

// New returns an empty set.
func New() *Set { return &Set{odd: map[string]*entry{}, packed: newTable()} }

// Len is the number of known events.
func (s *Set) Len() int { return s.packed.n + len(s.odd) }

// Load puts a stored state into the set.
func (s *Set) Load(id string, st event.State) { s.store(id, entry{state: st}) }

// load returns what is known of an event.
func (s *Set) load(id string) (entry, bool) {
	if key, ok := numberOf(id); ok {
		if r := s.packed.find(key); r != nil {
			return s.packed.unpack(key, r), true
		}
	}
	if e := s.odd[id]; e != nil {
		return *e, true
	}
	return entry{}, false
}

// store replaces what is known of an event.
func (s *Set) store(id string, e entry) {
	key, ok := numberOf(id)
	if ok {
		if r, fits := s.packed.pack(e); fits {
			delete(s.odd, id)
			s.packed.put(key, r, e.state.AbsentSince)
			return
		}
		s.packed.remove(key)
	}
	s.odd[id] = new(e) // a copy: what fits the table is not put on the heap
}

// State returns what is known of an event.
func (s *Set) State(id string) (event.State, bool) {
	e, ok := s.load(id)
	return e.state, ok
}

// Judge says what a sight means, and remembers of a known event that it was
// seen. moved reports that the running sweep has seen the event at another
// sweep time, which never changes for an event: the answers are not to be
// trusted.
//
// An event whose state was changed by an answer that was received after the
// request of this one was sent is Stale: this answer may be the older one,
// whichever arrived first.
func (s *Set) Judge(sight Sight) (verdict Verdict, moved bool) {
	if verdict, moved, ok := s.packed.judge(sight); ok {
		return verdict, moved
	}
	e, ok := s.load(sight.ID)
	if !ok {
		return Unseen, false
	}
	moved = e.mark == sight.Mark && e.at != sight.At
	e.mark, e.at = sight.Mark, sight.At
	s.store(sight.ID, e)
	return e.judge(sight), moved
}

func (e *entry) judge(sight Sight) Verdict {
	switch {
	case e.changed.After(sight.SentAt):
		return Stale
	case e.state.Status.Code != sight.Status:
		return Changed
	case len(e.state.Tracked) != len(sight.Tracked):
		return Baseline
	}
	verdict := Known
	for i, now := range sight.Tracked {
		switch before := e.state.Tracked[i]; {
		case now == before || now == "":
		case before == "":
			verdict = max(verdict, Baseline)
		case now > before:
			return Redetected
		}
	}
	return verdict
}

// Put makes st the state of an event. receivedAt is when the answer was
// received that showed it. Call it once the state is stored.
func (s *Set) Put(sight Sight, st event.State, receivedAt time.Time) {
	s.store(sight.ID, entry{state: st, changed: receivedAt, at: sight.At, mark: sight.Mark})
}

// SetState replaces what is stored of a known event without its being seen.
func (s *Set) SetState(id string, st event.State) {
	if e, ok := s.load(id); ok {
		e.state = st
		s.store(id, e)
	}
}

// Forget removes an event.
func (s *Set) Forget(id string) {
	if key, ok := numberOf(id); ok {
		s.packed.remove(key)
	}
	delete(s.odd, id)
}

// Count is the number of events that the sweep of that number has seen with a
// sweep time from first to last, both included.
func (s *Set) Count(mark uint32, first, last int64) int {
	n := s.packed.count(mark, first, last)
	for _, e := range s.odd {
		if e.mark == mark && e.at >= first && e.at <= last {
			n++
		}
	}
	return n
}

// An Absence is an event whose being shown or not differs from what is stored.
type Absence struct {
	ID    string
	State event.State
	Shown bool // the sweep has seen it
}

// Absences returns, in order of their ids, the events that the sweep of that
// number did not see, and those it saw that are stored as absent.
func (s *Set) Absences(mark uint32) []Absence {
	var out []Absence
	s.packed.each(func(key uint64, r *row) {
		if shown := r.mark == mark; !shown || r.status&(isAbsent|isUnwatched) != 0 {
			out = append(out, Absence{ID: strconv.FormatUint(key, 10), State: s.packed.unpack(key, r).state, Shown: shown})
		}
	})
	for id, e := range s.odd {
		if shown := e.mark == mark; !shown || !e.state.AbsentSince.IsZero() || e.state.Unwatched {
			out = append(out, Absence{ID: id, State: e.state, Shown: shown})
		}
	}
	slices.SortFunc(out, func(a, b Absence) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// MergeTracked is the tracked values after a sight: a value never goes back
// and is never replaced by nothing.
func MergeTracked(before, now []string) []string {
	out := slices.Clone(now)
	if len(before) != len(now) {
		return out
	}
	for i := range out {
		if out[i] == "" || out[i] < before[i] {
			out[i] = before[i]
		}
	}
	return out
}
