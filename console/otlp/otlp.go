// Package otlp exports what the program knows of itself to an OpenTelemetry
// collector: the metrics of the console, a trace for each sweep and one for
// each batch. It speaks OTLP over HTTP with protobuf bodies
// (https://opentelemetry.io/docs/specs/otlp/).
//
// It promises to slow nobody down: what is told of sweeps and attempts waits in
// a queue of bounded length and is dropped when that is full, and a collector
// that is away is told once. Spans hold ids, counts, verdicts and the answers
// of API and destinations, nothing of what an event says.
package otlp

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	bridge "go.opentelemetry.io/contrib/bridges/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/poller"
)

// Options are what an Exporter is made of.
type Options struct {
	Config   Config // with defaults, valid, with an Endpoint
	Version  string
	Gatherer prometheus.Gatherer
	// Failed is told when an export fails after one that did not, Recovered when
	// one succeeds again. The error holds no header.
	Failed    func(error)
	Recovered func(after time.Duration)
}

// An Exporter exports while Run runs. It is safe for concurrent use.
type Exporter struct {
	opt    Options
	client *http.Client
	tracer atomic.Pointer[trace.Tracer] // nil: nothing is traced now

	mu    sync.Mutex // guards since
	since time.Time  // of the first failure in a row; zero: the last export succeeded
}

// flushWithin bounds the last export.
const flushWithin = 3 * time.Second

// New makes an Exporter. It connects to nobody. An error names the option.
func New(opt Options) (*Exporter, error) {
	client, err := opt.Config.client()
	if err != nil {
		return nil, fmt.Errorf("otlp.%w", err)
	}
	return &Exporter{opt: opt, client: client}, nil
}

// Run exports until ctx is done, then once more, within three seconds. It is
// called once.
func (e *Exporter) Run(ctx context.Context) error {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(e.note)) // else the library prints what it cannot collect
	about, err := resource.New(ctx, resource.WithFromEnv(), resource.WithHost(),
		resource.WithAttributes(attribute.String("service.name", "cwprelay"), attribute.String("service.version", e.opt.Version)))
	if err != nil && !errors.Is(err, resource.ErrPartialResource) {
		e.note(fmt.Errorf("describe this process: %w", err))
	}
	spans, spansErr := e.traces(ctx, about)
	metrics, metricsErr := e.metrics(ctx, about)
	if err := errors.Join(spansErr, metricsErr); err != nil {
		e.note(err)
	}
	<-ctx.Done()
	e.tracer.Store(nil)
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushWithin)
	defer cancel()
	var flushed sync.WaitGroup
	for _, end := range []func(context.Context) error{spans, metrics} {
		flushed.Go(func() {
			if err := end(last); err != nil {
				e.note(err)
			}
		})
	}
	flushed.Wait()
	return nil // telemetry holds nobody up
}

func nothing(context.Context) error { return nil }

// headers are those of each request.
func (e *Exporter) headers() map[string]string {
	headers := map[string]string{}
	for name, value := range e.opt.Config.Headers {
		headers[name] = value.Reveal()
	}
	return headers
}

// traces begins to export traces, where that is wanted, and returns what ends
// it.
func (e *Exporter) traces(ctx context.Context, about *resource.Resource) (end func(context.Context) error, err error) {
	cfg := e.opt.Config
	if !cfg.wants(Traces) {
		return nothing, nil
	}
	to, err := otlptracehttp.New(ctx,
		otlptracehttp.WithEndpointURL(cfg.url("/v1/traces")), otlptracehttp.WithHeaders(e.headers()),
		otlptracehttp.WithHTTPClient(e.client), otlptracehttp.WithTimeout(cfg.Timeout),
		otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	if err != nil {
		return nothing, err
	}
	p := sdktrace.NewTracerProvider(sdktrace.WithResource(about), sdktrace.WithBatcher(watchedSpans{to, e}))
	tracer := p.Tracer("github.com/cwprelay/cwprelay")
	e.tracer.Store(&tracer)
	return p.Shutdown, nil
}

// metrics does the same for metrics.
func (e *Exporter) metrics(ctx context.Context, about *resource.Resource) (end func(context.Context) error, err error) {
	cfg := e.opt.Config
	if !cfg.wants(Metrics) {
		return nothing, nil
	}
	to, err := otlpmetrichttp.New(ctx,
		otlpmetrichttp.WithEndpointURL(cfg.url("/v1/metrics")), otlpmetrichttp.WithHeaders(e.headers()),
		otlpmetrichttp.WithHTTPClient(e.client), otlpmetrichttp.WithTimeout(cfg.Timeout),
		otlpmetrichttp.WithCompression(otlpmetrichttp.GzipCompression),
		// The next export holds the same and more.
		otlpmetrichttp.WithRetry(otlpmetrichttp.RetryConfig{Enabled: false}))
	if err != nil {
		return nothing, err
	}
	reader := metric.NewPeriodicReader(watchedMetrics{to, e}, metric.WithInterval(cfg.Interval),
		metric.WithTimeout(cfg.Timeout), metric.WithProducer(bridge.NewMetricProducer(bridge.WithGatherer(e.opt.Gatherer))))
	return metric.NewMeterProvider(metric.WithResource(about), metric.WithReader(reader)).Shutdown, nil
}

// note notes how an export went.
func (e *Exporter) note(err error) {
	e.mu.Lock()
	since := e.since
	switch {
	case err == nil:
		e.since = time.Time{}
	case since.IsZero():
		e.since = time.Now()
	}
	e.mu.Unlock()
	switch {
	case err != nil && since.IsZero():
		e.opt.Failed(err)
	case err == nil && !since.IsZero():
		e.opt.Recovered(time.Since(since))
	}
}

// watchedSpans and watchedMetrics note how exports go, and let the library
// believe that they went well: it has nobody else to tell.
type watchedSpans struct {
	sdktrace.SpanExporter
	e *Exporter
}

func (w watchedSpans) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	w.e.note(w.SpanExporter.ExportSpans(ctx, spans))
	return nil
}

type watchedMetrics struct {
	metric.Exporter
	e *Exporter
}

func (w watchedMetrics) Export(ctx context.Context, m *metricdata.ResourceMetrics) error {
	w.e.note(w.Exporter.Export(ctx, m))
	return nil
}

// span exports one span that has ended.
func (e *Exporter) span(ctx context.Context, name string, began, ended time.Time, fill func(trace.Span)) context.Context {
	tracer := e.tracer.Load()
	if tracer == nil {
		return ctx
	}
	ctx, span := (*tracer).Start(ctx, name, trace.WithTimestamp(began), trace.WithSpanKind(trace.SpanKindClient))
	fill(span)
	span.End(trace.WithTimestamp(ended))
	return ctx
}

// Sweep tells of a sweep that ended: a trace of one span.
func (e *Exporter) Sweep(s poller.Sweep) {
	e.span(context.Background(), "sweep", s.Started, s.Ended, func(span trace.Span) {
		verdict := "certified"
		if !s.Certified {
			verdict = s.Reason
			span.SetStatus(codes.Error, s.Reason)
		}
		span.SetAttributes(
			attribute.String("cwprelay.source", s.Source), attribute.String("cwprelay.kind", s.Kind),
			attribute.String("cwprelay.sweep", s.Sweep), attribute.String("cwprelay.method", s.Method),
			attribute.String("cwprelay.verdict", verdict), attribute.Int("cwprelay.requests", s.Requests),
			attribute.Int("cwprelay.parts", s.Parts), attribute.Int("cwprelay.events", s.IDs), attribute.Int("cwprelay.records", s.Records),
			attribute.Int64("cwprelay.total_before", s.TotalBefore), attribute.Int64("cwprelay.total_after", s.TotalAfter))
		for _, f := range s.Faults {
			span.AddEvent("api error", trace.WithTimestamp(f.At), trace.WithAttributes(
				attribute.String("error.type", f.Class), attribute.String("cwprelay.api.code", f.Code),
				attribute.String("cwprelay.api.request_id", f.RequestID)))
		}
	})
}

// Attempt tells of an attempt to deliver a batch. It fits
// delivery.Options.Follow: all attempts of a batch, and of its parts, are one
// trace, and the first is its root.
func (e *Exporter) Attempt(before any, a delivery.Attempt) any {
	ctx, name := context.Background(), "deliver"
	first, ok := before.(context.Context)
	if ok = ok && trace.SpanContextFromContext(first).IsValid(); ok {
		ctx, name = first, "deliver again"
	}
	after := e.span(ctx, name, a.Began, a.Began.Add(a.Took), func(span trace.Span) {
		if a.Failed {
			span.SetStatus(codes.Error, a.Outcome)
		}
		span.SetAttributes(
			attribute.String("cwprelay.sink", a.Sink), attribute.Int("cwprelay.records", a.Records),
			attribute.Int64("cwprelay.first", int64(a.First)), attribute.Int64("cwprelay.last", int64(a.Last)), //nolint:gosec // sequences stay far below
			attribute.Int("cwprelay.attempt", a.Number), attribute.String("cwprelay.outcome", a.Outcome),
			attribute.String("cwprelay.answer", a.Answer), attribute.Bool("cwprelay.again", a.Again))
	})
	if ok {
		return first
	}
	return after
}
