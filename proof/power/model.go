package power

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/cwprelay/cwprelay/journal"
)

// Read reads all of a journal that the workload knows, and fails where a record
// is not the one that it says it is.
func Read(ctx context.Context, f *journal.File) (*Content, error) {
	c := &Content{States: map[string]uint64{}, Cursor: map[string]uint64{}, Dead: map[string]map[uint64]int{}}
	recs, err := f.Read(ctx, 0, 1<<30, 0)
	if err != nil {
		return nil, err
	}
	for i, r := range recs {
		if i == 0 {
			c.First = r.Seq
		}
		if r.Seq != c.First+uint64(i) {
			return nil, fmt.Errorf("record %d is missing: the one after %d is %d", c.First+uint64(i), recs[i-1].Seq, r.Seq)
		}
		var body struct {
			EventId  string //nolint:revive // the vendor's name
			Sequence uint64
			Body     string
		}
		if err := json.Unmarshal(r.Raw, &body); err != nil {
			return nil, fmt.Errorf("record %d: %w", r.Seq, err)
		}
		ch := Change{ID: r.Key.ID, Sequence: r.Sequence, Size: len(body.Body)}
		if !bytes.Equal(ch.record().Raw, r.Raw) {
			return nil, fmt.Errorf("record %d says %.80s, which nobody wrote", r.Seq, r.Raw)
		}
		c.Log = append(c.Log, ch)
	}
	source, err := f.Source(ctx, "prod", kind)
	if err != nil {
		return nil, err
	}
	c.Batch = source.Requests
	states, err := f.States(ctx, account, kind, "", 1<<30)
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		c.States[s.Key.ID] = s.State.Sequence
	}
	for _, rule := range Sinks() {
		cursor, err := f.Cursor(ctx, rule.Name)
		if err != nil {
			return nil, err
		}
		letters, err := f.DeadLetters(ctx, rule.Name, 0, 1<<30)
		if err != nil {
			return nil, err
		}
		c.Cursor[rule.Name], c.Dead[rule.Name] = cursor.Seq, map[uint64]int{}
		for _, l := range letters {
			c.Dead[rule.Name][l.Record.Seq] = l.Attempts
		}
	}
	return c, nil
}

// A Model is what the lines so far say that a journal must hold, and what it
// may hold.
type Model struct {
	must    Content
	pending map[string]Op // by actor: begun, and no more is known
	damaged bool          // old versions of rows may be found, as from a file that was salvaged
	tight   bool          // what every sink has had may be gone
}

// NewModel is the model of a journal that was never opened.
func NewModel(tight bool) *Model {
	m := &Model{pending: map[string]Op{}, tight: tight}
	m.must = Content{First: 1, States: map[string]uint64{}, Cursor: map[string]uint64{}, Dead: map[string]map[uint64]int{}}
	for _, s := range Sinks() {
		m.must.Dead[s.Name] = map[uint64]int{}
	}
	return m
}

// Apply takes a line in. It fails where the line shows that something is lost.
func (m *Model) Apply(l Line) error {
	switch l.Step {
	case Begin:
		m.pending[l.Actor] = l.Op
	case Undone:
		delete(m.pending, l.Actor)
	case Done:
		delete(m.pending, l.Actor)
		m.must = m.after(l.Actor, l.Op)
	case Damage:
		m.damaged = true
	case Found:
		if err := m.Compare(l.Op.Found); err != nil {
			return fmt.Errorf("carried over: %w", err)
		}
		m.must, m.damaged = *l.Op.Found, false
	case Stopped:
	}
	return nil
}

// after is what must be found after an operation of an actor.
func (m *Model) after(actor string, op Op) Content {
	c := m.must
	if actor != "source" {
		c.Cursor, c.Dead = maps.Clone(c.Cursor), maps.Clone(c.Dead)
		c.Cursor[actor] = max(c.Cursor[actor], op.Cursor)
		dead := maps.Clone(c.Dead[actor])
		maps.Copy(dead, op.Dead)
		for _, seq := range op.Revived {
			delete(dead, seq)
		}
		c.Dead[actor] = dead
		return c
	}
	c.Batch = op.Batch
	c.Log, c.States = slices.Clip(c.Log), maps.Clone(c.States)
	for _, ch := range op.Changes {
		switch {
		case ch.Forget:
			delete(c.States, ch.ID)
			continue
		case !ch.Silent:
			c.Log = append(c.Log, ch)
		}
		c.States[ch.ID] = ch.Sequence
	}
	return c
}

// Compare compares what was found with what must and may be there.
func (m *Model) Compare(found *Content) error {
	var errs []error
	for actor := range found.Cursor {
		err := m.compareSink(actor, m.must, found)
		if op, ok := m.pending[actor]; ok && err != nil {
			err = m.compareSink(actor, m.after(actor, op), found)
		}
		errs = append(errs, err)
	}
	err := m.compareSource(m.must, found)
	if op, ok := m.pending["source"]; ok && err != nil {
		if with := m.compareSource(m.after("source", op), found); with == nil {
			err = nil
		} else {
			err = fmt.Errorf("neither before the batch under way: %w; nor after it: %w", err, with)
		}
	}
	return errors.Join(append(errs, err)...)
}

func (m *Model) compareSink(sink string, want Content, found *Content) error {
	// Where only the newer of the two head pages was spoiled, the tree of the
	// commit before it is what is left: what was sent by then is sent again.
	if have := found.Cursor[sink]; have > want.Cursor[sink] || have < want.Cursor[sink] && !m.damaged {
		return fmt.Errorf("the cursor of sink %s is %d, want %d", sink, found.Cursor[sink], want.Cursor[sink])
	}
	for seq, attempts := range want.Dead[sink] {
		if have, ok := found.Dead[sink][seq]; !ok || have != attempts && !m.damaged {
			return fmt.Errorf("dead letter %d of sink %s is missing or another", seq, sink)
		}
	}
	if len(found.Dead[sink]) != len(want.Dead[sink]) && !m.damaged {
		return fmt.Errorf("sink %s has %d dead letters, want %d", sink, len(found.Dead[sink]), len(want.Dead[sink]))
	}
	return nil
}

func (m *Model) compareSource(want Content, found *Content) error {
	first := max(found.First, 1)
	if len(found.Log) == 0 && len(want.Log) > 0 {
		first = want.First + uint64(len(want.Log))
	}
	if first != want.First && !m.tight {
		return fmt.Errorf("the oldest record is %d, want %d", first, want.First)
	}
	if low := slices.Min(slices.Collect(maps.Values(found.Cursor))); first > low+1 && len(want.Log) > 0 {
		return fmt.Errorf("the oldest record is %d, and a sink has had only those up to %d", first, low)
	}
	expected := want.Log[min(uint64(len(want.Log)), first-want.First):]
	for i := range max(len(expected), len(found.Log)) {
		switch {
		case i >= len(found.Log):
			return fmt.Errorf("record %d is lost: %+v", first+uint64(i), expected[i])
		case i >= len(expected):
			return fmt.Errorf("record %d was never acknowledged, nor under way: %+v", first+uint64(i), found.Log[i])
		case found.Log[i] != expected[i]:
			return fmt.Errorf("record %d is %+v, want %+v", first+uint64(i), found.Log[i], expected[i])
		}
	}
	if found.Batch != want.Batch && !m.damaged {
		return fmt.Errorf("the source is that of append %d, want %d", found.Batch, want.Batch)
	}
	for id, seq := range want.States {
		if have, ok := found.States[id]; !ok || have > seq || have < seq && !m.damaged {
			return fmt.Errorf("the state of event %s has sequence %d, want %d", id, found.States[id], seq)
		}
	}
	if len(found.States) != len(want.States) && !m.damaged {
		return fmt.Errorf("%d states, want %d", len(found.States), len(want.States))
	}
	return nil
}
