package config_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/format"
)

func TestListsOfBlocks(t *testing.T) {
	path := write(t, valid+`
    transform:
      - drop: process
      - rename: signature
        to: threat
      - {set: team, value: "${TEAM:-blue}"}
format:
  severity:
    - {virus_name: "Linux.*", severity: low}
  redact: []
`)
	environ := []string{"TOKEN=t"}
	cfg, err := config.Load(config.Options{Path: path, Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	want := []format.Change{{Drop: "process"}, {Rename: "signature", To: "threat"}, {Set: "team", Value: "blue"}}
	if diff := cmp.Diff(want, cfg.Sinks["soc"].Delivery.Transform); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]format.SeverityRule{{VirusName: "Linux.*", Severity: "low"}}, cfg.Format.Severity); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	// What is printed can be read again.
	var b bytes.Buffer
	if err := cfg.Print(&b); err != nil {
		t.Fatal(err)
	}
	again, err := config.Load(config.Options{Path: write(t, b.String()), Environ: environ})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(cfg.Sinks["soc"].Delivery, again.Sinks["soc"].Delivery); diff != "" {
		t.Errorf("printed and read again (-want +got):\n%s", diff)
	}
}

func TestMistakesInListsHaveTheirLines(t *testing.T) {
	path := write(t, valid+`    transform:
      - drop: process
      - dorp: process
      - rename: nothing
        to: threat
      - process
format:
  severity:
    - virus_name: "Linux.*"
      severity: worst
    - tag: x
      severity: [low]
  redact: pattern
`)
	_, err := config.Load(config.Options{Path: path, Environ: []string{"TOKEN=t"}})
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		`cwprelay.yaml:9: sinks.soc.transform[1].dorp: unknown key; did you mean drop?`,
		`cwprelay.yaml:10: sinks.soc.transform[2]: format splunk has no field "nothing"; there are: action, `,
		`cwprelay.yaml:12: sinks.soc.transform[3]: must be a block of options`,
		`cwprelay.yaml:16: format.severity[0].severity: "worst" is not one of`,
		`cwprelay.yaml:18: format.severity[1].severity: must be one value, not a list`,
		`cwprelay.yaml:19: format.redact: must be a list of blocks`,
	} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
}

// Each destination says which formats it takes.
func TestFormatsThatADestinationTakes(t *testing.T) {
	for format, want := range map[string]string{
		"cef": "sinks.soc.format: splunk_hec takes JSON: one of ecs, ocsf, raw, splunk; not cef", "xml": `sinks.soc.format: "xml" is not one of`, "ocsf": "",
	} {
		_, err := config.Load(config.Options{Path: write(t, valid+"    format: "+format+"\n"), Environ: []string{"TOKEN=t"}})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", format, err)
		}
	}
	_, err := config.Load(config.Options{Environ: []string{"TOKEN=t"}, Path: write(t, valid+"    format: raw\n    transform: [{drop: EventId}]\n")})
	if err == nil || !strings.Contains(err.Error(), "sinks.soc.transform: format raw cannot be changed") {
		t.Errorf("raw: %v", err)
	}
}
