package hectest_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
)

const channel = "0aeeac95-ac74-4aa9-b30d-6c4c0ac581ba"

type answer struct {
	status int
	Text   string
	Code   int
	Object *int `json:"invalid-event-number"`
	AckID  *int64
	Acks   map[string]bool
}

// ask makes a request as a good client does; change makes it a bad one.
func ask(t *testing.T, s http.Handler, path, body string, change func(*http.Request)) answer {
	t.Helper()
	r := httptest.NewRequest(http.MethodPost, path, strings.NewReader(body))
	r.Header.Set("Authorization", "Splunk "+hectest.DefaultToken)
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("X-Splunk-Request-Channel", channel)
	if change != nil {
		change(r)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	a := answer{status: w.Code, Code: -1}
	if strings.HasPrefix(w.Header().Get("Content-Type"), "application/json") {
		if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
			t.Fatalf("answer %q: %v", w.Body, err)
		}
	}
	return a
}

func drop(name string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Del(name) }
}

func set(name, value string) func(*http.Request) {
	return func(r *http.Request) { r.Header.Set(name, value) }
}

const (
	event = "/services/collector/event"
	good  = `{"event":{"a":1},"fields":{"cwp_event_uid":"u1"}}`
)

func TestRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		cfg    hectest.Config
		path   string
		body   string
		change func(*http.Request)
		status int
		code   int
		object int // -1: none named
	}{
		"disabled token":       {hectest.Config{TokenDisabled: true}, event, good, nil, 403, 1, -1},
		"no token":             {hectest.Config{}, event, good, drop("Authorization"), 401, 2, -1},
		"not Splunk's":         {hectest.Config{}, event, good, set("Authorization", "Bearer x"), 401, 3, -1},
		"wrong token":          {hectest.Config{}, event, good, set("Authorization", "Splunk x"), 403, 4, -1},
		"empty body":           {hectest.Config{}, event, " \n", nil, 400, 5, -1},
		"no JSON":              {hectest.Config{}, event, good + "x", nil, 400, 6, 1},
		"an array":             {hectest.Config{}, event, "[" + good + "]", nil, 400, 6, 0},
		"not gzip":             {hectest.Config{}, event, good, set("Content-Encoding", "gzip"), 400, 6, 0},
		"deflate":              {hectest.Config{}, event, good, set("Content-Encoding", "deflate"), 415, -1, -1},
		"index":                {hectest.Config{Indexes: []string{"main"}}, event, good + `{"event":"x","index":"other"}`, nil, 400, 7, 2},
		"no channel with acks": {hectest.Config{Ack: true}, event, good, drop("X-Splunk-Request-Channel"), 400, 10, -1},
		"bad channel":          {hectest.Config{}, event, good, set("X-Splunk-Request-Channel", "seven"), 400, 11, -1},
		"no event":             {hectest.Config{}, event, good + `{"host":"h"}`, nil, 400, 12, 1},
		"null event":           {hectest.Config{}, event, `{"event":null}`, nil, 400, 12, 0},
		"blank event":          {hectest.Config{}, event, good + good + `{"event":" "}`, nil, 400, 13, 2},
		"acks disabled":        {hectest.Config{}, "/services/collector/ack", `{"acks":[0]}`, nil, 400, 14, -1},
		"nested fields":        {hectest.Config{}, event, `{"event":1,"fields":{"a":{"b":1}}}`, nil, 400, 15, 0},
		"null field":           {hectest.Config{}, event, `{"event":1,"fields":{"a":null}}`, nil, 400, 15, 0},
		"array of numbers":     {hectest.Config{}, event, `{"event":1,"fields":{"a":[1]}}`, nil, 400, 15, 0},
		"token in the query":   {hectest.Config{}, event + "?token=x", good, nil, 400, 16, -1},
		"time that is none":    {hectest.Config{}, event, `{"event":1,"time":"noon"}`, nil, 400, 6, 0},
		"host that is none":    {hectest.Config{}, event, `{"event":1,"host":[1]}`, nil, 400, 6, 0},
		"too large":            {hectest.Config{MaxBody: 20}, event, good, nil, 413, -1, -1},
		"too large for Cloud":  {hectest.Config{CloudLimit: 20}, event, good, nil, 400, 6, 0},
		"GET":                  {hectest.Config{}, event, good, func(r *http.Request) { r.Method = http.MethodGet }, 405, -1, -1},
		"elsewhere":            {hectest.Config{}, "/services/other", good, nil, 404, -1, -1},
		"health, bad token":    {hectest.Config{}, "/services/collector/health", "", set("Authorization", "Splunk x"), 400, 21, -1},
		"health, off":          {hectest.Config{TokenDisabled: true}, "/services/collector/health", "", nil, 400, 22, -1},
		"healthy":              {hectest.Config{}, "/services/collector/health/1.0", "", nil, 200, 17, -1},
	} {
		t.Run(name, func(t *testing.T) {
			s := hectest.New(c.cfg)
			a := ask(t, s, c.path, c.body, c.change)
			object := -1
			if a.Object != nil {
				object = *a.Object
			}
			if a.status != c.status || a.Code != c.code || object != c.object {
				t.Errorf("%d code %d object %d, want %d code %d object %d", a.status, a.Code, object, c.status, c.code, c.object)
			}
			indexed := max(c.object, 0) // what stands before the refused one
			switch name {
			case "index":
				indexed = 1
			case "too large for Cloud":
				indexed = 0
			}
			if got := len(s.Events()); got != indexed {
				t.Errorf("%d events indexed, want %d", got, indexed)
			}
		})
	}
}

func TestIndexes(t *testing.T) {
	s := hectest.New(hectest.Config{Indexes: []string{"main"}})
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, _ = io.WriteString(w, `{"event":{"n":1},"time":1694860255.25,"host":"h","source":"s","sourcetype":"t","index":"main",`+
		`"fields":{"cwp_event_uid":"a","n":1,"b":true,"tags":["x"]}}`+"\n"+`{"event":"text","time":"1694860256","fields":{"cwp_event_uid":"b"}}`+good+good)
	_ = w.Close()
	a := ask(t, s, event, packed.String(), set("Content-Encoding", "gzip"))
	if a.status != 200 || a.Code != 0 || a.AckID != nil {
		t.Fatalf("%+v", a)
	}
	e := s.Events()[0]
	if e.UID != "a" || e.Time != "1694860255.25" || e.Host != "h" || e.Source != "s" || e.SourceType != "t" || e.Index != "main" ||
		string(e.Event) != `{"n":1}` || e.Channel != channel || e.Request != 1 {
		t.Errorf("event %+v", e)
	}
	if got, want := s.UIDs(), []string{"a", "b", "u1", "u1"}; !slices.Equal(got, want) {
		t.Errorf("indexed %v, want %v", got, want)
	}
	if s.Distinct() != 3 || s.Duplicates() != 1 || s.Requests(hectest.Events) != 1 {
		t.Errorf("%d different, %d duplicates, %d requests", s.Distinct(), s.Duplicates(), s.Requests(hectest.Events))
	}
	if wrong := s.Violations(); len(wrong) > 0 {
		t.Errorf("violations %q", wrong)
	}
}

// A collector answers 200 and loses the object with an unknown key and all after it.
func TestLosesUnknownKeys(t *testing.T) {
	s := hectest.New(hectest.Config{})
	a := ask(t, s, event, good+`{"event":1,"extra":1}`+good, nil)
	if a.status != 200 || a.Code != 0 || len(s.Events()) != 1 || len(s.Violations()) != 1 {
		t.Errorf("%+v, %d events, violations %q", a, len(s.Events()), s.Violations())
	}
}

func TestTakesNothingOfARefusedRequest(t *testing.T) {
	s := hectest.New(hectest.Config{TakesNothing: true})
	ask(t, s, event, good+`{"event":""}`, nil)
	if got := len(s.Events()); got != 0 {
		t.Errorf("%d events indexed, want 0", got)
	}
}

func TestAcknowledges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := hectest.New(hectest.Config{Ack: true, AckDelay: time.Second})
		s.Next(hectest.Fault{}, hectest.NeverAck())
		for want := range int64(3) {
			if a := ask(t, s, event, good, nil); a.AckID == nil || *a.AckID != want {
				t.Errorf("%+v, want id %d", a, want)
			}
		}
		other := set("X-Splunk-Request-Channel", strings.Replace(channel, "0a", "0b", 1))
		if a := ask(t, s, event, good, other); a.AckID == nil || *a.AckID != 0 {
			t.Errorf("%+v, want id 0 of another channel", a)
		}
		poll := func(change func(*http.Request), want map[string]bool) {
			t.Helper()
			a := ask(t, s, "/services/collector/ack", `{"acks":[0,1,2,9]}`, change)
			for id, told := range a.Acks {
				if told != want[id] {
					t.Errorf("id %s: %t, want %t", id, told, want[id])
				}
			}
			if len(a.Acks) != 4 {
				t.Errorf("%d ids answered, want 4", len(a.Acks))
			}
		}
		poll(nil, nil)
		time.Sleep(time.Second)
		poll(set("X-Splunk-Request-Channel", strings.Replace(channel, "0a", "0c", 1)), nil)
		poll(nil, map[string]bool{"0": true, "2": true})
		poll(nil, nil) // told once
		poll(other, map[string]bool{"0": true})
		time.Sleep(time.Hour)
		poll(nil, nil)
		s.Restart()
		if a := ask(t, s, event, good, nil); a.AckID == nil || *a.AckID != 0 {
			t.Errorf("%+v, want id 0 after a restart", a)
		}
	})
}

// A volatile collector has an event when it says so, and not before.
func TestRestartLosesWhatIsNotIndexed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []string
		s := hectest.New(hectest.Config{Ack: true, AckDelay: time.Second, Volatile: true, Take: func(e hectest.Event) { told = append(told, e.UID) }})
		put := func(uid string) *int64 {
			return ask(t, s, event, `{"event":"x","fields":{"cwp_event_uid":"`+uid+`"}}`, nil).AckID
		}
		put("kept")
		if n := s.Pending(); n != 1 || s.Distinct() != 0 {
			t.Errorf("%d pending, %d indexed, want 1 and 0", n, s.Distinct())
		}
		time.Sleep(time.Second)
		s.Next(hectest.NeverAck())
		put("never confirmed")
		id := put("lost")
		s.Restart()
		time.Sleep(time.Second)
		if acks := ask(t, s, "/services/collector/ack", `{"acks":[1,2]}`, nil).Acks; id == nil || *id != 2 || acks["1"] || acks["2"] {
			t.Errorf("id %v is confirmed after the restart: %v", id, acks)
		}
		if !slices.Equal(s.UIDs(), []string{"kept"}) || !slices.Equal(told, s.UIDs()) || s.Pending() != 0 {
			t.Errorf("indexed %v, told %v, pending %d", s.UIDs(), told, s.Pending())
		}
	})
}

func TestFaults(t *testing.T) {
	s := hectest.New(hectest.Config{})
	srv := httptest.NewServer(s)
	defer srv.Close()
	send := func() (int, error) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+event, strings.NewReader(good))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Splunk "+hectest.DefaultToken)
		r, err := srv.Client().Do(req)
		if err != nil {
			return 0, err
		}
		defer r.Body.Close()
		_, err = io.ReadAll(r.Body)
		return r.StatusCode, err
	}
	for name, c := range map[string]struct {
		fault   hectest.Fault
		status  int
		broken  bool
		indexed int
	}{
		"busy":               {hectest.Busy(), 503, false, 0},
		"internal":           {hectest.Internal(false), 500, false, 0},
		"internal, applied":  {hectest.Internal(true), 500, false, 1},
		"lost answer":        {hectest.LostAnswer(), 0, true, 1},
		"truncated":          {hectest.Truncated(), 200, true, 1},
		"too many":           {hectest.TooMany("3"), 429, false, 0},
		"bad gateway":        {hectest.BadGateway(), 502, false, 0},
		"slow":               {hectest.Slow(time.Millisecond), 200, false, 1},
		"dropped, unapplied": {hectest.Fault{Drop: true}, 0, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(s.Events())
			s.Next(c.fault)
			status, err := send()
			if status != c.status || (err != nil) != c.broken {
				t.Errorf("%d, %v, want %d, broken %t", status, err, c.status, c.broken)
			}
			if got := len(s.Events()) - before; got != c.indexed {
				t.Errorf("%d indexed, want %d", got, c.indexed)
			}
			if status, err := send(); status != 200 || err != nil {
				t.Errorf("after the fault: %d, %v", status, err)
			}
		})
	}
	s.Always(hectest.Busy())
	for range 3 {
		if status, _ := send(); status != 503 {
			t.Errorf("%d while always busy", status)
		}
	}
	s.Recover()
	if status, _ := send(); status != 200 {
		t.Errorf("%d after recovery", status)
	}
}

func TestBalancer(t *testing.T) {
	one, two := hectest.New(hectest.Config{}), hectest.New(hectest.Config{})
	for _, sticky := range []bool{true, false} {
		srv := httptest.NewServer(hectest.NewBalancer(sticky, one, two))
		defer srv.Close()
		before := [2]int{one.Requests(hectest.Health), two.Requests(hectest.Health)}
		var cookies []*http.Cookie
		for range 4 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+"/services/collector/health", nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range cookies {
				req.AddCookie(c)
			}
			r, err := srv.Client().Do(req)
			if err != nil {
				t.Fatal(err)
			}
			_ = r.Body.Close()
			cookies = append(cookies, r.Cookies()...)
		}
		got := [2]int{one.Requests(hectest.Health) - before[0], two.Requests(hectest.Health) - before[1]}
		want := map[bool][2]int{true: {4, 0}, false: {2, 2}}[sticky]
		if got != want {
			t.Errorf("sticky %t: requests %v, want %v", sticky, got, want)
		}
	}
}
