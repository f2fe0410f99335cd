package delivery

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

// An item is one record that is owed to the sink.
type item struct {
	seq      uint64
	key      event.Key
	rec      *event.Record // nil: it is read from the journal before it is sent
	body     []byte
	attempts int
	origin   origin
}

// A batch is what the reader made of a stretch of the journal.
type batch struct {
	items   []item
	read    uint64               // the stretch ends here
	refused int                  // records that the condition refused
	dead    []journal.DeadLetter // records that could not be encoded
	arena   []byte               // what the bodies lie in
	err     error                // the journal cannot be read any more
}

// refusedMax is the most records that the condition refuses before the cursor
// moves over them.
const refusedMax = 10_000

// A reader reads the journal ahead of the worker: it filters, encodes and cuts
// into batches.
type reader struct {
	w      *Worker
	pos    uint64          // read up to here
	ahead  []journal.Range // settled before this start
	unread []*event.Record // read and not yet looked at
	spare  <-chan []byte   // arenas to use again
	limits sinks.Limits
	waited uint64 // pos+1 of the last wait, 0 when there was none
	origin origin // of what it reads
}

// limits are the bounds of one batch.
func (w *Worker) limits() sinks.Limits {
	l := sinks.Limits{Records: w.cfg.BatchRecords, Bytes: int(w.cfg.BatchBytes)}
	if w.cfg.RateLimit > 0 {
		l.Records = min(l.Records, max(1, int(w.cfg.RateLimit)))
	}
	if s, ok := w.sink.(sinks.Limiter); ok {
		own := s.Limits()
		if own.Records > 0 {
			l.Records = min(l.Records, own.Records)
		}
		if own.Bytes > 0 {
			l.Bytes = min(l.Bytes, own.Bytes)
		}
	}
	return l
}

// run hands out batches until ctx is done or the journal is closed.
func (rd *reader) run(ctx context.Context, out chan<- *batch) {
	for ctx.Err() == nil {
		rd.limits = rd.w.limits()
		b := rd.next(ctx)
		if b == nil {
			continue
		}
		select {
		case out <- b:
		case <-ctx.Done():
		}
		if b.err != nil {
			return
		}
	}
}

// next makes the next batch; it waits for records where there are none. It
// returns nil when ctx is done.
func (rd *reader) next(ctx context.Context) *batch {
	b := &batch{}
	select {
	case b.arena = <-rd.spare:
	default:
	}
	started := false
	for {
		if b.arena == nil && len(rd.unread) > 0 {
			b.arena = make([]byte, 0, rd.expected())
		}
		if len(rd.unread) == 0 {
			if err := rd.fill(ctx); err != nil {
				return &batch{err: err}
			}
		}
		if len(rd.unread) == 0 {
			if started {
				return b
			}
			if !rd.await(ctx) {
				return nil
			}
			continue
		}
		rec := rd.unread[0]
		if !rd.take(b, rec) {
			return b
		}
		started = true
		rd.unread[0] = nil
		rd.unread = rd.unread[1:]
		rd.pos, b.read = rec.Seq, rec.Seq
		if len(b.items) == rd.limits.Records || b.refused == refusedMax {
			return b
		}
	}
}

// expected is about how long the bodies of the next batch are.
func (rd *reader) expected() int {
	size := 0
	for _, rec := range rd.unread {
		size += 2*len(rec.Raw) + 512
	}
	return min(size, rd.limits.Bytes+8<<10)
}

// upTo makes the next batch of a replay, of records up to end that are not owed
// to the sink. It does not wait.
func (rd *reader) upTo(ctx context.Context, end uint64, owes func(seq uint64) bool) (*batch, error) {
	b := &batch{}
	for len(b.items) < rd.limits.Records && b.refused < refusedMax {
		if len(rd.unread) == 0 {
			if err := rd.fill(ctx); err != nil || ctx.Err() != nil {
				return b, err
			}
		}
		if len(rd.unread) == 0 || rd.unread[0].Seq > end {
			rd.pos, b.read = end, end
			return b, nil
		}
		rec := rd.unread[0]
		if !owes(rec.Seq) && !rd.take(b, rec.Again()) {
			return b, nil
		}
		rd.unread[0] = nil
		rd.unread = rd.unread[1:]
		rd.pos, b.read = rec.Seq, rec.Seq
	}
	return b, nil
}

// take looks at one record. It returns false when the batch has no room for it.
func (rd *reader) take(b *batch, rec *event.Record) bool {
	switch {
	case rd.settled(rec.Seq):
		return true
	case rd.w.cfg.StartFrom == StartNow && rec.Backfill, !rd.w.wants(rec):
		b.refused++
		return true
	}
	it := item{seq: rec.Seq, key: rec.Key, rec: rec, origin: rd.origin}
	from := len(b.arena)
	arena, err := rd.w.encodeTo(b.arena, rec)
	switch {
	case err != nil:
		b.dead = append(b.dead, unencodable(rec, err))
		return true
	case len(b.items) > 0 && len(arena) > rd.limits.Bytes:
		return false
	}
	b.arena, it.body = arena, body(arena, from)
	if b.items == nil {
		b.items = make([]item, 0, len(rd.unread))
	}
	b.items = append(b.items, it)
	return true
}

// body is what was appended to arena from a length on; nil when nothing was.
func body(arena []byte, from int) []byte {
	if len(arena) == from {
		return nil
	}
	return arena[from:len(arena):len(arena)]
}

// settled reports whether a record was settled before this start.
func (rd *reader) settled(seq uint64) bool {
	for len(rd.ahead) > 0 && rd.ahead[0].Last < seq {
		rd.ahead = rd.ahead[1:]
	}
	return len(rd.ahead) > 0 && rd.ahead[0].First <= seq
}

// fill reads on. It repeats a read that fails, and returns an error only when
// the journal is closed.
func (rd *reader) fill(ctx context.Context) error {
	if rd.settled(rd.pos) {
		rd.pos = rd.ahead[0].Last
	}
	return rd.w.repeat(ctx, "read the journal", func() (err error) {
		rd.unread, err = rd.w.journal.Read(ctx, rd.pos, rd.limits.Records, rd.limits.Bytes)
		return err
	})
}

// await waits until there is more to read. It returns false when ctx is done.
func (rd *reader) await(ctx context.Context) bool {
	select {
	case <-rd.w.journal.Changed(rd.pos):
	case <-ctx.Done():
		return false
	}
	if rd.waited == rd.pos+1 {
		// There is something and Read does not give it: damaged records.
		return sleep(ctx, time.Second)
	}
	rd.waited = rd.pos + 1
	return true
}

// repeat calls what until it succeeds or ctx is done. It returns an error when
// there is no point in going on.
func (w *Worker) repeat(ctx context.Context, doing string, what func() error) error {
	wait := newBackoff(retryFirst, retryMax)
	for tries := 1; ; tries++ {
		err := what()
		switch {
		case err == nil:
			if tries > 1 {
				w.log.Info("the journal works again", zap.String("doing", doing), zap.Int("attempts", tries))
			}
			return nil
		case ctx.Err() != nil:
			return nil //nolint:nilerr // asked to end; the journal keeps what was not done
		case errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrLeaseLost):
			return fmt.Errorf("%s: %w", doing, err)
		case tries == 1:
			w.log.Error("the journal fails, trying again", zap.String("doing", doing), zap.Error(err))
		}
		pause := wait.NextBackOff()
		w.beat(sending, pause+working)
		if !sleep(ctx, pause) {
			return nil
		}
	}
}

// encodeTo appends the body of a record to dst. What an encoder panics with is
// an error: one record must not end the program, at every start again.
func (w *Worker) encodeTo(dst []byte, rec *event.Record) (out []byte, err error) {
	w.encoding.Lock()
	defer w.encoding.Unlock()
	defer func() {
		if p := recover(); p != nil {
			out, err = nil, fmt.Errorf("encoder panicked: %v", p)
		}
	}()
	if w.rules != nil {
		w.rules.Read(rec) // for whoever asks format.Of later
	}
	if w.encode == nil {
		return dst, nil
	}
	return w.encode(dst, rec)
}

// unencodable is the dead letter of a record that has no form in the sink's
// format. Trying again would give the same.
func unencodable(rec *event.Record, err error) journal.DeadLetter {
	return journal.DeadLetter{Record: rec, Reason: clean(err), Class: classEncode, At: time.Now().UTC()}
}
