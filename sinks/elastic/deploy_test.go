package elastic_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/sinks/elastic"
)

func deployed(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("..", "..", "deploy", "elastic", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// What is in deploy/elastic is what set-up makes.
func TestDeployedFilesAreThoseOfSetUp(t *testing.T) {
	if !bytes.Equal(deployed(t, "index-template.json"), elastic.Template()) {
		t.Error("index-template.json is not sinks/elastic/template.json: copy it")
	}
	for file, x := range map[string]struct{ path, distribution string }{
		"ilm-policy.json": {"/_ilm/policy/", ""},
		"ism-policy.json": {"/_plugins/_ism/policies/", `,"distribution":"opensearch"`},
	} {
		var made []byte
		url := serve(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.URL.Path == "/":
				_, _ = fmt.Fprintf(w, `{"version":{"number":"8.19.0"%s}}`, x.distribution)
			case r.Method == http.MethodPut:
				if body, _ := io.ReadAll(r.Body); strings.HasPrefix(r.URL.Path, x.path) {
					made = body
				}
				_, _ = io.WriteString(w, `{"acknowledged":true}`)
			default:
				w.WriteHeader(http.StatusNotFound)
			}
		})
		s := open(t, elastic.Config{URLs: []string{url}, KeepDays: 90, Compression: elastic.CompressionNone}, elastic.Options{})
		if _, err := s.Setup(t.Context()); err != nil {
			t.Fatal(err)
		}
		var want, got any
		if err := json.Unmarshal(made, &want); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(deployed(t, file), &got); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-set-up +file):\n%s", file, diff)
		}
	}
}

// A saved object of a dashboard.
type savedObject struct {
	Type, ID   string
	Attributes struct {
		Title, VisState, PanelsJSON string
		Columns                     []string
		KibanaSavedObjectMeta       struct{ SearchSourceJSON string }
	}
	References []struct{ Name, Type, ID string }
}

// visual is what a visualization searches.
type visual struct {
	Aggs []struct {
		ID, Type, Schema string
		Params           struct {
			Field string
			Size  int
		}
	}
}

func savedObjects(t *testing.T) []savedObject {
	t.Helper()
	var list []savedObject
	for line := range bytes.Lines(deployed(t, "dashboard.ndjson")) {
		var o savedObject
		if err := json.Unmarshal(line, &o); err != nil {
			t.Fatal(err)
		}
		list = append(list, o)
	}
	return list
}

// typesOf are the mapped fields and their types.
func typesOf(t *testing.T) map[string]string {
	t.Helper()
	var template struct {
		Template struct {
			Mappings struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(elastic.Template(), &template); err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	var walk func(path string, properties map[string]any)
	walk = func(path string, properties map[string]any) {
		for name, v := range properties {
			field := v.(map[string]any)
			if inner, ok := field["properties"].(map[string]any); ok {
				walk(path+name+".", inner)
			} else {
				out[path+name] = field["type"].(string)
			}
		}
	}
	walk("", template.Template.Mappings.Properties)
	return out
}

func TestDashboardFitsTheTemplate(t *testing.T) {
	types := typesOf(t)
	there := map[string]bool{}
	objects := savedObjects(t)
	for _, o := range objects {
		there[o.Type+"/"+o.ID] = true
	}
	visuals := 0
	for _, o := range objects {
		for _, r := range o.References {
			if !there[r.Type+"/"+r.ID] {
				t.Errorf("%s refers to %s/%s, which is not there", o.ID, r.Type, r.ID)
			}
		}
		for _, column := range o.Attributes.Columns {
			if types[column] == "" {
				t.Errorf("%s shows %s, which is not mapped", o.ID, column)
			}
		}
		if o.Type != "visualization" {
			continue
		}
		visuals++
		var v visual
		if err := json.Unmarshal([]byte(o.Attributes.VisState), &v); err != nil {
			t.Fatal(err)
		}
		for _, a := range v.Aggs {
			if kind := types[a.Params.Field]; a.Params.Field != "" && kind != "keyword" && kind != "date" {
				t.Errorf("%s groups by %s, which is %q", o.ID, a.Params.Field, kind)
			}
		}
	}
	if visuals < 8 {
		t.Errorf("%d visualizations", visuals)
	}
}

// searches are those of the dashboard's visualizations, as a cluster takes
// them, by their titles.
func searches(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, o := range savedObjects(t) {
		if o.Type != "visualization" {
			continue
		}
		var v visual
		if err := json.Unmarshal([]byte(o.Attributes.VisState), &v); err != nil {
			t.Fatal(err)
		}
		inner := map[string]any{}
		for _, a := range slices.Backward(v.Aggs) {
			switch a.Type {
			case "count":
			case "cardinality":
				inner[a.ID] = map[string]any{"cardinality": map[string]any{"field": a.Params.Field}}
			case "terms", "date_histogram":
				agg := map[string]any{"field": a.Params.Field}
				if a.Type == "terms" {
					agg["size"] = a.Params.Size
				} else {
					agg["fixed_interval"] = "1d"
				}
				level := map[string]any{a.Type: agg}
				if len(inner) > 0 {
					level["aggs"] = maps.Clone(inner)
				}
				inner = map[string]any{a.ID: level}
			default:
				t.Fatalf("%s: aggregation %s", o.ID, a.Type)
			}
		}
		var source struct{ Query struct{ Query string } }
		if err := json.Unmarshal([]byte(o.Attributes.KibanaSavedObjectMeta.SearchSourceJSON), &source); err != nil {
			t.Fatal(err)
		}
		// The query language of these dashboards and that of a query string
		// differ in comparisons only.
		query := strings.NewReplacer(" : ", ":", " >= ", ":>=", " and ", " AND ").Replace(source.Query.Query)
		if query == "" {
			query = "*"
		}
		body, err := json.Marshal(map[string]any{
			"size": 0, "track_total_hits": true, "query": map[string]any{"query_string": map[string]any{"query": query}}, "aggs": inner,
		})
		if err != nil {
			t.Fatal(err)
		}
		out[o.Attributes.Title] = string(body)
	}
	return out
}
