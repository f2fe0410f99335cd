package format_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

func TestNames(t *testing.T) {
	if diff := cmp.Diff([]string{"cef", "ecs", "leef", "ocsf", "raw", "splunk", "text"}, format.Names()); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	for _, name := range format.Names() {
		if _, err := format.New(name, format.Config{}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if format.IsJSON(name) != (format.ContentType(name) == "application/json") || format.ContentType(name) == "" || format.Schema(name) == "" {
			t.Errorf("%s: content type %q, schema %q", name, format.ContentType(name), format.Schema(name))
		}
	}
	_, err := format.New("xml", format.Config{})
	if err == nil || !strings.Contains(err.Error(), `"xml"`) || !strings.Contains(err.Error(), "cef, ecs, leef, ocsf, raw, splunk, text") {
		t.Errorf("unknown name: %v", err)
	}
	if format.ContentType("xml") != "" || format.Schema("xml") != "" {
		t.Error("an unknown format has a content type or a schema")
	}
}

func TestConfig(t *testing.T) {
	want := format.Config{Namespace: "default", CloudProvider: "tencent_cloud", CEFVersion: "0", LEEFVersion: "2.0"}
	if diff := cmp.Diff(want, (format.Config{}).WithDefaults()); diff != "" {
		t.Errorf("defaults (-want +got):\n%s", diff)
	}
	if err := want.Validate(); err != nil {
		t.Error(err)
	}
	tests := map[string]struct {
		cfg  format.Config
		keys []string
	}{
		"upper case":     {format.Config{Namespace: "Prod"}, []string{"namespace: "}},
		"hyphen":         {format.Config{Namespace: "soc-eu"}, []string{"namespace: "}},
		"space":          {format.Config{Namespace: "a b"}, []string{"namespace: "}},
		"line break":     {format.Config{Namespace: "a\n"}, []string{"namespace: "}},
		"long":           {format.Config{Namespace: strings.Repeat("a", 101)}, []string{"namespace: "}},
		"provider":       {format.Config{CloudProvider: "Tencent Cloud"}, []string{"cloud_provider: "}},
		"both":           {format.Config{Namespace: "A", CloudProvider: "B"}, []string{"namespace: ", "cloud_provider: "}},
		"nothing wrong":  {format.Config{Namespace: "soc.eu_1", CloudProvider: "qcloud"}, nil},
		"other alphabet": {format.Config{Namespace: "生产"}, nil},
	}
	for name, tt := range tests {
		err := tt.cfg.WithDefaults().Validate()
		var lines []string
		if err != nil {
			lines = strings.Split(err.Error(), "\n")
		}
		if !slices.EqualFunc(lines, tt.keys, strings.HasPrefix) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A record whose fields are all null still says what the record knows.
func TestAllNull(t *testing.T) {
	for _, raw := range []string{"{}", "null", "[]", `"x"`, "7", nulls()} {
		r := record(t, []byte(raw), ordinary())
		doc := paths(t, encode(t, format.ECS, r))
		body := paths(t, encode(t, format.Splunk, r))
		for path, want := range map[string]any{
			"event.id": r.Key.FindingUID(), "tencent_cloud.cwp.event_uid": r.UID, "event.kind": "alert",
			"@timestamp": "2026-09-18T01:02:03.456Z", "rule.category": "unknown", "tencent_cloud.cwp.severity": "medium",
			"message": "Tencent CWP: risk process detected on unknown", "tencent_cloud.cwp.handle_status.name": "unknown",
		} {
			if doc[path] != want {
				t.Errorf("%.20s: ECS %s is %v, want %v", raw, path, doc[path], want)
			}
		}
		for path, want := range map[string]any{
			"id": r.UID, "finding_uid": r.Key.FindingUID(), "signature": "unknown", "dest": "unknown",
			"file_name": "unknown", "file_path": "unknown", "event_id": r.Key.ID, "handle_status": "null",
		} {
			if body[path] != want {
				t.Errorf("%.20s: Splunk %s is %v, want %v", raw, path, body[path], want)
			}
		}
		if got := string(encode(t, format.Raw, r)); got != raw {
			t.Errorf("raw: %s, want %s", got, raw)
		}
	}
}

func nulls() string {
	var b strings.Builder
	b.WriteByte('{')
	for name := range oddItems()["null"].(map[string]any) {
		if name != "EventId" {
			fmt.Fprintf(&b, "%q:null,", name)
		}
	}
	return b.String() + `"EventId":null}`
}

// A value of the wrong type stays out of typed fields and is kept as text
// where there is a place for text.
func TestWrongTypes(t *testing.T) {
	r := record(t, with(t, map[string]any{
		"ProcessId": "pid 7", "OnlineStatus": 1.5, "FirstDetectionMethod": "real time", "HostName": 42, "VirusName": true,
		"FilePath": []string{"/bin/x"}, "CheckPlatform": "1", "VirusTags": []any{7, nil, "", "miner"},
		"MachineExtraInfo": map[string]any{"NetworkType": "vpc", "HostName": map[string]any{"a": 1}},
	}), ordinary())
	doc := paths(t, encode(t, format.ECS, r))
	want := map[string]any{
		"process.pid": nil, "tencent_cloud.cwp.online_status": nil, "tencent_cloud.cwp.first_detection_method": nil,
		"tencent_cloud.cwp.host_name": "42", "rule.name": "true", "file.path": `["/bin/x"]`, "host.hostname": `{"a":1}`,
		"tencent_cloud.cwp.check_platform.name": []any{"Cloud search engine"}, "tencent_cloud.cwp.virus_tags": []any{"7", "miner"},
		"tencent_cloud.cwp.machine.network_type.code": nil,
	}
	for path, v := range want {
		if diff := cmp.Diff(v, doc[path]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	r = record(t, with(t, map[string]any{"ProcessId": -1}), ordinary())
	if got := paths(t, encode(t, format.ECS, r))["process.pid"]; got != nil {
		t.Errorf("a negative process id: %v", got)
	}
	// Integers in quotes are integers.
	r = record(t, with(t, map[string]any{"ProcessId": "21595"}), ordinary())
	if got := paths(t, encode(t, format.ECS, r))["process.pid"]; got != json.Number("21595") {
		t.Errorf("a quoted process id: %v", got)
	}
}

func TestExactIntegers(t *testing.T) {
	for _, id := range []string{"9007199254740993", "9223372036854775807", "-1", "0", "18446744073709551615", "1e3", "24.0"} {
		raw := bytes.Replace(with(t, map[string]any{"EventId": 24}), []byte(`"EventId":24`), []byte(`"EventId":`+id), 1)
		r := record(t, raw, ordinary())
		doc, body := paths(t, encode(t, format.ECS, r)), paths(t, encode(t, format.Splunk, r))
		if want := "tencent-cwp:default:risk_process:" + id; doc["event.id"] != want || body["finding_uid"] != want {
			t.Errorf("%s: %v, %v", id, doc["event.id"], body["finding_uid"])
		}
		var long any = json.Number(id)
		if id == "18446744073709551615" || id == "1e3" || id == "24.0" {
			long = nil // Elasticsearch's long has 64 bits and a sign
		}
		if doc["tencent_cloud.cwp.event_id"] != long || fmt.Sprint(body["event_id"]) != id {
			t.Errorf("%s: ECS %v, Splunk %v", id, doc["tencent_cloud.cwp.event_id"], body["event_id"])
		}
		if !bytes.Contains(encode(t, format.Raw, r), []byte(`"EventId":`+id)) {
			t.Errorf("%s: raw changed it", id)
		}
	}
}

// The fields that the vendor added lately, and Windows.
func TestLaterFields(t *testing.T) {
	r := record(t, with(t, map[string]any{
		"QUUID": "acdd5474-6360-4fd4-bfc7-843162cb8116", "ExeMd5": "81627048B6AEA0C94256A1AAF8DA617E",
		"FirstDetectionMethod": 1, "FilePath": `C:\Windows\Temp\svch0st.exe`, "CheckPlatform": []string{"2", "3", "9"},
	}), ordinary())
	md5 := "81627048b6aea0c94256a1aaf8da617e"
	doc, body := paths(t, encode(t, format.ECS, r)), paths(t, encode(t, format.Splunk, r))
	for path, want := range map[string]any{
		"tencent_cloud.cwp.quuid": "acdd5474-6360-4fd4-bfc7-843162cb8116", "process.hash.md5": md5, "file.hash.md5": md5,
		"related.hash": []any{md5}, "tencent_cloud.cwp.first_detection_method": json.Number("1"), "process.name": "svch0st.exe",
		"file.name": "svch0st.exe", "host.os.type": "windows", "process.executable": `C:\Windows\Temp\svch0st.exe`,
		"tencent_cloud.cwp.check_platform.code": []any{"2", "3", "9"}, "tencent_cloud.cwp.check_platform.name": []any{"TAV", "BinaryAI", "9"},
	} {
		if diff := cmp.Diff(want, doc[path]); diff != "" {
			t.Errorf("ECS %s (-want +got):\n%s", path, diff)
		}
	}
	for path, want := range map[string]any{
		"quuid": "acdd5474-6360-4fd4-bfc7-843162cb8116", "file_hash": md5, "process_name": "svch0st.exe", "os": "windows",
	} {
		if body[path] != want {
			t.Errorf("Splunk %s is %v, want %v", path, body[path], want)
		}
	}
	r = record(t, with(t, map[string]any{"ExeMd5": "not a hash"}), ordinary())
	for path := range paths(t, encode(t, format.ECS, r)) {
		if strings.Contains(path, "hash") {
			t.Errorf("%s is there for what is no hash", path)
		}
	}
}

// Both spellings of the vendor's keys are told apart.
func TestKeysAreExact(t *testing.T) {
	f := format.Of(record(t, []byte(`{"WanIP":"1.1.1.1","wanip":"1.1.1.2","Hostname":"x","CmdLine":"a","CmdLine":"b"}`), ordinary()))
	if f.WanIP != "" || f.HostName != "" {
		t.Errorf("WanIp %q, HostName %q", f.WanIP, f.HostName)
	}
	if f.CmdLine != "b" {
		t.Errorf("of a key that occurs twice the last counts, got %q", f.CmdLine)
	}
}

func TestCaps(t *testing.T) {
	long := strings.Repeat("字", format.MaxCmdLine) // three bytes each
	r := record(t, with(t, map[string]any{
		"CmdLine": long, "ThreatDesc": long, "FilePath": strings.Repeat("x", format.MaxText),
		"VirusTags": []string{"a", long, long}, "MachineExtraInfo": map[string]any{"HostName": long},
	}), ordinary())
	f := format.Of(r)
	want := []string{"CmdLine", "MachineExtraInfo.HostName", "ThreatDesc", "VirusTags"}
	slices.Sort(f.Truncated)
	if diff := cmp.Diff(want, f.Truncated); diff != "" {
		t.Errorf("truncated (-want +got):\n%s", diff)
	}
	for name, s := range map[string]string{"CmdLine": f.CmdLine, "ThreatDesc": f.ThreatDesc, "tag": f.VirusTags[1], "host": f.OSHostName} {
		limit := format.MaxText
		if name == "CmdLine" {
			limit = format.MaxCmdLine
		}
		if len(s) > limit || len(s) < limit-2 || !utf8.ValidString(s) {
			t.Errorf("%s: %d bytes, valid %v", name, len(s), utf8.ValidString(s))
		}
	}
	if len(f.FilePath) != format.MaxText {
		t.Errorf("a path of just the length that is allowed has %d bytes", len(f.FilePath))
	}
	doc, body := paths(t, encode(t, format.ECS, r)), paths(t, encode(t, format.Splunk, r))
	if doc["tencent_cloud.cwp.truncated"] != true || body["truncated"] != true ||
		len(doc["tencent_cloud.cwp.truncated_fields"].([]any)) != 4 || len(body["truncated_fields"].([]any)) != 4 {
		t.Errorf("ECS %v, Splunk %v", doc["tencent_cloud.cwp.truncated"], body["truncated"])
	}
	if v := paths(t, encode(t, format.ECS, example(t, "01-detected")))["tencent_cloud.cwp.truncated"]; v != nil {
		t.Errorf("an ordinary record is truncated: %v", v)
	}
}

// What is verbatim, what is replaced, and what is escaped.
func TestStrings(t *testing.T) {
	tests := map[string]struct{ in, want string }{ // as they stand in JSON
		"no HTML escapes":  {`<script>&amp;`, `<script>&amp;`},
		"controls":         {"\x1b\t\n\r\b", `\u001b\t\n\r\u0008`},
		"quotes":           {`"\`, `\"\\`},
		"separators":       {"a\u2028b\u2029c\u0085d\u009b", `a\u2028b\u2029c\u0085d\u009b`},
		"NUL":              {"a\x00b", "a\uFFFDb"},
		"invalid UTF-8":    {"a\xff\xfeb\xe5\xad", "a\uFFFD\uFFFDb\uFFFD\uFFFD"},
		"other alphabets":  {"实例 🖥️ \u202e", "实例 🖥️ \u202e"},
		"DEL":              {"\x7f", `\u007f`},
		"U+FFFD itself":    {"\uFFFD", "\uFFFD"},
		"surrogate halves": {"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD"},
	}
	for name, tt := range tests {
		if got := string(format.AppendString(nil, tt.in)); got != `"`+tt.want+`"` {
			t.Errorf("%s: %s, want %q", name, got, tt.want)
		}
	}
	f := format.Of(record(t, []byte("{\"HostName\":\"a\xffb\",\"VirusName\":\"\\ud800x\\ud83d\\udda5\",\"CmdLine\":\"\\u0041\xff\"}"), ordinary()))
	if f.HostName != "a\uFFFDb" || f.VirusName != "\uFFFDx🖥" || f.CmdLine != "A\uFFFD" {
		t.Errorf("%q, %q, %q", f.HostName, f.VirusName, f.CmdLine)
	}
}

func TestRawKeepsBytes(t *testing.T) {
	tests := map[string]struct{ in, want string }{
		"as it came": {`{"b" : 1.0, "a":[ 1e400,9007199254740993 ],"x":"\u00e9\/<"}`, `{"b" : 1.0, "a":[ 1e400,9007199254740993 ],"x":"\u00e9\/<"}`},
		"pretty":     {"{\n \"b\" : 1.0,\r\n \"x\": \"\\u00e9 \\/ \\n\" }\n", `{"b":1.0,"x":"\u00e9 \/ \n"}`},
	}
	for name, tt := range tests {
		r := &event.Record{Raw: []byte(tt.in)}
		if got := string(encode(t, format.Raw, r)); got != tt.want {
			t.Errorf("%s: %s, want %s", name, got, tt.want)
		}
	}
	for _, bad := range []string{"", "{", "{}{}", `{"a":01}`, "{\"a\":\"\n\"}", "{} x"} {
		enc, err := format.New(format.Raw, format.Config{})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := enc([]byte("before"), &event.Record{Raw: []byte(bad)}); err == nil || string(b) != "before" {
			t.Errorf("%q: %q, %v", bad, b, err)
		}
	}
}

// A kind that has no mapping yet can be sent raw and is refused otherwise.
func TestKindWithoutMapping(t *testing.T) {
	r := &event.Record{
		Key: event.Key{Account: "1", Kind: "host_login", ID: "7"}, Action: event.Detected, UID: "u",
		ObservedAt: time.Unix(1e9, 0), Raw: []byte(`{"Id":7,"HostName":"x"}`),
	}
	for _, name := range format.Names() {
		enc, err := format.New(name, format.Config{})
		if err != nil {
			t.Fatal(err)
		}
		b, err := enc([]byte("before"), r)
		switch {
		case name == format.Raw && (err != nil || string(b) != "before"+string(r.Raw)):
			t.Errorf("raw: %s, %v", b, err)
		case name != format.Raw && (err == nil || !strings.Contains(err.Error(), "host_login") || string(b) != "before"):
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
	if f := format.Of(r); f.ActionName != "host-login-detected" || f.UID != "tencent-cwp:1:host_login:7" || !f.EventTime.Equal(r.ObservedAt) {
		t.Errorf("%+v", f)
	}
	b, err := format.AppendHEC(nil, r, r.Raw, format.HECOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if env := fields(t, b); env["sourcetype"] != "tencent:cwp:host_login" || env["source"] != "tencent:cwp" {
		t.Errorf("%s", b)
	}
}

func TestHEC(t *testing.T) {
	r := example(t, "01-detected")
	for name, body := range map[string][]byte{
		"raw": encode(t, format.Raw, r), "ecs": encode(t, format.ECS, r), "string": []byte(`"text"`), "number": []byte("7"),
	} {
		opts := format.HECOptions{Index: "i", Source: "s\"", SourceType: "t", Host: "h\n"}
		b, err := format.AppendHEC([]byte("before"), r, body, opts)
		if err != nil {
			t.Fatal(name, err)
		}
		env := value(t, bytes.TrimPrefix(b, []byte("before")))
		want := map[string]any{
			"time": "1694860255", "host": "h\n", "source": "s\"", "sourcetype": "t", "index": "i", "event": value(t, body),
			"fields": map[string]any{"cwp_event_uid": r.UID, "cwp_finding_uid": r.Key.FindingUID()},
		}
		if diff := cmp.Diff(any(want), env); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	b, err := format.AppendHEC(nil, r, []byte("{}"), format.HECOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if env := fields(t, b); env["index"] != nil || env["host"] != "dataHub" {
		t.Errorf("no options: %s", b)
	}
	for _, bad := range []string{"", "null", `""`, "{", "{}{}", "CEF:0|x", `{"a":1},"time":0`, " null "} {
		if b, err := format.AppendHEC([]byte("before"), r, []byte(bad), format.HECOptions{}); err == nil || string(b) != "before" {
			t.Errorf("%q: %s, %v", bad, b, err)
		}
	}
}

func TestHECTime(t *testing.T) {
	s := ordinary()
	tests := map[string]struct{ detected, want string }{
		"milliseconds": {"2026-09-17T02:15:30.007Z", "1789611330.007"},
		"whole":        {"2026-09-17 10:15:30", "1789611330.000"},
		"none":         {"", "1789693323.456"},
		"before 1970":  {"1950-01-01 00:00:00", "1789693323.456"},
	}
	for name, tt := range tests {
		r := record(t, with(t, map[string]any{"DetectTime": tt.detected}), s)
		b, err := format.AppendHEC(nil, r, []byte("{}"), format.HECOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if got := fields(t, b)["time"]; got != json.Number(tt.want) {
			t.Errorf("%s: %v, want %s", name, got, tt.want)
		}
	}
}

// The same record gives the same bytes, and several goroutines may ask.
func TestDeterministic(t *testing.T) {
	for _, r := range samples(t) {
		for _, name := range format.Names() {
			enc, err := format.New(name, format.Config{})
			if err != nil {
				t.Fatal(err)
			}
			shared, results := fresh(r), make(chan string, 4)
			for range cap(results) {
				go func() {
					b, err := enc(nil, shared)
					results <- fmt.Sprint(string(b), err)
				}()
			}
			want := string(encode(t, name, fresh(r))) + "<nil>"
			for range cap(results) {
				if got := <-results; got != want {
					t.Errorf("%s differs:\n%s\n%s", name, got, want)
				}
			}
		}
	}
}

// Encoding must not cost an allocation for each field.
func TestAllocations(t *testing.T) {
	r := example(t, "01-detected")
	for name, most := range map[string]float64{format.ECS: 8, format.Splunk: 4} {
		enc, err := format.New(name, format.Config{})
		if err != nil {
			t.Fatal(err)
		}
		buf, err := enc(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(100, func() { buf, _ = enc(buf[:0], r) }); n > most {
			t.Errorf("%s: %v allocations, at most %v", name, n, most)
		}
	}
}

func TestEntityID(t *testing.T) {
	id := func(changes map[string]any) string {
		return format.Of(record(t, with(t, changes), ordinary())).EntityID()
	}
	first := id(nil)
	if first != "3ec2d1ef771930ff2a120674288f71dc" {
		t.Errorf("%s", first)
	}
	for name, changes := range map[string]map[string]any{
		"agent": {"Uuid": "x"}, "process": {"ProcessId": 1}, "start": {"StartTime": "x"}, "instance": {"Uuid": ""},
	} {
		if other := id(changes); other == first || len(other) != 32 {
			t.Errorf("%s: %q", name, other)
		}
	}
	if same := id(map[string]any{"DetectTime": "x", "EventId": 7, "HandleStatus": 3}); same != first {
		t.Errorf("another event of the process: %q", same)
	}
	if none := id(map[string]any{"ProcessId": nil}); none != "" {
		t.Errorf("without process id: %q", none)
	}
	if none := id(map[string]any{"Uuid": nil, "MachineExtraInfo": nil}); none != "" {
		t.Errorf("without host: %q", none)
	}
}
