package emulator_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// A request is one signed request, with what the tests vary.
type request struct {
	action, version, service, id, key, token, body string

	method, contentType string
	at                  time.Time
	unsigned            bool
}

func (q request) build(t *testing.T, base string) *http.Request {
	t.Helper()
	def := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	def(&q.action, "DescribeRiskProcessEvents")
	def(&q.version, "2018-02-28")
	def(&q.service, "cwp")
	def(&q.id, emulator.DefaultSecretID)
	def(&q.key, emulator.DefaultSecretKey)
	def(&q.method, http.MethodPost)
	def(&q.contentType, "application/json")
	def(&q.body, "{}")
	if q.at.IsZero() {
		q.at = time.Now()
	}
	r := httptest.NewRequest(q.method, base+"/", strings.NewReader(q.body))
	r.RequestURI = ""
	set := func(name, value string) {
		if value != "" && value != "-" {
			r.Header.Set(name, value)
		}
	}
	set("Content-Type", q.contentType)
	set("X-TC-Action", q.action)
	set("X-TC-Version", q.version)
	if q.service == "sts" {
		set("X-TC-Region", "ap-guangzhou")
	}
	set("X-TC-Timestamp", strconv.FormatInt(q.at.Unix(), 10))
	set("X-TC-Token", q.token)
	if q.unsigned {
		return r
	}
	hash := func(s string) string { sum := sha256.Sum256([]byte(s)); return hex.EncodeToString(sum[:]) }
	canonical := q.method + "\n/\n\ncontent-type:" + q.contentType + "\nhost:" + r.Host + "\n\ncontent-type;host\n" + hash(q.body)
	scope := q.at.UTC().Format("2006-01-02") + "/" + q.service + "/tc3_request"
	key := []byte("TC3" + q.key)
	for _, part := range []string{
		q.at.UTC().Format("2006-01-02"), q.service, "tc3_request",
		"TC3-HMAC-SHA256\n" + strconv.FormatInt(q.at.Unix(), 10) + "\n" + scope + "\n" + hash(canonical),
	} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	r.Header.Set("Authorization", "TC3-HMAC-SHA256 Credential="+q.id+"/"+scope+", SignedHeaders=content-type;host, Signature="+hex.EncodeToString(key))
	return r
}

// A reply is an answer of the API.
type reply struct {
	Response struct {
		Error      *struct{ Code, Message string }
		TotalCount *int
		List       []json.RawMessage
		AccountID  string
		RequestID  string
	}
	raw    string
	status int
	header http.Header
}

func (p reply) code() string {
	if p.Response.Error == nil {
		return "ok"
	}
	return p.Response.Error.Code
}

// do asks the server without a network.
func do(t *testing.T, s *emulator.Server, q request) reply {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, q.build(t, "http://cwp.tencentcloudapi.com"))
	p := reply{raw: w.Body.String(), status: w.Code, header: w.Header()}
	if w.Header().Get("Content-Type") == "application/json" {
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Fatalf("%s: %v", p.raw, err)
		}
	}
	return p
}

func config() emulator.Config { return emulator.Config{Events: 30, Limit: 1000} }

func TestChecksWhoAsks(t *testing.T) {
	for name, c := range map[string]struct {
		cfg  emulator.Config
		q    request
		want string
	}{
		"right":                   {config(), request{}, "ok"},
		"wrong key":               {config(), request{key: "other"}, "AuthFailure.SignatureFailure"},
		"wrong id":                {config(), request{id: "AKIDother"}, "AuthFailure.SecretIdNotFound"},
		"signed for another":      {config(), request{service: "sts", version: "2018-08-13", action: "GetCallerIdentity"}, "ok"},
		"unsigned":                {config(), request{unsigned: true}, "MissingParameter"},
		"five minutes old":        {config(), request{at: time.Now().Add(-5*time.Minute - 2*time.Second)}, "AuthFailure.SignatureExpire"},
		"five minutes early":      {config(), request{at: time.Now().Add(5*time.Minute + 2*time.Second)}, "AuthFailure.SignatureExpire"},
		"four minutes old":        {config(), request{at: time.Now().Add(-4 * time.Minute)}, "ok"},
		"against a clock ahead":   {emulator.Config{ClockSkew: time.Hour}, request{}, "AuthFailure.SignatureExpire"},
		"with a clock ahead":      {emulator.Config{ClockSkew: time.Hour}, request{at: time.Now().Add(time.Hour)}, "ok"},
		"token that nobody gave":  {config(), request{token: "t"}, "AuthFailure.TokenFailure"},
		"token":                   {emulator.Config{Token: secret.New("t")}, request{token: "t"}, "ok"},
		"token missing":           {emulator.Config{Token: secret.New("t")}, request{}, "AuthFailure.TokenFailure"},
		"own credentials":         {emulator.Config{SecretID: "a", SecretKey: secret.New("b")}, request{id: "a", key: "b"}, "ok"},
		"unknown action":          {config(), request{action: "DescribeMachines"}, "InvalidAction"},
		"action of other service": {config(), request{action: "GetCallerIdentity"}, "InvalidAction"},
		"no action":               {config(), request{action: "-"}, "MissingParameter"},
		"wrong version":           {config(), request{version: "2017-01-01"}, "NoSuchVersion"},
		"no version":              {config(), request{version: "-"}, "MissingParameter"},
		"unknown service":         {config(), request{service: "cvm"}, "NoSuchProduct"},
		"GET":                     {config(), request{method: http.MethodGet}, "UnsupportedProtocol"},
		"a form":                  {config(), request{contentType: "application/x-www-form-urlencoded"}, "InvalidRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			p := do(t, emulator.New(c.cfg), c.q)
			if p.code() != c.want || p.status != http.StatusOK {
				t.Errorf("HTTP %d %s, want %s", p.status, p.raw, c.want)
			}
			if !regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`).MatchString(p.Response.RequestID) {
				t.Errorf("request id %q", p.Response.RequestID)
			}
		})
	}
}

func TestAnswersParameters(t *testing.T) {
	s := emulator.New(config())
	for name, c := range map[string]struct{ body, want string }{
		"nothing":           {`{}`, "ok"},
		"all":               {`{"Limit":1,"Offset":2,"By":"StartTime","Order":"ASC","Filters":[{"Name":"Status","Values":["0"],"ExactMatch":false}]}`, "ok"},
		"unknown parameter": {`{"MemberId":["x"]}`, "UnknownParameter"},
		"text for a number": {`{"Limit":"10"}`, "InvalidParameter"},
		"number as value":   {`{"Filters":[{"Name":"Status","Values":[0]}]}`, "InvalidParameter"},
		"too many":          {`{"Limit":101}`, "InvalidParameter"},
		"not JSON":          {`{`, "InvalidRequest"},
		"a list":            {`[]`, "InvalidRequest"},
	} {
		t.Run(name, func(t *testing.T) {
			if p := do(t, s, request{body: c.body}); p.code() != c.want {
				t.Errorf("%s gives %s, want %s", c.body, p.raw, c.want)
			}
		})
	}
	p := do(t, s, request{body: `{"Limit":7}`})
	if len(p.Response.List) != 7 || p.Response.TotalCount == nil || *p.Response.TotalCount != 30 {
		t.Errorf("%d items of %v", len(p.Response.List), p.Response.TotalCount)
	}
	if p := do(t, s, request{body: `{"Offset":30}`}); !strings.Contains(p.raw, `"List":[]`) {
		t.Errorf("nothing left: %s", p.raw)
	}
	null := config()
	null.Quirks.NullWhenEmpty = true
	if p := do(t, emulator.New(null), request{body: `{"Offset":30}`}); !strings.Contains(p.raw, `"List":null`) {
		t.Errorf("nothing left: %s", p.raw)
	}
	none := config()
	none.Quirks.NoTotal = true
	if p := do(t, emulator.New(none), request{}); p.Response.TotalCount != nil {
		t.Errorf("has a TotalCount: %s", p.raw)
	}
}

func TestSaysWhoseKeysTheyAre(t *testing.T) {
	s := emulator.New(emulator.Config{Account: "100000000042"})
	if p := do(t, s, request{service: "sts", version: "2018-08-13", action: "GetCallerIdentity"}); p.Response.AccountID != "100000000042" {
		t.Error(p.raw)
	}
}

func TestDateBearsTheSkew(t *testing.T) {
	p := do(t, emulator.New(emulator.Config{ClockSkew: -7 * time.Minute}), request{})
	date, err := http.ParseTime(p.header.Get("Date"))
	if err != nil {
		t.Fatal(err)
	}
	if off := time.Since(date); off < 7*time.Minute || off > 8*time.Minute {
		t.Errorf("Date is %s behind, want 7m", off)
	}
}

// At most the limit in any second, for each credential and action alone.
func TestRateLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emulator.New(emulator.Config{Events: 1})
		ask := func(n int) map[string]int {
			codes := map[string]int{}
			for range n {
				p := do(t, s, request{})
				codes[p.code()]++
				if p.code() != "ok" && !strings.Contains(p.Response.Error.Message, "`21` in a second, which exceeds the frequency limit `20`") {
					t.Error(p.raw)
				}
			}
			return codes
		}
		want := func(got, want map[string]int) {
			t.Helper()
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		}
		want(ask(15), map[string]int{"ok": 15})
		time.Sleep(700 * time.Millisecond)
		want(ask(8), map[string]int{"ok": 5, "RequestLimitExceeded": 3})
		if p := do(t, s, request{service: "sts", version: "2018-08-13", action: "GetCallerIdentity"}); p.code() != "ok" {
			t.Errorf("another action: %s", p.raw)
		}
		time.Sleep(299 * time.Millisecond)
		want(ask(1), map[string]int{"RequestLimitExceeded": 1})
		time.Sleep(time.Millisecond) // a second after the first fifteen
		want(ask(16), map[string]int{"ok": 15, "RequestLimitExceeded": 1})
		if got := s.Stats().Requests["RequestLimitExceeded"]; got != 5 {
			t.Errorf("counted %d refusals, want 5", got)
		}
	})
}

func TestFaultsWithoutANetwork(t *testing.T) {
	for fault, holds := range map[string]func(reply) bool{
		"not_json=1":                  func(p reply) bool { return p.status == http.StatusOK && strings.HasPrefix(p.raw, "<html>") },
		"server_error=1":              func(p reply) bool { return p.status >= 500 && p.status <= 504 },
		"empty_list=1":                func(p reply) bool { return strings.Contains(p.raw, `"TotalCount":0,"List":[]`) },
		"null_list=1":                 func(p reply) bool { return strings.Contains(p.raw, `"TotalCount":0,"List":null`) },
		"ignore_filter=1":             func(p reply) bool { return *p.Response.TotalCount == 30 && len(p.Response.List) == 10 },
		"InternalError=1":             func(p reply) bool { return p.code() == "InternalError" && p.status == http.StatusOK },
		"InternalError.MainDBFail=1":  func(p reply) bool { return p.code() == "InternalError.MainDBFail" },
		"reset=0,null_list=0,Other=0": func(p reply) bool { return p.code() == "ok" && *p.Response.TotalCount == 0 },
	} {
		t.Run(fault, func(t *testing.T) {
			cfg := config()
			if err := cfg.Faults.UnmarshalText([]byte(fault)); err != nil {
				t.Fatal(err)
			}
			p := do(t, emulator.New(cfg), request{body: `{"Filters":[{"Name":"HostId","Values":["nobody"]}]}`})
			if !holds(p) {
				t.Errorf("HTTP %d %s", p.status, p.raw)
			}
		})
	}
}

func TestWrongTotalIsWrong(t *testing.T) {
	cfg := config()
	cfg.Faults.WrongTotal = 1
	s := emulator.New(cfg)
	for range 100 {
		if p := do(t, s, request{}); *p.Response.TotalCount == 30 || *p.Response.TotalCount < 20 || *p.Response.TotalCount > 40 {
			t.Fatalf("TotalCount %d of 30", *p.Response.TotalCount)
		}
	}
}

func TestFaultsOfTheConnection(t *testing.T) {
	for name, c := range map[string]struct {
		faults emulator.Faults
		holds  func(error) bool
	}{
		"reset":    {emulator.Faults{Reset: 1}, func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }},
		"truncate": {emulator.Faults{Truncate: 1}, func(err error) bool { return errors.Is(err, io.ErrUnexpectedEOF) }},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config()
			cfg.Faults = c.faults
			s := emulator.New(cfg)
			srv := httptest.NewServer(s)
			defer srv.Close()
			resp, err := srv.Client().Do(request{}.build(t, srv.URL))
			if err == nil {
				_, err = io.ReadAll(resp.Body)
				resp.Body.Close()
			}
			if err == nil || !c.holds(err) {
				t.Errorf("%v", err)
			}
			if s.Stats().Requests["fault."+name] != 1 {
				t.Errorf("counted %v", s.Stats().Requests)
			}
		})
	}
}

// Faults come as often as was asked for, and the same seed gives them again.
func TestFaultsAreDrawnBySeed(t *testing.T) {
	run := func(seed uint64) []string {
		s := emulator.New(emulator.Config{Seed: seed, Events: 1, Limit: 10000, Faults: emulator.Faults{
			NotJSON: 0.1, EmptyList: 0.2, Codes: map[string]float64{"InternalError": 0.05, "RequestLimitExceeded": 0.15},
		}})
		var codes []string
		for range 2000 {
			p := do(t, s, request{})
			switch {
			case strings.HasPrefix(p.raw, "<html>"):
				codes = append(codes, "not JSON")
			case strings.Contains(p.raw, `"List":[]`):
				codes = append(codes, "empty")
			default:
				codes = append(codes, p.code())
			}
		}
		return codes
	}
	first := run(3)
	if !slices.Equal(first, run(3)) {
		t.Error("the same seed gives other faults")
	}
	if slices.Equal(first, run(4)) {
		t.Error("another seed gives the same faults")
	}
	counts := map[string]int{}
	for _, code := range first {
		counts[code]++
	}
	for code, want := range map[string]int{"not JSON": 200, "empty": 400, "InternalError": 100, "RequestLimitExceeded": 300, "ok": 1000} {
		if got := counts[code]; got < want*7/10 || got > want*13/10 {
			t.Errorf("%s: %d of 2000, want about %d", code, got, want)
		}
	}
}

func TestLatency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Faults = emulator.Faults{Latency: time.Second, Jitter: time.Second}
		s := emulator.New(cfg)
		least, most := time.Hour, time.Duration(0)
		for range 100 {
			began := time.Now()
			if p := do(t, s, request{at: began}); p.code() != "ok" {
				t.Fatal(p.raw)
			}
			least, most = min(least, time.Since(began)), max(most, time.Since(began))
		}
		if least < time.Second || least > 1100*time.Millisecond || most < 1900*time.Millisecond || most > 2*time.Second {
			t.Errorf("took from %s to %s, want 1s to 2s", least, most)
		}
	})
}

func TestRunChangesTheListAtItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config()
		cfg.Events, cfg.Rate = 2000, 50
		s := emulator.New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		operations := func() int {
			sum := 0
			for _, n := range s.Stats().Ops {
				sum += n
			}
			return sum
		}
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if n := operations(); n < 498 || n > 500 {
			t.Errorf("%d operations in ten seconds, want 500", n)
		}
		s.SetRate(0)
		before := s.World().Tick()
		time.Sleep(10 * time.Second)
		if s.World().Tick() != before {
			t.Error("the list changes at rate 0")
		}
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestChangesBearThePresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := emulator.New(config())
		time.Sleep(time.Hour)
		s.Change(func(w *emulator.World) { mustInsert(t, w, emulator.Event{ID: 24}) })
		now := time.Now()
		if from, to := s.World().Window(now.Add(-time.Second), now); from != 0 || to != 1 {
			t.Errorf("the change was at tick %d to %d of the last second, want 0 to 1", from, to)
		}
		w := list(t, s.World(), emulator.Request{By: "DetectTime", Limit: new(1)})
		if want := now.UTC().Add(8 * time.Hour).Format("2006-01-02 15:04:05"); w.Rows[0].Detect != want {
			t.Errorf("detected at %s, want %s in the API's zone", w.Rows[0].Detect, want)
		}
	})
}

// control asks an endpoint that the real API does not have.
func control(t *testing.T, s *emulator.Server, method, target, body string, to any) int {
	t.Helper()
	w := httptest.NewRecorder()
	s.ServeHTTP(w, httptest.NewRequest(method, target, strings.NewReader(body)))
	if w.Code == http.StatusOK {
		if err := json.Unmarshal(w.Body.Bytes(), to); err != nil {
			t.Fatalf("%s: %v", w.Body, err)
		}
	}
	return w.Code
}

type truth struct {
	From, To uint64
	Pairs    []emulator.Pair
}

func TestControlOfTheList(t *testing.T) {
	s := emulator.New(emulator.Config{Limit: 1000})
	var changed struct {
		IDs     []string
		Changed int
		Tick    uint64
	}
	began := time.Now()
	control(t, s, "POST", "/-/mutate", `{"insert":[{"id":24},{"id":25,"status":2}],"burst":120,"json":[{"EventId":7,"HandleStatus":0}]}`, &changed)
	if len(changed.IDs) != 123 || !slices.Contains(changed.IDs, "24") || !slices.Contains(changed.IDs, "7") {
		t.Fatalf("%+v", changed)
	}
	between := time.Now()
	control(t, s, "POST", "/-/mutate", `{"status":{"24":3},"redetect":["25"],"flap":["25"],"delete":["7"],"op":"insert","steps":3}`, &changed)
	if changed.Changed != 4 && changed.Changed != 3 { // redetected within the same second: its time stays
		t.Errorf("%+v", changed)
	}
	var now, then truth
	control(t, s, "GET", "/-/truth", "", &now)
	if slices.Contains(now.Pairs, emulator.Pair{ID: "7", Status: "0"}) || !slices.Contains(now.Pairs, emulator.Pair{ID: "24", Status: "3"}) {
		t.Errorf("%d pairs, not as changed", len(now.Pairs))
	}
	control(t, s, "GET", "/-/truth?from="+strconv.FormatInt(between.UnixNano(), 10)+"&to="+url.QueryEscape(between.Format(time.RFC3339Nano)), "", &then)
	if len(then.Pairs) != 123 || !slices.Contains(then.Pairs, emulator.Pair{ID: "7", Status: "0"}) {
		t.Errorf("%d pairs between the changes, want 123", len(then.Pairs))
	}
	control(t, s, "GET", "/-/truth?from="+strconv.FormatInt(began.UnixNano(), 10), "", &then)
	if len(then.Pairs) != 0 {
		t.Errorf("%d pairs from before the first change on", len(then.Pairs))
	}

	rate := []string{`{"rate":-1}`, `{"op":"nothing"}`, `{"steps":-1}`, `{"insert":[{"id":24}]}`, `{"typo":1}`, `{`}
	for _, body := range rate {
		if code := control(t, s, "POST", "/-/mutate", body, &changed); code != http.StatusBadRequest {
			t.Errorf("%s: HTTP %d", body, code)
		}
	}
	for _, target := range []string{"/-/nothing", "/-/mutate"} {
		if code := control(t, s, "GET", target, "", &changed); code != http.StatusNotFound {
			t.Errorf("GET %s: HTTP %d", target, code)
		}
	}
	if code := control(t, s, "GET", "/-/truth?from=yesterday", "", &now); code != http.StatusBadRequest {
		t.Errorf("yesterday: HTTP %d", code)
	}
}

func TestControlFindsLies(t *testing.T) {
	s := emulator.New(config())
	p := do(t, s, request{body: `{"Limit":5,"By":"DetectTime"}`})
	var lines bytes.Buffer
	for _, raw := range p.Response.List {
		var record struct {
			EventID      json.Number
			HandleStatus json.Number
		}
		if err := json.Unmarshal(raw, &record); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(&lines, "{\"id\":%q,\"raw\":%s}\n{\"id\":%q,\"status\":%q}\n\n", record.EventID, raw, record.EventID, record.HandleStatus)
	}
	lines.WriteString(`{"id":"1","raw":{"EventId":1}}` + "\n" + `{"id":"2","status":"0"}`)
	var got struct {
		Checked int
		Never   []string
	}
	control(t, s, "POST", "/-/truth", lines.String(), &got)
	if diff := cmp.Diff([]string{"1", "2"}, got.Never); diff != "" || got.Checked != 12 {
		t.Errorf("checked %d (-want +got):\n%s", got.Checked, diff)
	}
}

func TestControlOfFaultsAndCredentials(t *testing.T) {
	s := emulator.New(config())
	var now struct {
		Faults string
		Quirks emulator.Quirks
	}
	control(t, s, "POST", "/-/faults", `{"faults":"InternalError=1,latency=0s","quirks":{"no_total":true}}`, &now)
	if now.Faults != "InternalError=1" || !now.Quirks.NoTotal {
		t.Errorf("%+v", now)
	}
	if p := do(t, s, request{}); p.code() != "InternalError" {
		t.Error(p.raw)
	}
	control(t, s, "POST", "/-/faults", `{"faults":""}`, &now)
	if p := do(t, s, request{}); p.code() != "ok" || p.Response.TotalCount != nil {
		t.Errorf("the quirks were to stay: %s", p.raw)
	}
	if code := control(t, s, "POST", "/-/faults", `{"faults":"resets=1"}`, &now); code != http.StatusBadRequest {
		t.Errorf("unknown fault: HTTP %d", code)
	}
	var nothing struct{}
	control(t, s, "POST", "/-/credentials", `{"secret_id":"a","secret_key":"b","token":"c"}`, &nothing)
	if p := do(t, s, request{}); p.code() != "AuthFailure.SecretIdNotFound" {
		t.Errorf("the former key: %s", p.raw)
	}
	if p := do(t, s, request{id: "a", key: "b", token: "c"}); p.code() != "ok" {
		t.Errorf("the new key: %s", p.raw)
	}
	var stats emulator.Stats
	control(t, s, "GET", "/-/stats", "", &stats)
	if diff := cmp.Diff(map[string]int{"ok": 2, "InternalError": 1, "AuthFailure.SecretIdNotFound": 1}, stats.Requests); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestServeEndsWithItsContext(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := config()
	cfg.Rate = 100
	s := emulator.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Serve(ctx, ln) }()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	for range 5 {
		resp, err := client.Do(request{}.build(t, "http://"+ln.Addr().String()))
		if err != nil {
			t.Fatal(err)
		}
		var p reply
		if err := errors.Join(json.NewDecoder(resp.Body).Decode(&p), resp.Body.Close()); err != nil || p.code() != "ok" {
			t.Fatalf("%s, %v", p.code(), err)
		}
	}
	// An answer that would take long does not hold the end up.
	s.SetFaults(emulator.Faults{Latency: time.Minute, ServerError: 1})
	slow := make(chan error)
	go func() {
		resp, err := client.Do(request{}.build(t, "http://"+ln.Addr().String()))
		if err == nil {
			err = resp.Body.Close()
		}
		slow <- err
	}()
	began := time.Now()
	for s.Stats().Requests["fault.server_error"] == 0 {
		runtime.Gosched() // counted before it waits
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-slow // however it ended
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("took %s to end", took)
	}
	if err := s.Serve(t.Context(), ln); err == nil {
		t.Error("serves on a closed listener")
	}
}

// The times of changes are exact: what the truth says was visible throughout a
// span is in every answer to a request within the span.
func TestTruthHoldsForConcurrentRequests(t *testing.T) {
	cfg := config()
	cfg.Events, cfg.Rate, cfg.Limit = 60, 2000, 1<<30
	cfg.Quirks.StableTies = true
	s := emulator.New(cfg)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- s.Run(ctx) }()
	random := rand.New(rand.NewPCG(1, 1))
	for range 60 {
		began := time.Now()
		p := do(t, s, request{body: fmt.Sprintf(`{"Limit":100,"By":"StartTime","Order":"ASC","Offset":%d}`, random.IntN(2))})
		if *p.Response.TotalCount > 90 {
			cancelled := s.World().IDs()
			s.Change(func(w *emulator.World) { w.Delete(cancelled[:len(cancelled)-40]...) })
			continue
		}
		shown := map[string]bool{}
		for _, raw := range p.Response.List {
			var record struct{ EventID, HandleStatus json.Number }
			if err := json.Unmarshal(raw, &record); err != nil {
				t.Fatal(err)
			}
			shown[record.EventID.String()+" "+record.HandleStatus.String()] = true
		}
		var a truth
		control(t, s, "GET", fmt.Sprintf("/-/truth?from=%d&to=%d", began.UnixNano(), time.Now().UnixNano()), "", &a)
		missing := 0
		for _, pair := range a.Pairs {
			if !shown[pair.ID+" "+pair.Status] {
				missing++
			}
		}
		if missing > 1 { // an offset of one leaves one out
			t.Errorf("%d of %d pairs that were visible throughout are missing", missing, len(a.Pairs))
		}
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
