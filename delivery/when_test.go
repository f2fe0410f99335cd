package delivery

import (
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// miner is a finding of a miner; status and flags vary by case.
func miner(change func(r *event.Record)) *event.Record {
	r := &event.Record{
		Seq: 7, Key: event.Key{Account: "1300000001", Kind: "risk_process", ID: "9007199254740993"},
		Action: event.Detected, Status: event.Status{Code: "0", Symbol: "pending"},
		Source: "prod", Dialect: "record", Zone: "Asia/Shanghai",
		ObservedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
		Raw: []byte(`{"EventId":9007199254740993,"VirusName":"Linux.Trojan.Miner","VirusTags":["Miner","Rootkit-free"],` +
			`"FilePath":"/tmp/xmrig","HostIp":"10.0.0.7","HandleStatus":0,"DetectTime":"2026-01-02 11:00:00",` +
			`"MachineExtraInfo":{"HostName":"web-1"},"HostName":"web one"}`),
	}
	if change != nil {
		change(r)
	}
	return r
}

func TestConditions(t *testing.T) {
	ignored := func(r *event.Record) {
		r.Status = event.Status{Code: "5", Symbol: "ignored", Closed: true}
		r.Action = event.Closed
	}
	for text, tc := range map[string]struct {
		change func(*event.Record)
		want   bool
	}{
		`threat_severity >= high && !backfill`:                            {nil, true},
		`threat_severity >= high && !backfill `:                           {func(r *event.Record) { r.Backfill = true }, false},
		`severity == high`:                                                {nil, true},
		`severity == informational && threat_severity == high`:            {ignored, true},
		`severity < low`:                                                  {nil, false},
		`informational < low && low < medium && high < critical`:          {nil, true},
		`open && !closed`:                                                 {nil, true},
		`closed && action == "closed" && status == "ignored"`:             {ignored, true},
		`category == "miner"`:                                             {nil, true},
		`virus_name contains "Miner"`:                                     {nil, true},
		`virus_name matches "^Linux[.]"`:                                  {nil, true},
		`any(virus_tags, lower(#) == "miner")`:                            {nil, true},
		`"Miner" in virus_tags`:                                           {nil, true},
		`file_path startsWith "/tmp/"`:                                    {nil, true},
		`host_ip in ["10.0.0.7"]`:                                         {nil, true},
		`host_name == "web-1" || host_name == "web one"`:                  {nil, true},
		`event_id == "9007199254740993"`:                                  {nil, true},
		`account_id == "1300000001" && source == "prod"`:                  {nil, true},
		`kind == "risk_process" && !replayed`:                             {nil, true},
		`count(virus_tags, # startsWith "M") == 1 && len(virus_tags) > 1`: {nil, true},
	} {
		t.Run(text, func(t *testing.T) {
			c, err := compile(text)
			if err != nil {
				t.Fatal(err)
			}
			got, err := c.match(miner(tc.change))
			if err != nil || got != tc.want {
				t.Errorf("match = %t, %v; want %t", got, err, tc.want)
			}
		})
	}
}

func TestWrongConditionsAreExplained(t *testing.T) {
	for text, want := range map[string]string{
		`severty >= high`:                              "threat_severity, virus_name, virus_tags", // the names there are
		`severity >= "high"`:                           "mismatched types",
		`severity`:                                     "expected bool",
		`virus_name`:                                   "expected bool",
		`open &&`:                                      "unexpected",
		`now() > 3`:                                    "unknown name now",
		`repeat(virus_name, 100000000) == ""`:          "unknown name repeat",
		`any(virus_tags, any(virus_tags, true))`:       "too costly",
		`virus_name matches file_path`:                 "in quotes",
		`open` + strings.Repeat(` && open`, 5000):      "at most",
		`open` + strings.Repeat(`||open`, 600):         "maximum",
		`any(virus_tags, {any(virus_tags, # == "a")})`: "too costly",
	} {
		name := text[:min(len(text), 40)]
		t.Run(name, func(t *testing.T) {
			err := Config{When: text}.WithDefaults().Validate()
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.HasPrefix(err.Error(), "when: ") || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("error is %q, want one line with %q", err, want)
			}
		})
	}
}

func TestFailingConditionLetsTheRecordPass(t *testing.T) {
	core, logs := observer.New(zap.WarnLevel)
	w, err := New(Options{Name: "soc", Log: zap.New(core), Config: Config{When: `virus_tags[5] == "x"`}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if !w.wants(miner(nil)) {
			t.Error("refused")
		}
	}
	if got := value(t, w.metrics.conditions); got != 3 {
		t.Errorf("condition errors counted: %g", got)
	}
	if logs.Len() != 1 {
		t.Errorf("the same error was logged %d times", logs.Len())
	}
}

func TestCostOfAConditionIsBounded(t *testing.T) {
	text := `count(1..100000000, # > 3) == 4`
	c, err := compile(text)
	if err != nil {
		return // refused at once is as good
	}
	begin := time.Now()
	if _, err := c.match(miner(nil)); err == nil {
		t.Error("no error")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("took %s", took)
	}
}

func BenchmarkCondition(b *testing.B) {
	c, err := compile(`threat_severity >= high && !backfill && any(virus_tags, # == "Miner")`)
	if err != nil {
		b.Fatal(err)
	}
	r := miner(nil)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.match(r); err != nil {
			b.Fatal(err)
		}
	}
}

// Severities and masks of the configuration hold for conditions, for the
// format, and for sinks that make their own messages.
func TestRulesOfTheConfigurationHoldEverywhere(t *testing.T) {
	rules, err := format.NewRules(format.Config{Severity: []format.SeverityRule{{VirusName: "*.Miner", Severity: "low"}}})
	if err != nil {
		t.Fatal(err)
	}
	encode, err := format.New(format.Splunk, format.Config{})
	if err != nil {
		t.Fatal(err)
	}
	w, err := New(Options{Name: "soc", Rules: rules, Encoder: encode, Config: Config{When: `severity == low`}})
	if err != nil {
		t.Fatal(err)
	}
	if !w.wants(miner(nil)) {
		t.Error("the condition goes by another severity")
	}
	body, err := w.encodeTo(nil, miner(nil))
	if err != nil || !strings.Contains(string(body), `"severity":"low"`) {
		t.Errorf("encoded %s, %v", body, err)
	}
	own, err := New(Options{Name: "chat", Rules: rules})
	if err != nil {
		t.Fatal(err)
	}
	rec := miner(nil)
	if _, err := own.encodeTo(nil, rec); err != nil || format.Of(rec).Severity != format.Low {
		t.Errorf("a sink of its own messages sees %s, %v", format.Of(rec).Severity, err)
	}
}
