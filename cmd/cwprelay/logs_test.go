package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/config"
)

// A program reads JSON, a person at a terminal lines of text; what the
// configuration says goes before that, and both can change while it runs.
func TestLogsAreJSONUnlessForPeople(t *testing.T) {
	var out bytes.Buffer
	log := newLogger(config.Log{Level: "info", Format: "auto"}, &out)
	line := func() string {
		out.Reset()
		log.Named("sink.soc").Info("delivery works again")
		return out.String()
	}
	isJSON := func(s string) bool {
		var v struct{ Level, Logger, Msg string }
		return json.Unmarshal([]byte(s), &v) == nil && v.Logger == "sink.soc" && v.Msg == "delivery works again"
	}
	if s := line(); !isJSON(s) {
		t.Errorf("into a pipe: %q", s)
	}
	log.terminal = true
	log.set(config.Log{Level: "info"}, config.Log{Level: "info", Format: "auto"})
	if s := line(); isJSON(s) || !strings.Contains(s, "INFO\tsink.soc\tdelivery works again") {
		t.Errorf("on a terminal: %q", s)
	}
	log.set(config.Log{Level: "info"}, config.Log{Level: "info", Format: "json"})
	if s := line(); !isJSON(s) {
		t.Errorf("format json on a terminal: %q", s)
	}
	log.set(config.Log{Level: "info"}, config.Log{Level: "warn", Format: "json"})
	if s := line(); s != "" {
		t.Errorf("at level warn: %q", s)
	}
	// A reload that does not change the level leaves what the verb set.
	if err := log.level.UnmarshalText([]byte("debug")); err != nil {
		t.Fatal(err)
	}
	log.set(config.Log{Level: "warn"}, config.Log{Level: "warn", Format: "json"})
	if s := line(); s == "" {
		t.Error("a reload undid log-level")
	}
}
