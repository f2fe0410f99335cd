package console_test

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

func server(source poller.Status, sink delivery.Status, st journal.Status) *console.Server {
	return console.New(console.Options{
		Version: "1", Metrics: prometheus.NewRegistry(),
		Sources: func() []poller.Status { return []poller.Status{source} },
		Sinks:   func() []delivery.Status { return []delivery.Status{sink} },
		Journal: func(context.Context) (journal.Status, error) { return st, nil },
	})
}

func get(t *testing.T, s *console.Server, host, path string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+host+path, http.NoBody)
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestEachReasonTurnsItRed(t *testing.T) {
	good := poller.Status{Source: "prod", SweepInterval: time.Minute}
	good.Certified.Ended, good.Certified.Certified = time.Now(), true
	good.Certified.Started = good.Certified.Ended
	good.Last = good.Certified
	late := good
	late.Certified.Ended = time.Now().Add(-10 * time.Minute)
	late.Certified.Started = late.Certified.Ended
	refused := good
	refused.Error, refused.ErrorClass = "AuthFailure", "credentials"
	off := good
	off.Ahead = -6 * time.Minute
	for name, tc := range map[string]struct {
		source poller.Status
		sink   delivery.Status
		st     journal.Status
		want   string
	}{
		"all is well":           {good, delivery.Status{Name: "soc", State: delivery.OK}, journal.Status{}, ""},
		"no sweep yet":          {poller.Status{}, delivery.Status{}, journal.Status{}, "no_certified_sweep_yet"},
		"no sweep for long":     {late, delivery.Status{}, journal.Status{}, "no_certified_sweep"},
		"the API refuses":       {refused, delivery.Status{}, journal.Status{}, "api_credentials"},
		"our clock is off":      {off, delivery.Status{}, journal.Status{}, "api_clock"},
		"a sink is halted":      {good, delivery.Status{Name: "soc", State: delivery.Halted, HaltReason: "403"}, journal.Status{}, "sink_halted"},
		"the journal is full":   {good, delivery.Status{}, journal.Status{Full: &journal.FullError{Limit: "state.max_bytes"}}, "journal_full"},
		"a sink that is behind": {good, delivery.Status{Name: "soc", State: delivery.Retrying}, journal.Status{}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := get(t, server(tc.source, tc.sink, tc.st), "127.0.0.1:9810", "/readyz")
			var r console.Readiness
			if err := json.Unmarshal(w.Body.Bytes(), &r); err != nil {
				t.Fatal(err)
			}
			switch {
			case tc.want == "":
				if w.Code != http.StatusOK || !r.Ready {
					t.Errorf("status %d, %+v", w.Code, r)
				}
			case w.Code != http.StatusServiceUnavailable || len(r.Reasons) != 1 || r.Reasons[0].Code != tc.want:
				t.Errorf("status %d, %+v, want %s", w.Code, r, tc.want)
			}
		})
	}
}

func TestPageEscapesWhatItShows(t *testing.T) {
	w := get(t, server(poller.Status{Source: "prod"}, delivery.Status{Name: "soc", State: delivery.Halted, HaltReason: "<script>alert(1)</script>"}, journal.Status{}), "localhost:9810", "/")
	if w.Code != http.StatusOK || strings.Contains(w.Body.String(), "<script>alert") || !strings.Contains(w.Body.String(), "&lt;script&gt;") {
		t.Errorf("status %d:\n%s", w.Code, w.Body)
	}
}

// The page shows sweeps with their verdicts, and what a sink waits for.
func TestPageShowsSweepsAndSinks(t *testing.T) {
	now := time.Now()
	s := console.New(console.Options{
		Version: "1", Metrics: prometheus.NewRegistry(),
		Sources: func() []poller.Status {
			return []poller.Status{{Source: "prod", Kind: "risk_process", Account: "13", Known: 7}}
		},
		Sinks: func() []delivery.Status {
			return []delivery.Status{{Name: "soc", State: delivery.Retrying, HeartbeatError: "403 <b>", Behind: 3, Oldest: now.Add(-time.Minute), Dead: 2, Replay: &delivery.Replay{After: 4, Until: 9}}}
		},
		Journal: func(context.Context) (journal.Status, error) {
			return journal.Status{Bytes: 3 << 20, MaxBytes: 8 << 30, Gaps: make([]journal.Gap, 1)}, nil
		},
		Sweeps: func(_ context.Context, source, kind string, limit int) ([]journal.Certificate, error) {
			if source != "prod" || kind != "risk_process" || limit < 10 {
				t.Errorf("asked for %d sweeps of %s/%s", limit, source, kind)
			}
			return []journal.Certificate{
				{Started: now.Add(-time.Second), Ended: now, Certified: true, TotalBefore: 9, TotalAfter: 10, Requests: 11, IDs: 1100, Records: 40},
				{Started: now.Add(-2 * time.Second), Ended: now, Reason: "withheld", Detail: "<b>no list</b>", Records: 10},
			}, nil
		},
	})
	page := get(t, s, "localhost", "/").Body.String()
	for _, want := range []string{
		"certified", "withheld", "&lt;b&gt;no list&lt;/b&gt;", "width:100%", "width:25%", "3 MiB of 8 GiB", "1 gaps", "replay #4 of #9", "heartbeat not accepted: 403 &lt;b&gt;", "1 min 0 s ago", ">1100<", "retrying", "9 → 10",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("no %q in:\n%s", want, page)
		}
	}
}

func TestOnlyLoopbackNamesAreServed(t *testing.T) {
	s := server(poller.Status{}, delivery.Status{}, journal.Status{})
	for host, want := range map[string]int{"127.0.0.1:9810": 200, "localhost": 200, "[::1]:9810": 200, "evil.example": http.StatusMisdirectedRequest} {
		if w := get(t, s, host, "/healthz"); w.Code != want {
			t.Errorf("host %s: status %d, want %d", host, w.Code, want)
		}
	}
}

// What attackers write is shown as text; command lines only where that is asked
// for.
func TestPageShowsTheLastEventsAsText(t *testing.T) {
	hostile := `</script><img src=x onerror=alert(1)>"';` + "\u202e{{.Version}}"
	for _, commands := range []bool{false, true} {
		s := console.New(console.Options{
			Version: "1", Metrics: prometheus.NewRegistry(), ShowCommands: commands,
			Sources: func() []poller.Status { return nil },
			Sinks: func() []delivery.Status {
				return []delivery.Status{{Name: "soc", Cursor: journal.Cursor{Seq: 7, Ahead: []journal.Range{{First: 9, Last: 9}}}}, {Name: "hook", Cursor: journal.Cursor{Seq: 9}, Dead: 1}}
			},
			Journal: func(context.Context) (journal.Status, error) { return journal.Status{First: 1, Last: 9}, nil },
			Records: func(_ context.Context, after uint64, limit int) ([]*event.Record, error) {
				if after != 0 || limit < 9 {
					t.Errorf("asked for %d records behind %d", limit, after)
				}
				return []*event.Record{{Seq: 7}, {Seq: 8}, {Seq: 9}}, nil
			},
			Describe: func(r *event.Record) console.Description {
				return console.Description{Severity: "high", What: fmt.Sprint("event", r.Seq, hostile), Threat: hostile, Host: hostile, Command: "rm " + hostile}
			},
			Letters: func(_ context.Context, sink string, after uint64, _ int) ([]journal.DeadLetter, error) {
				if sink == "hook" && after < 8 {
					return []journal.DeadLetter{{Record: &event.Record{Seq: 8}}}, nil
				}
				return nil, nil
			},
		})
		page := get(t, s, "localhost", "/").Body.String()
		if strings.Contains(page, "<img") || strings.Count(page, "</script>") != 1 || strings.Contains(page, "event71") {
			t.Errorf("what an event says is not text:\n%s", page)
		}
		if got := strings.Contains(page, "rm &lt;/script"); got != commands {
			t.Errorf("show_commands %v, shown %v", commands, got)
		}
		for _, want := range []string{
			`(?s)event9.*event8.*event7`,
			`(?s)>event9[^\n]*<td class="p good"><span class="phone">soc </span>✓<span class="sr">settled</span></td><td class="p good"><span class="phone">hook </span>✓<span class="sr">settled</span></td>`,
			`(?s)>event8[^\n]*<td class="p some"><span class="phone">soc </span>…<span class="sr">waits</span></td><td class="p bad"><span class="phone">hook </span>✕<span class="sr">dead letter</span></td>`,
			`(?s)>event7[^\n]*<td class="p good"><span class="phone">soc </span>✓<span class="sr">settled</span></td><td class="p good"><span class="phone">hook </span>✓<span class="sr">settled</span></td>`,
		} {
			if !regexp.MustCompile(want).MatchString(page) {
				t.Errorf("no %s in:\n%s", want, page)
			}
		}
	}
}

// The page may run its own script and no other, and ask nobody else.
func TestPolicyAllowsTheScriptOfThePage(t *testing.T) {
	w := get(t, server(poller.Status{}, delivery.Status{}, journal.Status{}), "localhost", "/")
	_, rest, _ := strings.Cut(w.Body.String(), "<script>")
	script, _, _ := strings.Cut(rest, "</script>")
	sum := sha256.Sum256([]byte(script))
	policy := w.Header().Get("Content-Security-Policy")
	if len(script) < 100 || !strings.Contains(policy, "script-src 'sha256-"+base64.StdEncoding.EncodeToString(sum[:])+"';") {
		t.Errorf("the policy %s does not allow the script", policy)
	}
	for _, banned := range []string{"http://", "https://", "@import", "url("} {
		if strings.Contains(w.Body.String(), banned) {
			t.Errorf("the page refers to something outside: %s", banned)
		}
	}
	for _, path := range []string{"/nosuch", "/healthz"} {
		if h := get(t, server(poller.Status{}, delivery.Status{}, journal.Status{}), "localhost", path).Header(); h.Get("Content-Security-Policy") == "" || h.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s has no security headers: %v", path, h)
		}
	}
}
