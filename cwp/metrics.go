package cwp

import "github.com/prometheus/client_golang/prometheus"

// Metrics are the figures of all clients of a process.
type Metrics struct {
	requests *prometheus.CounterVec
	duration *prometheus.HistogramVec
	rate     *prometheus.GaugeVec
}

// NewMetrics registers the figures.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cwprelay_api_requests_total", Help: "Requests to the API, by code of the answer: ok, the API's code, or the class of the failure.",
		}, []string{"source", "kind", "code"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cwprelay_api_request_duration_seconds", Help: "Time from sending a request to having its whole answer.",
			Buckets: prometheus.ExponentialBuckets(0.005, 2, 13),
		}, []string{"source", "kind"}),
		rate: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "cwprelay_api_rate_limit_requests_per_second", Help: "Requests per second that are allowed now; lower than configured after the API refused some.",
		}, []string{"source", "kind"}),
	}
	reg.MustRegister(m.requests, m.duration, m.rate)
	return m
}

// Forget removes the figures of a source and kind that no client asks for any
// more.
func (m *Metrics) Forget(source, kind string) {
	l := prometheus.Labels{"source": source, "kind": kind}
	m.requests.DeletePartialMatch(l)
	m.duration.DeletePartialMatch(l)
	m.rate.DeletePartialMatch(l)
}
