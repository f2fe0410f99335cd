package console_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
	"github.com/cwprelay/cwprelay/poller"
)

// FuzzAdminRequest asks the admin side for anything: it answers with JSON, and
// a request that makes no sense is refused, not an accident.
func FuzzAdminRequest(f *testing.F) {
	j, err := journal.Open(journal.Config{Dir: f.TempDir(), MinFreeDisk: 1}.WithDefaults(), journal.Options{Sinks: []journal.SinkRule{{Name: "soc"}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = j.Close() })
	lease, err := j.Lease(f.Context(), "source/prod/risk_process")
	if err != nil {
		f.Fatal(err)
	}
	if _, err := j.Append(f.Context(), lease, journal.Batch{Changes: []journal.Change{journaltest.Change(journaltest.Record("7", 1))}}); err != nil {
		f.Fatal(err)
	}
	admin := console.NewAdmin(console.AdminOptions{
		Options: console.Options{
			Version: "1", Metrics: prometheus.NewRegistry(),
			Sources: func() []poller.Status { return nil },
			Sinks:   func() []delivery.Status { return []delivery.Status{{Name: "soc", State: delivery.OK}} },
			Journal: j.Status,
		},
		Store: j,
		Sink: func(name string) console.Steered {
			if name == "soc" {
				return willing{}
			}
			return nil
		},
		Show: func(context.Context, func(event.Key) bool) ([]*poller.Shown, []error) {
			return nil, []error{errors.New("unreachable")}
		},
		Check: j.Check,
		Level: func(string) error { return nil },
	})
	for _, path := range []string{
		"/v1/health", "/v1/status", "/v1/trace", "/v1/deadletters", "/v1/state/check",
		"/v1/deadletters/retry", "/v1/deadletters/drop", "/v1/sinks/pause", "/v1/replay", "/v1/replay/end", "/v1/log", "/v1/reconcile",
	} {
		f.Add("GET", path, "id=7&sink=soc&limit=5&after=1", "")
		f.Add("POST", path, "", `{"sink":"soc","seqs":[1],"from":1,"level":"debug"}`)
	}
	f.Add("GET", "/v1/trace", "id=%23-1&limit=-1", "")
	f.Add("POST", "/v1/replay", "", `{"sink":"soc","from":-1}`)
	f.Add("POST", "/v1/replay", "", `{"sink":`+strings.Repeat("[", 10000))
	f.Fuzz(func(t *testing.T, method, path, query, body string) {
		u := &url.URL{Path: path, RawQuery: query}
		r, err := http.NewRequestWithContext(t.Context(), method, "http://admin"+u.EscapedPath()+"?"+url.QueryEscape(query), strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.RawQuery = query
		w := httptest.NewRecorder()
		admin.ServeHTTP(w, r)
		if w.Code == http.StatusInternalServerError {
			t.Errorf("%s %s?%s %q: %s", method, path, query, body, w.Body)
		}
		if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") && !json.Valid(w.Body.Bytes()) {
			t.Errorf("%s %s: the answer is no JSON: %.200q", method, path, w.Body)
		}
	})
}

// willing is the worker of a sink that does whatever it is told.
type willing struct{}

func (willing) Pause(bool)                             {}
func (willing) Replay(context.Context, uint64) error   { return nil }
func (willing) EndReplay(context.Context) error        { return nil }
func (willing) Retry(context.Context, ...uint64) error { return nil }
func (willing) Drop(context.Context, ...uint64) error  { return nil }
func (willing) Resend(context.Context, []*event.Record, []journal.Range) (int, error) {
	return 0, nil
}
