package format_test

import (
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/format"
)

// ruled reads a record by the rules of a configuration.
func ruled(t *testing.T, cfg format.Config, changes map[string]any, s situation) *format.Finding {
	t.Helper()
	if err := cfg.WithDefaults().Validate(); err != nil {
		t.Fatal(err)
	}
	x, err := format.NewRules(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := record(t, with(t, changes), s)
	f := x.Read(r)
	if format.Of(r) != f {
		t.Error("Of gives another reading than the rules made")
	}
	return f
}

func TestOwnSeverityGoesFirst(t *testing.T) {
	rules := []format.SeverityRule{
		{VirusName: "linux.scanner.FSCAN", Severity: "informational"},
		{VirusName: "*.Scanner.*", Severity: "critical"},
		{VirusName: "Win*.Troj*.x", Severity: "low"},
		{Tag: "Crown-Jewel", Severity: "high"},
		{VirusName: "a*b", Severity: "low"},
	}
	for name, tt := range map[string]struct {
		virus string
		tags  []string
		want  format.Severity
		rule  string
	}{
		"first that fits":            {"Linux.Scanner.Fscan", nil, format.Informational, "format.severity[0]"},
		"star":                       {"Linux.Scanner.Nmap", nil, format.Critical, "format.severity[1]"},
		"two stars":                  {"win32.Trojan.x", nil, format.Low, "format.severity[2]"},
		"the whole name":             {"win32.Trojan.xy", nil, format.High, "category:trojan"},
		"tag":                        {"Other", []string{"x", "crown-jewel"}, format.High, "format.severity[3]"},
		"tag is whole":               {"Other", []string{"crown-jewel-2"}, format.Medium, "default"},
		"built in":                   {"Linux.Miner.X", nil, format.High, "category:miner"},
		"pieces do not overlap":      {"ab", nil, format.Low, "format.severity[4]"},
		"a single letter is no pair": {"a", nil, format.Medium, "default"},
	} {
		f := ruled(t, format.Config{Severity: rules}, map[string]any{"VirusName": tt.virus, "VirusTags": tt.tags}, ordinary())
		if f.Severity != tt.want || f.ThreatSeverity != tt.want || f.SeverityRule != tt.rule {
			t.Errorf("%s: %s by %s", name, f.Severity, f.SeverityRule)
		}
	}
	s := ordinary()
	s.Dialect = "filter"
	f := ruled(t, format.Config{Severity: rules}, map[string]any{"VirusName": "Linux.Scanner.Nmap", "HandleStatus": 4}, s)
	if f.Severity != format.Informational || f.SeverityRule != "status:trusted" || f.ThreatSeverity != format.Critical {
		t.Errorf("trusted: %s by %s, threat %s", f.Severity, f.SeverityRule, f.ThreatSeverity)
	}
}

func TestOwnPatternsAreMaskedToo(t *testing.T) {
	cfg := format.Config{Redact: []format.Redaction{
		{Pattern: `corp-[0-9]{6}`}, {Pattern: `(badge=)\w+`, Replace: "${1}?"},
	}}
	f := ruled(t, cfg, map[string]any{"CmdLine": "x corp-123456 badge=77 --password=hunter2"}, ordinary())
	if want := "x ******** badge=? --password=********"; f.CmdLine != want || !f.Redacted {
		t.Errorf("%q, want %q", f.CmdLine, want)
	}
	plain := format.Of(record(t, with(t, map[string]any{"CmdLine": "x corp-123456"}), ordinary()))
	if plain.CmdLine != "x corp-123456" || plain.Redacted {
		t.Errorf("the built-in rules give %q", plain.CmdLine)
	}
}

func TestMistakesInRules(t *testing.T) {
	for name, tt := range map[string]struct {
		cfg  format.Config
		want string
	}{
		"neither":       {format.Config{Severity: []format.SeverityRule{{Severity: "low"}}}, "severity[0]: give either"},
		"both":          {format.Config{Severity: []format.SeverityRule{{Severity: "low", Tag: "a", VirusName: "b"}}}, "severity[0]: give either"},
		"level":         {format.Config{Severity: []format.SeverityRule{{Severity: "High", Tag: "a"}}}, `severity[0].severity: "High" is not one of`},
		"long":          {format.Config{Severity: []format.SeverityRule{{Severity: "low", Tag: strings.Repeat("a", 1001)}}}, "severity[0]: is longer"},
		"many":          {format.Config{Severity: make([]format.SeverityRule, 201)}, "severity: has 201 rules"},
		"no pattern":    {format.Config{Redact: []format.Redaction{{}}}, "redact[0].pattern: required"},
		"bad pattern":   {format.Config{Redact: []format.Redaction{{Pattern: "("}}}, "redact[0].pattern: error parsing"},
		"empty match":   {format.Config{Redact: []format.Redaction{{Pattern: "x*"}}}, "redact[0].pattern: matches the empty text"},
		"CEF version":   {format.Config{CEFVersion: "2"}, `cef_version: "2" is not 0 or 1`},
		"LEEF version":  {format.Config{LEEFVersion: "2"}, `leef_version: "2" is not 2.0 or 1.0`},
		"many patterns": {format.Config{Redact: make([]format.Redaction, 201)}, "redact: has 201 patterns"},
	} {
		err := tt.cfg.WithDefaults().Validate()
		if err == nil || !strings.HasPrefix(err.Error(), tt.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
