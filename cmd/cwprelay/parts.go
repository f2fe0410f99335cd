package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/console/otlp"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/all"
)

// parts are what one configuration asks for, opened. They do not change: a
// reload makes others, which share what stays the same.
type parts struct {
	cfg     *config.Config
	rules   *format.Rules
	access  *console.Access
	sinks   []*sinkPart   // in order of their names
	sources []*sourcePart // in order of their names
	export  *exportPart   // nil: nothing is exported
}

// A part is a sink with its worker, one kind of a source, or the export of
// metrics and traces.
type part interface {
	name() string  // "sink soc", "source prod/risk_process", "otlp"
	living() *life // nil: it was not begun
	begin(*life)
	run(ctx context.Context) error
	close() error
	giveWay(successor part) // prepares its end; nil: it has no successor
	forget(m metrics)       // removes its figures
	late(now time.Time) []string
}

// all are all parts.
func (p *parts) all() []part {
	var list []part
	for _, s := range p.sinks {
		list = append(list, s)
	}
	for _, s := range p.sources {
		list = append(list, s)
	}
	if p.export != nil {
		list = append(list, p.export)
	}
	return list
}

// find returns the part of a name, nil when there is none.
func (p *parts) find(name string) part {
	list := p.all()
	if i := slices.IndexFunc(list, func(x part) bool { return x.name() == name }); i >= 0 {
		return list[i]
	}
	return nil
}

// close closes what was not begun: what was closes at the end of its life. What
// is in keep stays open.
func (p *parts) close(keep *parts) error {
	var errs []error
	for _, x := range p.all() {
		if x.living() == nil && keep.find(x.name()) != x {
			errs = append(errs, x.close())
		}
	}
	return errors.Join(errs...)
}

// forget removes the figures of those of the parts whose names are not among
// the others.
func (p *parts) forget(m metrics, others *parts) {
	for _, x := range p.all() {
		if others.find(x.name()) == nil {
			x.forget(m)
		}
	}
}

// A sinkPart is a sink and its worker, and what they were made of.
type sinkPart struct {
	sinkName string
	cfg      config.Sink
	format   format.Config
	sink     sinks.Sink
	worker   *delivery.Worker
	life     *life
	*pulse
}

func (s *sinkPart) name() string                  { return "sink " + s.sinkName }
func (s *sinkPart) living() *life                 { return s.life }
func (s *sinkPart) begin(l *life)                 { s.life = l }
func (s *sinkPart) run(ctx context.Context) error { return s.worker.Run(ctx) }
func (s *sinkPart) close() error                  { return s.sink.Close() }
func (s *sinkPart) forget(m metrics)              { m.sinks.Forget(s.sinkName) }

func (s *sinkPart) giveWay(successor part) {
	s.worker.SetGrace(handover)
	if next, ok := successor.(*sinkPart); ok {
		next.worker.Pause(s.worker.Paused())
	}
}

// A sourcePart is one kind of a source, and what it was made of.
type sourcePart struct {
	source, kind string
	cfg          config.Source // without the other kinds
	reloaded     bool          // it came by a reload
	log          *zap.Logger
	client       *cwp.Client
	poller       *poller.Poller
	life         *life
	*pulse
}

func (s *sourcePart) name() string  { return "source " + s.source + "/" + s.kind }
func (s *sourcePart) living() *life { return s.life }
func (s *sourcePart) begin(l *life) { s.life = l }
func (s *sourcePart) giveWay(part)  {}

func (s *sourcePart) close() error {
	s.client.Close()
	return nil
}

func (s *sourcePart) forget(m metrics) {
	m.sources.Forget(s.source, s.kind)
	m.api.Forget(s.source, s.kind)
}

// run polls. A source that came by a reload and has another account than it
// had ends alone: the others go on.
func (s *sourcePart) run(ctx context.Context) error {
	err := s.poller.Run(ctx)
	if s.reloaded && errors.Is(err, poller.ErrAccount) {
		s.log.Error("the source is not polled", zap.String("source", s.source), zap.String("kind", s.kind), zap.Error(err))
		return nil
	}
	return err
}

// An exportPart exports metrics and traces.
type exportPart struct {
	cfg      otlp.Config
	exporter *otlp.Exporter
	life     *life
}

func (e *exportPart) name() string                  { return "otlp" }
func (e *exportPart) living() *life                 { return e.life }
func (e *exportPart) begin(l *life)                 { e.life = l }
func (e *exportPart) run(ctx context.Context) error { return e.exporter.Run(ctx) }
func (e *exportPart) close() error                  { return nil }
func (e *exportPart) giveWay(part)                  {}
func (e *exportPart) forget(metrics)                {}
func (e *exportPart) late(time.Time) []string       { return nil } // only figures wait for it

// sinkRules are what the journal must know of the configured sinks.
func sinkRules(cfg *config.Config) []journal.SinkRule {
	var rules []journal.SinkRule
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		d := cfg.Sinks[name].Delivery
		rules = append(rules, journal.SinkRule{Name: name, OnFull: d.OnFull, StartFrom: d.StartFrom})
	}
	return rules
}

// make opens what a configuration asks for; what the former parts have already,
// made of the same, is taken from them. With an error nothing new is left open.
func (a *app) make(cfg *config.Config, former *parts) (p *parts, err error) {
	p = &parts{cfg: cfg, rules: former.rules, access: former.access}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.close(former))
			p.forget(a.metrics, former)
		}
	}()
	if former.cfg == nil || cfg.HTTP != former.cfg.HTTP {
		if p.access, err = console.NewAccess(cfg.HTTP); err != nil {
			return p, exit(exitConfig, err)
		}
		if p.access.Open() {
			a.log.Warn("the console's token goes over the network unencrypted: set http.tls, or put a proxy with TLS before it")
		}
	}
	if former.cfg == nil || !reflect.DeepEqual(cfg.Format, former.cfg.Format) {
		if p.rules, err = format.NewRules(cfg.Format); err != nil {
			return p, exit(exitConfig, fmt.Errorf("format.%w", err))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		part, _ := former.find("sink " + name).(*sinkPart)
		if part == nil || !reflect.DeepEqual(part.cfg, cfg.Sinks[name]) || !reflect.DeepEqual(part.format, cfg.Format) {
			if part, err = a.makeSink(cfg, p.rules, name); err != nil {
				return p, err
			}
		}
		p.sinks = append(p.sinks, part)
	}
	for _, name := range slices.Sorted(maps.Keys(cfg.Sources)) {
		for _, kind := range cfg.Sources[name].Poll.Kinds {
			src := cfg.Sources[name]
			src.Poll.Kinds = []string{kind}
			part, _ := former.find("source " + name + "/" + kind).(*sourcePart)
			if part == nil || !reflect.DeepEqual(part.cfg, src) {
				if part, err = a.makeSource(src, name, kind); err != nil {
					return p, err
				}
				part.reloaded = former.cfg != nil
			}
			p.sources = append(p.sources, part)
		}
	}
	if cfg.OTLP.Endpoint == "" {
		return p, nil
	}
	if p.export = former.export; p.export == nil || !reflect.DeepEqual(p.export.cfg, cfg.OTLP) {
		p.export, err = a.makeExport(cfg.OTLP)
	}
	return p, err
}

func (a *app) makeExport(cfg otlp.Config) (*exportPart, error) {
	log := a.log.Named("otlp")
	exporter, err := otlp.New(otlp.Options{
		Config: cfg, Version: version, Gatherer: a.reg,
		Failed: func(err error) { log.Warn("metrics and traces cannot be exported; trying again", zap.Error(err)) },
		Recovered: func(after time.Duration) {
			log.Info("metrics and traces are exported again", zap.Duration("after", after))
		},
	})
	if err != nil {
		return nil, exit(exitConfig, err)
	}
	return &exportPart{cfg: cfg, exporter: exporter}, nil
}

// swept and followed tell the exporter in force, if there is one.
func (a *app) swept(s poller.Sweep) {
	if e := a.now.Load().export; e != nil {
		e.exporter.Sweep(s)
	}
}

func (a *app) followed(before any, attempt delivery.Attempt) any {
	if e := a.now.Load().export; e != nil {
		return e.exporter.Attempt(before, attempt)
	}
	return nil
}

func (a *app) makeSink(cfg *config.Config, rules *format.Rules, name string) (*sinkPart, error) {
	own := cfg.Sinks[name]
	encode, err := encoder(cfg, name)
	if err != nil {
		return nil, err
	}
	sink, err := all.New(own.Kind, all.Options{Name: name, Format: own.Delivery.Format, Namespace: cfg.Format.Namespace, Stdout: a.proc.stdout})
	if err != nil {
		return nil, exit(exitConfig, err)
	}
	loops := &pulse{}
	worker, err := delivery.New(delivery.Options{
		Name: name, Sink: sink, Config: own.Delivery, Encoder: encode, Rules: rules, Journal: a.journal,
		Log: a.log, Metrics: a.metrics.sinks, Grace: cfg.ShutdownGrace, Follow: a.followed, Beat: loops.beat,
		Heartbeat: a.heartbeat,
	})
	if err != nil {
		return nil, exit(exitConfig, errors.Join(fmt.Errorf("sinks.%s: %w", name, err), sink.Close()))
	}
	return &sinkPart{sinkName: name, cfg: own, format: cfg.Format, sink: sink, worker: worker, pulse: loops}, nil
}

func (a *app) makeSource(src config.Source, name, kind string) (*sourcePart, error) {
	client, err := newClient(src.API, cwp.KindByName(kind), a.proc.environ, cwp.Options{Source: name, Limits: a.limits, Metrics: a.metrics.api})
	if err != nil {
		return nil, exit(exitConfig, fmt.Errorf("sources.%s.%w", name, err))
	}
	loops := &pulse{}
	opt := poller.Options{
		Source: name, Kind: cwp.KindByName(kind), Config: src.Poll, Filters: src.API.Filters, API: client,
		Rate: src.API.RequestsPerSecond, Journal: a.journal, Log: a.log.Named("poller"), Metrics: a.metrics.sources,
		Swept: a.swept, Beat: loops.beat,
	}
	if src.API.Vendor() {
		opt.Identify = client.AccountID
	}
	pl, err := poller.New(opt)
	if err != nil {
		client.Close()
		return nil, exit(exitConfig, fmt.Errorf("sources.%s.%w", name, err))
	}
	return &sourcePart{source: name, kind: kind, cfg: src, log: a.log, client: client, poller: pl, pulse: loops}, nil
}
