package webhook_test

import (
	"bytes"
	"compress/gzip"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// The secrets of the receivers in these tests.
const (
	oldSecret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	newSecret = "whsec_bmV3IHNlY3JldCBvZiAzMiBieXRlcywgZm9yIHVz"
)

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

// A request is what a receiver got, decompressed.
type request struct {
	Method, ID, Body string
	Header           http.Header
}

// A receiver is as strict as the Standard Webhooks specification asks: it
// answers 401 to what is not signed with its secret within five minutes.
type receiver struct {
	secret string
	answer func(n int) int // status of the nth accepted request, from 1; nil: 200

	mu  sync.Mutex // guards got
	got []request
}

func (v *receiver) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	raw, err := io.ReadAll(r.Body)
	if err != nil || v.secret != "" && !v.verified(r.Header, raw) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if r.Header.Get("Content-Encoding") == "gzip" {
		zr, err := gzip.NewReader(bytes.NewReader(raw))
		if err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		if raw, err = io.ReadAll(zr); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
	}
	v.mu.Lock()
	v.got = append(v.got, request{Method: r.Method, ID: r.Header.Get("Webhook-Id"), Body: string(raw), Header: r.Header})
	n := len(v.got)
	v.mu.Unlock()
	if v.answer != nil {
		w.WriteHeader(v.answer(n))
	}
}

func (v *receiver) verified(h http.Header, body []byte) bool {
	stamp, err := strconv.ParseInt(h.Get("webhook-timestamp"), 10, 64)
	if err != nil || time.Since(time.Unix(stamp, 0)).Abs() > 5*time.Minute {
		return false
	}
	key, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(v.secret, "whsec_"))
	if err != nil {
		return false
	}
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%d.%s", h.Get("webhook-id"), stamp, body)
	for signature := range strings.SplitSeq(h.Get("webhook-signature"), " ") {
		version, text, _ := strings.Cut(signature, ",")
		got, err := base64.StdEncoding.DecodeString(text)
		if version == "v1" && err == nil && hmac.Equal(got, mac.Sum(nil)) {
			return true
		}
	}
	return false
}

func (v *receiver) requests() []request {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.got
}

// ids are the webhook-ids that arrived, in order.
func (v *receiver) ids() []string {
	var ids []string
	for _, r := range v.requests() {
		ids = append(ids, r.ID)
	}
	return ids
}

func serve(t *testing.T, h http.Handler) secret.String {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return secret.New(srv.URL + "/hook")
}

func wantClasses(t *testing.T, err error, want map[int]sinks.Class) {
	t.Helper()
	got := map[int]sinks.Class{}
	if p, ok := errors.AsType[*sinks.PartialError](err); ok {
		for i, e := range p.Failed {
			got[i] = sinks.ClassOf(e)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("classes of %v (-want +got):\n%s", err, diff)
	}
}

func TestContract(t *testing.T) {
	planted := secret.New(sinktest.Secret)
	tokens := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, `{"access_token":%q,"token_type":"Bearer","expires_in":3600}`, sinktest.Secret+"-fetched")
	}))
	defer tokens.Close()
	for name, cfg := range map[string]webhook.Config{
		"single":  {Token: planted, Secrets: []secret.String{secret.New(oldSecret)}},
		"lines":   {Batch: webhook.BatchNDJSON, Token: planted},
		"packed":  {Compression: webhook.CompressionGzip, Username: "u", Password: planted},
		"headers": {Headers: map[string]secret.String{"X-Api-Key": planted}, Method: http.MethodPut},
		"template": {
			Template: `{"key":{{json (value "key")}},"id":{{json uid}}}`, Values: map[string]secret.String{"key": planted},
		},
		"client credentials": {OAuth2: webhook.OAuth2{TokenURL: tokens.URL, ClientID: "c", ClientSecret: planted}},
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

// The token endpoint is a peer like the receiver; none of its answers is about
// an event.
func TestContractOfTokenEndpoint(t *testing.T) {
	sinktest.HTTPSpec{
		Accept: func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, `{"access_token":"a-token","token_type":"Bearer","expires_in":3600}`)
		},
		Classes: map[int]sinks.Class{400: sinks.ClassRetry, 413: sinks.ClassRetry, 422: sinks.ClassRetry},
	}.Run(t, func(url string) sinks.Sink {
		return webhook.New(webhook.Config{URL: secret.New(url + "/hook"), AllowPrivate: true, OAuth2: webhook.OAuth2{
			TokenURL: url + "/token/" + sinktest.Secret, ClientID: "c", ClientSecret: secret.New(sinktest.Secret),
		}})
	})
}

// While a secret is replaced, receivers with the old and with the new one
// accept what is sent; one with another refuses it.
func TestEverySecretSigns(t *testing.T) {
	both := []secret.String{secret.New(newSecret), secret.New(oldSecret)}
	for name, x := range map[string]struct {
		receiver string
		cfg      webhook.Config
		want     bool
	}{
		"old":       {oldSecret, webhook.Config{Secrets: both}, true},
		"new":       {newSecret, webhook.Config{Secrets: both}, true},
		"packed":    {newSecret, webhook.Config{Secrets: both, Compression: webhook.CompressionGzip}, true},
		"lines":     {newSecret, webhook.Config{Secrets: both, Batch: webhook.BatchNDJSON}, true},
		"template":  {newSecret, webhook.Config{Secrets: both, Template: `{"id":{{json uid}}}`}, true},
		"other":     {"whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", webhook.Config{Secrets: both}, false},
		"no secret": {oldSecret, webhook.Config{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			v := &receiver{secret: x.receiver}
			x.cfg.URL = serve(t, v)
			_, err := open(t, x.cfg).Send(t.Context(), sinktest.Messages(3))
			if x.want && (err != nil || len(v.requests()) == 0) {
				t.Errorf("%d requests accepted, error %v", len(v.requests()), err)
			}
			if !x.want && sinks.ClassOf(err) != sinks.ClassHalt {
				t.Errorf("class %v of %v, want halt", sinks.ClassOf(err), err)
			}
		})
	}
}

// What is sent again has its id again, and a signature of its own time.
func TestSentAgainHasTheSameID(t *testing.T) {
	for _, batch := range []string{webhook.BatchSingle, webhook.BatchNDJSON} {
		v := &receiver{answer: func(n int) int { return map[bool]int{true: 503, false: 200}[n == 1] }}
		s := open(t, webhook.Config{URL: serve(t, v), Batch: batch})
		messages := sinktest.Messages(1)
		_, err := s.Send(t.Context(), messages)
		if err == nil {
			t.Fatal("accepted")
		}
		if _, err := s.Send(t.Context(), messages); err != nil {
			t.Fatal(err)
		}
		uid := messages[0].Record.UID
		if diff := cmp.Diff([]string{uid, uid}, v.ids()); diff != "" {
			t.Errorf("%s: ids (-want +got):\n%s", batch, diff)
		}
	}
}

// Events go one a request, in order. The first that fails ends the attempt:
// what came before is accepted, what comes after was not sent.
func TestStopsAtTheFirstFailure(t *testing.T) {
	for name, x := range map[string]struct {
		status, at int // of the one that fails, from 1
		want       map[int]sinks.Class
		whole      sinks.Class // where want is empty
	}{
		"refused":       {422, 3, map[int]sinks.Class{2: sinks.ClassPoison, 3: 0, 4: 0}, 0},
		"unavailable":   {503, 4, map[int]sinks.Class{3: 0, 4: 0}, 0},
		"unauthorized":  {401, 2, map[int]sinks.Class{1: sinks.ClassHalt, 2: 0, 3: 0, 4: 0}, 0},
		"too large":     {413, 5, map[int]sinks.Class{4: sinks.ClassTooLarge}, 0},
		"first refused": {400, 1, map[int]sinks.Class{0: sinks.ClassPoison, 1: 0, 2: 0, 3: 0, 4: 0}, 0},
		"first large":   {413, 1, map[int]sinks.Class{0: sinks.ClassTooLarge, 1: 0, 2: 0, 3: 0, 4: 0}, 0},
		"first halted":  {403, 1, map[int]sinks.Class{}, sinks.ClassHalt},
		"first retried": {429, 1, map[int]sinks.Class{}, sinks.ClassRetry},
	} {
		t.Run(name, func(t *testing.T) {
			v := &receiver{answer: func(n int) int { return map[bool]int{true: x.status, false: 200}[n == x.at] }}
			batch := sinktest.Messages(5)
			_, err := open(t, webhook.Config{URL: serve(t, v)}).Send(t.Context(), batch)
			wantClasses(t, err, x.want)
			if err == nil || sinks.ClassOf(err) != x.whole {
				t.Errorf("class %v of %v, want %v", sinks.ClassOf(err), err, x.whole)
			}
			if diff := cmp.Diff(sinktest.UIDs(batch)[:x.at], v.ids()); diff != "" {
				t.Errorf("sent (-want +got):\n%s", diff)
			}
		})
	}
}

func TestSendsTheBodyAsItIs(t *testing.T) {
	v := &receiver{}
	s := open(t, webhook.Config{
		URL: serve(t, v), Method: http.MethodPatch, ContentType: "application/cloudevents+json; charset=utf-8",
		Headers: map[string]secret.String{"x-route": secret.New("soc")},
	})
	batch := sinktest.Messages(2)
	receipt, err := s.Send(t.Context(), batch)
	if err != nil || receipt.Answer != "200" {
		t.Fatalf("answer %q, error %v", receipt.Answer, err)
	}
	for i, r := range v.requests() {
		if r.Method != http.MethodPatch || r.Body != string(batch[i].Body) || r.Header.Get("X-Route") != "soc" ||
			r.Header.Get("Content-Type") != "application/cloudevents+json; charset=utf-8" || r.Header["Content-Encoding"] != nil {
			t.Errorf("request %+v", r)
		}
	}
}

func TestLinesHaveAnIDOfTheirOwnThatStays(t *testing.T) {
	v := &receiver{secret: oldSecret}
	s := open(t, webhook.Config{
		URL: serve(t, v), Batch: webhook.BatchNDJSON, Compression: webhook.CompressionGzip, Secrets: []secret.String{secret.New(oldSecret)},
	})
	for _, batch := range [][]sinks.Message{sinktest.Messages(3), sinktest.Messages(3), sinktest.Messages(2), sinktest.Messages(1)} {
		if _, err := s.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
	}
	ids := v.ids()
	if ids[0] != ids[1] || ids[0] == ids[2] || ids[3] != sinktest.Record(1).UID {
		t.Errorf("ids %v", ids)
	}
	first := v.requests()[0]
	if strings.Count(first.Body, "\n") != 3 || !strings.HasSuffix(first.Body, "}\n") || first.Header.Get("Content-Type") != "application/x-ndjson" {
		t.Errorf("request %+v", first)
	}
}

// A body that would be read as several lines, or as none, is refused alone;
// the others go without it.
func TestNoLineIsForged(t *testing.T) {
	for name, x := range map[string]struct {
		status int
		want   map[int]sinks.Class
	}{
		"accepted":    {200, map[int]sinks.Class{1: sinks.ClassPoison, 2: sinks.ClassPoison}},
		"unavailable": {503, map[int]sinks.Class{0: 0, 1: sinks.ClassPoison, 2: sinks.ClassPoison, 3: 0}},
		"refused": { // the answer names no record: they are halved
			422, map[int]sinks.Class{0: sinks.ClassTooLarge, 1: sinks.ClassPoison, 2: sinks.ClassPoison, 3: sinks.ClassTooLarge},
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := &receiver{answer: func(int) int { return x.status }}
			batch := sinktest.Messages(4)
			batch[1].Body, batch[2].Body = []byte("{}\n{}"), nil
			_, err := open(t, webhook.Config{URL: serve(t, v), Batch: webhook.BatchNDJSON}).Send(t.Context(), batch)
			wantClasses(t, err, x.want)
			if got, want := v.requests()[0].Body, fmt.Sprintf("%s\n%s\n", batch[0].Body, batch[3].Body); got != want {
				t.Errorf("sent %q, want %q", got, want)
			}
		})
	}
}

func TestLinesStayWithinTheLimit(t *testing.T) {
	v := &receiver{}
	s := open(t, webhook.Config{
		URL: serve(t, v), Batch: webhook.BatchNDJSON, MaxBatchBytes: 1 << 10,
		Template: `{"long":"` + strings.Repeat("x", 600) + `"}`,
	})
	if got := s.Limits(); got.Bytes != 1<<10 || got.Records != 500 {
		t.Errorf("limits %+v", got)
	}
	if _, err := s.Send(t.Context(), sinktest.Messages(2)); sinks.ClassOf(err) != sinks.ClassTooLarge || len(v.requests()) > 0 {
		t.Errorf("class %v of %v, want too large", sinks.ClassOf(err), err)
	}
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
		t.Error(err)
	}
}

func TestPrivateAddressesAreRefusedUnlessAllowed(t *testing.T) {
	v := &receiver{}
	url := serve(t, v)
	for name, cfg := range map[string]webhook.Config{
		"receiver":       {URL: url},
		"token endpoint": {URL: secret.New("https://203.0.113.1/"), OAuth2: webhook.OAuth2{TokenURL: url.Reveal(), ClientID: "c", ClientSecret: secret.New("s")}},
	} {
		s := webhook.New(cfg)
		_, err := s.Send(t.Context(), sinktest.Messages(1))
		if sinks.ClassOf(err) != sinks.ClassHalt || !strings.Contains(err.Error(), "allow_private") || len(v.requests()) > 0 {
			t.Errorf("%s: %d calls, error %v", name, len(v.requests()), err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// An identity is a token endpoint with one client.
type identity struct {
	t *testing.T

	mu      sync.Mutex // guards the fields below
	issued  int
	valid   string // the token that the receiver takes
	refuse  int
	code    string
	expires int
}

func (i *identity) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if r.URL.Path == "/hook" {
		if i.valid == "" || r.Header.Get("Authorization") != "Bearer "+i.valid {
			w.WriteHeader(http.StatusUnauthorized)
		}
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if i.refuse != 0 {
		w.Header().Set("Location", "/elsewhere")
		w.Header().Set("Retry-After", "7")
		w.WriteHeader(i.refuse)
		_, _ = fmt.Fprintf(w, `{"error":%q,"error_description":"s3cr3t-key"}`, i.code)
		return
	}
	id, key, _ := r.BasicAuth()
	if id != "relay" || key != "s3cr3t-key" || r.FormValue("grant_type") != "client_credentials" ||
		r.FormValue("audience") != "hooks" || r.FormValue("scope") != "a b" || r.URL.Path != "/token" {
		i.t.Errorf("token request by %q to %s with %v", id, r.URL.Path, r.Form)
	}
	i.issued++
	i.valid = fmt.Sprint("token-", i.issued)
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": i.valid, "token_type": "bearer", "expires_in": i.expires})
}

func (i *identity) set(f func()) {
	i.mu.Lock()
	defer i.mu.Unlock()
	f()
}

func withIdentity(t *testing.T) (*identity, webhook.Config) {
	t.Helper()
	i := &identity{t: t, expires: 3600}
	srv := httptest.NewServer(i)
	t.Cleanup(srv.Close)
	return i, webhook.Config{URL: secret.New(srv.URL + "/hook"), OAuth2: webhook.OAuth2{
		TokenURL: srv.URL + "/token", ClientID: "relay", ClientSecret: secret.New("s3cr3t-key"), Scopes: []string{"a", "b"},
		Params: map[string]string{"audience": "hooks"},
	}}
}

func wantIssued(t *testing.T, i *identity, want int) {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.issued != want {
		t.Errorf("%d tokens were fetched, want %d", i.issued, want)
	}
}

func TestTokenIsKeptUntilItEnds(t *testing.T) {
	i, cfg := withIdentity(t)
	s := open(t, cfg)
	for range 3 {
		if _, err := s.Send(t.Context(), sinktest.Messages(3)); err != nil {
			t.Fatal(err)
		}
	}
	wantIssued(t, i, 1)
	i.set(func() { i.expires = 5 }) // less than the time that is kept in reserve
	s = open(t, cfg)
	if _, err := s.Send(t.Context(), sinktest.Messages(3)); err != nil {
		t.Fatal(err)
	}
	wantIssued(t, i, 4)
}

// A token that was withdrawn is replaced; one that is refused although it is
// new halts the sink, and goes on halting it.
func TestRefusedTokenIsReplacedOnce(t *testing.T) {
	i, cfg := withIdentity(t)
	s := open(t, cfg)
	send := func() error {
		_, err := s.Send(t.Context(), sinktest.Messages(1))
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	i.set(func() { i.valid = "withdrawn" })
	if err := send(); err == nil || sinks.ClassOf(err) != sinks.ClassRetry || sinks.IsAnswer(err) {
		t.Errorf("class %v of %v, want retry", sinks.ClassOf(err), err)
	}
	if err := send(); err != nil {
		t.Error(err)
	}
	wantIssued(t, i, 2)

	v := &receiver{answer: func(int) int { return http.StatusUnauthorized }}
	cfg.URL = serve(t, v)
	s = open(t, cfg)
	for range 3 {
		if err := send(); sinks.ClassOf(err) != sinks.ClassHalt {
			t.Errorf("class %v of %v, want halt", sinks.ClassOf(err), err)
		}
	}
}

func TestAnswersOfTheTokenEndpoint(t *testing.T) {
	for name, x := range map[string]struct {
		status int
		code   string
		want   sinks.Class
	}{
		"wrong secret":    {401, "invalid_client", sinks.ClassHalt},
		"wrong secret 2":  {400, "invalid_client", sinks.ClassHalt},
		"wrong scope":     {400, "invalid_scope", sinks.ClassHalt},
		"not for us":      {403, "access_denied", sinks.ClassHalt},
		"wrong address":   {404, "", sinks.ClassHalt},
		"redirect":        {307, "", sinks.ClassHalt},
		"other refusal":   {400, "s3cr3t-key", sinks.ClassRetry},
		"too many":        {429, "", sinks.ClassRetry},
		"unavailable":     {503, "temporarily_unavailable", sinks.ClassRetry},
		"own mistake":     {500, "server_error", sinks.ClassRetry},
		"nothing in it":   {204, "", sinks.ClassRetry},
		"error in answer": {200, "invalid_client", sinks.ClassHalt},
	} {
		t.Run(name, func(t *testing.T) {
			i, cfg := withIdentity(t)
			i.refuse, i.code = x.status, x.code
			_, err := open(t, cfg).Send(t.Context(), sinktest.Messages(2))
			if err == nil || sinks.ClassOf(err) != x.want {
				t.Fatalf("class %v of %v, want %v", sinks.ClassOf(err), err, x.want)
			}
			if strings.Contains(err.Error(), "s3cr3t") {
				t.Errorf("shows a secret: %v", err)
			}
			if x.want == sinks.ClassRetry && sinks.IsAnswer(err) {
				t.Errorf("%v counts as an answer about an event", err)
			}
			if x.status == 429 && sinks.RetryAfter(err) != 7*time.Second {
				t.Errorf("waits %s, want 7s", sinks.RetryAfter(err))
			}
			wantIssued(t, i, 0)
		})
	}
}
