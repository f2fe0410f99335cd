package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// normalize runs the verb on an input.
func normalize(t *testing.T, input string, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	code = run(t.Context(), process{
		args: append([]string{"normalize"}, args...), stdin: strings.NewReader(input), stdout: &out, stderr: &errs,
	})
	return code, out.String(), errs.String()
}

func TestNormalizeTakesWhateverTheAPIGave(t *testing.T) {
	const a, b = `{"EventId":1,"VirusName":"Linux.Miner.X","HandleStatus":0}`, `{"EventId":9007199254740993}`
	for name, input := range map[string]string{
		"answer":   `{"Response":{"TotalCount":2,"List":[` + a + `,` + b + `],"RequestId":"x"}}`,
		"response": `{"List":[` + a + `,` + b + `]}`,
		"list":     "\n[" + a + "," + b + "]",
		"lines":    a + "\n" + b + "\n",
		"mixed":    "[" + a + "] " + b,
	} {
		code, out, errs := normalize(t, input, "--format", "leef")
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		if code != 0 || errs != "" || len(lines) != 2 || !strings.Contains(lines[0], "\teventId=1\t") || !strings.Contains(lines[1], "\teventId=9007199254740993\t") {
			t.Errorf("%s: %d, %q, %q", name, code, out, errs)
		}
	}
}

func TestNormalizeExplains(t *testing.T) {
	_, out, errs := normalize(t, `{"EventId":1,"VirusName":"Linux.Miner.X","HandleStatus":5,"DetectTime":"soon","CmdLine":"x --password=hunter2\u001b[2J"}`,
		"--format", "text", "--explain")
	if out != "Tencent CWP: Linux.Miner.X process detected on unknown\n" {
		t.Errorf("output %q", out)
	}
	for _, want := range []string{
		"severity    informational, by status:ignored", "the threat itself is high, by category:miner, which \"Miner\" points at",
		`category    miner, because of "Miner"`, "technique   T1496.001 Compute Hijacking (TA0040 Impact)",
		"status      5 is ignored in the dialect record; the event is closed", `unread      DetectTime "soon" is no time in Asia/Shanghai`,
		"redacted    a secret",
	} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in:\n%s", want, errs)
		}
	}
	if strings.Contains(errs, "hunter2") || strings.Contains(errs, "\x1b") {
		t.Errorf("untrusted text is shown: %q", errs)
	}
}

func TestNormalizeSpeaksJSON(t *testing.T) {
	const input = `{"EventId":1,"VirusName":"Linux.Miner.X","HandleStatus":5,"DetectTime":"soon","CmdLine":"x --password=hunter2\u001b[2J"}`
	for format, want := range map[string]string{"text": `"text":"Tencent CWP: Linux.Miner.X process detected on unknown"`, "ecs": `"document":{"@timestamp":`} {
		code, out, errs := normalize(t, input, "--format", format, "--explain", "-o", "json")
		var v struct {
			EventID string `json:"event_id"`
			Why     struct {
				SeverityRule string            `json:"severity_rule"`
				Techniques   []string          `json:"techniques"`
				Unread       map[string]string `json:"unread"`
				Redacted     bool              `json:"redacted"`
			} `json:"why"`
		}
		if err := json.Unmarshal([]byte(out), &v); err != nil || code != 0 || errs != "" {
			t.Fatalf("%s: %d %s %q, %v", format, code, errs, out, err)
		}
		if v.EventID != "1" || v.Why.SeverityRule != "status:ignored" || !slices.Equal(v.Why.Techniques, []string{"T1496.001"}) || v.Why.Unread["DetectTime"] != "soon" || !v.Why.Redacted {
			t.Errorf("%s: %+v", format, v)
		}
		if !strings.Contains(out, want) || strings.Contains(out, "hunter2") {
			t.Errorf("%s: %s", format, out)
		}
	}
}

func TestNormalizeUsesTheConfiguration(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.yaml")
	if err := os.WriteFile(path, []byte(`
format:
  severity: [{tag: mine, severity: critical}]
  redact: [{pattern: corp-\d+}]
sinks:
  qradar:
    syslog: {address: "tls://qradar:6514"}
    format: leef
    transform: [{rename: commandLine, to: cmd}]
  oncall: {slack: {url: "https://hooks.slack.com/services/x"}}
sources: {prod: {}}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	const input = `{"EventId":1,"VirusTags":["Mine"],"CmdLine":"x corp-77"}`
	code, out, errs := normalize(t, input, "--config", path, "--sink", "qradar", "--explain")
	if code != 0 || !strings.Contains(out, "\tcmd=x ********\n") && !strings.HasSuffix(out, "\tcmd=x ********\n") || !strings.Contains(out, "\tsev=10\t") ||
		!strings.Contains(errs, "critical, by format.severity[0]") {
		t.Errorf("%d, %q, %q", code, out, errs)
	}
	for _, x := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"--sink", "qradar"}, exitUsage, `there is no sink "qradar"`},
		{[]string{"--config", path, "--sink", "oncall"}, exitUsage, "oncall makes its own messages"},
		{[]string{"--format", "xml"}, exitUsage, `--format: "xml" is not one of cef, ecs`},
		{[]string{"--action", "gone"}, exitUsage, `--action: "gone" is not one of`},
		{[]string{"--dialect", "x"}, exitUsage, "--dialect"},
		{[]string{"--timezone", "Mars/Olympus"}, exitUsage, "--timezone"},
		{[]string{"--config", path + "x"}, exitConfig, "no such file"},
	} {
		if code, _, errs := normalize(t, input, x.args...); code != x.code || !strings.Contains(errs, x.want) {
			t.Errorf("%v: %d, %s", x.args, code, errs)
		}
	}
}

func TestNormalizeSaysWhatIsWrongWithTheInput(t *testing.T) {
	for input, want := range map[string]string{
		"":                                    "holds no event",
		`{"Response":{"List":null}}`:          "holds no event",
		"7":                                   "value 1: is no object and no list",
		`{"EventId":1} {`:                     "value 2, at byte",
		`{"Response":{"Error":{"Code":"X"}}}`: "value 1: is an answer of the API that tells an error",
	} {
		if code, out, errs := normalize(t, input); code != exitFailed || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%q: %d, %q, %q", input, code, out, errs)
		}
	}
}
