package journal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
	"time"

	bolt "go.etcd.io/bbolt"
)

// The engine's file format (bbolt, version 2), as far as it is needed to look
// at a file without the engine: it trusts what it maps, and panics in a
// goroutine of its own, or reads outside of the file, where a page is wrong.
const (
	pageHead  = 16 // id (8), flags (2), count (2), overflow (4)
	elemSize  = 16
	flagInner = 0x01
	flagLeaf  = 0x02
	flagMeta  = 0x04
	metaMagic = 0xED0CDAED
	metaSize  = 64
)

type boltPage struct {
	flags    uint16
	count    int
	overflow int
	data     []byte // the page with its overflow, header included
}

type boltFile struct {
	file *os.File
	size int64
	page int64
}

// inspect walks the tree of the newest valid head page and returns what is
// wrong with its structure, nil if nothing is.
func inspect(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	b := &boltFile{file: file}
	root, high, err := b.head()
	if err != nil {
		return err
	}
	if high*uint64(b.page) > uint64(b.size) {
		return fmt.Errorf("the file is cut short: %d bytes of %d", b.size, high*uint64(b.page))
	}
	w := walker{file: b, seen: map[uint64]bool{}, high: high, top: true}
	return w.walk(root, span{})
}

// head reads the two head pages and returns root and high water mark of the
// newest valid one.
func (b *boltFile) head() (root, high uint64, err error) {
	info, err := b.file.Stat()
	if err != nil {
		return 0, 0, err
	}
	b.size = info.Size()
	var newest uint64
	found := false
	for _, page := range []int64{4096, 8192, 16384, 65536} {
		for i := range int64(2) {
			m := make([]byte, metaSize)
			if _, err := b.file.ReadAt(m, i*page+pageHead); err != nil {
				continue
			}
			h := fnv.New64a()
			_, _ = h.Write(m[:56])
			le := binary.LittleEndian
			if le.Uint32(m) != metaMagic || le.Uint32(m[4:]) != 2 || int64(le.Uint32(m[8:])) != page || h.Sum64() != le.Uint64(m[56:]) {
				continue
			}
			if txid := le.Uint64(m[48:]); !found || txid > newest {
				found, newest, b.page = true, txid, page
				root, high = le.Uint64(m[16:]), le.Uint64(m[40:])
			}
		}
	}
	if !found {
		return 0, 0, errors.New("neither head page is valid")
	}
	return root, high, nil
}

func (b *boltFile) read(id uint64) (boltPage, error) {
	head := make([]byte, pageHead)
	if _, err := b.file.ReadAt(head, int64(id)*b.page); err != nil {
		return boltPage{}, fmt.Errorf("page %d: %w", id, err)
	}
	le := binary.LittleEndian
	p := boltPage{flags: le.Uint16(head[8:]), count: int(le.Uint16(head[10:])), overflow: int(le.Uint32(head[12:]))}
	length := int64(p.overflow+1) * b.page
	if le.Uint64(head) != id || int64(id)*b.page+length > b.size {
		return p, fmt.Errorf("page %d: its header is wrong", id)
	}
	p.data = make([]byte, length)
	if _, err := b.file.ReadAt(p.data, int64(id)*b.page); err != nil && !errors.Is(err, io.EOF) {
		return p, fmt.Errorf("page %d: %w", id, err)
	}
	return p, nil
}

// A walker walks the tree of the buckets (top), or of one bucket.
type walker struct {
	file *boltFile
	seen map[uint64]bool
	high uint64
	top  bool
}

// A span is what the keys of a page may be: from first on, before next. Nil is
// no bound.
type span struct{ first, next []byte }

func (s span) holds(key []byte) bool {
	return string(key) >= string(s.first) && (s.next == nil || string(key) < string(s.next))
}

func (w walker) walk(id uint64, keys span) error {
	if w.seen[id] || id >= w.high || id < 2 {
		return fmt.Errorf("page %d: stands where it must not", id)
	}
	w.seen[id] = true
	p, err := w.file.read(id)
	if err != nil {
		return err
	}
	switch p.flags {
	case flagLeaf:
		return p.leaves(func(flags uint32, key, value []byte) error {
			if !keys.holds(key) {
				return fmt.Errorf("page %d: a key that belongs elsewhere", id)
			}
			if flags&1 == 0 {
				if w.top {
					return fmt.Errorf("page %d: a value among the buckets", id)
				}
				return nil
			}
			if !w.top || len(value) < 16 {
				return fmt.Errorf("page %d: bucket %q is wrong", id, key)
			}
			if root := binary.LittleEndian.Uint64(value); root != 0 {
				return walker{file: w.file, seen: w.seen, high: w.high}.walk(root, span{})
			}
			inline := boltPage{
				flags: binary.LittleEndian.Uint16(value[16+8:]), count: int(binary.LittleEndian.Uint16(value[16+10:])), data: value[16:],
			}
			return inline.leaves(func(uint32, []byte, []byte) error { return nil })
		})
	case flagInner:
		return w.inner(id, p, keys)
	default:
		return fmt.Errorf("page %d: is no page of a tree", id)
	}
}

// inner walks the children of a page. Each is told what its keys may be: the
// engine panics where they are not.
func (w walker) inner(id uint64, p boltPage, keys span) error {
	le := binary.LittleEndian
	first := make([][]byte, p.count)
	for i := range p.count {
		e := pageHead + i*elemSize
		if e+elemSize > len(p.data) {
			return fmt.Errorf("page %d: too many elements", id)
		}
		from := int64(e) + int64(le.Uint32(p.data[e:]))
		to := from + int64(le.Uint32(p.data[e+4:]))
		if to > int64(len(p.data)) {
			return fmt.Errorf("page %d: element %d lies outside", id, i)
		}
		first[i] = p.data[from:to]
		if i > 0 && string(first[i]) <= string(first[i-1]) || !keys.holds(first[i]) {
			return fmt.Errorf("page %d: element %d: its key is out of order", id, i)
		}
	}
	if p.count == 0 {
		return fmt.Errorf("page %d: empty", id)
	}
	for i := range p.count {
		child := span{first: first[i], next: keys.next}
		if i+1 < p.count {
			child.next = first[i+1]
		}
		if err := w.walk(le.Uint64(p.data[pageHead+i*elemSize+8:]), child); err != nil {
			return err
		}
	}
	return nil
}

// leaves calls f with each element of a leaf page, and fails where one lies
// outside of it or keys are not in order.
func (p boltPage) leaves(f func(flags uint32, key, value []byte) error) error {
	le := binary.LittleEndian
	var before []byte
	for i := range p.count {
		e := pageHead + i*elemSize
		if e+elemSize > len(p.data) {
			return fmt.Errorf("element %d: lies outside of its page", i)
		}
		flags, pos, ksize, vsize := le.Uint32(p.data[e:]), le.Uint32(p.data[e+4:]), le.Uint32(p.data[e+8:]), le.Uint32(p.data[e+12:])
		from := int64(e) + int64(pos)
		if from+int64(ksize)+int64(vsize) > int64(len(p.data)) || flags&1 != 0 && vsize < 16 {
			return fmt.Errorf("element %d: lies outside of its page", i)
		}
		key := p.data[from : from+int64(ksize)]
		if i > 0 && string(key) <= string(before) {
			return fmt.Errorf("element %d: its key is out of order", i)
		}
		before = key
		if flags&1 != 0 && le.Uint64(p.data[from+int64(ksize):]) == 0 && vsize < 32 {
			return fmt.Errorf("element %d: its bucket is cut short", i)
		}
		if err := f(flags, key, p.data[from+int64(ksize):from+int64(ksize)+int64(vsize)]); err != nil {
			return err
		}
	}
	return nil
}

// salvaged is what was found of a damaged file.
type salvaged struct {
	rows map[string]map[string][]byte // bucket → key → row
}

// bucketOf is the bucket that a kind of row belongs to.
func bucketOf(kind byte) string {
	switch kind {
	case rowRecord:
		return "log"
	case rowState:
		return "state"
	case rowCursor:
		return "cursor"
	case rowDead:
		return "dead"
	case rowReceipt:
		return "receipt"
	case rowMemo:
		return "memo"
	case rowSource:
		return "source"
	case rowSweep:
		return "sweep"
	case rowGap:
		return "gap"
	case rowReplay:
		return "replay"
	default:
		return ""
	}
}

// salvage sets the file aside and makes a new one of every row in it whose
// checksum is right, wherever it stands. Old versions of a row stand in pages
// that are no longer used: of states and cursors the furthest is taken, and a
// record that was trimmed may come back, which costs a duplicate at most.
func (f *File) salvage(aside string, damage error) error {
	s := salvaged{rows: map[string]map[string][]byte{}}
	if err := s.read(f.path); err != nil {
		return err
	}
	if err := os.Rename(f.path, aside); err != nil {
		return err
	}
	if err := f.create(); err != nil {
		return err
	}
	db, err := bolt.Open(f.path, 0o600, f.boltOptions())
	if err != nil {
		return err
	}
	lost := 0
	err = db.Update(func(tx *bolt.Tx) error {
		lost, err = s.write(tx)
		return err
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	f.report("the journal was damaged (%v) and was set aside as %s; carried over: %d records, %d states, %d cursors, %d dead letters; undelivered records lost: %d",
		damage, aside, len(s.rows["log"]), len(s.rows["state"]), len(s.rows["cursor"]), len(s.rows["dead"]), lost)
	return nil
}

// read looks at every page of the file, used or not.
func (s *salvaged) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	b := &boltFile{file: file, page: int64(os.Getpagesize())}
	if _, _, err := b.head(); err != nil {
		b.page = int64(os.Getpagesize())
	}
	for id := uint64(0); int64(id)*b.page < b.size; id++ {
		p, err := b.readTorn(id)
		if err != nil {
			continue
		}
		s.leaves(p)
	}
	return nil
}

// readTorn reads a page that may be cut off by the end of the file.
func (b *boltFile) readTorn(id uint64) (boltPage, error) {
	p, err := b.read(id)
	if err == nil || p.flags&flagLeaf == 0 || p.overflow > 1<<20 {
		return p, err
	}
	p.data = make([]byte, min(int64(p.overflow+1)*b.page, b.size-int64(id)*b.page))
	_, err = b.file.ReadAt(p.data, int64(id)*b.page)
	return p, err
}

// leaves takes each element of a page that can be read, whatever the others
// are like.
func (s *salvaged) leaves(p boltPage) {
	if p.flags&flagLeaf == 0 || p.flags&flagMeta != 0 {
		return
	}
	le := binary.LittleEndian
	for i := range p.count {
		e := pageHead + i*elemSize
		if e+elemSize > len(p.data) {
			return
		}
		flags, pos, ksize, vsize := le.Uint32(p.data[e:]), le.Uint32(p.data[e+4:]), le.Uint32(p.data[e+8:]), le.Uint32(p.data[e+12:])
		from := int64(e) + int64(pos)
		if from+int64(ksize)+int64(vsize) > int64(len(p.data)) {
			continue
		}
		key, value := p.data[from:from+int64(ksize)], p.data[from+int64(ksize):from+int64(ksize)+int64(vsize)]
		if flags&1 != 0 {
			if len(value) >= 32 { // a small bucket stands within its parent
				s.leaves(boltPage{flags: le.Uint16(value[16+8:]), count: int(le.Uint16(value[16+10:])), data: value[16:]})
			}
			continue
		}
		s.add(key, value)
	}
}

func (s *salvaged) add(key, row []byte) {
	if len(row) < rowHead {
		return
	}
	name := bucketOf(row[0])
	payload, err := unseal(row[0], key, row)
	if name == "" || err != nil {
		return
	}
	if s.rows[name] == nil {
		s.rows[name] = map[string][]byte{}
	}
	if old, ok := s.rows[name][string(key)]; ok && !newer(row[0], payload, old[rowHead:]) {
		return
	}
	s.rows[name][string(key)] = append([]byte(nil), row...)
}

// newer reports that a row is a later version than another of the same key.
func newer(kind byte, payload, old []byte) bool {
	switch kind {
	case rowState:
		a, errA := decodeState(payload)
		b, errB := decodeState(old)
		return errB != nil || errA == nil && a.Sequence > b.Sequence
	case rowCursor:
		var a, b Cursor
		key := []byte(nil)
		errA := decodeJSON(kind, key, seal(kind, key, payload), &a)
		errB := decodeJSON(kind, key, seal(kind, key, old), &b)
		return errB != nil || errA == nil && a.Seq > b.Seq
	default:
		return false
	}
}

// write stores what was found. lost is the number of records that no sink had
// everywhere and that were not found.
func (s *salvaged) write(tx *bolt.Tx) (lost int, err error) {
	last := uint64(0)
	for key := range s.rows["log"] {
		last = max(last, lastSeq([]byte(key)))
	}
	for key, row := range s.rows["state"] {
		// A state tells of records that were not found, too.
		if st, err := decodeState(row[rowHead:]); err == nil {
			last = max(last, st.LastRecord)
		}
		_ = key
	}
	low := last
	for key, row := range s.rows["cursor"] {
		var c Cursor
		if decodeJSON(rowCursor, []byte(key), row, &c) == nil {
			low, last = min(low, c.Seq), max(last, c.Seq)
		}
	}
	for seq := low + 1; seq <= last; seq++ {
		if _, ok := s.rows["log"][string(seqKey(seq))]; !ok {
			lost++
		}
	}
	for name, rows := range s.rows {
		b := tx.Bucket([]byte(name))
		for key, row := range rows {
			if name == "source" {
				if row, err = begunAnew([]byte(key), row); err != nil {
					return lost, err
				}
			}
			if err := b.Put([]byte(key), row); err != nil {
				return lost, err
			}
		}
	}
	if err := tx.Bucket([]byte("gap")).SetSequence(uint64(len(s.rows["gap"])) + 1<<20); err != nil {
		return lost, err
	}
	figures := meta{Damaged: lost}
	if err := putJSON(tx.Bucket([]byte("meta")), rowMeta, []byte("figures"), figures); err != nil {
		return lost, err
	}
	return lost, tx.Bucket([]byte("log")).SetSequence(last)
}

// begunAnew is a source whose next certified sweep counts as its first: states
// may be lost, and what is new again is old news.
func begunAnew(key, row []byte) ([]byte, error) {
	var src Source
	if err := decodeJSON(rowSource, key, row, &src); err != nil {
		return nil, err
	}
	src.FirstCertAt = time.Time{}
	payload, err := encodeJSON(src)
	return seal(rowSource, key, payload), err
}
