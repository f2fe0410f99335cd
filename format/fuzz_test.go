package format_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// Whatever the vendor or an attacker writes into an event, outputs are one
// line of valid JSON that follow the schema, keep integers exact and hold no
// secret.
func FuzzHostileRecords(f *testing.F) {
	for _, r := range samples(f) {
		f.Add(string(r.Raw), "Asia/Shanghai", int64(3), "cmd")
	}
	for _, item := range oddItems() {
		raw, err := json.Marshal(item)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(raw), "", int64(-1), "--password=x")
	}
	f.Add("{\"HostName\":\"\xff\x00\\u0000\\ud800\",\n\"CmdLine\":7}", "UTC", int64(9), "\u2028\u0085\r\n")
	f.Add("not JSON", "Mars", int64(0), "")
	known := ecsFields(f)
	cases := redactionCases(f)
	keys, ocsf := textKeys(f), newOCSFSchema(f)
	f.Fuzz(func(t *testing.T, raw, zone string, id int64, text string) {
		r := hostile(raw, zone, id, text)
		for _, name := range format.Names() {
			enc, err := format.New(name, format.Config{})
			if err != nil {
				t.Fatal(err)
			}
			b, err := enc(nil, r)
			if err != nil {
				if name != format.Raw || json.Valid(r.Raw) {
					t.Fatalf("%s of %q: %v", name, raw, err)
				}
				continue
			}
			if !format.IsJSON(name) {
				textMistakes(t, keys, name, r, b)
				continue
			}
			oneLine(t, name, b)
			if name == format.Raw {
				continue
			}
			if !utf8.Valid(b) || bytes.ContainsAny(b, "\u2028\u2029\u0085\x00\x7f") {
				t.Fatalf("%s: %q", name, b)
			}
			doc := fields(t, b)
			if name == format.ECS {
				if wrong := ecsMistakes(known, doc); wrong != nil {
					t.Fatalf("%q: %v", raw, wrong)
				}
			}
			if name == format.OCSF {
				if err := ocsf.check(doc); err != nil {
					t.Fatalf("%q: %v", raw, err)
				}
				if got := flatten(doc)["metadata.original_event_uid"]; got != r.Key.ID {
					t.Fatalf("event id %v, want %s", got, r.Key.ID)
				}
				continue
			}
			flat := flatten(doc)
			if got := flat[map[string]string{format.ECS: "tencent_cloud.cwp.event_id", format.Splunk: "event_id"}[name]]; got != json.Number(r.Key.ID) {
				t.Fatalf("%s: event id %v, want %s", name, got, r.Key.ID)
			}
			env, err := format.AppendHEC(nil, r, b, format.HECOptions{Host: text})
			if err != nil {
				t.Fatal(err)
			}
			oneLine(t, "HEC", env)
		}
		secretStaysIn(t, cases, text)
	})
}

// hostile is a record with fuzzed contents; what the journal made itself is
// well-formed.
func hostile(raw, zone string, id int64, text string) *event.Record {
	key := event.Key{Account: "1300000001", Kind: "risk_process", ID: json.Number(intText(id)).String()}
	return &event.Record{
		Key: key, UID: key.EventUID(2, "r"), Sequence: 2, Revision: "r",
		Action: event.StatusChanged, Status: event.Status{Code: text, Symbol: event.UnknownStatus}, Previous: event.Status{Code: "0", Symbol: "pending"},
		ObservedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Dialect: "record", Zone: zone, Raw: []byte(raw),
	}
}

func intText(n int64) string {
	b, err := json.Marshal(n)
	if err != nil {
		panic(err)
	}
	return string(b)
}

func oneLine(t *testing.T, name string, b []byte) {
	t.Helper()
	if bytes.ContainsAny(b, "\r\n") || !json.Valid(b) {
		t.Fatalf("%s is not one line of JSON: %q", name, b)
	}
}

// secretStaysIn puts the corpus of secrets behind fuzzed text.
func secretStaysIn(t *testing.T, cases []redactionCase, text string) {
	t.Helper()
	const secret = "hunter2"
	if strings.Contains(text, secret) || len(text) > 1000 {
		return
	}
	for _, c := range cases {
		if !strings.Contains(c.In, secret) || strings.ContainsAny(text, `"'`) {
			continue // an open quote in front changes what a word is
		}
		raw, err := json.Marshal(map[string]string{"CmdLine": text + " \n" + c.In})
		if err != nil {
			t.Fatal(err)
		}
		r := hostile(string(raw), "", 1, "")
		for _, name := range format.Names() {
			if name == format.Raw {
				continue
			}
			enc, err := format.New(name, format.Config{})
			if err != nil {
				t.Fatal(err)
			}
			b, err := enc(nil, r)
			if err != nil || bytes.Contains(b, []byte(secret)) {
				t.Fatalf("%s of %q: %s, %v", name, raw, b, err)
			}
		}
	}
}
