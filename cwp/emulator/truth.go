package emulator

import (
	"hash/maphash"
	"slices"
	"sort"
	"time"
)

// A Pair is an event in a status: what a poller must not miss.
type Pair struct {
	ID     string `json:"id"`
	Status string `json:"status"`
}

// A Version is an event as it was for a while.
type Version struct {
	From, To uint64 // visible at ticks From <= t < To; To is the greatest number while it lasts
	Status   string
	Detect   string // empty for none
	Shown    bool   // an answer held it
}

// Tick is the number of changes so far: the World's own time. An answer bears
// the tick it was computed at.
func (w *World) Tick() uint64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.tick
}

// Window returns the ticks that a time span touches: from the last change
// before it to the last one in it. What is visible throughout them was visible
// throughout the span, also where a change bears the very time of its
// beginning or end.
func (w *World) Window(begin, end time.Time) (from, to uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	before := func(nanos int64) uint64 {
		return w.old + uint64(sort.Search(len(w.times), func(i int) bool { return w.times[i] >= nanos }))
	}
	return before(begin.UnixNano()), before(end.UnixNano() + 1)
}

// At is when a change happened; the zero time for tick 0, for one that is yet
// to come and for one that was forgotten.
func (w *World) At(tick uint64) time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if tick <= w.old || tick > w.tick {
		return time.Time{}
	}
	return time.Unix(0, w.times[tick-w.old-1])
}

// Forget gives up the truth of the ticks before tick, so that a list that
// changes for hours does not grow: what ended by then counts as if it had
// never been, and a time span must not begin before. An id that was deleted by
// then must not be used again.
func (w *World) Forget(tick uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	tick = min(tick, w.tick)
	if tick <= w.old {
		return
	}
	w.times = append([]int64(nil), w.times[tick-w.old:]...)
	w.old = tick
	w.rows = slices.DeleteFunc(w.rows, func(r *row) bool {
		if r.place < 0 && r.now.to <= tick {
			delete(w.byID, r.id)
			return true
		}
		if len(r.past) > 0 && r.past[0].to <= tick {
			kept := r.past[sort.Search(len(r.past), func(i int) bool { return r.past[i].to > tick }):]
			r.past = append([]version(nil), kept...)
		}
		return false
	})
}

// VisibleThroughout returns the pairs that were visible at every tick from
// from to to, both included, sorted by the order of insertion.
func (w *World) VisibleThroughout(from, to uint64) []Pair {
	w.mu.Lock()
	defer w.mu.Unlock()
	var pairs []Pair
	for _, r := range w.rows {
		if status, ok := r.throughout(from, to); ok {
			pairs = append(pairs, Pair{ID: r.id, Status: status})
		}
	}
	return pairs
}

// Visible returns the pairs that were visible at a tick.
func (w *World) Visible(tick uint64) []Pair { return w.VisibleThroughout(tick, tick) }

// throughout is the status that r bore at every tick of a span.
func (r *row) throughout(from, to uint64) (string, bool) {
	status, held := "", false
	for v := range r.versions {
		switch {
		case v.to <= from:
		case v.from > to:
			return status, held
		case !held:
			if v.from > from {
				return "", false
			}
			status, held = v.status, true
		case v.status != status:
			return "", false
		}
		if held && v.to > to {
			return status, true
		}
	}
	return "", false
}

// versions yields what r was, the oldest first.
func (r *row) versions(yield func(version) bool) {
	for _, v := range r.past {
		if !yield(v) {
			return
		}
	}
	yield(r.now)
}

// History returns what an event was, the oldest first; nothing for an unknown
// id.
func (w *World) History(id string) []Version {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.byID[id]
	if r == nil {
		return nil
	}
	var versions []Version
	for v := range r.versions {
		versions = append(versions, Version{From: v.from, To: v.to, Status: v.status, Detect: shownTime(v.detect), Shown: v.hash != 0})
	}
	return versions
}

// A Claim is what somebody says of an event. Of Start, Detect and Raw those
// that are set are compared.
type Claim struct {
	Pair
	Start  string // as text; the API's own
	Detect string
	Raw    []byte // the JSON, byte for byte
}

// EverTrue reports whether the event was ever shown as claimed: whether one
// answer could have held all of it at once.
func (w *World) EverTrue(c Claim) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.byID[c.ID]
	if r == nil || c.Start != "" && c.Start != shownTime(r.start) {
		return false
	}
	var hash uint64
	if c.Raw != nil {
		hash = w.hash(c.Raw)
	}
	return slices.ContainsFunc(slices.Collect(r.versions), func(v version) bool {
		return v.hash != 0 && v.status == c.Status &&
			(c.Detect == "" || c.Detect == shownTime(v.detect)) &&
			(c.Raw == nil || v.hash == hash)
	})
}

// EverShown reports whether an answer held exactly this element of the list.
func (w *World) EverShown(id string, raw []byte) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.byID[id]
	if r == nil {
		return false
	}
	hash := w.hash(raw)
	return slices.ContainsFunc(slices.Collect(r.versions), func(v version) bool { return v.hash == hash })
}

// hash is never 0: that is the hash of what was not shown.
func (w *World) hash(raw []byte) uint64 { return max(1, maphash.Bytes(w.hashes, raw)) }

// shownTime is a time as an answer shows it, empty for null.
func shownTime(text string) string {
	if text == Null || text == Blank {
		return ""
	}
	return text
}
