package delivery

import (
	"cmp"
	"context"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

const (
	// poisonBurst suspects without an acceptance between them are not bad
	// records but a destination that refuses everything.
	poisonBurst = 20
	// stuckFor is how long a record that causes unclear answers is tried
	// before it can be buried.
	stuckFor = time.Hour
	// heldMax is the most records that wait for suspects of their keys before
	// the worker stops reading on.
	heldMax = 10_000
	// idleSettle is how long a cursor that only passed refused records may stay
	// unstored: a loss of it costs nothing but reading them again.
	idleSettle = time.Second
	// working is the longest that the loop may take for what it does between two
	// waits: the journal may be on a slow disk.
	working = 2 * time.Minute
)

// sending is the loop's name for Options.Beat.
const sending = "sending"

// A run is the state of Worker.Run; it belongs to the goroutine of loop.
type run struct {
	w      *Worker
	lease  journal.Lease
	ctx    context.Context // Run's: when it is done, nothing new begins
	hard   context.Context // what attempts run under: ends Grace after ctx
	cancel context.CancelFunc

	arrivals chan *batch
	spare    chan []byte
	results  chan result

	ledger   ledger
	stored   journal.Cursor
	queue    []*job     // to be sent, in order
	suspects []*suspect // refused alone, in order of their refusal
	held     []item     // waiting for a suspect of their key, ascending
	replay   *replay    // nil when none runs
	graves   []uint64   // dead letters that are to be sent again
	lived    int        // live batches since something was sent again
	lookAt   time.Time  // when the dead letters are searched next
	burst    int        // suspects since the last acceptance

	begun  uint64    // number of the newest attempt
	flying int       // attempts under way
	probes int       // of them probes
	next   time.Time // AttemptsPerSecond and RateLimit: nothing begins before
	over   time.Time // by when every attempt under way must have ended
	turn   int       // which record the next probe of a halted sink takes

	pace   pace
	halt   *halt
	outage *outage
	heart  *heartbeat // nil: none is wanted

	// What the next settlement stores beside the cursor.
	dead     []journal.DeadLetter
	revived  []uint64
	receipts []journal.Receipt
	memos    map[event.Key]string
	lazyAt   time.Time // when an otherwise unneeded settlement is due; zero: none
}

// A suspect is a record that was refused alone. It is buried only when it is
// refused again after others passed.
type suspect struct {
	job       *job // its record, and its history
	stuck     bool // by unclear answers, not by a verdict
	reason    string
	since     time.Time // of the first refusal
	refusedAt uint64    // number of the newest attempt at its last refusal
	proven    bool      // another record was accepted after that
	next      time.Time // not to be sent before
	wait      interface{ NextBackOff() time.Duration }
	flying    bool
}

func (s *suspect) item() *item { return &s.job.items[0] }

// A halt is a time in which the destination refuses everything.
type halt struct {
	since  time.Time
	burst  bool // by suspects: only records can tell when it is over
	cause  string
	next   time.Time // of the next probe
	wait   interface{ NextBackOff() time.Duration }
	direct bool // the next probe is a record even if the sink can tell its health
}

// A result is what an attempt, or a look at the health of the sink, gave.
type result struct {
	number    uint64
	job       *job // nil: a look at the health, or a heartbeat
	heartbeat bool // it was one
	receipt   sinks.Receipt
	err       error
	probe     bool
	began     time.Time
	took      time.Duration
}

// startMark is the memo that says that start_from: now was carried out.
func startMark() event.Key { return event.Key{Kind: "cwprelay", ID: "start_from"} }

// start loads the cursor.
func (r *run) start() error {
	err := r.w.repeat(r.ctx, "load the cursor", func() error {
		c, err := r.w.journal.Cursor(r.ctx, r.w.name)
		if err == nil && r.w.cfg.StartFrom == StartNow && c.Seq == 0 && len(c.Ahead) == 0 {
			c, err = r.startNow()
		}
		if err != nil {
			return err
		}
		r.stored = c
		stored, err := r.w.journal.Replay(r.ctx, r.w.name)
		if stored != nil {
			r.resume(*stored)
		}
		return err
	})
	r.ledger = newLedger(r.stored)
	r.startHeartbeat()
	r.publish()
	return err
}

// startNow puts the cursor of a new sink behind the newest record. A mark
// tells a new sink from one that began with an empty journal.
func (r *run) startNow() (journal.Cursor, error) {
	mark := startMark()
	memos, err := r.w.journal.Memos(r.ctx, r.w.name, []event.Key{mark})
	if err != nil || memos[mark] != "" {
		return journal.Cursor{}, err
	}
	st, err := r.w.journal.Status(r.ctx)
	if err != nil {
		return journal.Cursor{}, err
	}
	c := journal.Cursor{Seq: st.Last}
	return c, r.w.journal.Settle(r.ctx, r.lease, journal.Settlement{
		Sink: r.w.name, Cursor: c, Memos: map[event.Key]string{mark: StartNow},
	})
}

func (r *run) reader() *reader {
	return &reader{w: r.w, pos: r.stored.Seq, ahead: r.stored.Ahead, spare: r.spare}
}

// loop begins what may begin, and takes in what comes, until ctx is done.
func (r *run) loop() error {
	defer r.drain()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for !r.ending() {
		r.w.beat(sending, working)
		if err := r.lookForStuck(time.Now()); err != nil {
			return err
		}
		wake, err := r.begin()
		if err != nil {
			return err
		}
		for _, due := range []time.Time{r.lazyAt, r.lookAt} {
			wake = earlier(wake, due)
		}
		r.publish()
		var alarm <-chan time.Time
		if !wake.IsZero() {
			timer.Reset(time.Until(wake))
			alarm = timer.C
		}
		r.w.beat(sending, r.back(wake))
		var arrivals <-chan *batch
		if r.wantsMore() {
			arrivals = r.arrivals
		}
		select {
		case <-r.ctx.Done():
		case <-r.w.poke:
			r.hurry(time.Now())
		case <-alarm:
		case b := <-arrivals:
			err = r.take(b)
		case res := <-r.results:
			err = r.conclude(res)
		case q := <-r.w.requests:
			err = r.answerTo(q)
		}
		if err == nil {
			err = r.settle()
		}
		if err != nil {
			return err
		}
	}
	return r.finish()
}

// back is how long the loop waits at most, 0 when that depends on others: until
// it wakes, or the attempts under way must have ended. A sink that ignores that
// its time is over makes it negative.
func (r *run) back(wake time.Time) time.Duration {
	switch {
	case r.flying > 0:
		return cmp.Or(time.Until(r.over)+working, -1)
	case !wake.IsZero():
		return max(0, time.Until(wake)) + working
	default:
		return 0
	}
}

// hurry ends the wait before the next attempt, also of a halted sink: a person
// says that it is worth trying.
func (r *run) hurry(now time.Time) {
	if r.w.paused.Load() {
		return
	}
	r.pace.notBefore = now
	if r.halt != nil {
		r.halt.next, r.halt.direct = now, true
	}
}

// earlier is the earlier of two times, of which a zero one does not count.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// ending reports whether nothing new may begin.
func (r *run) ending() bool { return r.ctx.Err() != nil }

// finish waits for the attempts under way and settles what they give.
func (r *run) finish() error {
	for r.flying > 0 {
		if err := r.conclude(<-r.results); err != nil {
			return err
		}
	}
	r.lazyAt = time.Time{}
	err := r.store()
	r.publish()
	return err
}

// drain ends and awaits the attempts that are still under way after an error.
func (r *run) drain() {
	r.cancel()
	for r.flying > 0 {
		<-r.results
		r.flying--
	}
}

// wantsMore reports whether the next batch is to be taken from the reader.
func (r *run) wantsMore() bool {
	return len(r.queue) == 0 && r.flying < r.window() && len(r.held) < heldMax && !r.w.paused.Load()
}

// window is how many attempts may be under way.
func (r *run) window() int {
	if s, ok := r.w.sink.(sinks.Windower); ok {
		return max(1, s.Window())
	}
	return 1
}

// take takes in a batch of the reader.
func (r *run) take(b *batch) error {
	if b.err != nil {
		return b.err
	}
	r.ledger.add(b.items, b.read)
	r.dead = append(r.dead, b.dead...)
	r.w.metrics.records.WithLabelValues(recordFiltered).Add(float64(b.refused))
	if len(b.items) > 0 {
		r.queue = append(r.queue, &job{items: b.items, arena: b.arena})
		r.lived++
	}
	if r.lazyAt.IsZero() && r.ledger.done > r.stored.Seq {
		r.lazyAt = time.Now().Add(idleSettle)
	}
	return nil
}

// begin begins every attempt that may begin now. It returns when to look
// again; zero means when something comes.
func (r *run) begin() (wake time.Time, err error) {
	for !r.ending() {
		due, beat := r.beatDue(time.Now())
		if due {
			r.sendBeat(time.Now())
		}
		if err := r.refill(); err != nil {
			return wake, err
		}
		j, wake := r.pick(time.Now())
		if j == nil {
			return earlier(wake, beat), nil
		}
		if err := r.load(j); err != nil {
			return wake, err
		}
		if len(j.items) > 0 {
			if err := r.send(j); err != nil {
				return wake, err
			}
		}
	}
	return wake, nil
}

// refill puts the next batch into an empty queue: a live one, unless there is
// something to send again and none waits or enough of them went before.
func (r *run) refill() error {
	if r.wantsMore() && r.lived >= replayShare && r.againWaits() {
		if err := r.readAgain(); err != nil {
			return err
		}
	}
	if !r.wantsMore() {
		return nil
	}
	select {
	case b := <-r.arrivals:
		return r.take(b)
	default:
	}
	if r.againWaits() {
		return r.readAgain()
	}
	return nil
}

// pick removes from the queue what is to be sent now, nil when nothing is, and
// says when to look again.
func (r *run) pick(now time.Time) (*job, time.Time) {
	if r.w.paused.Load() {
		return nil, time.Time{}
	}
	if now.Before(r.next) {
		return nil, r.next
	}
	if r.halt != nil {
		return r.pickHalted(now)
	}
	if now.Before(r.pace.notBefore) {
		return nil, r.pace.notBefore
	}
	if r.flying >= r.window() || (r.pace.probing() && r.probes > 0) {
		return nil, time.Time{}
	}
	wake := time.Time{}
	if !r.pace.probing() {
		var s *suspect
		if s, wake = r.dueSuspect(now, true); s != nil {
			return s.job, time.Time{}
		}
	}
	if j := r.head(r.pace.probing()); j != nil {
		return j, time.Time{}
	}
	if r.flying > 0 {
		return nil, wake
	}
	s, wake := r.dueSuspect(now, false)
	if s == nil {
		return nil, wake
	}
	return s.job, time.Time{}
}

// pickHalted picks one record for a probe, when it is time for one.
func (r *run) pickHalted(now time.Time) (*job, time.Time) {
	if r.probes > 0 {
		return nil, time.Time{}
	}
	if now.Before(r.halt.next) {
		return nil, r.halt.next
	}
	if p, ok := r.w.sink.(sinks.Prober); ok && !r.halt.burst && !r.halt.direct {
		r.examine(p)
		return nil, time.Time{}
	}
	// In turn what comes next and one of the suspects: either may be accepted.
	r.turn++
	if r.turn%2 == 1 {
		if j := r.head(true); j != nil {
			return j, time.Time{}
		}
	}
	for i := range r.suspects {
		if s := r.suspects[(r.turn/2+i)%len(r.suspects)]; !s.flying {
			return s.job, time.Time{}
		}
	}
	if j := r.head(true); j != nil {
		return j, time.Time{}
	}
	return nil, time.Time{} // nothing to ask with; a record will come
}

// dueSuspect returns a suspect that may be sent now, of the proven ones or of
// all, and otherwise when the first of them may.
func (r *run) dueSuspect(now time.Time, proven bool) (*suspect, time.Time) {
	var wake time.Time
	for _, s := range r.suspects {
		switch {
		case s.flying || (proven && !s.proven):
		case !now.Before(s.next):
			return s, time.Time{}
		case wake.IsZero() || s.next.Before(wake):
			wake = s.next
		}
	}
	return nil, wake
}

// head takes the first job of the queue, or its first record only. Records
// that must wait for a suspect of their key are put aside.
func (r *run) head(single bool) *job {
	for len(r.queue) > 0 {
		j := r.queue[0]
		r.hold(j)
		if len(j.items) == 0 {
			r.queue = r.queue[1:]
			continue
		}
		if single && len(j.items) > 1 {
			r.queue[0] = j.part(j.items[1:])
			return j.part(j.items[:1:1])
		}
		r.queue = r.queue[1:]
		return j
	}
	return nil
}

// load reads the records of a job that are not in memory, and encodes them.
// What the journal does not have any more leaves the job.
func (r *run) load(j *job) error {
	if !slices.ContainsFunc(j.items, func(it item) bool { return it.rec == nil }) {
		return nil
	}
	kept := make([]item, 0, len(j.items))
	var lost []item // gone or not encodable
	gone := 0
	for _, it := range j.items {
		if it.rec == nil {
			err := r.w.repeat(r.ctx, "read a record again", func() (err error) {
				it.rec, err = r.fetch(&it)
				return err
			})
			if err != nil {
				return err
			}
			if r.ending() {
				j.items = nil // nothing begins any more
				return nil
			}
			if it.rec == nil {
				gone++
				lost = append(lost, it)
				continue
			}
			out, err := r.w.encodeTo(nil, it.rec)
			if err != nil {
				r.dead = append(r.dead, unencodable(it.rec, err))
				lost = append(lost, it)
				continue
			}
			it.body = body(out, 0)
		}
		kept = append(kept, it)
	}
	j.items = kept
	if len(lost) == 0 {
		return nil
	}
	r.done(lost)
	if j.suspect != nil {
		r.clear(j.suspect, lost[0].key)
	}
	if gone > 0 {
		r.w.metrics.records.WithLabelValues(recordGone).Add(float64(gone))
		r.w.log.Error("records that were to be sent again are no longer in the journal", zap.Int("records", gone))
	}
	return r.store()
}

// send begins an attempt.
func (r *run) send(j *job) error {
	var memos map[event.Key]string
	keys := make([]event.Key, len(j.items))
	for i := range j.items {
		keys[i] = j.items[i].key
	}
	err := r.w.repeat(r.ctx, "read memos", func() (err error) {
		memos, err = r.w.journal.Memos(r.ctx, r.w.name, keys)
		return err
	})
	if err != nil || r.ending() {
		return err
	}
	msgs := make([]sinks.Message, len(j.items))
	_, late := r.w.sink.(sinks.Windower)
	for i := range j.items {
		it := &j.items[i]
		msgs[i] = sinks.Message{Record: it.rec, Body: it.body, Memo: memos[it.key]}
		if late && j.suspect == nil && it.origin != revived {
			it.rec, it.body = nil, nil // not held in memory while it waits for its confirmation
		}
	}
	if r.window() > 1 {
		j.arena = nil // batches wait for their confirmation: not held meanwhile
	}
	if j.suspect != nil {
		j.suspect.flying = true
	}
	r.begun++
	r.flying++
	res := result{number: r.begun, job: j, probe: r.halt != nil || r.pace.probing()}
	if res.probe {
		r.probes++
	}
	r.next = time.Now().Add(r.w.apart(len(j.items)))
	timeout := Deadline(r.w.sink, r.w.cfg)
	r.mustEnd(timeout)
	go r.attempt(res, msgs, timeout)
	return nil
}

// mustEnd notes by when an attempt that begins now must have ended.
func (r *run) mustEnd(timeout time.Duration) {
	if over := time.Now().Add(timeout); over.After(r.over) {
		r.over = over
	}
}

// apart is how long after the beginning of an attempt with so many records the
// next one may begin.
func (w *Worker) apart(records int) time.Duration {
	seconds := 0.0
	if per := w.cfg.AttemptsPerSecond; per > 0 {
		seconds = 1 / per
	}
	if per := w.cfg.RateLimit; per > 0 {
		seconds = max(seconds, float64(records)/per)
	}
	return time.Duration(seconds * float64(time.Second))
}

// Deadline is how long one attempt of a sink may take.
func Deadline(sink sinks.Sink, cfg Config) time.Duration {
	timeout := cfg.WithDefaults().Timeout
	switch s := sink.(type) {
	case AckTimeouter:
		return timeout + s.AckTimeout()
	case sinks.Windower:
		return timeout + ackTimeout
	default:
		return timeout
	}
}

// attempt makes one attempt and reports it.
func (r *run) attempt(res result, msgs []sinks.Message, timeout time.Duration) {
	ctx, cancel := context.WithTimeout(r.hard, timeout)
	defer cancel()
	res.began = time.Now()
	res.receipt, res.err = r.w.sink.Send(ctx, msgs)
	res.took = time.Since(res.began)
	r.results <- res
}

// examine asks the sink for its health.
func (r *run) examine(p sinks.Prober) {
	r.flying++
	r.probes++
	r.mustEnd(r.w.cfg.Timeout)
	go func() {
		ctx, cancel := context.WithTimeout(r.hard, r.w.cfg.Timeout)
		defer cancel()
		_, err := p.Probe(ctx)
		r.results <- result{err: err, probe: true}
	}()
}

// publish shows the state to others.
func (r *run) publish() {
	r.w.update(func(s *Status) {
		s.Cursor, s.InFlight, s.Suspects, s.Held = r.stored, r.flying, len(r.suspects), len(r.held)
		s.Failures = r.pace.failures
		s.Replay = nil
		if r.replay != nil {
			s.Replay = &Replay{
				From: r.replay.From, After: r.replay.ledger.done, Until: r.ledger.settledEnd(), Begun: r.replay.Begun, Sent: r.replay.sent,
			}
		}
		s.HaltReason = ""
		if r.halt != nil {
			s.HaltReason = r.halt.cause
		}
	})
	r.w.metrics.suspected.Set(float64(len(r.suspects)))
	halted := 0.0
	if r.halt != nil {
		halted = 1
	}
	r.w.metrics.halted.Set(halted)
}
