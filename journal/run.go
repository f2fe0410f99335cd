package journal

import (
	"encoding/binary"
	"fmt"
	"slices"
	"time"
	"unsafe"

	"github.com/klauspost/compress/s2"

	"github.com/cwprelay/cwprelay/event"
)

// Records that one commit stores lie in runs: rows of the log that hold several
// of them, in the place of the last one's number. Findings are alike, so a run
// takes a third of the space that they take one by one, and a fraction of the
// time. A record that comes alone has a row of its own.
//
// A run is read, lost and trimmed as a whole, which is what bounds it.
const (
	runRecords = 32       // never fewer: journals hold runs of so many
	runBytes   = 64 << 10 // of the records as they are; one that is larger is alone
	runHead    = 8 + 1    // the time of the newest record in ms, how many there are
)

// firstSeq is the number of the first record of a row of the log; that of the
// last is its key. It looks at the row before its checksum is compared: of a
// damaged one the number is a guess, though never far off.
func firstSeq(key, row []byte) uint64 {
	last := lastSeq(key)
	if len(row) < rowHead+runHead || row[0] != rowRun {
		return last
	}
	n := min(uint64(row[rowHead+8]), runRecords)
	if n == 0 || n > last {
		return last
	}
	return last - n + 1
}

// openRow unpacks the records of a row of the log.
func openRow(key, row []byte) ([]*event.Record, error) {
	if len(row) == 0 || row[0] != rowRun {
		payload, err := unseal(rowRecord, key, row)
		if err != nil {
			return nil, err
		}
		rec, err := decodeRecord(lastSeq(key), payload)
		return []*event.Record{rec}, err
	}
	payload, err := unseal(rowRun, key, row)
	if err != nil {
		return nil, err
	}
	return decodeRun(lastSeq(key), payload)
}

// A packed is a row of the log, with room for the head that sealRow fills in
// once its key is known.
type packed struct {
	row     []byte
	records int // how many it holds
}

func (p *packed) kind() byte {
	if p.records == 1 {
		return rowRecord
	}
	return rowRun
}

// rows are the rows of a batch's records in order. They lie in the codec's
// memory.
func (c *rowCodec) rows(changes []Change) (rows []packed, need int64) {
	records, total := c.records[:0], 0
	for i := range changes {
		if rec := changes[i].Record; rec != nil {
			records = append(records, rec)
			total += len(rec.Raw)/2 + 512
		}
	}
	arena := slices.Grow(c.arena[:0], total)
	var ends []int
	for left := records; len(left) > 0; {
		n := runOf(left)
		arena = append(arena, make([]byte, rowHead)...)
		if n == 1 {
			arena = c.appendRecord(arena, left[0])
		} else {
			arena = c.appendRun(arena, left[:n])
		}
		rows, ends = append(rows, packed{records: n}), append(ends, len(arena))
		left = left[n:]
	}
	clear(records)
	c.arena, c.records = arena, records[:0]
	from := 0
	for i, end := range ends { // not before: arena may have moved
		rows[i].row = arena[from:end:end]
		need += int64(end-from) + 64
		from = end
	}
	return rows, need
}

// runOf is how many of the records make the next run.
func runOf(records []*event.Record) int {
	n, size := 0, 0
	for n < min(len(records), runRecords) {
		if size += len(records[n].Raw); size > runBytes && n > 0 {
			break
		}
		n++
	}
	return n
}

// appendRun appends the payload of a run.
func (c *rowCodec) appendRun(dst []byte, records []*event.Record) []byte {
	e := c.plain[:0]
	var newest time.Time
	for _, r := range records {
		e.record(r)
		if r.ObservedAt.After(newest) {
			newest = r.ObservedAt
		}
	}
	c.plain = e
	dst = binary.BigEndian.AppendUint64(dst, uint64(newest.UnixMilli()))
	return appendPacked(append(dst, byte(len(records))), e)
}

// appendPacked appends plain, compressed.
func appendPacked(dst, plain []byte) []byte {
	most := s2.MaxEncodedLen(len(plain))
	dst = slices.Grow(dst, most)
	return dst[:len(dst)+len(s2.Encode(dst[len(dst):len(dst)+most], plain))]
}

// decodeRun unpacks the records of a run whose last one has a number.
func decodeRun(last uint64, payload []byte) ([]*event.Record, error) {
	if len(payload) < runHead || payload[8] == 0 || uint64(payload[8]) > last {
		return nil, errDamaged
	}
	plain, err := s2.Decode(nil, payload[runHead:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	n := int(payload[8])
	records, all := make([]*event.Record, n), make([]event.Record, n)
	d := decoder{b: plain}
	for i := range all {
		records[i] = &all[i]
		records[i].Seq = last - uint64(n-1-i)
		d.record(records[i])
	}
	if d.bad || len(d.b) != 0 {
		return nil, errDamaged
	}
	return records, nil
}

// record writes a record; it ends by itself.
func (e *encoder) record(r *event.Record) {
	for _, s := range [...]string{
		r.Key.Account, r.Key.Kind, r.Key.ID, r.UID, r.Revision, string(r.Action), r.FirstDetect,
		r.Dialect, r.Zone, r.Source, r.Sweep, r.RequestID,
	} {
		e.text(s)
	}
	e.uint(r.Sequence)
	e.status(r.Status)
	e.status(r.Previous)
	e.time(r.ObservedAt)
	e.bool(r.Backfill)
	e.uint(uint64(r.Page))
	e.uint(uint64(len(r.Raw)))
	*e = append(*e, r.Raw...)
}

// record reads a record, whose texts lie in what is read: nobody changes it.
func (d *decoder) record(r *event.Record) {
	var action string
	for _, s := range [...]*string{
		&r.Key.Account, &r.Key.Kind, &r.Key.ID, &r.UID, &r.Revision, &action, &r.FirstDetect,
		&r.Dialect, &r.Zone, &r.Source, &r.Sweep, &r.RequestID,
	} {
		b := d.bytes()
		*s = unsafe.String(unsafe.SliceData(b), len(b)) //nolint:gosec // a copy of each would cost more than unpacking them
	}
	r.Action = event.Action(action)
	r.Sequence = d.uint()
	r.Status, r.Previous = d.status(), d.status()
	r.ObservedAt = d.time()
	r.Backfill = d.bool()
	r.Page = int(d.uint())
	r.Raw = slices.Clip(d.bytes())
}
