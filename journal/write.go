package journal

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/cwprelay/cwprelay/event"
)

// Grouping of commits: settlements wait a moment for those of other sinks,
// appends do not.
const (
	settleWindow = 5 * time.Millisecond
	maxOps       = 64
	trimEvery    = time.Minute
	trimBatch    = 5000
	trimPause    = 20 * time.Millisecond // between two batches, for what others wait to store
	spareBytes   = 1 << 20
)

// An op is one caller's part of a commit.
type op struct {
	// apply writes. It checks before it writes, so that an error of its own
	// leaves nothing behind but the room that was made, and concerns no other
	// op; what the engine says is returned as engineError and fails the whole
	// commit.
	apply  func(tx *bolt.Tx) error
	after  func() // runs once committed
	urgent bool
	// takesIn says that the op needs room.
	takesIn bool

	done chan error // buffered
	err  error
}

type engineError struct{ err error }

func (e *engineError) Error() string { return e.err.Error() }
func (e *engineError) Unwrap() error { return e.err }

func engine(err error) error {
	if err == nil {
		return nil
	}
	return &engineError{err}
}

// commit hands an op to the writer and waits for its commit. Once the writer
// has it, ctx no longer matters: the outcome must be known.
func (f *File) commit(ctx context.Context, o *op) error {
	o.done = make(chan error, 1)
	select {
	case <-f.closed:
		return ErrClosed
	default:
	}
	select {
	case f.ops <- o:
	case <-f.closed:
		return ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return <-o.done
}

// write is the one goroutine that writes. It lives from Open to Close and so
// outlives every worker.
func (f *File) write() {
	defer close(f.gone)
	trim := time.NewTimer(trimEvery)
	defer trim.Stop()
	for {
		select {
		case o := <-f.ops:
			f.run(f.gather(o))
		case now := <-trim.C:
			next := trimEvery
			if f.trimOld(now) {
				next = trimPause
			}
			trim.Reset(next)
		case <-f.closed:
			return
		}
	}
}

// gather collects what one commit can serve.
func (f *File) gather(first *op) []*op {
	group := []*op{first}
	_, rules := f.settings()
	urgent := first.urgent || len(rules) < 2 // there is nobody to wait for
	timer := time.NewTimer(settleWindow)
	defer timer.Stop()
	for len(group) < maxOps {
		if urgent {
			select {
			case o := <-f.ops:
				group = append(group, o)
				continue
			default:
				return group
			}
		}
		select {
		case o := <-f.ops:
			group = append(group, o)
			urgent = o.urgent
		case <-timer.C:
			return group
		case <-f.closed:
			return group
		}
	}
	return group
}

// run commits a group and answers each op. On a full disk what takes in is
// refused first; the others make room and must not need any, so that they get
// the reserve where it takes that.
func (f *File) run(group []*op) {
	err := f.try(group)
	if isDiskFull(err) {
		var taking, others []*op
		for _, o := range group {
			if o.takesIn {
				taking = append(taking, o)
			} else {
				others = append(others, o)
			}
		}
		f.answer(taking, err)
		if group = others; len(group) == 0 {
			return
		}
		if err = f.try(group); isDiskFull(err) && f.giveUpReserve() {
			err = f.try(group)
		}
	}
	if err != nil && !isDiskFull(err) {
		if f.Err() == nil {
			f.rescue(err) // before anybody is told: who repeats must find the copy
		}
		// Without a copy nobody must take for stored what can still be seen of
		// the failed commit.
		if dead := f.Err(); dead != nil {
			err = dead
		}
	}
	f.answer(group, err)
}

// answer tells each op what became of its commit.
func (f *File) answer(group []*op, err error) {
	for _, o := range group {
		switch {
		case o.err != nil:
		case err == nil:
			if o.after != nil {
				o.after()
			}
		case isDiskFull(err):
			o.err = f.filled(&FullError{Limit: LimitDisk})
		default:
			o.err = err
		}
		o.done <- o.err
	}
}

// try makes one commit of what the ops apply.
func (f *File) try(group []*op) (err error) {
	if err := f.Err(); err != nil {
		return err
	}
	before := f.meta
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%w: %v", errDamaged, p)
		}
		if err != nil {
			f.meta = before
		}
	}()
	began := time.Now()
	f.dbMu.RLock()
	defer f.dbMu.RUnlock()
	var marks []byte
	err = f.db.Update(func(tx *bolt.Tx) error {
		for _, o := range group {
			o.err = o.apply(tx)
			if fatal, ok := errors.AsType[*engineError](o.err); ok {
				return fatal.err
			}
		}
		var err error
		if marks, err = f.marksOf(tx); err != nil {
			return err
		}
		return putJSON(tx.Bucket([]byte("meta")), rowMeta, []byte("figures"), f.meta)
	})
	if err != nil {
		for _, o := range group {
			if o.err != nil && errors.Is(err, o.err) {
				o.err = nil // it is the commit's error
			}
			if _, ok := errors.AsType[*engineError](o.err); ok {
				o.err = nil
			}
		}
		return fmt.Errorf("commit: %w", err)
	}
	f.writeMarks(marks)
	if f.fsyncs != nil {
		f.fsyncs.Observe(time.Since(began).Seconds())
	}
	return nil
}

// rescue goes on with a copy after an error whose outcome is unknown: the
// failed commit may be visible, and the system may show pages that never
// reached the disk. If the copy fails, the journal is dead.
func (f *File) rescue(cause error) {
	f.report("writing the journal: %v; going on with a copy of it", cause)
	if err := f.copyAnew(); err != nil {
		f.mu.Lock()
		if f.deadErr == nil {
			f.deadErr = fmt.Errorf("%w: %w; copying it: %w", ErrDead, cause, err)
			close(f.dead)
		}
		f.mu.Unlock()
		return
	}
	_ = f.view(func(tx *bolt.Tx) error {
		f.advance(tx.Bucket([]byte("log")).Sequence())
		return decodeJSON(rowMeta, []byte("figures"), tx.Bucket([]byte("meta")).Get([]byte("figures")), &f.meta)
	})
}

func (f *File) filled(e *FullError) *FullError {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.full = e
	return e
}

// Append stores a batch.
func (f *File) Append(ctx context.Context, lease Lease, batch Batch) (uint64, error) {
	codec := f.codec()
	defer f.spare(codec)                    // the engine keeps nothing of a commit that has ended
	rows, need := codec.rows(batch.Changes) // outside of the transaction
	old := make([]int, len(batch.Changes))
	var last uint64
	seqs := make([]uint64, len(batch.Changes))
	f.pace.wait(f.closed)
	err := f.commit(ctx, &op{
		urgent: true, takesIn: true,
		apply: func(tx *bolt.Tx) error {
			if err := f.owns(lease, "source"); err != nil {
				return err
			}
			if err := f.expected(tx, batch.Changes, old); err != nil {
				return err
			}
			if need > 0 {
				if err := f.room(tx, need); err != nil {
					return err
				}
			}
			var err error
			if last, err = f.log(tx, rows); err != nil {
				return engine(err)
			}
			number(batch.Changes, rows, last, seqs)
			codec.states = codec.states[:0]
			for i, c := range batch.Changes {
				if err := f.change(tx, codec, c, seqs[i], old[i]); err != nil {
					return engine(err)
				}
			}
			return engine(f.appendSource(tx, batch))
		},
		after: func() {
			for i, c := range batch.Changes {
				if c.Record != nil {
					c.Record.Seq = seqs[i]
				}
			}
			f.recent.take(batch.Changes, rows)
			f.pace.wrote(last)
			if need > 0 {
				f.mu.Lock()
				f.full = nil
				f.mu.Unlock()
			}
			f.advance(last)
		},
	})
	if err != nil {
		return 0, err
	}
	for i := range batch.Changes {
		if batch.Changes[i].Record != nil {
			batch.Changes[i].State.LastRecord = seqs[i]
		}
	}
	return last, nil
}

// expected checks each key's stored sequence, and notes in old how many bytes
// the row of its state has, 0 when there is none.
func (f *File) expected(tx *bolt.Tx, changes []Change, old []int) error {
	cursor := tx.Bucket([]byte("state")).Cursor()
	var key []byte
	for i, c := range changes {
		key = appendStateKey(key[:0], c.Key)
		at, row := cursor.Seek(key)
		if !bytes.Equal(at, key) {
			row = nil
		}
		old[i] = len(row)
		var stored uint64
		if row != nil {
			payload, err := unseal(rowState, key, row)
			if err == nil {
				var st event.State
				if st, err = decodeState(payload); err == nil {
					stored = st.Sequence
				}
			}
			if err != nil {
				continue // a damaged state is replaced by whatever is known now
			}
		}
		if stored != c.Expect {
			return fmt.Errorf("%w: %s has sequence %d, not %d", ErrConflict, c.Key.FindingUID(), stored, c.Expect)
		}
	}
	return nil
}

// log appends rows to the log, and returns the number of the last record, 0
// when there is none.
func (f *File) log(tx *bolt.Tx, rows []packed) (last uint64, err error) {
	if len(rows) == 0 {
		return 0, nil
	}
	b := tx.Bucket([]byte("log"))
	b.FillPercent = 0.95 // sequences only grow
	last = b.Sequence()
	for i := range rows {
		last += uint64(rows[i].records)
		at := seqKey(last)
		sealRow(rows[i].kind(), at, rows[i].row)
		f.meta.Bytes += int64(len(at) + len(rows[i].row)) // nothing stands there
		if err := b.Put(at, rows[i].row); err != nil {
			return 0, err
		}
	}
	return last, b.SetSequence(last)
}

// number gives the changes that have a record their numbers, of which the last
// is known.
func number(changes []Change, rows []packed, last uint64, seqs []uint64) {
	next := last + 1
	for i := range rows {
		next -= uint64(rows[i].records)
	}
	for i := range changes {
		if seqs[i] = 0; changes[i].Record != nil {
			seqs[i] = next
			next++
		}
	}
}

// change stores what became of a key, whose state has a row of so many bytes
// until now. seq is the number of its record, 0 where it has none.
func (f *File) change(tx *bolt.Tx, codec *rowCodec, c Change, seq uint64, old int) error {
	states := tx.Bucket([]byte("state"))
	states.FillPercent = 0.9 // ids mostly grow
	codec.key = appendStateKey(codec.key[:0], c.Key)
	key := codec.key
	if c.Forget {
		f.meta.Keys--
		if err := f.remove(states, key); err != nil {
			return err
		}
		return f.forgetMemos(tx, key)
	}
	if seq != 0 {
		c.State.LastRecord = seq
	}
	if old == 0 {
		f.meta.Keys++
	} else {
		f.meta.Bytes -= int64(len(key) + old)
	}
	from := len(codec.states)
	codec.states = appendState(append(codec.states, make([]byte, rowHead)...), c.State)
	state := codec.states[from:len(codec.states):len(codec.states)]
	sealRow(rowState, key, state)
	f.meta.Bytes += int64(len(key) + len(state))
	return states.Put(key, state)
}

// put and remove keep account of the bytes of log, state and dead.
func (f *File) put(b *bolt.Bucket, key, row []byte) error {
	if old := b.Get(key); old != nil {
		f.meta.Bytes -= int64(len(key) + len(old))
	}
	f.meta.Bytes += int64(len(key) + len(row))
	return b.Put(key, row)
}

func (f *File) remove(b *bolt.Bucket, key []byte) error {
	if old := b.Get(key); old != nil {
		f.meta.Bytes -= int64(len(key) + len(old))
	}
	return b.Delete(key)
}

func (f *File) forgetMemos(tx *bolt.Tx, key []byte) error {
	b := tx.Bucket([]byte("memo"))
	for _, sink := range f.sinkNames() {
		if err := b.Delete(joinKey(sink, string(key))); err != nil {
			return err
		}
	}
	return nil
}

// The most certificates that are kept of a source.
const maxCertificates = 200

func (f *File) appendSource(tx *bolt.Tx, batch Batch) error {
	if batch.Source != nil {
		key := joinKey(batch.Source.Source, batch.Source.Kind)
		if err := putJSON(tx.Bucket([]byte("source")), rowSource, key, batch.Source); err != nil {
			return err
		}
	}
	cert := batch.Certificate
	if cert == nil {
		return nil
	}
	b := tx.Bucket([]byte("sweep"))
	prefix := joinKey(cert.Source, cert.Kind, "")
	key := binary.BigEndian.AppendUint64(prefix, uint64(cert.Ended.UnixNano()))
	if err := putJSON(b, rowSweep, key, cert); err != nil {
		return err
	}
	n := 0
	c := b.Cursor()
	for k := seekLast(c, prefix); hasPrefix(k, prefix); k, _ = c.Prev() {
		if n++; n > maxCertificates {
			if err := c.Delete(); err != nil {
				return err
			}
		}
	}
	return nil
}

// room makes room for so many bytes, or says who holds it up. History that
// every sink has goes first, whatever its age; then the sink whose cursor is
// last decides.
func (f *File) room(tx *bolt.Tx, need int64) error {
	limits, _ := f.settings()
	if time.Since(f.diskAt) > time.Second {
		if free, err := freeDisk(f.cfg.Dir); err == nil {
			f.diskFree, f.diskAt = free, time.Now()
		}
	}
	// Freed pages of the file are room that the disk need not give, if they are
	// more than each commit leaves behind.
	unused := int64(f.db.Stats().FreePageN) * int64(f.db.Info().PageSize)
	tight := f.diskAt.After(time.Time{}) && f.diskFree < limits.MinFreeDisk && unused < 2*need+spareBytes
	if !tight && f.meta.Bytes+need <= limits.MaxBytes {
		return nil
	}
	limit := "state.max_bytes"
	if tight {
		limit = limitFree
	}
	before := f.meta.Bytes
	enough := func() bool {
		if tight {
			return before-f.meta.Bytes >= 2*need+spareBytes
		}
		return f.meta.Bytes+need <= limits.MaxBytes-limits.MaxBytes/10
	}
	cursors, err := f.cursors(tx)
	if err != nil {
		return err
	}
	low := lowest(cursors) // a replay does not hold it: what every sink has had goes first
	freed, err := f.dropUpTo(tx, low, enough)
	if err != nil {
		return engine(err)
	}
	// Pages freed by this commit can be used by the next one: when the disk is
	// the limit, whoever asks comes again.
	if (!tight && f.meta.Bytes+need <= limits.MaxBytes) || (tight && freed > need) {
		return nil
	}
	return f.skip(tx, skipping{cursors: cursors, limit: limit, enough: enough})
}

type skipping struct {
	cursors map[string]Cursor
	limit   string
	enough  func() bool
}

// skip moves the cursors of the sinks that are last and may lose records, at
// most to the next sink's cursor, until a tenth of the space is free.
func (f *File) skip(tx *bolt.Tx, s skipping) error {
	log := tx.Bucket([]byte("log"))
	for !s.enough() {
		first, _ := log.Cursor().Seek(seqKey(lowest(s.cursors) + 1))
		if first == nil {
			return f.filled(&FullError{Limit: s.limit}) // no sink holds anything
		}
		end := lastSeq(first) // records go by the row
		next := uint64(math.MaxUint64)
		var behind []string
		for _, sink := range f.sinkNames() {
			switch c := s.cursors[sink]; {
			case c.Seq >= end:
				next = min(next, c.Seq)
			case f.onFull(sink) != OnFullSkip:
				return f.filled(&FullError{Limit: s.limit, Sink: sink})
			default:
				behind = append(behind, sink)
			}
		}
		if len(behind) == 0 {
			return f.filled(&FullError{Limit: s.limit})
		}
		reached := min(next, log.Sequence())
		if _, err := f.dropUpTo(tx, reached, s.enough); err != nil {
			return engine(err)
		}
		if kept, row := log.Cursor().First(); kept != nil {
			reached = min(reached, firstSeq(kept, row)-1)
		}
		for _, sink := range behind {
			from := s.cursors[sink].Seq
			gap := Gap{Sink: sink, Range: Range{First: from + 1, Last: reached}, Records: int(reached - from), Reason: "skip", At: time.Now().UTC()}
			if err := f.addGap(tx, gap); err != nil {
				return engine(err)
			}
			c := s.cursors[sink].movedTo(reached)
			s.cursors[sink] = c
			if err := putJSON(tx.Bucket([]byte("cursor")), rowCursor, []byte(sink), c); err != nil {
				return engine(err)
			}
		}
	}
	return nil
}

// movedTo is a cursor that has passed everything up to seq.
func (c Cursor) movedTo(seq uint64) Cursor {
	out := Cursor{Seq: max(c.Seq, seq)}
	for _, r := range c.Ahead {
		switch {
		case r.Last <= out.Seq:
		case r.First <= out.Seq+1:
			out.Seq = r.Last
		default:
			out.Ahead = append(out.Ahead, r)
		}
	}
	return out
}

func (f *File) addGap(tx *bolt.Tx, g Gap) error {
	b := tx.Bucket([]byte("gap"))
	// A gap that goes on is one gap.
	if k, row := b.Cursor().Last(); k != nil {
		var before Gap
		if decodeJSON(rowGap, k, row, &before) == nil && before.Sink == g.Sink && before.Reason == g.Reason && before.Range.Last+1 == g.Range.First {
			before.Range.Last, before.At = g.Range.Last, g.At
			before.Records += g.Records
			return putJSON(b, rowGap, k, before)
		}
	}
	n, err := b.NextSequence()
	if err != nil {
		return err
	}
	return putJSON(b, rowGap, seqKey(n), g)
}

// fillGaps takes records out of the gaps of a sink.
func fillGaps(tx *bolt.Tx, sink string, filled []Range) error {
	b := tx.Bucket([]byte("gap"))
	var touched [][]byte
	var rest []Gap
	err := b.ForEach(func(k, row []byte) error {
		var g Gap
		if err := decodeJSON(rowGap, k, row, &g); err != nil || g.Sink != sink {
			return nil //nolint:nilerr // a damaged gap cannot be filled
		}
		left := subtract(g.Range, filled)
		if len(left) == 1 && left[0] == g.Range {
			return nil
		}
		touched = append(touched, bytes.Clone(k))
		for _, r := range left {
			piece := g
			piece.Range, piece.Records = r, min(g.Records, int(r.Last-r.First+1))
			rest = append(rest, piece)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range touched {
		if err := b.Delete(k); err != nil {
			return err
		}
	}
	for _, g := range rest {
		n, err := b.NextSequence()
		if err != nil {
			return err
		}
		if err := putJSON(b, rowGap, seqKey(n), g); err != nil {
			return err
		}
	}
	return nil
}

// subtract returns what of r is in none of the ranges.
func subtract(r Range, ranges []Range) []Range {
	left := []Range{r}
	for _, take := range ranges {
		var next []Range
		for _, l := range left {
			if take.Last < l.First || l.Last < take.First {
				next = append(next, l)
				continue
			}
			if l.First < take.First {
				next = append(next, Range{l.First, take.First - 1})
			}
			if take.Last < l.Last {
				next = append(next, Range{take.Last + 1, l.Last})
			}
		}
		left = next
	}
	return left
}

// cursors are those of the configured sinks.
func (f *File) cursors(tx *bolt.Tx) (map[string]Cursor, error) {
	out := map[string]Cursor{}
	b := tx.Bucket([]byte("cursor"))
	for _, sink := range f.sinkNames() {
		var c Cursor
		if row := b.Get([]byte(sink)); row != nil {
			if err := decodeJSON(rowCursor, []byte(sink), row, &c); err != nil {
				return nil, engine(fmt.Errorf("cursor of sink %s: %w", sink, err))
			}
		}
		out[sink] = c
	}
	return out, nil
}

func lowest(cursors map[string]Cursor) uint64 {
	low := uint64(math.MaxUint64)
	for _, c := range cursors {
		low = min(low, c.Seq)
	}
	return low
}

// dropUpTo deletes the oldest records up to seq until enough says so.
func (f *File) dropUpTo(tx *bolt.Tx, seq uint64, enough func() bool) (freed int64, err error) {
	log := tx.Bucket([]byte("log"))
	return f.drop(tx, func(k, _ []byte) bool { return lastSeq(k) <= seq && !enough() }, log)
}

func (f *File) drop(tx *bolt.Tx, goes func(k, v []byte) bool, log *bolt.Bucket) (freed int64, err error) {
	var keys [][]byte
	c := log.Cursor()
	for k, v := c.First(); k != nil && len(keys) < 20*trimBatch; k, v = c.Next() {
		if !goes(k, v) {
			break
		}
		n := int64(len(k) + len(v))
		freed += n
		f.meta.Bytes -= n
		keys = append(keys, append([]byte(nil), k...))
	}
	for _, k := range keys {
		if err := log.Delete(k); err != nil {
			return freed, err
		}
	}
	if len(keys) == 0 {
		return 0, nil
	}
	return freed, f.trimBeside(tx, lastSeq(keys[len(keys)-1]))
}

// trimBeside removes the receipts of records that are gone, and notes what a
// sink that is not configured will not find when it returns.
func (f *File) trimBeside(tx *bolt.Tx, gone uint64) error {
	c := tx.Bucket([]byte("receipt")).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		if lastSeq(k) <= gone {
			var stored receipts
			_, row := c.Seek(k)
			if decodeJSON(rowReceipt, k, row, &stored) == nil && stored.last() > gone {
				continue
			}
			if err := c.Delete(); err != nil {
				return err
			}
		}
	}
	configured := map[string]bool{}
	for _, sink := range f.sinkNames() {
		configured[sink] = true
		if err := f.trimReplay(tx, sink, gone); err != nil {
			return err
		}
	}
	cursors := tx.Bucket([]byte("cursor"))
	type move struct {
		sink string
		c    Cursor
	}
	var moves []move
	err := cursors.ForEach(func(k, row []byte) error {
		var cur Cursor
		if configured[string(k)] {
			return nil
		}
		if err := decodeJSON(rowCursor, k, row, &cur); err != nil {
			return fmt.Errorf("cursor of sink %s: %w", k, err)
		}
		if cur.Seq < gone {
			moves = append(moves, move{string(k), cur})
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, m := range moves {
		g := Gap{Sink: m.sink, Range: Range{First: m.c.Seq + 1, Last: gone}, Records: int(gone - m.c.Seq), Reason: "trimmed", At: time.Now().UTC()}
		if err := f.addGap(tx, g); err != nil {
			return err
		}
		if err := putJSON(cursors, rowCursor, []byte(m.sink), m.c.movedTo(gone)); err != nil {
			return err
		}
	}
	return nil
}

// trimReplay moves a replay over records that are gone.
func (f *File) trimReplay(tx *bolt.Tx, sink string, gone uint64) error {
	r := replayOf(tx, sink)
	if r == nil || r.After >= gone {
		return nil
	}
	g := Gap{Sink: sink, Range: Range{First: r.After + 1, Last: gone}, Records: int(gone - r.After), Reason: "replay", At: time.Now().UTC()}
	if err := f.addGap(tx, g); err != nil {
		return err
	}
	r.After = gone
	return putJSON(tx.Bucket([]byte("replay")), rowReplay, []byte(sink), r)
}

// trimOld deletes records that every configured sink has and that are older
// than the retention, some at a time. It reports whether there are more.
func (f *File) trimOld(now time.Time) (more bool) {
	limits, _ := f.settings()
	before := now.Add(-limits.Retention).UnixMilli()
	o := &op{apply: func(tx *bolt.Tx) error {
		cursors, err := f.cursors(tx)
		if err != nil {
			return err
		}
		low, n := lowest(cursors), 0
		for sink := range cursors {
			if r := replayOf(tx, sink); r != nil {
				low = min(low, r.After)
			}
		}
		defer func() { more = n > trimBatch }()
		_, err = f.drop(tx, func(k, v []byte) bool {
			n += int(lastSeq(k) - firstSeq(k, v) + 1)
			return n <= trimBatch && lastSeq(k) <= low && len(v) >= rowHead+8 &&
				int64(binary.BigEndian.Uint64(v[rowHead:])) < before
		}, tx.Bucket([]byte("log")))
		return engine(err)
	}}
	o.done = make(chan error, 1)
	f.run([]*op{o})
	f.reserve()
	return more && <-o.done == nil
}

// Settle stores what became of records.
func (f *File) Settle(ctx context.Context, lease Lease, s Settlement) error {
	return f.commit(ctx, &op{apply: func(tx *bolt.Tx) error {
		if err := f.owns(lease, "sink"); err != nil {
			return err
		}
		b := tx.Bucket([]byte("cursor"))
		var stored Cursor
		if row := b.Get([]byte(s.Sink)); row != nil {
			if err := decodeJSON(rowCursor, []byte(s.Sink), row, &stored); err != nil {
				return engine(fmt.Errorf("cursor of sink %s: %w", s.Sink, err))
			}
		}
		replay, err := checkReplay(tx, s)
		if err != nil {
			return err
		}
		// A cursor never goes back: a full journal may have moved it on.
		next := s.Cursor.movedTo(stored.Seq)
		next.Begin = stored.Begin
		if len(s.Filled) > 0 {
			next.Begin = 0
			if left := subtract(Range{1, stored.Begin}, s.Filled); len(left) > 0 {
				next.Begin = left[len(left)-1].Last
			}
			if err := fillGaps(tx, s.Sink, s.Filled); err != nil {
				return engine(err)
			}
		}
		if err := putJSON(b, rowCursor, []byte(s.Sink), next); err != nil {
			return engine(err)
		}
		dead := tx.Bucket([]byte("dead"))
		for _, dl := range s.Dead {
			key := sinkSeqKey(s.Sink, dl.Record.Seq)
			if dead.Get(key) == nil {
				f.meta.Dead++
			}
			if err := f.put(dead, key, seal(rowDead, key, encodeDead(dl))); err != nil {
				return engine(err)
			}
		}
		for _, seq := range s.Revived {
			if dead.Get(sinkSeqKey(s.Sink, seq)) != nil {
				f.meta.Dead--
			}
			if err := f.remove(dead, sinkSeqKey(s.Sink, seq)); err != nil {
				return engine(err)
			}
		}
		if err := putReplay(tx, s.Sink, replay); err != nil {
			return engine(err)
		}
		if err := putReceipts(tx, s.Sink, s.Receipts); err != nil {
			return engine(err)
		}
		memos := tx.Bucket([]byte("memo"))
		for k, memo := range s.Memos {
			key := joinKey(s.Sink, string(stateKey(k)))
			if memo == "" {
				if err := memos.Delete(key); err != nil {
					return engine(err)
				}
			} else if err := memos.Put(key, seal(rowMemo, key, []byte(memo))); err != nil {
				return engine(err)
			}
		}
		return nil
	}})
}

// checkReplay returns what the settlement makes of the sink's replay: nil
// leaves it as it is.
func checkReplay(tx *bolt.Tx, s Settlement) (*Replay, error) {
	if s.Replay == nil {
		return nil, nil //nolint:nilnil // nothing to do
	}
	stored := replayOf(tx, s.Sink)
	next := *s.Replay
	switch {
	case stored != nil && stored.Begun.Equal(next.Begun):
		next.After = max(next.After, stored.After)
	case next.Ended:
		return nil, nil //nolint:nilnil // it ended before
	case stored != nil:
		return nil, &ReplayError{Running: true}
	default:
		k, row := tx.Bucket([]byte("log")).Cursor().First()
		oldest := tx.Bucket([]byte("log")).Sequence() + 1
		if k != nil {
			oldest = firstSeq(k, row)
		}
		if oldest > next.After+1 {
			return nil, &ReplayError{Oldest: oldest}
		}
	}
	return &next, nil
}

func putReplay(tx *bolt.Tx, sink string, r *Replay) error {
	b := tx.Bucket([]byte("replay"))
	switch {
	case r == nil:
		return nil
	case r.Ended:
		return b.Delete([]byte(sink))
	default:
		return putJSON(b, rowReplay, []byte(sink), r)
	}
}

// Forget removes what is kept of a sink that is not configured.
func (f *File) Forget(ctx context.Context, lease Lease, sink string) (dead int, err error) {
	if slices.Contains(f.sinkNames(), sink) {
		return 0, fmt.Errorf("%w: %s; take it out of the configuration first", ErrConfigured, sink)
	}
	err = f.commit(ctx, &op{urgent: true, apply: func(tx *bolt.Tx) error {
		if err := f.owns(lease, "sink"); err != nil {
			return err
		}
		dead = 0
		for _, name := range []string{"cursor", "replay"} {
			if err := tx.Bucket([]byte(name)).Delete([]byte(sink)); err != nil {
				return engine(err)
			}
		}
		for _, name := range []string{"dead", "receipt", "memo"} {
			b, prefix := tx.Bucket([]byte(name)), joinKey(sink, "")
			var keys [][]byte
			c := b.Cursor()
			for k, _ := c.Seek(prefix); hasPrefix(k, prefix); k, _ = c.Next() {
				keys = append(keys, bytes.Clone(k))
			}
			for _, k := range keys {
				if name == "dead" {
					dead++
					f.meta.Dead--
					err = f.remove(b, k)
				} else {
					err = b.Delete(k)
				}
				if err != nil {
					return engine(err)
				}
			}
		}
		return engine(forgetGaps(tx, sink))
	}})
	return dead, err
}

func forgetGaps(tx *bolt.Tx, sink string) error {
	b := tx.Bucket([]byte("gap"))
	var keys [][]byte
	err := b.ForEach(func(k, row []byte) error {
		var g Gap
		if decodeJSON(rowGap, k, row, &g) == nil && g.Sink == sink {
			keys = append(keys, bytes.Clone(k))
		}
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, b.Delete(k))
	}
	return err
}
