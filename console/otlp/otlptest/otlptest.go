// Package otlptest is a receiver of OTLP over HTTP for tests. It decodes what
// arrives with the messages that the protocol's authors publish and keeps it;
// what is not OTLP fails the test.
package otlptest

import (
	"compress/gzip"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	colmetrics "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	coltrace "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	metrics "go.opentelemetry.io/proto/otlp/metrics/v1"
	trace "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

// A Receiver keeps what is exported to it.
type Receiver struct {
	URL string

	mu      sync.Mutex // guards the rest
	status  int        // that every request is answered with; 0: as it should be
	spans   []*trace.Span
	metrics map[string]*metrics.Metric // the last of each name
	service string
	headers http.Header // of the last request
	refused int
}

// New starts a receiver that ends with the test.
func New(tb testing.TB) *Receiver {
	tb.Helper()
	r := &Receiver{metrics: map[string]*metrics.Metric{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/metrics", func(w http.ResponseWriter, req *http.Request) {
		var m colmetrics.ExportMetricsServiceRequest
		if r.read(tb, w, req, &m) {
			r.keepMetrics(&m)
		}
	})
	mux.HandleFunc("POST /v1/traces", func(w http.ResponseWriter, req *http.Request) {
		var m coltrace.ExportTraceServiceRequest
		if r.read(tb, w, req, &m) {
			r.keepSpans(&m)
		}
	})
	server := httptest.NewServer(mux)
	tb.Cleanup(server.Close)
	r.URL = server.URL
	return r
}

// Answer makes the receiver answer every request with a status and keep
// nothing; 0 ends that.
func (r *Receiver) Answer(status int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status = status
}

func (r *Receiver) read(tb testing.TB, w http.ResponseWriter, req *http.Request, m proto.Message) bool {
	tb.Helper()
	r.mu.Lock()
	status := r.status
	r.headers = req.Header.Clone()
	if status != 0 {
		r.refused++
	}
	r.mu.Unlock()
	if status != 0 {
		w.WriteHeader(status)
		return false
	}
	if got := req.Header.Get("Content-Type"); got != "application/x-protobuf" {
		tb.Errorf("content type %q", got)
	}
	body := io.Reader(req.Body)
	if req.Header.Get("Content-Encoding") == "gzip" {
		unzipped, err := gzip.NewReader(req.Body)
		if err != nil {
			tb.Errorf("body: %v", err)
			return false
		}
		body = unzipped
	}
	text, err := io.ReadAll(body)
	if err == nil {
		err = proto.Unmarshal(text, m)
	}
	if err != nil {
		tb.Errorf("body: %v", err)
		return false
	}
	w.Header().Set("Content-Type", "application/x-protobuf")
	return true
}

func (r *Receiver) keepMetrics(m *colmetrics.ExportMetricsServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rm := range m.GetResourceMetrics() {
		for _, a := range rm.GetResource().GetAttributes() {
			if a.GetKey() == "service.name" {
				r.service = a.GetValue().GetStringValue()
			}
		}
		for _, sm := range rm.GetScopeMetrics() {
			for _, one := range sm.GetMetrics() {
				r.metrics[one.GetName()] = one
			}
		}
	}
}

func (r *Receiver) keepSpans(m *coltrace.ExportTraceServiceRequest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, rs := range m.GetResourceSpans() {
		for _, ss := range rs.GetScopeSpans() {
			r.spans = append(r.spans, ss.GetSpans()...)
		}
	}
}

// Spans are those of a name, as they arrived.
func (r *Receiver) Spans(name string) []*trace.Span {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*trace.Span
	for _, s := range r.spans {
		if s.GetName() == name {
			out = append(out, s)
		}
	}
	return out
}

// Metric is the last one of a name, nil when there was none.
func (r *Receiver) Metric(name string) *metrics.Metric {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.metrics[name]
}

// Service is the name of the service that exports metrics.
func (r *Receiver) Service() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.service
}

// Header is a header of the last request.
func (r *Receiver) Header(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.headers.Get(name)
}

// Refused is how many requests were answered as Answer says.
func (r *Receiver) Refused() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refused
}

// Text is an attribute of a span as text; empty when it has none.
func Text(s *trace.Span, key string) string {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetStringValue()
		}
	}
	return ""
}

// Int is an attribute of a span; -1 when it has none.
func Int(s *trace.Span, key string) int64 {
	for _, a := range s.GetAttributes() {
		if a.GetKey() == key {
			return a.GetValue().GetIntValue()
		}
	}
	return -1
}
