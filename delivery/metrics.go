package delivery

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the figures of all workers of a process, labelled by sink.
type Metrics struct {
	records     *prometheus.CounterVec
	attempts    *prometheus.CounterVec
	duplicates  *prometheus.CounterVec
	dead        *prometheus.CounterVec
	conditions  *prometheus.CounterVec
	heartbeats  *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	behind      *prometheus.GaugeVec
	oldest      *prometheus.GaugeVec
	halted      *prometheus.GaugeVec
	suspects    *prometheus.GaugeVec
	lastSuccess *prometheus.GaugeVec
}

// Outcomes of records.
const (
	recordAccepted = "accepted"
	recordFiltered = "filtered" // refused by the sink's condition
	recordDead     = "dead_lettered"
	recordGone     = "gone" // no longer in the journal when it was to be sent again
)

// NewMetrics registers the figures with reg; nil keeps them unregistered.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, append([]string{"sink"}, labels...))
	}
	gauge := func(name, help string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, []string{"sink"})
	}
	m := &Metrics{
		records:    counter("cwprelay_sink_records_total", "Records settled, by what became of them.", "outcome"),
		attempts:   counter("cwprelay_sink_attempts_total", "Attempts, by outcome.", "outcome"),
		duplicates: counter("cwprelay_sink_duplicates_total", "Records that the destination already had."),
		dead:       counter("cwprelay_sink_dead_letters_total", "Records put into the dead letters, by class.", "class"),
		conditions: counter("cwprelay_sink_condition_errors_total", "Records that passed because the sink's condition failed on them."),
		heartbeats: counter("cwprelay_sink_heartbeats_total", "Heartbeats, by outcome.", "outcome"),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cwprelay_sink_attempt_duration_seconds", Help: "Duration of attempts.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60, 300},
		}, []string{"sink"}),
		behind:      gauge("cwprelay_sink_behind_records", "Records in the journal that the sink has not settled."),
		oldest:      gauge("cwprelay_sink_oldest_seconds", "Age of the oldest record that the sink has not settled; 0 when there is none."),
		halted:      gauge("cwprelay_sink_halted", "1 while the destination refuses everything."),
		suspects:    gauge("cwprelay_sink_suspect_records", "Records refused by the destination and not yet proven to be undeliverable."),
		lastSuccess: gauge("cwprelay_sink_last_success_timestamp_seconds", "Unix time of the last accepted attempt."),
	}
	if reg != nil {
		reg.MustRegister(m.records, m.attempts, m.duplicates, m.dead, m.conditions, m.heartbeats, m.seconds,
			m.behind, m.oldest, m.halted, m.suspects, m.lastSuccess)
	}
	return m
}

// Forget removes the figures of a sink whose worker has ended and that has no
// other.
func (m *Metrics) Forget(sink string) {
	l := prometheus.Labels{"sink": sink}
	for _, v := range []*prometheus.CounterVec{m.records, m.attempts, m.duplicates, m.dead, m.conditions, m.heartbeats} {
		v.DeletePartialMatch(l)
	}
	for _, v := range []*prometheus.GaugeVec{m.behind, m.oldest, m.halted, m.suspects, m.lastSuccess} {
		v.DeletePartialMatch(l)
	}
	m.seconds.DeletePartialMatch(l)
}

// sinkMetrics are the figures of one sink.
type sinkMetrics struct {
	records, attempts, dead           *prometheus.CounterVec
	heartbeats                        *prometheus.CounterVec
	duplicates, conditions            prometheus.Counter
	seconds                           prometheus.Observer
	behind, oldest, halted, suspected prometheus.Gauge
	lastSuccess                       prometheus.Gauge
}

func (m *Metrics) of(sink string) sinkMetrics {
	l := prometheus.Labels{"sink": sink}
	s := sinkMetrics{
		records: m.records.MustCurryWith(l), attempts: m.attempts.MustCurryWith(l), dead: m.dead.MustCurryWith(l),
		heartbeats: m.heartbeats.MustCurryWith(l),
		duplicates: m.duplicates.With(l), conditions: m.conditions.With(l), seconds: m.seconds.With(l),
		behind: m.behind.With(l), oldest: m.oldest.With(l), halted: m.halted.With(l),
		suspected: m.suspects.With(l), lastSuccess: m.lastSuccess.With(l),
	}
	for _, o := range []string{recordAccepted, recordFiltered, recordDead, recordGone} {
		s.records.WithLabelValues(o) // a rate needs the zero
	}
	for _, o := range []string{heartbeatAccepted, heartbeatFailed} {
		s.heartbeats.WithLabelValues(o)
	}
	for _, c := range []string{classPoison, classStuck, classEncode} {
		s.dead.WithLabelValues(c)
	}
	return s
}
