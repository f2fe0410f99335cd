package emulator_test

import (
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

func TestTruthOfPairs(t *testing.T) {
	w := emulator.NewWorld(1, 0, start())
	a := mustInsert(t, w, emulator.Event{ID: 1})[0] // tick 1
	b := mustInsert(t, w, emulator.Event{ID: 2})[0] // tick 2
	w.SetStatus(2, a)                               // tick 3
	w.SetDetect("2026-09-19 09:00:00", b)           // tick 4
	w.SetStatus(0, a)                               // tick 5
	w.Flap(b)                                       // tick 6
	w.Delete(b)                                     // tick 7
	w.SetStatus(0, a)                               // no change
	w.Delete("999")                                 // no change

	if w.Tick() != 7 {
		t.Fatalf("tick %d, want 7", w.Tick())
	}
	one, two := emulator.Pair{ID: "1", Status: "0"}, emulator.Pair{ID: "2", Status: "0"}
	killing := emulator.Pair{ID: "1", Status: "2"}
	for name, c := range map[string]struct {
		from, to uint64
		want     []emulator.Pair
	}{
		"before all":                          {0, 0, nil},
		"appears within":                      {0, 1, nil},
		"one alone":                           {1, 1, []emulator.Pair{one}},
		"two appears":                         {1, 2, []emulator.Pair{one}},
		"status changes":                      {2, 3, []emulator.Pair{two}},
		"in the other status":                 {3, 4, []emulator.Pair{killing, two}},
		"there and back is not throughout":    {2, 5, []emulator.Pair{two}},
		"redetection and flapping keep pairs": {2, 6, []emulator.Pair{two}},
		"deleted within":                      {5, 7, []emulator.Pair{one}},
		"at the end":                          {7, 7, []emulator.Pair{one}},
		"deleted at the beginning of a span":  {7, math.MaxUint64 - 1, []emulator.Pair{one}},
	} {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, w.VisibleThroughout(c.from, c.to)); diff != "" {
				t.Errorf("%d to %d (-want +got):\n%s", c.from, c.to, diff)
			}
		})
	}
	var statuses []string
	for _, v := range w.History("1") {
		statuses = append(statuses, v.Status)
	}
	if diff := cmp.Diff([]string{"0", "2", "0"}, statuses); diff != "" {
		t.Errorf("history (-want +got):\n%s", diff)
	}
	if w.History("999") != nil {
		t.Error("an event that never was has a history")
	}
}

// What is forgotten is the past alone: everything since is as it was.
func TestForgettingKeepsWhatIsSince(t *testing.T) {
	w := emulator.NewWorld(5, 200, start())
	now := start()
	for range 400 {
		now = now.Add(time.Second)
		w.Step(now)
		list(t, w, emulator.Request{Limit: new(100)})
	}
	const cut = 150
	last := w.Tick()
	span := w.VisibleThroughout(cut, last)
	at := w.At(cut + 1)
	from, to := w.Window(at, now)
	w.Forget(cut)
	if diff := cmp.Diff(span, w.VisibleThroughout(cut, last)); diff != "" {
		t.Errorf("visible since (-before +after):\n%s", diff)
	}
	if got := w.At(cut + 1); !got.Equal(at) || at.IsZero() {
		t.Errorf("a change happened at %s, and before the past was forgotten at %s", got, at)
	}
	if f, l := w.Window(at, now); f != from || l != to {
		t.Errorf("ticks %d to %d, before the past was forgotten %d to %d", f, l, from, to)
	}
	if !w.At(cut).IsZero() || !w.At(last+1).IsZero() {
		t.Error("what was forgotten, or is yet to come, has a time")
	}
	if n := len(w.VisibleThroughout(0, 0)); n >= 200 {
		t.Errorf("%d events of the beginning are still known", n)
	}
	// Order of insertion outlives rows that are gone.
	w.SetQuirks(emulator.Quirks{IgnoreOrder: true})
	first := list(t, w, emulator.Request{Limit: new(100)}).Rows
	w.Do(emulator.OpInsert, now)
	if again := list(t, w, emulator.Request{Limit: new(100)}).Rows; again[0].ID != first[0].ID {
		t.Errorf("a new event is before the old ones: %s, then %s", first[0].ID, again[0].ID)
	}
}

// VisibleThroughout is what a look at every tick gives.
func TestTruthAgreesWithLookingAllTheTime(t *testing.T) {
	w := emulator.NewWorld(9, 60, start())
	w.SetQuirks(emulator.Quirks{StableTies: true})
	look := func() []emulator.Pair {
		var pairs []emulator.Pair
		for offset := 0; offset < w.Len(); offset += 100 {
			for _, r := range list(t, w, emulator.Request{Limit: new(100), Offset: &offset}).Rows {
				pairs = append(pairs, emulator.Pair{ID: r.ID, Status: r.Status})
			}
		}
		return pairs
	}
	seen := map[uint64][]emulator.Pair{0: look()}
	now := start()
	for range 300 {
		now = now.Add(time.Second)
		w.Step(now)
		seen[w.Tick()] = look()
	}
	count := func(from, to uint64) map[emulator.Pair]int {
		n := map[emulator.Pair]int{}
		for tick := from; tick <= to; tick++ {
			for _, p := range seen[tick] {
				n[p]++
			}
		}
		return n
	}
	for from := uint64(0); from < w.Tick(); from += 7 {
		for to := from; to <= w.Tick(); to += 23 {
			want := map[emulator.Pair]bool{}
			for p, n := range count(from, to) {
				if n == int(to-from+1) {
					want[p] = true
				}
			}
			got := map[emulator.Pair]bool{}
			for _, p := range w.VisibleThroughout(from, to) {
				got[p] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Fatalf("ticks %d to %d (-looked +truth):\n%s", from, to, diff)
			}
		}
	}
}

// A change that bears the very time at which a span begins or ends counts as
// within it: nobody knows which side an observer saw.
func TestWindowIsCautious(t *testing.T) {
	w := emulator.NewWorld(1, 0, start())
	at := func(s int) time.Time { return start().Add(time.Duration(s) * time.Second) }
	for i := range 3 {
		w.Advance(at(10 * (i + 1)))
		mustInsert(t, w, emulator.Event{})
	}
	for name, c := range map[string]struct{ begin, end, from, to int }{
		"before all":           {1, 9, 0, 0},
		"begins at a change":   {10, 15, 0, 1},
		"begins after it":      {11, 15, 1, 1},
		"ends at a change":     {15, 20, 1, 2},
		"ends before a change": {15, 19, 1, 1},
		"all":                  {0, 99, 0, 3},
	} {
		t.Run(name, func(t *testing.T) {
			from, to := w.Window(at(c.begin), at(c.end))
			if from != uint64(c.from) || to != uint64(c.to) {
				t.Errorf("seconds %d to %d are ticks %d to %d, want %d to %d", c.begin, c.end, from, to, c.from, c.to)
			}
		})
	}
}

func TestOnlyWhatWasShownIsTrue(t *testing.T) {
	w := emulator.NewWorld(1, 0, start())
	id := mustInsert(t, w, emulator.Event{ID: 24, Start: "2026-09-18 10:00:00", Detect: "2026-09-18 20:00:00"})[0]
	first := list(t, w, hundred()).Rows[0]
	w.SetStatus(2, id) // nobody looks
	w.SetStatus(3, id)
	w.SetDetect("2026-09-18 21:00:00", id)
	last := list(t, w, hundred()).Rows[0]

	pair := func(status string) emulator.Pair { return emulator.Pair{ID: id, Status: status} }
	for name, c := range map[string]struct {
		claim emulator.Claim
		want  bool
	}{
		"as it was first":             {emulator.Claim{Pair: pair("0"), Start: first.Start, Detect: first.Detect, Raw: first.Raw}, true},
		"as it is":                    {emulator.Claim{Pair: pair("3"), Start: last.Start, Detect: last.Detect, Raw: last.Raw}, true},
		"the status alone":            {emulator.Claim{Pair: pair("3")}, true},
		"true but never shown":        {emulator.Claim{Pair: pair("2")}, false},
		"a status it never had":       {emulator.Claim{Pair: pair("5")}, false},
		"status and time of two":      {emulator.Claim{Pair: pair("0"), Detect: last.Detect}, false},
		"status and content of two":   {emulator.Claim{Pair: pair("3"), Raw: first.Raw}, false},
		"another start":               {emulator.Claim{Pair: pair("0"), Start: "2026-09-18 10:00:01"}, false},
		"content changed by one byte": {emulator.Claim{Pair: pair("0"), Raw: append(slices.Clone(first.Raw), ' ')}, false},
		"an event that never was":     {emulator.Claim{Pair: emulator.Pair{ID: "25", Status: "0"}}, false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := w.EverTrue(c.claim); got != c.want {
				t.Errorf("EverTrue(%+v) = %v", c.claim, got)
			}
		})
	}
	w.Delete(id)
	if !w.EverShown(id, first.Raw) || !w.EverShown(id, last.Raw) || w.EverShown(id, []byte("{}")) || w.EverShown("25", first.Raw) {
		t.Error("EverShown does not know what was shown")
	}
}
