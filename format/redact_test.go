package format_test

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/format"
)

type redactionCase struct{ In, Out string }

func redactionCases(tb testing.TB) []redactionCase {
	tb.Helper()
	var cases []redactionCase
	if err := json.Unmarshal(read(tb, "redaction-cases.json"), &cases); err != nil {
		tb.Fatal(err)
	}
	if len(cases) < 29 {
		tb.Fatalf("%d cases of redaction", len(cases))
	}
	return cases
}

func TestRedactsSecretsAndKeepsIndicators(t *testing.T) {
	for _, c := range redactionCases(t) {
		got, changed := format.Redact(c.In, true)
		if got != c.Out || changed != (c.In != c.Out) {
			t.Errorf("redact %q\n got %q, %v\nwant %q", c.In, got, changed, c.Out)
		}
		if again, changed := format.Redact(got, true); again != got || changed {
			t.Errorf("redacting twice: %q, then %q", got, again)
		}
	}
}

// Hints only save time: with and without them the result is the same.
func FuzzHintsChangeNothing(f *testing.F) {
	for _, c := range redactionCases(f) {
		f.Add(c.In)
		f.Add(strings.ToUpper(c.In))
	}
	f.Add("x pa\u017Fsword=hunter2")
	f.Add("x api\u212Aey=hunter2")
	for _, name := range []string{"password", "PWD", "--a-pass", "access_key-id", "Credentials", "x.secret_key"} {
		for _, then := range []string{"=", ": ", " : ", "\\\\\" =", "'\t:", " ", "\f ", "s=", "\" "} {
			f.Add(name + then + "hunter2")
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		got, _ := format.Redact(s, true)
		want, _ := format.Redact(s, false)
		if got != want {
			t.Errorf("%q: %q with hints, %q without", s, got, want)
		}
	})
}

// No format but raw lets a secret of a command line through.
func TestNoSecretInOutputs(t *testing.T) {
	for _, c := range redactionCases(t) {
		r := record(t, with(t, map[string]any{"CmdLine": c.In + " "}), ordinary())
		for _, name := range []string{format.ECS, format.Splunk} {
			got := paths(t, encode(t, name, r))
			line, flag := "process.command_line", "tencent_cloud.cwp.redacted"
			if name == format.Splunk {
				line, flag = "process", "redacted"
			}
			if s, _ := got[line].(string); s != c.Out {
				t.Errorf("%s: %s of %q is %q, want %q", name, line, c.In, s, c.Out)
			}
			if got[flag] != (c.In != c.Out) {
				t.Errorf("%s: %s of %q is %v", name, flag, c.In, got[flag])
			}
		}
	}
}

// Arguments that come as a list are joined before they are looked at: the
// JSON text of the list would hide flag and value from each other.
func TestRedactsListOfArguments(t *testing.T) {
	r := record(t, with(t, map[string]any{"CmdLine": []string{"app", "--password", "hunter2"}}), ordinary())
	if got := format.Of(r).CmdLine; got != "app --password ********" {
		t.Errorf("command line %q", got)
	}
	r = record(t, with(t, map[string]any{"CmdLine": map[string]any{"p": []string{"--password", "hunter2"}}}), ordinary())
	if got := format.Of(r).CmdLine; got != "" {
		t.Errorf("command line of an object %q", got)
	}
}

// A secret that lies across the cut is masked, not halved.
func TestRedactsBeforeItCuts(t *testing.T) {
	filler, secret := strings.Repeat("x", format.MaxCmdLine-20), strings.Repeat("hunter2", 100)
	for _, end := range []string{" --password='" + secret + "' tail", " https://u:" + secret + "@host/"} {
		f := format.Of(record(t, with(t, map[string]any{"CmdLine": filler + end}), ordinary()))
		if strings.Contains(f.CmdLine, "hunter") || !f.Redacted {
			t.Errorf("the end of the command line is %q", f.CmdLine[len(f.CmdLine)-60:])
		}
	}
}
