package delivery_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

// A listener hears heartbeats and passes on the rest to a dest.
type listener struct {
	*dest

	mu    sync.Mutex
	beats []time.Time
	uids  []string
	fail  func(n int) error // of the n-th heartbeat; nil: none fails
	slow  time.Duration     // of each heartbeat
}

func (l *listener) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if batch[0].Record.Key.Kind != "heartbeat" {
		return l.dest.Send(ctx, batch)
	}
	if len(batch) != 1 || len(batch[0].Body) == 0 {
		panic("a heartbeat is one message with a body")
	}
	if l.slow > 0 {
		time.Sleep(l.slow)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(l.beats)
	l.beats, l.uids = append(l.beats, time.Now()), append(l.uids, batch[0].Record.UID)
	if l.fail != nil {
		return sinks.Receipt{}, l.fail(n)
	}
	return sinks.Receipt{Answer: "200"}, nil
}

func (l *listener) heard() []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.beats)
}

// beating runs a worker whose sink gets a heartbeat every five minutes.
func beating(t *testing.T, j *memory, l *listener, change ...func(o *delivery.Options)) *rig {
	t.Helper()
	return start(t, j, l.dest, append([]func(o *delivery.Options){func(o *delivery.Options) {
		o.Sink, o.Config.Heartbeat = l, 5*time.Minute
		o.Encoder = func(dst []byte, r *event.Record) ([]byte, error) {
			if r.Key.Kind == "heartbeat" {
				return append(dst, format.Of(r).Message...), nil
			}
			return encode(dst, r)
		}
	}}, change...)...)
}

// Heartbeats come at their time, whatever the condition says, each with an id
// of its own, while there are records as while there are none; they are no
// records, and nothing of them is stored.
func TestHeartbeatsComeRegularly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		l := &listener{dest: &dest{answer: fine}}
		r := beating(t, j, l, func(o *delivery.Options) {
			o.Config.When = "threat_severity >= informational"
			o.Heartbeat = func(context.Context) format.Heartbeat { return format.Heartbeat{Host: "relay-1", Ready: false} }
		})
		for i := range uint64(60) {
			after(time.Minute)
			j.add(record(31 + i))
		}
		after(time.Second)
		beats := l.heard()
		if len(beats) != 13 {
			t.Errorf("%d heartbeats in an hour, want 13", len(beats))
		}
		for i, at := range beats[1:] {
			if gap := at.Sub(beats[i]); gap < 5*time.Minute || gap > 5*time.Minute+time.Second {
				t.Errorf("heartbeat %d comes %s after the one before", i+1, gap)
			}
		}
		if slices.Sort(l.uids); len(slices.Compact(l.uids)) != 13 {
			t.Error("two heartbeats have one event_uid")
		}
		if got := r.d.got(); !slices.Equal(got, span(1, 90)) {
			t.Errorf("accepted %v", got)
		}
		j.mu.Lock()
		n := 0
		for _, receipt := range j.receipts["soc"] {
			n += receipt.Records
		}
		if n != 90 || len(j.memos["soc"]) != 0 {
			t.Errorf("receipts of %d records, memos %v", n, j.memos["soc"])
		}
		j.mu.Unlock()
		if s := r.w.Status(); s.State != delivery.OK || s.LastHeartbeat != beats[12] || s.HeartbeatError != "" {
			t.Errorf("status %+v", s)
		}
		r.close()
	})
}

// A heartbeat that is refused, in whatever way, halts nothing, buries nothing
// and holds up no record; it is tried again, told in one line, and again when
// it is accepted.
func TestRefusedHeartbeatHarmsNoRecord(t *testing.T) {
	for name, refusal := range map[string]error{
		"halt": sinks.Halt(errors.New("403 forbidden")), "poison": sinks.Poison(errors.New("400 no such field")),
		"too large": sinks.TooLarge(errors.New("413")), "retry": errNetwork, "answer": sinks.Answered(errors.New("500")),
		"partial": &sinks.PartialError{Failed: map[int]error{0: sinks.Poison(errors.New("400 mapping"))}},
		"after":   sinks.After(errors.New("429"), time.Minute),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				l := &listener{dest: &dest{answer: fine}, fail: func(n int) error {
					if n < 30 {
						return refusal
					}
					return nil
				}}
				r := beating(t, j, l)
				began := time.Now()
				for i := range uint64(180) {
					j.add(record(i + 1))
					after(time.Minute)
					if i == 9 {
						if s := r.w.Status(); s.State != delivery.Retrying || s.HaltReason != "" || s.Suspects != 0 || s.HeartbeatError == "" || s.LastError != "" {
							t.Errorf("status %+v", s)
						}
					}
				}
				for i, c := range r.d.seen() {
					if late := c.at.Sub(began.Add(time.Duration(i) * time.Minute)); late > time.Second {
						t.Fatalf("record %d waited %s", i+1, late)
					}
				}
				if got := r.d.got(); !slices.Equal(got, span(1, 180)) || len(r.dead()) != 0 {
					t.Errorf("accepted %v, dead %v", got, r.dead())
				}
				var told []string
				for _, entry := range r.logs.All() {
					if entry.Level >= zapcore.InfoLevel {
						told = append(told, entry.Message)
					}
				}
				if len(told) != 2 || !strings.HasPrefix(told[0], "heartbeat not accepted") || told[1] != "heartbeats are accepted again" {
					t.Errorf("logged %q", told)
				}
				if s := r.w.Status(); s.State != delivery.OK || s.HeartbeatError != "" {
					t.Errorf("status at the end %+v", s)
				}
				r.close()
			})
		})
	}
}

// Where records do not arrive, no heartbeat does: a search there finds the
// silence. The first comes with the first record that is accepted again.
func TestNoHeartbeatWhereRecordsDoNotArrive(t *testing.T) {
	for name, failure := range map[string]error{"halted": sinks.Halt(errors.New("401")), "retrying": errNetwork} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				var up atomic.Bool
				l := &listener{dest: &dest{answer: simply(func(int, []uint64) error {
					if !up.Load() {
						return failure
					}
					return nil
				})}}
				r := beating(t, j, l)
				after(time.Minute) // one heartbeat
				j.add(record(1))
				after(time.Hour)
				if n := len(l.heard()); n != 1 {
					t.Errorf("%d heartbeats", n)
				}
				up.Store(true)
				after(10 * time.Minute)
				if n := len(l.heard()); n < 2 {
					t.Errorf("%d heartbeats after the recovery", n)
				}
				r.close()
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		l := &listener{dest: &dest{answer: fine}}
		r := beating(t, newMemory(), l)
		after(time.Second)
		r.w.Pause(true)
		after(time.Hour)
		if n := len(l.heard()); n != 1 {
			t.Errorf("%d heartbeats of a paused sink", n)
		}
		r.w.Pause(false)
		after(time.Second)
		if n := len(l.heard()); n != 2 {
			t.Errorf("%d heartbeats once it goes on", n)
		}
		r.close()
	})
}

// An accepted heartbeat is no proof that a refused record is to blame for its
// refusal: nothing is buried by it.
func TestHeartbeatProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(record(1))
		l := &listener{dest: &dest{answer: simply(func(int, []uint64) error { return sinks.Poison(errors.New("400")) })}}
		r := beating(t, j, l)
		after(6 * time.Hour)
		if n := len(l.heard()); n < 60 {
			t.Errorf("%d heartbeats beside a suspect", n)
		}
		if dead := r.dead(); len(dead) != 0 {
			t.Errorf("buried %v", dead)
		}
		r.close()
	})
}

// A heartbeat under way when the worker is asked to end may end.
func TestShutdownLetsHeartbeatEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &listener{dest: &dest{answer: fine}, slow: 10 * time.Second}
		r := beating(t, newMemory(), l)
		after(time.Second)
		r.close()
		if n := len(l.heard()); n != 1 {
			t.Errorf("%d heartbeats", n)
		}
	})
}
