package poller_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// A spoiler changes good answers.
type spoiler func(random *rand.Rand, body []byte) []byte

func constant(text string) spoiler { return func(*rand.Rand, []byte) []byte { return []byte(text) } }

// replaced replaces a member of the answer.
func replaced(name, value string) spoiler {
	return func(_ *rand.Rand, body []byte) []byte {
		var doc struct{ Response map[string]json.RawMessage }
		if json.Unmarshal(body, &doc) != nil || doc.Response == nil {
			return body
		}
		if value == "" {
			delete(doc.Response, name)
		} else {
			doc.Response[name] = json.RawMessage(value)
		}
		var out bytes.Buffer
		enc := json.NewEncoder(&out)
		enc.SetEscapeHTML(false) // items stay as they are
		if enc.Encode(doc) != nil {
			return body
		}
		return out.Bytes()
	}
}

// TestHostileAnswersMoveNothing lets a real client ask a server whose answers
// are spoiled, all of a sweep in the same way, after one good sweep: nothing is
// taken in of what is no answer, nothing is certified, and what was known stays.
func TestHostileAnswersMoveNothing(t *testing.T) {
	deep := strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000)
	noPages := map[string]spoiler{
		"empty": constant(""), "null": constant("null"), "a list": constant("[]"), "a page of a proxy": constant("<html>ok</html>"),
		"no Response": constant("{}"), "Response is null": constant(`{"Response":null}`), "Response is a text": constant(`{"Response":"x"}`),
		"deep": constant(`{"Response":` + deep + `}`), "deep without an end": constant(`{"Response":{"List":[` + strings.Repeat(`{"a":[`, 200_000)),
		"an error":            constant(`{"Response":{"Error":{"Code":"FailedOperation","Message":"x"},"RequestId":"r"}}`),
		"an error and a list": replaced("Error", `{"Code":"InternalError","Message":"x"}`),
		"no list":             replaced("List", ""), "list is an object": replaced("List", `{"0":{"EventId":9}}`), "list is a number": replaced("List", "7"),
		"two values": func(_ *rand.Rand, b []byte) []byte { return append(b, b...) },
		"cut":        func(r *rand.Rand, b []byte) []byte { return b[:r.IntN(len(b))] },
		"a key twice": func(_ *rand.Rand, b []byte) []byte {
			return append(bytes.TrimSuffix(b, []byte("}")), []byte(`,"Response":{"Error":{"Code":"InternalError"}}}`)...)
		},
	}
	uncertified := map[string]spoiler{
		"total is negative": replaced("TotalCount", "-5"), "total is absurd": replaced("TotalCount", "1e30"),
		"total is a text": replaced("TotalCount", `"many"`), "total is huge": replaced("TotalCount", "9223372036854775807"),
		"no total": replaced("TotalCount", ""),
	}
	for _, group := range []struct {
		spoilers map[string]spoiler
		mayTake  bool
	}{{noPages, false}, {uncertified, true}} {
		for name, spoil := range group.spoilers {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				hostile(t, spoil, group.mayTake)
			})
		}
	}
}

func hostile(t *testing.T, spoil spoiler, mayTake bool) {
	t.Helper()
	r := newRig(t, 7, 0)
	api := emulator.New(emulator.Config{Events: 250, Seed: 7, Limit: 10_000})
	r.world = api.World()
	var spoiled atomic.Bool
	r.opt.API = overNetwork(t, api, func(random *rand.Rand, body []byte) []byte {
		if spoiled.Load() {
			return spoil(random, body)
		}
		return body
	})
	if cert, err := r.once(t.Context()); err != nil || !cert.Certified {
		t.Fatalf("%+v, %v", cert, err)
	}
	before, known := len(r.records()), r.pairs()
	source, err := r.file.Source(t.Context(), "prod", "risk_process")
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		r.world.Step(time.Now())
	}
	spoiled.Store(true)
	// What is no answer is asked for again, for ever.
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	cert, _ := r.once(ctx)
	if cert.Certified {
		t.Errorf("certificate %+v", cert)
	}
	if !mayTake {
		if n := len(r.records()); n != before {
			t.Errorf("%d records, %d before", n, before)
		}
	}
	after, err := r.file.Source(t.Context(), "prod", "risk_process")
	if err != nil || !after.LastCertAt.Equal(source.LastCertAt) {
		t.Errorf("the last certificate is of %v, %v, was of %v", after.LastCertAt, err, source.LastCertAt)
	}
	if lost := r.untrue(); len(lost) > 0 {
		t.Errorf("%d records were never true", len(lost))
	}
	now := r.pairs()
	for id := range known {
		if now[id] == "" {
			t.Errorf("event %s is not known any more", id)
		}
	}
	spoiled.Store(false)
	if cert, err := r.once(t.Context()); err != nil || !cert.Certified {
		t.Errorf("afterwards: %+v, %v", cert, err)
	}
}

// overNetwork is a client of an emulated API whose answers pass through spoil.
func overNetwork(t *testing.T, api *emulator.Server, spoil spoiler) *cwp.Client {
	t.Helper()
	random := rand.New(rand.NewPCG(1, 2))
	var asked atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if asked.Add(1) > 5000 {
			panic("asked for ever")
		}
		rec := httptest.NewRecorder()
		api.ServeHTTP(rec, q)
		body, err := io.ReadAll(rec.Body)
		if err != nil {
			panic(err)
		}
		_, _ = w.Write(spoil(random, body))
	}))
	t.Cleanup(srv.Close)
	cfg := cwp.Config{Endpoint: srv.URL, RequestsPerSecond: 20, Credentials: cwp.CredentialsConfig{
		Provider: "static", SecretID: emulator.DefaultSecretID, SecretKey: secret.New(emulator.DefaultSecretKey),
	}}.WithDefaults()
	creds, err := cwp.NewProvider(cfg, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cwp.New(cfg, cwp.KindByName("risk_process"), cwp.Options{Credentials: creds, Limits: cwp.NewLimits(), UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
