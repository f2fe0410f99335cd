package delivery_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks"
)

// A plan is a world that a worker has to live through.
type plan struct {
	Keys     []int    // of each record, in order
	Bad      []string // of each record: "" accepted, "poison", "large", "stuck"
	Weather  []string // what becomes of the first attempts, whatever is sent
	Naming   string   // how the destination refuses
	Window   int
	Batch    int
	Restarts []int // seconds between abrupt ends
	Seed     uint64
}

func drawPlan(t *rapid.T) plan {
	n := rapid.IntRange(1, 60).Draw(t, "records")
	kinds := []string{"", "", "", "", "", "", "poison", "large", "stuck"}
	p := plan{
		Keys: rapid.SliceOfN(rapid.IntRange(1, 40), n, n).Draw(t, "keys"),
		Bad:  rapid.SliceOfN(rapid.SampledFrom(kinds), n, n).Draw(t, "bad"),
		Weather: rapid.SliceOfN(rapid.SampledFrom([]string{
			"", "network", "answer", "busy", "halt", "large", "poison", "partial",
		}), 0, 25).Draw(t, "weather"),
		Naming: rapid.SampledFrom([]string{"each by itself", "all because of the first", "without a name"}).Draw(t, "naming"),
		Window: rapid.SampledFrom([]int{0, 0, 1, 4}).Draw(t, "window"),
		Batch:  rapid.IntRange(1, 12).Draw(t, "batch"),
		Seed:   rapid.Uint64().Draw(t, "seed"),
	}
	if rapid.Bool().Draw(t, "restart") {
		p.Restarts = rapid.SliceOfN(rapid.IntRange(0, 120), 1, 4).Draw(t, "restarts")
	}
	left := 8 // fewer than a burst
	for i, bad := range p.Bad {
		if bad != "" {
			if left == 0 {
				p.Bad[i] = ""
			}
			left = max(0, left-1)
		}
	}
	return p
}

// A world is a destination that acts by a plan.
type world struct {
	plan
	mu  sync.Mutex // guards what follows
	rng *rand.Rand
	n   int // attempts so far
}

func (w *world) bad(seq uint64) string {
	if int(seq) <= len(w.Bad) {
		return w.Bad[seq-1]
	}
	return ""
}

func (w *world) send(_ context.Context, _ int, seqs []uint64) (sinks.Receipt, error) {
	w.mu.Lock()
	n := w.n
	w.n++
	took := time.Duration(1+w.rng.IntN(20)) * 10 * time.Millisecond
	w.mu.Unlock()
	time.Sleep(took)
	w.mu.Lock()
	defer w.mu.Unlock()
	if n < len(w.Weather) {
		switch w.Weather[n] {
		case "network":
			return sinks.Receipt{}, errNetwork
		case "answer":
			return sinks.Receipt{}, sinks.Answered(errors.New("500"))
		case "busy":
			return sinks.Receipt{}, sinks.After(sinks.Answered(errors.New("429")), 5*time.Second)
		case "halt":
			return sinks.Receipt{}, sinks.Halt(errors.New("401"))
		case "large":
			if len(seqs) > 1 { // of one record it would be a verdict, and this world's verdicts are true
				return sinks.Receipt{}, sinks.TooLarge(errors.New("413"))
			}
		case "poison":
			if len(seqs) > 1 {
				return sinks.Receipt{}, sinks.Poison(errors.New("400"))
			}
		case "partial":
			failed := map[int]error{}
			for i, seq := range seqs {
				if w.bad(seq) != "" || w.rng.IntN(2) == 0 {
					failed[i] = errors.New("shard")
				}
			}
			return sinks.Receipt{}, &sinks.PartialError{Failed: failed}
		}
	}
	return sinks.Receipt{Answer: "200"}, w.judge(seqs)
}

// judge is what the destination says of a batch in good weather.
func (w *world) judge(seqs []uint64) error {
	failed := map[int]error{}
	first := -1
	for i, seq := range seqs {
		switch w.bad(seq) {
		case "poison":
			failed[i] = sinks.Poison(fmt.Errorf("400 record %d", seq))
		case "large":
			failed[i] = sinks.TooLarge(fmt.Errorf("413 record %d", seq))
		case "stuck":
			failed[i] = sinks.Answered(errors.New("500 cannot"))
		default:
			continue
		}
		if first < 0 {
			first = i
		}
	}
	switch {
	case first < 0:
		return nil
	case w.Naming == "each by itself":
		return &sinks.PartialError{Failed: failed}
	case w.Naming == "without a name":
		return failed[first]
	}
	err := failed[first]
	for i := range seqs {
		failed[i] = errors.New("not taken because of another")
	}
	failed[first] = err
	return &sinks.PartialError{Failed: failed}
}

// live lets a worker live through a plan and returns what is wrong then.
func live(t *testing.T, p plan) (problems []string) {
	t.Helper()
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	w := &world{plan: p, rng: rand.New(rand.NewPCG(p.Seed, 1))}
	j := newMemory()
	d := &dest{answer: w.send}
	have := func(seq uint64) bool {
		d.mu.Lock()
		defer d.mu.Unlock()
		return slices.Contains(d.accepted, seq)
	}
	j.onSettle = func(s journal.Settlement) {
		dead := map[uint64]bool{}
		for _, l := range append(slices.Clone(j.dead["soc"]), s.Dead...) {
			dead[l.Record.Seq] = true
		}
		settled := func(first, last uint64) {
			for seq := first; seq <= last; seq++ {
				if !have(seq) && !dead[seq] {
					complain("cursor %+v passes record %d, which is neither accepted nor buried", s.Cursor, seq)
				}
			}
		}
		settled(j.cursors["soc"].Seq+1, s.Cursor.Seq)
		for _, r := range s.Cursor.Ahead {
			settled(r.First, r.Last)
		}
	}
	for i, key := range p.Keys {
		j.add(recordOf(uint64(i+1), fmt.Sprint("k", key)))
	}
	change := func(o *delivery.Options) {
		o.Config.BatchRecords = p.Batch
		if p.Window > 0 {
			o.Sink = windowed{d, p.Window}
		}
	}
	for _, seconds := range p.Restarts {
		r := start(t, j, d, change, func(o *delivery.Options) { o.Grace = time.Nanosecond })
		after(time.Duration(seconds)*time.Second + 7*time.Millisecond)
		r.close()
	}
	r := start(t, j, d, change)
	last := uint64(len(p.Keys))
	for range 60 { // ten hours with a good one now and then
		after(10 * time.Minute)
		last++
		j.add(recordOf(last, fmt.Sprint("fresh", last)))
	}
	after(10 * time.Minute)
	s := r.w.Status()
	r.close()

	dead := r.dead()
	for i, bad := range p.Bad {
		seq := uint64(i + 1)
		class := map[string]string{"poison": "poison", "large": "poison", "stuck": "stuck"}[bad]
		switch {
		case dead[seq] != class:
			complain("record %d (%q) has dead letter %q, want %q", seq, bad, dead[seq], class)
		case bad == "" && !have(seq):
			complain("record %d is lost", seq)
		}
	}
	if c := r.cursor(); c.Seq != last || len(c.Ahead) != 0 || s.State != delivery.OK {
		complain("at the end the cursor is %+v of %d, status %+v", c, last, s)
	}
	if len(p.Restarts) == 0 {
		seen := map[uint64]bool{}
		for _, seq := range d.got() {
			if seen[seq] {
				complain("record %d was accepted twice", seq)
			}
			seen[seq] = true
		}
	}
	// An older record of a key never follows a newer one, where the sink does
	// not take parts of batches.
	if p.Window == 0 && len(p.Restarts) == 0 && p.Naming != "each by itself" && !slices.Contains(p.Weather, "partial") {
		newest := map[int]uint64{}
		for _, seq := range d.got() {
			if int(seq) > len(p.Keys) {
				continue
			}
			if key := p.Keys[seq-1]; newest[key] > seq {
				complain("record %d of key %d came after %d", seq, key, newest[key])
			} else {
				newest[key] = seq
			}
		}
	}
	return problems
}

func TestEveryRecordIsAcceptedOrBuriedByTheRules(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		p := drawPlan(rt)
		var problems []string
		synctest.Test(t, func(t *testing.T) { problems = live(t, p) })
		for _, s := range problems {
			rt.Error(s)
		}
	})
}
