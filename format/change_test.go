package format_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/format"
)

func changed(t *testing.T, name string, changes []format.Change, item map[string]any) []byte {
	t.Helper()
	if err := format.CheckChanges(name, format.Config{}, changes); err != nil {
		t.Fatal(err)
	}
	enc, err := format.New(name, format.Config{}, changes...)
	if err != nil {
		t.Fatal(err)
	}
	out, err := enc([]byte("before"), record(t, with(t, item), ordinary()))
	if err != nil {
		t.Fatal(err)
	}
	return bytes.TrimPrefix(out, []byte("before"))
}

func TestChangesOfDocuments(t *testing.T) {
	item := map[string]any{"EventId": json.Number("9007199254740993"), "SuggestSolution": "x", "CmdLine": "a\u2028<b>"}
	before := paths(t, encode(t, format.ECS, record(t, with(t, item), ordinary())))
	out := changed(t, format.ECS, []format.Change{
		{Drop: "tencent_cloud.cwp.suggest_solution"},
		{Drop: "observer"},
		{Drop: "threat"},
		{Rename: "process.command_line", To: "process.args_text"},
		{Rename: "process.args_text", To: "cmd"},
		{Set: "soc.team", Value: "blue"},
		{Set: "message", Value: `own "text"`},
		{Rename: "tencent_cloud.cwp.event_id", To: "vendor.id"},
		{Drop: "process.start"},
	}, item)
	if bytes.ContainsAny(out, "\r\n\u2028") {
		t.Errorf("more than one line: %q", out)
	}
	after := paths(t, out)
	want := maps.Clone(before)
	maps.DeleteFunc(want, func(path string, _ any) bool {
		return strings.HasPrefix(path, "observer.") || strings.HasPrefix(path, "threat.") || slices.Contains([]string{
			"tencent_cloud.cwp.suggest_solution", "process.command_line", "tencent_cloud.cwp.event_id", "process.start",
		}, path)
	})
	want["cmd"], want["soc.team"], want["message"], want["vendor.id"] = before["process.command_line"], "blue", `own "text"`, json.Number("9007199254740993")
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestChangesOfText(t *testing.T) {
	keys := textKeys(t)
	item := map[string]any{"CmdLine": "a b=c dst=1.1.1.1 x", "ThreatDesc": "d"}
	r := record(t, with(t, item), ordinary())
	_, before, err := readCEF(string(encode(t, format.CEF, r)))
	if err != nil {
		t.Fatal(err)
	}
	out := string(changed(t, format.CEF, []format.Change{
		{Drop: "reason"}, {Drop: "cs5"}, {Rename: "cs3", To: "flexString1"}, {Set: "cs4", Value: "k=v\nw"}, {Set: "cs4Label", Value: "Team"}, {Set: "msg", Value: "m"},
	}, item))
	_, after, err := readCEF(out)
	if err != nil {
		t.Fatal(err)
	}
	want := maps.Clone(before)
	for _, gone := range []string{"reason", "cs5", "cs5Label", "cs3", "cs3Label"} {
		delete(want, gone)
	}
	want["flexString1"], want["flexString1Label"], want["cs4"], want["cs4Label"], want["msg"] = before["cs3"], "CommandLine", "k=v\nw", "Team", "m"
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("CEF (-want +got):\n%s", diff)
	}
	if err := cefMistakes(keys, map[string]string{"cs4": "x", "cs4Label": after["cs4Label"]}); err != nil {
		t.Error(err)
	}

	_, before, err = readLEEF(string(encode(t, format.LEEF, r)))
	if err != nil {
		t.Fatal(err)
	}
	_, after, err = readLEEF(string(changed(t, format.LEEF, []format.Change{
		{Drop: "threatDesc"}, {Rename: "hostName", To: "identHostName"}, {Set: "team", Value: "blue\tred"}, {Rename: "quuid", To: "cat"},
	}, item)))
	if err != nil {
		t.Fatal(err)
	}
	want = maps.Clone(before)
	delete(want, "threatDesc")
	want["identHostName"], want["team"] = before["hostName"], "blue red"
	delete(want, "hostName")
	if v, ok := want["quuid"]; ok {
		want["cat"] = v
		delete(want, "quuid")
	}
	if diff := cmp.Diff(want, after); diff != "" {
		t.Errorf("LEEF (-want +got):\n%s", diff)
	}
}

func TestMistakesInChanges(t *testing.T) {
	for name, tt := range map[string]struct {
		format string
		change format.Change
		want   string
	}{
		"nothing":           {format.ECS, format.Change{}, "[0]: give exactly one"},
		"two":               {format.ECS, format.Change{Drop: "message", Set: "x", Value: "y"}, "[0]: give exactly one"},
		"no to":             {format.ECS, format.Change{Rename: "message"}, "[0]: rename goes with to"},
		"to alone":          {format.ECS, format.Change{Drop: "message", To: "x"}, "[0]: rename goes with to"},
		"value alone":       {format.ECS, format.Change{Drop: "message", Value: "x"}, "[0]: value goes with set"},
		"no value":          {format.ECS, format.Change{Set: "x"}, "[0]: set goes with a value"},
		"unknown":           {format.ECS, format.Change{Drop: "process.pidd"}, `[0]: format ecs has no field "process.pidd"; there are: @timestamp, `},
		"unknown in text":   {format.LEEF, format.Change{Rename: "x", To: "y"}, `[0]: format leef has no field "x"; there are: action, `},
		"object renamed":    {format.ECS, format.Change{Rename: "process", To: "y"}, `[0]: "process" is an object`},
		"object overridden": {format.ECS, format.Change{Set: "process", Value: "y"}, `[0]: "process" is an object`},
		"in a field":        {format.ECS, format.Change{Set: "message.text", Value: "y"}, `[0]: "message" is a field`},
		"time":              {format.ECS, format.Change{Drop: "@timestamp"}, "[0]: @timestamp stays"},
		"name":              {format.ECS, format.Change{Set: "a b", Value: "y"}, `[0]: "a b": use letters`},
		"empty part":        {format.ECS, format.Change{Set: "a..b", Value: "y"}, `[0]: "a..b": use letters`},
		"key":               {format.CEF, format.Change{Set: "a.b", Value: "y"}, `[0]: "a.b": a key is letters and digits`},
		"long":              {format.CEF, format.Change{Set: strings.Repeat("a", 201), Value: "y"}, `[0]: "aaa`},
		"raw":               {format.Raw, format.Change{Drop: "x"}, "format raw cannot be changed"},
		"text":              {format.Text, format.Change{Drop: "x"}, "format text cannot be changed"},
		"none":              {"", format.Change{Drop: "x"}, "the sink makes its own messages"},
	} {
		err := format.CheckChanges(tt.format, format.Config{}, []format.Change{tt.change})
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A step sees what those before it made.
	if err := format.CheckChanges(format.ECS, format.Config{}, []format.Change{{Rename: "message", To: "text"}, {Drop: "text"}, {Drop: "text"}}); err == nil ||
		!strings.HasPrefix(err.Error(), "[2]: format ecs has no field") || strings.Contains(err.Error(), "\n") {
		t.Errorf("steps: %v", err)
	}
}

// Every field that records have is listed, with what it is made of.
func TestFieldsAreAllThere(t *testing.T) {
	for _, name := range []string{format.ECS, format.OCSF, format.Splunk} {
		known := map[string]bool{}
		for _, f := range format.Fields(name, format.Config{}) {
			known[f.Name] = true
		}
		for _, r := range slices.Concat(variants(t), later(t)) {
			for path := range paths(t, encode(t, name, r)) {
				if !known[path] {
					t.Errorf("%s: field %s is not listed", name, path)
				}
			}
		}
	}
	for _, name := range []string{format.CEF, format.LEEF} {
		known := map[string]bool{}
		for _, f := range format.Fields(name, format.Config{}) {
			known[f.Name] = true
		}
		for _, r := range slices.Concat(variants(t), later(t)) {
			read := readCEF
			if name == format.LEEF {
				read = readLEEF
			}
			_, pairs, err := read(string(encode(t, name, r)))
			if err != nil {
				t.Fatal(err)
			}
			for key := range pairs {
				if !known[key] {
					t.Errorf("%s: key %s is not listed", name, key)
				}
			}
		}
	}
	from := map[string][]string{}
	for _, f := range format.Fields(format.ECS, format.Config{}) {
		from[f.Name] = f.From
	}
	for name, want := range map[string][]string{
		"process.pid": {"ProcessId"}, "process.entity_id": {"MachineExtraInfo.InstanceID", "ProcessId", "StartTime", "Uuid"},
		"ecs.version": nil, "file.name": {"FilePath"}, "tencent_cloud.cwp.revision": {"revision"},
	} {
		if diff := cmp.Diff(want, from[name]); diff != "" {
			t.Errorf("%s is made of (-want +got):\n%s", name, diff)
		}
	}
}

// FuzzChange carries out changes with any paths: what comes out is one JSON
// object, and an integer stays exact.
func FuzzChange(f *testing.F) {
	f.Add("event.kind", "a.b.c", "x", "text")
	f.Add("tencent.cwp", "tencent", "event", "\x00\n\"")
	f.Add("", "..", ".", "")
	rec := samples(f)[0]
	f.Fuzz(func(t *testing.T, drop, rename, to, value string) {
		var changes []format.Change
		for _, c := range []format.Change{{Drop: drop}, {Rename: rename, To: to}, {Set: to, Value: value}} {
			if c.Drop+c.Rename+c.Set != "" {
				changes = append(changes, c)
			}
		}
		if format.CheckChanges("ecs", format.Config{}, changes) != nil {
			return
		}
		encode, err := format.New("ecs", format.Config{}, changes...)
		if err != nil {
			t.Fatalf("%+v pass the check and cannot be used: %v", changes, err)
		}
		body, err := encode(nil, rec)
		var doc map[string]any
		if err != nil || json.Unmarshal(body, &doc) != nil {
			t.Errorf("%+v gives %q, %v", changes, body, err)
		}
	})
}
