package dedupe_test

import (
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/dedupe"
	"github.com/cwprelay/cwprelay/event"
)

func state(code string, tracked ...string) event.State {
	return event.State{Status: event.Status{Code: code}, Sequence: 1, Tracked: tracked}
}

func TestVerdicts(t *testing.T) {
	now := time.Now()
	for name, tc := range map[string]struct {
		known *event.State
		sight dedupe.Sight
		want  dedupe.Verdict
	}{
		"never seen":                       {nil, dedupe.Sight{Status: "0"}, dedupe.Unseen},
		"the same pair":                    {new(state("0")), dedupe.Sight{Status: "0"}, dedupe.Known},
		"another status":                   {new(state("0")), dedupe.Sight{Status: "3"}, dedupe.Changed},
		"detected later":                   {new(state("0", "2026-01-01 00:00:00")), dedupe.Sight{Status: "0", Tracked: []string{"2026-01-01 00:00:01"}}, dedupe.Redetected},
		"detected earlier":                 {new(state("0", "2026-01-01 00:00:00")), dedupe.Sight{Status: "0", Tracked: []string{"2025-01-01 00:00:01"}}, dedupe.Known},
		"detected at no time":              {new(state("0", "2026-01-01 00:00:00")), dedupe.Sight{Status: "0", Tracked: []string{""}}, dedupe.Known},
		"tracked since now":                {new(state("0")), dedupe.Sight{Status: "0", Tracked: []string{"2026-01-01 00:00:00"}}, dedupe.Baseline},
		"status and detection both change": {new(state("0", "2026-01-01 00:00:00")), dedupe.Sight{Status: "3", Tracked: []string{"2026-01-01 00:00:01"}}, dedupe.Changed},
	} {
		t.Run(name, func(t *testing.T) {
			set := dedupe.New()
			if tc.known != nil {
				set.Load("1", *tc.known)
			}
			tc.sight.ID, tc.sight.SentAt = "1", now
			if got, _ := set.Judge(tc.sight); got != tc.want {
				t.Errorf("verdict %d, want %d", got, tc.want)
			}
		})
	}
}

// TestReopenedEventIsNews is what a set that only grows would hide.
func TestReopenedEventIsNews(t *testing.T) {
	set := dedupe.New()
	now := time.Now()
	for _, code := range []string{"0", "3", "0"} {
		sight := dedupe.Sight{ID: "1", Status: code, SentAt: now}
		if got, _ := set.Judge(sight); got != dedupe.Unseen && got != dedupe.Changed {
			t.Errorf("status %s: verdict %d", code, got)
		}
		set.Put(sight, state(code), now)
	}
}

func TestOvertakenAnswerIsStale(t *testing.T) {
	set := dedupe.New()
	sent := time.Now()
	set.Put(dedupe.Sight{ID: "1"}, state("3"), sent.Add(time.Second))
	if got, _ := set.Judge(dedupe.Sight{ID: "1", Status: "0", SentAt: sent}); got != dedupe.Stale {
		t.Errorf("verdict %d, want Stale", got)
	}
	if got, _ := set.Judge(dedupe.Sight{ID: "1", Status: "0", SentAt: sent.Add(2 * time.Second)}); got != dedupe.Changed {
		t.Errorf("verdict %d, want Changed", got)
	}
}

func TestAbsencesAndCounts(t *testing.T) {
	set := dedupe.New()
	set.Load("gone", state("0"))
	back := state("0")
	back.AbsentSince = time.Now()
	set.Load("back", back)
	set.Load("there", state("0"))
	for _, id := range []string{"back", "there"} {
		if _, moved := set.Judge(dedupe.Sight{ID: id, Status: "0", Mark: 7, At: 50}); moved {
			t.Errorf("%s moved", id)
		}
	}
	if _, moved := set.Judge(dedupe.Sight{ID: "there", Status: "0", Mark: 7, At: 51}); !moved {
		t.Error("an event at two sweep times of one sweep was not noticed")
	}
	got := set.Absences(7)
	if len(got) != 2 || got[0].ID != "back" || !got[0].Shown || got[1].ID != "gone" || got[1].Shown {
		t.Errorf("absences %+v", got)
	}
	if n := set.Count(7, 50, 50); n != 1 {
		t.Errorf("%d seen at 50, want 1", n)
	}
}
