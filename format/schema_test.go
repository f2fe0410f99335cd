package format_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// An ecsField is what Elastic says of a field.
type ecsField struct {
	Type     string              `json:"type"`
	Array    bool                `json:"array"`
	Allowed  []string            `json:"allowed"`
	Expected map[string][]string `json:"expected_event_types"`
}

func ecsFields(tb testing.TB) map[string]ecsField {
	tb.Helper()
	var list struct{ Fields map[string]ecsField }
	if err := json.Unmarshal(read(tb, "ecs-9.4.0-fields.json"), &list); err != nil {
		tb.Fatal(err)
	}
	if len(list.Fields) < 1000 {
		tb.Fatalf("%d fields", len(list.Fields))
	}
	return list.Fields
}

// vendorTypes are the fields of our own that an index maps to something else
// than text, as in the index template: a document with another value there
// would be refused.
func vendorTypes() map[string]string {
	types := map[string]string{}
	for name, typ := range map[string]string{
		"detect_time": "date", "event_id": "long", "first_detection_method": "long", "handle_status.code": "long",
		"machine.network_type.code": "long", "online_status": "long", "redacted": "boolean", "truncated": "boolean",
		"heartbeat.behind_records": "long", "heartbeat.dead_letters": "long", "heartbeat.interval_seconds": "long", "heartbeat.ready": "boolean",
	} {
		types["tencent_cloud.cwp."+name] = typ
	}
	return types
}

// ecsMistakes checks a document against the list of fields.
func ecsMistakes(known map[string]ecsField, doc map[string]any) []string {
	var wrong []string
	note := func(f string, args ...any) { wrong = append(wrong, fmt.Sprintf(f, args...)) }
	flat := flatten(doc)
	own := vendorTypes()
	for path, v := range flat {
		f, ok := known[path]
		vendor := strings.HasPrefix(path, "tencent_cloud.cwp.")
		if !ok && !vendor {
			note("%s: no such field", path)
			continue
		}
		values, isList := v.([]any)
		if !isList {
			values = []any{v}
		}
		if !vendor && isList != f.Array {
			note("%s: list %v, want %v", path, isList, f.Array)
		}
		if isList && len(values) == 0 {
			note("%s: empty list", path)
		}
		typ := f.Type
		if vendor {
			typ = own[path]
		}
		for _, one := range values {
			if why := ecsType(typ, one); why != "" {
				note("%s: %v: %s", path, one, why)
			}
			if s, isText := one.(string); isText && len(f.Allowed) > 0 && !slices.Contains(f.Allowed, s) {
				note("%s: %q is not allowed", path, s)
			}
		}
	}
	categories, _ := flat["event.category"].([]any)
	types, _ := flat["event.type"].([]any)
	for _, c := range categories {
		for _, typ := range types {
			if !slices.Contains(known["event.category"].Expected[c.(string)], typ.(string)) {
				note("event.type %v is not expected for category %v", typ, c)
			}
		}
	}
	for _, required := range []string{"@timestamp", "ecs.version", "event.kind", "event.category", "event.type", "event.id", "message"} {
		if flat[required] == nil {
			note("%s: missing", required)
		}
	}
	return wrong
}

// ecsType says why a value cannot be indexed as a type.
func ecsType(typ string, v any) string {
	n, isNumber := v.(json.Number)
	s, isText := v.(string)
	switch typ {
	case "long":
		if _, err := strconv.ParseInt(n.String(), 10, 64); !isNumber || err != nil {
			return "no 64-bit integer"
		}
	case "float", "scaled_float", "double":
		if _, err := n.Float64(); !isNumber || err != nil {
			return "no number"
		}
	case "date":
		if t, err := time.Parse(time.RFC3339, s); err != nil || !isText || t.Location() != time.UTC {
			return "no time in UTC"
		}
	case "ip":
		if _, err := netip.ParseAddr(s); err != nil {
			return "no address"
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			return "no boolean"
		}
	default:
		if !isText {
			return "no string"
		}
		if s == "" {
			return "empty"
		}
	}
	return ""
}

// variants are records with everything that can be odd, under every action.
func variants(tb testing.TB) []*event.Record {
	tb.Helper()
	list := samples(tb)
	for name, item := range oddItems() {
		raw, err := json.Marshal(item)
		if err != nil {
			tb.Fatal(name, err)
		}
		list = append(list, record(tb, raw, ordinary()))
	}
	for status := range 7 {
		for _, previous := range []int{0, 3} {
			for _, dialect := range []string{"record", "filter"} {
				s := ordinary()
				s.Dialect, s.Previous, s.Sequence = dialect, &previous, 2
				list = append(list, record(tb, with(tb, map[string]any{"HandleStatus": status, "VirusName": "Linux.Rootkit.Miner"}), s))
			}
		}
	}
	return list
}

// oddItems are events of which no field has the type it should have.
func oddItems() map[string]any {
	names := []string{
		"CheckPlatform", "CmdLine", "DetectTime", "EventId", "ExeMd5", "FilePath", "FirstDetectionMethod", "HandleStatus",
		"HostIp", "HostName", "MachineExtraInfo", "OnlineStatus", "ProcessId", "QUUID", "ReferenceLink", "StartTime",
		"SuggestSolution", "ThreatDesc", "Uuid", "VirusName", "VirusTags", "WanIp",
	}
	machine := []string{"HostName", "InstanceID", "NetworkName", "NetworkType", "PrivateIP", "WanIP"}
	items := map[string]any{"empty": map[string]any{}}
	for name, v := range map[string]any{
		"null": nil, "number": json.Number("1"), "fraction": json.Number("1.5"), "huge": json.Number("1e400"),
		"beyond": json.Number("18446744073709551615"), "negative": json.Number("-1"), "text": "x", "blank": "", "true": true,
		"list": []any{1, "a", nil, []any{"b"}, map[string]any{"c": "d"}}, "object": map[string]any{"HostName": []any{}},
		"digits": "24",
	} {
		item, extra := map[string]any{}, map[string]any{}
		for _, n := range machine {
			extra[n] = v
		}
		for _, n := range names {
			item[n] = v
		}
		items[name] = item
		inner := map[string]any{"MachineExtraInfo": extra}
		items[name+" within"] = inner
	}
	return items
}

func TestECSFollowsTheSchema(t *testing.T) {
	known := ecsFields(t)
	for _, r := range variants(t) {
		b := encode(t, format.ECS, r)
		for _, wrong := range ecsMistakes(known, fields(t, b)) {
			t.Errorf("%s\nin %.300s", wrong, r.Raw)
		}
	}
}

// The check itself must be able to fail.
func TestECSCheckBites(t *testing.T) {
	known := ecsFields(t)
	broken := map[string]func(doc map[string]any){
		"unknown field": func(d map[string]any) { d["process"].(map[string]any)["hostt"] = "x" },
		"masked address": func(d map[string]any) {
			d["host"].(map[string]any)["ip"] = []any{"10.*.*.1"}
		},
		"list missing":  func(d map[string]any) { d["tags"] = "forwarded" },
		"list too many": func(d map[string]any) { d["message"] = []any{"x"} },
		"value":         func(d map[string]any) { d["event"].(map[string]any)["kind"] = "alarm" },
		"type":          func(d map[string]any) { d["event"].(map[string]any)["type"] = []any{"creation"} },
		"float as long": func(d map[string]any) { d["event"].(map[string]any)["severity"] = json.Number("4.5") },
		"local time":    func(d map[string]any) { d["@timestamp"] = "2023-09-16 18:30:55" },
		"time missing":  func(d map[string]any) { delete(d, "@timestamp") },
		"vendor's own":  func(d map[string]any) { d["tencent_cloud"].(map[string]any)["cwp"].(map[string]any)["event_id"] = "24" },
		"empty string":  func(d map[string]any) { d["message"] = "" },
		"truncated list": func(d map[string]any) {
			d["tencent_cloud"].(map[string]any)["cwp"].(map[string]any)["truncated"] = []any{"x"}
		},
	}
	for name, damage := range broken {
		doc := fields(t, encode(t, format.ECS, example(t, "01-detected")))
		damage(doc)
		if len(ecsMistakes(known, doc)) == 0 {
			t.Errorf("%s: not noticed", name)
		}
	}
}

// Lists for pivots name each thing once.
func TestRelated(t *testing.T) {
	r := record(t, with(t, map[string]any{"HostName": "db", "MachineExtraInfo": map[string]any{"HostName": "db", "PrivateIP": "10.0.12.248"}}), ordinary())
	doc := paths(t, encode(t, format.ECS, r))
	if hosts, ips := fmt.Sprint(doc["related.hosts"]), fmt.Sprint(doc["related.ip"]); hosts != "[db]" || ips != "[10.0.12.248 203.0.113.57]" {
		t.Errorf("hosts %s, addresses %s", hosts, ips)
	}
}

// The names of the data stream and its parts agree.
func TestDataStream(t *testing.T) {
	doc := paths(t, encodeWith(t, format.ECS, format.Config{Namespace: "soc.eu", CloudProvider: "qcloud"}, example(t, "01-detected")))
	if doc["data_stream.namespace"] != "soc.eu" || doc["event.dataset"] != doc["data_stream.dataset"] ||
		doc["data_stream.type"] != "logs" || doc["cloud.provider"] != "qcloud" {
		t.Errorf("%v", doc)
	}
	if name, _ := doc["data_stream.dataset"].(string); strings.ContainsAny(name, "-ABCDEFGHIJKLMNOPQRSTUVWXYZ") || len(name) > 100 {
		t.Errorf("data set %q", name)
	}
}

func TestAttackCanBeSwitchedOff(t *testing.T) {
	cfg := format.Config{DisableAttack: true}
	for path := range paths(t, encodeWith(t, format.ECS, cfg, example(t, "01-detected"))) {
		if strings.HasPrefix(path, "threat.") {
			t.Errorf("ECS has %s", path)
		}
	}
	if v := paths(t, encodeWith(t, format.Splunk, cfg, example(t, "01-detected")))["mitre_technique_id"]; v != nil {
		t.Errorf("Splunk has %v", v)
	}
}

// Several techniques give parallel lists, and each tactic once.
func TestSeveralTechniques(t *testing.T) {
	r := record(t, with(t, map[string]any{"VirusName": "Linux.Keylogger.Mimikatz", "VirusTags": []string{"brute"}}), ordinary())
	doc := paths(t, encode(t, format.ECS, r))
	want := map[string]string{
		"threat.technique.id":                     "[T1003 T1056 T1110]",
		"threat.technique.reference":              "[https://attack.mitre.org/techniques/T1003/ https://attack.mitre.org/techniques/T1056/ https://attack.mitre.org/techniques/T1110/]",
		"threat.technique.subtechnique.id":        "[T1056.001]",
		"threat.technique.subtechnique.reference": "[https://attack.mitre.org/techniques/T1056/001/]",
		"threat.tactic.id":                        "[TA0006 TA0009]",
		"threat.tactic.name":                      "[Credential Access Collection]",
	}
	for path, v := range want {
		if got := fmt.Sprint(doc[path]); got != v {
			t.Errorf("%s: %s, want %s", path, got, v)
		}
	}
	doc = paths(t, encode(t, format.ECS, record(t, with(t, map[string]any{"VirusName": "Linux.Rootkit.X", "VirusTags": nil}), ordinary())))
	if doc["threat.tactic.id"] != nil || fmt.Sprint(doc["threat.technique.id"]) != "[T1014]" {
		t.Errorf("a technique without tactic: %v, %v", doc["threat.tactic.id"], doc["threat.technique.id"])
	}
}

// The data sets Malware and Alerts of Splunk's CIM.
func TestSplunkFollowsCIM(t *testing.T) {
	var cim struct {
		Datasets map[string]struct {
			Fields map[string]struct {
				Requirement string
				Prescribed  []string
			}
		}
	}
	if err := json.Unmarshal(read(t, "splunk-cim-fields.json"), &cim); err != nil {
		t.Fatal(err)
	}
	for _, set := range []string{"Malware.Malware_Attacks", "Alerts.Alerts"} {
		rules := cim.Datasets[set].Fields
		if len(rules) < 10 {
			t.Fatalf("%s: %d rules", set, len(rules))
		}
		for _, r := range variants(t) {
			body := fields(t, encode(t, format.Splunk, r))
			for name, rule := range rules {
				v, ok := body[name]
				if rule.Requirement == "required" && (!ok || v == "") {
					t.Errorf("%s: %s is required\n%.300s", set, name, r.Raw)
				}
				if s, _ := v.(string); ok && len(rule.Prescribed) > 0 && !slices.Contains(rule.Prescribed, s) {
					t.Errorf("%s: %s is %v\n%.300s", set, name, v, r.Raw)
				}
			}
		}
	}
}

func TestCIMAction(t *testing.T) {
	want := map[string][]string{
		"record": {"allowed", "allowed", "deferred", "blocked", "allowed", "allowed", "allowed"},
		"filter": {"allowed", "deferred", "blocked", "allowed", "allowed", "allowed", "allowed"},
	}
	for dialect, actions := range want {
		for code, action := range actions {
			s := ordinary()
			s.Dialect = dialect
			body := fields(t, encode(t, format.Splunk, record(t, with(t, map[string]any{"HandleStatus": code}), s)))
			if body["action"] != action || fmt.Sprint(body["handle_status"]) != strconv.Itoa(code) {
				t.Errorf("%s %d: %v, %v; want %s", dialect, code, body["action"], body["handle_status"], action)
			}
		}
	}
}

// The names of fields that Splunk indexes differ from those of the body, or
// searches would show doubled values.
func TestIndexedFieldsDifferFromTheBody(t *testing.T) {
	r := example(t, "01-detected")
	b, err := format.AppendHEC(nil, r, encode(t, format.Splunk, r), format.HECOptions{})
	if err != nil {
		t.Fatal(err)
	}
	env := fields(t, b)
	for name := range env["fields"].(map[string]any) {
		if _, both := env["event"].(map[string]any)[name]; both {
			t.Errorf("%s is in both", name)
		}
	}
}
