package journal

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"time"

	"github.com/klauspost/compress/s2"

	"github.com/cwprelay/cwprelay/event"
)

// Every row says what it is and carries a checksum over that, its key and its
// payload: the engine checks only its own two head pages, and rows must be
// recognizable in a file whose structure is damaged.
//
//	row = kind (1) | CRC32C of kind, key and payload (4, big endian) | payload
const rowHead = 5

// The kinds of rows. They are written to disk: never reuse a value.
const (
	rowRecord  byte = 0x11 // log: observation time in ms (8), s2 of the record
	rowState   byte = 0x12
	rowCursor  byte = 0x13
	rowDead    byte = 0x14
	rowReceipt byte = 0x15
	rowMemo    byte = 0x16
	rowSource  byte = 0x17
	rowSweep   byte = 0x18
	rowGap     byte = 0x19
	rowMeta    byte = 0x1a
	rowReplay  byte = 0x1b
	rowMarks   byte = 0x1c // of a file of its own
	rowRun     byte = 0x1d // log: time of the newest record in ms (8), number of records (1), s2 of them
)

var errDamaged = errors.New("damaged row")

func checksum(kind byte, key, payload []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli) // the same table each time
	sum := crc32.Update(0, table, []byte{kind})
	sum = crc32.Update(sum, table, key)
	return crc32.Update(sum, table, payload)
}

func seal(kind byte, key, payload []byte) []byte {
	row := make([]byte, rowHead, rowHead+len(payload))
	row[0] = kind
	binary.BigEndian.PutUint32(row[1:], checksum(kind, key, payload))
	return append(row, payload...)
}

// sealRow fills in the head of a row whose payload stands behind room for it.
func sealRow(kind byte, key, row []byte) {
	row[0] = kind
	binary.BigEndian.PutUint32(row[1:], checksum(kind, key, row[rowHead:]))
}

// unseal returns the payload of a row, not copied.
func unseal(kind byte, key, row []byte) ([]byte, error) {
	if len(row) < rowHead || row[0] != kind || binary.BigEndian.Uint32(row[1:]) != checksum(kind, key, row[rowHead:]) {
		return nil, errDamaged
	}
	return row[rowHead:], nil
}

// An encoder writes fields one after the other; a decoder reads them back in
// the same order and is exhausted at the end.
type encoder []byte

func (e *encoder) uint(v uint64)    { *e = binary.AppendUvarint(*e, v) }
func (e *encoder) text(s string)    { e.uint(uint64(len(s))); *e = append(*e, s...) }
func (e *encoder) time(t time.Time) { e.uint(uint64(stamp(t))) }
func (e *encoder) bool(b bool) {
	if b {
		e.uint(1)
	} else {
		e.uint(0)
	}
}

// stamp is nanoseconds since 1970, 0 for the zero time.
func stamp(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

type decoder struct {
	b   []byte
	bad bool
}

func (d *decoder) uint() uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 {
		d.bad, d.b = true, nil
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) bytes() []byte {
	n := d.uint()
	if n > uint64(len(d.b)) {
		d.bad, d.b = true, nil
		return nil
	}
	out := d.b[:n]
	d.b = d.b[n:]
	return out
}

func (d *decoder) text() string { return string(d.bytes()) }
func (d *decoder) bool() bool   { return d.uint() == 1 }

func (d *decoder) time() time.Time {
	if v := d.uint(); v != 0 {
		return time.Unix(0, int64(v)).UTC()
	}
	return time.Time{}
}

func (e *encoder) status(s event.Status) { e.text(s.Code); e.text(s.Symbol); e.bool(s.Closed) }

func (d *decoder) status() event.Status {
	return event.Status{Code: d.text(), Symbol: d.symbol(), Closed: d.bool()}
}

// symbol is text without a copy of what every event has.
func (d *decoder) symbol() string {
	b := d.bytes()
	for _, s := range [...]string{"pending", "scanned", "scanning", "processed", "exited", "ignored", "trusted"} {
		if string(b) == s {
			return s
		}
	}
	return string(b)
}

// encodeRecord is the payload of a record's row.
func encodeRecord(r *event.Record) []byte {
	var c rowCodec
	return c.appendRecord(nil, r)
}

// A rowCodec makes payloads of records; it keeps what it needs for the next one.
type rowCodec struct {
	plain   encoder
	arena   []byte // rows of records
	states  encoder
	key     []byte
	records []*event.Record
}

// maxSpare bounds the memory that a codec keeps while it is not used.
const maxSpare = 4 << 20

func (f *File) codec() *rowCodec {
	select {
	case c := <-f.codecs:
		return c
	default:
		return &rowCodec{}
	}
}

func (f *File) spare(c *rowCodec) {
	if cap(c.arena)+cap(c.states) > maxSpare {
		return
	}
	select {
	case f.codecs <- c:
	default:
	}
}

// appendRecord appends the payload of a record's row to dst.
func (c *rowCodec) appendRecord(dst []byte, r *event.Record) []byte {
	e := c.plain[:0]
	e.record(r)
	c.plain = e
	return appendPacked(binary.BigEndian.AppendUint64(dst, uint64(r.ObservedAt.UnixMilli())), e)
}

func decodeRecord(seq uint64, payload []byte) (*event.Record, error) {
	if len(payload) < 8 {
		return nil, errDamaged
	}
	plain, err := s2.Decode(nil, payload[8:])
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errDamaged, err)
	}
	d := decoder{b: plain}
	r := &event.Record{Seq: seq}
	if d.record(r); d.bad || len(d.b) != 0 {
		return nil, errDamaged
	}
	return r, nil
}

func encodeState(s event.State) []byte { return appendState(make(encoder, 0, 96), s) }

func appendState(e encoder, s event.State) []byte {
	e.status(s.Status)
	e.uint(s.Sequence)
	e.text(s.FirstDetect)
	e.uint(s.LastRecord)
	e.time(s.AbsentSince)
	e.bool(s.Unwatched)
	e.uint(uint64(len(s.Tracked)))
	for _, v := range s.Tracked {
		e.text(v)
	}
	return e
}

func decodeState(payload []byte) (event.State, error) {
	d := decoder{b: payload}
	s := event.State{
		Status: d.status(), Sequence: d.uint(), FirstDetect: d.text(),
		LastRecord: d.uint(), AbsentSince: d.time(), Unwatched: d.bool(),
	}
	for n := d.uint(); n > 0 && !d.bad; n-- {
		s.Tracked = append(s.Tracked, d.text())
	}
	if d.bad || len(d.b) != 0 {
		return s, errDamaged
	}
	return s, nil
}

// A dead letter holds its record in the form of the log, so that it outlives it.
func encodeDead(dl DeadLetter) []byte {
	e := make(encoder, 0, 256)
	e.text(dl.Reason)
	e.text(dl.Class)
	e.uint(uint64(dl.Attempts))
	e.time(dl.At)
	e.text(string(encodeRecord(dl.Record)))
	return e
}

func decodeDead(seq uint64, payload []byte) (DeadLetter, error) {
	d := decoder{b: payload}
	dl := DeadLetter{Reason: d.text(), Class: d.text(), Attempts: int(d.uint()), At: d.time()}
	record := d.bytes()
	if d.bad {
		return dl, errDamaged
	}
	var err error
	dl.Record, err = decodeRecord(seq, record)
	return dl, err
}

// Rows that are few are JSON: people may have to read them.
func encodeJSON(v any) ([]byte, error) { return json.Marshal(v) }

func decodeJSON(kind byte, key, row []byte, v any) error {
	payload, err := unseal(kind, key, row)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(payload, v); err != nil {
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return nil
}

// Keys of several parts are joined by NUL, which no part holds in practice;
// one that does is still found, as the same text makes the same key.
func joinKey(parts ...string) []byte {
	size := len(parts)
	for _, p := range parts {
		size += len(p)
	}
	k := make([]byte, 0, size+8) // a number may follow
	for i, p := range parts {
		if i > 0 {
			k = append(k, 0)
		}
		k = append(k, p...)
	}
	return k
}

func stateKey(k event.Key) []byte { return appendStateKey(nil, k) }

func appendStateKey(dst []byte, k event.Key) []byte {
	dst = append(append(dst, k.Account...), 0)
	dst = append(append(dst, k.Kind...), 0)
	return append(dst, k.ID...)
}

func seqKey(seq uint64) []byte { return binary.BigEndian.AppendUint64(nil, seq) }

func sinkSeqKey(sink string, seq uint64) []byte {
	return binary.BigEndian.AppendUint64(joinKey(sink, ""), seq)
}

func lastSeq(key []byte) uint64 {
	if len(key) < 8 {
		return 0
	}
	return binary.BigEndian.Uint64(key[len(key)-8:])
}
