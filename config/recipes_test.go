package config_test

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// at is the value at a path of a document; a number is an index.
func at(doc any, path string) any {
	for part := range strings.SplitSeq(path, ".") {
		switch v := doc.(type) {
		case map[string]any:
			doc = v[part]
		case []any:
			if len(v) == 0 {
				return nil
			}
			doc = v[0]
		default:
			return nil
		}
	}
	return doc
}

// TestRecipesSendWhatTheProductsAskFor loads each block of docs/recipes.md and
// renders it.
func TestRecipesSendWhatTheProductsAskFor(t *testing.T) {
	want := map[string]map[string]any{
		"teams": {
			"type": "message", "attachments.0.contentType": "application/vnd.microsoft.card.adaptive", "attachments.0.content.type": "AdaptiveCard",
			"attachments.0.content.body.0.inlines.0.text": "Tencent CWP: Linux.Scanner.Fscan process detected on dataHub",
		},
		"pagerduty": {
			"routing_key": "R0UT1NG", "event_action": "trigger", "dedup_key": "tencent-cwp:1300000001:risk_process:1", "payload.severity": "warning",
			"payload.summary": "Tencent CWP: Linux.Scanner.Fscan process detected on dataHub", "payload.source": "datahub", "payload.timestamp": "2023-09-16T10:30:55.000Z",
		},
		"opsgenie": {
			"message": "Tencent CWP: Linux.Scanner.Fscan process detected on dataHub", "alias": "tencent-cwp:1300000001:risk_process:1", "priority": "P3", "source": "cwprelay",
		},
		"n8n":   {"event.id": "tencent-cwp:1300000001:risk_process:1"},
		"tines": {"event.id": "tencent-cwp:1300000001:risk_process:1"},
	}
	text, err := os.ReadFile("../docs/recipes.md")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for block := range strings.SplitSeq(string(text), "```yaml\n") {
		block, _, closed := strings.Cut(block, "```")
		if !closed || !strings.HasPrefix(block, "sinks:") {
			continue
		}
		cfg, err := config.Load(config.Options{
			Path: write(t, "sources: {prod: {site: intl}}\n"+block),
			Environ: []string{
				"TEAMS_WEBHOOK_URL=https://t.example/x", "PAGERDUTY_ROUTING_KEY=R0UT1NG", "OPSGENIE_KEY=k", "N8N_WEBHOOK_URL=https://n.example/x", "N8N_KEY=k", "TINES_WEBHOOK_URL=https://t.example/x",
			},
		})
		if err != nil {
			t.Errorf("%v\n%s", err, block)
			continue
		}
		for name, sink := range cfg.Sinks {
			found++
			got := rendered(t, *sink.Kind.Webhook)
			for path, value := range want[name] {
				if at(got, path) != value {
					t.Errorf("%s: %s is %v, want %v", name, path, at(got, path), value)
				}
			}
		}
	}
	if found != len(want) {
		t.Errorf("%d recipes, want %d", found, len(want))
	}
}

// rendered is what a webhook sends for an event.
func rendered(t *testing.T, cfg webhook.Config) (got any) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("%v: %s", err, body)
		}
	}))
	defer srv.Close()
	cfg.URL, cfg.AllowPrivate = secret.New(srv.URL), true
	encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	r := sinktest.Record(1)
	body, err := encode(nil, r)
	if err != nil {
		t.Fatal(err)
	}
	s := webhook.New(cfg)
	defer s.Close()
	if _, err := s.Send(t.Context(), []sinks.Message{{Record: r, Body: body}}); err != nil {
		t.Fatal(err)
	}
	return got
}
