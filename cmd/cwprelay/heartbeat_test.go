package main

import (
	"encoding/json"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
)

// The destination hears that cwprelay lives, at once and after a reload that
// changes the sink, and whether it is ready; findings come beside it.
func TestHeartbeatReachesTheDestination(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 40})
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	const sink = "token: hectest-token}"
	if !strings.Contains(string(text), sink) {
		t.Fatal("the stage's configuration is another")
	}
	with := func(every string) { s.write(strings.Replace(string(text), sink, sink+", heartbeat: "+every, 1)) }
	type beat struct {
		Action string `json:"event_action"`
		Sink   string `json:"sink"`
		Host   string `json:"relay_host"`
		Every  int    `json:"interval_seconds"`
		Ready  bool   `json:"ready"`
	}
	beats := func() (beats []beat, findings int) {
		for _, e := range s.hec.Events() {
			if !isHeartbeat(e) {
				findings++
				continue
			}
			var b beat
			if err := json.Unmarshal(e.Event, &b); err != nil {
				t.Fatal(err)
			}
			beats = append(beats, b)
		}
		return beats, findings
	}
	with("1h")
	d := s.start("run", "-c", s.config)
	s.until("the first heartbeat, and all findings", d, func() bool {
		list, findings := beats()
		return len(list) == 1 && findings >= 40 && !s.sink("soc").LastHeartbeat.IsZero() && s.overview().Ready.Ready
	})
	with("2h")
	if err := d.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.until("the next heartbeat", d, func() bool { list, _ := beats(); return len(list) == 2 })
	host, _ := os.Hostname()
	list, findings := beats()
	if want := (beat{"cwprelay-heartbeat", "soc", host, 7200, true}); list[1] != want {
		t.Errorf("%+v, want %+v", list[1], want)
	}
	if got := s.hec.Distinct(); got != findings+2 {
		t.Errorf("%d distinct event_uids of %d findings and 2 heartbeats", got, findings)
	}
	if bad := s.hec.Violations(); len(bad) > 0 {
		t.Error(bad)
	}
}

func isHeartbeat(e hectest.Event) bool { return e.SourceType == "tencent:cwp:heartbeat" }
