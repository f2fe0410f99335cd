package otlp_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/console/otlp"
	"github.com/cwprelay/cwprelay/console/otlp/otlptest"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const planted = "planted-secret-0123456789"

// A rig is an exporter that runs until the test ends it.
type rig struct {
	*otlp.Exporter
	failures   chan error
	recoveries chan time.Duration
	end        func()
}

func newRig(t *testing.T, cfg otlp.Config) *rig {
	t.Helper()
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	events := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "cwprelay_test_total", Help: "Of the test."}, []string{"sink"})
	reg.MustRegister(events)
	events.WithLabelValues("soc").Add(7)
	r := &rig{failures: make(chan error, 100), recoveries: make(chan time.Duration, 100)}
	var err error
	r.Exporter, err = otlp.New(otlp.Options{
		Config: cfg, Version: "1.2.3", Gatherer: reg,
		Failed: func(err error) { r.failures <- err }, Recovered: func(d time.Duration) { r.recoveries <- d },
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	r.end = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	// Run has begun once something is traced.
	for deadline := time.Now().Add(20 * time.Second); r.Attempt(nil, attempt("begin", 1)) == context.Background(); {
		if time.Now().After(deadline) {
			t.Fatal("it does not begin")
		}
	}
	return r
}

func attempt(sink string, number int) delivery.Attempt {
	return delivery.Attempt{
		Sink: sink, First: 10, Last: 19, Records: 10, Number: number, Began: time.Unix(1_700_000_000, 0), Took: 2 * time.Second,
		Outcome: "retry", Failed: true, Answer: "answered 503",
	}
}

func TestSweepsAndBatchesAreTraces(t *testing.T) {
	to := otlptest.New(t)
	r := newRig(t, otlp.Config{Endpoint: to.URL + "/", Headers: map[string]secret.String{"X-Key": secret.New(planted)}})
	first := r.Attempt(nil, attempt("soc", 1))
	good := attempt("soc", 2)
	good.Outcome, good.Failed, good.Answer = "ok", false, "200 ackId=7"
	r.Attempt(first, good)
	began := time.Unix(1_700_000_100, 0)
	r.Sweep(poller.Sweep{
		Certificate: journal.Certificate{
			Source: "prod", Kind: "risk_process", Sweep: "s-1", Started: began, Ended: began.Add(3 * time.Second),
			Requests: 12, IDs: 900, Reason: "withheld",
		},
		Faults: []poller.Fault{{At: began, Class: "server", Code: "InternalError", RequestID: "rid-9"}},
	})
	r.end()

	roots := to.Spans("deliver")
	root := roots[len(roots)-1]
	if got, want := otlptest.Text(root, "cwprelay.sink"), "soc"; got != want {
		t.Fatalf("sink %q, want %q", got, want)
	}
	if len(root.GetParentSpanId()) != 0 || root.GetStatus().GetCode() != 2 {
		t.Errorf("the first attempt: parent %x, status %v; want none, and an error", root.GetParentSpanId(), root.GetStatus())
	}
	if took := root.GetEndTimeUnixNano() - root.GetStartTimeUnixNano(); time.Duration(took) != 2*time.Second {
		t.Errorf("the first attempt took %s, want 2s", time.Duration(took))
	}
	again := to.Spans("deliver again")
	if len(again) != 1 || string(again[0].GetTraceId()) != string(root.GetTraceId()) || string(again[0].GetParentSpanId()) != string(root.GetSpanId()) {
		t.Fatalf("the second attempt is not of the first one's trace: %v", again)
	}
	if got := otlptest.Text(again[0], "cwprelay.answer"); got != "200 ackId=7" || again[0].GetStatus().GetCode() == 2 {
		t.Errorf("the second attempt: answer %q, status %v", got, again[0].GetStatus())
	}
	sweeps := to.Spans("sweep")
	if len(sweeps) != 1 {
		t.Fatalf("%d sweeps, want 1", len(sweeps))
	}
	sweep := sweeps[0]
	if string(sweep.GetTraceId()) == string(root.GetTraceId()) {
		t.Error("a sweep is in the trace of a batch")
	}
	if got := otlptest.Text(sweep, "cwprelay.verdict"); got != "withheld" || otlptest.Int(sweep, "cwprelay.requests") != 12 {
		t.Errorf("sweep: %v", sweep)
	}
	if e := sweep.GetEvents(); len(e) != 1 || !strings.Contains(e[0].String(), "rid-9") {
		t.Errorf("the failed request is not told with its id: %v", e)
	}
	m := to.Metric("cwprelay_test_total")
	if m == nil || m.GetSum().GetDataPoints()[0].GetAsDouble() != 7 {
		t.Errorf("the metric that is exported at the end: %v, want 7", m)
	}
	if to.Service() != "cwprelay" || to.Header("X-Key") != planted {
		t.Errorf("service %q, header %q", to.Service(), to.Header("X-Key"))
	}
}

func TestOutageOfTheCollectorIsToldOnce(t *testing.T) {
	to := otlptest.New(t)
	to.Answer(http.StatusInternalServerError)
	r := newRig(t, otlp.Config{Endpoint: to.URL, Interval: time.Second, Signals: []string{otlp.Metrics, otlp.Traces}, Headers: map[string]secret.String{"Authorization": secret.New("Bearer " + planted)}})
	err := <-r.failures
	if strings.Contains(err.Error(), planted) {
		t.Errorf("a secret is told: %v", err)
	}
	for deadline := time.Now().Add(20 * time.Second); to.Refused() < 3; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not go on trying")
		}
	}
	to.Answer(0)
	<-r.recoveries
	r.end()
	if len(r.failures) > 0 || len(r.recoveries) > 0 {
		t.Errorf("one outage was told %d times more, and its end %d times more", len(r.failures), len(r.recoveries))
	}
}

// A collector that accepts and never answers holds up neither those who tell
// nor the end.
func TestCollectorThatHangsHoldsNobodyUp(t *testing.T) {
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	before := goleak.IgnoreCurrent()
	held := make(chan net.Conn, 100)
	go func() {
		defer close(held)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			held <- c
		}
	}()
	r := newRig(t, otlp.Config{Endpoint: "http://" + ln.Addr().String(), Interval: time.Second, Timeout: 5 * time.Minute})
	began := time.Now()
	for range 100_000 { // many times what the queue holds
		r.Attempt(nil, attempt("soc", 1))
	}
	r.end()
	if took := time.Since(began); took > time.Minute { // the timeout of one request is five
		t.Errorf("telling and ending took %s", took)
	}
	if err := ln.Close(); err != nil {
		t.Error(err)
	}
	conns := 0
	for c := range held {
		conns++
		_ = c.Close() // it was not even read
	}
	if conns == 0 {
		t.Error("nothing was exported")
	}
	// With its connections, what was not waited for ends.
	for deadline := time.Now().Add(time.Minute); ; {
		err := goleak.Find(before)
		if err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

func TestMistakesAreNamed(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  otlp.Config
		want string
	}{
		"options and no endpoint": {otlp.Config{Signals: []string{otlp.Traces}}, "endpoint: required"},
		"no URL":                  {otlp.Config{Endpoint: "collector:4318"}, "endpoint: is not an http or https URL"},
		"a password":              {otlp.Config{Endpoint: "http://u:" + planted + "@collector"}, "credentials go into headers"},
		"a signal":                {otlp.Config{Endpoint: "http://collector", Signals: []string{"logs"}}, `signals: "logs"`},
		"a header":                {otlp.Config{Endpoint: "http://collector", Headers: map[string]secret.String{"X": secret.New(planted + "\n")}}, "headers.X"},
		"half a certificate":      {otlp.Config{Endpoint: "https://collector", TLS: otlp.TLS{CertFile: "c.pem"}}, "cert_file and key_file"},
		"certificate without TLS": {otlp.Config{Endpoint: "http://collector", TLS: otlp.TLS{CAFile: "c.pem"}}, "tls: needs an https endpoint"},
		"too often":               {otlp.Config{Endpoint: "http://collector", Interval: time.Millisecond}, "interval"},
	} {
		t.Run(name, func(t *testing.T) {
			err := tc.cfg.WithDefaults().Validate()
			if err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), planted) {
				t.Errorf("%v, want %q and no secret", err, tc.want)
			}
		})
	}
	_, err := otlp.New(otlp.Options{Config: otlp.Config{Endpoint: "https://collector", TLS: otlp.TLS{CAFile: "/nowhere/ca.pem"}}.WithDefaults()})
	if err == nil || !strings.Contains(err.Error(), "otlp.tls.ca_file") {
		t.Errorf("a missing file: %v", err)
	}
	if (otlp.Config{}).Validate() != nil || !errors.Is((otlp.Config{}).WithDefaults().Validate(), nil) {
		t.Error("nothing to export is a mistake")
	}
}
