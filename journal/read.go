package journal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"github.com/cwprelay/cwprelay/event"
)

func hasPrefix(k, prefix []byte) bool { return k != nil && bytes.HasPrefix(k, prefix) }

// seekLast goes to the last key with a prefix, or before it.
func seekLast(c *bolt.Cursor, prefix []byte) []byte {
	k, _ := c.Seek(append(bytes.Clone(prefix), bytes.Repeat([]byte{0xff}, 9)...))
	if k == nil {
		k, _ = c.Last()
		return k
	}
	k, _ = c.Prev()
	return k
}

// Read returns records in order.
func (f *File) Read(ctx context.Context, after uint64, limit, maxBytes int) ([]*event.Record, error) {
	var out []*event.Record
	var damaged []uint64
	err := f.view(func(tx *bolt.Tx) error {
		size := 0
		c := tx.Bucket([]byte("log")).Cursor()
		for k, row := c.Seek(seqKey(after + 1)); k != nil && len(out) < limit; k, row = c.Next() {
			records, err := f.recent.open(k, row, after+1)
			if err != nil {
				damaged = append(damaged, lastSeq(k))
				continue
			}
			for _, rec := range records[:min(len(records), limit-len(out))] {
				if size += len(rec.Raw); maxBytes > 0 && size > maxBytes && len(out) > 0 {
					return ctx.Err()
				}
				out = append(out, rec)
			}
		}
		return ctx.Err()
	})
	if len(out) > 0 {
		f.pace.readTo(out[len(out)-1].Seq)
	}
	if err == nil && len(damaged) > 0 {
		err = f.loseRows(ctx, damaged)
	}
	return out, err
}

// loseRows removes rows of the log that cannot be read, and notes for each sink
// that did not have all of their records what it will not get.
func (f *File) loseRows(ctx context.Context, keys []uint64) error {
	lost, first := 0, uint64(0)
	err := f.commit(ctx, &op{urgent: true, apply: func(tx *bolt.Tx) error {
		cursors, err := f.cursors(tx)
		if err != nil {
			return err
		}
		lost = 0
		for _, last := range keys {
			r, there := damagedRange(tx, last)
			if !there {
				continue // another reader was first
			}
			if lost == 0 {
				first = r.First
			}
			lost += int(r.Last - r.First + 1)
			if err := f.remove(tx.Bucket([]byte("log")), seqKey(last)); err != nil {
				return engine(err)
			}
			for sink, c := range cursors {
				if c.Seq >= r.Last {
					continue
				}
				missed := Range{First: max(r.First, c.Seq+1), Last: r.Last}
				g := Gap{Sink: sink, Range: missed, Records: int(missed.Last - missed.First + 1), Reason: "damage", At: time.Now().UTC()}
				if err := f.addGap(tx, g); err != nil {
					return engine(err)
				}
			}
		}
		f.meta.Damaged += lost
		return nil
	}})
	if lost > 0 {
		f.report("%d records of the journal are damaged and cannot be delivered, the first is number %d", lost, first)
	}
	return err
}

// damagedRange is the records of a row that cannot be read. What it says itself
// of how many it holds may be damaged, too: as many count as there is room for
// behind the row before.
func damagedRange(tx *bolt.Tx, last uint64) (r Range, there bool) {
	c := tx.Bucket([]byte("log")).Cursor()
	key, row := c.Seek(seqKey(last))
	if key == nil || lastSeq(key) != last {
		return r, false
	}
	r = Range{First: last, Last: last}
	if len(row) == 0 || row[0] != rowRecord {
		r.First = last - min(last, runRecords) + 1
	}
	if before, _ := c.Prev(); before != nil {
		r.First = max(r.First, lastSeq(before)+1)
	}
	return r, true
}

// Get returns one record.
func (f *File) Get(ctx context.Context, seq uint64) (rec *event.Record, err error) {
	var damaged []uint64
	err = f.view(func(tx *bolt.Tx) error {
		key, row := tx.Bucket([]byte("log")).Cursor().Seek(seqKey(seq))
		if key == nil || firstSeq(key, row) > seq {
			return nil
		}
		records, err := f.recent.open(key, row, seq)
		if err != nil {
			damaged = []uint64{lastSeq(key)}
			return nil //nolint:nilerr // what is damaged is noted below
		}
		rec = records[0]
		return nil
	})
	if err == nil && damaged != nil {
		err = f.loseRows(ctx, damaged)
	}
	return rec, err
}

// States returns keys of one account and kind in order.
func (f *File) States(ctx context.Context, account, kind, afterID string, limit int) ([]KeyState, error) {
	const most = 4096
	out := make([]KeyState, 0, min(limit, most))
	damaged := 0
	err := f.view(func(tx *bolt.Tx) error {
		prefix := joinKey(account, kind, "")
		c := tx.Bucket([]byte("state")).Cursor()
		from := append(bytes.Clone(prefix), afterID...)
		k, row := c.Seek(from)
		if afterID != "" && bytes.Equal(k, from) {
			k, row = c.Next()
		}
		for ; hasPrefix(k, prefix) && len(out) < limit; k, row = c.Next() {
			payload, err := unseal(rowState, k, row)
			var st event.State
			if err == nil {
				st, err = decodeState(payload)
			}
			if err != nil {
				damaged++
				continue
			}
			out = append(out, KeyState{Key: event.Key{Account: account, Kind: kind, ID: string(k[len(prefix):])}, State: st})
		}
		return ctx.Err()
	})
	if damaged > 0 {
		f.report("the states of %d events are damaged: they will be taken in as new", damaged)
	}
	return out, err
}

// Source returns what is kept of a source.
func (f *File) Source(_ context.Context, source, kind string) (Source, error) {
	s := Source{Source: source, Kind: kind}
	err := f.view(func(tx *bolt.Tx) error {
		key := joinKey(source, kind)
		row := tx.Bucket([]byte("source")).Get(key)
		if row == nil {
			return nil
		}
		return decodeJSON(rowSource, key, row, &s)
	})
	if errors.Is(err, errDamaged) {
		f.report("what was kept of source %s is damaged: it begins anew", source)
		return Source{Source: source, Kind: kind}, nil
	}
	return s, err
}

// Certificates returns the newest certificates.
func (f *File) Certificates(_ context.Context, source, kind string, limit int) ([]Certificate, error) {
	var out []Certificate
	err := f.view(func(tx *bolt.Tx) error {
		prefix := joinKey(source, kind, "")
		c := tx.Bucket([]byte("sweep")).Cursor()
		for k := seekLast(c, prefix); hasPrefix(k, prefix) && len(out) < limit; k, _ = c.Prev() {
			var cert Certificate
			if decodeJSON(rowSweep, k, tx.Bucket([]byte("sweep")).Get(k), &cert) == nil {
				out = append(out, cert)
			}
		}
		return nil
	})
	return out, err
}

// Cursor returns how far a sink has come.
func (f *File) Cursor(_ context.Context, sink string) (c Cursor, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		row := tx.Bucket([]byte("cursor")).Get([]byte(sink))
		if row == nil {
			return nil
		}
		return decodeJSON(rowCursor, []byte(sink), row, &c)
	})
	if err != nil {
		err = fmt.Errorf("cursor of sink %s: %w", sink, err)
	}
	return c, err
}

// Replay returns the replay of a sink.
func (f *File) Replay(_ context.Context, sink string) (r *Replay, err error) {
	err = f.view(func(tx *bolt.Tx) error {
		r = replayOf(tx, sink)
		return nil
	})
	return r, err
}

// replayOf reads the replay of a sink, nil when it has none. A damaged row is
// none, and can be begun again; it is reported when the journal is opened.
func replayOf(tx *bolt.Tx, sink string) *Replay {
	row := tx.Bucket([]byte("replay")).Get([]byte(sink))
	r := &Replay{}
	if row == nil || decodeJSON(rowReplay, []byte(sink), row, r) != nil {
		return nil
	}
	return r
}

// Memos returns what a sink remembered.
func (f *File) Memos(_ context.Context, sink string, keys []event.Key) (map[event.Key]string, error) {
	out := map[event.Key]string{}
	err := f.view(func(tx *bolt.Tx) error {
		c := tx.Bucket([]byte("memo")).Cursor()
		prefix := joinKey(sink, "")
		if first, _ := c.Seek(prefix); !hasPrefix(first, prefix) {
			return nil // few sinks remember anything
		}
		var key []byte
		for _, k := range keys {
			key = appendStateKey(append(key[:0], prefix...), k)
			at, row := c.Seek(key)
			if !bytes.Equal(at, key) {
				continue
			}
			if payload, err := unseal(rowMemo, key, row); err == nil {
				out[k] = string(payload)
			}
		}
		return nil
	})
	return out, err
}

// DeadLetters returns dead letters in order.
func (f *File) DeadLetters(_ context.Context, sink string, after uint64, limit int) ([]DeadLetter, error) {
	var out []DeadLetter
	var damaged []uint64
	err := f.view(func(tx *bolt.Tx) error {
		prefix := joinKey(sink, "")
		c := tx.Bucket([]byte("dead")).Cursor()
		for k, row := c.Seek(sinkSeqKey(sink, after+1)); hasPrefix(k, prefix) && len(out) < limit; k, row = c.Next() {
			payload, err := unseal(rowDead, k, row)
			var dl DeadLetter
			if err == nil {
				dl, err = decodeDead(lastSeq(k), payload)
			}
			if err != nil {
				damaged = append(damaged, lastSeq(k))
				continue
			}
			out = append(out, dl)
		}
		return nil
	})
	if len(damaged) > 0 {
		f.report("%d dead letters of sink %s are damaged and cannot be read, the first is of record %d", len(damaged), sink, damaged[0])
	}
	return out, err
}

// Receipts returns those of the batches that a record was in. A batch holds at
// most some ten thousand records, so only the receipts shortly before the
// record can be meant. Of those that begin at one record the earlier come first.
func (f *File) Receipts(_ context.Context, sink string, seq uint64) ([]Receipt, error) {
	const most = 10_000 // of a range, refused ones aside
	var out []Receipt
	err := f.view(func(tx *bolt.Tx) error {
		prefix := joinKey(sink, "")
		c := tx.Bucket([]byte("receipt")).Cursor()
		before := c.Prev
		if behind, _ := c.Seek(sinkSeqKey(sink, seq+1)); behind == nil {
			before = c.Last
		}
		key, row := before()
		for n := 0; hasPrefix(key, prefix) && n < most; n++ {
			var stored receipts
			if err := decodeJSON(rowReceipt, key, row, &stored); err == nil {
				for _, r := range slices.Backward(stored.all()) {
					if r.Range.First <= seq && seq <= r.Range.Last {
						out = append(out, r)
					}
				}
			}
			key, row = c.Prev()
		}
		return nil
	})
	slices.Reverse(out)
	return out, err
}

// Status returns figures for people.
func (f *File) Status(_ context.Context) (Status, error) {
	f.mu.Lock()
	s := Status{MaxBytes: f.limits.MaxBytes, Full: f.full, SetAside: f.aside}
	f.mu.Unlock()
	err := f.view(func(tx *bolt.Tx) error {
		var m meta
		if row := tx.Bucket([]byte("meta")).Get([]byte("figures")); row != nil {
			if err := decodeJSON(rowMeta, []byte("figures"), row, &m); err != nil {
				return err
			}
		}
		s.Keys, s.Damaged, s.Bytes = m.Keys, m.Damaged, m.Bytes
		s.FreeBytes = int64(f.db.Stats().FreePageN) * int64(f.db.Info().PageSize)
		log := tx.Bucket([]byte("log"))
		if k, row := log.Cursor().First(); k != nil {
			last, _ := log.Cursor().Last()
			s.First, s.Last = firstSeq(k, row), lastSeq(last)
			s.Records = int(s.Last - s.First + 1)
		}
		if err := f.sinkStatuses(tx, &s); err != nil {
			return err
		}
		return tx.Bucket([]byte("gap")).ForEach(func(k, row []byte) error {
			var g Gap
			if decodeJSON(rowGap, k, row, &g) == nil {
				s.Gaps = append(s.Gaps, g)
			}
			return nil
		})
	})
	if info, statErr := os.Stat(f.path); statErr == nil {
		s.FileBytes = info.Size()
	}
	return s, err
}

func (f *File) sinkStatuses(tx *bolt.Tx, s *Status) error {
	configured := map[string]bool{}
	for _, sink := range f.sinkNames() {
		configured[sink] = true
	}
	dead := map[string]int{}
	c := tx.Bucket([]byte("dead")).Cursor()
	for k, _ := c.First(); k != nil; k, _ = c.Next() {
		dead[string(k[:bytes.IndexByte(k, 0)])]++
	}
	log := tx.Bucket([]byte("log"))
	return tx.Bucket([]byte("cursor")).ForEach(func(k, row []byte) error {
		st := SinkStatus{Sink: string(k), Configured: configured[string(k)], Dead: dead[string(k)]}
		if err := decodeJSON(rowCursor, k, row, &st.Cursor); err != nil {
			return fmt.Errorf("cursor of sink %s: %w", k, err)
		}
		st.Replay = replayOf(tx, st.Sink)
		from := max(st.Cursor.Seq, max(s.First, 1)-1)
		if s.Last > from {
			st.Behind = int(s.Last - from)
			for _, r := range st.Cursor.Ahead {
				st.Behind -= int(r.Last - r.First + 1)
			}
		}
		if key, row := log.Cursor().Seek(seqKey(from + 1)); key != nil && st.Behind > 0 {
			if records, err := f.recent.open(key, row, from+1); err == nil {
				st.Oldest = records[0].ObservedAt
			}
		}
		prefix := joinKey(st.Sink, "")
		if key := seekLast(tx.Bucket([]byte("receipt")).Cursor(), prefix); hasPrefix(key, prefix) {
			_ = decodeJSON(rowReceipt, key, tx.Bucket([]byte("receipt")).Get(key), &st.Last)
		}
		s.Sinks = append(s.Sinks, st)
		return nil
	})
}
