package journal

import (
	"encoding/binary"
	"sync"

	"github.com/cwprelay/cwprelay/event"
)

// recentBytes bounds what recent keeps alive: a few batches of each sink that
// is up to date.
const recentBytes = 8 << 20

// recent holds the records that were read last, so that sinks which read the
// same records at about the same time share them: each is unpacked once, and
// what is derived of it, above all the reading of the vendor's JSON, is made
// once for all. Those that came first leave first.
//
// A record is known by its sequence and the checksum of its row, so one that a
// failed commit left behind is never given for another.
type recent struct {
	mu    sync.Mutex     // guards the rest
	slots []recentRecord // a record stands at its number modulo recentSlots
	order []uint64       // numbers from the oldest; a slice of a buffer that append renews
	bytes int
}

// recentSlots bounds how many records are kept, whatever their size.
const recentSlots = 4096

type recentRecord struct {
	rec  *event.Record // nil: none
	sum  uint32
	size int
}

// rowSum is the checksum that a row bears.
func rowSum(row []byte) uint32 {
	if len(row) < rowHead {
		return 0
	}
	return binary.BigEndian.Uint32(row[1:])
}

// open unpacks the records of a row that have a number from first on, or gives
// those that another reader made of it.
func (m *recent) open(key, row []byte, first uint64) ([]*event.Record, error) {
	last, sum := lastSeq(key), rowSum(row)
	first = max(first, firstSeq(key, row))
	if records := m.findAll(first, last, sum); records != nil {
		return records, nil
	}
	records, err := openRow(key, row)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for i, rec := range records {
		records[i] = m.add(rec, sum)
	}
	return records[len(records)-int(last+1-first):], nil
}

// findAll returns the records of a row from one number to another, nil where
// one of them is not there.
func (m *recent) findAll(first, last uint64, sum uint32) []*event.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.slots == nil {
		return nil
	}
	records := make([]*event.Record, 0, last+1-first)
	for seq := first; seq <= last; seq++ {
		have := &m.slots[seq%recentSlots]
		if have.rec == nil || have.rec.Seq != seq || have.sum != sum {
			return nil
		}
		records = append(records, have.rec)
	}
	return records
}

// add keeps a record and returns it, or the one that another reader added
// meanwhile. It is called with mu locked.
func (m *recent) add(rec *event.Record, sum uint32) *event.Record {
	if m.slots == nil {
		m.slots = make([]recentRecord, recentSlots)
	}
	slot := &m.slots[rec.Seq%recentSlots]
	if slot.rec != nil && slot.rec.Seq == rec.Seq && slot.sum == sum {
		return slot.rec
	}
	// What is derived of a record is about as large as the record.
	m.bytes -= slot.size
	*slot = recentRecord{rec: rec, sum: sum, size: 2*len(rec.Raw) + 2<<10}
	m.bytes += slot.size
	m.order = append(m.order, rec.Seq)
	for m.bytes > recentBytes && len(m.order) > 0 {
		old := &m.slots[m.order[0]%recentSlots]
		if old.rec != nil && old.rec.Seq == m.order[0] {
			m.bytes -= old.size
			*old = recentRecord{}
		}
		m.order = m.order[1:]
	}
	if len(m.order) > 2*recentSlots { // of numbers whose place another one has
		m.order = m.order[len(m.order)-recentSlots:]
	}
	return rec
}

// take keeps the records that rows were made of.
func (m *recent) take(changes []Change, rows []packed) {
	m.mu.Lock()
	defer m.mu.Unlock()
	row, left := -1, 0
	for i := range changes {
		if changes[i].Record == nil {
			continue
		}
		if left == 0 {
			row++
			left = rows[row].records
		}
		left--
		m.add(changes[i].Record, rowSum(rows[row].row))
	}
}
