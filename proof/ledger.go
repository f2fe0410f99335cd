package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// An arrival is a record as a destination holds it.
type arrival struct {
	account  string // of the finding
	id       string // EventId
	sequence uint64 // of the key's changes: 1, 2, 3 …
	status   string // HandleStatus
	uid      string // event_uid; empty where the destination's form has none
	detect   string // the detection time as the API's text; empty where there is none
	observed time.Time
}

// A ledger is what all destinations hold, compared record by record. What one
// of them has is a record of the journal, so all must have it.
type ledger struct {
	e      *evidence
	worlds map[string]*emulator.World // the truth, by account

	mu     sync.Mutex // guards the rest
	sinks  []string
	events map[finding]*history
	dead   []map[string]bool // by sink: the uids of its dead letters
	counts []tally           // by sink
	gone   int               // records that all sinks had and that were forgotten
	life   int32             // number of the daemon's present life
	since  time.Time         // from here on the truth is known
}

type finding struct{ account, id string }

// tally is what one destination got.
type tally struct {
	arrived    int // records, with those that came again
	duplicates int
	dead       int
}

// A history is what is known of one event.
type history struct {
	floor   uint64    // records up to this sequence were forgotten: all sinks had them
	records []*record // by sequence
	last    [8]uint64 // by sink: the last change that it got
}

// A record is what is known of one change.
type record struct {
	arrival
	at    uint64   // bit n: sink n has it
	lives [8]int32 // by sink: the life in which it came last
}

func newLedger(e *evidence, worlds map[string]*emulator.World) *ledger {
	return &ledger{e: e, worlds: worlds, events: map[finding]*history{}}
}

// add makes a sink known and returns its number.
func (l *ledger) add(sink string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sinks = append(l.sinks, sink)
	l.counts = append(l.counts, tally{})
	l.dead = append(l.dead, map[string]bool{})
	return len(l.sinks) - 1
}

// arrive notes that a sink has a record, and checks what can be checked at
// once: that it was true, that no other record bears its identity, and, where
// the sink promises order, that no later one of the event came before. It
// reports whether it had come in the present life of the daemon already.
func (l *ledger) arrive(sink int, a arrival, inOrder bool) (twice bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counts[sink].arrived++
	key := finding{a.account, a.id}
	h := l.events[key]
	if h == nil {
		h = &history{}
		l.events[key] = h
	}
	if a.sequence <= h.floor {
		l.counts[sink].duplicates++
		return true // only long lives forget
	}
	bit := uint64(1) << sink
	if last := h.last[sink]; inOrder && last > a.sequence && !h.has(a.sequence, bit) {
		l.e.broke("%s got %s after change %d of the same event", l.sinks[sink], a, last)
	}
	h.last[sink] = max(h.last[sink], a.sequence)
	i, known := h.find(a.sequence)
	if !known {
		if w := l.worlds[a.account]; w == nil || !w.EverTrue(emulator.Claim{Pair: emulator.Pair{ID: a.id, Status: a.status}, Detect: a.detect}) {
			l.e.broke("%s has a record that was never true: %s", l.sinks[sink], a)
		}
		r := &record{arrival: a, at: bit}
		r.lives[sink] = l.life
		h.records = slices.Insert(h.records, i, r)
		return false
	}
	r := h.records[i]
	if problem := r.merge(a); problem != "" {
		l.e.broke("%s has another record under the same identity (%s): %s, elsewhere %s", l.sinks[sink], problem, a, r.arrival)
	}
	if r.at&bit != 0 {
		l.counts[sink].duplicates++
		twice = r.lives[sink] == l.life
	}
	r.at |= bit
	r.lives[sink] = l.life
	return twice
}

// newLife begins another life of the daemon.
func (l *ledger) newLife() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.life++
}

// merge completes what one destination's form lacks by another's, and names
// what differs.
func (r *record) merge(a arrival) string {
	if r.status != a.status {
		return "status"
	}
	if r.uid != "" && a.uid != "" && r.uid != a.uid {
		return "event_uid"
	}
	if r.detect != "" && a.detect != "" && r.detect != a.detect {
		return "detection time"
	}
	r.uid, r.detect = cmp.Or(r.uid, a.uid), cmp.Or(r.detect, a.detect)
	if r.observed.IsZero() {
		r.observed = a.observed
	}
	return ""
}

func (a arrival) String() string {
	return fmt.Sprintf("event %s of %s, change %d, status %s, detected %s, observed %s",
		a.id, a.account, a.sequence, a.status, cmp.Or(a.detect, "?"), a.observed.Format("15:04:05.000"))
}

// bury notes the dead letters of a sink.
func (l *ledger) bury(sink int, uids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, uid := range uids {
		l.dead[sink][uid] = true
	}
	l.counts[sink].dead = len(l.dead[sink])
}

// A sweep is a certified one: what was visible throughout must be in the
// journal.
type sweep struct {
	id      string
	account string
	begin   time.Time
	end     time.Time
}

// has reports whether a sink has a change.
func (h *history) has(sequence, sink uint64) bool {
	i, known := h.find(sequence)
	return known && h.records[i].at&sink != 0
}

// find looks for a change.
func (h *history) find(sequence uint64) (int, bool) {
	return slices.BinarySearchFunc(h.records, sequence, func(r *record, s uint64) int { return cmp.Compare(r.sequence, s) })
}

// certified checks the promise of a sweep and returns how many pairs it was
// about. The sinks together must have had the time to get what was taken in.
func (l *ledger) certified(s sweep) int {
	w := l.worlds[s.account]
	from, to := w.Window(s.begin, s.end)
	pairs := w.VisibleThroughout(from, to)
	for _, p := range pairs {
		since := w.At(begun(w.History(p.ID), from))
		l.mu.Lock()
		h := l.events[finding{s.account, p.ID}]
		if h == nil || !h.shows(p.Status, since) {
			l.e.broke("event %s in status %s since %s was visible throughout the certified sweep %s, and no sink was told", p.ID, p.Status, since.Format("15:04:05.000"), s.id)
		}
		l.mu.Unlock()
	}
	return len(pairs)
}

// begun is the tick at which the status that was visible at a tick began.
func begun(versions []emulator.Version, at uint64) uint64 {
	var since uint64
	former := ""
	for _, v := range versions {
		if v.From > at {
			break
		}
		if v.Status != former {
			since, former = v.From, v.Status
		}
	}
	return since
}

// shows reports whether the event was told in a status that it bears since a
// time: by a record since, or by the last one before, where what lay between
// was too short to be seen.
func (h *history) shows(status string, since time.Time) bool {
	last := ""
	for _, r := range h.records {
		if r.observed.Before(since) {
			last = r.status
		} else if r.status == status {
			return true
		}
	}
	return last == status
}

// complete checks that every sink has every record, or holds it as a dead
// letter, and that no change of an event is missing between two others.
func (l *ledger) complete() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, h := range l.events {
		next := h.floor + 1
		for _, r := range h.records {
			for ; next < r.sequence; next++ {
				l.e.broke("event %s of %s: change %d is at no sink, though change %d is", key.id, key.account, next, r.sequence)
			}
			next = r.sequence + 1
			for sink, name := range l.sinks {
				if r.at&(1<<sink) == 0 && !l.dead[sink][r.uid] {
					l.e.broke("%s neither has nor buried %s; others have it: %s", name, r.arrival, strings.Join(l.having(r), ", "))
				}
			}
		}
	}
}

func (l *ledger) having(r *record) []string {
	var names []string
	for sink, name := range l.sinks {
		if r.at&(1<<sink) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// grain is how exactly formats tell times: what is observed in one millisecond
// may have come to be in the same.
const grain = time.Millisecond

// ordered checks that the changes of each event were told in the order in
// which they were true, and not before they were: no older answer ever undid a
// newer one.
func (l *ledger) ordered() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for key, h := range l.events {
		w := l.worlds[key.account]
		versions := w.History(key.id)
		for _, r := range h.records {
			if r.observed.Before(l.since) {
				continue
			}
			i := slices.IndexFunc(versions, func(v emulator.Version) bool {
				return v.Shown && v.Status == r.status && (r.observed.IsZero() || w.At(v.From).Before(r.observed.Add(grain)))
			})
			if i < 0 {
				l.e.broke("the changes of event %s were told in an order that was never true, up to %s", key.id, r.arrival)
				break
			}
			versions = versions[i+1:]
		}
	}
}

// forget drops what all sinks had and what is older than a time, but for each
// event's last record. The truth of that time is given up too.
func (l *ledger) forget(before time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.since = before.Add(time.Minute) // answers arrive later than they were true
	everywhere := uint64(1)<<len(l.sinks) - 1
	for _, h := range l.events {
		n := 0
		for n < len(h.records)-1 && h.records[n].at == everywhere && h.records[n].sequence == h.floor+uint64(n)+1 && h.records[n].observed.Before(before) {
			n++
		}
		if n == 0 {
			continue
		}
		h.floor = h.records[n-1].sequence
		h.records = slices.Delete(h.records, 0, n)
		l.gone += n
	}
}

// records is how many different ones there are.
func (l *ledger) records() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := l.gone
	for _, h := range l.events {
		n += len(h.records)
	}
	return n
}

// tallies are the counts by name of the sink.
func (l *ledger) tallies() map[string]tally {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := map[string]tally{}
	for i, name := range l.sinks {
		all[name] = l.counts[i]
	}
	return all
}

func sorted[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
