package elastic

import (
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// templateJSON is the index template of the data stream, with a mapping of
// each field that the ECS format sends.
//
//go:embed template.json
var templateJSON []byte

// Template returns the index template as it is shipped, for those who install
// it themselves.
func Template() []byte { return append([]byte(nil), templateJSON...) }

// Setup makes what the sink needs in its cluster: the lifecycle, when records
// are not to be kept for ever, and the index template. It changes nothing that
// is there and is not its own, and says what it did, a line each. It may be
// called again.
func (s *Sink) Setup(ctx context.Context) (done []string, err error) {
	server, err := s.product(ctx)
	if err != nil {
		return nil, err
	}
	done = append(done, "server: "+server.String())
	if s.cfg.KeepDays > 0 {
		line, err := s.setupLifecycle(ctx, server)
		if err != nil {
			return done, err
		}
		done = append(done, line)
	}
	line, err := s.setupTemplate(ctx, server)
	if err != nil {
		return done, err
	}
	return append(done, line), nil
}

// ours reports whether the index is a data stream by the template's own name.
func (s *Sink) ours() bool { return strings.HasPrefix(s.cfg.Index, streams) }

// name is that of template and lifecycle.
func (s *Sink) name() string {
	if s.ours() {
		return strings.TrimSuffix(streams, "-")
	}
	return "cwprelay-" + s.cfg.Index
}

type meta struct {
	ManagedBy string `json:"managed_by"`
	Version   int    `json:"version"`
	KeepDays  int    `json:"keep_days,omitempty"`
}

func (s *Sink) setupTemplate(ctx context.Context, server product) (string, error) {
	body, want, err := s.template(server)
	if err != nil {
		return "", err
	}
	path := "/_index_template/" + url.PathEscape(s.name())
	r, err := s.exchange(ctx, http.MethodGet, path, nil)
	if err != nil {
		return "", err
	}
	verb := "made"
	if r.Status != http.StatusNotFound {
		if err := r.Class(); err != nil {
			return "", fmt.Errorf("look for the index template: %w", err)
		}
		var found struct {
			Templates []struct {
				Template struct {
					Meta meta `json:"_meta"`
				} `json:"index_template"`
			} `json:"index_templates"`
		}
		if err := json.Unmarshal(r.Body, &found); err != nil || len(found.Templates) != 1 {
			return "", fmt.Errorf("look for the index template: %s", r.Excerpt())
		}
		switch have := found.Templates[0].Template.Meta; {
		case have.ManagedBy != want.ManagedBy:
			return "", sinks.Halt(fmt.Errorf("index template %s is there and is not ours: remove it, or leave it and set nothing up", s.name()))
		case have == want:
			return fmt.Sprintf("index template %s: there already, version %d", s.name(), have.Version), nil
		case have.Version > want.Version:
			return fmt.Sprintf("index template %s: there already, newer: version %d", s.name(), have.Version), nil
		}
		verb = "renewed; it counts for backing indices from the next rollover on"
	}
	if err := s.put(ctx, path, body); err != nil {
		return "", fmt.Errorf("make the index template: %w", err)
	}
	return fmt.Sprintf("index template %s: %s", s.name(), verb), nil
}

// template is the shipped one, as this server and configuration need it.
func (s *Sink) template(server product) (body []byte, m meta, err error) {
	var t map[string]any
	if err := json.Unmarshal(templateJSON, &t); err != nil {
		return nil, m, fmt.Errorf("read the index template: %w", err)
	}
	inner := t["template"].(map[string]any)
	if !s.ours() {
		t["index_patterns"] = []string{s.cfg.Index}
	}
	if s.cfg.KeepDays > 0 && !server.opensearch() { // OpenSearch's policy names the indices itself
		inner["settings"].(map[string]any)["index"].(map[string]any)["lifecycle"] = map[string]any{"name": s.name()}
	}
	if server.opensearch() {
		// It knows no missing components, and no constant without a value.
		delete(t, "composed_of")
		delete(t, "ignore_missing_component_templates")
		properties := inner["mappings"].(map[string]any)["properties"].(map[string]any)
		stream := properties["data_stream"].(map[string]any)["properties"].(map[string]any)
		stream["namespace"] = map[string]any{"type": "keyword"}
	}
	raw := t["_meta"].(map[string]any)
	m = meta{ManagedBy: raw["managed_by"].(string), Version: int(raw["version"].(float64)), KeepDays: s.cfg.KeepDays}
	if m.KeepDays > 0 {
		raw["keep_days"] = m.KeepDays
	}
	body, err = json.Marshal(t)
	return body, m, err
}

// setupLifecycle makes the policy that rolls over and deletes: ILM of
// Elasticsearch, ISM of OpenSearch.
func (s *Sink) setupLifecycle(ctx context.Context, server product) (string, error) {
	age := fmt.Sprintf("%dd", s.cfg.KeepDays)
	path := "/_ilm/policy/" + url.PathEscape(s.name())
	policy := map[string]any{"policy": map[string]any{"phases": map[string]any{
		"hot":    map[string]any{"actions": map[string]any{"rollover": map[string]any{"max_age": "30d", "max_primary_shard_size": "50gb"}}},
		"delete": map[string]any{"min_age": age, "actions": map[string]any{"delete": map[string]any{}}},
	}}}
	if server.opensearch() {
		path = "/_plugins/_ism/policies/" + url.PathEscape(s.name())
		pattern := s.cfg.Index
		if s.ours() {
			pattern = streams + "*"
		}
		policy = map[string]any{"policy": map[string]any{
			"description": "Findings of Tencent Cloud Workload Protection, from cwprelay", "default_state": "hot",
			"states": []any{
				map[string]any{
					"name": "hot", "actions": []any{map[string]any{"rollover": map[string]any{"min_index_age": "30d", "min_primary_shard_size": "50gb"}}},
					"transitions": []any{map[string]any{"state_name": "delete", "conditions": map[string]any{"min_rollover_age": age}}},
				},
				map[string]any{"name": "delete", "actions": []any{map[string]any{"delete": map[string]any{}}}, "transitions": []any{}},
			},
			"ism_template": []any{map[string]any{"index_patterns": []string{pattern}, "priority": 250}},
		}}
		// A policy that is there is replaced only by who names its version.
		r, err := s.exchange(ctx, http.MethodGet, path, nil)
		if err != nil {
			return "", err
		}
		if r.Status == http.StatusOK {
			return fmt.Sprintf("lifecycle %s: there already, left as it is", s.name()), nil
		}
		if noHandler(r) {
			return "", sinks.Halt(fmt.Errorf("this OpenSearch has no index state management: leave keep_days out, or install the plugin"))
		}
	}
	body, err := json.Marshal(policy)
	if err != nil {
		return "", fmt.Errorf("encode the lifecycle: %w", err)
	}
	if err := s.put(ctx, path, body); err != nil {
		return "", fmt.Errorf("make the lifecycle: %w", err)
	}
	return fmt.Sprintf("lifecycle %s: deletes %d days after rollover", s.name(), s.cfg.KeepDays), nil
}

func noHandler(r *httpx.Response) bool {
	return r.Status == http.StatusBadRequest && strings.Contains(string(r.Body), "no handler found")
}

func (s *Sink) put(ctx context.Context, path string, body []byte) error {
	r, err := s.exchange(ctx, http.MethodPut, path, plain(body))
	if err != nil {
		return err
	}
	return r.Class()
}

// plain is a body that is there already.
func plain(body []byte) *content {
	return &content{mime: "application/json", size: len(body), write: func(w io.Writer) error {
		_, err := w.Write(body)
		return err
	}}
}
