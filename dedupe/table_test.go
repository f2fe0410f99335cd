package dedupe_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cwprelay/cwprelay/dedupe"
	"github.com/cwprelay/cwprelay/event"
)

// A plainSet says what a Set must say, by a map.
type plainSet map[string]*plainEntry

type plainEntry struct {
	state   event.State
	changed time.Time
	at      int64
	mark    uint32
}

func (s plainSet) judge(sight dedupe.Sight) (dedupe.Verdict, bool) {
	e := s[sight.ID]
	if e == nil {
		return dedupe.Unseen, false
	}
	moved := e.mark == sight.Mark && e.at != sight.At
	e.mark, e.at = sight.Mark, sight.At
	switch {
	case e.changed.After(sight.SentAt):
		return dedupe.Stale, moved
	case e.state.Status.Code != sight.Status:
		return dedupe.Changed, moved
	case len(e.state.Tracked) != len(sight.Tracked):
		return dedupe.Baseline, moved
	}
	verdict := dedupe.Known
	for i, now := range sight.Tracked {
		switch before := e.state.Tracked[i]; {
		case now == before || now == "":
		case before == "":
			verdict = max(verdict, dedupe.Baseline)
		case now > before:
			return dedupe.Redetected, moved
		}
	}
	return verdict, moved
}

func (s plainSet) absences(mark uint32) (out []dedupe.Absence) {
	for id, e := range s {
		if shown := e.mark == mark; !shown || !e.state.AbsentSince.IsZero() || e.state.Unwatched {
			out = append(out, dedupe.Absence{ID: id, State: e.state, Shown: shown})
		}
	}
	slices.SortFunc(out, func(a, b dedupe.Absence) int { return strings.Compare(a.ID, b.ID) })
	return out
}

// Whatever the ids, times and statuses are, a Set says what a map of everything
// would say.
func TestSetSaysWhatAMapWould(t *testing.T) {
	ids := rapid.OneOf(
		rapid.Map(rapid.IntRange(0, 3000), func(n int) string { return fmt.Sprint(202443000000000 + n) }),
		rapid.Map(rapid.IntRange(0, 20), func(n int) string { return fmt.Sprint(n) }),
		rapid.SampledFrom([]string{"007", "sha256:aa", "9007199254740993", "9999999999999999999", "18446744073709551616", "-5", "", "x"}),
	)
	texts := rapid.SampledFrom([]string{
		"", "2026-11-27 10:00:00", "2026-11-27 10:00:01", "2024-02-29 00:00:00", "2026-11-27T10:00:00Z", " 2026-11-27 10:00:00", "2999-01-01 00:00:00", "soon", "1970-01-01 00:00:00",
	})
	statuses := rapid.Custom(func(t *rapid.T) event.Status {
		n := rapid.OneOf(rapid.IntRange(0, 5), rapid.IntRange(0, 60)).Draw(t, "status")
		return event.Status{Code: fmt.Sprint(n), Symbol: fmt.Sprint("s", n%7), Closed: n%2 == 1}
	})
	ats := rapid.SampledFrom([]int64{math.MinInt64, 1, 1_795_000_000, 1_795_000_001, math.MaxUint32, math.MaxUint32 + 1, 253402300799})
	marks := rapid.Uint32Range(1, 4)
	rapid.Check(t, func(t *rapid.T) {
		set, plain, now := dedupe.New(), plainSet{}, time.Unix(1_795_000_000, 0)
		tracked := rapid.SliceOfN(texts, 0, 2)
		states := rapid.Custom(func(t *rapid.T) event.State {
			st := event.State{
				Status: statuses.Draw(t, "status"), FirstDetect: texts.Draw(t, "first"), Unwatched: rapid.Bool().Draw(t, "unwatched"),
				Sequence:   rapid.SampledFrom([]uint64{1, 2, math.MaxUint16, math.MaxUint16 + 1, math.MaxUint64}).Draw(t, "sequence"),
				LastRecord: rapid.SampledFrom([]uint64{0, 7, math.MaxUint32 + 9, 1<<40 - 1, 1 << 40}).Draw(t, "last"),
			}
			if values := tracked.Draw(t, "tracked"); len(values) > 0 {
				st.Tracked = values
			}
			if rapid.Bool().Draw(t, "absent") {
				st.AbsentSince = time.Unix(1_795_000_000, 5).UTC()
			}
			return st
		})
		sights := rapid.Custom(func(t *rapid.T) dedupe.Sight {
			return dedupe.Sight{
				ID: ids.Draw(t, "id"), Status: statuses.Draw(t, "status").Code, Tracked: tracked.Draw(t, "tracked"),
				At: ats.Draw(t, "at"), Mark: marks.Draw(t, "mark"), SentAt: now,
			}
		})
		t.Repeat(map[string]func(*rapid.T){
			"judge": func(t *rapid.T) {
				sight := sights.Draw(t, "sight")
				sight.SentAt = sight.SentAt.Add(-time.Duration(rapid.IntRange(0, 3).Draw(t, "age")) * time.Millisecond)
				got, gotMoved := set.Judge(sight)
				want, wantMoved := plain.judge(sight)
				if got != want || gotMoved != wantMoved {
					t.Fatalf("%+v is %d, moved %v; want %d, %v", sight, got, gotMoved, want, wantMoved)
				}
			},
			"put": func(t *rapid.T) {
				sight, st := sights.Draw(t, "sight"), states.Draw(t, "state")
				set.Put(sight, st, now)
				plain[sight.ID] = &plainEntry{state: st, changed: now, at: sight.At, mark: sight.Mark}
			},
			"load many": func(t *rapid.T) {
				from, st := rapid.IntRange(0, 3000).Draw(t, "from"), states.Draw(t, "state")
				for n := range rapid.IntRange(1, 700).Draw(t, "many") {
					id := fmt.Sprint(202443000000000 + (from+n*7)%5000)
					set.Put(dedupe.Sight{ID: id, At: 1, Mark: 1}, st, time.Time{})
					plain[id] = &plainEntry{state: st, at: 1, mark: 1}
				}
			},
			"restate": func(t *rapid.T) {
				id, st := ids.Draw(t, "id"), states.Draw(t, "state")
				set.SetState(id, st)
				if e := plain[id]; e != nil {
					e.state = st
				}
			},
			"forget": func(t *rapid.T) {
				id := ids.Draw(t, "id")
				set.Forget(id)
				delete(plain, id)
			},
			"wait": func(t *rapid.T) {
				now = now.Add(rapid.SampledFrom([]time.Duration{time.Microsecond, time.Minute, 40 * 24 * time.Hour}).Draw(t, "long"))
			},
			"": func(t *rapid.T) {
				if set.Len() != len(plain) {
					t.Fatalf("%d events, want %d", set.Len(), len(plain))
				}
				id := ids.Draw(t, "id")
				got, ok := set.State(id)
				want := plain[id]
				if ok != (want != nil) || ok && !cmp.Equal(got, want.state) {
					t.Fatalf("state of %q is %+v, %v; want %+v", id, got, ok, want)
				}
				mark := marks.Draw(t, "mark")
				n := 0
				for _, e := range plain {
					if e.mark == mark && e.at >= 1 && e.at <= 1_795_000_000 {
						n++
					}
				}
				if got := set.Count(mark, 1, 1_795_000_000); got != n {
					t.Fatalf("%d seen, want %d", got, n)
				}
				if len(plain) < 50 || rapid.IntRange(0, 30).Draw(t, "look") == 0 {
					if diff := cmp.Diff(plain.absences(mark), set.Absences(mark)); diff != "" {
						t.Fatal(diff)
					}
				}
			},
		})
	})
}

// A million known events are to take little memory.
func BenchmarkLoad(b *testing.B) {
	b.ReportAllocs()
	st := event.State{Status: event.Status{Code: "0", Symbol: "pending"}, Sequence: 1, FirstDetect: "2026-11-27 10:00:00", LastRecord: 5}
	for b.Loop() {
		set := dedupe.New()
		for n := range 100_000 {
			set.Load(fmt.Sprint(202443000000000+n), st)
		}
	}
}

func BenchmarkJudge(b *testing.B) {
	set := dedupe.New()
	var ids []string
	for n := range 100_000 {
		ids = append(ids, fmt.Sprint(202443000000000+n))
		set.Load(ids[n], event.State{Status: event.Status{Code: "0"}, Sequence: 1})
	}
	now, i := time.Now(), 0
	b.ReportAllocs()
	for b.Loop() {
		set.Judge(dedupe.Sight{ID: ids[i%len(ids)], Status: "0", At: 1_795_000_000, Mark: 2, SentAt: now})
		i++
	}
}
