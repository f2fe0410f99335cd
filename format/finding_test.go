package format_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// The transitions, under both readings of the status.
func TestTransitions(t *testing.T) {
	none := -1
	tests := map[string]struct {
		dialect         string
		previous, now   int // codes; previous none: first seen
		again           bool
		action, verb    string
		alert, closed   bool
		severity, event string // severity of a scanner; the time: "detect" or "observed"
	}{
		"record: first seen, open":       {"record", none, 0, false, "detected", "detected", true, false, "medium", "detect"},
		"record: first seen, killing":    {"record", none, 2, false, "detected", "detected", true, false, "medium", "detect"},
		"record: first seen, closed":     {"record", none, 3, false, "detected", "detected", false, true, "medium", "detect"},
		"record: first seen, unknown":    {"record", none, 9, false, "detected", "detected", true, false, "medium", "detect"},
		"record: detected again, open":   {"record", 0, 0, true, "redetected", "detected again", true, false, "medium", "detect"},
		"record: detected again, closed": {"record", 3, 3, true, "redetected", "detected again", false, true, "medium", "detect"},
		"record: open stays open":        {"record", 0, 2, false, "status-changed", "status changed", false, false, "medium", "observed"},
		"record: closed stays closed":    {"record", 1, 3, false, "status-changed", "status changed", false, true, "medium", "observed"},
		"record: killed":                 {"record", 0, 3, false, "killed", "killed", false, true, "medium", "observed"},
		"record: exited":                 {"record", 2, 4, false, "exited", "exited", false, true, "medium", "observed"},
		"record: processed":              {"record", 0, 1, false, "processed", "processed", false, true, "medium", "observed"},
		"record: ignored":                {"record", 0, 5, false, "ignored", "ignored", false, true, "informational", "observed"},
		"record: reopened":               {"record", 3, 0, false, "reopened", "reopened", true, false, "medium", "observed"},
		"record: reopened to unknown":    {"record", 3, 6, false, "reopened", "reopened", true, false, "medium", "observed"},
		"record: open to unknown":        {"record", 0, 6, false, "status-changed", "status changed", false, false, "medium", "observed"},
		"filter: first seen, killing":    {"filter", none, 1, false, "detected", "detected", true, false, "medium", "detect"},
		"filter: first seen, closed":     {"filter", none, 2, false, "detected", "detected", false, true, "medium", "detect"},
		"filter: open stays open":        {"filter", 0, 1, false, "status-changed", "status changed", false, false, "medium", "observed"},
		"filter: killed":                 {"filter", 1, 2, false, "killed", "killed", false, true, "medium", "observed"},
		"filter: exited":                 {"filter", 0, 3, false, "exited", "exited", false, true, "medium", "observed"},
		"filter: trusted":                {"filter", 0, 4, false, "trusted", "trusted", false, true, "informational", "observed"},
		"filter: no such value":          {"filter", 0, 5, false, "status-changed", "status changed", false, false, "medium", "observed"},
		"filter: reopened":               {"filter", 2, 0, false, "reopened", "reopened", true, false, "medium", "observed"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := ordinary()
			s.Dialect = tt.dialect
			if tt.previous != none {
				s.Previous = &tt.previous
			}
			if tt.again {
				s.Action = event.Redetected
			}
			f := format.Of(record(t, with(t, map[string]any{"HandleStatus": tt.now}), s))
			if want := "risk-process-" + tt.action; f.ActionName != want {
				t.Errorf("action %q, want %q", f.ActionName, want)
			}
			if f.Alert != tt.alert || f.Closed != tt.closed || f.Open == tt.closed {
				t.Errorf("alert %v, open %v, closed %v", f.Alert, f.Open, f.Closed)
			}
			if want := "Tencent CWP: Linux.Scanner.Fscan process " + tt.verb + " on dataHub"; f.Message != want {
				t.Errorf("message %q, want %q", f.Message, want)
			}
			if f.Severity.String() != tt.severity || f.ThreatSeverity != format.Medium {
				t.Errorf("severity %v, of the threat %v", f.Severity, f.ThreatSeverity)
			}
			if lowered := strings.HasPrefix(f.SeverityRule, "status:"); lowered != (tt.severity == "informational") ||
				f.ThreatSeverityRule != "category:scanner" || f.ThreatMatch != "scanner" {
				t.Errorf("decided by %q; the threat by %q for %q", f.SeverityRule, f.ThreatSeverityRule, f.ThreatMatch)
			}
			want := s.Observed
			if tt.event == "detect" {
				want = time.Date(2023, 9, 16, 10, 30, 55, 0, time.UTC)
			}
			if !f.EventTime.Equal(want) {
				t.Errorf("event time %v, want %v", f.EventTime, want)
			}
		})
	}
}

func TestThreats(t *testing.T) {
	tests := map[string]struct {
		virus      string
		tags       any
		category   string
		severity   format.Severity
		techniques []string
	}{
		"tag":                        {"", []string{"Scanner"}, "scanner", format.Medium, []string{"T1046"}},
		"tag with a space":           {"", []string{"Hack Tools"}, "hack_tool", format.Medium, nil},
		"tag with a hyphen":          {"", []string{"reverse-shell"}, "reverse_shell", format.High, nil},
		"Chinese tag":                {"", []string{"挖矿"}, "miner", format.High, []string{"T1496.001"}},
		"segment of the name":        {"Linux.Risk.Miner", nil, "miner", format.High, []string{"T1496.001"}},
		"part of a segment":          {"Linux.Trojan.Miner|XMRig=x", nil, "miner", format.High, []string{"T1496.001"}},
		"last part of a segment":     {"Linux.x|XMRig", nil, "miner", format.High, []string{"T1496.001"}},
		"not within a word":          {"Linux.Examiner.Botany", nil, "unknown", format.Medium, nil},
		"first row wins":             {"Linux.Trojan.Ransom", []string{"trojan"}, "ransomware", format.Critical, []string{"T1486"}},
		"every row adds a technique": {"Linux.Rootkit.Miner", []string{"scanner"}, "rootkit", format.Critical, []string{"T1014", "T1496.001", "T1046"}},
		"nothing known":              {"Win32.Foo.Bar", []string{"new"}, "unknown", format.Medium, nil},
		"low":                        {"Linux.Adware.X", nil, "adware", format.Low, nil},
		"nothing at all":             {"", nil, "unknown", format.Medium, nil},
		"one tag, no list":           {"", "webshell", "webshell", format.High, []string{"T1505.003"}},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			f := format.Of(record(t, with(t, map[string]any{"VirusName": tt.virus, "VirusTags": tt.tags}), ordinary()))
			if f.Category != tt.category || f.ThreatSeverity != tt.severity {
				t.Errorf("%s, %v; want %s, %v", f.Category, f.ThreatSeverity, tt.category, tt.severity)
			}
			var ids []string
			for _, technique := range f.Techniques {
				ids = append(ids, technique.MostExact())
			}
			if !slices.Equal(ids, tt.techniques) {
				t.Errorf("techniques %v, want %v", ids, tt.techniques)
			}
		})
	}
}

// Every alias leads to its row, or to one before it.
func TestEveryAliasIsKnown(t *testing.T) {
	before := map[string]bool{}
	for _, row := range format.Categories() {
		before[row.Category] = true
		for _, alias := range row.Aliases {
			f := format.Of(record(t, with(t, map[string]any{"VirusTags": []string{alias}, "VirusName": ""}), ordinary()))
			if f.Category != row.Category || f.ThreatSeverity.String() != row.Level {
				t.Errorf("%s: %s, %v; want %s, %s", alias, f.Category, f.ThreatSeverity, row.Category, row.Level)
			}
		}
	}
	for _, want := range []string{"ransomware", "miner", "scanner", "riskware"} {
		if !before[want] {
			t.Errorf("no row %s", want)
		}
	}
}

func TestSeverityIsOrdered(t *testing.T) {
	names := []string{"informational", "low", "medium", "high", "critical"}
	for i, name := range names {
		s, ok := format.ParseSeverity(name)
		if !ok || int(s) != i || s.String() != name {
			t.Errorf("%s: %d, %v", name, s, ok)
		}
	}
	if _, ok := format.ParseSeverity("High"); ok {
		t.Error("names are in lower case")
	}
}

// The times of the vendor's own examples.
func TestTimes(t *testing.T) {
	tests := map[string]struct {
		text, zone string
		want       string // in UTC; empty: no time
	}{
		"wall time":                {"2026-09-17 10:15:30", "Asia/Shanghai", "2026-09-17T02:15:30Z"},
		"leading space":            {" 2026-09-17 10:15:30", "Asia/Shanghai", "2026-09-17T02:15:30Z"},
		"other zone":               {"2026-07-01 12:00:00", "Europe/Berlin", "2026-07-01T10:00:00Z"},
		"UTC":                      {"2026-07-01 12:00:00", "UTC", "2026-07-01T12:00:00Z"},
		"no zone: the vendor's":    {"2026-07-01 12:00:00", "", "2026-07-01T04:00:00Z"},
		"RFC 3339":                 {"2026-09-17T11:22:33+08:00", "Europe/Berlin", "2026-09-17T03:22:33Z"},
		"RFC 3339, fraction":       {"2026-09-17T03:22:33.250Z", "Asia/Shanghai", "2026-09-17T03:22:33.25Z"},
		"with a zone's name":       {"2022-07-01 10:00:27 +0800 CST", "UTC", "2022-07-01T02:00:27Z"},
		"empty":                    {"", "Asia/Shanghai", ""},
		"year 1":                   {"0001-01-01 00:00:00", "Asia/Shanghai", ""},
		"year 0":                   {"0000-00-00 00:00:00", "Asia/Shanghai", ""},
		"Go's zero in Shanghai":    {"0001-01-01T08:05:43+08:05", "Asia/Shanghai", ""},
		"epoch":                    {"1970-01-01T08:00:00+08:00", "Asia/Shanghai", ""},
		"epoch as wall time":       {"1970-01-01 08:00:00", "Asia/Shanghai", ""},
		"damaged":                  {"2020-11-11 :00:00:00", "Asia/Shanghai", ""},
		"no such day":              {"2026-02-30 10:00:00", "Asia/Shanghai", ""},
		"text":                     {"yesterday", "Asia/Shanghai", ""},
		"year 10000 in UTC":        {"9999-12-31T23:59:59-08:00", "Asia/Shanghai", ""},
		"zone that does not exist": {"2026-09-17 10:15:30", "Mars/Olympus", ""},
		"own zone is enough":       {"2026-09-17T11:22:33+08:00", "Mars/Olympus", "2026-09-17T03:22:33Z"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			s := ordinary()
			s.Zone = tt.zone
			r := record(t, with(t, map[string]any{"DetectTime": tt.text, "StartTime": tt.text}), s)
			f := format.Of(r)
			want := time.Time{}
			event := s.Observed
			if tt.want != "" {
				var err error
				if want, err = time.Parse(time.RFC3339, tt.want); err != nil {
					t.Fatal(err)
				}
				event = want
			}
			if !f.DetectTime.Equal(want) || !f.StartTime.Equal(want) || !f.EventTime.Equal(event) {
				t.Errorf("detected %v, started %v, happened %v; want %v, happened %v", f.DetectTime, f.StartTime, f.EventTime, want, event)
			}
			// What cannot be read stays as text.
			for name, prefix := range map[string]string{format.ECS: "tencent_cloud.cwp.", format.Splunk: ""} {
				got := paths(t, encode(t, name, r))
				for _, field := range []string{"detect_time_raw", "start_time_raw"} {
					kept, _ := got[prefix+field].(string)
					if tt.want == "" && kept != tt.text || tt.want != "" && kept != "" {
						t.Errorf("%s: %s is %q", name, field, kept)
					}
				}
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	tests := map[string]struct {
		host, wan, private, extra string
		want                      []string
		hostAddr, wanAddr         string
	}{
		"ordinary":          {"10.0.0.1", "203.0.113.5", "10.0.0.1", "203.0.113.5", []string{"10.0.0.1", "203.0.113.5"}, "10.0.0.1", "203.0.113.5"},
		"masked":            {"10.***.***.248", "127.5.**.**", "10.*.*.*", "10.*.*.*", nil, "", ""},
		"one masked":        {"10.***.***.248", "2001:db8::1f", "10.20.32.5", "", []string{"10.20.32.5", "2001:db8::1f"}, "10.20.32.5", "2001:db8::1f"},
		"IPv6":              {"2001:DB8:0::15", "", "2001:db8::15", "", []string{"2001:db8::15"}, "2001:db8::15", ""},
		"IPv4 within IPv6":  {"::ffff:10.0.0.1", "", "10.0.0.1", "", []string{"10.0.0.1"}, "10.0.0.1", ""},
		"zone":              {"fe80::1%eth0", "", "", "", nil, "", ""},
		"unspecified":       {"0.0.0.0", "::", "", "", nil, "", ""},
		"spaces":            {" 10.0.0.1 ", "", "", "", []string{"10.0.0.1"}, "10.0.0.1", ""},
		"several in one":    {"10.0.0.1,10.0.0.2", "", "", "", nil, "", ""},
		"leading zeros":     {"010.0.0.1", "", "", "", nil, "", ""},
		"extra WAN address": {"", "", "", "198.51.100.7", []string{"198.51.100.7"}, "", "198.51.100.7"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := record(t, with(t, map[string]any{
				"HostIp": tt.host, "WanIp": tt.wan,
				"MachineExtraInfo": map[string]any{"PrivateIP": tt.private, "WanIP": tt.extra},
			}), ordinary())
			f := format.Of(r)
			if diff := cmp.Diff(tt.want, f.Addresses); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
			doc := paths(t, encode(t, format.ECS, r))
			if got, _ := doc["tencent_cloud.cwp.host_ip"].(string); got != tt.host {
				t.Errorf("the vendor's text is %q", got)
			}
			body := paths(t, encode(t, format.Splunk, r))
			ip, _ := body["dest_ip"].(string)
			wan, _ := body["dest_translated_ip"].(string)
			if ip != tt.hostAddr || wan != tt.wanAddr {
				t.Errorf("dest_ip %q, dest_translated_ip %q", ip, wan)
			}
		})
	}
}

func TestHost(t *testing.T) {
	tests := map[string]struct {
		item map[string]any
		want string
	}{
		"of the system":   {map[string]any{"MachineExtraInfo": map[string]any{"HostName": "DB-1"}, "HostName": "shown"}, "DB-1"},
		"of the console":  {map[string]any{"MachineExtraInfo": nil, "HostName": "生产 01"}, "生产 01"},
		"spaces":          {map[string]any{"MachineExtraInfo": map[string]any{"HostName": " "}, "HostName": " x "}, "x"},
		"address":         {map[string]any{"HostIp": "10.0.0.1", "Uuid": "u"}, "10.0.0.1"},
		"instance":        {map[string]any{"HostIp": "10.*.*.1", "Uuid": "u", "MachineExtraInfo": map[string]any{"InstanceID": "ins-1"}}, "ins-1"},
		"agent":           {map[string]any{"HostIp": "10.*.*.1", "Uuid": "u"}, "u"},
		"masked address":  {map[string]any{"HostIp": "10.*.*.1"}, "10.*.*.1"},
		"nothing at all":  {map[string]any{}, "unknown"},
		"no right object": {map[string]any{"MachineExtraInfo": "x", "HostName": "y"}, "y"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			raw, err := json.Marshal(tt.item)
			if err != nil {
				t.Fatal(err)
			}
			r := record(t, raw, ordinary())
			if got := format.Of(r).Host; got != tt.want {
				t.Errorf("host %q, want %q", got, tt.want)
			}
			if got := paths(t, encode(t, format.Splunk, r))["dest"]; got != tt.want {
				t.Errorf("dest %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPaths(t *testing.T) {
	tests := map[string]struct{ base, os string }{
		"/dev/shm/dev":           {"dev", "linux"},
		"/a/b\\c":                {"b\\c", "linux"},
		"/":                      {"", "linux"},
		"/dir/":                  {"", "linux"},
		`C:\Windows\Temp\x.exe`:  {"x.exe", "windows"},
		`c:/Windows/Temp/x.exe`:  {"x.exe", "windows"},
		`C:\mixed/x.exe`:         {"x.exe", "windows"},
		`\\server\share\run.exe`: {"run.exe", "windows"},
		`C:x.exe`:                {"C:x.exe", ""},
		"1:/x":                   {"x", ""},
		"relative/x":             {"x", ""},
		"dev":                    {"dev", ""},
		"":                       {"", ""},
	}
	for path, want := range tests {
		if base, os := format.BaseName(path), format.OSType(path); base != want.base || os != want.os {
			t.Errorf("%q: %q, %q; want %q, %q", path, base, os, want.base, want.os)
		}
	}
}

func TestLinks(t *testing.T) {
	tests := map[string]string{
		"https://docs.example.com/linux":   "https://docs.example.com/linux",
		"https://docs.example.com/linux ":  "https://docs.example.com/linux",
		"HTTP://example.com":               "HTTP://example.com",
		"javascript:alert(1)":              "",
		"//example.com/x":                  "",
		"https:///x":                       "",
		"https:example.com":                "",
		"ftp://example.com":                "",
		"data:text/html,x":                 "",
		"https://exa\nmple.com":            "",
		"https://e/x\u0007":                "",
		"":                                 "",
		" ":                                "",
		"java\tscript:alert(1)//https://x": "",
	}
	for in, want := range tests {
		if got := format.LinkOf(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

func TestCleanLine(t *testing.T) {
	tests := map[string]string{
		"plain 数据":              "plain 数据",
		"a\r\nb\nc\rd\te":       "a b c d e",
		"a\u0085b\u2028c\u2029": "a b c ",
		"\x1b[31m\x00\x7f":      `\x1b[31m\x00\x7f`,
		"\u009b31m":             `\x9b31m`,
		"\u202egpj.exe\u2066":   `\u202egpj.exe\u2066`,
		"\ufeff\u200e\u200f":    `\ufeff\u200e\u200f`,
	}
	for in, want := range tests {
		if got := format.CleanWhole(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// A message is one line, whatever name a file or a machine was given.
func TestMessageIsOneLine(t *testing.T) {
	r := record(t, with(t, map[string]any{
		"VirusName": "Linux.X\r\n<134>1 forged\x1b[2J", "MachineExtraInfo": map[string]any{"HostName": "a\u2028b\u202e"},
	}), ordinary())
	want := `Tencent CWP: Linux.X <134>1 forged\x1b[2J process detected on a b\u202e`
	if got := format.Of(r).Message; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// Every sink sees the same reading.
func TestReadOnce(t *testing.T) {
	r := example(t, "01-detected")
	f := format.Of(r)
	encode(t, format.ECS, r)
	if format.Of(r) != f {
		t.Error("read twice")
	}
}
