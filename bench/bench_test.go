package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
)

type answered struct {
	Response struct {
		TotalCount int
		List       []struct {
			EventId              int64 //nolint:revive // the API's own name
			StartTime            string
			HandleStatus         int
			VirusName, FilePath  string
			DetectTime, HostName string
		}
	}
}

func ask(t *testing.T, url, request string) answered {
	t.Helper()
	resp, err := http.Post(url, "application/json", strings.NewReader(request))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var a answered
	if err := json.NewDecoder(resp.Body).Decode(&a); err != nil {
		t.Fatalf("%s: %v", request, err)
	}
	return a
}

// Paging by the last second of each answer shows every event, in order, with a
// count of what is left.
func TestListCanBeReadByKeyset(t *testing.T) {
	const events = 1234
	l, err := newList(t.Context(), events)
	if err != nil {
		t.Fatal(err)
	}
	api := httptest.NewServer(newAPI(l))
	defer api.Close()
	seen := map[int64]string{}
	filter, before := "", ""
	for {
		a := ask(t, api.URL, `{"Limit":100,"Offset":0,"By":"StartTime","Order":"ASC"`+filter+`}`)
		list := a.Response.List
		if due := min(100, a.Response.TotalCount); len(list) != due {
			t.Fatalf("%d events of %d", len(list), a.Response.TotalCount)
		}
		for _, e := range list {
			if e.StartTime < before {
				t.Fatalf("%s after %s", e.StartTime, before)
			}
			before = e.StartTime
			if at, ok := seen[e.EventId]; ok && at != e.StartTime {
				t.Fatalf("event %d starts at %s and at %s", e.EventId, at, e.StartTime)
			}
			seen[e.EventId] = e.StartTime
		}
		if len(list) < 100 {
			break
		}
		filter = fmt.Sprintf(`,"Filters":[{"Name":"BeginTime","Values":[%q]}]`, before)
	}
	if len(seen) != events {
		t.Errorf("%d events were shown, want %d", len(seen), events)
	}
	last := ask(t, api.URL, `{"Limit":1,"By":"DetectTime","Order":"DESC"}`).Response.List
	if len(last) != 1 || last[0].StartTime != before {
		t.Errorf("the newest is %v, want one of %s", last, before)
	}
	shared := map[string]int{}
	for _, at := range seen {
		shared[at]++
	}
	if len(shared) == events {
		t.Error("no two events share a second")
	}
}

// What is counted is what a collector would index.
func TestCountersCount(t *testing.T) {
	const envelope = `{"event":{"text":"a \" } { b","inner":{"x":[{}]}},"time":1.5}`
	h := &hec{}
	server := httptest.NewServer(h)
	defer server.Close()
	var packed bytes.Buffer
	z := gzip.NewWriter(&packed)
	_, _ = io.WriteString(z, strings.Repeat(envelope+"\n", 7))
	_ = z.Close()
	req, _ := http.NewRequest(http.MethodPost, server.URL+"/services/collector/event", &packed)
	req.Header.Set("Content-Encoding", "gzip")
	for _, r := range []func() (*http.Response, error){
		func() (*http.Response, error) { return server.Client().Do(req) },
		func() (*http.Response, error) {
			return http.Post(server.URL+"/services/collector", "application/json", strings.NewReader(envelope+envelope))
		},
	} {
		resp, err := r()
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
	}
	if n, _ := h.count(); n != 9 {
		t.Errorf("%d events were counted, want 9", n)
	}

	batch := make([]byte, 100)
	batch[11], batch[60] = 88, 3
	if n := recordsOf(append(append([]byte{}, batch...), batch...)); n != 6 {
		t.Errorf("%d records were counted, want 6", n)
	}
}

// A limit is of any second, not of those of the clock.
func TestWindowRefusesWhatIsBeyondTheLimit(t *testing.T) {
	w := newWindow(3)
	start := time.Unix(1_795_000_000, 900_000_000)
	for _, tc := range []struct {
		after time.Duration
		fits  bool
	}{{0, true}, {100 * time.Millisecond, true}, {200 * time.Millisecond, true}, {999 * time.Millisecond, false}, {time.Second, true}, {1050 * time.Millisecond, false}, {1100 * time.Millisecond, true}} {
		if got := w.fits(start.Add(tc.after)); got != tc.fits {
			t.Errorf("after %s: %v, want %v", tc.after, got, tc.fits)
		}
	}
	if !newWindow(0).fits(start) {
		t.Error("no limit refuses")
	}
}

// Events that come are shown from their moment on, after all others and in the
// second of their detection.
func TestEventsCome(t *testing.T) {
	const known, coming = 200, 3 * perSecond
	l, err := newList(t.Context(), known+coming)
	if err != nil {
		t.Fatal(err)
	}
	l.shown = known
	from := time.Now().Truncate(time.Second)
	if n := l.visible(from.Add(time.Hour)); n != known {
		t.Errorf("%d events are shown before any comes, want %d", n, known)
	}
	l.come(from)
	for i := known; i < known+coming; i++ {
		at := l.came(i)
		if l.visible(at.Add(-time.Millisecond)) > i || l.visible(at) != i+1 {
			t.Fatalf("event %d is not shown from %s on", i, at)
		}
		if detected := l.starts[i] + detectAfter; detected > at.Unix() || detected < at.Unix()-1 || l.starts[i] < l.starts[i-1] {
			t.Fatalf("event %d comes at %d and was detected at %d", i, at.Unix(), detected)
		}
	}
}
