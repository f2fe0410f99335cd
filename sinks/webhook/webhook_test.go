package webhook_test

import (
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, cfg webhook.Config) *webhook.Sink {
	t.Helper()
	cfg.AllowPrivate = true
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := webhook.New(cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func serve(t *testing.T, h http.HandlerFunc) secret.String {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return secret.New(srv.URL + "/hook")
}

func TestContract(t *testing.T) {
	planted := secret.New(sinktest.Secret)
	for name, cfg := range map[string]webhook.Config{
		"single":  {Token: planted},
		"lines":   {Batch: webhook.BatchNDJSON, Token: planted},
		"packed":  {Compression: webhook.CompressionGzip, Username: "u", Password: planted},
		"headers": {Headers: map[string]secret.String{"X-Api-Key": planted}, Method: http.MethodPut},
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.HTTP(t, func(url string) sinks.Sink {
				cfg := cfg
				cfg.URL, cfg.AllowPrivate = secret.New(url+"/T0000/"+sinktest.Secret+"?key="+sinktest.Secret), true
				return webhook.New(cfg)
			})
		})
	}
}

func TestOneRequestAnEventInOrderUntilOneFails(t *testing.T) {
	var ids []string
	status := map[int]int{}
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		ids = append(ids, r.Header.Get("Webhook-Id"))
		if code := status[len(ids)]; code != 0 {
			w.WriteHeader(code)
		}
	})
	s := open(t, webhook.Config{URL: url})
	batch := sinktest.Messages(5)
	status[2], status[4] = http.StatusUnprocessableEntity, http.StatusServiceUnavailable
	_, err := s.Send(t.Context(), batch)
	partial, ok := errors.AsType[*sinks.PartialError](err)
	if !ok || len(partial.Failed) != 3 {
		t.Fatalf("error %v", err)
	}
	for i, want := range map[int]sinks.Class{1: sinks.ClassPoison, 3: sinks.ClassRetry, 4: sinks.ClassRetry} {
		if got := partial.Failed[i]; got == nil || sinks.ClassOf(got) != want {
			t.Errorf("record %d: %v, want %v", i, got, want)
		}
	}
	if fmt.Sprint(ids) != fmt.Sprint(sinktest.UIDs(batch)[:4]) {
		t.Errorf("sent %v", ids)
	}
}

func TestLinesHaveAnIDOfTheirOwnThatStays(t *testing.T) {
	var ids, bodies []string
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		zr, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(zr)
		if err != nil {
			t.Error(err)
		}
		ids, bodies = append(ids, r.Header.Get("Webhook-Id")), append(bodies, string(body))
		if r.Header.Get("Content-Type") != "application/x-ndjson" {
			t.Errorf("headers %v", r.Header)
		}
	})
	s := open(t, webhook.Config{URL: url, Batch: webhook.BatchNDJSON, Compression: webhook.CompressionGzip})
	for _, batch := range [][]sinks.Message{sinktest.Messages(3), sinktest.Messages(3), sinktest.Messages(2), sinktest.Messages(1)} {
		if _, err := s.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	if ids[0] != ids[1] || ids[0] == ids[2] || ids[3] != sinktest.Record(1).UID || strings.Count(bodies[0], "\n") != 3 {
		t.Errorf("ids %v, body %q", ids, bodies[0])
	}
}

func TestTemplateCannotBeBrokenOutOf(t *testing.T) {
	var got []map[string]any
	url := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		var doc map[string]any
		if err := json.NewDecoder(r.Body).Decode(&doc); err != nil {
			t.Error(err)
		}
		got = append(got, doc)
	})
	s := open(t, webhook.Config{URL: url, Template: `{"text": {{json (get "process.command_line")}}, "id": {{get "tencent_cloud.cwp.event_id"}}, "none": {{json (get "a.b")}}, "action": {{json .event.action}}}`})
	encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	r := sinktest.Record(1).Again()
	r.Key.ID = "9007199254740993"
	r.Raw = []byte(`{"EventId":9007199254740993,"CmdLine":"\"}, \"text\": \"forged","HandleStatus":0}`)
	body, err := encode(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Send(t.Context(), []sinks.Message{{Record: r, Body: body}}); err != nil {
		t.Fatal(err)
	}
	if len(got) != 1 || got[0]["text"] != `"}, "text": "forged` || got[0]["none"] != "" || got[0]["action"] != "risk-process-detected" || len(got[0]) != 4 {
		t.Errorf("got %v", got)
	}
	for name, tc := range map[string]string{
		"no JSON":         `{"text": {{get "process.command_line"}}}`,
		"field of a text": `{"x": {{json (index .event.action "x")}}}`,
	} {
		s := open(t, webhook.Config{URL: url, Template: tc})
		_, err := s.Send(t.Context(), []sinks.Message{{Record: r, Body: body}})
		partial, ok := errors.AsType[*sinks.PartialError](err)
		if !ok || sinks.ClassOf(partial.Failed[0]) != sinks.ClassPoison {
			t.Errorf("%s: error %v", name, err)
		}
	}
}

func TestPrivateAddressesAreRefusedUnlessAllowed(t *testing.T) {
	called := 0
	s := webhook.New(webhook.Config{URL: serve(t, func(http.ResponseWriter, *http.Request) { called++ })})
	defer s.Close()
	_, err := s.Send(t.Context(), sinktest.Messages(1))
	if sinks.ClassOf(err) != sinks.ClassHalt || !strings.Contains(err.Error(), "allow_private") || called > 0 {
		t.Errorf("%d calls, error %v", called, err)
	}
}

func TestClientCredentials(t *testing.T) {
	tokens, valid, refuse := 0, "", 0
	mux := http.NewServeMux()
	mux.HandleFunc("/token", func(w http.ResponseWriter, r *http.Request) {
		if refuse != 0 {
			w.WriteHeader(refuse)
			_, _ = fmt.Fprint(w, `{"error":"invalid_client"}`)
			return
		}
		if id, key, _ := r.BasicAuth(); id != "relay" || key != "s3cr3t-key" || r.FormValue("audience") != "hooks" || r.FormValue("scope") != "a b" {
			t.Errorf("token request by %q with %v", id, r.Form)
		}
		tokens++
		valid = fmt.Sprint("token-", tokens)
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, valid)
	})
	mux.HandleFunc("/hook", func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+valid {
			w.WriteHeader(http.StatusUnauthorized)
		}
	})
	srv := httptest.NewServer(mux)
	defer srv.Close()
	cfg := webhook.Config{URL: secret.New(srv.URL + "/hook"), OAuth2: webhook.OAuth2{
		TokenURL: srv.URL + "/token", ClientID: "relay", ClientSecret: secret.New("s3cr3t-key"), Scopes: []string{"a", "b"}, Params: map[string]string{"audience": "hooks"},
	}}
	s := open(t, cfg)
	send := func() error {
		_, err := s.Send(t.Context(), sinktest.Messages(1))
		return err
	}
	for range 3 {
		if err := send(); err != nil {
			t.Fatal(err)
		}
	}
	if tokens != 1 {
		t.Errorf("%d tokens for three requests", tokens)
	}
	valid = "withdrawn"
	if err := send(); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
		t.Errorf("with a withdrawn token: %v", err)
	}
	if err := send(); err != nil || tokens != 2 {
		t.Errorf("%d tokens, %v", tokens, err)
	}
	for status, want := range map[int]sinks.Class{400: sinks.ClassHalt, 401: sinks.ClassHalt, 429: sinks.ClassRetry, 503: sinks.ClassRetry} {
		refuse = status
		s = open(t, cfg)
		if err := send(); err == nil || sinks.ClassOf(err) != want || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("token endpoint answers %d: class %v of %v", status, sinks.ClassOf(err), err)
		}
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	err := webhook.Config{
		URL: secret.New("ftp://x"), Method: "GET", Headers: map[string]secret.String{"Host": secret.New("a"), "a b": secret.New("c")},
		Secrets: []secret.String{secret.New("abc"), secret.New("whsec_AAAA")}, Token: secret.New("a"), Username: "u",
		OAuth2: webhook.OAuth2{TokenURL: "x"}, Batch: "all", MaxBatchRecords: -1, MaxBatchBytes: 1, Compression: "zip", Template: "{{", ContentType: "a\nb",
	}.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"url: ", "method: ", "headers.Host: ", "headers.a b: ", "secrets: number 1", "secrets: number 2", "token: ", "username: ", "oauth2.token_url: ", "oauth2.client_id: ",
		"oauth2.client_secret: ", "batch: ", "max_batch_records: ", "max_batch_bytes: ", "compression: ", "template: ", "content_type: ",
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

// FuzzTemplate: whatever an event holds, a body made with json stays JSON and
// says what the event says.
func FuzzTemplate(f *testing.F) {
	f.Add("a\"b", "{{.}}")
	f.Add("\u2028</script>", "\x00\xff")
	encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, virus, command string) {
		raw, err := json.Marshal(map[string]any{"EventId": 1, "VirusName": virus, "CmdLine": command})
		if err != nil {
			t.Skip()
		}
		r := &event.Record{Key: event.Key{Kind: "risk_process", ID: "1"}, UID: "u", Action: event.Detected, Zone: "UTC", Dialect: "record", Raw: raw}
		body, err := encode(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		var sent []byte
		srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent, _ = io.ReadAll(r.Body) }))
		defer srv.Close()
		s := webhook.New(webhook.Config{URL: secret.New(srv.URL), AllowPrivate: true, Template: `{"v":{{json (get "rule.name")}},"c":{{json (get "process.command_line")}}}`})
		defer s.Close()
		if _, err := s.Send(t.Context(), []sinks.Message{{Record: r, Body: body}}); err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(sent, &doc); err != nil || len(doc) != 2 {
			t.Errorf("%v: %s", err, sent)
		}
	})
}
