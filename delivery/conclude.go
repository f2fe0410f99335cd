package delivery

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// conclude applies what an attempt gave, and whatever else has ended by now.
// Nothing is stored yet.
func (r *run) conclude(res result) error {
	for {
		r.apply(res)
		select {
		case res = <-r.results:
		default:
			if r.ending() {
				return r.store()
			}
			return nil
		}
	}
}

func (r *run) apply(res result) {
	r.flying--
	if res.probe {
		r.probes--
	}
	if res.heartbeat {
		r.beaten(res)
		return
	}
	if res.job == nil {
		r.examined(res.err)
		return
	}
	j := res.job
	if j.suspect != nil {
		j.suspect.flying = false
	}
	o := judge(j, res.err)
	cancelled := r.hard.Err() != nil && o.label != "ok" && o.label != "partial"
	if cancelled {
		o.label = "cancelled"
	}
	r.w.metrics.attempts.WithLabelValues(o.label).Inc()
	r.follow(res, o)
	if cancelled { // by us: it says nothing of the destination
		return
	}
	r.w.metrics.seconds.Observe(res.took.Seconds())
	if len(o.accepted) > 0 {
		r.accept(res, o.accepted)
	}
	if res.err == nil {
		return
	}
	r.w.update(func(s *Status) { s.LastError, s.LastErrorAt = j.failure, time.Now() })
	now := time.Now()
	switch {
	case j.suspect != nil:
		r.refusedAgain(res, o, now)
		return
	case r.stillDead(j, o):
		class := classPoison
		if o.stuck || o.suspect == nil {
			class = classStuck
		}
		if it := &j.items[0]; it.rec != nil {
			r.rebury(*it, class, j.failure)
		}
		return
	}
	r.queue = append(o.again, r.queue...)
	if o.suspect != nil {
		r.refused(j, o, now)
	} else if o.halt == nil && o.retry == nil && len(o.again) > 0 && o.label != "partial" {
		r.w.log.Debug("batch refused, looking for the cause",
			zap.Int("records", len(j.items)), zap.String("error", j.failure))
	}
	r.endure(res, o, now)
}

// follow tells of an attempt that was judged, before the records of its job are
// parted.
func (r *run) follow(res result, o outcome) {
	if r.w.follow == nil {
		return
	}
	j := res.job
	answer := res.receipt.Answer
	if res.err != nil {
		answer = j.failure
	}
	j.followed = r.w.follow(j.followed, Attempt{
		Sink: r.w.name, First: j.items[0].seq, Last: j.items[len(j.items)-1].seq, Records: len(j.items),
		Number: j.attempts, Again: j.items[0].origin != live, Began: res.began, Took: res.took,
		Outcome: o.label, Failed: res.err != nil, Answer: answer,
	})
	for _, part := range o.again { // made before it was told
		part.followed = j.followed
	}
}

// endure slows down or halts after a failure that concerns the destination.
func (r *run) endure(res result, o outcome, now time.Time) {
	switch {
	case o.halt != nil:
		r.stop(clean(o.halt), false, now)
	case r.halt != nil && res.probe && !r.halt.burst && o.answered:
		// It judges records again, if not to our liking.
		r.halt = nil
		r.pace.suspend()
		r.retryLater(res, o, now)
	case r.halt != nil && res.probe:
		r.halt.next = now.Add(r.halt.wait.NextBackOff())
		r.halt.direct = false
		if o.retry != nil {
			r.trouble(clean(o.retry), now)
		}
	case r.halt == nil:
		r.retryLater(res, o, now)
	}
}

// retryLater backs off after a failure that is worth repeating.
func (r *run) retryLater(res result, o outcome, now time.Time) {
	if o.retry != nil && o.suspect == nil {
		r.pace.failed(res.number, r.begun, o.after, now)
		r.trouble(clean(o.retry), now)
	}
}

// accept settles records that the destination has accepted.
func (r *run) accept(res result, items []item) {
	j, now := res.job, time.Now()
	if j.suspect != nil {
		r.clear(j.suspect, j.items[0].key)
		r.w.log.Info("refused record was accepted after all", r.record(&j.items[0])...)
	}
	r.done(items)
	r.acceptedAgain(items)
	r.receipts = append(r.receipts, journal.Receipt{
		Range: journal.Range{First: items[0].seq, Last: items[len(items)-1].seq},
		At:    now.UTC(), Attempts: j.attempts, Records: len(items), Answer: told(j, res), Again: items[0].origin != live,
	})
	r.remember(j, res)

	r.w.metrics.records.WithLabelValues(recordAccepted).Add(float64(len(items)))
	r.w.metrics.duplicates.Add(float64(res.receipt.Duplicates))
	r.w.metrics.lastSuccess.Set(float64(now.UnixNano()) / 1e9)
	r.w.update(func(s *Status) { s.LastSuccess, s.LastAnswer = now, res.receipt.Answer })

	fresh := res.number > r.pace.mark // begun after the last trouble
	r.pace.accepted(res.number)
	if fresh {
		r.recovered(now)
	}
	if len(items) > res.receipt.Duplicates { // what it had already proves nothing
		r.prove(res.number)
	}
	if j.arena != nil && res.err == nil && int64(cap(j.arena)) <= 2*r.w.cfg.BatchBytes {
		select {
		case r.spare <- j.arena[:0]:
		default:
		}
	}
}

// told is the answer of an accepted attempt with the last failure before it.
func told(j *job, res result) string {
	if res.err != nil || j.failure == "" {
		return res.receipt.Answer
	}
	return fmt.Sprintf("%s (the attempt before: %s)", res.receipt.Answer, j.failure)
}

// remember keeps the memos that came with an attempt.
func (r *run) remember(j *job, res result) {
	for i, memo := range res.receipt.Memo {
		if i < 0 || i >= len(j.items) {
			continue
		}
		if r.memos == nil {
			r.memos = map[event.Key]string{}
		}
		r.memos[j.items[i].key] = memo
	}
}

// prove notes that others passed, in an attempt of the given number, after
// suspects were refused.
func (r *run) prove(number uint64) {
	r.burst = 0
	for _, s := range r.suspects {
		if s.refusedAt < number && !s.proven {
			s.proven = true
			if !s.stuck {
				s.next = time.Time{}
			}
		}
	}
}

// refused makes a suspect of a record that was refused alone.
func (r *run) refused(j *job, o outcome, now time.Time) {
	if r.halt != nil && r.halt.burst {
		r.queue = append([]*job{j}, r.queue...) // it may be the destination
		return
	}
	j.items = slices.Clone(j.items) // not a part of a whole batch
	s := &suspect{
		job: j, stuck: o.stuck, reason: clean(o.suspect), since: now, refusedAt: r.begun,
		wait: newBackoff(retryFirst, retryMax),
	}
	s.next = now.Add(s.wait.NextBackOff())
	j.suspect, j.arena = s, nil
	it := s.item()
	r.w.log.Warn("record refused; it waits until others pass",
		append(r.record(it), zap.String("reason", s.reason), zap.Int("attempts", it.attempts))...)
	it.rec, it.body = nil, nil
	r.suspects = append(r.suspects, s)
	r.burst++
	if r.burst >= poisonBurst {
		r.stop(fmt.Sprintf("%d records in a row were refused, the last one: %s", r.burst, s.reason), true, now)
	}
}

// refusedAgain judges a suspect that was sent again and not accepted.
func (r *run) refusedAgain(res result, o outcome, now time.Time) {
	j := res.job
	s := j.suspect
	said := errors.Join(o.suspect, o.retry) // one of them, or none
	if said != nil {
		s.reason = j.failure
	}
	s.next = now.Add(s.wait.NextBackOff())
	verdict := o.suspect != nil && !o.stuck
	switch {
	case o.halt != nil || r.halt != nil:
		r.endure(res, o, now)
	case verdict && s.proven:
		r.bury(s, classPoison, now)
		return
	case verdict:
		s.stuck = false
	case o.stuck && s.proven && now.Sub(s.since) >= stuckFor:
		r.bury(s, classStuck, now)
		return
	case o.stuck:
		s.stuck = true
		if end := s.since.Add(stuckFor); now.Before(end) && s.next.After(end) {
			s.next = end
		}
	default: // the destination's trouble: the refusal stands as it was
		r.endure(res, o, now)
		r.unload(s)
		return
	}
	s.proven = false
	s.refusedAt = r.begun
	r.unload(s)
}

// unload drops the content of a suspect, which is read again when it is sent.
func (r *run) unload(s *suspect) { s.item().rec, s.item().body = nil, nil }

// bury puts a suspect into the dead letters.
func (r *run) bury(s *suspect, class string, now time.Time) {
	it := *s.item()
	r.clear(s, it.key)
	r.done([]item{it})
	r.dead = append(r.dead, journal.DeadLetter{
		Record: it.rec, Reason: s.reason, Class: class, Attempts: it.attempts, At: now.UTC(),
	})
	r.receipts = append(r.receipts, journal.Receipt{
		Range: journal.Range{First: it.seq, Last: it.seq}, At: now.UTC(), Attempts: s.job.attempts,
		Records: 1, Failed: true, Answer: s.reason,
	})
}

// clear takes a record off the suspects and lets those go on that waited for it.
func (r *run) clear(s *suspect, key event.Key) {
	r.suspects = slices.DeleteFunc(r.suspects, func(x *suspect) bool { return x == s })
	var free []item
	r.held = slices.DeleteFunc(r.held, func(it item) bool {
		if it.key == key {
			free = append(free, it)
			return true
		}
		return false
	})
	if len(free) > 0 {
		r.queue = append([]*job{{items: free}}, r.queue...)
	}
}

// hold puts those records of a job aside that must wait for an earlier record
// of their key.
func (r *run) hold(j *job) {
	if len(r.suspects) == 0 && len(r.held) == 0 {
		return
	}
	first := map[event.Key]uint64{} // the first record that the key waits for
	for _, s := range r.suspects {
		first[s.item().key] = s.item().seq
	}
	for _, it := range r.held {
		if seq, ok := first[it.key]; !ok || it.seq < seq {
			first[it.key] = it.seq
		}
	}
	waits := func(it item) bool { seq, ok := first[it.key]; return ok && seq < it.seq }
	if !slices.ContainsFunc(j.items, waits) {
		return
	}
	rest := make([]item, 0, len(j.items))
	for _, it := range j.items {
		if waits(it) {
			it.rec, it.body = nil, nil
			r.held = append(r.held, it)
		} else {
			rest = append(rest, it)
		}
	}
	slices.SortFunc(r.held, func(a, b item) int { return cmp.Compare(a.seq, b.seq) })
	j.items = rest
}

// stop halts the sink, or keeps it halted.
func (r *run) stop(cause string, burst bool, now time.Time) {
	if r.halt == nil {
		r.halt = &halt{since: now, wait: newBackoff(haltFirst, haltMax)}
		r.outage = cmp.Or(r.outage, &outage{since: now})
		if r.outage.isNew("halt " + cause) {
			r.w.log.Error("destination refuses everything; records are kept, and it is asked slowly until it accepts one",
				zap.String("error", cause), zap.Int("suspects", len(r.suspects)))
		}
		r.outage.isNew(cause)
	} else {
		r.trouble(cause, now)
	}
	r.outage.attempts++
	r.halt.cause, r.halt.burst = cause, burst || (r.halt.burst && r.burst >= poisonBurst)
	r.halt.next = now.Add(r.halt.wait.NextBackOff())
	r.halt.direct = false
	r.pace.mark = r.begun
}

// examined takes in what the sink says of its health while it is halted.
func (r *run) examined(err error) {
	if r.halt == nil || r.hard.Err() != nil {
		return
	}
	// Whatever it says, the next question is a record: only an answer to that
	// tells.
	r.halt.direct = true
	if err != nil {
		now := time.Now()
		r.halt.next = now.Add(r.halt.wait.NextBackOff())
		r.trouble(clean(err), now)
	}
}

// An outage is the time from the first failure to the next acceptance. It is
// logged by a few lines, not by one for each attempt.
type outage struct {
	since    time.Time
	attempts int
	causes   map[string]bool
}

// causesMax is how many different causes of one outage are logged.
const causesMax = 20

// isNew reports whether a cause was not seen yet. Numbers do not make causes
// different: ports, request ids and times are numbers.
func (o *outage) isNew(cause string) bool {
	cause = strings.Map(func(c rune) rune {
		if c >= '0' && c <= '9' {
			return -1
		}
		return c
	}, cause)
	if o.causes[cause] || len(o.causes) >= causesMax {
		return false
	}
	if o.causes == nil {
		o.causes = map[string]bool{}
	}
	o.causes[cause] = true
	return true
}

// trouble notes a failure that concerns the destination.
func (r *run) trouble(cause string, now time.Time) {
	first := r.outage == nil
	if first {
		r.outage = &outage{since: now}
	}
	r.outage.attempts++
	if r.outage.isNew(cause) {
		msg := "delivery fails, trying again"
		if !first {
			msg = "delivery fails for another reason"
		}
		r.w.log.Warn(msg, zap.String("error", cause), zap.Int("attempts", r.outage.attempts))
	}
}

// recovered ends outage and halt.
func (r *run) recovered(now time.Time) {
	r.halt = nil
	if r.outage == nil {
		return
	}
	r.w.log.Info("delivery works again",
		zap.Int("failed_attempts", r.outage.attempts), zap.Duration("after", now.Sub(r.outage.since)))
	r.outage = nil
}

// record names a record in the log without its content.
func (r *run) record(it *item) []zap.Field {
	return []zap.Field{zap.String("finding_uid", it.key.FindingUID()), zap.Uint64("seq", it.seq)}
}

// settle stores what became of records, if anything did.
func (r *run) settle() error {
	lazy := !r.lazyAt.IsZero() && !time.Now().Before(r.lazyAt)
	if !r.unstored() && !lazy {
		return nil
	}
	return r.store()
}

// unstored reports whether there is more to store than how far the sink is.
func (r *run) unstored() bool {
	return len(r.dead)+len(r.revived)+len(r.receipts)+len(r.memos) > 0
}

// store stores the cursor and all that belongs to it in one commit. It repeats
// a commit that fails, or whose outcome is unknown: the same again does no
// harm.
func (r *run) store() error {
	cursor := r.ledger.cursor()
	moved := r.moved()
	if !r.unstored() && moved == nil && cursor.Seq == r.stored.Seq && slices.Equal(cursor.Ahead, r.stored.Ahead) {
		r.lazyAt = time.Time{}
		return nil
	}
	s := journal.Settlement{
		Sink: r.w.name, Cursor: cursor, Dead: r.dead, Revived: r.revived, Receipts: r.receipts, Memos: r.memos, Replay: moved,
	}
	done := false
	err := r.w.repeat(r.hard, "settle", func() error {
		err := r.w.journal.Settle(context.WithoutCancel(r.hard), r.lease, s)
		done = err == nil
		return err
	})
	if !done {
		return err
	}
	r.stored, r.lazyAt = cursor, time.Time{}
	if moved != nil {
		r.replay.Replay = *moved
	}
	for _, d := range r.dead {
		r.w.metrics.records.WithLabelValues(recordDead).Inc()
		r.w.metrics.dead.WithLabelValues(d.Class).Inc()
		r.w.log.Error("record put into the dead letters",
			zap.String("finding_uid", d.Record.Key.FindingUID()), zap.Uint64("seq", d.Record.Seq),
			zap.String("event_uid", d.Record.UID), zap.String("class", d.Class),
			zap.String("reason", d.Reason), zap.Int("attempts", d.Attempts))
	}
	r.dead, r.revived, r.receipts, r.memos = nil, nil, nil, nil
	signal(r.w.look)
	return nil
}
