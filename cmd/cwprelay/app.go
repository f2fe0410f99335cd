package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/sync/errgroup"
	"golang.org/x/term"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/all"
)

// An app is everything that a configuration asks for, opened and not yet
// running.
type app struct {
	cfg     *config.Config
	log     *zap.Logger
	level   zap.AtomicLevel
	reg     *prometheus.Registry
	journal *journal.File
	pollers []*poller.Poller
	workers []*delivery.Worker
	sinks   map[string]sinks.Sink
	clients map[string]*cwp.Client // by source and kind
	access  *console.Access
	rules   *format.Rules
	closers []func() error
}

// open opens everything. What was opened is closed again on an error.
func open(cfg *config.Config, p process, log leveled) (a *app, err error) {
	a = &app{cfg: cfg, log: log.Logger, level: log.level, reg: prometheus.NewRegistry(), sinks: map[string]sinks.Sink{}, clients: map[string]*cwp.Client{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.close())
		}
	}()
	if a.access, err = console.NewAccess(cfg.HTTP); err != nil {
		return a, exit(exitConfig, err)
	}
	if a.access.Open() {
		a.log.Warn("the console's token goes over the network unencrypted: set http.tls, or put a proxy with TLS before it")
	}
	a.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.journal, err = journal.Open(cfg.State, journal.Options{
		Sinks: sinkRules(cfg), Registerer: a.reg,
		Report: func(message string) { log.Named("journal").Warn(message) },
	})
	if err != nil {
		return a, err
	}
	a.closers = append(a.closers, a.journal.Close)
	if err := a.openSinks(p.stdout); err != nil {
		return a, err
	}
	return a, a.openSources(p)
}

// sinkRules are what the journal must know of the configured sinks.
func sinkRules(cfg *config.Config) []journal.SinkRule {
	var rules []journal.SinkRule
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		d := cfg.Sinks[name].Delivery
		rules = append(rules, journal.SinkRule{Name: name, OnFull: d.OnFull, StartFrom: d.StartFrom})
	}
	return rules
}

func (a *app) openSinks(stdout io.Writer) error {
	metrics := delivery.NewMetrics(a.reg)
	rules, err := format.NewRules(a.cfg.Format)
	if err != nil {
		return exit(exitConfig, fmt.Errorf("format.%w", err))
	}
	a.rules = rules
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Sinks)) {
		cfg := a.cfg.Sinks[name]
		sink, err := all.New(cfg.Kind, all.Options{Name: name, Format: cfg.Delivery.Format, Namespace: a.cfg.Format.Namespace, Stdout: stdout})
		if err != nil {
			return exit(exitConfig, err)
		}
		a.sinks[name] = sink
		a.closers = append(a.closers, sink.Close)
		encode, err := encoder(a.cfg, name)
		if err != nil {
			return err
		}
		w, err := delivery.New(delivery.Options{
			Name: name, Sink: sink, Config: cfg.Delivery, Encoder: encode, Rules: rules, Journal: a.journal,
			Log: a.log, Metrics: metrics, Grace: a.cfg.ShutdownGrace,
		})
		if err != nil {
			return exit(exitConfig, fmt.Errorf("sinks.%s: %w", name, err))
		}
		a.workers = append(a.workers, w)
	}
	return nil
}

func (a *app) openSources(p process) error {
	apiMetrics, pollMetrics, limits := cwp.NewMetrics(a.reg), poller.NewMetrics(a.reg), cwp.NewLimits()
	for _, name := range slices.Sorted(maps.Keys(a.cfg.Sources)) {
		src := a.cfg.Sources[name]
		for _, kind := range src.Poll.Kinds {
			client, err := newClient(src.API, cwp.KindByName(kind), p.environ, cwp.Options{Source: name, Limits: limits, Metrics: apiMetrics})
			if err != nil {
				return exit(exitConfig, fmt.Errorf("sources.%s.%w", name, err))
			}
			a.closers = append(a.closers, func() error { client.Close(); return nil })
			a.clients[name+"/"+kind] = client
			opt := poller.Options{
				Source: name, Kind: cwp.KindByName(kind), Config: src.Poll, Filters: src.API.Filters, API: client,
				Rate: src.API.RequestsPerSecond, Journal: a.journal, Log: a.log.Named("poller"), Metrics: pollMetrics,
			}
			if src.API.Vendor() {
				opt.Identify = client.AccountID
			}
			pl, err := poller.New(opt)
			if err != nil {
				return exit(exitConfig, fmt.Errorf("sources.%s.%w", name, err))
			}
			a.pollers = append(a.pollers, pl)
		}
	}
	return nil
}

func newClient(cfg cwp.Config, kind *cwp.Kind, environ []string, opt cwp.Options) (*cwp.Client, error) {
	creds, err := cwp.NewProvider(cfg, lookup(environ))
	if err != nil {
		return nil, err
	}
	opt.Credentials, opt.UserAgent = creds, "cwprelay/"+version
	return cwp.New(cfg, kind, opt)
}

func lookup(environ []string) func(string) string {
	env := map[string]string{}
	for _, kv := range environ {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env[name] = value
		}
	}
	return func(name string) string { return env[name] }
}

// close closes what was opened, the last first.
func (a *app) close() error {
	var errs []error
	for _, c := range slices.Backward(a.closers) {
		errs = append(errs, c())
	}
	a.closers = nil
	return errors.Join(errs...)
}

func (a *app) sourceStatus() []poller.Status {
	var out []poller.Status
	for _, p := range a.pollers {
		out = append(out, p.Status())
	}
	return out
}

func (a *app) sinkStatus() []delivery.Status {
	var out []delivery.Status
	for _, w := range a.workers {
		out = append(out, w.Status())
	}
	return out
}

// listen opens the console's port; nil when it is off.
func (a *app) listen(ctx context.Context) (net.Listener, error) {
	if a.cfg.HTTP.Listen == console.Off {
		return nil, nil //nolint:nilnil // documented: no port and no mistake
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", a.cfg.HTTP.Listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w; choose another address, or off", err)
	}
	return ln, nil
}

func (a *app) consoleOptions() console.Options {
	return console.Options{
		Version: version, Sources: a.sourceStatus, Sinks: a.sinkStatus, Journal: a.journal.Status, Metrics: a.reg, Sweeps: a.journal.Certificates,
		Describe: a.describe, Letters: a.journal.DeadLetters, ShowCommands: a.cfg.HTTP.ShowCommands, Access: a.access,
		Records: func(ctx context.Context, after uint64, limit int) ([]*event.Record, error) {
			return a.journal.Read(ctx, after, limit, 0)
		},
		Budget: func(source, kind string) (uint64, float64) {
			if c := a.clients[source+"/"+kind]; c != nil {
				return c.Budget()
			}
			return 0, 0
		},
	}
}

// describe says what the page shows of a record.
func (a *app) describe(rec *event.Record) console.Description {
	f := a.rules.Read(rec)
	const most = 120
	return console.Description{
		Severity: f.ThreatSeverity.String(), What: format.CleanLine(rec.Key.Kind+" "+f.Verb, most), Threat: format.CleanLine(f.VirusName, most),
		Host: format.CleanLine(f.Host, most), Command: format.CleanLine(f.CmdLine, 2*most),
	}
}

// daemon polls and delivers until ctx is done.
func (a *app) daemon(ctx context.Context, ln net.Listener) error {
	g, ctx := errgroup.WithContext(ctx)
	server := console.New(a.consoleOptions())
	a.reg.MustRegister(server.Collector())
	if ln != nil {
		g.Go(func() error { return server.Serve(ctx, ln) })
	}
	if socket, err := a.listenAdmin(ctx); err != nil { // the daemon is of use without it
		a.log.Warn("there is no admin socket: verbs such as status cannot ask this process", zap.Error(err))
	} else {
		g.Go(func() error { return a.admin().Serve(ctx, socket) })
	}
	for _, w := range a.workers {
		g.Go(func() error { return w.Run(ctx) })
	}
	for _, p := range a.pollers {
		g.Go(func() error { return p.Run(ctx) })
	}
	g.Go(func() error { return a.watchJournal(ctx) })
	return a.wait(ctx, g)
}

// wait waits for g, at most grace + 5 s after ctx is done, even if a sink
// ignores its context.
func (a *app) wait(ctx context.Context, g *errgroup.Group) error {
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return accountError(err)
	case <-ctx.Done():
	}
	late := time.NewTimer(a.cfg.ShutdownGrace + 5*time.Second)
	defer late.Stop()
	select {
	case err := <-done:
		return accountError(err)
	case <-late.C:
		a.log.Error("a part did not end in time; leaving all the same, nothing is lost")
		return nil
	}
}

// accountError gives the code of a mistaken configuration to what only the API
// could tell.
func accountError(err error) error {
	if errors.Is(err, poller.ErrAccount) {
		return exit(exitConfig, err)
	}
	return err
}

func (a *app) watchJournal(ctx context.Context) error {
	select {
	case <-a.journal.Dead():
		return a.journal.Err()
	case <-ctx.Done():
		return nil
	}
}

// newLogger makes the logger of a configuration.
func newLogger(cfg config.Log, w io.Writer) leveled {
	level, err := zap.ParseAtomicLevel(cfg.Level)
	if err != nil {
		level = zap.NewAtomicLevel()
	}
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(enc)
	if cfg.Format == "console" || cfg.Format == "auto" && isTerminal(w) {
		enc.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(enc)
	}
	return leveled{zap.New(zapcore.NewCore(encoder, zapcore.Lock(zapcore.AddSync(w)), level)), level}
}

// A leveled is a logger whose level can be changed while it runs.
type leveled struct {
	*zap.Logger
	level zap.AtomicLevel
}

func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
