package console

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// Rates, budget and lag follow from what was sampled; a count that begins anew
// is no negative rate, and an hour is kept.
func TestHistory(t *testing.T) {
	var last, cursor, sent uint64
	var oldest time.Time
	s := New(Options{
		Journal: func(context.Context) (journal.Status, error) { return journal.Status{Last: last}, nil },
		Sinks: func() []delivery.Status {
			st := delivery.Status{Name: "soc", Cursor: journal.Cursor{Seq: cursor}, Oldest: oldest}
			if !oldest.IsZero() {
				st.Behind = 1
			}
			return []delivery.Status{st}
		},
		Sources: func() []poller.Status { return []poller.Status{{Source: "prod", Kind: "k"}} },
		Budget:  func(string, string) (uint64, float64) { return sent, 10 },
	})
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	s.sample(t.Context(), now)
	if text, used := s.history.budget("prod", "k"); len(s.history.plots()) > 0 || s.history.rate("soc") != "" || text != "" || used != 0 {
		t.Error("one sample says something")
	}
	step := func(in, out, requests uint64) {
		last, cursor, sent, now = last+in, cursor+out, sent+requests, now.Add(sampleEvery)
		s.sample(t.Context(), now)
	}
	step(50, 20, 40)
	if plots := s.history.plots(); plots[0].Now != "5/s" || plots[1].Now != "2/s" {
		t.Errorf("the first step of an empty journal: in %s, settled %s", plots[0].Now, plots[1].Now)
	}
	for range 2 * samplesKept {
		step(50, 20, 40)
	}
	oldest = now.Add(-time.Minute)
	step(100, 20, 40)
	budget, used := s.history.budget("prod", "k")
	if got := []string{s.history.rate("soc"), budget, s.history.rate("nosuch")}; cmp.Diff([]string{"2", "4 of 10 requests/s", "0"}, got) != "" || used != 40 {
		t.Errorf("rate and budget: %v, %d %%", got, used)
	}
	plots := s.history.plots()
	var got []string
	for _, p := range plots {
		got = append(got, p.Title+" "+p.Now+" of "+p.Most)
		if strings.Count(p.Path, "L") != samplesKept-2 || !strings.HasPrefix(p.Path, "M0.") && !strings.HasPrefix(p.Path, "M1.") {
			t.Errorf("%s: %d points, %.30s…", p.Title, strings.Count(p.Path, "L"), p.Path)
		}
	}
	if diff := cmp.Diff([]string{"Taken in 10/s of 10/s", "Settled by all sinks 2/s of 2/s", "Oldest waiting record 1 min 10 s of 1 min 10 s"}, got); diff != "" {
		t.Errorf("plots (-want +got):\n%s", diff)
	}
	last, cursor, sent = 3, 3, 3 // another journal
	step(0, 0, 0)
	for _, p := range s.history.plots() {
		if strings.Contains(p.Now, "-") {
			t.Errorf("%s is %s", p.Title, p.Now)
		}
	}
}

// What a sink settled before it was known is no rate.
func TestSinkThatIsNewHasNoPast(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	of := func(after time.Duration, settled map[string]uint64) sample {
		return sample{at: now.Add(after), settled: settled}
	}
	h := &history{list: []sample{
		of(0, map[string]uint64{"old": 100}),
		of(10*time.Second, map[string]uint64{"old": 120, "new": 5000}),
	}}
	if got := []string{h.rate("old"), h.rate("new"), h.plots()[1].Now}; cmp.Diff([]string{"2", "0", "2/s"}, got) != "" {
		t.Errorf("rates %v", got)
	}
}

func TestSpanIsForPeople(t *testing.T) {
	for d, want := range map[time.Duration]string{
		-time.Second: "0 s", 59*time.Second + 999*time.Millisecond: "59 s", time.Minute: "1 min 0 s", 61*time.Minute + 5*time.Second: "1 h 1 min",
		47 * time.Hour: "47 h 0 min", 50 * time.Hour: "2 d 2 h",
	} {
		if got := span(d); got != want {
			t.Errorf("%s: %q, want %q", d, got, want)
		}
	}
}
