package delivery_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errNetwork stands for a failure of the network.
var errNetwork = errors.New("dial tcp 192.0.2.1:8088: connection refused")

// A memory is a journal in memory. It checks what it is told to store.
type memory struct {
	journal.Journal // what workers do not call

	mu       sync.Mutex
	records  []*event.Record // by sequence
	cursors  map[string]journal.Cursor
	dead     map[string][]journal.DeadLetter
	receipts map[string][]journal.Receipt
	memos    map[string]map[event.Key]string
	replays  map[string]*journal.Replay
	buried   int // dead letters stored, repeats included
	waiting  []waiter
	closed   bool

	settles   int
	failWith  func(settle int) error // before anything is stored
	onSettle  func(journal.Settlement)
	readFails int // so many reads fail
}

type waiter struct {
	after uint64
	c     chan struct{}
}

func newMemory() *memory {
	return &memory{
		cursors: map[string]journal.Cursor{}, dead: map[string][]journal.DeadLetter{},
		receipts: map[string][]journal.Receipt{}, memos: map[string]map[event.Key]string{}, replays: map[string]*journal.Replay{},
	}
}

func (m *memory) add(recs ...*event.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records = append(m.records, recs...)
	last := m.records[len(m.records)-1].Seq
	m.waiting = slices.DeleteFunc(m.waiting, func(w waiter) bool {
		if w.after < last {
			close(w.c)
			return true
		}
		return false
	})
}

type lease string

func (l lease) Owner() string { return string(l) }
func (lease) Release() error  { return nil }

func (m *memory) Lease(_ context.Context, owner string) (journal.Lease, error) {
	return lease(owner), nil
}

func (m *memory) Read(_ context.Context, after uint64, limit, maxBytes int) ([]*event.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return nil, journal.ErrClosed
	}
	if m.readFails > 0 {
		m.readFails--
		return nil, errors.New("input/output error")
	}
	var out []*event.Record
	size := 0
	for _, r := range m.records {
		if r.Seq <= after {
			continue
		}
		size += len(r.Raw)
		if len(out) == limit || (len(out) > 0 && maxBytes > 0 && size > maxBytes) {
			break
		}
		out = append(out, r)
	}
	return out, nil
}

func (m *memory) Get(_ context.Context, seq uint64) (*event.Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.records {
		if r.Seq == seq {
			return r, nil
		}
	}
	return nil, nil
}

func (m *memory) Changed(after uint64) <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := make(chan struct{})
	if n := len(m.records); n > 0 && m.records[n-1].Seq > after {
		close(c)
	} else {
		m.waiting = append(m.waiting, waiter{after, c})
	}
	return c
}

func (m *memory) Cursor(_ context.Context, sink string) (journal.Cursor, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.cursors[sink], nil
}

func (m *memory) Replay(_ context.Context, sink string) (*journal.Replay, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.replays[sink], nil
}

func (m *memory) Receipts(context.Context, string, uint64) ([]journal.Receipt, error) {
	return nil, nil
}

func (m *memory) DeadLetters(_ context.Context, sink string, after uint64, limit int) ([]journal.DeadLetter, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var out []journal.DeadLetter
	for _, d := range m.dead[sink] {
		if d.Record.Seq > after {
			out = append(out, d)
		}
	}
	slices.SortFunc(out, func(a, b journal.DeadLetter) int { return cmp.Compare(a.Record.Seq, b.Record.Seq) })
	return out[:min(limit, len(out))], nil
}

func (m *memory) Memos(_ context.Context, sink string, keys []event.Key) (map[event.Key]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[event.Key]string{}
	for _, k := range keys {
		if v, ok := m.memos[sink][k]; ok {
			out[k] = v
		}
	}
	return out, nil
}

func (m *memory) Settle(_ context.Context, l journal.Lease, s journal.Settlement) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.settles++
	if l.Owner() != "sink/"+s.Sink {
		return journal.ErrLeaseLost
	}
	if m.failWith != nil {
		if err := m.failWith(m.settles); err != nil {
			return err
		}
	}
	old := m.cursors[s.Sink]
	if s.Cursor.Seq < old.Seq {
		panic(fmt.Sprintf("cursor goes back from %d to %d", old.Seq, s.Cursor.Seq))
	}
	at := s.Cursor.Seq
	for _, r := range s.Cursor.Ahead {
		if r.First <= at || r.Last < r.First {
			panic(fmt.Sprintf("ranges %v of the cursor are not ascending and disjoint behind %d", s.Cursor.Ahead, s.Cursor.Seq))
		}
		at = r.Last
	}
	if m.onSettle != nil {
		m.onSettle(s)
	}
	m.cursors[s.Sink] = s.Cursor
	if s.Replay != nil {
		if stored := m.replays[s.Sink]; stored != nil && !stored.Begun.Equal(s.Replay.Begun) {
			return &journal.ReplayError{Running: true}
		}
		m.replays[s.Sink] = s.Replay
		if s.Replay.Ended {
			delete(m.replays, s.Sink)
		}
	}
	for _, d := range s.Dead {
		m.dead[s.Sink] = slices.DeleteFunc(m.dead[s.Sink], func(x journal.DeadLetter) bool { return x.Record.Seq == d.Record.Seq })
		m.buried++
	}
	m.dead[s.Sink] = slices.DeleteFunc(m.dead[s.Sink], func(x journal.DeadLetter) bool { return slices.Contains(s.Revived, x.Record.Seq) })
	m.dead[s.Sink] = append(m.dead[s.Sink], s.Dead...)
	m.receipts[s.Sink] = append(m.receipts[s.Sink], s.Receipts...)
	if m.memos[s.Sink] == nil {
		m.memos[s.Sink] = map[event.Key]string{}
	}
	maps.Copy(m.memos[s.Sink], s.Memos)
	return nil
}

func (m *memory) Status(context.Context) (journal.Status, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	st := journal.Status{Records: len(m.records)}
	if n := len(m.records); n > 0 {
		st.First, st.Last = m.records[0].Seq, m.records[n-1].Seq
	}
	for _, sink := range []string{"soc", "dead"} {
		c := m.cursors[sink]
		s := journal.SinkStatus{Sink: sink, Configured: true, Cursor: c, Dead: len(m.dead[sink])}
		at, _ := slices.BinarySearchFunc(m.records, c.Seq+1, func(r *event.Record, seq uint64) int { return cmp.Compare(r.Seq, seq) })
		if s.Behind = len(m.records) - at; s.Behind > 0 {
			s.Oldest = m.records[at].ObservedAt
		}
		st.Sinks = append(st.Sinks, s)
	}
	return st, nil
}

// secret is in every record; it must not get into a log.
const secret = "curl-evil-command-line"

// record is the record of a sequence, of an event of its own.
func record(seq uint64) *event.Record { return recordOf(seq, "e"+strconv.FormatUint(seq, 10)) }

func recordOf(seq uint64, id string) *event.Record {
	return &event.Record{
		Seq: seq, Key: event.Key{Account: "1", Kind: "risk_process", ID: id}, UID: fmt.Sprintf("uid%d", seq), Sequence: 1,
		Action: event.Detected, Status: event.Status{Code: "0", Symbol: "pending"}, Source: "prod", Dialect: "record", Zone: "Asia/Shanghai",
		ObservedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Raw:        fmt.Appendf(nil, `{"EventId":%d,"CmdLine":%q,"VirusName":"Trojan.Linux.Miner","HandleStatus":0}`, seq, secret),
	}
}

// records are those of the sequences from first to last.
func records(first, last uint64) []*event.Record {
	var out []*event.Record
	for seq := first; seq <= last; seq++ {
		out = append(out, record(seq))
	}
	return out
}

// A call is one attempt that a destination saw.
type call struct {
	at   time.Time
	seqs []uint64
	err  error
	memo []string
}

// A dest is a destination. answer says what it does with an attempt.
type dest struct {
	answer func(ctx context.Context, n int, seqs []uint64) (sinks.Receipt, error)

	mu       sync.Mutex
	calls    []call
	accepted []uint64 // in order, repeats included
	running  int
	most     int // attempts at once
}

func (d *dest) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	c := call{at: time.Now()}
	for _, m := range batch {
		c.seqs = append(c.seqs, m.Record.Seq)
		c.memo = append(c.memo, m.Memo)
		if want := fmt.Sprintf("body of %d", m.Record.Seq); string(m.Body) != want {
			panic(fmt.Sprintf("body is %q, want %q", m.Body, want))
		}
	}
	d.mu.Lock()
	d.running++
	d.most = max(d.most, d.running)
	n := len(d.calls)
	d.calls = append(d.calls, c)
	d.mu.Unlock()

	receipt, err := d.answer(ctx, n, c.seqs)

	d.mu.Lock()
	defer d.mu.Unlock()
	d.running--
	d.calls[n].err = err
	partial, ok := errors.AsType[*sinks.PartialError](err)
	for i, seq := range c.seqs {
		if err == nil || (ok && partial.Failed[i] == nil) {
			d.accepted = append(d.accepted, seq)
		}
	}
	return receipt, err
}

func (d *dest) Close() error { return nil }

func (d *dest) seen() []call {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

func (d *dest) got() []uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.accepted)
}

// fine accepts everything.
func fine(context.Context, int, []uint64) (sinks.Receipt, error) {
	return sinks.Receipt{Answer: "200"}, nil
}

// simply is an answer that does not look at the context.
func simply(f func(n int, seqs []uint64) error) func(context.Context, int, []uint64) (sinks.Receipt, error) {
	return func(_ context.Context, n int, seqs []uint64) (sinks.Receipt, error) {
		err := f(n, seqs)
		if err != nil {
			return sinks.Receipt{}, err
		}
		return sinks.Receipt{Answer: "200"}, nil
	}
}

// A rig is a running worker.
type rig struct {
	t    *testing.T
	w    *delivery.Worker
	j    *memory
	d    *dest
	logs *observer.ObservedLogs
	stop context.CancelFunc
	end  chan error
}

func encode(dst []byte, r *event.Record) ([]byte, error) {
	return fmt.Appendf(dst, "body of %d", r.Seq), nil
}

// start runs a worker over j with d, or with another sink around d.
func start(t *testing.T, j *memory, d *dest, change ...func(o *delivery.Options)) *rig {
	t.Helper()
	core, logs := observer.New(zap.DebugLevel)
	o := delivery.Options{
		Name: "soc", Sink: d, Encoder: encode, Journal: j, Log: zap.New(core),
		Config: delivery.Config{BatchRecords: 10},
	}
	for _, c := range change {
		c(&o)
	}
	w, err := delivery.New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r := &rig{t: t, w: w, j: j, d: d, logs: logs, stop: cancel, end: make(chan error, 1)}
	go func() { r.end <- w.Run(ctx) }()
	t.Cleanup(cancel)
	return r
}

// close ends the worker.
func (r *rig) close() {
	r.t.Helper()
	r.stop()
	if err := <-r.end; err != nil {
		r.t.Errorf("Run returned %v", err)
	}
}

// after lets time pass until everything rests.
func after(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// cursor is the stored cursor.
func (r *rig) cursor() journal.Cursor {
	c, _ := r.j.Cursor(context.Background(), "soc")
	return c
}

// dead lists the sequences in the dead letters, with their classes.
func (r *rig) dead() map[uint64]string {
	r.j.mu.Lock()
	defer r.j.mu.Unlock()
	out := map[uint64]string{}
	for _, d := range r.j.dead["soc"] {
		if _, ok := out[d.Record.Seq]; ok {
			r.t.Errorf("record %d was buried twice", d.Record.Seq)
		}
		out[d.Record.Seq] = d.Class
	}
	return out
}

// span lists the numbers from first to last without some.
func span(first, last uint64, without ...uint64) []uint64 {
	var out []uint64
	for i := first; i <= last; i++ {
		if !slices.Contains(without, i) {
			out = append(out, i)
		}
	}
	return out
}

func sorted(s []uint64) []uint64 { s = slices.Clone(s); slices.Sort(s); return s }
