package emulator

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A World is the list of events of one account, how it changes and how it
// changed. It is deterministic: the same seed and the same calls that change
// it give the same list; reading it does not change what happens next. Times
// are those that it is given. Its methods may be called by many goroutines.
type World struct {
	mu sync.Mutex // guards everything below

	quirks  Quirks
	changes *rand.Rand // chooses what changes and how
	ties    *rand.Rand // chooses the order inside a second; apart, so that reading changes nothing
	cast    *cast

	now   time.Time // of the last change
	tick  uint64    // number of changes so far
	old   uint64    // changes whose times were forgotten
	times []int64   // Unix nanoseconds of change old+i+1

	rows    []*row // all that ever were, but for those that were forgotten
	serials int    // rows that ever were
	visible []*row // in no order
	byID    map[string]*row
	indexes [2]index

	lastID, lastBigID int64
	hashes            maphash.Seed
}

// A row is one event and its past.
type row struct {
	serial  int // order of insertion
	place   int // its index in World.visible; -1 when it was deleted
	id      string
	keys    [2]int64 // by start and by detection
	start   string   // as shown; Null when null
	host    *host
	threat  *threat
	pid     int64
	path    string
	command string
	md5     string
	manual  bool // found by a scan, not at once
	offline bool
	form    form
	members map[string]json.RawMessage // of an event that was inserted as JSON
	fixed   bool                       // was inserted as JSON that is no object: nothing of it can change

	now  version
	past []version
	json []byte // what now is shown as; nil until it was shown
}

// A version is an event as it was from one change to another.
type version struct {
	from, to uint64 // visible at ticks from <= t < to
	status   string
	detect   string // as shown; Null when null
	hash     uint64 // of what it was shown as; 0 when nobody saw it
}

// still is the end of a version that is visible.
const still = math.MaxUint64

// A form is how an event departs from what is documented.
type form uint8

const (
	plain   form = iota // all documented fields, none other
	nulls               // null wherever the API may send it
	extra               // fields and values that nobody documented
	escaped             // all but ASCII as \u sequences
)

// How an event bears no time.
const (
	Null  = "null"  // the time is null
	Blank = "blank" // the time is the empty text
)

// noTime sorts events without a time before all others, as a database does.
const noTime = math.MinInt64

// zone is that of the API's wall times. It has had no daylight saving time
// since 1991.
func zone() *time.Location { return time.FixedZone("CST", 8*60*60) }

// NewWorld makes a list of that many events, the newest of them shortly before
// now. A seed of 0 counts as 1.
func NewWorld(seed uint64, events int, now time.Time) *World {
	seed = max(seed, 1)
	w := &World{
		changes: rand.New(rand.NewPCG(seed, 1)),
		ties:    rand.New(rand.NewPCG(seed, 2)),
		now:     now,
		byID:    make(map[string]*row, events),
		indexes: [2]index{{by: byStart}, {by: byDetect}},
		lastID:  202443000000000, // the vendor's ids begin with year and week
		// The first integer that a float64 cannot hold follows.
		lastBigID: 1 << 53,
		hashes:    maphash.MakeSeed(),
	}
	w.cast = newCast(w.changes, events)
	w.add(w.history(events)...)
	return w
}

// An Event is what a caller wants an event to be. What is left at its zero
// value, but for Status, is chosen by the seed.
type Event struct {
	ID        int64  `json:"id"`
	Status    int    `json:"status"` // HandleStatus as the record numbers it; 0 is pending
	Start     string `json:"start"`  // API wall time, or any other text, Null or Blank; default: the present
	Detect    string `json:"detect"` // default: the present
	VirusName string `json:"virus_name"`
	ProcessID int64  `json:"process_id"`
	FilePath  string `json:"file_path"`
	CmdLine   string `json:"cmd_line"`
}

// SetQuirks replaces the ways in which the list is not honest.
func (w *World) SetQuirks(q Quirks) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.quirks = q
}

// Quirks returns the ways in which the list is not honest.
func (w *World) Quirks() Quirks {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.quirks
}

// Advance moves the World's present, which changes bear and new events are
// dated with. It never goes back.
func (w *World) Advance(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.advance(now)
}

func (w *World) advance(now time.Time) {
	if now.After(w.now) {
		w.now = now
	}
}

// Len is the number of visible events.
func (w *World) Len() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.visible)
}

// Insert adds events in one change and returns their ids. It adds none when
// one bears an id that is or was in use: the API never gives an id twice.
func (w *World) Insert(events ...Event) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rows := make([]*row, len(events))
	for i, e := range events {
		rows[i] = w.invent()
		w.apply(rows[i], e)
	}
	return w.addNew(rows)
}

// InsertJSON adds list elements as they stand, in one change, and returns
// their ids: "sha256:" and the hash of the element where it has none. It
// serves for what Event cannot express: records of the real API, and ones
// that are broken. Only elements that are objects can be changed later.
func (w *World) InsertJSON(elements ...[]byte) ([]string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	rows := make([]*row, len(elements))
	for i, element := range elements {
		var err error
		if rows[i], err = w.parse(element); err != nil {
			return nil, fmt.Errorf("element %d: %w", i, err)
		}
	}
	return w.addNew(rows)
}

// SetStatus gives events a status in one change and returns how many changed.
// Unknown ids are left out, as are events that have it.
func (w *World) SetStatus(status int, ids ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.setStatus(strconv.Itoa(status), w.find(ids))
}

// Delete removes events in one change and returns how many there were.
func (w *World) Delete(ids ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.remove(w.find(ids))
}

// Redetect moves the detection time of events to the present, in one change,
// and returns how many moved.
func (w *World) Redetect(ids ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.redetect(w.find(ids), w.wall(0))
}

// SetDetect moves the detection time of events to any time or text, in one
// change, and returns how many moved.
func (w *World) SetDetect(detect string, ids ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.redetect(w.find(ids), detect)
}

// Flap turns the online state of the events' hosts as these events show it, in
// one change, and returns how many turned. Nobody should call that a change.
func (w *World) Flap(ids ...string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.flap(w.find(ids))
}

// IDs returns the ids of the visible events, in no order.
func (w *World) IDs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	ids := make([]string, len(w.visible))
	for i, r := range w.visible {
		ids[i] = r.id
	}
	return ids
}

// wall is the present, moved by d, as the API writes it.
func (w *World) wall(d time.Duration) string {
	return w.now.Add(d).In(zone()).Format(event.WallLayout)
}

// find returns the visible events of ids, each once.
func (w *World) find(ids []string) []*row {
	rows := make([]*row, 0, len(ids))
	seen := make(map[string]bool, len(ids))
	for _, id := range ids {
		if r := w.byID[id]; r != nil && r.place >= 0 && !seen[id] {
			rows, seen[id] = append(rows, r), true
		}
	}
	return rows
}

// changed begins a change: the next tick, at the present time.
func (w *World) changed() {
	w.tick++
	w.times = append(w.times, w.now.UnixNano())
}

func (w *World) addNew(rows []*row) ([]string, error) {
	ids := make([]string, len(rows))
	seen := make(map[string]bool, len(rows))
	for i, r := range rows {
		ids[i] = r.id
		if w.byID[r.id] != nil || seen[r.id] {
			return nil, fmt.Errorf("id %s is or was in use", r.id)
		}
		seen[r.id] = true
	}
	if len(rows) > 0 {
		w.changed()
		w.add(rows...)
	}
	return ids, nil
}

// add makes rows visible from the present tick on.
func (w *World) add(rows ...*row) {
	for _, r := range rows {
		r.serial, r.place = w.serials, len(w.visible)
		w.serials++
		r.keys = [2]int64{keyOf(r.start), keyOf(r.now.detect)}
		r.now.from, r.now.to = w.tick, still
		w.rows = append(w.rows, r)
		w.visible = append(w.visible, r)
		w.byID[r.id] = r
	}
	w.indexes[byStart].insert(rows...)
	w.indexes[byDetect].insert(rows...)
}

// supersede ends the present version of r and begins another, in a change that
// was begun.
func (w *World) supersede(r *row) {
	old := r.now
	old.to = w.tick
	r.past = append(r.past, old)
	r.now.from, r.now.hash = w.tick, 0
	r.json = nil
}

func (w *World) setStatus(status string, rows []*row) int {
	rows = keep(rows, func(r *row) bool { return r.now.status != status && r.changeable() })
	if len(rows) == 0 {
		return 0
	}
	w.changed()
	for _, r := range rows {
		w.supersede(r)
		r.now.status = status
		r.set("HandleStatus", []byte(status))
	}
	return len(rows)
}

func (w *World) redetect(rows []*row, detect string) int {
	rows = keep(rows, func(r *row) bool { return r.now.detect != detect && r.changeable() })
	if len(rows) == 0 {
		return 0
	}
	w.changed()
	w.indexes[byDetect].remove(rows...)
	for _, r := range rows {
		w.supersede(r)
		r.now.detect = detect
		r.keys[byDetect] = keyOf(detect)
		r.set("DetectTime", appendTime(nil, detect))
	}
	w.indexes[byDetect].insert(rows...)
	return len(rows)
}

func (w *World) flap(rows []*row) int {
	rows = keep(rows, (*row).changeable)
	if len(rows) == 0 {
		return 0
	}
	w.changed()
	for _, r := range rows {
		w.supersede(r)
		r.offline = !r.offline
		r.set("OnlineStatus", []byte{digit(!r.offline)})
	}
	return len(rows)
}

func (w *World) remove(rows []*row) int {
	if len(rows) == 0 {
		return 0
	}
	w.changed()
	w.indexes[byStart].remove(rows...)
	w.indexes[byDetect].remove(rows...)
	for _, r := range rows {
		last := w.visible[len(w.visible)-1]
		w.visible[r.place], last.place = last, r.place
		w.visible = w.visible[:len(w.visible)-1]
		r.now.to, r.place, r.json = w.tick, -1, nil
	}
	return len(rows)
}

func keep(rows []*row, wanted func(*row) bool) []*row {
	var kept []*row
	for _, r := range rows {
		if wanted(r) {
			kept = append(kept, r)
		}
	}
	return kept
}

func (r *row) changeable() bool { return !r.fixed }

// set changes a member of an event that was inserted as JSON.
func (r *row) set(name string, value []byte) {
	if r.members != nil {
		r.members[name] = value
	}
}

// keyOf is a time as the list is sorted by it: seconds of the wall time as if
// it were UTC. Text that is no time sorts with the events without one.
func keyOf(text string) int64 {
	if len(text) == len(event.WallLayout) {
		if t, err := time.Parse(event.WallLayout, text); err == nil {
			return t.Unix()
		}
	}
	if t, ok := event.ParseTime(text, zone()); ok {
		_, offset := t.In(zone()).Zone()
		return t.Unix() + int64(offset)
	}
	return noTime
}

// parse reads an element of the list that was given as JSON.
func (w *World) parse(element []byte) (*row, error) {
	if !json.Valid(element) {
		return nil, errors.New("not JSON")
	}
	sum := sha256.Sum256(element)
	r := &row{
		id: "sha256:" + hex.EncodeToString(sum[:]), start: Null, now: version{status: "null", detect: Null},
		host: &host{}, threat: &threat{}, json: bytes.Clone(element),
	}
	if bytes.TrimSpace(element)[0] != '{' {
		r.fixed = true
		return r, nil
	}
	if err := json.Unmarshal(element, &r.members); err != nil {
		return nil, err
	}
	text := func(name string) string {
		var s string
		_ = json.Unmarshal(r.members[name], &s) // what is no text has none
		return strings.TrimSpace(s)
	}
	scalar := func(name string) string {
		var n json.Number
		if json.Unmarshal(r.members[name], &n) == nil && n != "" {
			return n.String()
		}
		return text(name)
	}
	shown := func(name string) string {
		var s *string
		if json.Unmarshal(r.members[name], &s) != nil || s == nil {
			return Null
		}
		if *s == "" {
			return Blank
		}
		return *s
	}
	if id := scalar("EventId"); id != "" {
		r.id = id
	}
	if status := scalar("HandleStatus"); status != "" {
		r.now.status = status
		r.set("HandleStatus", []byte(status))
	}
	r.start, r.now.detect = shown("StartTime"), shown("DetectTime")
	r.offline = scalar("OnlineStatus") == "0"
	r.pid, _ = strconv.ParseInt(scalar("ProcessId"), 10, 64) // 0 where there is none
	r.path = text("FilePath")
	r.threat = &threat{name: text("VirusName"), folded: strings.ToLower(text("VirusName"))}
	r.host = newHost(text("HostName"), text("HostIp"), text("WanIp"), text("Uuid"), text("QUUID"))
	return r, nil
}
