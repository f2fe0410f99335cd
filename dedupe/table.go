package dedupe

import (
	"math"
	"slices"
	"sort"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A table holds what is known of events as numbers, 36 bytes for each: ten
// million known events are some 350 MB, which the garbage collector does not
// walk over. What is no such number, which is rare, is held apart by the Set.
type table struct {
	firsts   []uint64 // the first key of each leaf
	leaves   []*leaf
	n        int
	statuses []event.Status       // that rows name by their place here
	absent   map[uint64]time.Time // AbsentSince of those that have one
	epoch    time.Time            // what row.changed counts from; zero: nothing was changed yet
}

// A leaf is a run of rows in ascending order of their keys. Keys grow with
// time, so leaves are full but for the last.
type leaf struct {
	n    int
	keys [leafRows]uint64
	rows [leafRows]row
}

const leafRows = 512

// A row is an entry as numbers. Times are wall seconds since 1970, 0 for none.
type row struct {
	at      uint32 // entry.at
	mark    uint32
	changed uint32 // low bits of the microseconds from the table's epoch to entry.changed; 0 with the others: before this process
	first   uint32 // State.FirstDetect
	tracked uint32 // State.Tracked[0], with isTracking
	last    uint32 // State.LastRecord
	seq     uint16 // State.Sequence
	high    uint8  // bits of changed beyond the low ones
	status  uint8  // place in statuses, and bits below
}

// The bits of row.status beside the place.
const (
	isAbsent    = 1 << 7
	isUnwatched = 1 << 6
	isTracking  = 1 << 5
	placeMask   = isTracking - 1
)

// noTime is the wall second of what has no time, as package poller writes it.
const noTime = math.MinInt64

func newTable() table { return table{absent: map[uint64]time.Time{}} }

// numberOf reads an id that is a decimal number in its shortest form.
func numberOf(id string) (uint64, bool) {
	if id == "" || len(id) > 19 || id[0] == '0' && len(id) > 1 {
		return 0, false
	}
	var n uint64
	for i := range len(id) {
		c := id[i] - '0'
		if c > 9 {
			return 0, false
		}
		n = 10*n + uint64(c)
	}
	return n, true
}

// secondOf reads a text in event.WallLayout as if it were UTC; 0 for "". It is
// false for what cannot be written back as it was.
func secondOf(text string) (uint32, bool) {
	if text == "" {
		return 0, true
	}
	second, ok := event.WallSecond(text)
	return uint32(second), ok && second <= math.MaxUint32
}

func textOf(second uint32) string {
	if second == 0 {
		return ""
	}
	return time.Unix(int64(second), 0).UTC().Format(event.WallLayout)
}

func packAt(at int64) (uint32, bool) {
	if at == noTime {
		return 0, true
	}
	return uint32(at), at > 0 && at <= math.MaxUint32
}

func unpackAt(at uint32) int64 {
	if at == 0 {
		return noTime
	}
	return int64(at)
}

// pack makes a row of an entry, if it fits.
func (t *table) pack(e entry) (r row, fits bool) {
	at, ok := packAt(e.at)
	if e.at == 0 && e.mark == 0 {
		ok = true // loaded, not seen yet
	}
	first, firstOK := secondOf(e.state.FirstDetect)
	changed := t.since(e.changed)
	place, placeOK := t.place(e.state.Status)
	if !ok || !firstOK || !placeOK || e.state.Sequence > math.MaxUint16 || e.state.LastRecord > math.MaxUint32 || len(e.state.Tracked) > 1 {
		return row{}, false
	}
	r = row{
		at: at, mark: e.mark, first: first, seq: uint16(e.state.Sequence), last: uint32(e.state.LastRecord), status: place,
	}
	r.setChanged(changed)
	if len(e.state.Tracked) == 1 {
		if r.tracked, ok = secondOf(e.state.Tracked[0]); !ok {
			return row{}, false
		}
		r.status |= isTracking
	}
	if !e.state.AbsentSince.IsZero() {
		r.status |= isAbsent
	}
	if e.state.Unwatched {
		r.status |= isUnwatched
	}
	return r, true
}

// changedBits is how many bits row.changed has, with row.high: some twelve
// days of microseconds.
const changedBits = 40

// since is a moment as rows hold it, at least 1; 0 for the zero time. A moment
// is known to the microsecond: answers that are closer than that are not in
// doubt, as no network is that fast.
func (t *table) since(moment time.Time) int64 {
	if moment.IsZero() {
		return 0
	}
	if t.epoch.IsZero() {
		t.epoch = moment
	}
	for t.micros(moment) >= 1<<changedBits {
		t.age()
	}
	return max(t.micros(moment), 1)
}

func (t *table) micros(moment time.Time) int64 { return moment.Sub(t.epoch).Microseconds() + 1 }

// age moves the epoch by half of what rows can hold: no request is under way
// for days.
func (t *table) age() {
	const by = 1 << (changedBits - 1)
	t.epoch = t.epoch.Add(by * time.Microsecond)
	t.each(func(_ uint64, r *row) { r.setChanged(max(r.since()-by, 0)) })
}

func (r *row) setChanged(micros int64) {
	r.changed, r.high = uint32(micros), uint8(micros>>32)
}

func (r *row) since() int64 { return int64(r.high)<<32 | int64(r.changed) }

// moment is what since was made of, to the microsecond.
func (t *table) moment(since int64) time.Time {
	if since == 0 {
		return time.Time{}
	}
	return t.epoch.Add(time.Duration(since-1) * time.Microsecond)
}

// place finds the place of a status, or gives it one.
func (t *table) place(s event.Status) (uint8, bool) {
	at := slices.Index(t.statuses, s)
	if at < 0 {
		if at = len(t.statuses); at > placeMask {
			return 0, false
		}
		t.statuses = append(t.statuses, s)
	}
	return uint8(at), true
}

func (t *table) unpack(key uint64, r *row) entry {
	e := entry{
		changed: t.moment(r.since()), at: unpackAt(r.at), mark: r.mark,
		state: event.State{
			Status: t.statuses[r.status&placeMask], Sequence: uint64(r.seq), FirstDetect: textOf(r.first),
			LastRecord: uint64(r.last), Unwatched: r.status&isUnwatched != 0,
		},
	}
	if r.status&isTracking != 0 {
		e.state.Tracked = []string{textOf(r.tracked)}
	}
	if r.status&isAbsent != 0 {
		e.state.AbsentSince = t.absent[key]
	}
	return e
}

// judge is Set.Judge for events of the table; false where it cannot tell.
func (t *table) judge(sight Sight) (verdict Verdict, moved, ok bool) {
	key, ok := numberOf(sight.ID)
	if !ok || len(sight.Tracked) > 1 {
		return 0, false, false
	}
	r := t.find(key)
	at, ok := packAt(sight.At)
	if r == nil || !ok {
		return 0, false, false
	}
	var tracked uint32
	if len(sight.Tracked) == 1 {
		if tracked, ok = secondOf(sight.Tracked[0]); !ok {
			return 0, false, false
		}
	}
	moved = r.mark == sight.Mark && r.at != at
	r.mark, r.at = sight.Mark, at
	switch {
	case r.since() > 0 && r.since() > t.micros(sight.SentAt):
		return Stale, moved, true
	case t.statuses[r.status&placeMask].Code != sight.Status:
		return Changed, moved, true
	case (r.status&isTracking != 0) != (len(sight.Tracked) == 1):
		return Baseline, moved, true
	case tracked == r.tracked || tracked == 0:
		return Known, moved, true
	case r.tracked == 0:
		return Baseline, moved, true
	case tracked > r.tracked:
		return Redetected, moved, true
	default:
		return Known, moved, true
	}
}

// leafOf is the leaf that a key stands in, or would.
func (t *table) leafOf(key uint64) int {
	return max(sort.Search(len(t.firsts), func(i int) bool { return t.firsts[i] > key })-1, 0)
}

// find returns the row of a key, nil when there is none. It is good until the
// next change of the table.
func (t *table) find(key uint64) *row {
	if len(t.leaves) == 0 {
		return nil
	}
	l := t.leaves[t.leafOf(key)]
	if i, ok := slices.BinarySearch(l.keys[:l.n], key); ok {
		return &l.rows[i]
	}
	return nil
}

// put replaces the row of a key, or adds it.
func (t *table) put(key uint64, r row, absentSince time.Time) {
	if absentSince.IsZero() {
		delete(t.absent, key)
	} else {
		t.absent[key] = absentSince
	}
	if have := t.find(key); have != nil {
		*have = r
		return
	}
	t.n++
	if len(t.leaves) == 0 {
		t.leaves, t.firsts = append(t.leaves, &leaf{}), append(t.firsts, key)
	}
	at := t.leafOf(key)
	l := t.leaves[at]
	i, _ := slices.BinarySearch(l.keys[:l.n], key)
	if l.n == leafRows {
		at, i = t.split(at, i)
		l = t.leaves[at]
	}
	copy(l.keys[i+1:l.n+1], l.keys[i:l.n])
	copy(l.rows[i+1:l.n+1], l.rows[i:l.n])
	l.keys[i], l.rows[i] = key, r
	l.n++
	t.firsts[at] = l.keys[0]
}

// split makes room in a full leaf for a key at place i, and returns where that
// place is now. Behind the last key nothing is moved: keys mostly grow.
func (t *table) split(at, i int) (int, int) {
	l, right := t.leaves[at], &leaf{}
	keep := leafRows / 2
	if i == leafRows {
		keep = leafRows
	}
	right.n = copy(right.keys[:], l.keys[keep:])
	copy(right.rows[:], l.rows[keep:])
	l.n = keep
	t.leaves = slices.Insert(t.leaves, at+1, right)
	t.firsts = slices.Insert(t.firsts, at+1, right.keys[0])
	if i >= keep && (i > keep || keep == leafRows) {
		return at + 1, i - keep
	}
	return at, i
}

func (t *table) remove(key uint64) {
	if t.find(key) == nil {
		return
	}
	at := t.leafOf(key)
	l := t.leaves[at]
	i, _ := slices.BinarySearch(l.keys[:l.n], key)
	copy(l.keys[i:], l.keys[i+1:l.n])
	copy(l.rows[i:], l.rows[i+1:l.n])
	l.n--
	t.n--
	delete(t.absent, key)
	if l.n == 0 {
		t.leaves, t.firsts = slices.Delete(t.leaves, at, at+1), slices.Delete(t.firsts, at, at+1)
		return
	}
	t.firsts[at] = l.keys[0]
}

func (t *table) each(f func(key uint64, r *row)) {
	for _, l := range t.leaves {
		for i := range l.n {
			f(l.keys[i], &l.rows[i])
		}
	}
}

func (t *table) count(mark uint32, first, last int64) (n int) {
	for _, l := range t.leaves {
		for i := range l.n {
			if r := &l.rows[i]; r.mark == mark {
				if at := unpackAt(r.at); at >= first && at <= last {
					n++
				}
			}
		}
	}
	return n
}
