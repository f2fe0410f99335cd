package whole_test

import (
	"fmt"
	"slices"
	"time"

	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// A model is what must be true, in plain maps: what was taken in, and what each
// destination is owed.
type model struct {
	log    []*event.Record        // as appended: all there ever were
	states map[string]event.State // by id
	sinks  map[string]*owed
	found  []string // what is wrong
}

// owed is what the model knows of one sink and of its destination.
type owed struct {
	bad    func(id string) bool // events that the destination refuses for good
	order  bool                 // the sink promises order, and nothing allowed it to break it
	cursor journal.Cursor       // as stored
	dead   map[uint64]bool      // by sequence
	replay *journal.Replay      // that runs
	again  bool                 // one runs or ran in this life: what it had begun may end after it

	arrivals []arrival
	has      map[uint64]bool // records that arrived
	fresh    bool            // it was never seen by a program, or forgotten
	begin    uint64          // it came to a journal that began behind this one
	owes     map[uint64]bool // that arrived and were not settled when this life began
	lost     bool            // answers were lost in this life
	newest   map[string]uint64
}

// An arrival is a record that a destination has taken.
type arrival struct {
	seq      uint64
	life     int
	at       time.Time
	replayed bool
}

func newModel(names ...string) *model {
	m := &model{states: map[string]event.State{}, sinks: map[string]*owed{}}
	for _, name := range names {
		m.sinks[name] = &owed{}
		m.forgotten(name)
	}
	return m
}

// forgotten is told that nothing is kept of a sink any more.
func (m *model) forgotten(sink string) {
	o := m.sinks[sink]
	m.sinks[sink] = &owed{
		fresh: true, bad: o.bad, order: o.order,
		dead: map[uint64]bool{}, has: map[uint64]bool{}, owes: map[uint64]bool{}, newest: map[string]uint64{},
	}
}

func (m *model) wrong(format string, args ...any) {
	if len(m.found) < 10 {
		m.found = append(m.found, fmt.Sprintf(format, args...))
	}
}

// appended is told of a batch that was stored.
func (m *model) appended(batch journal.Batch) {
	for _, c := range batch.Changes {
		id := c.Key.ID
		before, known := m.states[id]
		if before.Sequence != c.Expect {
			m.wrong("event %s: stored as if its sequence were %d, it is %d (known: %t)", id, c.Expect, before.Sequence, known)
		}
		if c.Forget {
			delete(m.states, id)
			continue
		}
		if c.Record == nil {
			if c.State.Sequence != before.Sequence {
				m.wrong("event %s: change %d without a record", id, c.State.Sequence)
			}
			m.states[id] = c.State
			continue
		}
		if c.Record.Sequence != before.Sequence+1 || c.State.Sequence != c.Record.Sequence {
			m.wrong("event %s: record of change %d, state of change %d, after change %d", id, c.Record.Sequence, c.State.Sequence, before.Sequence)
		}
		if last := m.last(); c.Record.Seq != last+1 {
			m.wrong("record %d follows record %d", c.Record.Seq, last)
		}
		m.states[id] = c.State
		m.log = append(m.log, c.Record)
	}
}

func (m *model) last() uint64 { return uint64(len(m.log)) }

// record is the record of a sequence, nil if there is none.
func (m *model) record(seq uint64) *event.Record {
	if seq == 0 || seq > m.last() {
		return nil
	}
	return m.log[seq-1]
}

// arrived is told that a destination has taken a record.
func (m *model) arrived(sink string, a arrival, rec *event.Record) {
	o := m.sinks[sink]
	own := m.record(a.seq)
	switch {
	case own == nil:
		m.wrong("%s got record %d, which was never stored", sink, a.seq)
		return
	case own.UID != rec.UID || own.Sequence != rec.Sequence || string(own.Raw) != string(rec.Raw):
		m.wrong("%s got record %d as %s change %d, stored was %s change %d", sink, a.seq, rec.UID, rec.Sequence, own.UID, own.Sequence)
	}
	if a.replayed && !o.again {
		m.wrong("%s got record %d marked as sent again, and no replay ran", sink, a.seq)
	}
	if !a.replayed && o.has[a.seq] && !o.lost {
		first := slices.IndexFunc(o.arrivals, func(b arrival) bool { return b.seq == a.seq && b.life == a.life && !b.replayed })
		if first >= 0 {
			m.wrong("%s got record %d twice in one life, and no answer was lost", sink, a.seq)
		} else if !o.owes[a.seq] {
			m.wrong("%s got record %d again, which was settled before this life", sink, a.seq)
		}
	}
	if id := rec.Key.ID; !a.replayed && !o.has[a.seq] {
		if o.order && o.newest[id] > a.seq {
			m.wrong("%s got record %d of event %s after record %d", sink, a.seq, id, o.newest[id])
		}
		o.newest[id] = max(o.newest[id], a.seq)
	}
	o.has[a.seq] = true
	o.arrivals = append(o.arrivals, a)
}

// settled is told of a settlement that was stored. gaps are what the journal
// says that the sink will not get.
func (m *model) settled(s journal.Settlement, gaps func() []journal.Gap) {
	o := m.sinks[s.Sink]
	for _, d := range s.Dead {
		o.dead[d.Record.Seq] = true
	}
	for _, seq := range s.Revived {
		if !o.has[seq] {
			m.wrong("dead letter %d of %s is removed, and the destination never had it", seq, s.Sink)
		}
		delete(o.dead, seq)
	}
	passed := func(first, last uint64) {
		for seq := first; seq <= min(last, m.last()); seq++ {
			if !o.has[seq] && !o.dead[seq] && seq > o.begin && !inGap(gaps(), s.Sink, seq) {
				m.wrong("the cursor of %s passes record %d, which is neither there nor buried: %+v", s.Sink, seq, s.Cursor)
			}
		}
		if last > m.last() {
			m.wrong("the cursor of %s is at %d, and the last record is %d", s.Sink, last, m.last())
		}
	}
	passed(o.cursor.Seq+1, s.Cursor.Seq)
	for _, r := range s.Cursor.Ahead {
		passed(r.First, r.Last)
	}
	if s.Cursor.Seq >= o.cursor.Seq {
		o.cursor = s.Cursor
	}
	if r := s.Replay; r != nil {
		before := o.replay
		o.replay, o.again = r, true
		if r.Ended {
			o.replay = nil
			if before != nil && before.After >= o.cursor.Seq {
				m.replayed(s.Sink, *before, gaps())
			}
		}
	}
}

// replayed checks a replay that has come to its end.
func (m *model) replayed(sink string, r journal.Replay, gaps []journal.Gap) {
	o := m.sinks[sink]
	since := map[uint64]bool{}
	for _, a := range o.arrivals {
		if !a.at.Before(r.Begun) {
			since[a.seq] = true
		}
	}
	for seq := max(r.From, 1); seq <= r.After; seq++ {
		// What it is still owed is sent anyway.
		if !since[seq] && o.settledFor(seq) && !o.dead[seq] && !inGap(gaps, sink, seq) {
			m.wrong("the replay of %s from %d has ended at %d without record %d", sink, r.From, r.After, seq)
		}
	}
}

func inGap(gaps []journal.Gap, sink string, seq uint64) bool {
	return slices.ContainsFunc(gaps, func(g journal.Gap) bool {
		return g.Sink == sink && g.Range.First <= seq && seq <= g.Range.Last
	})
}

// settledFor reports whether a sink is not owed a record any more.
func (o *owed) settledFor(seq uint64) bool {
	return seq <= o.cursor.Seq || o.dead[seq] ||
		slices.ContainsFunc(o.cursor.Ahead, func(r journal.Range) bool { return r.First <= seq && seq <= r.Last })
}

// begun is told what a journal holds when a life begins.
func (m *model) begun(when string, s stored) {
	for _, o := range m.sinks {
		if o.fresh { // what is gone was not for it
			o.fresh, o.begin = false, m.last()-uint64(len(s.records))
		}
	}
	m.compare(when, s)
	for name, c := range s.cursors {
		m.sinks[name].cursor = c // a full journal may have moved it on
	}
	m.newLife()
}

// newLife notes for each sink what arrived and was not settled: only that may
// come again.
func (m *model) newLife() {
	for _, o := range m.sinks {
		o.owes, o.lost, o.again = map[uint64]bool{}, false, o.replay != nil
		for seq := range o.has {
			if !o.settledFor(seq) || o.dead[seq] {
				o.owes[seq] = true
			}
		}
	}
}

// A stored is what a journal holds.
type stored struct {
	records []*event.Record
	states  map[string]event.State
	cursors map[string]journal.Cursor
	dead    map[string][]journal.DeadLetter
	replays map[string]*journal.Replay
	status  journal.Status
}

// compare checks what a journal holds.
func (m *model) compare(when string, s stored) {
	next := m.last() + 1
	if len(s.records) > 0 {
		next = s.records[0].Seq
	}
	for seq := uint64(1); seq < next; seq++ { // trimmed
		for name, o := range m.sinks {
			if !o.fresh && !o.settledFor(seq) && seq > o.begin && !inGap(s.status.Gaps, name, seq) {
				m.wrong("%s: record %d is gone, and %s has not had it", when, seq, name)
			}
		}
	}
	for _, r := range s.records {
		if own := m.record(r.Seq); r.Seq != next || own == nil || own.UID != r.UID || string(own.Raw) != string(r.Raw) {
			m.wrong("%s: the journal has record %d, %s change %d, where %d was to come", when, r.Seq, r.Key.ID, r.Sequence, next)
			return
		}
		next++
	}
	if next != m.last()+1 {
		m.wrong("%s: the journal ends before record %d, there are %d", when, next, m.last())
	}
	for id, st := range m.states {
		if got, ok := s.states[id]; !ok || got.Sequence != st.Sequence || got.Status.Code != st.Status.Code {
			m.wrong("%s: event %s is stored as %+v (%t), was %+v", when, id, got, ok, st)
		}
	}
	if len(s.states) != len(m.states) {
		m.wrong("%s: %d events are stored, want %d", when, len(s.states), len(m.states))
	}
	for name, o := range m.sinks {
		if got := s.cursors[name]; got.Seq < o.cursor.Seq {
			m.wrong("%s: the cursor of %s is at %d, was at %d", when, name, got.Seq, o.cursor.Seq)
		}
		if len(s.dead[name]) != len(o.dead) {
			m.wrong("%s: %s has %d dead letters, want %d", when, name, len(s.dead[name]), len(o.dead))
		}
		if (s.replays[name] != nil) != (o.replay != nil) {
			m.wrong("%s: the replay of %s is %+v, was %+v", when, name, s.replays[name], o.replay)
		}
	}
	if s.status.Damaged > 0 || len(s.status.SetAside) > 0 {
		m.wrong("%s: %d records damaged, %d files set aside", when, s.status.Damaged, len(s.status.SetAside))
	}
}

// over checks what holds in the end, when every destination works and had time.
func (m *model) over(s stored) {
	for name, o := range m.sinks {
		for _, r := range m.log {
			switch dead := o.dead[r.Seq]; {
			case o.has[r.Seq], r.Seq <= o.begin, inGap(s.status.Gaps, name, r.Seq):
			case !dead:
				m.wrong("record %d of event %s is lost: %s neither has it nor buried it", r.Seq, r.Key.ID, name)
			case !o.bad(r.Key.ID):
				m.wrong("record %d of event %s is buried at %s, which would take it", r.Seq, r.Key.ID, name)
			}
		}
		if c := s.cursors[name]; c.Seq != m.last() || len(c.Ahead) > 0 {
			m.wrong("the cursor of %s ends at %+v, the last record is %d", name, c, m.last())
		}
	}
}

// true checks that what was taken in was true, in that order, and that in the
// end it is what the list shows.
func (m *model) true(w *emulator.World) {
	next := map[string]int{}
	for _, r := range m.log {
		id := r.Key.ID
		versions := w.History(id)
		i := next[id]
		for i < len(versions) && versions[i].Status != r.Status.Code {
			i++
		}
		if i == len(versions) || !w.EverShown(id, r.Raw) {
			m.wrong("record %d of event %s, change %d, says %s, which was not true then", r.Seq, id, r.Sequence, r.Status.Code)
			continue
		}
		next[id] = i + 1
	}
	for _, p := range w.Visible(w.Tick()) {
		if st, ok := m.states[p.ID]; !ok || st.Status.Code != p.Status {
			m.wrong("event %s is in status %s; stored is %q (%t)", p.ID, p.Status, st.Status.Code, ok)
		}
	}
}
