package all_test

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/all"
	"github.com/cwprelay/cwprelay/sinks/elastic"
	"github.com/cwprelay/cwprelay/sinks/elastic/elastictest"
	"github.com/cwprelay/cwprelay/sinks/file"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
	"github.com/cwprelay/cwprelay/sinks/syslog"
	"github.com/cwprelay/cwprelay/sinks/syslog/syslogtest"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// How a destination behaves.
const (
	passes int32 = iota
	hangs
	refuses
	throttles
	resets
)

// A gate is in front of a destination, and decides how it behaves.
type gate struct {
	net.Listener
	mode *atomic.Int32
}

func newGate(t *testing.T) gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return gate{ln, &atomic.Int32{}}
}

func (g gate) Accept() (net.Conn, error) {
	for {
		c, err := g.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if g.mode.Load() == refuses {
			c.Close()
			continue
		}
		return gated{c.(*net.TCPConn), g.mode}, nil
	}
}

type gated struct {
	*net.TCPConn
	mode *atomic.Int32
}

// pass waits, or breaks the connection, as the mode says.
func (c gated) pass() {
	for c.mode.Load() == hangs {
		time.Sleep(5 * time.Millisecond)
	}
	switch c.mode.Load() {
	case resets:
		_ = c.SetLinger(0)
		_ = c.Close()
	case refuses:
		_ = c.Close()
	case throttles:
		time.Sleep(30 * time.Millisecond)
	}
}

func (c gated) Read(b []byte) (int, error) {
	c.pass()
	if c.mode.Load() == throttles {
		b = b[:min(len(b), 200)]
	}
	return c.TCPConn.Read(b)
}

func (c gated) Write(b []byte) (int, error) {
	c.pass()
	return c.TCPConn.Write(b)
}

// A watched sink notes when each record was accepted.
type watched struct {
	sinks.Sink
	mu sync.Mutex // guards at
	at map[uint64]time.Time
}

func (w *watched) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	receipt, err := w.Sink.Send(ctx, batch)
	partial, ok := err.(*sinks.PartialError) //nolint:errorlint // as Send returns it
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, m := range batch {
		if _, again := w.at[m.Record.Seq]; !again && (err == nil || ok && partial.Failed[i] == nil) {
			w.at[m.Record.Seq] = time.Now()
		}
	}
	return receipt, err
}

func (w *watched) Window() int {
	if s, ok := w.Sink.(sinks.Windower); ok {
		return s.Window()
	}
	return 1
}

func (w *watched) Limits() sinks.Limits {
	if s, ok := w.Sink.(sinks.Limiter); ok {
		return s.Limits()
	}
	return sinks.Limits{}
}

// destinations are six of six kinds, each behind a gate but the file.
func destinations(t *testing.T) (cfgs map[string]all.Config, gates map[string]gate) {
	t.Helper()
	gates = map[string]gate{}
	serve := func(name string, h http.Handler) string {
		t.Helper()
		g := newGate(t)
		gates[name] = g
		srv := httptest.NewUnstartedServer(h)
		srv.Listener.Close()
		srv.Listener = g
		srv.Start()
		t.Cleanup(srv.Close)
		return srv.URL
	}
	lines := newGate(t)
	gates[all.Syslog] = lines
	receiver, err := syslogtest.Listen(lines, syslogtest.Config{Take: func([]byte) {}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(receiver.Close)
	topic := newGate(t)
	gates[all.Kafka] = topic
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "cwp"), kfake.ListenFn(func(string, string) (net.Listener, error) { return topic, nil }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return map[string]all.Config{
		all.SplunkHEC: {SplunkHEC: &splunkhec.Config{URL: serve(all.SplunkHEC, hectest.New(hectest.Config{})), Token: secret.New("hectest-token")}},
		all.Elastic:   {Elastic: &elastic.Config{URLs: []string{serve(all.Elastic, elastictest.New(elastictest.Config{}))}}},
		all.Webhook:   {Webhook: &webhook.Config{URL: secret.New(serve(all.Webhook, http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))), AllowPrivate: true}},
		all.Kafka:     {Kafka: &kafka.Config{Brokers: []string{topic.Addr().String()}, Topic: "cwp"}},
		all.Syslog:    {Syslog: &syslog.Config{Address: "tcp://" + lines.Addr().String()}},
		all.File:      {File: &file.Config{Path: filepath.Join(t.TempDir(), "out.jsonl")}},
	}, gates
}

// TestOneDestinationHarmsNoOther disturbs six sinks of six kinds, one after
// the other and in four ways, while records come all the time.
func TestOneDestinationHarmsNoOther(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 12 seconds; run it without -short")
	}
	cfgs, gates := destinations(t)
	var rules []journal.SinkRule
	for _, name := range slices.Sorted(maps.Keys(cfgs)) {
		rules = append(rules, journal.SinkRule{Name: name})
	}
	j, err := journal.Open(journal.Config{Dir: t.TempDir(), MinFreeDisk: 1}.WithDefaults(), journal.Options{Sinks: rules})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	watch := map[string]*watched{}
	workers := map[string]*delivery.Worker{}
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for name, cfg := range cfgs {
		sink, err := all.New(cfg.WithDefaults(), all.Options{Name: name, Namespace: "default"})
		if err != nil {
			t.Fatal(err)
		}
		watch[name] = &watched{Sink: sink, at: map[uint64]time.Time{}}
		encode, err := format.New(cfg.DefaultFormat(), format.Config{}.WithDefaults())
		if err != nil {
			t.Fatal(err)
		}
		w, err := delivery.New(delivery.Options{
			Name: name, Sink: watch[name], Encoder: encode, Journal: j, Config: delivery.Config{Timeout: time.Second}, Grace: time.Millisecond,
		})
		if err != nil {
			t.Fatal(err)
		}
		workers[name] = w
		running.Go(func() { _ = w.Run(ctx); sink.Close() })
	}
	source, err := j.Lease(ctx, "source/prod/risk_process")
	if err != nil {
		t.Fatal(err)
	}
	appended := map[uint64]time.Time{}
	last, n := uint64(0), 0
	feed := func(d time.Duration) (from, to uint64) {
		t.Helper()
		from = last + 1
		for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
			n++
			rec := journaltest.Record(fmt.Sprint(n), 1)
			if last, err = j.Append(ctx, source, journal.Batch{Changes: []journal.Change{journaltest.Change(rec)}}); err != nil {
				t.Fatal(err)
			}
			appended[last] = time.Now()
		}
		return from, last
	}
	// slowest is the delay below which nine of ten records of a range stayed.
	slowest := func(name string, from, to uint64) time.Duration {
		w := watch[name]
		w.mu.Lock()
		defer w.mu.Unlock()
		var all []time.Duration
		for seq := from; seq <= to; seq++ {
			at, ok := w.at[seq]
			if !ok {
				at = time.Now()
			}
			all = append(all, at.Sub(appended[seq]))
		}
		slices.Sort(all)
		return all[len(all)*9/10]
	}
	feed(time.Second) // connections and caches
	from, to := feed(2 * time.Second)
	usual := map[string]time.Duration{}
	for name := range cfgs {
		usual[name] = slowest(name, from, to)
	}
	t.Logf("undisturbed: %v", usual)
	for victim, g := range gates {
		for _, mode := range []int32{hangs, refuses, throttles, resets} {
			// What the machine does beside does not come three times in a row.
			var slow []string
			for try := 0; try == 0 || try < 3 && len(slow) > 0; try++ {
				// Whoever was disturbed before has to be back: it is not disturbed now.
				for name, w := range workers {
					if _, err := w.Wait(ctx, last); err != nil {
						t.Fatalf("%s does not come back: %v", name, err)
					}
				}
				g.mode.Store(mode)
				from, to := feed(400 * time.Millisecond)
				g.mode.Store(passes)
				feed(50 * time.Millisecond)
				slow = nil
				for name := range cfgs {
					if d := slowest(name, from, to); name != victim && d > 2*usual[name]+50*time.Millisecond {
						slow = append(slow, fmt.Sprintf("%s took %s, usually %s", name, d, usual[name]))
					}
				}
			}
			if len(slow) > 0 {
				t.Errorf("while %s was disturbed (%d): %v", victim, mode, slow)
			}
		}
	}
	for name, w := range workers {
		if _, err := w.Wait(ctx, last); err != nil {
			t.Fatal(err)
		}
		if got := len(watch[name].at); got != n {
			t.Errorf("%s has %d of %d records", name, got, n)
		}
		if s := w.Status(); s.Dead > 0 || s.State == delivery.Halted {
			t.Errorf("%s: %+v", name, s)
		}
	}
	stop()
	running.Wait()
}
