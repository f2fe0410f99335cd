package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

func TestDeliversInOrderOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 95)...)
		r := start(t, j, &dest{answer: fine})
		after(time.Second)
		j.add(record(200)) // a hole before it
		after(time.Minute)

		if diff := cmp.Diff(append(span(1, 95), 200), r.d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if got := r.cursor(); got.Seq != 200 || len(got.Ahead) != 0 {
			t.Errorf("cursor is %+v, want 200", got)
		}
		if n := len(r.d.seen()); n != 11 {
			t.Errorf("%d attempts, want 10 batches of at most ten and one for the latecomer", n)
		}
		if s := r.w.Status(); s.State != delivery.OK || s.Behind != 0 || s.LastAnswer != "200" {
			t.Errorf("status is %+v", s)
		}
		want := journal.Receipt{Range: journal.Range{First: 1, Last: 10}, Attempts: 1, Records: 10, Answer: "200"}
		got := j.receipts["soc"][0]
		got.At = time.Time{}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("first receipt (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestBackoffBeginsAnewAfterASuccess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 3)...)
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			if n < 15 || n == 16 {
				return errNetwork
			}
			return nil
		})}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.BatchRecords = 1 })
		after(time.Hour)
		calls := d.seen()
		if len(calls) != 19 {
			t.Fatalf("%d attempts", len(calls))
		}
		if gap := calls[17].at.Sub(calls[16].at); gap > 750*time.Millisecond {
			t.Errorf("the first wait after a success is %s", gap)
		}
		r.close()
	})
}

func TestManyRefusedRecordsAmongOthersAreNoBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		var bad []uint64
		for seq := uint64(2); seq <= 100; seq += 2 {
			bad = append(bad, seq)
		}
		d := &dest{answer: simply(refuses(bad...)["without a name"])}
		r := start(t, j, d)
		after(time.Hour)
		if n := r.logs.FilterMessageSnippet("refuses everything").Len(); n != 0 {
			t.Errorf("halted %d times", n)
		}
		j.add(record(101))
		after(time.Minute)
		if len(r.dead()) != 50 || r.cursor().Seq != 101 {
			t.Errorf("buried %d, cursor %v", len(r.dead()), r.cursor())
		}
		r.close()
	})
}

func TestAcceptanceOfWhatBeganBeforeTheRefusalProvesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 4)...)
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if seqs[0] == 2 {
				time.Sleep(time.Second)
				return sinks.Poison(errors.New("400"))
			}
			time.Sleep(time.Minute)
			return nil
		})}
		r := start(t, j, d, func(o *delivery.Options) { o.Sink, o.Config.BatchRecords = windowed{d, 4}, 1 })
		after(time.Hour)
		if len(r.dead()) != 0 || r.cursor().Seq != 1 {
			t.Errorf("buried %v, cursor %v", r.dead(), r.cursor())
		}
		j.add(record(5))
		after(time.Hour)
		if len(r.dead()) != 1 || r.cursor().Seq != 5 {
			t.Errorf("buried %v, cursor %v", r.dead(), r.cursor())
		}
		r.close()
	})
}

func TestSettlesBeforeTheNextBatchIsSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 50)...)
		d := &dest{}
		d.answer = simply(func(_ int, seqs []uint64) error {
			if c, _ := j.Cursor(t.Context(), "soc"); c.Seq != seqs[0]-1 {
				t.Errorf("record %d is sent while the cursor is %d", seqs[0], c.Seq)
			}
			time.Sleep(time.Second)
			return nil
		})
		r := start(t, j, d)
		after(time.Minute)
		if d.most != 1 {
			t.Errorf("%d attempts at once", d.most)
		}
		r.close()
	})
}

func TestNeverGivesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 25)...)
		begin := time.Now()
		d := &dest{answer: simply(func(int, []uint64) error {
			if time.Since(begin) < 10*24*time.Hour {
				return errNetwork
			}
			return nil
		})}
		r := start(t, j, d)
		after(9 * 24 * time.Hour)
		if s := r.w.Status(); s.State != delivery.Retrying || s.Cursor.Seq != 0 || s.Behind != 25 || s.LastError == "" {
			t.Errorf("status in the outage is %+v", s)
		}
		after(2 * 24 * time.Hour)
		if diff := cmp.Diff(span(1, 25), d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if len(r.dead()) != 0 {
			t.Errorf("buried %v", r.dead())
		}
		// One attempt a minute or so, all ten days.
		if n := len(d.seen()); n < 10*24*40 || n > 10*24*130 {
			t.Errorf("%d attempts", n)
		}
		r.close()

		var lines []string
		for _, e := range r.logs.FilterLevelExact(zap.WarnLevel).All() {
			lines = append(lines, e.Message)
		}
		if diff := cmp.Diff([]string{"delivery fails, trying again"}, lines); diff != "" {
			t.Errorf("warnings (-want +got):\n%s", diff)
		}
		ok := r.logs.FilterMessage("delivery works again").All()
		if len(ok) != 1 || ok[0].ContextMap()["failed_attempts"].(int64) < 1000 || ok[0].ContextMap()["after"].(time.Duration) < 9*24*time.Hour {
			t.Errorf("recovery lines: %v", ok)
		}
	})
}

func TestWaitsDoubleAndVaryByHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(record(1))
		d := &dest{answer: simply(func(int, []uint64) error { return errNetwork })}
		r := start(t, j, d)
		after(6 * time.Hour)
		base, varied := 500*time.Millisecond, false
		calls := d.seen()
		for i := 1; i < len(calls); i++ {
			gap := calls[i].at.Sub(calls[i-1].at)
			if gap < base/2 || gap > base*3/2 {
				t.Fatalf("wait %d is %s, want %s by half", i, gap, base)
			}
			varied = varied || gap.Round(time.Second) != base.Round(time.Second)
			base = min(2*base, time.Minute)
		}
		if !varied {
			t.Error("no jitter")
		}
		r.close()
	})
}

func TestRetryAfterIsHonoured(t *testing.T) {
	for name, tc := range map[string]struct{ after, least, most time.Duration }{
		"ten minutes":          {10 * time.Minute, 10 * time.Minute, 11 * time.Minute},
		"shorter than backoff": {time.Millisecond, 250 * time.Millisecond, 750 * time.Millisecond},
		"capped at an hour":    {9 * time.Hour, time.Hour, 66 * time.Minute},
		"negative":             {-time.Hour, 250 * time.Millisecond, 750 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				j.add(record(1))
				d := &dest{answer: simply(func(n int, _ []uint64) error {
					if n == 0 {
						return sinks.After(errors.New("429 slow down"), tc.after)
					}
					return nil
				})}
				r := start(t, j, d)
				after(24 * time.Hour)
				calls := d.seen()
				if len(calls) != 2 {
					t.Fatalf("%d attempts", len(calls))
				}
				if gap := calls[1].at.Sub(calls[0].at); gap < tc.least || gap > tc.most {
					t.Errorf("waited %s, want %s to %s", gap, tc.least, tc.most)
				}
				r.close()
			})
		})
	}
}

func TestBreakerSendsSingleRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 40)...)
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			if n < 12 {
				return errNetwork
			}
			return nil
		})}
		r := start(t, j, d)
		after(time.Hour)
		var sizes []int
		for _, c := range d.seen() {
			sizes = append(sizes, len(c.seqs))
		}
		want := []int{10, 10, 10, 10, 10, 1, 1, 1, 1, 1, 1, 1, 1, 9, 10, 10, 10}
		if diff := cmp.Diff(want, sizes); diff != "" {
			t.Errorf("sizes of attempts (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(span(1, 40), d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestHalvesWhatIsTooLarge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if len(seqs) > 3 || slices.Contains(seqs, 17) {
				return sinks.TooLarge(errors.New("413"))
			}
			return nil
		})}
		r := start(t, j, d)
		after(time.Hour)
		if diff := cmp.Diff(span(1, 30, 17), d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[uint64]string{17: "poison"}, r.dead()); diff != "" {
			t.Errorf("buried (-want +got):\n%s", diff)
		}
		r.close()
	})
}

// refuses builds the ways in which a destination refuses bad records.
func refuses(bad ...uint64) map[string]func(int, []uint64) error {
	reject := func(seq uint64) error { return sinks.Poison(fmt.Errorf("400 object %d is not valid", seq)) }
	isBad := func(seq uint64) bool { return slices.Contains(bad, seq) }
	return map[string]func(int, []uint64) error{
		"each by itself": func(_ int, seqs []uint64) error {
			failed := map[int]error{}
			for i, seq := range seqs {
				if isBad(seq) {
					failed[i] = reject(seq)
				}
			}
			if len(failed) == 0 {
				return nil
			}
			return &sinks.PartialError{Failed: failed}
		},
		"all because of the first": func(_ int, seqs []uint64) error {
			at := slices.IndexFunc(seqs, isBad)
			if at < 0 {
				return nil
			}
			failed := map[int]error{}
			for i := range seqs {
				failed[i] = errors.New("not taken because of another")
			}
			failed[at] = reject(seqs[at])
			return &sinks.PartialError{Failed: failed}
		},
		"without a name": func(_ int, seqs []uint64) error {
			if slices.ContainsFunc(seqs, isBad) {
				return sinks.Poison(errors.New("400 bad request"))
			}
			return nil
		},
	}
}

func TestIsolatesRefusedRecords(t *testing.T) {
	for name, bad := range map[string][]uint64{
		"first": {1}, "middle": {5}, "last": {10}, "two": {3, 8}, "neighbours": {4, 5}, "in two batches": {7, 12},
		"many": span(2, 19),
	} {
		for how, answer := range refuses(bad...) {
			t.Run(name+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					j := newMemory()
					j.add(records(1, 30)...)
					d := &dest{answer: simply(answer)}
					r := start(t, j, d)
					after(time.Minute)
					if diff := cmp.Diff(span(1, 30, bad...), sorted(d.got())); diff != "" {
						t.Errorf("accepted (-want +got):\n%s", diff)
					}
					dead := r.dead()
					for _, seq := range bad {
						if dead[seq] != "poison" {
							t.Errorf("record %d is not buried: %v", seq, dead)
						}
					}
					if len(dead) != len(bad) {
						t.Errorf("buried %v, want %v", dead, bad)
					}
					if c := r.cursor(); c.Seq != 30 || len(c.Ahead) != 0 {
						t.Errorf("cursor is %+v", c)
					}
					for _, seq := range bad {
						proof(t, d.seen(), seq)
					}
					r.close()
				})
			})
		}
	}
}

// proof checks that a buried record was refused alone, then another passed,
// and then it was refused alone again.
func proof(t *testing.T, calls []call, seq uint64) {
	t.Helper()
	step := 0
	for _, c := range calls {
		alone := slices.Equal(c.seqs, []uint64{seq})
		_, partial := errors.AsType[*sinks.PartialError](c.err)
		switch {
		case step == 0 && alone, step == 2 && alone:
			step++
		case step == 1 && !slices.Contains(c.seqs, seq) && (c.err == nil || partial):
			step++
		}
	}
	if step < 3 {
		t.Errorf("record %d was buried after step %d of 3 of its proof", seq, step)
	}
}

func TestBuriesNothingWhileNothingElsePasses(t *testing.T) {
	for name, bad := range map[string][]uint64{"only one": {1}, "only two": {1, 2}} {
		for how, answer := range refuses(bad...) {
			t.Run(name+" "+how, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					j := newMemory()
					j.add(records(1, uint64(len(bad)))...)
					d := &dest{answer: simply(answer)}
					r := start(t, j, d)
					after(6 * time.Hour)
					if len(r.dead()) != 0 || r.cursor().Seq != 0 {
						t.Fatalf("buried %v, cursor %v", r.dead(), r.cursor())
					}
					if s := r.w.Status(); s.State != delivery.Retrying || s.Suspects != len(bad) {
						t.Errorf("status is %+v", s)
					}
					if n := len(d.seen()); n < 6*40 {
						t.Errorf("only %d attempts: suspects are not tried again", n)
					}
					// The next one that passes is the proof.
					j.add(record(100))
					after(5 * time.Minute)
					if len(r.dead()) != len(bad) || r.cursor().Seq != 100 {
						t.Errorf("buried %v, cursor %v", r.dead(), r.cursor())
					}
					r.close()
				})
			})
		}
	}
}

func TestRefusedRecordCanRecover(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(record(1))
		begin := time.Now()
		d := &dest{answer: simply(func(int, []uint64) error {
			if time.Since(begin) < time.Hour {
				return sinks.Poison(errors.New("400 mapping"))
			}
			return nil
		})}
		r := start(t, j, d)
		after(2 * time.Hour)
		if len(r.dead()) != 0 || r.cursor().Seq != 1 || r.w.Status().State != delivery.OK {
			t.Errorf("buried %v, cursor %v, status %+v", r.dead(), r.cursor(), r.w.Status())
		}
		r.close()
	})
}

func TestDuplicatesProveNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		bad := refuses(3)["without a name"]
		d := &dest{answer: func(_ context.Context, n int, seqs []uint64) (sinks.Receipt, error) {
			return sinks.Receipt{Duplicates: len(seqs)}, bad(n, seqs)
		}}
		r := start(t, j, d)
		after(time.Hour)
		if len(r.dead()) != 0 || r.cursor().Seq != 2 {
			t.Errorf("buried %v, cursor %v", r.dead(), r.cursor())
		}
		if diff := cmp.Diff([]journal.Range{{First: 4, Last: 30}}, r.cursor().Ahead); diff != "" {
			t.Errorf("ahead (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestBurstOfRefusalsHaltsAndBuriesNothing(t *testing.T) {
	for how, answer := range refuses(span(1, 200)...) {
		t.Run(how, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				j.add(records(1, 200)...)
				begin := time.Now()
				d := &dest{answer: simply(func(n int, seqs []uint64) error {
					if time.Since(begin) > 48*time.Hour {
						return nil
					}
					return answer(n, seqs)
				})}
				r := start(t, j, d, func(o *delivery.Options) { o.Sink = prober{d, nil} })
				after(47 * time.Hour)
				s := r.w.Status()
				if s.State != delivery.Halted || s.Suspects != 20 || len(r.dead()) != 0 || s.Cursor.Seq != 0 {
					t.Errorf("buried %v, status %+v", r.dead(), s)
				}
				if n := len(d.seen()); n > 47*60 {
					t.Errorf("%d attempts in 47 hours: not slow", n)
				}
				after(3 * time.Hour)
				if s := r.w.Status(); s.State != delivery.OK || s.Cursor.Seq != 200 || len(r.dead()) != 0 {
					t.Errorf("after it was mended: buried %v, status %+v", r.dead(), s)
				}
				if diff := cmp.Diff(span(1, 200), sorted(d.got())); diff != "" {
					t.Errorf("accepted (-want +got):\n%s", diff)
				}
				if n := r.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
					t.Errorf("%d lines at error, want 1", n)
				}
				r.close()
			})
		})
	}
}

func TestBurstOfTrulyBadRecordsEndsWithTheNextGoodOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 40)...)
		d := &dest{answer: simply(refuses(span(1, 20)...)["each by itself"])}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.BatchRecords = 1 })
		after(2 * time.Second)
		if s := r.w.Status(); s.State != delivery.Halted || len(r.dead()) != 0 {
			t.Errorf("buried %v, status %+v", r.dead(), s)
		}
		after(5 * time.Minute)
		if diff := cmp.Diff(span(21, 40), d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if s := r.w.Status(); s.State != delivery.OK || len(r.dead()) != 20 {
			t.Errorf("buried %v, status %+v", r.dead(), s)
		}
		r.close()
	})
}

// A prober is a destination that tells its health.
type prober struct {
	*dest
	probe func() error
}

func (p prober) Probe(context.Context) (string, error) {
	if p.probe == nil {
		return "healthy", nil
	}
	return "", p.probe()
}

func TestHaltKeepsEverythingAndRecovers(t *testing.T) {
	denied := sinks.Halt(errors.New("403 invalid token"))
	for name, probe := range map[string]func(down bool) error{
		"without a probe": nil,
		"honest probe": func(down bool) error {
			if down {
				return denied
			}
			return nil
		},
		"probe that always fails": func(bool) error { return errors.New("404") },
		"probe that is always ok": func(bool) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				j.add(records(1, 50)...)
				begin := time.Now()
				down := func() bool { return time.Since(begin) < 24*time.Hour }
				d := &dest{answer: simply(func(n int, _ []uint64) error {
					if n > 1 && down() {
						return denied
					}
					return nil
				})}
				r := start(t, j, d, func(o *delivery.Options) {
					if probe != nil {
						o.Sink = prober{d, func() error { return probe(down()) }}
					}
				})
				after(23 * time.Hour)
				s := r.w.Status()
				if s.State != delivery.Halted || s.Cursor.Seq != 20 || !strings.Contains(s.HaltReason, "invalid token") {
					t.Errorf("status is %+v", s)
				}
				if state, err := r.w.Wait(t.Context(), 50); state != delivery.Halted || err != nil {
					t.Errorf("Wait says %s, %v", state, err)
				}
				if n := len(d.seen()); n > 23*30 {
					t.Errorf("%d attempts in a day: not slow", n)
				}
				for _, c := range d.seen()[3:] {
					if len(c.seqs) != 1 {
						t.Fatalf("a probe of %d records", len(c.seqs))
					}
				}
				after(time.Hour + 15*time.Minute)
				if diff := cmp.Diff(span(1, 50), d.got()); diff != "" {
					t.Errorf("accepted (-want +got):\n%s", diff)
				}
				if s := r.w.Status(); s.State != delivery.OK || len(r.dead()) != 0 {
					t.Errorf("status %+v, buried %v", s, r.dead())
				}
				if n := r.logs.FilterLevelExact(zap.ErrorLevel).Len(); n != 1 {
					t.Errorf("%d lines at error, want 1", n)
				}
				r.close()
			})
		})
	}
}

func TestPartialErrorIsJudgedRecordByRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		d := &dest{answer: simply(func(n int, seqs []uint64) error {
			if n == 0 {
				return &sinks.PartialError{Failed: map[int]error{
					1: errors.New("shard not available"), 3: sinks.Poison(errors.New("bad field")),
					4: sinks.After(errors.New("429"), time.Minute), 9: sinks.TooLarge(errors.New("too large")),
				}}
			}
			if slices.Contains(seqs, 4) {
				return sinks.Poison(errors.New("bad field"))
			}
			return nil
		})}
		r := start(t, j, d)
		synctest.Wait()
		if c := r.cursor(); c.Seq != 1 {
			t.Errorf("cursor is %+v, want 1", c)
		}
		want := []journal.Range{{First: 3, Last: 3}, {First: 6, Last: 9}}
		if diff := cmp.Diff(want, r.cursor().Ahead); diff != "" {
			t.Errorf("ahead (-want +got):\n%s", diff)
		}
		after(59 * time.Second)
		if n := len(d.seen()); n != 1 {
			t.Errorf("%d attempts before Retry-After has passed", n)
		}
		after(time.Hour)
		var sent [][]uint64
		for _, c := range d.seen()[1:] {
			sent = append(sent, c.seqs)
		}
		wantSent := [][]uint64{{2}, {4}, {5}, {4}, {10}, span(11, 20), span(21, 30)}
		if diff := cmp.Diff(wantSent, sent); diff != "" {
			t.Errorf("sent again (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[uint64]string{4: "poison"}, r.dead()); diff != "" {
			t.Errorf("buried (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestSinkThatNamesNoSuchRecordIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 5)...)
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			if n == 0 {
				return &sinks.PartialError{Failed: map[int]error{7: sinks.Poison(errors.New("bad"))}}
			}
			return nil
		})}
		r := start(t, j, d)
		after(time.Minute)
		if calls := d.seen(); len(calls) != 2 || len(calls[1].seqs) != 5 || r.cursor().Seq != 5 {
			t.Errorf("attempts %v", calls)
		}
		r.close()
	})
}

func TestRecordThatCausesUnclearAnswersIsBuriedAfterAnHour(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 40)...)
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if slices.Contains(seqs, 14) {
				return sinks.Answered(errors.New("500 internal error"))
			}
			return nil
		})}
		r := start(t, j, d)
		after(30 * time.Minute)
		if diff := cmp.Diff(span(1, 40, 14), sorted(d.got())); diff != "" {
			t.Errorf("accepted after half an hour (-want +got):\n%s", diff)
		}
		if len(r.dead()) != 0 {
			t.Errorf("buried %v before the hour", r.dead())
		}
		after(time.Hour) // nothing passes meanwhile
		if len(r.dead()) != 0 {
			t.Errorf("buried %v without a proof", r.dead())
		}
		j.add(record(41))
		after(10 * time.Minute)
		if diff := cmp.Diff(map[uint64]string{14: "stuck"}, r.dead()); diff != "" {
			t.Errorf("buried (-want +got):\n%s", diff)
		}
		if c := r.cursor(); c.Seq != 41 {
			t.Errorf("cursor is %+v", c)
		}
		if n := len(d.seen()); n > 200 {
			t.Errorf("%d attempts", n)
		}
		r.close()
	})
}

func TestStuckRecordIsBuriedInAStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if slices.Contains(seqs, 14) {
				return sinks.Answered(errors.New("500 internal error"))
			}
			return nil
		})}
		r := start(t, j, d)
		for seq := uint64(1); seq <= 5400; seq++ { // an hour and a half
			j.add(record(seq))
			after(time.Second)
			if seq == 3600 && len(r.dead()) != 0 {
				t.Errorf("buried %v before the hour", r.dead())
			}
		}
		if diff := cmp.Diff(map[uint64]string{14: "stuck"}, r.dead()); diff != "" {
			t.Errorf("buried (-want +got):\n%s", diff)
		}
		n := 0
		for _, c := range d.seen() {
			if slices.Contains(c.seqs, 14) {
				n++
			}
		}
		if n > 150 {
			t.Errorf("the stuck record was sent %d times", n)
		}
		if n := r.logs.FilterLevelExact(zap.WarnLevel).Len(); n > 3 {
			t.Errorf("%d warnings", n)
		}
		r.close()
	})
}

func TestDestinationThatSaysWhenToComeBackIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			if n < 300 {
				return sinks.After(sinks.Answered(errors.New("429 Too Many Requests")), time.Minute)
			}
			return nil
		})}
		r := start(t, j, d)
		after(4 * time.Hour)
		if s := r.w.Status(); s.State != delivery.Retrying || s.Suspects != 0 {
			t.Errorf("status is %+v", s)
		}
		after(48 * time.Hour)
		if diff := cmp.Diff(span(1, 30), d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestAnswersThatDifferPointAtNoRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			return sinks.Answered(fmt.Errorf("50%d", n%2))
		})}
		r := start(t, j, d)
		after(12 * time.Hour)
		if s := r.w.Status(); s.State != delivery.Retrying || s.Suspects != 0 {
			t.Errorf("status is %+v", s)
		}
		r.close()
	})
}

func TestProgressIsNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 20)...)
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			failed := map[int]error{} // one at a time
			for i := 1; i < len(seqs); i++ {
				failed[i] = sinks.Answered(errors.New("rejected execution"))
			}
			return &sinks.PartialError{Failed: failed}
		})}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.BatchRecords = 20 })
		after(time.Hour)
		for i, c := range d.seen() {
			if len(c.seqs) != 20-i {
				t.Fatalf("attempt %d has %d records, want %d", i, len(c.seqs), 20-i)
			}
		}
		if diff := cmp.Diff(span(1, 20), d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestNeighboursOfRefusedRecordsDoNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		d := &dest{answer: simply(refuses(5)["all because of the first"])}
		r := start(t, j, d)
		synctest.Wait() // no time passes
		if c := r.cursor(); c.Seq != 30 || len(r.dead()) != 1 {
			t.Errorf("cursor is %+v, buried %v", c, r.dead())
		}
		r.close()
	})
}

func TestSuspectHoldsTheCursorOnlyBeforeItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 25)...)
		d := &dest{answer: simply(refuses(20)["without a name"])}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.When = `event_id == "e20"` })
		after(time.Hour)
		if diff := cmp.Diff(journal.Cursor{Seq: 19}, r.cursor()); diff != "" {
			t.Errorf("cursor (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestOutageWithAnswersBuriesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 300)...)
		begin := time.Now()
		d := &dest{answer: simply(func(int, []uint64) error {
			if time.Since(begin) < 30*time.Hour {
				return sinks.Answered(errors.New("503 Service Unavailable"))
			}
			return nil
		})}
		r := start(t, j, d)
		after(32 * time.Hour)
		if diff := cmp.Diff(span(1, 300), sorted(d.got())); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if len(r.dead()) != 0 || r.w.Status().State != delivery.OK {
			t.Errorf("buried %v, status %+v", r.dead(), r.w.Status())
		}
		r.close()
	})
}

func TestLaterRecordsOfAKeyWaitForItsSuspect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(recordOf(1, "A"), recordOf(2, "B"), recordOf(3, "A"), recordOf(4, "C"), recordOf(5, "A"))
		begin := time.Now()
		d := &dest{answer: func(_ context.Context, n int, seqs []uint64) (sinks.Receipt, error) {
			// Nothing is proven: the others are there already.
			var err error
			if time.Since(begin) < time.Hour {
				err = refuses(1)["each by itself"](n, seqs)
			}
			return sinks.Receipt{Duplicates: len(seqs)}, err
		}}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.BatchRecords = 1 })
		after(30 * time.Minute)
		if diff := cmp.Diff([]uint64{2, 4}, d.got()); diff != "" {
			t.Errorf("accepted while A is a suspect (-want +got):\n%s", diff)
		}
		if s := r.w.Status(); s.Held != 2 || s.Suspects != 1 {
			t.Errorf("status is %+v", s)
		}
		after(time.Hour)
		if diff := cmp.Diff([]uint64{2, 4, 1, 3, 5}, d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if c := r.cursor(); c.Seq != 5 || len(c.Ahead) != 0 {
			t.Errorf("cursor is %+v", c)
		}
		r.close()
	})
}

// A windowed destination confirms later than it answers.
type windowed struct {
	sinks.Sink
	window int
}

func (w windowed) Window() int { return w.window }

func TestWindowConfirmsOutOfOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		d := &dest{answer: func(ctx context.Context, _ int, seqs []uint64) (sinks.Receipt, error) {
			confirmed := time.After(time.Second)
			if seqs[0] == 11 {
				confirmed = time.After(4 * time.Minute) // beyond the timeout of an attempt: acknowledgements count apart
			}
			select {
			case <-confirmed:
				return sinks.Receipt{}, nil
			case <-ctx.Done():
				return sinks.Receipt{}, ctx.Err()
			}
		}}
		r := start(t, j, d, func(o *delivery.Options) { o.Sink = windowed{d, 4} })
		after(time.Minute)
		if d.most != 4 {
			t.Errorf("%d attempts at once, want 4", d.most)
		}
		want := journal.Cursor{Seq: 10, Ahead: []journal.Range{{First: 21, Last: 100}}}
		if diff := cmp.Diff(want, r.cursor()); diff != "" {
			t.Errorf("cursor (-want +got):\n%s", diff)
		}
		after(5 * time.Minute)
		if diff := cmp.Diff(journal.Cursor{Seq: 100}, r.cursor()); diff != "" {
			t.Errorf("cursor at the end (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(span(1, 100), sorted(d.got())); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestUnconfirmedBatchIsSentAgainAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		lost := false
		d := &dest{}
		d.answer = simply(func(_ int, seqs []uint64) error {
			time.Sleep(time.Second)
			d.mu.Lock()
			first := seqs[0] == 21 && !lost
			lost = lost || first
			d.mu.Unlock()
			if first {
				time.Sleep(5 * time.Minute)
				return errors.New("not acknowledged")
			}
			return nil
		})
		r := start(t, j, d, func(o *delivery.Options) { o.Sink = windowed{d, 3} })
		after(10 * time.Minute)
		var again [][]uint64
		for _, c := range d.seen()[10:] {
			again = append(again, c.seqs)
		}
		if diff := cmp.Diff([][]uint64{span(21, 30)}, again); diff != "" {
			t.Errorf("sent after the first ten batches (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(journal.Cursor{Seq: 100}, r.cursor()); diff != "" {
			t.Errorf("cursor (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestOutageOfAWindowCountsOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			time.Sleep(time.Second)
			if n < 8 {
				return errNetwork
			}
			return nil
		})}
		r := start(t, j, d, func(o *delivery.Options) { o.Sink = windowed{d, 8} })
		after(1500 * time.Millisecond)
		if s := r.w.Status(); s.Failures != 1 {
			t.Errorf("%d failures after one outage of 8 attempts", s.Failures)
		}
		after(time.Minute)
		if diff := cmp.Diff(journal.Cursor{Seq: 100}, r.cursor()); diff != "" {
			t.Errorf("cursor (-want +got):\n%s", diff)
		}
		r.close()
	})
}

// Whoever mended the destination need not wait for the next probe.
func TestResumeTriesAtOnce(t *testing.T) {
	for name, failure := range map[string]error{"halted": sinks.Halt(errors.New("401")), "retrying": errNetwork} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				j.add(records(1, 10)...)
				down := true
				d := &dest{answer: simply(func(int, []uint64) error {
					if down {
						return failure
					}
					return nil
				})}
				r := start(t, j, d)
				after(time.Hour)
				down = false
				r.w.Pause(false)
				after(3 * time.Second)
				if s := r.w.Status(); s.State != delivery.OK || s.Cursor.Seq != 10 {
					t.Errorf("status is %+v", s)
				}
				r.close()
			})
		})
	}
}

func TestHaltEndsNewBatchesOfAWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 200)...)
		denied := true // once
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if seqs[0] == 21 && denied {
				time.Sleep(time.Second)
				denied = false
				return sinks.Halt(errors.New("401"))
			}
			time.Sleep(3 * time.Second)
			return nil
		})}
		r := start(t, j, d, func(o *delivery.Options) { o.Sink = windowed{d, 4} })
		after(2 * time.Second)
		if n := len(d.seen()); n != 4 || r.w.Status().State != delivery.Halted {
			t.Errorf("%d attempts begun, status %+v", n, r.w.Status())
		}
		after(1500 * time.Millisecond) // those in flight are confirmed; that is no proof
		if n := len(d.seen()); n > 5 || r.w.Status().State != delivery.Halted {
			t.Errorf("%d attempts begun, status %+v", n, r.w.Status())
		}
		if diff := cmp.Diff(journal.Cursor{Seq: 20, Ahead: []journal.Range{{First: 31, Last: 40}}}, r.cursor()); diff != "" {
			t.Errorf("cursor (-want +got):\n%s", diff)
		}
		after(time.Hour)
		if diff := cmp.Diff(journal.Cursor{Seq: 200}, r.cursor()); diff != "" {
			t.Errorf("cursor at the end (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestShutdownLetsAttemptFinish(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		d := &dest{answer: func(ctx context.Context, _ int, _ []uint64) (sinks.Receipt, error) {
			select {
			case <-time.After(15 * time.Second):
				return sinks.Receipt{}, nil
			case <-ctx.Done():
				return sinks.Receipt{}, ctx.Err()
			}
		}}
		r := start(t, j, d)
		after(time.Second)
		begin := time.Now()
		r.close()
		if took := time.Since(begin); took != 14*time.Second {
			t.Errorf("shutdown took %s, want the 14s that the attempt had left", took)
		}
		if len(d.seen()) != 1 || r.cursor().Seq != 10 {
			t.Errorf("%d attempts, cursor %v", len(d.seen()), r.cursor())
		}
	})
}

func TestShutdownCancelsAttemptsAtGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		d := &dest{answer: func(ctx context.Context, _ int, _ []uint64) (sinks.Receipt, error) {
			<-ctx.Done()
			return sinks.Receipt{}, sinks.Poison(ctx.Err()) // whatever it says then counts for nothing
		}}
		r := start(t, j, d, func(o *delivery.Options) { o.Grace = 7 * time.Second })
		after(time.Second)
		begin := time.Now()
		r.close()
		if took := time.Since(begin); took != 7*time.Second {
			t.Errorf("shutdown took %s, want the grace of 7s", took)
		}
		if len(d.seen()) != 1 || r.cursor().Seq != 0 || len(r.dead()) != 0 || r.w.Status().LastError != "" {
			t.Errorf("%d attempts, cursor %v, buried %v", len(d.seen()), r.cursor(), r.dead())
		}
	})
}

func TestAttemptsHaveADeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(record(1))
		d := &dest{answer: func(ctx context.Context, n int, _ []uint64) (sinks.Receipt, error) {
			if n == 0 {
				<-ctx.Done()
				return sinks.Receipt{}, ctx.Err()
			}
			return sinks.Receipt{}, nil
		}}
		r := start(t, j, d)
		after(5 * time.Minute)
		calls := d.seen()
		if len(calls) != 2 || calls[1].at.Sub(calls[0].at) > 61*time.Second {
			t.Errorf("attempts %v", calls)
		}
		r.close()
	})
}

func TestRestartRepeatsAtMostWhatWasInFlight(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 100)...)
		hang := func(ctx context.Context) (sinks.Receipt, error) {
			<-ctx.Done()
			return sinks.Receipt{}, ctx.Err()
		}
		d := &dest{answer: func(ctx context.Context, _ int, seqs []uint64) (sinks.Receipt, error) {
			if seqs[0] == 31 || seqs[0] == 61 {
				return hang(ctx)
			}
			return sinks.Receipt{}, nil
		}}
		r := start(t, j, d, func(o *delivery.Options) { o.Sink = windowed{d, 4}; o.Grace = time.Nanosecond })
		after(time.Second)
		want := journal.Cursor{Seq: 30, Ahead: []journal.Range{{First: 41, Last: 60}, {First: 71, Last: 100}}}
		if diff := cmp.Diff(want, r.cursor()); diff != "" {
			t.Errorf("cursor (-want +got):\n%s", diff)
		}
		r.close()

		d = &dest{answer: fine}
		r = start(t, j, d)
		after(time.Second)
		if diff := cmp.Diff(append(span(31, 40), span(61, 70)...), d.got()); diff != "" {
			t.Errorf("sent after the restart (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(journal.Cursor{Seq: 100}, r.cursor()); diff != "" {
			t.Errorf("cursor after the restart (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestOneSinkHarmsNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 50)...)
		dead := &dest{answer: func(ctx context.Context, _ int, _ []uint64) (sinks.Receipt, error) {
			<-ctx.Done()
			return sinks.Receipt{}, ctx.Err()
		}}
		a := start(t, j, dead, func(o *delivery.Options) { o.Name = "dead" })
		b := start(t, j, &dest{answer: fine})
		synctest.Wait() // no time passes at all
		if got := b.cursor().Seq; got != 50 {
			t.Errorf("cursor of the healthy sink is %d", got)
		}
		if s := a.w.Status(); s.Cursor.Seq != 0 || s.InFlight != 1 {
			t.Errorf("status of the dead sink is %+v", s)
		}
		a.close()
		b.close()
	})
}

func TestConditionFiltersAndCursorMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 25)...)
		r := start(t, j, &dest{answer: fine}, func(o *delivery.Options) { o.Config.When = `event_id in ["e3", "e7"]` })
		after(2 * time.Second)
		if diff := cmp.Diff([]uint64{3, 7}, r.d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if c := r.cursor(); c.Seq != 25 || len(c.Ahead) != 0 {
			t.Errorf("cursor is %+v", c)
		}
		j.add(records(26, 30)...)
		after(2 * time.Second)
		if c := r.cursor(); c.Seq != 30 {
			t.Errorf("cursor is %+v after refused records only", c)
		}
		r.close()
	})
}

func TestRecordWithoutFormIsBuriedAndNamed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 25)...)
		r := start(t, j, &dest{answer: fine}, func(o *delivery.Options) {
			o.Encoder = func(dst []byte, r *event.Record) ([]byte, error) {
				switch r.Seq {
				case 4:
					return append(dst, "half"...), errors.New("no such field")
				case 9:
					panic("index out of range")
				}
				return encode(dst, r)
			}
		})
		after(time.Minute)
		if diff := cmp.Diff(map[uint64]string{4: "encode", 9: "encode"}, r.dead()); diff != "" {
			t.Errorf("buried (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(span(1, 25, 4, 9), r.d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if c := r.cursor(); c.Seq != 25 {
			t.Errorf("cursor is %+v", c)
		}
		r.close()
		for _, e := range r.logs.All() {
			if line := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(line, secret) {
				t.Errorf("content in the log: %s", line)
			}
		}
		if n := r.logs.FilterField(zap.String("class", "encode")).Len(); n != 2 {
			t.Errorf("%d lines about dead letters, want 2", n)
		}
	})
}

func TestFailingJournalIsRepeated(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		j.readFails = 3
		j.failWith = func(n int) error {
			if n == 2 || n == 3 {
				return errors.New("input/output error")
			}
			return nil
		}
		r := start(t, j, &dest{answer: fine})
		after(time.Hour)
		if diff := cmp.Diff(span(1, 30), r.d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if c := r.cursor(); c.Seq != 30 {
			t.Errorf("cursor is %+v", c)
		}
		r.close()
	})
}

func TestLostLeaseEndsTheWorker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		j.failWith = func(int) error { return journal.ErrLeaseLost }
		r := start(t, j, &dest{answer: fine})
		if err := <-r.end; !errors.Is(err, journal.ErrLeaseLost) {
			t.Errorf("Run returned %v", err)
		}
		if n := len(r.d.seen()); n != 1 {
			t.Errorf("%d attempts", n)
		}
	})
}

func TestMemosComeBackWithTheNextRecordOfTheKey(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(recordOf(1, "A"), recordOf(2, "B"), recordOf(3, "A"))
		d := &dest{answer: func(_ context.Context, _ int, seqs []uint64) (sinks.Receipt, error) {
			return sinks.Receipt{Memo: map[int]string{0: fmt.Sprintf("thread %d", seqs[0]), 8: "nobody's"}}, nil
		}}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.BatchRecords = 1 })
		after(time.Minute)
		var memos []string
		for _, c := range d.seen() {
			memos = append(memos, c.memo...)
		}
		if diff := cmp.Diff([]string{"", "", "thread 1"}, memos); diff != "" {
			t.Errorf("memos (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestStartsWithWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := func(o *delivery.Options) { o.Config.StartFrom = delivery.StartNow }
		j := newMemory()
		j.add(records(1, 20)...)
		r := start(t, j, &dest{answer: fine}, now)
		after(time.Second)
		old := record(21)
		old.Backfill = true
		j.add(old, record(22))
		after(2 * time.Second)
		if diff := cmp.Diff([]uint64{22}, r.d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		r.close()

		// A sink that began with an empty journal and ended before it had
		// settled anything does not begin anew.
		j = newMemory()
		r = start(t, j, &dest{answer: fine}, now)
		after(time.Second)
		r.close()
		j.add(records(1, 5)...)
		r = start(t, j, &dest{answer: fine}, now)
		after(time.Second)
		if diff := cmp.Diff(span(1, 5), r.d.got()); diff != "" {
			t.Errorf("accepted after the restart (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestPauseBeginsNothingNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		d := &dest{answer: simply(func(n int, _ []uint64) error {
			if n == 0 {
				return errNetwork
			}
			return nil
		})}
		r := start(t, j, d)
		j.add(record(99))
		synctest.Wait() // it was tried once
		r.w.Pause(true)
		j.add(records(101, 130)...)
		after(time.Hour)
		if s := r.w.Status(); len(d.seen()) != 1 || s.State != delivery.Paused {
			t.Errorf("%d attempts, status %+v", len(d.seen()), s)
		}
		r.w.Pause(false)
		after(10 * time.Second)
		if s := r.w.Status(); len(d.got()) != 31 || s.State != delivery.OK {
			t.Errorf("accepted %v, status %+v", d.got(), s)
		}
		r.close()
	})
}

func TestAttemptsPerSecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 10)...)
		r := start(t, j, &dest{answer: fine}, func(o *delivery.Options) {
			o.Config.BatchRecords, o.Config.AttemptsPerSecond = 1, 0.5
		})
		after(9 * time.Second)
		if n := len(r.d.seen()); n != 5 {
			t.Errorf("%d attempts in 9s at one in two, want 5", n)
		}
		r.close()
	})
}

func TestRateLimitBoundsRecordsASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 1000)...)
		r := start(t, j, &dest{answer: fine}, func(o *delivery.Options) { o.Config = delivery.Config{RateLimit: 20} })
		after(10 * time.Second)
		if n := len(r.d.got()); n < 200 || n > 220 {
			t.Errorf("%d records in ten seconds, want 20 a second", n)
		}
		for _, c := range r.d.seen() {
			if len(c.seqs) > 20 {
				t.Errorf("a batch of %d records", len(c.seqs))
			}
		}
		r.close()
	})
}

func TestWaitReturnsWhenSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		r := start(t, j, &dest{answer: simply(func(int, []uint64) error { time.Sleep(time.Second); return nil })})
		begin := time.Now()
		if _, err := r.w.Wait(t.Context(), 30); err != nil || time.Since(begin) != 3*time.Second || r.cursor().Seq != 30 {
			t.Errorf("Wait returned %v after %s, cursor %v", err, time.Since(begin), r.cursor())
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := r.w.Wait(ctx, 31); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait for what does not come returned %v", err)
		}
		r.close()
	})
}

// limited is a destination with its own bounds.
type limited struct {
	*dest
	limits sinks.Limits
}

func (l limited) Limits() sinks.Limits { return l.limits }

func TestBatchesKeepTheSinksLimits(t *testing.T) {
	for name, tc := range map[string]struct {
		limits sinks.Limits
		bytes  int64
		want   int
	}{
		"records of the sink":         {sinks.Limits{Records: 3}, 0, 3},
		"bytes of the sink":           {sinks.Limits{Bytes: 46}, 0, 4},
		"a sink that takes more":      {sinks.Limits{Records: 500, Bytes: 1 << 20}, 0, 10},
		"one record over the limit":   {sinks.Limits{Bytes: 5}, 0, 1},
		"bytes of the configuration":  {sinks.Limits{}, 1024, 10},
		"limit at a record's last by": {sinks.Limits{Bytes: 44}, 0, 4},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				j := newMemory()
				j.add(records(100, 140)...) // bodies of 11 bytes
				d := &dest{answer: fine}
				r := start(t, j, d, func(o *delivery.Options) {
					o.Sink = limited{d, tc.limits}
					o.Config.BatchBytes = tc.bytes
				})
				after(time.Second)
				if got := len(d.seen()[0].seqs); got != tc.want {
					t.Errorf("first batch has %d records, want %d", got, tc.want)
				}
				if diff := cmp.Diff(span(100, 140), d.got()); diff != "" {
					t.Errorf("accepted (-want +got):\n%s", diff)
				}
				r.close()
			})
		})
	}
}

func TestNextBatchIsEncodedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 30)...)
		encoded := 0
		d := &dest{answer: simply(func(int, []uint64) error { time.Sleep(time.Minute); return nil })}
		r := start(t, j, d, func(o *delivery.Options) {
			o.Encoder = func(dst []byte, r *event.Record) ([]byte, error) { encoded++; return encode(dst, r) }
		})
		after(time.Second)
		if encoded < 20 {
			t.Errorf("%d records encoded while the first ten are under way", encoded)
		}
		r.close()
	})
}
