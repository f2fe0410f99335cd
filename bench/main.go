// Command bench measures cwprelay as a whole process: an API in memory, a
// destination that counts, and in between the program as its user runs it, with
// its durable journal. It can measure any other command in turn with it.
//
//	go run ./bench                                     # Splunk HEC, 50,000 events, 5 rounds
//	go run ./bench -sink kafka -events 200000 -json out.json
//	go run ./bench -scenario reread -events 200000     # the same events again: the steady state
//	go run ./bench -scenario known -events 1000000     # start and memory with so many known events
//	go run ./bench -scenario idle -events 10000
//	go run ./bench -scenario limit -events 100000      # at the API's 20 requests a second and 200 ms
//	go run ./bench -scenario delay -events 100000      # 100 events come each second beside so many known ones
//	go run ./bench -against /path/to/other/cwprelay    # two builds in turn
//	go run ./bench -scenario instructions              # regressions, on however busy a machine
//	go run ./bench -peer 'command line' -push http://127.0.0.1:9880/
//
// docs/performance.md says how to read what it prints, and how to set up a peer.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, "bench:", err) // nobody is left to tell
		os.Exit(1)
	}
}

// settings are the command line.
type settings struct {
	scenario, sink    string
	events, rounds    int
	binary, against   string
	peer, push        string
	feeders           int
	apiPort, destPort int
	dir, prepared     string
	jsonPath, extra   string
	timeout, idleFor  time.Duration
	requestsPerSecond float64

	pollInterval   time.Duration
	latency        time.Duration // of the API's answers
	rateLimit      int           // requests a second beyond which the API refuses; 0: none
	stdout, stderr io.Writer
	showOutput     bool

	baseline string // of instructions
	update   bool   // of the baseline
	valgrind string // not empty: instructions are counted
}

// asFastAsItGoes is a budget that is never used up.
const asFastAsItGoes = 10_000

func parse(args []string, stdout, stderr io.Writer) (*settings, error) {
	s := &settings{stdout: stdout, stderr: stderr}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&s.scenario, "scenario", "deliver", "deliver: everything is new; reread, known: everything is known; idle: nothing happens; limit: as deliver, by an API that takes 20 requests a second and answers in 200 ms; delay: events come while all others are known; instructions: count them, and compare with a baseline")
	f.StringVar(&s.sink, "sink", "hec", "destination: hec, kafka, syslog or elastic")
	f.IntVar(&s.events, "events", 50_000, "events in the list")
	f.IntVar(&s.rounds, "n", 5, "rounds; medians are printed")
	f.StringVar(&s.binary, "cwprelay", "", "program to measure; default: built from this checkout")
	f.StringVar(&s.against, "against", "", "another cwprelay, measured in turn")
	f.StringVar(&s.peer, "peer", "", "command line of another program, measured in turn; it finds the addresses in $BENCH_API, $BENCH_DEST, $BENCH_DEST_HOST and $BENCH_DEST_PORT")
	f.StringVar(&s.push, "push", "", "the peer does not poll: push the pages to it, to http://host:port/path (JSON arrays) or tcp://host:port (JSON lines)")
	f.IntVar(&s.feeders, "feeders", 4, "connections by which pages are pushed")
	f.IntVar(&s.apiPort, "api-port", 0, "port of the API; 0: any")
	f.IntVar(&s.destPort, "dest-port", 0, "port of the destination; 0: any")
	f.StringVar(&s.dir, "dir", "", "where state directories are made; a disk, not memory; default: the system's place for temporary files")
	f.StringVar(&s.prepared, "prepared", "", "state directory with the known events, made when it is missing and kept; default: one that is removed")
	f.StringVar(&s.jsonPath, "json", "", "file for the results")
	f.StringVar(&s.extra, "sink-options", "", "further options of the sink as YAML members, such as 'compression: none'")
	f.DurationVar(&s.timeout, "timeout", 10*time.Minute, "of one run")
	f.DurationVar(&s.idleFor, "idle-for", time.Minute, "how long idling is watched, or events come for delay")
	f.DurationVar(&s.pollInterval, "poll-interval", 15*time.Second, "of the daemon, for idle and delay")
	f.Float64Var(&s.requestsPerSecond, "requests-per-second", asFastAsItGoes, "budget that cwprelay is given")
	f.StringVar(&s.baseline, "baseline", "bench/instructions.json", "file with the instructions as they were")
	f.BoolVar(&s.update, "update", false, "write the baseline anew")
	f.BoolVar(&s.showOutput, "v", false, "show what the programs print")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("unknown argument %q", f.Arg(0))
	case s.events < 1 || s.events > 100_000_000:
		return nil, errors.New("-events must be from 1 to 100 million")
	case s.rounds < 1:
		return nil, errors.New("-n must be at least 1")
	case s.scenario == limit || s.scenario == delay:
		s.latency, s.rateLimit, s.requestsPerSecond = 200*time.Millisecond, 20, 20
	case s.peer != "" && s.scenario != deliver:
		return nil, errors.New("-peer goes with the scenario deliver only")
	}
	return s, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	s, err := parse(args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	if s.scenario == reference {
		return runReference(ctx, s.events)
	}
	dir, err := os.MkdirTemp(s.dir, "cwprelay-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir) //nolint:errcheck // what is left is in the place for temporary files
	s.dir = dir
	if s.binary == "" {
		s.binary = filepath.Join(dir, "cwprelay")
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", s.binary, "./cmd/cwprelay")
		build.Stderr = stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build cwprelay (or name one by -cwprelay): %w", err)
		}
	}
	if s.scenario == instructions {
		return countInstructions(ctx, s)
	}
	h, err := open(ctx, s)
	if err != nil {
		return err
	}
	defer h.close()
	return h.measure(ctx)
}

// A harness is the API and the destination, listening.
type harness struct {
	*settings
	api     *api
	dest    counter
	apiAddr string
	dstAddr string
	closers []func()
}

func open(ctx context.Context, s *settings) (*harness, error) {
	coming := 0
	if s.scenario == delay {
		coming = int((warmUp + s.idleFor).Seconds() * perSecond)
	}
	l, err := newList(ctx, s.events+coming)
	if err != nil {
		return nil, err
	}
	l.shown = s.events
	h := &harness{settings: s, api: newAPI(l)}
	h.api.latency, h.api.limit = s.latency, newWindow(s.rateLimit)
	ln, err := listen(ctx, s.apiPort)
	if err != nil {
		return nil, err
	}
	h.apiAddr = ln.Addr().String()
	h.serveHTTP(ln, h.api)
	if err := h.openDest(ctx); err != nil {
		h.close()
		return nil, err
	}
	return h, nil
}

func (h *harness) serveHTTP(ln net.Listener, handler http.Handler) {
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(ln) }() // ends when it is closed
	h.closers = append(h.closers, func() { _ = server.Close() })
}

func (h *harness) openDest(ctx context.Context) error {
	if h.sink == "kafka" {
		b, err := newBroker(h.destPort)
		if err != nil {
			return err
		}
		h.closers = append(h.closers, b.cluster.Close)
		h.dest, h.dstAddr = b, b.cluster.ListenAddrs()[0]
		return nil
	}
	ln, err := listen(ctx, h.destPort)
	if err != nil {
		return err
	}
	h.dstAddr = ln.Addr().String()
	switch h.sink {
	case "hec":
		d := &hec{}
		h.dest = d
		h.serveHTTP(ln, d)
	case "elastic":
		d := &bulk{}
		h.dest = d
		h.serveHTTP(ln, d)
	case "syslog":
		d := &collector{}
		h.dest = d
		go func() { _ = d.serve(ln) }() // ends when it is closed
		h.closers = append(h.closers, func() { _ = ln.Close() })
	default:
		return errors.Join(fmt.Errorf("-sink: %q is not one of hec, kafka, syslog, elastic", h.sink), ln.Close())
	}
	return nil
}

func (h *harness) close() {
	for _, c := range h.closers {
		c()
	}
}

// config is the configuration of cwprelay with a state directory.
func (h *harness) config(state, source string) string {
	kinds := map[string]string{
		"hec":     fmt.Sprintf("splunk_hec: {url: 'http://%s', token: bench", h.dstAddr),
		"kafka":   fmt.Sprintf("kafka: {brokers: ['%s'], topic: %s, compression: snappy", h.dstAddr, topic),
		"syslog":  fmt.Sprintf("syslog: {address: 'tcp://%s'", h.dstAddr),
		"elastic": fmt.Sprintf("elasticsearch: {urls: ['http://%s'], api_key: bench", h.dstAddr),
	}
	extra := ""
	if h.extra != "" {
		extra = ", " + h.extra
	}
	var b strings.Builder
	fmt.Fprintf(&b, "sources:\n  bench:\n    endpoint: http://%s\n    credentials: {provider: static, secret_id: AKIDbench, secret_key: bench}\n    requests_per_second: %g\n%s",
		h.apiAddr, h.requestsPerSecond, source)
	fmt.Fprintf(&b, "state: {dir: '%s'}\nhttp: {listen: 'off'}\nlog: {level: warn}\n", state)
	fmt.Fprintf(&b, "sinks:\n  out:\n    %s%s}\n", kinds[h.sink], extra)
	return b.String()
}
