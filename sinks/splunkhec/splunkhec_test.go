package splunkhec_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
)

// memory is a network without sockets: it calls the handler.
type memory struct{ handler http.Handler }

func (m memory) RoundTrip(req *http.Request) (*http.Response, error) {
	type outcome struct {
		answer *http.Response
		err    error
	}
	done := make(chan outcome, 1)
	in := req.Clone(req.Context())
	if in.Body == nil {
		in.Body = http.NoBody
	}
	go func() {
		w := httptest.NewRecorder()
		defer func() {
			if recover() == nil {
				done <- outcome{answer: w.Result()}
				return
			}
			answer := w.Result()
			if answer.Header.Get("Content-Length") == "" {
				done <- outcome{err: errors.New("connection reset by peer")}
				return
			}
			answer.Body = io.NopCloser(io.MultiReader(answer.Body, broken{}))
			done <- outcome{answer: answer}
		}()
		m.handler.ServeHTTP(w, in)
	}()
	select {
	case o := <-done:
		return o.answer, o.err
	case <-req.Context().Done():
		return nil, context.Cause(req.Context())
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, io.ErrUnexpectedEOF }

// says answers every request with a status and a body.
func says(status int, body string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	})
}

// open makes a sink of a collector and closes it at the end of the test.
func open(t *testing.T, h http.Handler, cfg splunkhec.Config) *splunkhec.Sink {
	t.Helper()
	cfg.URL = "http://splunk.test:8088"
	if cfg.Token.IsZero() {
		cfg.Token = secret.New(hectest.DefaultToken)
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := splunkhec.NewWithTransport(cfg, memory{h})
	t.Cleanup(func() { _ = s.Close() })
	return s
}

// Every row of the table of codes, and what differs by configuration.
func TestCodes(t *testing.T) {
	const (
		ok       = sinks.Class(-1)
		retry    = sinks.ClassRetry
		tooLarge = sinks.ClassTooLarge
		poison   = sinks.ClassPoison
		halt     = sinks.ClassHalt
	)
	code := func(n int) string { return fmt.Sprintf(`{"text":"words of the server","code":%d}`, n) }
	numbered := func(n, object int) string {
		return fmt.Sprintf(`{"text":"words","code":%d,"invalid-event-number":%d}`, n, object)
	}
	fixed := splunkhec.Config{Index: "security"}
	on, off := splunkhec.Config{Ack: splunkhec.AckOn}, splunkhec.Config{Ack: splunkhec.AckOff}
	for name, c := range map[string]struct {
		status int
		body   string
		cfg    splunkhec.Config
		want   sinks.Class
		answer bool // it may be an event that causes it
		line   string
	}{
		"0 success":                    {200, code(0), splunkhec.Config{}, ok, false, "200 code=0"},
		"0 but ack on":                 {200, code(0), on, halt, true, "200 code=0"},
		"0 with ackId, ack off":        {200, `{"text":"Success","code":0,"ackId":7}`, off, ok, false, "200 code=0 ackId=7"},
		"1 token disabled":             {403, code(1), splunkhec.Config{}, halt, true, "403 code=1"},
		"2 token required":             {401, code(2), splunkhec.Config{}, halt, true, "401 code=2"},
		"3 invalid authorization":      {401, code(3), splunkhec.Config{}, halt, true, "401 code=3"},
		"4 invalid token":              {403, code(4), splunkhec.Config{}, halt, true, "403 code=4"},
		"5 no data":                    {400, code(5), splunkhec.Config{}, halt, true, "400 code=5"},
		"6 invalid format, alone":      {400, numbered(6, 0), splunkhec.Config{}, poison, true, "400 code=6 event=0"},
		"6 without number, alone":      {400, code(6), splunkhec.Config{}, poison, true, "400 code=6"},
		"7 index fixed":                {400, numbered(7, 1), fixed, halt, true, "400 code=7 event=1"},
		"7 index of the token":         {400, numbered(7, 1), splunkhec.Config{}, poison, true, "400 code=7 event=1"},
		"8 internal":                   {500, code(8), splunkhec.Config{}, retry, true, "500 code=8"},
		"9 busy":                       {503, code(9), splunkhec.Config{}, retry, false, "503 code=9"},
		"10 channel missing":           {400, code(10), splunkhec.Config{}, halt, true, "400 code=10"},
		"11 channel invalid":           {400, code(11), splunkhec.Config{}, halt, true, "400 code=11"},
		"12 event required":            {400, numbered(12, 0), splunkhec.Config{}, poison, true, "400 code=12 event=0"},
		"13 event blank":               {400, numbered(13, 0), splunkhec.Config{}, poison, true, "400 code=13 event=0"},
		"14 ack disabled, auto":        {400, code(14), splunkhec.Config{}, retry, false, "400 code=14"},
		"14 ack disabled, on":          {400, code(14), on, halt, true, "400 code=14"},
		"14 ack disabled, off":         {400, code(14), off, halt, true, "400 code=14"},
		"15 indexed fields":            {400, numbered(15, 0), splunkhec.Config{}, poison, true, "400 code=15 event=0"},
		"16 query string":              {400, code(16), splunkhec.Config{}, halt, true, "400 code=16"},
		"17 healthy is not delivered":  {200, code(17), splunkhec.Config{}, retry, true, "200 code=17"},
		"18 queues full":               {503, code(18), splunkhec.Config{}, retry, false, "503 code=18"},
		"19 ack unavailable":           {503, code(19), splunkhec.Config{}, retry, false, "503 code=19"},
		"20 both":                      {503, code(20), splunkhec.Config{}, retry, false, "503 code=20"},
		"21 invalid token":             {400, code(21), splunkhec.Config{}, halt, true, "400 code=21"},
		"22 token disabled":            {400, code(22), splunkhec.Config{}, halt, true, "400 code=22"},
		"23 shutting down":             {503, code(23), splunkhec.Config{}, retry, false, "503 code=23"},
		"24 queue filling":             {200, code(24), splunkhec.Config{}, ok, false, "200 code=24"},
		"25 ack filling":               {200, code(25), splunkhec.Config{}, ok, false, "200 code=25"},
		"26 queue full":                {429, code(26), splunkhec.Config{}, retry, false, "429 code=26"},
		"27 ack full":                  {429, code(27), splunkhec.Config{}, retry, false, "429 code=27"},
		"28 no sticky sessions":        {400, code(28), splunkhec.Config{}, halt, true, "400 code=28"},
		"99 unknown":                   {400, code(99), splunkhec.Config{}, retry, true, "400 code=99"},
		"99 unknown, forbidden":        {403, code(99), splunkhec.Config{}, halt, true, "403 code=99"},
		"0 with a failure's status":    {503, code(0), splunkhec.Config{}, retry, false, "503 code=0"},
		"0 with a refusal's status":    {403, code(0), splunkhec.Config{}, halt, true, "403 code=0"},
		"9 with a success's status":    {200, code(9), splunkhec.Config{}, retry, false, "200 code=9"},
		"200 page of a proxy":          {200, "<html>log in</html>", splunkhec.Config{}, retry, true, "200"},
		"200 empty":                    {200, "", splunkhec.Config{}, retry, true, "200"},
		"200 JSON of something else":   {200, `{"status":"ok"}`, splunkhec.Config{}, retry, true, "200"},
		"200 cut":                      {200, `{"text":"Success","code":0`, splunkhec.Config{}, retry, true, "200"},
		"204":                          {204, "", splunkhec.Config{}, retry, true, "204"},
		"301":                          {301, "moved", splunkhec.Config{}, halt, true, "301"},
		"400 page of a proxy":          {400, "<html>bad</html>", splunkhec.Config{}, retry, true, "400"},
		"404":                          {404, "not found", splunkhec.Config{}, halt, true, "404"},
		"405":                          {405, "", splunkhec.Config{}, halt, true, "405"},
		"408":                          {408, "", splunkhec.Config{}, retry, false, "408"},
		"413":                          {413, "too large", splunkhec.Config{}, tooLarge, true, "413"},
		"413 with a code":              {413, code(6), splunkhec.Config{}, tooLarge, true, "413 code=6"},
		"415":                          {415, "", splunkhec.Config{}, halt, true, "415"},
		"425":                          {425, "", splunkhec.Config{}, retry, false, "425"},
		"429":                          {429, "", splunkhec.Config{}, retry, false, "429"},
		"502 page of a proxy":          {502, "<html>bad gateway</html>", splunkhec.Config{}, retry, false, "502"},
		"503 page of a load balancer":  {503, "<html>no healthy target</html>", splunkhec.Config{}, retry, false, "503"},
		"504":                          {504, "", splunkhec.Config{}, retry, false, "504"},
		"code that is not a number":    {503, `{"code":"9"}`, splunkhec.Config{}, retry, false, "503"},
		"negative numbers":             {400, `{"code":6,"invalid-event-number":-1,"ackId":-4}`, splunkhec.Config{}, poison, true, "400 code=6"},
		"code with a fraction":         {503, `{"code":9.5}`, splunkhec.Config{}, retry, false, "503"},
		"words that are not one line":  {503, `{"text":"a\nb\u001b[31m\u202ec","code":9}`, splunkhec.Config{}, retry, false, "503 code=9"},
		"words that repeat the secret": {403, `{"text":"` + hectest.DefaultToken + ` is invalid","code":4}`, splunkhec.Config{}, halt, true, "403 code=4"},
	} {
		t.Run(name, func(t *testing.T) {
			receipt, err := open(t, says(c.status, c.body), c.cfg).Send(t.Context(), sinktest.Messages(1))
			if receipt.Answer != c.line {
				t.Errorf("answer %q, want %q", receipt.Answer, c.line)
			}
			if c.want == ok {
				if err != nil {
					t.Errorf("Send: %v", err)
				}
				return
			}
			if err == nil {
				t.Fatal("Send succeeded")
			}
			if got := sinks.ClassOf(err); got != c.want {
				t.Errorf("class %v of %q, want %v", got, err, c.want)
			}
			if got := sinks.IsAnswer(err); got != c.answer {
				t.Errorf("IsAnswer %t of %q, want %t", got, err, c.answer)
			}
			if strings.ContainsAny(err.Error(), "\r\n\x1b\u202e") || strings.Contains(err.Error(), hectest.DefaultToken) {
				t.Errorf("error is not fit to be shown: %q", err)
			}
		})
	}
}

func TestRetryAfterOfCodes(t *testing.T) {
	for _, code := range []int{8, 9, 18, 23, 26, 27} {
		h := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Retry-After", "17")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = fmt.Fprintf(w, `{"text":"later","code":%d}`, code)
		})
		_, err := open(t, h, splunkhec.Config{}).Send(t.Context(), sinktest.Messages(1))
		if got := sinks.RetryAfter(err); got != 17*time.Second {
			t.Errorf("code %d: waits %s, want 17s", code, got)
		}
	}
}

// bad makes messages of a batch such that the collector refuses them.
func bad(batch []sinks.Message, at ...int) []sinks.Message {
	for _, i := range at {
		batch[i].Body = []byte(`" "`)
	}
	return batch
}

func TestNamesTheRefusedEvent(t *testing.T) {
	for name, c := range map[string]struct{ n, at int }{
		"first": {5, 0}, "middle": {5, 2}, "last": {5, 4}, "of two": {2, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := open(t, hectest.New(hectest.Config{}), splunkhec.Config{}).
				Send(t.Context(), bad(sinktest.Messages(c.n), c.at))
			partial, ok := errors.AsType[*sinks.PartialError](err)
			if !ok {
				t.Fatalf("Send: %v, want a *sinks.PartialError", err)
			}
			got, want := map[int]sinks.Class{}, map[int]sinks.Class{}
			for i := range c.n {
				want[i] = sinks.ClassRetry // also those before it: nobody knows that they were taken
			}
			want[c.at] = sinks.ClassPoison
			for i, failed := range partial.Failed {
				got[i] = sinks.ClassOf(failed)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("classes (-want +got):\n%s", diff)
			}
		})
	}
}

// deliver does what the worker does: again without what was refused alone, in
// halves what is too large, until nothing is left. It returns the refused uids.
func deliver(t *testing.T, s sinks.Sink, batch []sinks.Message) []string {
	t.Helper()
	var refused []string
	todo := [][]sinks.Message{batch}
	for attempt := 0; len(todo) > 0; attempt++ {
		if attempt > 100 {
			t.Fatal("no end after 100 attempts")
		}
		now := todo[0]
		todo = todo[1:]
		_, err := s.Send(t.Context(), now)
		partial, isPartial := errors.AsType[*sinks.PartialError](err)
		switch {
		case err == nil:
		case isPartial:
			var again, suspects []sinks.Message
			for i, m := range now {
				switch failed, left := partial.Failed[i]; {
				case !left:
				case sinks.ClassOf(failed) == sinks.ClassPoison:
					suspects = append(suspects, m)
				default:
					again = append(again, m)
				}
			}
			for _, part := range [][]sinks.Message{again, suspects} {
				if len(part) > 0 {
					todo = append(todo, part)
				}
			}
		case sinks.ClassOf(err) == sinks.ClassTooLarge && len(now) > 1:
			todo = append(todo, now[:len(now)/2], now[len(now)/2:])
		case len(now) == 1 && sinks.ClassOf(err) != sinks.ClassRetry:
			refused = append(refused, now[0].Record.UID)
		default:
			todo = append(todo, now)
		}
	}
	return refused
}

func TestIsolatesRefusedEvents(t *testing.T) {
	collectors := map[string]hectest.Config{
		"splunk":               {},
		"takes all or nothing": {TakesNothing: true},
	}
	for name, c := range map[string]struct {
		n  int
		at []int
	}{
		"first": {7, []int{0}}, "middle": {7, []int{3}}, "last": {7, []int{6}}, "only": {1, []int{0}},
		"two": {7, []int{2, 5}}, "two at the ends": {7, []int{0, 6}}, "neighbours": {4, []int{1, 2}}, "all": {3, []int{0, 1, 2}}, "none": {4, nil},
	} {
		for kind, cfg := range collectors {
			t.Run(name+", "+kind, func(t *testing.T) {
				hec := hectest.New(cfg)
				batch := bad(sinktest.Messages(c.n), c.at...)
				refused := deliver(t, open(t, hec, splunkhec.Config{}), batch)
				var wantRefused, wantIndexed []string
				for i, uid := range sinktest.UIDs(batch) {
					if slices.Contains(c.at, i) {
						wantRefused = append(wantRefused, uid)
					} else {
						wantIndexed = append(wantIndexed, uid)
					}
				}
				slices.Sort(refused)
				slices.Sort(wantRefused)
				slices.Sort(wantIndexed)
				if diff := cmp.Diff(wantRefused, refused); diff != "" {
					t.Errorf("refused (-want +got):\n%s", diff)
				}
				indexed := slices.Compact(slices.Sorted(slices.Values(hec.UIDs())))
				if diff := cmp.Diff(wantIndexed, indexed); diff != "" {
					t.Errorf("indexed (-want +got):\n%s", diff)
				}
			})
		}
	}
}

func TestHalvesWhatItCannotTellApart(t *testing.T) {
	big := sinktest.Messages(2)
	big[1].Body = []byte(`{"text":"` + strings.Repeat("x", 5<<20) + `"}`)
	for name, c := range map[string]struct {
		body  string
		batch []sinks.Message
		want  sinks.Class
	}{
		"no number":                {`{"text":"","code":6}`, sinktest.Messages(4), sinks.ClassTooLarge},
		"number out of range":      {`{"text":"","code":15,"invalid-event-number":4}`, sinktest.Messages(4), sinks.ClassTooLarge},
		"number far out of range":  {`{"text":"","code":6,"invalid-event-number":4000000000}`, sinktest.Messages(4), sinks.ClassTooLarge},
		"first of a large request": {`{"text":"","code":6,"invalid-event-number":0}`, big, sinks.ClassTooLarge},
		"a large request alone":    {`{"text":"","code":6,"invalid-event-number":0}`, big[1:], sinks.ClassTooLarge},
		"index, no number":         {`{"text":"","code":7}`, sinktest.Messages(4), sinks.ClassTooLarge},
		"index, number 0":          {`{"text":"","code":7,"invalid-event-number":0}`, sinktest.Messages(4), sinks.ClassTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, says(400, c.body), splunkhec.Config{MaxBatchBytes: 64 << 20})
			_, err := s.Send(t.Context(), c.batch)
			if err == nil || sinks.ClassOf(err) != c.want {
				t.Errorf("class %v of %v, want %v", sinks.ClassOf(err), err, c.want)
			}
		})
	}
}

// Splunk Cloud names object 0 of a request that is too large for it.
func TestCloudLimit(t *testing.T) {
	hec := hectest.New(hectest.Config{CloudLimit: 5 << 20})
	batch := sinktest.Messages(12)
	for i := range batch {
		batch[i].Body = []byte(`{"text":"` + strings.Repeat("x", 600<<10) + `"}`)
	}
	s := open(t, hec, splunkhec.Config{MaxBatchBytes: 64 << 20})
	if refused := deliver(t, s, batch); len(refused) > 0 {
		t.Errorf("refused %v, want none", refused)
	}
	if got := hec.Distinct(); got != len(batch) {
		t.Errorf("indexed %d, want %d", got, len(batch))
	}
}

// The collector's number names the object after the one with the wrong index.
func TestIndexOfTheToken(t *testing.T) {
	s := open(t, says(400, `{"text":"Incorrect index","code":7,"invalid-event-number":2}`), splunkhec.Config{})
	_, err := s.Send(t.Context(), sinktest.Messages(4))
	partial, ok := errors.AsType[*sinks.PartialError](err)
	if !ok || len(partial.Failed) != 4 {
		t.Fatalf("Send: %v, want all of 4 not accepted", err)
	}
	for i, failed := range partial.Failed {
		if got, want := sinks.ClassOf(failed) == sinks.ClassPoison, i == 1; got != want {
			t.Errorf("record %d poison: %t, want %t", i, got, want)
		}
	}
}

func TestWrongIndexHalts(t *testing.T) {
	hec := hectest.New(hectest.Config{Indexes: []string{"main"}})
	_, err := open(t, hec, splunkhec.Config{Index: "security"}).Send(t.Context(), sinktest.Messages(3))
	if err == nil || sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("class %v of %v, want halt", sinks.ClassOf(err), err)
	}
}

// What goes on the wire is what a collector indexes, in order.
func TestRequests(t *testing.T) {
	for _, compression := range []string{splunkhec.CompressionGzip, splunkhec.CompressionNone} {
		t.Run(compression, func(t *testing.T) {
			hec := hectest.New(hectest.Config{Indexes: []string{"security"}})
			var headers []http.Header
			var urls []string
			watch := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				headers, urls = append(headers, r.Header.Clone()), append(urls, r.URL.String())
				hec.ServeHTTP(w, r)
			})
			s := open(t, watch, splunkhec.Config{
				Index: "security", Source: "a source", SourceType: "a type", Host: "a host", Compression: compression,
			})
			batch := sinktest.Messages(30)
			for half := range slices.Chunk(batch, 15) {
				if _, err := s.Send(t.Context(), half); err != nil {
					t.Fatal(err)
				}
			}
			if _, err := s.Probe(t.Context()); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(sinktest.UIDs(batch), hec.UIDs()); diff != "" {
				t.Errorf("indexed (-want +got):\n%s", diff)
			}
			if wrong := hec.Violations(); len(wrong) > 0 {
				t.Errorf("violations: %q", wrong)
			}
			for i, e := range hec.Events() {
				if e.Index != "security" || e.Source != "a source" || e.SourceType != "a type" || e.Host != "a host" {
					t.Errorf("event %d has index %q, source %q, sourcetype %q, host %q", i, e.Index, e.Source, e.SourceType, e.Host)
				}
				if !bytes.Equal(e.Event, batch[i].Body) {
					t.Errorf("event %d is %s, want %s", i, e.Event, batch[i].Body)
				}
			}
			want := map[string]string{splunkhec.CompressionGzip: "gzip", splunkhec.CompressionNone: ""}[compression]
			if got := headers[0].Get("Content-Encoding"); got != want {
				t.Errorf("Content-Encoding %q, want %q", got, want)
			}
			for i, h := range headers {
				if got := h.Get("X-Splunk-Request-Channel"); got == "" || got != headers[0].Get("X-Splunk-Request-Channel") {
					t.Errorf("request %d: channel %q, want that of the first", i, got)
				}
				if strings.Contains(urls[i], hectest.DefaultToken) {
					t.Errorf("token in the address %s", urls[i])
				}
			}
		})
	}
}

// An event whose answer was lost is sent again and indexed again, with the
// same uid.
func TestLostAnswer(t *testing.T) {
	for name, fault := range map[string]hectest.Fault{
		"connection cut": hectest.LostAnswer(),
		"answer cut":     hectest.Truncated(),
		"internal error": hectest.Internal(true),
	} {
		t.Run(name, func(t *testing.T) {
			hec := hectest.New(hectest.Config{})
			hec.Next(fault)
			s := splunkhec.New(splunkhec.Config{URL: serve(t, hec), Token: secret.New(hectest.DefaultToken)}, "splunk")
			defer s.Close()
			batch := sinktest.Messages(3)
			if _, err := s.Send(t.Context(), batch); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
				t.Fatalf("class %v of %v, want retry", sinks.ClassOf(err), err)
			}
			if _, err := s.Send(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			if got, want := hec.UIDs(), append(sinktest.UIDs(batch), sinktest.UIDs(batch)...); !slices.Equal(got, want) {
				t.Errorf("indexed %v, want %v", got, want)
			}
		})
	}
}

func TestFaultsThatTakeNothing(t *testing.T) {
	for name, fault := range map[string]hectest.Fault{
		"busy": hectest.Busy(), "internal": hectest.Internal(false), "too many": hectest.TooMany("3"), "bad gateway": hectest.BadGateway(),
	} {
		hec := hectest.New(hectest.Config{})
		hec.Next(fault)
		s := open(t, hec, splunkhec.Config{})
		if _, err := s.Send(t.Context(), sinktest.Messages(2)); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
			t.Errorf("%s: class %v of %v, want retry", name, sinks.ClassOf(err), err)
		}
		if _, err := s.Send(t.Context(), sinktest.Messages(2)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := len(hec.Events()); got != 2 {
			t.Errorf("%s: %d events indexed, want 2", name, got)
		}
	}
}

func TestSlowsDown(t *testing.T) {
	const ready = `{"text":"","code":%d,"ackId":%d}`
	code, id := 0, 0
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/ack") {
			_, _ = fmt.Fprintf(w, `{"acks":{"%d":true}}`, id-1)
			return
		}
		_, _ = fmt.Fprintf(w, ready, code, id)
		id++
	})
	synctest.Test(t, func(t *testing.T) {
		s := open(t, h, splunkhec.Config{Window: 8})
		for _, step := range []struct{ code, window int }{{0, 8}, {24, 1}, {0, 8}, {25, 1}, {0, 8}} {
			code = step.code
			if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
				t.Fatal(err)
			}
			if got := s.Window(); got != step.window {
				t.Errorf("window %d after code %d, want %d", got, step.code, step.window)
			}
		}
	})
}

func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		status int
		body   string
		want   sinks.Class
		line   string
	}{
		"healthy":         {200, `{"text":"HEC is healthy","code":17}`, -1, "200 code=17 HEC is healthy"},
		"queues full":     {503, `{"text":"HEC is unhealthy, queues are full","code":18}`, sinks.ClassRetry, "503 code=18"},
		"ack unavailable": {503, `{"code":19}`, sinks.ClassRetry, "503 code=19"},
		"both":            {503, `{"code":20}`, sinks.ClassRetry, "503 code=20"},
		"invalid token":   {400, `{"code":21}`, sinks.ClassHalt, "400 code=21"},
		"token disabled":  {400, `{"code":22}`, sinks.ClassHalt, "400 code=22"},
		"shutting down":   {503, `{"code":23}`, sinks.ClassRetry, "503 code=23"},
		"no such address": {404, `not here`, sinks.ClassHalt, "404"},
		"page of a proxy": {200, `<html></html>`, sinks.ClassRetry, "200"},
	} {
		t.Run(name, func(t *testing.T) {
			answer, err := open(t, says(c.status, c.body), splunkhec.Config{}).Probe(t.Context())
			if answer != c.line {
				t.Errorf("answer %q, want %q", answer, c.line)
			}
			if (err == nil) != (c.want == -1) || err != nil && sinks.ClassOf(err) != c.want {
				t.Errorf("class %v of %v, want %v", sinks.ClassOf(err), err, c.want)
			}
		})
	}
	hec := hectest.New(hectest.Config{Token: "another"})
	if _, err := open(t, hec, splunkhec.Config{}).Probe(t.Context()); sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("wrong token: class %v of %v, want halt", sinks.ClassOf(err), err)
	}
}

// A request stays under the configured size as long as it has two records.
func TestSizeOfRequests(t *testing.T) {
	var sizes []int
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		sizes = append(sizes, len(body))
		_, _ = io.WriteString(w, `{"text":"Success","code":0}`)
	})
	cfg := splunkhec.Config{MaxBatchBytes: 64 << 10, MaxBatchRecords: 70, Compression: splunkhec.CompressionNone}
	s := open(t, h, cfg)
	if got, want := s.Limits(), (sinks.Limits{Records: 70, Bytes: 48 << 10}); got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
	if _, err := s.Send(t.Context(), sinktest.Messages(1000)); sinks.ClassOf(err) != sinks.ClassTooLarge {
		t.Errorf("class %v of %v, want too large", sinks.ClassOf(err), err)
	}
	if len(sizes) > 0 {
		t.Errorf("sent a request of %d bytes", sizes[0])
	}
	one := sinktest.Messages(1)
	one[0].Body = []byte(`{"text":"` + strings.Repeat("x", 70<<10) + `"}`)
	if _, err := s.Send(t.Context(), one); err != nil {
		t.Errorf("a large record alone is for the collector to judge: %v", err)
	}
}

func TestRecordWithoutEnvelope(t *testing.T) {
	hec := hectest.New(hectest.Config{})
	s := open(t, hec, splunkhec.Config{})
	batch := sinktest.Messages(3)
	batch[1].Body = []byte("no JSON")
	if refused := deliver(t, s, batch); !slices.Equal(refused, []string{batch[1].Record.UID}) {
		t.Errorf("refused %v, want the record that is not JSON", refused)
	}
	if got := hec.Distinct(); got != 2 {
		t.Errorf("indexed %d, want 2", got)
	}
}

func TestBaseURL(t *testing.T) {
	for text, want := range map[string]string{
		"https://splunk:8088":                               "https://splunk:8088",
		"https://splunk:8088/":                              "https://splunk:8088",
		"https://splunk:8088/services/collector":            "https://splunk:8088",
		"https://splunk:8088/services/collector/":           "https://splunk:8088",
		"https://splunk:8088/services/collector/event":      "https://splunk:8088",
		"https://splunk:8088/services/collector/event/1.0":  "https://splunk:8088",
		"https://splunk:8088/services/collector/raw":        "https://splunk:8088",
		"https://splunk:8088/services/collector/raw/1.0":    "https://splunk:8088",
		"https://splunk:8088/services/collector/health/1.0": "https://splunk:8088",
		"https://gate/splunk/services/collector":            "https://gate/splunk",
		"https://gate/a%2Fb/services/collector":             "https://gate/a%2Fb",
		"http://[::1]:8088/services/collector":              "http://[::1]:8088",
		"https://gate/event":                                "https://gate/event",
		"https://gate/team/raw":                             "https://gate/team/raw",
	} {
		if got, err := splunkhec.BaseURL(text); got != want || err != nil {
			t.Errorf("%s: %q, %v, want %q", text, got, err, want)
		}
	}
	for _, text := range []string{
		"", "splunk:8088", "ftp://splunk", "https://", "https://:8088", "https://user:pass@splunk", "https://splunk?token=geheim",
		"https://splunk/#x", "https://spl unk", "https://splunk:geheim",
	} {
		if got, err := splunkhec.BaseURL(text); err == nil || !strings.HasPrefix(err.Error(), "url: ") {
			t.Errorf("%s: %q, %v, want an error about url", text, got, err)
		} else if strings.Contains(err.Error(), "geheim") {
			t.Errorf("the error shows the address: %v", err)
		}
	}
}

func TestValidateReportsEveryMistake(t *testing.T) {
	cfg := splunkhec.Config{
		URL: "splunk", Token: secret.New("geheim geheim"), Ack: "maybe", Window: -1, AckTimeout: time.Millisecond,
		Compression: "deflate", CompressionLevel: 11, MaxBatchBytes: 5, MaxBatchRecords: -2,
		Proxy: secret.New("geheim:3128"),
	}
	cfg.TLS.CertFile = "cert.pem"
	err := cfg.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	var keys []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, _, _ := strings.Cut(line, ":")
		keys = append(keys, key)
	}
	want := []string{
		"url", "token", "ack", "window", "ack_timeout", "compression", "compression_level",
		"max_batch_bytes", "max_batch_records", "proxy", "tls.key_file",
	}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
	if strings.Contains(err.Error(), "geheim") {
		t.Errorf("shows a secret: %v", err)
	}
	good := splunkhec.Config{URL: "https://splunk:8088", Token: secret.New("t")}
	if err := good.Validate(); err != nil {
		t.Errorf("the least configuration: %v", err)
	}
	if err := (splunkhec.Config{}).Validate(); err == nil || !strings.Contains(err.Error(), "token: required") {
		t.Errorf("empty configuration: %v", err)
	}
}

// Hostile answers: whatever the body, nothing but a collector's success is
// taken as one, and numbers stay in their range.
func FuzzAnswer(f *testing.F) {
	for _, body := range []string{
		`{"text":"Success","code":0}`, `{"text":"Success","code":0,"ackId":7}`, `{"code":6,"invalid-event-number":3}`,
		`{"code":null}`, `{"code":-1}`, `{"code":1e3}`, `{"CODE":0}`, `[]`, `null`, `"ok"`, ``, `{"code":0,"code":9}`,
		`{"code":0,"ackId":9223372036854775808}`, "{\"code\":0}\x00", "\xff\xfe", `{"code":24,"ackId":-1}`,
	} {
		f.Add(200, []byte(body))
		f.Add(400, []byte(body))
	}
	f.Fuzz(func(t *testing.T, status int, body []byte) {
		p := splunkhec.Parse(status, body)
		if p.Accepted && (status < 200 || status > 299 || !slices.Contains([]int{0, 24, 25}, p.Code)) {
			t.Errorf("%d %q was taken as a success: %+v", status, body, p)
		}
		if p.Accepted && !strings.Contains(string(body), strconv.Itoa(p.Code)) && !bytes.ContainsAny(body, "0123456789") {
			t.Errorf("a success out of nothing: %q", body)
		}
		if p.Code < -1 || p.Invalid < -1 || p.AckID < -1 {
			t.Errorf("numbers out of range: %+v", p)
		}
		if strings.ContainsFunc(p.Line, func(r rune) bool { return r < ' ' || r > '~' }) {
			t.Errorf("line %q", p.Line)
		}
	})
}

func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}
