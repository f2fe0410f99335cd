package format_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// ocsfSchema is the class as the framework compiled it, and what a JSON Schema
// cannot say of it.
type ocsfSchema struct {
	schema *jsonschema.Schema
	enums  map[string]map[string]string
}

func newOCSFSchema(tb testing.TB) ocsfSchema {
	tb.Helper()
	s, err := jsonschema.NewCompiler().Compile(filepath.Join("testdata", "ocsf-1.8.0-detection_finding.schema.json"))
	if err != nil {
		tb.Fatal(err)
	}
	var e struct {
		Enums map[string]map[string]string `json:"enums"`
	}
	if err := json.Unmarshal(read(tb, "ocsf-1.8.0-enums.json"), &e); err != nil || len(e.Enums) < 20 {
		tb.Fatal(err, len(e.Enums))
	}
	return ocsfSchema{s, e.Enums}
}

// check reports everything that is wrong with a document.
func (s ocsfSchema) check(doc map[string]any) error {
	errs := []error{s.schema.Validate(doc)}
	note := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	number := func(name string) int64 {
		n, _ := doc[name].(json.Number)
		i, err := n.Int64()
		if err != nil {
			note("%s is %v", name, doc[name])
		}
		return i
	}
	if number("type_uid") != number("class_uid")*100+number("activity_id") {
		note("type_uid %v of activity %v", doc["type_uid"], doc["activity_id"])
	}
	s.captions(doc, note)
	s.times("", doc, note)
	list, _ := doc["observables"].([]any)
	for _, o := range list {
		o, _ := o.(map[string]any)
		if !slices.Contains(valuesAt(doc, fmt.Sprint(o["name"])), o["value"]) {
			note("observable %v is not there", o)
		}
	}
	return errors.Join(errs...)
}

// captions compares each x_id with its x.
func (s ocsfSchema) captions(doc map[string]any, note func(string, ...any)) {
	for _, place := range []struct{ id, caption, enum string }{
		{"action_id", "action", "action_id"},
		{"activity_id", "activity_name", "activity_id"},
		{"disposition_id", "disposition", "disposition_id"},
		{"severity_id", "severity", "severity_id"},
		{"status_id", "status", "status_id"},
		{"device.type_id", "device.type", "device.type_id"},
		{"device.os.type_id", "device.os.type", "os.type_id"},
		{"finding_info.analytic.type_id", "finding_info.analytic.type", "analytic.type_id"},
		{"malware[].severity_id", "malware[].severity", "malware.severity_id"},
		{"malware[].classification_ids[]", "malware[].classifications[]", "malware.classification_ids"},
		{"observables[].type_id", "observables[].type", "observable.type_id"},
		{"resources[].role_id", "resources[].role", "resource_details.role_id"},
	} {
		ids, names := valuesAt(doc, place.id), valuesAt(doc, place.caption)
		if len(ids) != len(names) {
			note("%s: %v, but %v", place.id, ids, names)
			continue
		}
		for i, id := range ids {
			want, ok := s.enums[place.enum][fmt.Sprint(id)]
			if !ok || fmt.Sprint(id) != "99" && names[i] != want {
				note("%s %v is %q, want %q", place.id, id, names[i], want)
			}
		}
	}
}

// times compares each time with its text.
func (s ocsfSchema) times(path string, v any, note func(string, ...any)) {
	switch v := v.(type) {
	case map[string]any:
		for name, inner := range v {
			s.times(path+"."+name, inner, note)
			if !strings.HasSuffix(name, "_dt") {
				continue
			}
			t, err := time.Parse(time.RFC3339Nano, fmt.Sprint(inner))
			if number, _ := v[strings.TrimSuffix(name, "_dt")].(json.Number); err != nil || number != json.Number(fmt.Sprint(t.UnixMilli())) {
				note("%s.%s is %v, the number is %v", path, name, inner, number)
			}
		}
	case []any:
		for _, inner := range v {
			s.times(path+"[]", inner, note)
		}
	}
}

// valuesAt returns what stands at a path such as "evidences[].process.name".
func valuesAt(v any, path string) []any {
	if path == "" {
		return []any{v}
	}
	name, rest, _ := strings.Cut(path, ".")
	plain, isList := strings.CutSuffix(name, "[]")
	m, _ := v.(map[string]any)
	inner, ok := m[plain]
	switch {
	case !ok:
		return nil
	case !isList:
		return valuesAt(inner, rest)
	}
	var out []any
	list, _ := inner.([]any)
	for _, item := range list {
		out = append(out, valuesAt(item, rest)...)
	}
	return out
}

func TestOCSFFollowsTheSchema(t *testing.T) {
	s := newOCSFSchema(t)
	for _, r := range slices.Concat(variants(t), later(t)) {
		doc := fields(t, encode(t, format.OCSF, r))
		if err := s.check(doc); err != nil {
			t.Errorf("%s\n%s", err, r.Raw)
		}
	}
}

// later are records of each action.
func later(tb testing.TB) []*event.Record {
	tb.Helper()
	var list []*event.Record
	for _, action := range []event.Action{event.Detected, event.Redetected, event.StatusChanged, event.Closed, event.Reopened} {
		s := ordinary()
		s.Action = action
		list = append(list, record(tb, with(tb, map[string]any{"CmdLine": "x --password=hunter2", "CheckPlatform": []string{"3", "4", "77"}}), s))
	}
	return list
}

// The check fails where it should.
func TestOCSFCheckBites(t *testing.T) {
	s := newOCSFSchema(t)
	for name, spoil := range map[string]func(doc map[string]any){
		"no finding":        func(doc map[string]any) { delete(doc, "finding_info") },
		"unknown attribute": func(doc map[string]any) { doc["colour"] = "red" },
		"severity":          func(doc map[string]any) { doc["severity_id"] = json.Number("7") },
		"caption":           func(doc map[string]any) { doc["severity"] = "Fatal" },
		"masked address":    func(doc map[string]any) { doc["device"].(map[string]any)["ip"] = "10.***.***.248" },
		"type":              func(doc map[string]any) { doc["type_uid"] = json.Number("200499") },
		"time":              func(doc map[string]any) { doc["time_dt"] = "2023-09-16T10:30:56.000Z" },
		"observable": func(doc map[string]any) {
			doc["observables"].([]any)[0].(map[string]any)["value"] = "elsewhere"
		},
		"no identity": func(doc map[string]any) { doc["device"] = map[string]any{"type_id": json.Number("1")} },
	} {
		doc := fields(t, encode(t, format.OCSF, example(t, "01-detected")))
		spoil(doc)
		if s.check(doc) == nil {
			t.Errorf("%s: passed", name)
		}
	}
}

// Every class of malware has the name that the framework gives it.
func TestMalwareClassesHaveTheirNames(t *testing.T) {
	s := newOCSFSchema(t)
	for _, row := range format.Categories() {
		r := record(t, with(t, map[string]any{"VirusName": "", "VirusTags": row.Aliases[:1]}), ordinary())
		if got := valuesAt(fields(t, encode(t, format.OCSF, r)), "malware[]"); len(got) != 0 {
			t.Fatalf("malware without a name: %v", got)
		}
		r = record(t, with(t, map[string]any{"VirusName": "X", "VirusTags": row.Aliases[:1]}), ordinary())
		doc := fields(t, encode(t, format.OCSF, r))
		want := s.enums["malware.classification_ids"][fmt.Sprint(row.Classification)]
		if row.Classification == 99 {
			want = row.Category
		}
		if got := valuesAt(doc, "malware[].classifications[]"); len(got) != 1 || got[0] != want {
			t.Errorf("%s: %v, want %s", row.Category, got, want)
		}
	}
}

// What became of a finding, by the table of statuses.
func TestOCSFStatus(t *testing.T) {
	for symbol, want := range map[string][3]string{
		"pending":  {"1", "3", "15"},
		"scanning": {"2", "3", "15"},
		"scanned":  {"4", "2", "2"}, "processed": {"4", "0", "0"},
		"exited":  {"99", "3", "16"},
		"trusted": {"3", "1", "1"}, "ignored": {"3", "1", "1"},
		"unknown": {"0", "0", "0"},
	} {
		r := record(t, with(t, nil), ordinary())
		r = fresh(r)
		r.Status.Symbol = symbol
		doc := fields(t, encode(t, format.OCSF, r))
		got := [3]string{fmt.Sprint(doc["status_id"]), fmt.Sprint(doc["action_id"]), fmt.Sprint(doc["disposition_id"])}
		if got != want {
			t.Errorf("%s: %v, want %v", symbol, got, want)
		}
	}
}
