package whole_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"go.uber.org/zap"
	"pgregory.net/rapid"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
	"github.com/cwprelay/cwprelay/sinks"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestWholeKeepsItsPromises lets poller, dedupe, journal and delivery live
// through random histories, and compares after each life, and in the end, with
// a model.
func TestWholeKeepsItsPromises(t *testing.T) {
	if checks := flag.Lookup("rapid.checks"); checks.Value.String() == checks.DefValue {
		// Each history is many lives; more of them are for who asks.
		if err := checks.Value.Set("15"); err != nil {
			t.Fatal(err)
		}
	}
	did := map[string]int{}
	rapid.Check(t, func(rt *rapid.T) {
		h := drawHistory(rt)
		var found []string
		synctest.Test(t, func(t *testing.T) { found = live(t, h, did) })
		for _, what := range found {
			rt.Error(what)
		}
	})
	t.Logf("%v", did)
}

// A history is what happens, as numbers that its steps make sense of.
type history struct {
	Seed   uint64
	Events int
	Full   bool // the journal is small
	Steps  []step
}

type step struct {
	Do string
	N  int
}

// leastEvents are more than one answer holds: with fewer each look at the head
// of the list is a sweep, and waits for a sweep by a mutex, which stops the
// clock of the test where the journal is full.
const leastEvents = 120

func drawHistory(t *rapid.T) history {
	return history{
		Seed:   rapid.Uint64().Draw(t, "seed"),
		Events: rapid.IntRange(leastEvents, leastEvents+80).Draw(t, "events"),
		Full:   rapid.IntRange(0, 3).Draw(t, "full") == 0,
		Steps: rapid.SliceOfN(rapid.Custom(func(t *rapid.T) step {
			return step{
				Do: rapid.SampledFrom([]string{
					"wait", "wait", "wait", "wait", "events", "events", "burst", "status", "status", "status", "delete",
					"mood", "mood", "mood", "pause", "resume", "replay", "end replay", "mend", "retry",
					"stop", "kill", "kill", "kill", "forget sink", "age", "api",
				}).Draw(t, "do"),
				N: rapid.IntRange(0, 1000).Draw(t, "n"),
			}
		}), 3, 30).Draw(t, "steps"),
	}
}

// names are the sinks: one in order, one that may have several attempts under
// way, and one that may lose its oldest records when the journal is full.
func names() []string { return []string{"order", "window", "loser"} }

const batch = 7

// A machine is the lives of a program.
type machine struct {
	t     *testing.T
	m     *model
	world *emulator.World
	api   *emulator.Lister
	dests map[string]*dest
	full  bool
	dir   string
	n     int        // lives so far
	steps *rand.Rand // of do
	dice  *rand.Rand // of the destinations; guarded by lock
	alive *life
	down  atomic.Bool // the API
	did   map[string]int

	lock chan struct{} // guards model and destinations; a channel, so that who waits for it lets time pass
}

func (s *machine) locked(f func()) {
	s.lock <- struct{}{}
	defer func() { <-s.lock }()
	f()
}

// live lets a program live through a history and returns what is wrong then.
func live(t *testing.T, h history, did map[string]int) []string {
	t.Helper()
	s := &machine{
		t: t, m: newModel(names()...), world: emulator.NewWorld(h.Seed, h.Events, time.Now()), dests: map[string]*dest{},
		full: h.Full, dir: directory(t), steps: rand.New(rand.NewPCG(h.Seed, 3)), dice: rand.New(rand.NewPCG(h.Seed, 4)), did: did, lock: make(chan struct{}, 1),
	}
	s.api = &emulator.Lister{World: s.world, Lead: func(int) time.Duration { return time.Millisecond }, Before: func(int, cwp.Query) error {
		if s.down.Load() {
			return &cwp.Error{Class: cwp.ClassServer, Code: "InternalError"}
		}
		return nil
	}}
	for i, name := range names() {
		d := &dest{s: s, name: name, windowed: name == "window", salt: i}
		s.dests[name] = d
		s.m.sinks[name].order = name != "window"
		s.m.sinks[name].bad = d.refuses
	}
	s.begin(names())
	for _, step := range h.Steps {
		if s.broken() {
			break
		}
		s.do(step)
	}
	s.end()
	return s.m.found
}

// directory is one in memory where there is such a thing: what a loss of power
// does is not what this is about.
func directory(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "cwprelay-whole-") //nolint:usetesting // the test's own may be on a disk
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func (s *machine) do(step step) {
	s.did[step.Do]++
	now := time.Now()
	sink := names()[step.N%len(names())]
	d := s.dests[sink]
	switch step.Do {
	case "wait":
		s.wait(time.Duration(1+step.N%240) * time.Second)
	case "events":
		if _, err := s.world.Insert(make([]emulator.Event, 1+step.N%25)...); err != nil {
			s.t.Fatal(err)
		}
	case "burst":
		if s.world.Len() < 400 {
			s.world.Burst(1+step.N%130, now)
		}
	case "status":
		ids := s.world.IDs()
		slices.Sort(ids)
		for n := step.N % 12; n >= 0 && len(ids) > 0; n-- {
			s.world.SetStatus(s.steps.IntN(6), ids[s.steps.IntN(len(ids))])
		}
	case "delete":
		ids := s.world.IDs()
		slices.Sort(ids)
		for n := step.N % 8; n >= 0 && s.world.Len() > leastEvents; n-- {
			s.world.Delete(ids[s.steps.IntN(len(ids))])
		}
	case "mood":
		s.locked(func() { d.be(moods()[step.N/3%len(moods())]) })
	case "pause", "resume":
		s.alive.workers[sink].Pause(step.Do == "pause")
	case "replay":
		var last uint64
		s.locked(func() { last = s.m.last() })
		s.ask(func(ctx context.Context) error {
			return s.alive.workers[sink].Replay(ctx, 1+uint64(step.N)%(last+1))
		})
	case "end replay":
		s.ask(s.alive.workers[sink].EndReplay)
	case "mend":
		s.locked(func() { d.mended = true })
	case "retry":
		var seqs []uint64
		s.locked(func() {
			for seq := range s.m.sinks[sink].dead {
				seqs = append(seqs, seq)
			}
			// What was refused may come after what came after it.
			s.m.sinks[sink].order = s.m.sinks[sink].order && len(seqs) == 0
		})
		slices.Sort(seqs)
		s.ask(func(ctx context.Context) error { return s.alive.workers[sink].Retry(ctx, seqs...) })
	case "api":
		s.down.Store(step.N%2 == 0)
	case "stop":
		s.stop()
		s.begin(names())
	case "kill":
		s.kill(step.N)
	case "forget sink":
		s.forget(sink)
	case "age":
		s.wait(15 * time.Minute)
	}
	if s.dead() {
		s.stop()
		s.begin(names())
	}
}

func (s *machine) broken() (is bool) {
	s.locked(func() { is = len(s.m.found) > 0 })
	return is
}

func (s *machine) dead() (is bool) {
	s.locked(func() { is = s.alive.killed })
	return is
}

// ask carries out what an operator wants; that it is refused is fine.
func (s *machine) ask(what func(context.Context) error) {
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	_ = what(ctx)
}

// wait lets time pass, or less when the program is killed.
func (s *machine) wait(d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		synctest.Wait()
	case <-s.alive.ctx.Done():
	}
}

// kill ends the program at one of its next commits, before it or after it, or
// when a while has passed without one.
func (s *machine) kill(n int) {
	s.locked(func() { s.alive.fuse, s.alive.before = 1+n/2%9, n%2 == 0 })
	for s.wait(90 * time.Second); !s.dead(); s.wait(time.Second) {
		s.locked(func() {
			if s.alive.fuse = 1; s.alive.committing == 0 && !s.alive.killed {
				s.alive.die()
			}
		})
	}
}

// forget takes a sink out of the configuration, forgets it, and puts it back.
func (s *machine) forget(sink string) {
	others := slices.DeleteFunc(names(), func(name string) bool { return name == sink })
	s.stop()
	s.begin(others)
	s.wait(2 * time.Minute)
	lease, err := s.alive.file.Lease(s.t.Context(), "sink/"+sink)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.alive.file.Forget(s.t.Context(), lease, sink); err != nil {
		s.t.Fatal(err)
	}
	s.locked(func() { s.m.forgotten(sink) })
	s.stop()
	s.begin(names())
}

// A life is a program that runs.
type life struct {
	*journal.File // what is not overridden

	s       *machine
	n       int
	file    *journal.File
	ctx     context.Context
	cancel  context.CancelFunc
	workers map[string]*delivery.Worker
	running sync.WaitGroup

	committing int // commits under way
	fuse       int // commits until it is killed, the last one included; 0: it is not to be
	before     bool
	killed     bool
	copied     string // directory of what it left when it was killed
}

// begin starts the program with some of the sinks.
func (s *machine) begin(with []string) {
	s.t.Helper()
	s.n++
	l := &life{s: s, n: s.n, workers: map[string]*delivery.Worker{}}
	cfg := journal.Config{Dir: s.dir, MinFreeDisk: 1, Retention: 10 * time.Minute}.WithDefaults()
	if s.full {
		cfg.MaxBytes = 300_000 // some two hundred records
	}
	var rules []journal.SinkRule
	for _, name := range with {
		rule := journal.SinkRule{Name: name, OnFull: journal.OnFullPause}
		if name == "loser" {
			rule.OnFull = journal.OnFullSkip
		}
		rules = append(rules, rule)
	}
	var err error
	if l.file, err = journal.Open(cfg, journal.Options{Sinks: rules}); err != nil {
		s.t.Fatal(err)
	}
	l.File = l.file
	l.ctx, l.cancel = context.WithCancel(s.t.Context())
	s.m.begun(fmt.Sprintf("at the begin of life %d", s.n), s.holds(l.file))
	s.alive = l
	for _, name := range with {
		d := s.dests[name]
		s.locked(func() { d.be(d.mood) })
		var sink sinks.Sink = &attempts{d, l}
		if d.windowed {
			sink = windowed{sink.(*attempts)}
		}
		w, err := delivery.New(delivery.Options{
			Name: name, Sink: sink, Config: delivery.Config{BatchRecords: batch}, Journal: l,
			Encoder: func(dst []byte, r *event.Record) ([]byte, error) { return append(dst, r.UID...), nil },
		})
		if err != nil {
			s.t.Fatal(err)
		}
		l.workers[name] = w
		l.running.Go(func() { l.ended(w.Run(l.ctx)) })
	}
	for _, name := range names() {
		if l.workers[name] == nil { // so that steps need not ask
			l.workers[name], _ = delivery.New(delivery.Options{Name: name, Journal: l})
		}
	}
	p, err := poller.New(poller.Options{
		Source: "prod", Kind: cwp.KindByName("risk_process"), API: s.api, Rate: 20, Journal: l, Log: zap.NewNop(),
		Config: poller.Config{PollInterval: time.Minute, SweepInterval: time.Minute}.WithDefaults(),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	l.running.Go(func() { l.ended(p.Run(l.ctx)) })
}

// ended notes how a part of the program ended.
func (l *life) ended(err error) {
	l.s.locked(func() {
		if err != nil && !l.killed {
			l.s.m.wrong("life %d: %v", l.n, err)
		}
	})
}

// stop ends the program, in good order if it was not killed, and looks at what
// it left.
func (s *machine) stop() {
	l := s.alive
	l.cancel()
	l.running.Wait()
	if !l.killed {
		s.m.compare(fmt.Sprintf("at the end of life %d", l.n), s.holds(l.file))
	}
	if err := l.file.Close(); err != nil {
		s.t.Fatal(err)
	}
	if l.killed {
		s.dir = l.copied
	}
}

// holds is all that a journal holds.
func (s *machine) holds(f *journal.File) stored {
	s.t.Helper()
	ctx := context.WithoutCancel(s.t.Context())
	out := stored{states: map[string]event.State{}, cursors: map[string]journal.Cursor{}, dead: map[string][]journal.DeadLetter{}, replays: map[string]*journal.Replay{}}
	var errs []error
	note := func(err error) { errs = append(errs, err) }
	var err error
	out.records, err = f.Read(ctx, 0, 1<<20, 0)
	note(err)
	states, err := f.States(ctx, event.DefaultAccount, "risk_process", "", 1<<20)
	note(err)
	for _, st := range states {
		out.states[st.Key.ID] = st.State
	}
	for _, name := range names() {
		out.cursors[name], err = f.Cursor(ctx, name)
		note(err)
		out.dead[name], err = f.DeadLetters(ctx, name, 0, 1<<20)
		note(err)
		out.replays[name], err = f.Replay(ctx, name)
		note(err)
	}
	out.status, err = f.Status(ctx)
	note(err)
	if err := errors.Join(errs...); err != nil {
		s.t.Fatal(err)
	}
	return out
}

// commit carries out one commit, unless the program is killed at it. Commits
// may run side by side; the program is killed where none does.
func (l *life) commit(do func() error, done func()) error {
	killed := false
	l.s.locked(func() {
		if !l.killed && l.fuse == 1 && l.before && l.committing == 0 {
			l.die()
		}
		if killed = l.killed; !killed {
			l.committing++
			if l.fuse > 1 {
				l.fuse--
			}
		}
	})
	if killed {
		return journal.ErrClosed
	}
	err := do()
	l.s.locked(func() {
		l.committing--
		if err == nil {
			done()
		}
		if l.fuse == 1 && !l.before && l.committing == 0 {
			l.die()
			err = journal.ErrClosed
		}
	})
	return err
}

// Append stores what was taken in.
func (l *life) Append(ctx context.Context, lease journal.Lease, b journal.Batch) (last uint64, err error) {
	err = l.commit(func() (err error) {
		last, err = l.file.Append(ctx, lease, b)
		return err
	}, func() { l.s.m.appended(b) })
	return last, err
}

// Settle stores what became of records.
func (l *life) Settle(ctx context.Context, lease journal.Lease, what journal.Settlement) error {
	return l.commit(func() error { return l.file.Settle(ctx, lease, what) }, func() {
		l.s.m.settled(what, func() []journal.Gap {
			st, err := l.file.Status(ctx)
			if err != nil {
				l.s.m.wrong("status: %v", err)
			}
			return st.Gaps
		})
	})
}

// die is what kill -9 does: what the files hold at this moment is all there is,
// and nothing that the program does from now on has any effect.
func (l *life) die() {
	l.killed, l.copied = true, directory(l.s.t)
	for _, name := range []string{"journal.db", "journal.marks"} {
		var text []byte
		for {
			first, err := os.ReadFile(filepath.Join(l.s.dir, name))
			second, err2 := os.ReadFile(filepath.Join(l.s.dir, name))
			if err := errors.Join(err, err2); err != nil {
				l.s.t.Error(err)
			}
			if text = second; bytes.Equal(first, second) { // nothing was written meanwhile
				break
			}
		}
		if err := os.WriteFile(filepath.Join(l.copied, name), text, 0o600); err != nil {
			l.s.t.Error(err)
		}
	}
	l.cancel()
}

// A dest is a destination, which outlives every life.
type dest struct {
	s        *machine
	name     string
	windowed bool
	salt     int
	mood     string
	mended   bool // takes what it refused for good before
}

// moods are what destinations do.
func moods() []string {
	return []string{"fine", "fine", "network", "lost", "busy", "partial", "halt", "small"}
}

// be changes the mood.
func (d *dest) be(mood string) {
	d.mood = mood
	o := d.s.m.sinks[d.name]
	o.lost = o.lost || mood == "lost"
	o.order = o.order && mood != "partial"
}

// refuses chooses the events that the destination refuses for good, until it
// is mended.
func (d *dest) refuses(id string) bool {
	n := d.salt
	for _, c := range id {
		n = (n*31 + int(c)) % 1_000_003
	}
	return n%11 == 0
}

// attempts are the attempts of one life.
type attempts struct {
	*dest
	life *life
}

// Close does nothing: a destination has no end.
func (*attempts) Close() error { return nil }

// Send takes what the destination's mood lets it take.
func (a *attempts) Send(ctx context.Context, messages []sinks.Message) (receipt sinks.Receipt, err error) {
	var took time.Duration
	a.s.locked(func() { took = time.Duration(10+a.s.dice.IntN(200)) * time.Millisecond })
	timer := time.NewTimer(took)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return receipt, ctx.Err()
	}
	a.s.locked(func() {
		if a.life.killed {
			err = errors.New("the program is dead")
			return
		}
		err = a.answer(messages)
	})
	return receipt, err
}

func (a *attempts) answer(messages []sinks.Message) error {
	failed := map[int]error{}
	switch a.mood {
	case "network":
		return errors.New("connection refused")
	case "busy":
		return sinks.After(sinks.Answered(errors.New("429")), 3*time.Second)
	case "halt":
		return sinks.Halt(errors.New("401"))
	case "small":
		if len(messages) > 2 {
			return sinks.TooLarge(errors.New("413"))
		}
	case "partial":
		for i := range messages {
			if a.s.dice.IntN(3) == 0 {
				failed[i] = errors.New("shard is away")
			}
		}
	}
	for i, m := range messages {
		if string(m.Body) != m.Record.UID {
			a.s.m.wrong("%s was sent %q as record %d, which is %s", a.name, m.Body, m.Record.Seq, m.Record.UID)
		}
		if a.refuses(m.Record.Key.ID) && !a.mended {
			failed[i] = sinks.Poison(errors.New("400"))
		}
		if failed[i] == nil {
			a.s.m.arrived(a.name, arrival{seq: m.Record.Seq, life: a.life.n, at: time.Now(), replayed: m.Record.Replayed}, m.Record)
		}
	}
	switch {
	case a.mood == "lost":
		return errors.New("connection reset by peer")
	case len(failed) > 0:
		return &sinks.PartialError{Failed: failed}
	default:
		return nil
	}
}

// windowed is a destination that confirms later and keeps no order.
type windowed struct{ *attempts }

// Window is how many attempts may be under way.
func (windowed) Window() int { return 3 }

// end lets everything work and time pass, and looks at what there is then.
func (s *machine) end() {
	s.down.Store(false)
	s.locked(func() {
		for _, d := range s.dests {
			d.be("fine")
		}
	})
	for _, w := range s.alive.workers {
		w.Pause(false)
	}
	// Most of an hour with a new event now and then, the last of them a good one: a
	// record is buried only after another one was accepted.
	for n, good := 0, false; (n < 10 || !good) && !s.broken(); n++ {
		ids, err := s.world.Insert(emulator.Event{})
		if err != nil {
			s.t.Fatal(err)
		}
		good = true
		for _, d := range s.dests {
			good = good && !d.refuses(ids[0])
		}
		s.wait(5 * time.Minute)
	}
	l := s.alive
	l.cancel()
	l.running.Wait()
	if !s.broken() {
		last := s.holds(l.file)
		s.m.compare("at the end", last)
		s.m.over(last)
		s.m.true(s.world)
	}
	if err := l.file.Close(); err != nil {
		s.t.Fatal(err)
	}
}
