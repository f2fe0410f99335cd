package emulator_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

func itemIDs(p *cwp.Page) []string {
	ids := make([]string, len(p.Items))
	for i, item := range p.Items {
		ids[i] = item.ID
	}
	return ids
}

func TestListerAsksAsTheClientDoes(t *testing.T) {
	l := &emulator.Lister{World: small(t)}
	for name, c := range map[string]struct {
		query   cwp.Query
		filters map[string][]string
		want    []string
	}{
		"sweep":      {cwp.Query{Sort: cwp.BySweepTime, Begin: "2026-09-18 10:00:01", Limit: 2}, nil, []string{"2", "3"}},
		"descending": {cwp.Query{Sort: cwp.BySweepTimeDesc, End: "2026-09-18 10:00:02", Begin: "2026-09-18 10:00:00", Limit: 100}, nil, []string{"3", "2", "1"}},
		"head":       {cwp.Query{Sort: cwp.ByHeadTimeDesc, Limit: 3, Offset: 1}, nil, []string{"2", "3", "4"}},
		"status":     {cwp.Query{Sort: cwp.ByHeadTimeDesc, Status: "2", Limit: 3}, nil, []string{"3"}},
		"own filter": {cwp.Query{Sort: cwp.ByHeadTimeDesc, Limit: 3}, map[string][]string{"VirusName": {"miner"}}, []string{"1", "3"}},
	} {
		t.Run(name, func(t *testing.T) {
			l := &emulator.Lister{World: l.World, Filters: c.filters}
			page, err := l.List(t.Context(), c.query)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, itemIDs(page)); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", c.query, diff)
			}
		})
	}
	page, err := l.List(t.Context(), cwp.Query{Sort: cwp.ByHeadTimeDesc, Limit: 100})
	if err != nil {
		t.Fatal(err)
	}
	got := page.Items[3] // of a null start time
	want := cwp.Item{ID: "4", Status: "5", HeadTime: "2026-09-18 20:00:02", Raw: got.Raw}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(cwp.Item{})); diff != "" || len(got.Raw) == 0 {
		t.Errorf("item (-want +got):\n%s", diff)
	}
	if page.Total != 6 || !page.HasTotal || page.RequestID == "" || page.ReceivedAt.Before(page.SentAt) {
		t.Errorf("page %+v", page)
	}
	var refused *cwp.Error
	if _, err := l.List(t.Context(), cwp.Query{Limit: 101}); !errors.As(err, &refused) || refused.Class != cwp.ClassRequest || refused.Code != "InvalidParameter" {
		t.Errorf("Limit 101 gives %v", err)
	}
}

func TestListerHooks(t *testing.T) {
	w := small(t)
	broken := errors.New("broken")
	l := &emulator.Lister{
		World: w,
		Before: func(n int, _ cwp.Query) error {
			if n == 2 {
				return broken
			}
			w.Delete("1")
			return nil
		},
		Quirks: func(n int, _ cwp.Query) emulator.Quirks { return emulator.Quirks{NoTotal: n == 3} },
		After: func(_ int, _ cwp.Query, p *cwp.Page) (*cwp.Page, error) {
			p.Items = p.Items[:1]
			return p, nil
		},
	}
	query := cwp.Query{Sort: cwp.ByHeadTimeDesc, Limit: 100}
	page, err := l.List(t.Context(), query)
	if err != nil || !page.HasTotal || page.Total != 5 || len(page.Items) != 1 || page.Items[0].ID != "2" {
		t.Errorf("first: %+v, %v", page, err)
	}
	if _, err := l.List(t.Context(), query); !errors.Is(err, broken) {
		t.Errorf("second: %v", err)
	}
	if page, err := l.List(t.Context(), query); err != nil || page.HasTotal || page.Total != 0 {
		t.Errorf("third: %+v, %v", page, err)
	}
	if l.Requests() != 3 {
		t.Errorf("%d requests", l.Requests())
	}
}

// Answers can arrive in another order than they were true in.
func TestAnswersOvertakeEachOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := small(t)
		l := &emulator.Lister{
			World: w,
			Lead:  func(n int) time.Duration { return time.Duration(n) * time.Second },        // 1s, 2s
			Lag:   func(n int) time.Duration { return time.Duration(10/n) * time.Second },     // 10s, 5s
			After: func(_ int, _ cwp.Query, p *cwp.Page) (*cwp.Page, error) { return p, nil }, // leaves it
		}
		pages := make(chan *cwp.Page)
		ask := func() {
			page, err := l.List(t.Context(), cwp.Query{Sort: cwp.ByHeadTimeDesc, Limit: 1})
			if err != nil {
				t.Error(err)
			}
			pages <- page
		}
		go ask()
		synctest.Wait()
		go ask()
		time.Sleep(1500 * time.Millisecond) // the first is computed, the second is not
		w.SetStatus(5, "1")
		for i, want := range []struct {
			status string
			took   time.Duration
		}{{"5", 7 * time.Second}, {"0", 11 * time.Second}} {
			page := <-pages
			if got := page.Items[0].Status; got != want.status || page.ReceivedAt.Sub(page.SentAt) != want.took {
				t.Errorf("answer %d: status %s after %s, want %s after %s", i, got, page.ReceivedAt.Sub(page.SentAt), want.status, want.took)
			}
		}
	})
}

func TestListerReturnsWhenTheContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, l := range map[string]*emulator.Lister{
			"before": {World: small(t), Lead: func(int) time.Duration { return time.Hour }},
			"after":  {World: small(t), Lag: func(int) time.Duration { return time.Hour }},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			if _, err := l.List(ctx, cwp.Query{Limit: 1}); !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: %v", name, err)
			}
			cancel()
		}
	})
}
