package delivery

import (
	"context"
	"errors"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

// Outcomes of heartbeats.
const (
	heartbeatAccepted = "accepted"
	heartbeatFailed   = "failed"
)

// A heartbeat is what the worker keeps of Config.Heartbeat. A heartbeat goes
// the way of a batch: when it is due it takes the next batch's turn, under the
// same rates and the same deadline. It is no record. What becomes of it moves
// no cursor, leaves no receipt, proves nothing of suspects and ends no outage,
// and one that is refused neither halts the sink nor holds up records: they
// speak for themselves. While the sink is paused, halted or retrying none is
// sent, so that none arrives where records do not.
type heartbeat struct {
	next   time.Time // of the next one
	flying bool
	wait   interface {
		NextBackOff() time.Duration
		Reset()
	}
	outage *outage // since when none is accepted; nil when the last one was
}

func (r *run) startHeartbeat() {
	if r.w.cfg.Heartbeat > 0 {
		r.heart = &heartbeat{next: time.Now(), wait: newBackoff(haltFirst, haltMax)}
	}
}

// beatDue reports whether a heartbeat is to be sent now, and when to look
// again; zero means when something else happens.
func (r *run) beatDue(now time.Time) (due bool, wake time.Time) {
	b := r.heart
	if b == nil || b.flying || r.w.paused.Load() || r.halt != nil || r.pace.failures > 0 || r.flying >= r.window() {
		return false, time.Time{}
	}
	at := b.next
	for _, other := range []time.Time{r.next, r.pace.notBefore} {
		if other.After(at) {
			at = other
		}
	}
	return !now.Before(at), at
}

// sendBeat begins the attempt.
func (r *run) sendBeat(now time.Time) {
	r.begun++
	r.flying++
	r.heart.flying = true
	r.next = now.Add(r.w.apart(1))
	res := result{number: r.begun, heartbeat: true}
	timeout := Deadline(r.w.sink, r.w.cfg)
	r.mustEnd(timeout)
	go func() {
		rec := r.w.heartbeat(r.hard).Record(time.Now())
		body, err := r.w.encodeTo(nil, rec)
		if err != nil {
			res.err = err
			r.results <- res
			return
		}
		r.attempt(res, []sinks.Message{{Record: rec, Body: body}}, timeout)
	}()
}

// heartbeat is what one says now.
func (w *Worker) heartbeat(ctx context.Context) format.Heartbeat {
	h := format.Heartbeat{Ready: true}
	if w.says != nil {
		h = w.says(ctx)
	}
	s := w.Status()
	h.Sink, h.Interval, h.Behind, h.Dead = w.name, int64(w.cfg.Heartbeat/time.Second), s.Behind, s.Dead
	return h
}

// beaten takes in what became of a heartbeat.
func (r *run) beaten(res result) {
	b, now := r.heart, time.Now()
	b.flying = false
	if res.err == nil {
		r.w.metrics.heartbeats.WithLabelValues(heartbeatAccepted).Inc()
		r.w.update(func(s *Status) { s.LastHeartbeat, s.HeartbeatError = now, "" })
		if b.outage != nil {
			r.w.log.Info("heartbeats are accepted again",
				zap.Int("failed_attempts", b.outage.attempts), zap.Duration("after", now.Sub(b.outage.since)))
			b.outage = nil
		}
		b.wait.Reset()
		b.next = now.Add(r.w.cfg.Heartbeat)
		return
	}
	if r.hard.Err() != nil {
		return // cancelled by us
	}
	r.w.metrics.heartbeats.WithLabelValues(heartbeatFailed).Inc()
	err := res.err
	if p, ok := errors.AsType[*sinks.PartialError](err); ok && p.Failed[0] != nil {
		err = p.Failed[0]
	}
	cause := clean(err)
	r.w.update(func(s *Status) { s.HeartbeatError = cause })
	if b.outage == nil {
		b.outage = &outage{since: now}
	}
	b.outage.attempts++
	if b.outage.isNew(cause) {
		r.w.log.Warn("heartbeat not accepted, trying again; records are sent as ever", zap.String("error", cause))
	}
	b.next = now.Add(min(max(b.wait.NextBackOff(), sinks.RetryAfter(err)), r.w.cfg.Heartbeat))
}
