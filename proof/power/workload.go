package power

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// A Line is one line of the log that Drive writes: what an actor is about to
// do, and what became of it. It is written with one write call, so that a trace
// of the process shows it in its place between the writes of the journal.
type Line struct {
	Step  Step   `json:"step"`
	Actor string `json:"actor"` // "source", a sink's name, or "main"
	Op    Op     `json:"op"`
}

// A Step is where an operation stands.
type Step string

// The steps. An operation that has begun and nothing else may be found or not.
const (
	Begin   Step = "begin"
	Done    Step = "done"    // acknowledged: it must be found from now on
	Undone  Step = "undone"  // refused, and the journal shows no trace of it
	Damage  Step = "damage"  // the file is about to be damaged where no row stands
	Found   Step = "found"   // what was carried over, old versions of rows among it
	Stopped Step = "stopped" // the journal was found dead, the process ends
)

// An Op is what an actor does to the journal.
type Op struct {
	Changes []Change       `json:"changes,omitzero"`
	Batch   int            `json:"batch,omitzero"` // number of the append, stored with it
	Cursor  uint64         `json:"cursor,omitzero"`
	Dead    map[uint64]int `json:"dead,omitzero"`    // sequence → attempts
	Revived []uint64       `json:"revived,omitzero"` // sequences
	Found   *Content       `json:"found,omitzero"`
}

// Content is what a journal holds, as far as the workload knows it.
type Content struct {
	Log    []Change                  `json:"log"` // in order of their sequences
	First  uint64                    `json:"first"`
	Batch  int                       `json:"batch"`  // of the last append
	States map[string]uint64         `json:"states"` // id → sequence
	Cursor map[string]uint64         `json:"cursor"` // by sink
	Dead   map[string]map[uint64]int `json:"dead"`   // sink → sequence → attempts
}

// A Change is the change of one key.
type Change struct {
	ID       string `json:"id"`
	Sequence uint64 `json:"seq"`
	Size     int    `json:"size"`
	Silent   bool   `json:"silent,omitzero"`
	Forget   bool   `json:"forget,omitzero"`
}

const account, kind = "1300000001", "risk_process"

// Sinks are the sinks that the workload settles for.
func Sinks() []journal.SinkRule { return []journal.SinkRule{{Name: "a"}, {Name: "b"}} }

// record is the record of a change; its body is known from the change alone.
func (c Change) record() *event.Record {
	key := event.Key{Account: account, Kind: kind, ID: c.ID}
	random := rand.New(rand.NewPCG(uint64(c.Size), c.Sequence))
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
	body := make([]byte, c.Size)
	for i := range body {
		body[i] = alphabet[random.IntN(len(alphabet))] // little that compresses
	}
	return &event.Record{
		Key: key, UID: key.EventUID(c.Sequence, "r"), Sequence: c.Sequence, Revision: "r",
		Action: event.Detected, Status: event.Status{Code: "0", Symbol: "pending"}, FirstDetect: "2026-11-01 10:00:00",
		ObservedAt: time.Now().UTC(), Dialect: "record", Zone: "Asia/Shanghai", Source: "prod", Sweep: "s-1", Page: 1, RequestID: "r-1",
		Raw: fmt.Appendf(nil, `{"EventId":%q,"Sequence":%d,"Body":%q}`, c.ID, c.Sequence, body),
	}
}

func (c Change) change(lastRecord uint64) journal.Change {
	if c.Forget {
		return journal.Change{Key: event.Key{Account: account, Kind: kind, ID: c.ID}, Expect: c.Sequence, Forget: true}
	}
	rec := c.record()
	out := journal.Change{
		Key: rec.Key, Expect: c.Sequence - 1,
		State: event.State{Status: rec.Status, Sequence: c.Sequence, FirstDetect: rec.FirstDetect, LastRecord: lastRecord},
	}
	if !c.Silent {
		out.Record = rec
	}
	return out
}

// A Plan says what Drive does.
type Plan struct {
	Dir      string
	Seed     uint64
	Appends  int  // batches per life of the journal
	Lives    int  // how often the journal is opened
	Damage   bool // one life begins with a damaged file
	Import   bool // the last life begins with an export that is imported again
	MaxBytes int64
	Tries    int // of one operation; zero: many

	// FailSync says which syncs of data fail, by the count of each thread: the
	// first one, a plus, and how many later the next. What they were to write
	// never reaches the disk.
	FailSync string
}

// driver works on a journal as the daemon does: one source and two sinks, each
// in a goroutine of its own.
type driver struct {
	plan Plan
	out  io.Writer
	f    *journal.File

	batch   int                    // number of the last append
	damaged bool                   // and not opened since
	states  map[string]event.State // what the source believes, by id
}

// ErrStopped means that the journal died of the disk, as it may.
var ErrStopped = errors.New("the journal is dead")

// Drive works on a journal by a plan and writes what it does to out. It goes on
// after errors as the daemon does; ErrStopped means that it could not.
func Drive(ctx context.Context, plan Plan, out io.Writer) error {
	d := &driver{plan: plan, out: out, states: map[string]event.State{}}
	for life := range plan.Lives {
		if plan.Damage && life == plan.Lives/2 {
			if err := d.damage(); err != nil {
				return err
			}
		}
		if plan.Import && life == plan.Lives-1 {
			if err := d.move(ctx); err != nil {
				return err
			}
		}
		err := d.live(ctx, life)
		if err != nil {
			if errors.Is(err, journal.ErrDead) {
				return errors.Join(ErrStopped, err, d.log(Line{Step: Stopped, Actor: "main"}))
			}
			return err
		}
	}
	return nil
}

func (d *driver) log(l Line) error {
	text, err := json.Marshal(l)
	if err != nil {
		return err
	}
	_, err = d.out.Write(append(text, '\n'))
	return err
}

func (d *driver) live(ctx context.Context, life int) (err error) {
	cfg := journal.Config{Dir: d.plan.Dir, MinFreeDisk: 1, MaxBytes: d.plan.MaxBytes}.WithDefaults()
	if d.f, err = journal.Open(cfg, journal.Options{Sinks: Sinks()}); err != nil {
		return fmt.Errorf("open the journal in life %d: %w", life, err)
	}
	defer func() { err = errors.Join(err, d.f.Close()) }()
	if life%3 == 2 {
		if _, _, err := d.f.Compact(); err != nil {
			return err
		}
	}
	if err := d.reload(ctx); err != nil {
		return err
	}
	if d.damaged {
		d.damaged = false
		found, err := Read(ctx, d.f)
		if err != nil {
			return err
		}
		if err := d.log(Line{Found, "main", Op{Found: found}}); err != nil {
			return err
		}
	}
	var group sync.WaitGroup
	failed := make([]error, 1+len(Sinks()))
	sourceDone := make(chan struct{})
	group.Go(func() {
		defer close(sourceDone)
		failed[0] = d.source(ctx, life)
	})
	for i, rule := range Sinks() {
		group.Go(func() { failed[1+i] = d.sink(ctx, rule.Name, life, sourceDone) })
	}
	group.Wait()
	return errors.Join(failed...)
}

// reload learns from the journal what the source believes.
func (d *driver) reload(ctx context.Context) error {
	list, err := d.f.States(ctx, account, kind, "", 1<<20)
	if err != nil {
		return err
	}
	clear(d.states)
	for _, s := range list {
		d.states[s.Key.ID] = s.State
	}
	return nil
}

func (d *driver) source(ctx context.Context, life int) error {
	random := rand.New(rand.NewPCG(d.plan.Seed, uint64(life)))
	lease, err := d.f.Lease(ctx, "source/prod/risk_process")
	if err != nil {
		return err
	}
	for range d.plan.Appends {
		op := d.draw(random)
		d.batch++
		op.Batch = d.batch
		for try := 0; ; try++ {
			if err := d.log(Line{Begin, "source", op}); err != nil {
				return err
			}
			batch := journal.Batch{Source: &journal.Source{Source: "prod", Kind: kind, Account: account, Requests: op.Batch}}
			for _, c := range op.Changes {
				batch.Changes = append(batch.Changes, c.change(d.states[c.ID].LastRecord))
			}
			_, err := d.f.Append(ctx, lease, batch)
			if err == nil {
				d.acknowledged(batch)
				if err := d.log(Line{Done, "source", op}); err != nil {
					return err
				}
				break
			}
			applied, err := d.afterError(ctx, op, err)
			if err != nil {
				return err
			}
			if applied {
				break
			}
			if try == cmp.Or(d.plan.Tries, 2000) {
				return errors.New("the journal refuses an append for ever")
			}
		}
	}
	return nil
}

// draw makes a batch: new events, changes of known ones, and one to forget.
func (d *driver) draw(random *rand.Rand) Op {
	var op Op
	drawn := map[string]bool{}
	for range 1 + random.IntN(8) {
		id := fmt.Sprint(random.IntN(400))
		if drawn[id] {
			continue
		}
		drawn[id] = true
		size := 100 + random.IntN(900)
		if random.IntN(15) == 0 {
			size = 6000 + random.IntN(9000) // a row of several pages
		}
		c := Change{ID: id, Sequence: d.states[id].Sequence + 1, Size: size, Silent: random.IntN(10) == 0}
		if d.states[id].Sequence > 0 && random.IntN(12) == 0 {
			c = Change{ID: id, Sequence: d.states[id].Sequence, Forget: true}
		}
		op.Changes = append(op.Changes, c)
	}
	return op
}

func (d *driver) acknowledged(batch journal.Batch) {
	for _, c := range batch.Changes {
		if c.Forget {
			delete(d.states, c.Key.ID)
		} else {
			d.states[c.Key.ID] = c.State
		}
	}
}

// afterError finds out, as the poller does, what became of an append that
// failed, and notes it.
func (d *driver) afterError(ctx context.Context, op Op, cause error) (applied bool, err error) {
	switch {
	case errors.Is(cause, journal.ErrDead), errors.Is(cause, journal.ErrClosed):
		return false, cause
	case errors.Is(cause, journal.ErrFull):
		time.Sleep(2 * time.Millisecond) // the sinks settle meanwhile
		return false, d.log(Line{Undone, "source", op})
	}
	if err := d.reload(ctx); err != nil {
		return false, err
	}
	applied = true
	for _, c := range op.Changes {
		have, known := d.states[c.ID]
		if c.Forget == known || known && have.Sequence != c.Sequence {
			applied = false
		}
	}
	if applied {
		return true, d.log(Line{Done, "source", op})
	}
	return false, d.log(Line{Undone, "source", op})
}

// sink settles up to what is acknowledged, until the source has ended.
func (d *driver) sink(ctx context.Context, name string, life int, ended <-chan struct{}) error {
	random := rand.New(rand.NewPCG(d.plan.Seed^uint64(name[0]), uint64(life)))
	lease, err := d.f.Lease(ctx, "sink/"+name)
	if err != nil {
		return err
	}
	for over := false; ; {
		select {
		case <-ended:
			over = true
		default:
		}
		cursor, err := d.f.Cursor(ctx, name)
		if err != nil {
			return err
		}
		recs, err := d.f.Read(ctx, cursor.Seq, 1+random.IntN(12), 0)
		if err != nil {
			return err
		}
		if len(recs) == 0 {
			if over {
				return nil
			}
			select {
			case <-d.f.Changed(cursor.Seq):
			case <-ended:
			case <-d.f.Dead():
				return d.f.Err()
			}
			continue
		}
		if err := d.settle(ctx, lease, name, random, recs); err != nil {
			return err
		}
		if over && name == "b" && random.IntN(3) == 0 {
			return nil // leave some for the next life
		}
	}
}

func (d *driver) settle(ctx context.Context, lease journal.Lease, name string, random *rand.Rand, recs []*event.Record) error {
	last := recs[len(recs)-1]
	op := Op{Cursor: last.Seq}
	what := journal.Settlement{
		Sink: name, Cursor: journal.Cursor{Seq: last.Seq},
		Receipts: []journal.Receipt{{Range: journal.Range{First: recs[0].Seq, Last: last.Seq}, At: time.Now().UTC(), Records: len(recs), Answer: "200"}},
		Memos:    map[event.Key]string{last.Key: fmt.Sprint(last.Seq)},
	}
	switch random.IntN(6) {
	case 0:
		op.Dead = map[uint64]int{last.Seq: random.IntN(1000)}
		what.Dead = []journal.DeadLetter{{Record: last, Class: "poison", Reason: "refused", Attempts: op.Dead[last.Seq], At: time.Now().UTC()}}
	case 1:
		letters, err := d.f.DeadLetters(ctx, name, 0, 1)
		if err != nil {
			return err
		}
		for _, l := range letters {
			op.Revived = append(op.Revived, l.Record.Seq)
		}
		what.Revived = op.Revived
	}
	for range cmp.Or(d.plan.Tries, 100) {
		if err := d.log(Line{Begin, name, op}); err != nil {
			return err
		}
		err := d.f.Settle(ctx, lease, what)
		if err == nil {
			return d.log(Line{Done, name, op})
		}
		if errors.Is(err, journal.ErrDead) || errors.Is(err, journal.ErrClosed) {
			return err
		}
		// It is settled again: the outcome is the same whatever became of it.
	}
	return errors.New("the journal refuses a settlement for ever")
}

// move puts an export of the journal in its place.
func (d *driver) move(ctx context.Context) error {
	f, err := journal.Open(journal.Config{Dir: d.plan.Dir, MinFreeDisk: 1, MaxBytes: d.plan.MaxBytes}.WithDefaults(), journal.Options{Sinks: Sinks()})
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := errors.Join(f.Export(ctx, &text), f.Close()); err != nil {
		return err
	}
	_, _, err = journal.Import(ctx, d.plan.Dir, &text, true)
	return err
}

// damage spoils both head pages of the closed file: no row stands there, so
// that all of them can be carried over.
func (d *driver) damage() (err error) {
	if err := d.log(Line{Step: Damage, Actor: "main"}); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(d.plan.Dir, "journal.db"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for i := range int64(2) {
		if _, err := file.WriteAt(bytes.Repeat([]byte{0xEE}, 64), i*int64(os.Getpagesize())+16); err != nil {
			return err
		}
	}
	d.damaged = true
	return file.Sync()
}
