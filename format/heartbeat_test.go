package format_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

func heartbeats() map[string]*event.Record {
	at := time.Date(2026, 9, 17, 10, 31, 10, 250e6, time.UTC)
	beat := format.Heartbeat{Sink: "soc", Host: "relay-1", Version: "1.2.3", Interval: 300, Ready: true}
	ill := beat
	ill.Ready, ill.Reasons, ill.Behind, ill.Dead = false, []string{"sink_halted", "journal_full"}, 1042, 7
	return map[string]*event.Record{"ready": beat.Record(at), "not-ready": ill.Record(at)}
}

// A heartbeat has a form in every format, by which a search tells it from
// findings and tells whether all is well, and which follows the standard.
func TestHeartbeat(t *testing.T) {
	keys, ecs := textKeys(t), ecsFields(t)
	for state, r := range heartbeats() {
		for _, name := range format.Names() {
			body := encode(t, name, r)
			if !strings.Contains(strings.ToLower(string(body)), "heartbeat") || !strings.Contains(string(body), "soc") {
				t.Errorf("%s, %s: cannot be found: %s", name, state, body)
			}
			if format.IsJSON(name) {
				oneLine(t, name, body)
				golden(t, "heartbeat-"+state+"."+name+".json", body)
			} else {
				goldenText(t, "heartbeat-"+state+"."+name+".txt", body)
			}
		}
		doc := fields(t, encode(t, format.ECS, r))
		for _, wrong := range ecsMistakes(ecs, doc) {
			if wrong != "event.category: missing" && wrong != "event.type: missing" { // of a state
				t.Error(wrong)
			}
		}
		_, pairs, err := readCEF(string(encode(t, format.CEF, r)))
		if err = errors.Join(err, cefMistakes(keys, pairs)); err != nil {
			t.Error(err)
		}
		if _, _, err = readLEEF(string(encode(t, format.LEEF, r))); err != nil {
			t.Error(err)
		}
		f := format.Of(r)
		if f.Severity != format.Informational || f.Alert || f.Open || f.ActionName != "cwprelay-heartbeat" {
			t.Errorf("a heartbeat looks like a finding: %+v", f)
		}
		body := encode(t, format.Splunk, r)
		env, err := format.AppendHEC(nil, r, body, format.HECOptions{})
		if err != nil {
			t.Fatal(err)
		}
		golden(t, "heartbeat-"+state+".hec.json", env)
	}
}

// Two heartbeats are two events, of one host as of two, and one is itself.
func TestHeartbeatsDiffer(t *testing.T) {
	at := time.Date(2026, 9, 17, 10, 31, 10, 0, time.UTC)
	one := format.Heartbeat{Sink: "soc", Host: "relay-1"}
	other := format.Heartbeat{Sink: "soc", Host: "relay-2"}
	uid := one.Record(at).UID
	if len(uid) != 40 || uid != one.Record(at).UID {
		t.Errorf("event_uid %q is not stable", uid)
	}
	if uid == one.Record(at.Add(time.Minute)).UID || uid == other.Record(at).UID {
		t.Error("two heartbeats have one event_uid")
	}
}

// What an operator changes in a format is changed in heartbeats too.
func TestHeartbeatIsTransformed(t *testing.T) {
	r := heartbeats()["ready"]
	for name, key := range map[string]string{format.ECS: "labels.site", format.CEF: "dvchost", format.LEEF: "resource"} {
		enc, err := format.New(name, format.Config{}, format.Change{Set: key, Value: "berlin"})
		if err != nil {
			t.Fatal(err)
		}
		if b, err := enc(nil, r); err != nil || !strings.Contains(string(b), "berlin") {
			t.Errorf("%s: %s, %v", name, b, err)
		}
	}
}
