package slack

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// golden reads a record of the format examples.
func golden(t *testing.T, name string) *event.Record {
	t.Helper()
	var c struct {
		Account     string `json:"account_id"`
		Sequence    uint64 `json:"sequence"`
		PollTime    string `json:"poll_time"`
		Previous    *int   `json:"previous_handle_status"`
		FirstDetect string `json:"first_detect_time"`
	}
	raw, err := os.ReadFile("../../format/testdata/" + name + ".input.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../format/testdata/" + name + ".context.json")
	if err := errors.Join(err, json.Unmarshal(text, &c)); err != nil {
		t.Fatal(err)
	}
	r := sinktest.Record(1).Again()
	r.Replayed, r.Raw = false, raw
	var id struct{ EventId json.Number } //nolint:revive // the API's own name
	if err := json.Unmarshal(raw, &id); err != nil {
		t.Fatal(err)
	}
	r.Key.ID, r.Key.Account = id.EventId.String(), c.Account
	if c.Account == "" {
		r.Key.Account = event.DefaultAccount
	}
	if name == "02-killed-masked" {
		r.Action, r.Status = event.Closed, event.Status{Code: "3", Symbol: "scanned", Closed: true}
	}
	return r
}

func TestMessagesAreThoseOfTheExamples(t *testing.T) {
	for _, name := range []string{"01-detected", "02-killed-masked", "03-hostile"} {
		p := single(golden(t, name))
		got, err := json.Marshal(object{"blocks": p.blocks, "text": p.text, "unfurl_links": false, "unfurl_media": false})
		if err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile("testdata/" + name + ".slack.json")
		if err != nil {
			t.Fatal(err)
		}
		var a, b any
		if err := errors.Join(json.Unmarshal(got, &a), json.Unmarshal(want, &b)); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(b, a); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// A heartbeat is one line, not a finding without a name.
func TestHeartbeatIsOneLine(t *testing.T) {
	r := format.Heartbeat{Sink: "oncall", Host: "relay-1<x>", Ready: true}.Record(time.Unix(1789641070, 0))
	posts := plan([]sinks.Message{{Record: r}}, 20, true)
	if len(posts) != 1 || posts[0].thread != "" {
		t.Fatalf("posts %+v", posts)
	}
	valid(t, posts[0])
	if want := "cwprelay heartbeat: sink oncall on relay-1&lt;x&gt;, ready"; posts[0].text != want || len(posts[0].blocks) != 1 {
		t.Errorf("%q with %d blocks, want %q with one", posts[0].text, len(posts[0].blocks), want)
	}
}

// valid fails where a message is none by the limits of Block Kit, or holds
// untrusted text where Slack parses it.
func valid(t *testing.T, p *post) {
	t.Helper()
	if n := len(p.blocks); n == 0 || n > 50 {
		t.Errorf("%d blocks", n)
	}
	total := 0
	var walk func(v any, kind string)
	walk = func(v any, kind string) {
		switch v := v.(type) {
		case map[string]any:
			k, _ := v["type"].(string)
			if k == "mrkdwn" {
				t.Error("mrkdwn is parsed by Slack")
			}
			if k == "" {
				k = kind
			}
			for name, inner := range v {
				if text, ok := inner.(string); ok && name == "text" {
					total += len(text)
					limit := map[string]int{"header": 150, "context": 2000, "section": 2000}[kind]
					if text == "" || limit > 0 && utf8.RuneCountInString(text) > limit || !utf8.ValidString(text) {
						t.Errorf("text of %s has %d characters: %.80q", kind, utf8.RuneCountInString(text), text)
					}
					continue
				}
				next := k
				if k == "plain_text" {
					next = kind
				}
				walk(inner, next)
			}
			if fields, ok := v["fields"].([]any); ok && (len(fields) == 0 || len(fields) > 10) {
				t.Errorf("%d fields", len(fields))
			}
		case []any:
			for _, inner := range v {
				walk(inner, kind)
			}
		}
	}
	text, err := json.Marshal(p.blocks)
	if err != nil {
		t.Fatal(err)
	}
	var blocks any
	if err := json.Unmarshal(text, &blocks); err != nil {
		t.Fatal(err)
	}
	walk(blocks, "")
	if total > 12_000 {
		t.Errorf("%d characters in all", total)
	}
	if strings.ContainsAny(p.text, "<>\n") || p.text == "" {
		t.Errorf("text that is parsed: %q", p.text)
	}
}

func records(n int, change func(i int, r *event.Record)) []sinks.Message {
	var out []sinks.Message
	for i := range n {
		r := sinktest.Record(i + 1)
		if change != nil {
			change(i, r)
		}
		out = append(out, sinks.Message{Record: r})
	}
	return out
}

var update = flag.Bool("update", false, "write the golden messages anew") //nolint:gochecknoglobals // a flag of the tests

// TestGroupsAndDigests renders each kind of message that the examples lack.
func TestGroupsAndDigests(t *testing.T) {
	virus := func(name string) func(int, *event.Record) {
		return func(i int, r *event.Record) {
			r.Raw = []byte(strings.Replace(string(r.Raw), "Linux.Scanner.Fscan", name+strings.Repeat("x", i%3), 1))
		}
	}
	for name, tc := range map[string]struct {
		batch []sinks.Message
		posts int
	}{
		"group":          {records(14, nil), 1},
		"different":      {records(6, virus("A.B.")), 3},
		"digest":         {records(21, nil), 1},
		"hostile digest": {records(200, virus(`<!channel>&*bold*"\u202e\n`)), 1},
		"later by a time": {records(2, func(i int, r *event.Record) {
			r.Raw = []byte(strings.ReplaceAll(string(r.Raw), "18:30:55", fmt.Sprintf("18:%d:55", 30+i)))
		}), 2},
	} {
		t.Run(name, func(t *testing.T) {
			posts := plan(tc.batch, 20, false)
			if len(posts) != tc.posts {
				t.Errorf("%d messages, want %d", len(posts), tc.posts)
			}
			told := 0
			for _, p := range posts {
				valid(t, p)
				told += len(p.records)
			}
			if told != len(tc.batch) {
				t.Errorf("%d of %d records are told of", told, len(tc.batch))
			}
			got, err := json.MarshalIndent(object{"text": posts[0].text, "blocks": posts[0].blocks}, "", " ")
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", strings.ReplaceAll(name, " ", "-")+".json")
			if *update {
				if err := os.WriteFile(path, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if want, err := os.ReadFile(path); err != nil || string(want) != string(got) {
				t.Errorf("differs from %s (%v):\n%s", path, err, got)
			}
		})
	}
}

func TestContract(t *testing.T) {
	t.Run("webhook", func(t *testing.T) {
		sinktest.HTTPSpec{
			Accept: func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "ok") },
		}.Run(t, func(url string) sinks.Sink {
			s := New(Config{URL: secret.New(url + "/services/T0/" + sinktest.Secret), AllowPrivate: true})
			return s
		})
	})
}

// A slackish is Slack as its documentation describes it.
type slackish struct {
	t       *testing.T
	answers []func() (int, string)
	bodies  []map[string]any
	times   []time.Time
}

func (s *slackish) RoundTrip(r *http.Request) (*http.Response, error) {
	var body map[string]any
	if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
		s.t.Error(err)
	}
	s.bodies, s.times = append(s.bodies, body), append(s.times, time.Now())
	status, text := 200, "ok"
	if strings.HasSuffix(r.URL.Path, "chat.postMessage") {
		text = fmt.Sprintf(`{"ok":true,"channel":"C1","ts":"17.%d"}`, len(s.bodies))
	}
	if n := len(s.bodies) - 1; n < len(s.answers) && s.answers[n] != nil {
		status, text = s.answers[n]()
	}
	return &http.Response{StatusCode: status, Header: http.Header{"Retry-After": {"7"}}, Body: io.NopCloser(strings.NewReader(text)), Request: r}, nil
}

func say(status int, text string) func() (int, string) {
	return func() (int, string) { return status, text }
}

func emulated(t *testing.T, cfg Config, answers ...func() (int, string)) (*Sink, *slackish) {
	t.Helper()
	e := &slackish{t: t, answers: answers}
	return newSink(cfg, httpx.NewWithTransport(e, cfg.pathSecrets()...)), e
}

func hook() Config { return Config{URL: secret.New("https://hooks.slack.com/services/T0/B0/x")} }
func bot() Config  { return Config{Token: secret.New("xoxb-1"), Channel: "C1"} }

func TestMessagesAreASecondApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, e := emulated(t, hook())
		different := func(i int, r *event.Record) {
			r.Raw = []byte(strings.Replace(string(r.Raw), "Fscan", fmt.Sprint("F", i), 1))
		}
		for range 2 {
			if _, err := s.Send(t.Context(), records(3, different)); err != nil {
				t.Fatal(err)
			}
		}
		for i := 1; i < len(e.times); i++ {
			if d := e.times[i].Sub(e.times[i-1]); d < time.Second {
				t.Errorf("message %d came %s after the one before", i, d)
			}
		}
		if len(e.times) != 6 {
			t.Errorf("%d messages", len(e.times))
		}
	})
}

func TestAnswersHaveTheirClass(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg    Config
		status int
		text   string
		want   sinks.Class
		posts  int
	}{
		"invalid payload":  {hook(), 400, "invalid_payload", sinks.ClassPoison, 2},
		"invalid blocks":   {hook(), 400, "invalid_blocks", sinks.ClassPoison, 2},
		"no text":          {hook(), 400, "no_text", sinks.ClassPoison, 2},
		"too large":        {hook(), 413, "", sinks.ClassTooLarge, 2},
		"user not found":   {hook(), 400, "user_not_found", sinks.ClassHalt, 1},
		"prohibited":       {hook(), 403, "action_prohibited", sinks.ClassHalt, 1},
		"no service":       {hook(), 404, "no_service", sinks.ClassHalt, 1},
		"archived":         {hook(), 410, "channel_is_archived", sinks.ClassHalt, 1},
		"rollup error":     {hook(), 500, "rollup_error", sinks.ClassRetry, 1},
		"rate limited":     {hook(), 429, "rate_limited", sinks.ClassRetry, 1},
		"not Slack":        {hook(), 200, "<html>", sinks.ClassRetry, 1},
		"bot, blocks":      {bot(), 200, `{"ok":false,"error":"invalid_blocks"}`, sinks.ClassPoison, 2},
		"bot, auth":        {bot(), 200, `{"ok":false,"error":"invalid_auth"}`, sinks.ClassHalt, 1},
		"bot, not invited": {bot(), 200, `{"ok":false,"error":"not_in_channel"}`, sinks.ClassHalt, 1},
		"bot, rate":        {bot(), 429, `{"ok":false,"error":"ratelimited"}`, sinks.ClassRetry, 1},
		"bot, internal":    {bot(), 200, `{"ok":false,"error":"internal_error"}`, sinks.ClassRetry, 1},
		"bot, unknown":     {bot(), 200, `{"ok":false,"error":"new_thing"}`, sinks.ClassRetry, 1},
		"bot, not Slack":   {bot(), 200, `{}`, sinks.ClassRetry, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				answer := say(tc.status, tc.text)
				s, e := emulated(t, tc.cfg, answer, answer, answer)
				_, err := s.Send(t.Context(), records(1, nil))
				if partial, ok := errors.AsType[*sinks.PartialError](err); ok {
					err = partial.Failed[0]
				}
				if err == nil || sinks.ClassOf(err) != tc.want || len(e.bodies) != tc.posts {
					t.Errorf("class %v of %v after %d requests, want %v after %d", sinks.ClassOf(err), err, len(e.bodies), tc.want, tc.posts)
				}
				if tc.status == 429 && sinks.RetryAfter(err) != 7*time.Second {
					t.Errorf("waits %s", sinks.RetryAfter(err))
				}
				if tc.posts == 2 && e.bodies[1]["blocks"] != nil {
					t.Error("the second attempt has blocks")
				}
			})
		})
	}
}

func TestWhatIsNotSlackHalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := emulated(t, hook(), say(200, "hello"), say(200, "hello"), say(200, "hello"))
		for i, want := range []sinks.Class{sinks.ClassRetry, sinks.ClassRetry, sinks.ClassHalt} {
			if _, err := s.Send(t.Context(), records(1, nil)); err == nil || sinks.ClassOf(err) != want {
				t.Errorf("attempt %d: %v", i+1, err)
			}
		}
	})
}

func TestChangesAnswerInTheThreadOfTheFirstMessage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, e := emulated(t, bot())
		batch := records(2, nil) // one message
		receipt, err := s.Send(t.Context(), batch)
		if err != nil || receipt.Memo[0] != "C1:17.1" || receipt.Memo[1] != "C1:17.1" {
			t.Fatalf("receipt %+v, %v", receipt, err)
		}
		for i := range batch {
			batch[i].Memo = receipt.Memo[i]
			batch[i].Record = batch[i].Record.Again()
			batch[i].Record.Action, batch[i].Record.Status = event.Closed, event.Status{Code: "3", Symbol: "scanned", Closed: true}
		}
		receipt, err = s.Send(t.Context(), batch)
		if err != nil || len(e.bodies) != 3 || e.bodies[1]["thread_ts"] != "17.1" || e.bodies[2]["thread_ts"] != "17.1" || e.bodies[0]["thread_ts"] != nil {
			t.Errorf("%v, bodies %v", err, e.bodies)
		}
		if receipt.Memo[0] != "C1:17.1" {
			t.Errorf("memo %v", receipt.Memo)
		}
	})
}

func TestConfigNamesEveryMistake(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  Config
		want []string
	}{
		"nothing":     {Config{}, []string{"url: required"}},
		"both":        {Config{URL: secret.New("https://x"), Token: secret.New("t")}, []string{"url: only one"}},
		"bad address": {Config{URL: secret.New("hooks.slack.com/x"), Channel: "C", DigestAbove: 1000}, []string{"url: ", "channel: ", "digest_above: "}},
		"no channel":  {Config{Token: secret.New("t"), APIURL: "ftp://x"}, []string{"channel: ", "api_url: "}},
	} {
		err := tc.cfg.Validate()
		for _, want := range tc.want {
			if err == nil || !strings.Contains("\n"+err.Error(), "\n"+want) {
				t.Errorf("%s: no %q in %v", name, want, err)
			}
		}
	}
}

// FuzzMessages: whatever a record holds, its message is one, and nothing of it
// is parsed by Slack.
func FuzzMessages(f *testing.F) {
	f.Add("<!channel>", "*b* <http://x|y>", "a\nb\u202e")
	f.Add("", "", "")
	f.Fuzz(func(t *testing.T, virus, command, host string) {
		raw, err := json.Marshal(map[string]any{"EventId": 1, "VirusName": virus, "CmdLine": command, "HostName": host, "FilePath": command})
		if err != nil {
			return
		}
		for _, posts := range [][]*post{
			plan(records(1, func(_ int, r *event.Record) { r.Raw = raw }), 20, false),
			plan(records(3, func(_ int, r *event.Record) { r.Raw = raw }), 20, false),
			plan(records(21, func(_ int, r *event.Record) { r.Raw = raw }), 20, false),
		} {
			for _, p := range posts {
				valid(t, p)
			}
		}
	})
}

func TestAddressOfTheWebhookIsNeverShown(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.Error(w, "no "+r.URL.String(), http.StatusNotFound) }))
	defer srv.Close()
	s := New(Config{URL: secret.New(srv.URL + "/services/T00000000/B00000000/XXXXXXXXsecret"), AllowPrivate: true})
	defer s.Close()
	_, err := s.Send(t.Context(), records(1, nil))
	if err == nil || strings.Contains(err.Error(), "XXXXXXXXsecret") {
		t.Errorf("error %v", err)
	}
}
