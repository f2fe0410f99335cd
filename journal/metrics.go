package journal

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// register shows the journal's figures. They are read when they are asked for.
func (f *File) register() {
	if f.opt.Registerer == nil {
		return
	}
	f.fsyncs = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "cwprelay_journal_commit_duration_seconds", Help: "Time of one commit, synced.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 14),
	})
	f.opt.Registerer.MustRegister(f.fsyncs, &collector{f: f})
}

type collector struct{ f *File }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("cwprelay_journal_"+name, help, labels, nil)
}

// Describe sends nothing: what is collected depends on the sinks there are.
func (c *collector) Describe(chan<- *prometheus.Desc) {}

// Collect sends the present figures.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s, err := c.f.Status(ctx)
	if err != nil {
		return
	}
	gauge := func(name, help string, v float64) {
		ch <- prometheus.MustNewConstMetric(desc(name, help), prometheus.GaugeValue, v)
	}
	gauge("records", "Records in the log.", float64(s.Records))
	gauge("keys", "Known events.", float64(s.Keys))
	gauge("bytes", "Bytes of log, states and dead letters.", float64(s.Bytes))
	gauge("max_bytes", "The limit of that.", float64(s.MaxBytes))
	gauge("file_bytes", "Size of the file.", float64(s.FileBytes))
	gauge("damaged_records", "Records that could not be read back.", float64(s.Damaged))
	full := 0.0
	if s.Full != nil {
		full = 1
	}
	gauge("full", "1 while nothing is taken in for lack of room.", full)
	skipped := map[string]int{}
	for _, g := range s.Gaps {
		skipped[g.Sink] += g.Records
	}
	for _, sink := range s.Sinks {
		if !sink.Configured {
			continue // Status tells of it
		}
		ch <- prometheus.MustNewConstMetric(desc("dead_letters", "Dead letters of a sink that are kept.", "sink"),
			prometheus.GaugeValue, float64(sink.Dead), sink.Sink)
		ch <- prometheus.MustNewConstMetric(desc("gap_records", "Records that a sink did not get: skipped, trimmed or damaged.", "sink"),
			prometheus.GaugeValue, float64(skipped[sink.Sink]), sink.Sink)
	}
}
