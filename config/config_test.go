package config_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/config"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cwprelay.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const valid = `
sources:
  prod: {site: intl}
sinks:
  soc:
    splunk_hec: {url: "https://splunk.example:8088", token: "${TOKEN}"}
`

func TestAllMistakesAtOnceWithTheirLines(t *testing.T) {
	path := write(t, `sources:
  prod:
    site: mars
    poll_interval: soon
    sweep_intervall: 60s
sinks:
  soc:
    splunk_hec:
      url: https://splunk.example:8088
      token: ${NOT_SET}
  out:
    stdout: {}
    batch_records: many
`)
	_, err := config.Load(config.Options{Path: path})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`cwprelay.yaml:3: sources.prod.site: "mars"`,
		`cwprelay.yaml:4: sources.prod.poll_interval: must be a duration`,
		`cwprelay.yaml:5: sources.prod.sweep_intervall: unknown key; did you mean sweep_interval?`,
		`cwprelay.yaml:10: sinks.soc.splunk_hec.token: the variable NOT_SET is not set`,
		`cwprelay.yaml:13: sinks.out.batch_records: must be a whole number`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if n := strings.Count(err.Error(), "\n") + 1; n != 5 {
		t.Errorf("%d mistakes are told, there are 5:\n%v", n, err)
	}
}

func TestPrecedence(t *testing.T) {
	path := write(t, valid+"log: {level: warn, format: json}\nstate: {max_bytes: 2GiB}\n")
	cfg, err := config.Load(config.Options{
		Path: path,
		Environ: []string{
			"TOKEN=t", "CWPRELAY_LOG__LEVEL=error", "CWPRELAY_LOG__FORMAT=console", "CWPRELAY_CONFIG=x",
			"CWPRELAY_SINKS__SOC__SPLUNK_HEC__TOKEN=from-env", "CWPRELAY_SOURCES__PROD__POLL_INTERVAL=20s",
		},
		Flags: map[string]string{"log.level": "debug"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Log.Level != "debug" || cfg.Log.Format != "console" {
		t.Errorf("log %+v, want the flag's level and the variable's format", cfg.Log)
	}
	if got := cfg.Sinks["soc"].Kind.SplunkHEC.Token.Reveal(); got != "from-env" {
		t.Errorf("token %q", got)
	}
	if got := cfg.Sources["prod"].Poll.PollInterval; got != 20*time.Second {
		t.Errorf("poll_interval %s", got)
	}
	if cfg.State.MaxBytes != 2<<30 {
		t.Errorf("max_bytes %d", cfg.State.MaxBytes)
	}
	if got := cfg.Sinks["soc"].Delivery.Format; got != "splunk" {
		t.Errorf("format %q", got)
	}
}

func TestUnknownVariableIsAMistake(t *testing.T) {
	_, err := config.Load(config.Options{Environ: []string{"CWPRELAY_LOG__LEVELL=info"}})
	if err == nil || !strings.Contains(err.Error(), "CWPRELAY_LOG__LEVELL: log.levell: unknown key; did you mean level?") {
		t.Errorf("error %v", err)
	}
}

func TestWithoutAnythingThereIsOneSourceAndStandardOutput(t *testing.T) {
	cfg, err := config.Load(config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Sources["default"].API.Site != "intl" || cfg.Sinks["stdout"].Kind.Kind() != "stdout" {
		t.Errorf("%+v", cfg)
	}
}

func TestSecretsAreNeverShown(t *testing.T) {
	const planted = "pl4nted-s3cret"
	path := write(t, valid)
	cfg, err := config.Load(config.Options{Path: path, Environ: []string{"TOKEN=" + planted}})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	if err := cfg.Print(&out); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out.String(), planted) || !strings.Contains(out.String(), "********") {
		t.Errorf("printed:\n%s", out.String())
	}
	_, err = config.Load(config.Options{Path: write(t, strings.Replace(valid, "token:", "tokn:", 1)+"shutdown_grace: "+planted), Environ: []string{"TOKEN=" + planted}})
	if err == nil || strings.Contains(err.Error(), planted) {
		t.Errorf("error %v", err)
	}
}

func TestDuplicateKeyAndReferences(t *testing.T) {
	_, err := config.Load(config.Options{Path: write(t, "log: {level: info}\nlog: {level: warn}\n")})
	if err == nil || !strings.Contains(err.Error(), "cwprelay.yaml:2: log: stands here a second time; the first is in line 1") {
		t.Errorf("error %v", err)
	}
	secretFile := write(t, "from-file\n")
	cfg, err := config.Load(config.Options{Path: write(t, strings.Replace(valid, "${TOKEN}", "${file:"+secretFile+"}", 1)+`state: {dir: "${DIR:-/tmp/x}$${y}"}`)})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Sinks["soc"].Kind.SplunkHEC.Token.Reveal(); got != "from-file" {
		t.Errorf("token %q", got)
	}
	if got := cfg.State.Dir; got != "/tmp/x${y}" {
		t.Errorf("dir %q", got)
	}
}

func TestSeveralSourcesNeedAccounts(t *testing.T) {
	_, err := config.Load(config.Options{Path: write(t, `
sources:
  a: {site: intl, account_id: "1"}
  b: {site: intl, account_id: "1"}
  c: {site: cn}
sinks: {out: {stdout: {}}}
`)})
	for _, want := range []string{"cwprelay.yaml:4: sources.b.account_id: the source a has the kind", "sources.c.account_id: required with several sources"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in %v", want, err)
		}
	}
}

func TestExampleIsValidAndEverywhereTheSame(t *testing.T) {
	path := write(t, config.Example())
	if _, err := config.Load(config.Options{Path: path, Environ: []string{"SPLUNK_HEC_TOKEN=t", "ES_API_KEY=k", "SLACK_WEBHOOK=https://hooks.slack.com/services/x"}}); err != nil {
		t.Error(err)
	}
	deployed, err := os.ReadFile("../deploy/cwprelay.example.yaml")
	if err != nil || string(deployed) != config.Example() {
		t.Errorf("deploy/cwprelay.example.yaml differs from config/example.yaml (%v); copy it", err)
	}
}

func FuzzLoad(f *testing.F) {
	f.Add(valid)
	f.Add(config.Example())
	f.Add("sinks: &a {x: *a}\n")
	f.Add("format: {\"severity[-1]\": {severity: low}}\n")
	f.Add("sources: {a: {credentials: {secret_key: x}}}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if strings.Contains(text, "${file:") {
			t.Skip("reads files")
		}
		_, _ = config.Load(config.Options{Path: write(t, text)})
	})
}

// TestEnvironmentFillsAnEmptyBlock names a sink in the file and gives the rest
// by variables.
func TestEnvironmentFillsAnEmptyBlock(t *testing.T) {
	t.Parallel()
	cfg, err := config.Load(config.Options{
		Path:    write(t, "sources: {prod: {site: intl}}\nsinks:\n  soc:\n    splunk_hec:\n"),
		Environ: []string{"CWPRELAY_SINKS__SOC__SPLUNK_HEC__URL=https://splunk.example:8088", "CWPRELAY_SINKS__SOC__SPLUNK_HEC__TOKEN=t"},
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := cfg.Sinks["soc"].Kind.SplunkHEC.URL; got != "https://splunk.example:8088" {
		t.Errorf("url is %q", got)
	}
}

func TestKeysThatLeadNowhereAreMistakes(t *testing.T) {
	nested := "a: &a [x, x]\n"
	for next := range strings.SplitSeq("b a,c b,d c,e d,f e,g f,h g", ",") {
		name, before, _ := strings.Cut(next, " ")
		nested += fmt.Sprintf("%s: &%[1]s {a: *%s, b: *%[2]s, c: *%[2]s, d: *%[2]s, e: *%[2]s, f: *%[2]s}\n", name, before)
	}
	for name, tt := range map[string]struct{ environ, text, want string }{
		"below a value":          {text: "log: {level: {x: info}}", want: "cwprelay.yaml:1: log.level.x: unknown key: log.level is a value"},
		"below a value, named":   {environ: "CWPRELAY_LOG__LEVEL__X=info", want: "CWPRELAY_LOG__LEVEL__X: log.level.x: unknown key: log.level is a value"},
		"a block of a list":      {environ: "CWPRELAY_FORMAT__SEVERITY[3]__SEVERITY=low", want: "CWPRELAY_FORMAT__SEVERITY[3]__SEVERITY: names no option"},
		"one that cannot be":     {environ: "CWPRELAY_FORMAT__SEVERITY[-1]__SEVERITY=low", want: "CWPRELAY_FORMAT__SEVERITY[-1]__SEVERITY: names no option"},
		"as a key":               {text: `format: {"severity[-1]": {severity: low}}`, want: "cwprelay.yaml:1: format.severity[-1]: a key must not hold a dot or a bracket"},
		"a block in itself":      {text: "sinks: &a {x: *a}", want: "cwprelay.yaml:1: sinks.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x.x: too many keys, or blocks in each other"},
		"blocks without measure": {text: nested, want: "too many keys, or blocks in each other"},
	} {
		t.Run(name, func(t *testing.T) {
			opt := config.Options{Environ: []string{tt.environ}}
			if tt.text != "" {
				opt = config.Options{Path: write(t, tt.text)}
			}
			if _, err := config.Load(opt); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %.2000v, want %s", err, tt.want)
			}
		})
	}
}
