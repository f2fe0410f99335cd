package all_test

import (
	"bytes"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks/all"
	"github.com/cwprelay/cwprelay/sinks/elastic"
	"github.com/cwprelay/cwprelay/sinks/file"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/slack"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
	"github.com/cwprelay/cwprelay/sinks/syslog"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// one is a valid configuration of each kind, with its default format.
func one(t *testing.T) map[string]struct {
	cfg    all.Config
	format string
	made   string
} {
	t.Helper()
	return map[string]struct {
		cfg    all.Config
		format string
		made   string
	}{
		all.SplunkHEC: {all.Config{SplunkHEC: &splunkhec.Config{URL: "https://splunk:8088", Token: secret.New("t")}}, "splunk", "*splunkhec.Sink"},
		all.Kafka:     {all.Config{Kafka: &kafka.Config{Brokers: []string{"kafka:9092"}, Topic: "cwp"}}, "ecs", "*kafka.Sink"},
		all.Elastic:   {all.Config{Elastic: &elastic.Config{URLs: []string{"https://es:9200"}}}, "ecs", "*elastic.Sink"},
		all.Webhook:   {all.Config{Webhook: &webhook.Config{URL: secret.New("https://hook.example/x")}}, "ecs", "*webhook.Sink"},
		all.Slack:     {all.Config{Slack: &slack.Config{URL: secret.New("https://hooks.slack.com/services/x")}}, "", "*slack.Sink"},
		all.Syslog:    {all.Config{Syslog: &syslog.Config{Address: "tls://siem:6514"}}, "cef", "*syslog.Sink"},
		all.File:      {all.Config{File: &file.Config{Path: filepath.Join(t.TempDir(), "out")}}, "ecs", "*file.Sink"},
		all.Stdout:    {all.Config{Stdout: &file.StdoutConfig{}}, "ecs", "*file.Stdout"},
	}
}

func TestEachKind(t *testing.T) {
	cases := one(t)
	if len(cases) != len(all.Kinds()) {
		t.Errorf("%d cases for %d kinds", len(cases), len(all.Kinds()))
	}
	for kind, x := range cases {
		t.Run(kind, func(t *testing.T) {
			if err := x.cfg.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
			if got := x.cfg.Kind(); got != kind {
				t.Errorf("kind %q", got)
			}
			if got := x.cfg.DefaultFormat(); got != x.format || got != "" && !slices.Contains(format.Names(), got) {
				t.Errorf("format %q, want %q", got, x.format)
			}
			sink, err := all.New(x.cfg, all.Options{Name: "soc", Stdout: &bytes.Buffer{}})
			if err != nil {
				t.Fatal(err)
			}
			defer sink.Close()
			if got := fmt.Sprintf("%T", sink); got != x.made {
				t.Errorf("made %s, want %s", got, x.made)
			}
		})
	}
}

// Each field has a name among the kinds, so none can be forgotten in them.
func TestKindsAreFields(t *testing.T) {
	var fields []string
	for f := range reflect.TypeFor[all.Config]().Fields() {
		fields = append(fields, f.Tag.Get("koanf"))
	}
	if diff := cmp.Diff(all.Kinds(), fields); diff != "" {
		t.Errorf("kinds and fields (-kinds +fields):\n%s", diff)
	}
}

func TestExactlyOneKind(t *testing.T) {
	cases := one(t)
	none, two := all.Config{}, all.Config{Kafka: cases[all.Kafka].cfg.Kafka, Stdout: &file.StdoutConfig{}}
	const required = "exactly one of splunk_hec, kafka, elasticsearch, webhook, slack, syslog, file, stdout is required"
	for want, cfg := range map[string]all.Config{
		required: none,
		required + "; there are kafka, stdout: give each a sink of its own": two,
	} {
		if err := cfg.Validate(); err == nil || err.Error() != want {
			t.Errorf("Validate: %v, want %q", err, want)
		}
		if cfg.Kind() != "" {
			t.Errorf("kind %q of none or several", cfg.Kind())
		}
		if _, err := all.New(cfg, all.Options{Name: "soc"}); err == nil || !strings.HasPrefix(err.Error(), "sink soc: ") {
			t.Errorf("New: %v, want an error", err)
		}
	}
}

// Mistakes are reported under the kind's key, one a line.
func TestMistakesHaveTheirKey(t *testing.T) {
	cfg := all.Config{Kafka: &kafka.Config{Acks: "none"}, File: &file.Config{}, SplunkHEC: &splunkhec.Config{}}
	var got []string
	for line := range strings.SplitSeq(cfg.Validate().Error(), "\n") {
		key, _, _ := strings.Cut(line, ":")
		got = append(got, key)
	}
	want := []string{
		"exactly one of splunk_hec, kafka, elasticsearch, webhook, slack, syslog, file, stdout is required; there are splunk_hec, kafka, file",
		"splunk_hec.url", "splunk_hec.token", "kafka.brokers", "kafka.topic", "kafka.acks", "file.path",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

// Defaults are filled into a copy.
func TestDefaultsLeaveTheOriginal(t *testing.T) {
	for kind, x := range one(t) {
		got := x.cfg.WithDefaults()
		if got.Kind() != kind {
			t.Errorf("%s: kind %q with defaults", kind, got.Kind())
		}
	}
	cfg := all.Config{Kafka: &kafka.Config{}, File: &file.Config{}, SplunkHEC: &splunkhec.Config{}}
	got := cfg.WithDefaults()
	if got.Kafka.RequestTimeout != 25*time.Second || got.File.Mode != "0640" || got.SplunkHEC.Ack != "auto" {
		t.Errorf("defaults are missing: %+v", got)
	}
	if cfg.Kafka.RequestTimeout != 0 || cfg.File.Mode != "" || cfg.SplunkHEC.Ack != "" {
		t.Error("the original was changed")
	}
}

func TestStandardOutput(t *testing.T) {
	cfg := all.Config{Stdout: &file.StdoutConfig{}}
	if _, err := all.New(cfg, all.Options{Name: "out"}); err == nil {
		t.Error("made without a stream")
	}
	var stream bytes.Buffer
	sink, err := all.New(cfg, all.Options{Name: "out", Stdout: &stream})
	if err != nil {
		t.Fatal(err)
	}
	batch := sinktest.Messages(2)
	if _, err := sink.Send(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	if got, want := stream.String(), fmt.Sprintf("%s\n%s\n", batch[0].Body, batch[1].Body); got != want {
		t.Errorf("stream %q, want %q", got, want)
	}
}
