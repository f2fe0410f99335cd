package webhook_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// ecs encodes a record as the sink's messages are.
func ecs(tb testing.TB, r *event.Record) sinks.Message {
	tb.Helper()
	encode, err := format.New(format.ECS, format.Config{})
	if err != nil {
		tb.Fatal(err)
	}
	body, err := encode(nil, r)
	if err != nil {
		tb.Fatal(err)
	}
	return sinks.Message{Record: r, Body: body}
}

func TestTemplateShowsTheEvent(t *testing.T) {
	v := &receiver{}
	s := open(t, webhook.Config{URL: serve(t, v), Values: headers("key", `a"b`), Template: `
		{"message": {{json .message}}, "id": {{json (get "tencent_cloud.cwp.event_id")}}, "exact": {{.tencent_cloud.cwp.event_id}},
		"none": {{json (get "a.b")}}, "deep": {{json (get "message.x")}}, "tags": {{json .tags}}, "html": {{json (get "rule.name")}}, "key": {{json (value "key")}},
		"record": {{json (printf "%s %s %s %s %s %t" uid finding_uid action kind status closed)}}}`})
	r := sinktest.Record(1)
	r.Key.ID = "9007199254740993"
	r.Raw = []byte(`{"EventId":9007199254740993,"VirusName":"<b>&","HandleStatus":0}`)
	if _, err := s.Send(t.Context(), []sinks.Message{ecs(t, r)}); err != nil {
		t.Fatal(err)
	}
	body := v.requests()[0].Body
	for _, want := range []string{
		`"id": 9007199254740993,`, `"exact": 9007199254740993,`, `"none": ""`, `"deep": ""`, `"tags": ["forwarded",`, `"html": "<b>&"`, `"key": "a\"b"`,
		`"record": "` + r.UID + ` tencent-cwp:1300000001:risk_process:9007199254740993 detected risk_process pending false"`,
	} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in %s", want, body)
		}
	}
}

// An event of which a template can make nothing is refused, without showing
// it; others are sent.
func TestEventThatDoesNotFitTheTemplate(t *testing.T) {
	for name, x := range map[string]struct{ template, body string }{
		"of another form": {`{"a":{{json .rule.name}}}`, `{"rule":"s3cr3t-of-event"}`},
		"no object":       {`{"a":1}`, `"s3cr3t-of-event"`},
		"not JSON":        {`{"a":{{.event.severity}}}`, `{"event":{"severity":"s3cr3t-of-event"}}`},
		"a list":          {`{"a":{{json (index .tags 1)}}}`, `{"tags":["s3cr3t-of-event"]}`},
	} {
		t.Run(name, func(t *testing.T) {
			v := &receiver{}
			batch := []sinks.Message{ecs(t, sinktest.Record(1)), ecs(t, sinktest.Record(2)), ecs(t, sinktest.Record(3))}
			batch[1].Body = []byte(x.body)
			for _, mode := range []string{webhook.BatchSingle, webhook.BatchNDJSON} {
				_, err := open(t, webhook.Config{URL: serve(t, v), Template: x.template, Batch: mode}).Send(t.Context(), batch)
				want := map[int]sinks.Class{1: sinks.ClassPoison, 2: 0}
				if mode == webhook.BatchNDJSON {
					want = map[int]sinks.Class{1: sinks.ClassPoison}
				}
				wantClasses(t, err, want)
				if strings.Contains(err.Error(), "s3cr3t") {
					t.Errorf("shows the event: %v", err)
				}
			}
		})
	}
}

// Lines made by a template are lines, however the template is written.
func TestTemplatesOfLines(t *testing.T) {
	v := &receiver{}
	s := open(t, webhook.Config{URL: serve(t, v), Batch: webhook.BatchNDJSON, Template: "{\n  \"uid\": {{json uid}}\n}\n"})
	batch := sinktest.Messages(2)
	if _, err := s.Send(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	want := `{"uid":"` + batch[0].Record.UID + "\"}\n" + `{"uid":"` + batch[1].Record.UID + "\"}\n"
	if diff := cmp.Diff(want, v.requests()[0].Body); diff != "" {
		t.Errorf("body (-want +got):\n%s", diff)
	}
}

// FuzzTemplate: whatever an event holds, a body made with json stays JSON and
// says what the event says.
func FuzzTemplate(f *testing.F) {
	f.Add("a\"b", "{{.}}")
	f.Add("\u2028</script>", "\x00\xff")
	f.Add(`","x":"`, "\\")
	var sent []byte // one request at a time
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { sent, _ = io.ReadAll(r.Body) }))
	defer srv.Close()
	s := webhook.New(webhook.Config{
		URL: secret.New(srv.URL), AllowPrivate: true,
		Template: `{"v":{{json (get "rule.name")}},"c":{{json (printf "%.130s" (get "process.command_line"))}},"all":{{json .}}}`,
	})
	defer s.Close()
	f.Fuzz(func(t *testing.T, virus, command string) {
		raw, err := json.Marshal(map[string]any{"EventId": 1, "VirusName": virus, "CmdLine": command})
		if err != nil {
			t.Fatal(err)
		}
		r := &event.Record{Key: event.Key{Kind: "risk_process", ID: "1"}, UID: "u", Action: event.Detected, Zone: "UTC", Dialect: "record", Raw: raw}
		m := ecs(t, r)
		if _, err := s.Send(t.Context(), []sinks.Message{m}); err != nil {
			t.Fatal(err)
		}
		var got struct {
			V, C string
			All  map[string]any
		}
		if err := json.Unmarshal(sent, &got); err != nil {
			t.Fatalf("%v: %s", err, sent)
		}
		var want map[string]any
		if err := json.Unmarshal(m.Body, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got.All); diff != "" {
			t.Errorf("event (-want +got):\n%s", diff)
		}
		rule, _ := want["rule"].(map[string]any)
		if name, _ := rule["name"].(string); got.V != name {
			t.Errorf("rule %q, want %q", got.V, name)
		}
	})
}
