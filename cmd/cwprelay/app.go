package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// An app is everything that a configuration asks for, opened and not yet
// running.
type app struct {
	proc     process
	log      *zap.Logger
	logs     *logs
	reg      *prometheus.Registry
	journal  *journal.File
	metrics  metrics
	limits   *cwp.Limits
	now      atomic.Pointer[parts] // what is in force
	patience atomic.Int64          // a time.Duration: how long the end may take
	standing atomic.Pointer[console.Configuration]
}

// metrics are the figures of all parts.
type metrics struct {
	sinks   *delivery.Metrics
	sources *poller.Metrics
	api     *cwp.Metrics
}

// An inTurn takes one write after the other: a sink that was replaced may still
// be writing when its successor begins.
type inTurn struct {
	mu sync.Mutex
	w  io.Writer
}

func (o *inTurn) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.w.Write(b)
}

// leaving is how long the end may take beyond the attempts that may end.
const leaving = 5 * time.Second

// open opens everything. What was opened is closed again on an error.
func open(cfg *config.Config, p process, log *logs) (a *app, err error) {
	p.stdout = &inTurn{w: p.stdout}
	a = &app{proc: p, log: log.Logger, logs: log, reg: prometheus.NewRegistry(), limits: cwp.NewLimits()}
	a.now.Store(&parts{cfg: cfg})
	a.standing.Store(&console.Configuration{File: cfg.File, Since: time.Now().UTC(), State: console.ConfigurationCurrent})
	a.patience.Store(int64(cfg.ShutdownGrace + leaving))
	a.reg.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	a.journal, err = journal.Open(cfg.State, journal.Options{
		Sinks: sinkRules(cfg), Registerer: a.reg,
		Report: func(message string) { log.Named("journal").Warn(message) },
	})
	if err != nil {
		return nil, err
	}
	a.metrics = metrics{sinks: delivery.NewMetrics(a.reg), sources: poller.NewMetrics(a.reg), api: cwp.NewMetrics(a.reg)}
	first, err := a.make(cfg, &parts{})
	if err != nil {
		return nil, errors.Join(err, a.close())
	}
	a.now.Store(first)
	return a, nil
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

// close closes what was opened and does not run.
func (a *app) close() error {
	return errors.Join(a.now.Load().close(&parts{}), a.journal.Close())
}

func (a *app) cfg() *config.Config { return a.now.Load().cfg }

func (a *app) sourceStatus() []poller.Status {
	var out []poller.Status
	for _, s := range a.now.Load().sources {
		out = append(out, s.poller.Status())
	}
	return out
}

func (a *app) sinkStatus() []delivery.Status {
	var out []delivery.Status
	for _, s := range a.now.Load().sinks {
		out = append(out, s.worker.Status())
	}
	return out
}

func (a *app) consoleOptions() console.Options {
	return console.Options{
		Version: version, Sources: a.sourceStatus, Sinks: a.sinkStatus, Journal: a.journal.Status, Metrics: a.reg, Sweeps: a.journal.Certificates,
		Describe: a.describe, Letters: a.journal.DeadLetters, Configuration: func() console.Configuration { return *a.standing.Load() },
		Records: func(ctx context.Context, after uint64, limit int) ([]*event.Record, error) {
			return a.journal.Read(ctx, after, limit, 0)
		},
		Budget: func(source, kind string) (uint64, float64) {
			if s, ok := a.now.Load().find("source " + source + "/" + kind).(*sourcePart); ok {
				return s.client.Budget()
			}
			return 0, 0
		},
	}
}

// heartbeat is what heartbeats say of this process.
func (a *app) heartbeat(ctx context.Context) format.Heartbeat {
	ready := console.New(a.consoleOptions()).Readiness(ctx)
	h := format.Heartbeat{Version: version, Ready: ready.Ready}
	h.Host, _ = os.Hostname() // it has no other name then
	for _, r := range ready.Reasons {
		h.Reasons = append(h.Reasons, r.Code)
	}
	slices.Sort(h.Reasons)
	h.Reasons = slices.Compact(h.Reasons)
	return h
}

// describe says what the page shows of a record.
func (a *app) describe(rec *event.Record) console.Description {
	f := a.now.Load().rules.Read(rec)
	const most = 120
	return console.Description{
		Severity: f.ThreatSeverity.String(), What: format.CleanLine(rec.Key.Kind+" "+f.Verb, most), Threat: format.CleanLine(f.VirusName, most),
		Host: format.CleanLine(f.Host, most), Command: format.CleanLine(f.CmdLine, 2*most),
	}
}

// daemon polls and delivers until ctx is done. reload, if not nil, runs beside
// it and puts other configurations in force; its error ends the daemon.
func (a *app) daemon(ctx context.Context, ln net.Listener, reload func(context.Context, *supervisor) error) error {
	g, ctx := errgroup.WithContext(ctx)
	s := &supervisor{a: a, ctx: ctx, g: g, page: console.New(a.consoleOptions())}
	a.reg.MustRegister(s.page.Collector())
	s.serveOn(ln, a.now.Load())
	if socket, err := a.listenAdmin(ctx); err != nil { // the daemon is of use without it
		a.log.Warn("there is no admin socket: verbs such as status cannot ask this process", zap.Error(err))
	} else {
		g.Go(func() error { return a.admin().Serve(ctx, socket) })
	}
	for _, x := range a.now.Load().all() {
		s.begin(x, nil)
	}
	g.Go(func() error { return a.watchJournal(ctx) })
	if reload != nil {
		g.Go(func() error { return reload(ctx, s) })
	}
	return a.wait(ctx, g)
}

// wait waits for g, at most a.patience after ctx is done, even if a sink ignores
// its context.
func (a *app) wait(ctx context.Context, g *errgroup.Group) error {
	done := make(chan error, 1)
	go func() { done <- g.Wait() }()
	select {
	case err := <-done:
		return accountError(err)
	case <-ctx.Done():
	}
	late := time.NewTimer(time.Duration(a.patience.Load()))
	defer late.Stop()
	select {
	case err := <-done:
		return accountError(err)
	case <-late.C:
		a.log.Error("a part did not end in time; leaving all the same, nothing is lost")
		if why := context.Cause(ctx); !errors.Is(why, context.Canceled) {
			return accountError(why) // what ended the others
		}
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
