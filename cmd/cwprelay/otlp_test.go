package main

import (
	"net/http"
	"os"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/console/otlp/otlptest"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// One run exports its sweep with the failed requests, its batches with every
// attempt, and the metrics, and a collector that refuses everything changes
// nothing of what is delivered.
func TestRunExportsTracesAndMetrics(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 250})
	s.api.SetFaults(emulator.Faults{Codes: map[string]float64{"InternalError": 1}})
	to := otlptest.New(t)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(string(text) + "otlp: {endpoint: " + to.URL + "}\n")
	d := s.start("run", "--once", "-c", s.config)
	s.until("refused", d, func() bool { return s.api.Stats().Requests["InternalError"] > 0 })
	s.api.SetFaults(emulator.Faults{})
	if err := d.Wait(); err != nil {
		t.Fatalf("%v: %s", err, d.stderr)
	}
	sweeps := to.Spans("sweep")
	if len(sweeps) == 0 {
		t.Fatal("no sweep was traced")
	}
	last := sweeps[len(sweeps)-1]
	if got := otlptest.Text(last, "cwprelay.verdict"); got != "certified" || otlptest.Int(last, "cwprelay.events") != 250 {
		t.Errorf("the sweep: %v", last)
	}
	faults := 0
	for _, sweep := range sweeps {
		for _, e := range sweep.GetEvents() {
			if faults++; !strings.Contains(e.String(), "InternalError") || !strings.Contains(e.String(), "request_id") {
				t.Errorf("a failed request: %v", e)
			}
		}
	}
	if faults == 0 {
		t.Error("no failed request was told")
	}
	records := map[string]int64{}
	for _, span := range to.Spans("deliver") {
		records[otlptest.Text(span, "cwprelay.sink")] += otlptest.Int(span, "cwprelay.records")
		if otlptest.Text(span, "cwprelay.outcome") != "ok" {
			t.Errorf("a batch: %v", span)
		}
	}
	if records["soc"] != 250 || records["archive"] != 250 {
		t.Errorf("records in the batches that were traced: %v, want 250 for each sink", records)
	}
	if m := to.Metric("cwprelay_sink_records_total"); m == nil {
		t.Error("the metrics were not exported")
	}

	to.Answer(http.StatusServiceUnavailable)
	other := newStage(t, emulator.Config{Events: 50})
	text, err = os.ReadFile(other.config)
	if err != nil {
		t.Fatal(err)
	}
	other.write(string(text) + "otlp: {endpoint: " + to.URL + "}\n")
	code, errs := other.run("run", "--once", "-c", other.config)
	if code != exitDone || other.hec.Distinct() != 50 {
		t.Errorf("without a collector: exit %d, %d events: %s", code, other.hec.Distinct(), errs)
	}
	if n := strings.Count(errs, "cannot be exported"); n != 1 {
		t.Errorf("the outage is told %d times: %s", n, errs)
	}
}
