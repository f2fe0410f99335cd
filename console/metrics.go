package console

import (
	"context"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/poller"
)

// Collector exports the readiness, its reasons, and the state of every sink, so
// that an alert needs no second source. The reasons come from a fixed list, so
// each is there as 0 while it does not hold.
func (s *Server) Collector() prometheus.Collector {
	const help = "1 while this is a reason not to rely on cwprelay: see /readyz."
	return &collector{
		server: s,
		ready:  prometheus.NewDesc("cwprelay_ready", "1 while everything is as it should be.", nil, nil),
		reason: prometheus.NewDesc("cwprelay_not_ready_reason", help, []string{"reason"}, nil),
		state:  prometheus.NewDesc("cwprelay_sink_state", "1 for the state that the sink is in.", []string{"sink", "state"}, nil),
		build:  prometheus.NewDesc("cwprelay_build_info", "1, by the version of the program.", []string{"version"}, nil),
		config: prometheus.NewDesc("cwprelay_config_current", "1 while what stands in the configuration file is in force; 0 after it was changed and not read, or was refused.", nil, nil),
		since:  prometheus.NewDesc("cwprelay_config_loaded_timestamp_seconds", "When the configuration in force was put in force.", nil, nil),
	}
}

type collector struct {
	server                      *Server
	ready, reason, state, build *prometheus.Desc
	config, since               *prometheus.Desc
}

// ReasonCodes are all codes that a Reason can have.
func ReasonCodes() []string {
	codes := append(poller.NotReadyCodes(), "sink_halted", "journal_unreadable")
	slices.Sort(codes)
	return codes
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.ready
	ch <- c.reason
	ch <- c.state
	ch <- c.build
	ch <- c.config
	ch <- c.since
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	gauge := func(d *prometheus.Desc, on bool, labels ...string) {
		v := 0.0
		if on {
			v = 1
		}
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	r := c.server.Readiness(ctx)
	gauge(c.ready, r.Ready)
	gauge(c.build, true, c.server.opt.Version)
	if f := c.server.opt.Configuration; f != nil {
		conf := f()
		gauge(c.config, conf.State == ConfigurationCurrent)
		ch <- prometheus.MustNewConstMetric(c.since, prometheus.GaugeValue, float64(conf.Since.UnixMilli())/1000)
	}
	for _, code := range ReasonCodes() {
		gauge(c.reason, slices.ContainsFunc(r.Reasons, func(r Reason) bool { return r.Code == code }), code)
	}
	for _, sink := range c.server.opt.Sinks() {
		for _, state := range delivery.States() {
			gauge(c.state, sink.State == state, sink.Name, string(state))
		}
	}
}
