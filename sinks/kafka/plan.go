package kafka

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

// Upper bounds of what the format of batches adds, in bytes.
const (
	batchOverhead  = 61
	recordOverhead = 32 // attributes, lengths, differences of time and offset
	headerOverhead = 10 // two lengths
)

// A plan says which records go where.
type plan struct {
	lanes   []*lane
	refused map[int]error // by index into the batch; never nil
}

// A lane is the records for one partition and what became of them. One
// goroutine works on it.
type lane struct {
	partition int
	records   []kafka.Record
	sizes     []int64 // of the records, in a batch
	indexes   []int   // of the records, in the batch of Send

	sent   []chunk
	failed map[int]error // by index into the batch of Send
	stale  bool          // the link is not to be used again
}

// A chunk is a run of a lane's records that was appended.
type chunk struct {
	records int
	offset  int64 // of the first
}

// plan assigns records to partitions. It copies what the batch holds: the
// client may still write a request when its answer is no longer awaited.
func (s *Sink) plan(batch []sinks.Message, partitions []kafka.Partition, a *arena) *plan {
	p := &plan{refused: map[int]error{}}
	ids := make([]int, len(partitions))
	for i := range partitions {
		ids[i] = partitions[i].ID
	}
	lanes := map[int]*lane{}
	waits := map[string]bool{} // keys of which a record was refused
	for i := range batch {
		m := &batch[i]
		text := s.key(m.Record)
		if waits[text] {
			p.refused[i] = errors.New("not sent: an earlier record of the same key was refused")
			continue
		}
		key := keep(a, text)
		record := s.record(m, key, a)
		size := sizeOf(record)
		if err := s.acceptable(m, size); err != nil {
			p.refused[i], waits[text] = err, true
			continue
		}
		id := kafka.Murmur2Balancer{Consistent: true}.Balance(kafka.Message{Key: key}, ids...)
		l := lanes[id]
		if l == nil {
			l = &lane{partition: id, failed: map[int]error{}}
			lanes[id] = l
			p.lanes = append(p.lanes, l)
		}
		l.records, l.sizes, l.indexes = append(l.records, record), append(l.sizes, size), append(l.indexes, i)
	}
	return p
}

// acceptable refuses what no broker would take as it is meant.
func (s *Sink) acceptable(m *sinks.Message, size int64) error {
	switch {
	case len(m.Body) == 0:
		return sinks.Poison(errors.New("empty body: a compacted topic would take it for a deletion"))
	case size+batchOverhead > s.cfg.MaxMessageBytes:
		return sinks.TooLarge(fmt.Errorf("record of %d bytes is larger than max_message_bytes, %d", size+batchOverhead, s.cfg.MaxMessageBytes))
	default:
		return nil
	}
}

// key returns the text of the record's key.
func (s *Sink) key(r *event.Record) string {
	if s.cfg.Key == KeyEvent {
		return r.UID
	}
	return format.Of(r).UID
}

// record makes the record of a message.
func (s *Sink) record(m *sinks.Message, key []byte, a *arena) kafka.Record {
	headers := a.headers(4)
	headers = append(headers,
		kafka.Header{Key: "event_uid", Value: keep(a, m.Record.UID)},
		kafka.Header{Key: "action", Value: keep(a, format.Of(m.Record).ActionName)},
	)
	if len(s.schema) > 0 {
		headers = append(headers, kafka.Header{Key: "schema", Value: s.schema})
	}
	if len(s.mime) > 0 {
		headers = append(headers, kafka.Header{Key: "content-type", Value: s.mime})
	}
	// The time of observation, not of detection: brokers delete by the times of
	// records and refuse old ones, and a backfill is old.
	at := m.Record.ObservedAt
	if at.IsZero() {
		at = time.Now()
	}
	return kafka.Record{Time: at, Key: kafka.NewBytes(key), Value: kafka.NewBytes(keep(a, m.Body)), Headers: headers}
}

// sizeOf returns how many bytes a record takes in a batch, at most.
func sizeOf(r kafka.Record) int64 {
	size := int64(recordOverhead)
	for _, part := range []kafka.Bytes{r.Key, r.Value} {
		if part != nil {
			size += int64(part.Len())
		}
	}
	for _, h := range r.Headers {
		size += int64(headerOverhead + len(h.Key) + len(h.Value))
	}
	return size
}

// next returns how many of the lane's records from the given one go into the
// next batch, at least one.
func (l *lane) next(from int, limit int64) int {
	size := batchOverhead + l.sizes[from]
	n := 1
	for from+n < len(l.records) && size+l.sizes[from+n] <= limit {
		size += l.sizes[from+n]
		n++
	}
	return n
}

// An arena is memory for the copies of one batch, in few pieces.
type arena struct {
	bytes []byte
	heads []kafka.Header
}

// arena makes room for a batch, in the memory of one that was sent where there
// is such.
func (s *Sink) arena(batch []sinks.Message) *arena {
	const others = 256 // key, uid, action
	size := 0
	for i := range batch {
		size += len(batch[i].Body) + others
	}
	a, _ := s.arenas.Get().(*arena)
	if a == nil {
		a = &arena{}
	}
	a.bytes, a.heads = slices.Grow(a.bytes[:0], size), slices.Grow(a.heads[:0], 4*len(batch))
	return a
}

// keep copies text; the result is never nil.
func keep[T string | []byte](a *arena, text T) []byte {
	if len(text) > cap(a.bytes)-len(a.bytes) {
		a.bytes = make([]byte, 0, max(len(text), 4096))
	}
	start := len(a.bytes)
	a.bytes = append(a.bytes, text...)
	return a.bytes[start:len(a.bytes):len(a.bytes)]
}

// headers returns an empty list with room for n.
func (a *arena) headers(n int) []kafka.Header {
	start := len(a.heads)
	if start+n > cap(a.heads) {
		return make([]kafka.Header, 0, n)
	}
	a.heads = a.heads[:start+n]
	return a.heads[start : start : start+n]
}
