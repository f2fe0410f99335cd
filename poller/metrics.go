package poller

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/event"
)

// Metrics are the figures of all pollers of a process.
type Metrics struct {
	sweeps    *prometheus.CounterVec
	duration  *prometheus.GaugeVec
	certified *prometheus.GaugeVec
	newest    *prometheus.GaugeVec
	known     *prometheus.GaugeVec
	records   *prometheus.CounterVec
	rejected  *prometheus.CounterVec
	stale     *prometheus.CounterVec
	odd       *prometheus.CounterVec
}

// NewMetrics registers the figures.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"source", "kind"}, labels...))
		reg.MustRegister(v)
		return v
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		v := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"source", "kind"})
		reg.MustRegister(v)
		return v
	}
	return &Metrics{
		sweeps:    counter("cwprelay_sweeps_total", "Sweeps that ended, by verdict: certified, or the reason why not.", "verdict"),
		duration:  gauge("cwprelay_sweep_duration_seconds", "Length of the last sweep."),
		certified: gauge("cwprelay_sweep_last_certified_timestamp_seconds", "End of the last certified sweep."),
		newest:    gauge("cwprelay_newest_detection_timestamp_seconds", "Latest detection time seen."),
		known:     gauge("cwprelay_known_events", "Events whose state is known."),
		records:   counter("cwprelay_records_taken_in_total", "Records written to the journal, by action.", "action"),
		rejected:  counter("cwprelay_answers_rejected_total", "Answers of the API that failed a check, by check.", "check"),
		stale:     counter("cwprelay_items_stale_total", "Items left unjudged because a newer answer overtook theirs."),
		odd:       counter("cwprelay_items_odd_total", "Items without a usable id, time or status.", "what"),
	}
}

// begin makes every figure of a source be there from the start: a rate needs
// the zero.
func (m *Metrics) begin(source, kind string) {
	m.sweeps.WithLabelValues(source, kind, "certified")
	for _, a := range []event.Action{event.Detected, event.Redetected, event.StatusChanged, event.Closed, event.Reopened} {
		m.records.WithLabelValues(source, kind, string(a))
	}
	for f := faultCount; f <= faultOrder; f++ {
		m.rejected.WithLabelValues(source, kind, f.String())
	}
	for _, what := range []string{oddID, oddTime, oddStatus} {
		m.odd.WithLabelValues(source, kind, what)
	}
	m.stale.WithLabelValues(source, kind)
	for _, g := range []*prometheus.GaugeVec{m.duration, m.certified, m.newest, m.known} {
		g.WithLabelValues(source, kind)
	}
}

// Forget removes the figures of a source and kind whose poller has ended and
// that has no other.
func (m *Metrics) Forget(source, kind string) {
	l := prometheus.Labels{"source": source, "kind": kind}
	for _, v := range []*prometheus.CounterVec{m.sweeps, m.records, m.rejected, m.stale, m.odd} {
		v.DeletePartialMatch(l)
	}
	for _, v := range []*prometheus.GaugeVec{m.duration, m.certified, m.newest, m.known} {
		v.DeletePartialMatch(l)
	}
}

// What can be odd about an item.
const (
	oddID     = "id"
	oddTime   = "time"
	oddStatus = "status"
)
