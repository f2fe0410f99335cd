package delivery

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

const (
	// replayShare is how many live batches may begin for each batch of a replay
	// while both wait.
	replayShare = 9
	// reviveEvery is how often a stuck dead letter is sent again.
	reviveEvery = 24 * time.Hour
	// reviveLook is how often the dead letters are searched for those.
	reviveLook = time.Hour
	// revivePage is how many dead letters are read at once.
	revivePage = 100
)

// errNotRunning is what Replay, EndReplay and Retry return while Run does not
// run.
var errNotRunning = errors.New("the sink is not being served")

// An origin is why a record is sent.
type origin int

const (
	live    origin = iota // for the first time, as far as the cursor knows
	again                 // by a replay
	revived               // out of the dead letters
)

// A replay is the sink's second pass over what it has had.
type replay struct {
	journal.Replay
	ledger ledger
	reader *reader
	sent   int // records accepted, of this process
}

// A request is something that an operator wants of a running worker.
type request struct {
	do   func(r *run) error
	done chan error // buffered
}

// ask hands a request to the running worker and waits for its answer.
func (w *Worker) ask(ctx context.Context, do func(r *run) error) error {
	q := request{do: do, done: make(chan error, 1)}
	select {
	case w.requests <- q:
	case <-w.over:
		return errNotRunning
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case err := <-q.done:
		return err
	case <-w.over:
		return errNotRunning
	}
}

// Replay begins to send again every record from a sequence on that the sink
// has had and its condition lets pass, up to where the sink is by then, each
// marked as replayed. Live records go first; while they wait, one batch in ten
// is the replay's. It returns journal.ErrReplay when a replay runs or the
// journal no longer has that record. It goes on over restarts.
func (w *Worker) Replay(ctx context.Context, from uint64) error {
	return w.ask(ctx, func(r *run) error {
		if r.replay != nil {
			return &journal.ReplayError{Running: true}
		}
		next := journal.Replay{From: from, After: max(from, 1) - 1, Begun: time.Now().UTC()}
		if err := r.settleReplay(ctx, next); err != nil {
			return err
		}
		r.w.log.Info("replay begins", zap.Uint64("from", from), zap.Uint64("to", r.ledger.settledEnd()))
		r.resume(next)
		return nil
	})
}

// EndReplay ends the sink's replay, if one runs. What was sent stays sent.
func (w *Worker) EndReplay(ctx context.Context) error {
	return w.ask(ctx, func(r *run) error {
		if r.replay == nil {
			return nil
		}
		return r.endReplay("replay ended by request")
	})
}

// Retry sends dead letters again, by their sequences, as soon as nothing else
// waits. One that is accepted leaves the dead letters; one that is refused
// stays, with its new reason.
func (w *Worker) Retry(ctx context.Context, seqs ...uint64) error {
	return w.ask(ctx, func(r *run) error {
		r.graves = append(r.graves, seqs...)
		return nil
	})
}

// Drop removes dead letters for good, by their sequences: an operator's
// decision that nobody needs them.
func (w *Worker) Drop(ctx context.Context, seqs ...uint64) error {
	return w.ask(ctx, func(r *run) error {
		r.graves = slices.DeleteFunc(r.graves, func(seq uint64) bool { return slices.Contains(seqs, seq) })
		err := r.w.journal.Settle(context.WithoutCancel(ctx), r.lease, journal.Settlement{Sink: r.w.name, Cursor: r.stored, Revived: seqs})
		if err == nil {
			r.w.log.Warn("dead letters were dropped by request", zap.Int("records", len(seqs)))
		}
		return err
	})
}

// resendPage is how many records of a resend are stored at once.
const resendPage = 500

// Resend sends records that the sink never got and that the journal no longer
// holds: those of a gap, or of the time before the sink began. They are kept as
// dead letters of the class "gap" before it returns, so they outlive a restart,
// and are sent one by one as soon as nothing else waits; what is accepted leaves
// the dead letters. Records that the sink's condition refuses are left out, and
// their number is returned. filled are the records that the sink is no longer
// owed once these are stored: see journal.Settlement.
func (w *Worker) Resend(ctx context.Context, records []*event.Record, filled []journal.Range) (refused int, err error) {
	var letters []journal.DeadLetter
	for _, rec := range records {
		if !w.wants(rec) {
			refused++
			continue
		}
		letters = append(letters, journal.DeadLetter{Record: rec, Class: classGap, Reason: "not sent yet: asked of the API again to fill a gap", At: time.Now().UTC()})
	}
	return refused, w.ask(ctx, func(r *run) error {
		for len(letters) > 0 || len(filled) > 0 {
			s := journal.Settlement{Sink: w.name, Cursor: r.stored, Dead: letters[:min(len(letters), resendPage)]}
			if letters = letters[len(s.Dead):]; len(letters) == 0 {
				s.Filled, filled = filled, nil // only once every record is kept
			}
			if err := w.journal.Settle(context.WithoutCancel(ctx), r.lease, s); err != nil {
				return err
			}
			for _, l := range s.Dead {
				r.graves = append(r.graves, l.Record.Seq)
			}
		}
		return nil
	})
}

func (r *run) settleReplay(ctx context.Context, next journal.Replay) error {
	return r.w.journal.Settle(context.WithoutCancel(ctx), r.lease, journal.Settlement{
		Sink: r.w.name, Cursor: r.stored, Replay: &next,
	})
}

// resume goes on with a stored replay.
func (r *run) resume(stored journal.Replay) {
	r.replay = &replay{
		Replay: stored, ledger: newLedger(journal.Cursor{Seq: stored.After}),
		reader: &reader{w: r.w, pos: stored.After, origin: again},
	}
}

// againWaits reports whether there is something to send again.
func (r *run) againWaits() bool {
	return len(r.graves) > 0 || (r.replay != nil && !r.replayUnderWay())
}

// replayUnderWay reports whether a batch of the replay is queued or in flight.
// Records that wait for their proof, or for that of an earlier one of their
// key, do not hold up the next batch.
func (r *run) replayUnderWay() bool {
	n := r.replay.ledger.owed()
	for _, s := range r.suspects {
		if s.item().origin == again {
			n--
		}
	}
	for _, it := range r.held {
		if it.origin == again {
			n--
		}
	}
	return n > 0
}

// readAgain puts what is to be sent again into the empty queue.
func (r *run) readAgain() error {
	r.lived = 0
	if len(r.graves) > 0 {
		return r.exhume()
	}
	return r.readReplay()
}

// readReplay puts the replay's next batch into the queue, or ends the replay
// when it has come to where the sink is.
func (r *run) readReplay() error {
	p, end := r.replay, r.ledger.settledEnd()
	if p.ledger.done >= end {
		return r.endReplay("replay has come to its end")
	}
	if p.reader.pos >= end {
		return nil // suspects of it wait for their proof
	}
	p.reader.limits = r.w.limits()
	b, err := p.reader.upTo(r.ctx, end, r.ledger.owes)
	if err != nil || r.ending() {
		return err
	}
	p.ledger.add(b.items, b.read)
	r.dead = append(r.dead, b.dead...)
	if len(b.items) > 0 {
		r.queue = append(r.queue, &job{items: b.items, arena: b.arena})
	}
	return nil
}

// endReplay ends the replay; records of it that are under way are forgotten by
// it when they come back.
func (r *run) endReplay(why string) error {
	p := r.replay
	ended := p.Replay
	ended.Ended = true
	err := r.w.repeat(r.hard, "end the replay", func() error { return r.settleReplay(r.hard, ended) })
	if err != nil {
		return err
	}
	r.w.log.Info(why, zap.Uint64("from", p.From), zap.Int("records", p.sent), zap.Duration("after", time.Since(p.Begun)))
	r.replay = nil
	return nil
}

// moved is how far the replay has come, nil when the journal knows.
func (r *run) moved() *journal.Replay {
	if r.replay == nil || r.replay.ledger.done <= r.replay.After {
		return nil
	}
	next := r.replay.Replay
	next.After = r.replay.ledger.done
	return &next
}

// done notes that records are owed no longer, each where it was owed.
func (r *run) done(items []item) {
	if !slices.ContainsFunc(items, func(it item) bool { return it.origin != live }) {
		r.ledger.settle(items)
		return
	}
	for i := range items {
		switch one := items[i : i+1]; items[i].origin {
		case again:
			if r.replay != nil { // it may have been ended meanwhile
				r.replay.ledger.settle(one)
			}
		case revived:
		default:
			r.ledger.settle(one)
		}
	}
}

// acceptedAgain notes what else an acceptance means for records that were sent
// again.
func (r *run) acceptedAgain(items []item) {
	for i := range items {
		switch it := &items[i]; it.origin {
		case again:
			if r.replay != nil {
				r.replay.sent++
			}
		case revived:
			r.revived = append(r.revived, it.seq)
			r.w.log.Info("dead letter was accepted after all", r.record(it)...)
		default:
		}
	}
}

// fetch reads a record again that is no longer in memory; nil when it is gone.
func (r *run) fetch(it *item) (rec *event.Record, err error) {
	if it.origin == revived {
		letters, err := r.w.journal.DeadLetters(r.ctx, r.w.name, it.seq-1, 1)
		if err != nil || len(letters) == 0 || letters[0].Record.Seq != it.seq {
			return nil, err
		}
		return letters[0].Record, nil
	}
	rec, err = r.w.journal.Get(r.ctx, it.seq)
	if rec != nil && it.origin == again {
		rec = rec.Again()
	}
	return rec, err
}

// stillDead reports whether an attempt says that a dead letter stays one. Its
// record was proven to be refused: an answer to it alone is enough.
func (r *run) stillDead(j *job, o outcome) bool {
	if j.items[0].origin != revived || o.halt != nil {
		return false
	}
	return o.suspect != nil || (o.answered && o.retry != nil && o.after == 0)
}

// exhume puts the next dead letter that is to be tried again into the queue.
func (r *run) exhume() error {
	for len(r.graves) > 0 && len(r.queue) == 0 {
		it := item{seq: r.graves[0], origin: revived}
		r.graves = r.graves[1:]
		var letters []journal.DeadLetter
		err := r.w.repeat(r.ctx, "read a dead letter", func() (err error) {
			letters, err = r.w.journal.DeadLetters(r.ctx, r.w.name, it.seq-1, 1)
			return err
		})
		if err != nil || r.ending() {
			return err
		}
		if len(letters) == 0 || letters[0].Record.Seq != it.seq {
			continue // it was dropped meanwhile
		}
		it.rec, it.key, it.attempts = letters[0].Record, letters[0].Record.Key, letters[0].Attempts
		out, err := r.w.encodeTo(nil, it.rec)
		if err != nil {
			r.rebury(it, classEncode, clean(err))
			continue
		}
		it.body = body(out, 0)
		r.queue = append(r.queue, &job{items: []item{it}})
	}
	return nil
}

// rebury keeps a dead letter that was refused again, with what was said now.
func (r *run) rebury(it item, class, reason string) {
	r.dead = append(r.dead, journal.DeadLetter{
		Record: it.rec, Reason: reason, Class: class, Attempts: it.attempts, At: time.Now().UTC(),
	})
}

// lookForStuck lists the stuck dead letters, and those of gaps, that are to be sent again, every
// reviveLook.
func (r *run) lookForStuck(now time.Time) error {
	if now.Before(r.lookAt) {
		return nil
	}
	r.lookAt = now.Add(reviveLook)
	queued := len(r.graves)
	for after := uint64(0); ; {
		var page []journal.DeadLetter
		err := r.w.repeat(r.ctx, "read the dead letters", func() (err error) {
			page, err = r.w.journal.DeadLetters(r.ctx, r.w.name, after, revivePage)
			return err
		})
		if err != nil || r.ending() {
			return err
		}
		for _, d := range page {
			after = d.Record.Seq
			// Those of a gap were never sent: a restart came between.
			if d.Class == classStuck && now.Sub(d.At) >= reviveEvery || d.Class == classGap && queued == 0 {
				r.graves = append(r.graves, d.Record.Seq)
			}
		}
		if len(page) < revivePage {
			return nil
		}
	}
}

// answerTo carries out a request.
func (r *run) answerTo(q request) error {
	err := q.do(r)
	q.done <- err
	if errors.Is(err, journal.ErrClosed) || errors.Is(err, journal.ErrLeaseLost) {
		return fmt.Errorf("serve a request: %w", err)
	}
	return nil
}
