package delivery

import (
	"cmp"
	"slices"

	"github.com/cwprelay/cwprelay/journal"
)

// A ledger knows which records are still owed to the sink and derives the
// cursor from that: the cursor never passes a record that is owed.
type ledger struct {
	done uint64 // every record up to here is settled
	read uint64 // every record up to here was read
	// spans are the owed records, one each, and between them runs of settled
	// ones; ascending, disjoint, all above done.
	spans []span
}

type span struct {
	first, last uint64
	owed        bool
}

// newLedger goes on from a stored cursor.
func newLedger(c journal.Cursor) ledger {
	l := ledger{done: c.Seq, read: c.Seq}
	for _, r := range c.Ahead {
		l.spans = append(l.spans, span{first: r.First, last: r.Last})
	}
	l.compact()
	return l
}

// add notes that every record up to read was read and that items of them are
// owed; the others were refused by the sink's condition or settled before.
func (l *ledger) add(items []item, read uint64) {
	for _, it := range items {
		l.spans = append(l.spans, span{first: it.seq, last: it.seq, owed: true})
	}
	byFirst := func(a, b span) int { return cmp.Compare(a.first, b.first) }
	if !slices.IsSortedFunc(l.spans, byFirst) { // runs settled before a restart lie ahead
		slices.SortFunc(l.spans, byFirst)
	}
	l.read = max(l.read, read)
	l.compact()
}

// settle notes that items are owed no longer.
func (l *ledger) settle(items []item) {
	for _, it := range items {
		i, ok := slices.BinarySearchFunc(l.spans, it.seq, func(s span, seq uint64) int { return cmp.Compare(s.first, seq) })
		if ok {
			l.spans[i].owed = false
		}
	}
	l.compact()
}

// compact joins neighbouring settled spans and moves done over those at the
// front. What lies between two spans was settled or refused, provided that it
// was read.
func (l *ledger) compact() {
	kept := l.spans[:0]
	for _, s := range l.spans {
		seen := s.first <= l.read+1
		switch n := len(kept); {
		case !s.owed && seen && n == 0:
			l.done = max(l.done, s.last)
			l.read = max(l.read, s.last)
		case !s.owed && seen && !kept[n-1].owed:
			kept[n-1].last = s.last
			l.read = max(l.read, s.last)
		default:
			kept = append(kept, s)
		}
	}
	l.spans = kept
	switch {
	case len(kept) == 0:
		l.done = max(l.done, l.read)
	case kept[0].owed:
		l.done = max(l.done, kept[0].first-1)
	default: // settled before a restart, and what lies before it is not read yet
		l.done = max(l.done, l.read)
	}
}

// cursor is what may be stored now.
func (l *ledger) cursor() journal.Cursor {
	c := journal.Cursor{Seq: l.done}
	for _, s := range l.spans {
		if !s.owed {
			c.Ahead = append(c.Ahead, journal.Range{First: s.first, Last: s.last})
		}
	}
	return c
}

// settledEnd is the last record that is settled; before it some may be owed.
func (l *ledger) settledEnd() uint64 {
	for _, s := range slices.Backward(l.spans) {
		if !s.owed {
			return s.last
		}
	}
	return l.done
}

// owes reports whether a record is owed, or was not read yet and may be: what
// lies behind was settled before a restart only where a span says so.
func (l *ledger) owes(seq uint64) bool {
	i, ok := slices.BinarySearchFunc(l.spans, seq, func(s span, seq uint64) int { return cmp.Compare(s.first, seq) })
	if ok {
		return l.spans[i].owed
	}
	return seq > l.read && (i == 0 || l.spans[i-1].last < seq)
}

// owed is how many records are owed.
func (l *ledger) owed() (n int) {
	for _, s := range l.spans {
		if s.owed {
			n++
		}
	}
	return n
}
