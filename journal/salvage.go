package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

	heads int // valid head pages
	spare []byte
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
	// A head page is one sector, written only after the other one is durable:
	// no loss of power leaves one that is wrong, and the right one may be old.
	if b.heads != 2 {
		return errors.New("one of the two head pages is damaged")
	}
	if high*uint64(b.page) > uint64(b.size) {
		return fmt.Errorf("the file is cut short: %d bytes of %d", b.size, high*uint64(b.page))
	}
	w := walker{file: b, seen: make(pageSet, high/64+1), high: high, found: &tally{checks: rowChecks()}}
	if err := w.walk(root, span{}); err != nil {
		return err
	}
	return w.found.compare()
}

// A tally is what stands in a tree. A page of an older tree in the place of a
// newer one is a page like others; that rows are missing shows in their sums.
type tally struct {
	checks  map[string]rowCheck
	sums    meta
	figures meta
	counted bool // the figures were found
}

// add counts a row, and fails where it does not pass its checksum.
func (t *tally) add(bucket string, key, row []byte) error {
	if _, err := t.checks[bucket].unseal(key, row); err != nil {
		return fmt.Errorf("a row of %s does not pass its checksum", bucket)
	}
	switch bucket {
	case "log", "state", "dead":
		t.sums.Bytes += int64(len(key) + len(row))
		if bucket == "state" {
			t.sums.Keys++
		}
	case "meta":
		t.counted = decodeJSON(rowMeta, key, row, &t.figures) == nil
	}
	return nil
}

func (t *tally) compare() error {
	if t.counted && (t.sums.Bytes != t.figures.Bytes || t.sums.Keys != t.figures.Keys) {
		return fmt.Errorf("%d events in %d bytes are counted, %d in %d are there", t.figures.Keys, t.figures.Bytes, t.sums.Keys, t.sums.Bytes)
	}
	return nil
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
			b.heads++
			if txid := le.Uint64(m[48:]); b.heads == 1 || txid > newest {
				newest, b.page = txid, page
				root, high = le.Uint64(m[16:]), le.Uint64(m[40:])
			}
		}
	}
	if b.heads == 0 {
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

// look is read into memory that the next look uses again, but for pages of
// pages: a leaf is done with before the next page.
func (b *boltFile) look(id uint64) (boltPage, error) {
	if b.spare == nil {
		b.spare = make([]byte, b.page)
	}
	le := binary.LittleEndian
	if _, err := b.file.ReadAt(b.spare, int64(id)*b.page); err != nil || le.Uint64(b.spare) != id || le.Uint32(b.spare[12:]) != 0 {
		return b.read(id) // it is longer, or says what is wrong
	}
	p := boltPage{flags: le.Uint16(b.spare[8:]), count: int(le.Uint16(b.spare[10:])), data: b.spare}
	if p.flags != flagLeaf {
		b.spare = nil
	}
	return p, nil
}

// A pageSet is a set of pages of a file.
type pageSet []uint64

// add reports whether a page was not in the set.
func (s pageSet) add(id uint64) bool {
	at, bit := id/64, uint64(1)<<(id%64)
	if s[at]&bit != 0 {
		return false
	}
	s[at] |= bit
	return true
}

// A walker walks the tree of the buckets, or of one bucket.
type walker struct {
	file   *boltFile
	seen   pageSet
	high   uint64
	bucket string // empty: the buckets
	found  *tally
}

// A span is what the keys of a page may be: from first on, before next. Nil is
// no bound.
type span struct{ first, next []byte }

func (s span) holds(key []byte) bool {
	return string(key) >= string(s.first) && (s.next == nil || string(key) < string(s.next))
}

func (w walker) walk(id uint64, keys span) error {
	if id >= w.high || id < 2 || !w.seen.add(id) {
		return fmt.Errorf("page %d: stands where it must not", id)
	}
	read := w.file.look
	if w.bucket == "" {
		read = w.file.read // the trees of the buckets are walked while it is looked at
	}
	p, err := read(id)
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
				if w.bucket == "" {
					return fmt.Errorf("page %d: a value among the buckets", id)
				}
				return w.found.add(w.bucket, key, value)
			}
			if w.bucket != "" || len(value) < 16 || !slices.Contains(buckets(), string(key)) {
				return fmt.Errorf("page %d: bucket %q is wrong", id, key)
			}
			if root := binary.LittleEndian.Uint64(value); root != 0 {
				inner := w
				inner.bucket = string(key)
				return inner.walk(root, span{})
			}
			inline := boltPage{
				flags: binary.LittleEndian.Uint16(value[16+8:]), count: int(binary.LittleEndian.Uint16(value[16+10:])), data: value[16:],
			}
			return inline.leaves(func(_ uint32, k, v []byte) error { return w.found.add(string(key), k, v) })
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
	rows  map[string]map[string]foundRow // bucket → key → row
	marks marks                          // of the file beside it
	size  int64                          // of the file
	last  uint64                         // number of the newest record, as the log's bucket says
	said  bool                           // the bucket stood in the newest tree
	live  bool                           // pages of the newest tree are being read
}

type foundRow struct {
	row  []byte
	live bool // it stood in the newest tree
}

// bucketOf is the bucket that a kind of row belongs to.
func bucketOf(kind byte) string {
	switch kind {
	case rowRecord, rowRun:
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

// salvage puts a new file in the place of a damaged one, made of every row in
// it whose checksum is right, wherever it stands. Old versions of a row stand in
// pages that are no longer used: what the newest tree has goes before them, of
// states and cursors the furthest is taken, and a record that was trimmed may
// come back, which costs a duplicate at most. The damaged file keeps its place
// until the new one is durable.
func (f *File) salvage(aside string, damage error) error {
	s := salvaged{rows: map[string]map[string]foundRow{}, marks: readMarks(f.cfg.Dir)}
	if err := s.read(f.path); err != nil {
		return err
	}
	if err := keepAside(f.path, aside); err != nil {
		return err
	}
	tmp, err := f.createTemporary()
	if err != nil {
		return err
	}
	db, err := bolt.Open(tmp, 0o600, f.boltOptions())
	if err != nil {
		return err
	}
	lost := 0
	err = db.Update(func(tx *bolt.Tx) error {
		lost, err = s.write(tx, f.sinkNames())
		return err
	})
	if err := errors.Join(err, db.Sync(), db.Close()); err != nil {
		return err
	}
	f.report("the journal was damaged (%v) and was set aside as %s; carried over: %d records, %d states, %d cursors, %d dead letters; undelivered records lost: %d, dead letters lost: %d",
		damage, aside, len(s.rows["log"]), len(s.rows["state"]), len(s.rows["cursor"]), len(s.rows["dead"]), lost, max(0, s.marks.Dead-len(s.rows["dead"])))
	return f.moveInto(tmp)
}

// keepAside gives a file a second name, so that it outlives what takes its
// first one.
func keepAside(path, aside string) error {
	if err := os.Link(path, aside); err == nil || errors.Is(err, fs.ErrExist) {
		return errors.Join(err, syncDir(filepath.Dir(path)))
	}
	// The file system has no second names.
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }() // only read
	to, err := os.OpenFile(aside, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(to, from)
	return errors.Join(err, to.Sync(), to.Close(), syncDir(filepath.Dir(path)))
}

// read looks at every page of the file, used or not; first at those of the
// newest tree, as far as it can be followed.
func (s *salvaged) read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // only read
	b := &boltFile{file: file, page: int64(os.Getpagesize())}
	seen := map[uint64]bool{}
	if root, high, err := b.head(); err == nil {
		s.live = true
		s.follow(b, root, high, seen)
		s.live = false
	} else {
		b.page = int64(os.Getpagesize())
	}
	s.size = b.size
	for id := uint64(0); int64(id)*b.page < b.size; id++ {
		if seen[id] {
			continue
		}
		p, err := b.readTorn(id)
		if err != nil {
			continue
		}
		s.leaves(p)
	}
	return nil
}

// follow reads a tree as far as it goes.
func (s *salvaged) follow(b *boltFile, id, high uint64, seen map[uint64]bool) {
	if seen[id] || id >= high || id < 2 {
		return
	}
	seen[id] = true
	p, err := b.readTorn(id)
	if err != nil {
		return
	}
	le := binary.LittleEndian
	if p.flags == flagInner {
		for e := pageHead; e+elemSize <= min(len(p.data), pageHead+p.count*elemSize); e += elemSize {
			s.follow(b, le.Uint64(p.data[e+8:]), high, seen)
		}
		return
	}
	for _, root := range s.leaves(p) {
		s.follow(b, root, high, seen)
	}
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
// are like, and returns the roots of the buckets among them.
func (s *salvaged) leaves(p boltPage) (roots []uint64) {
	if p.flags&flagLeaf == 0 || p.flags&flagMeta != 0 {
		return nil
	}
	le := binary.LittleEndian
	for i := range p.count {
		e := pageHead + i*elemSize
		if e+elemSize > len(p.data) {
			return roots
		}
		flags, pos, ksize, vsize := le.Uint32(p.data[e:]), le.Uint32(p.data[e+4:]), le.Uint32(p.data[e+8:]), le.Uint32(p.data[e+12:])
		from := int64(e) + int64(pos)
		if from+int64(ksize)+int64(vsize) > int64(len(p.data)) {
			continue
		}
		key, value := p.data[from:from+int64(ksize)], p.data[from+int64(ksize):from+int64(ksize)+int64(vsize)]
		if flags&1 == 0 {
			s.add(key, value)
			continue
		}
		if len(value) >= 16 {
			roots = append(roots, le.Uint64(value))
			if string(key) == "log" && !s.said {
				s.last, s.said = max(s.last, le.Uint64(value[8:])), s.live
			}
		}
		if len(value) >= 32 { // a small bucket stands within its parent
			s.leaves(boltPage{flags: le.Uint16(value[16+8:]), count: int(le.Uint16(value[16+10:])), data: value[16:]})
		}
	}
	return roots
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
	if row[0] == rowRun { // each record by itself: runs of different trees may overlap
		records, err := decodeRun(lastSeq(key), payload)
		if err != nil {
			return
		}
		for _, rec := range records {
			at := seqKey(rec.Seq)
			s.add(at, seal(rowRecord, at, encodeRecord(rec)))
		}
		return
	}
	if s.rows[name] == nil {
		s.rows[name] = map[string]foundRow{}
	}
	old, ok := s.rows[name][string(key)]
	if ok && (old.live && !s.live || !newer(row[0], payload, old.row[rowHead:])) {
		return
	}
	s.rows[name][string(key)] = foundRow{row: bytes.Clone(row), live: s.live}
}

// newer reports that a row is a later version than another of the same key.
func newer(kind byte, payload, old []byte) bool {
	switch kind {
	case rowRecord: // a number that a commit got which was never completed is given again
		return len(payload) >= 8 && len(old) >= 8 && binary.BigEndian.Uint64(payload) > binary.BigEndian.Uint64(old)
	case rowState:
		a, errA := decodeState(payload)
		b, errB := decodeState(old)
		// Sequences begin again when a key was forgotten, numbers of records never.
		return errB != nil || errA == nil && cmp.Or(cmp.Compare(a.LastRecord, b.LastRecord), cmp.Compare(a.Sequence, b.Sequence)) > 0
	case rowCursor:
		var a, b Cursor
		errA, errB := json.Unmarshal(payload, &a), json.Unmarshal(old, &b)
		return errB != nil || errA == nil && a.Seq > b.Seq
	default:
		return false
	}
}

// newest is the number of the newest record that there was, as far as anything
// tells of it.
func (s *salvaged) newest() uint64 {
	last := s.marks.Last
	for key := range s.rows["log"] {
		last = max(last, lastSeq([]byte(key)))
	}
	for _, found := range s.rows["state"] {
		// A state tells of records that were not found, too.
		if st, err := decodeState(found.row[rowHead:]); err == nil {
			last = max(last, st.LastRecord)
		}
	}
	for key, found := range s.rows["cursor"] {
		var c Cursor
		if decodeJSON(rowCursor, []byte(key), found.row, &c) == nil {
			last = max(last, c.Seq)
		}
	}
	// The number in the log's bucket bears no checksum. Records that it tells
	// of and nothing else does stood in this file, and each took some bytes.
	const least = 64
	if s.last > last && s.last-last <= uint64(s.size)/least {
		return s.last
	}
	return last
}

// missing are the numbers behind after, up to last, of which no record was found.
func (s *salvaged) missing(after, last uint64) (out []Range) {
	for seq := after + 1; seq <= last; seq++ {
		switch _, ok := s.rows["log"][string(seqKey(seq))]; {
		case ok:
		case len(out) > 0 && out[len(out)-1].Last == seq-1:
			out[len(out)-1].Last = seq
		default:
			out = append(out, Range{seq, seq})
		}
	}
	return out
}

// cursors are those that were found, or the marked ones where they are further.
// A sink that has neither begins with the oldest record.
func (s *salvaged) cursors(sinks []string, last uint64) map[string]Cursor {
	oldest := last + 1
	for key := range s.rows["log"] {
		oldest = min(oldest, lastSeq([]byte(key)))
	}
	out := map[string]Cursor{}
	for _, sink := range sinks {
		var c Cursor
		found, ok := s.rows["cursor"][sink]
		ok = ok && json.Unmarshal(found.row[rowHead:], &c) == nil
		switch marked, known := s.marks.Cursors[sink]; {
		case known && (!ok || marked.Seq > c.Seq):
			out[sink] = marked
		case ok:
			out[sink] = c
		default:
			out[sink] = Cursor{Seq: oldest - 1}
		}
	}
	return out
}

// write stores what was found. lost is the number of records that were not
// found and that some sink has not had.
func (s *salvaged) write(tx *bolt.Tx, sinks []string) (lost int, err error) {
	last := s.newest()
	low := last
	var gaps []Gap
	for sink, c := range s.cursors(sinks, last) {
		low = min(low, c.Seq)
		if err := putJSON(tx.Bucket([]byte("cursor")), rowCursor, []byte(sink), c); err != nil {
			return 0, err
		}
		for _, r := range s.missing(c.Seq, last) {
			for _, part := range subtract(r, c.Ahead) {
				gaps = append(gaps, Gap{Sink: sink, Range: part, Records: int(part.Last - part.First + 1), Reason: "damage", At: time.Now().UTC()})
			}
		}
	}
	for _, r := range s.missing(low, last) {
		lost += int(r.Last - r.First + 1)
	}
	figures := meta{Damaged: lost}
	for name, rows := range s.rows {
		b := tx.Bucket([]byte(name))
		for key, found := range rows {
			row := found.row
			switch name {
			case "cursor":
				if slices.Contains(sinks, key) {
					continue // it is there
				}
			case "dead":
				figures.Dead++
			case "source":
				if row, err = begunAnew([]byte(key), row); err != nil {
					return lost, err
				}
			case "state":
				if s.tellsOfALostRecord(row, low) {
					continue
				}
				figures.Keys++
			}
			if slices.Contains([]string{"log", "state", "dead"}, name) {
				figures.Bytes += int64(len(key) + len(row))
			}
			if err := b.Put([]byte(key), row); err != nil {
				return lost, err
			}
		}
	}
	return lost, errors.Join(s.writeGaps(tx.Bucket([]byte("gap")), gaps),
		putJSON(tx.Bucket([]byte("meta")), rowMeta, []byte("figures"), figures),
		tx.Bucket([]byte("log")).SetSequence(last))
}

// writeGaps adds gaps behind those that were found.
func (s *salvaged) writeGaps(b *bolt.Bucket, gaps []Gap) error {
	next := uint64(1)
	for key := range s.rows["gap"] {
		next = max(next, lastSeq([]byte(key))+1)
	}
	for _, g := range gaps {
		if err := putJSON(b, rowGap, seqKey(next), g); err != nil {
			return err
		}
		next++
	}
	return b.SetSequence(next)
}

// tellsOfALostRecord reports that the last change of a key is not known to
// every sink and cannot be sent any more. Its state is not carried over, so that
// the next sweep takes the event in again as it is then.
func (s *salvaged) tellsOfALostRecord(row []byte, low uint64) bool {
	st, err := decodeState(row[rowHead:])
	if err != nil {
		return true
	}
	_, found := s.rows["log"][string(seqKey(st.LastRecord))]
	return st.LastRecord > low && !found
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
