package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
)

// systemConfig is where packages and images have the configuration.
const systemConfig = "/etc/cwprelay/cwprelay.yaml"

// A configFlags is where a verb takes its configuration from.
type configFlags struct {
	path     string
	logLevel string
	stateDir string
}

func (f *configFlags) add(c *cobra.Command) {
	c.Flags().StringVarP(&f.path, "config", "c", "", "configuration file (default: $CWPRELAY_CONFIG, else "+systemConfig+" where it exists; none: credentials from the environment to standard output)")
	c.Flags().StringVar(&f.logLevel, "log-level", "", "debug, info, warn or error")
	c.Flags().StringVar(&f.stateDir, "state-dir", "", "state directory, instead of state.dir")
}

// options say where the configuration comes from.
func (f *configFlags) options(p process) config.Options {
	flags := map[string]string{}
	if f.logLevel != "" {
		flags["log.level"] = f.logLevel
	}
	if f.stateDir != "" {
		flags["state.dir"] = f.stateDir
	}
	path := f.path
	if path == "" {
		path = lookup(p.environ)("CWPRELAY_CONFIG")
	}
	if path == "" {
		if _, err := os.Stat(systemConfig); !errors.Is(err, fs.ErrNotExist) {
			path = systemConfig // also one that cannot be read: that is told then
		}
	}
	return config.Options{Path: path, Environ: p.environ, Flags: flags}
}

func (f *configFlags) load(p process) (*config.Config, error) {
	opt := f.options(p)
	cfg, err := config.Load(opt)
	if err != nil {
		return nil, badConfig(opt.Path, err)
	}
	return cfg, nil
}

func badConfig(path string, err error) error {
	if path == systemConfig { // nobody needs to have named it
		path = " " + path
	} else {
		path = ""
	}
	return exit(exitConfig, fmt.Errorf("the configuration%s cannot be used:\n%w", path, err))
}

func runCommand(p process) *cobra.Command {
	var flags configFlags
	var once bool
	var timeout time.Duration
	c := &cobra.Command{
		Use: "run", Short: "Poll and deliver, until told to stop", Args: cobra.NoArgs,
		Long: `Polls the API and delivers what is new or changed to every configured sink.

Without -c the configuration is the file that CWPRELAY_CONFIG names, else
/etc/cwprelay/cwprelay.yaml where it exists. Without any, the credentials are
taken from the environment (TENCENTCLOUD_SECRET_ID, TENCENTCLOUD_SECRET_KEY,
TENCENTCLOUD_TOKEN) and events are written to standard output as JSON lines.

With --once it sweeps the list (three tries for a certificate), delivers all
that the journal holds, and ends: 0 certified and all delivered, 3 not
certified or something went to the dead letters, 1 a sink halted or records
are left (they stay in the journal), 69 and 77 the API could not be reached,
or refused.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			if !once {
				return serve(cmd.Context(), p, cfg, func(text []byte) (*config.Config, error) {
					opt := flags.options(p)
					opt.Text = text
					return config.Load(opt)
				})
			}
			a, err := open(cfg, p, newLogger(cfg.Log, p.stderr))
			if err != nil {
				return err
			}
			err = a.once(cmd.Context(), p.stderr, timeout)
			return errors.Join(err, a.close())
		},
	}
	flags.add(c)
	c.Flags().BoolVar(&once, "once", false, "one certified sweep, then deliver everything and end")
	c.Flags().DurationVar(&timeout, "timeout", 15*time.Minute, "with --once: give up after so long without any progress")
	return c
}

// serve is the daemon. A configuration with another state directory makes it
// end, as a shutdown does, and begin anew, in the same process; if that cannot
// begin, with the former.
func serve(ctx context.Context, p process, cfg *config.Config, load func(text []byte) (*config.Config, error)) error {
	hangup, stop := onHangup()
	defer stop()
	var former *config.Config // nil once it was gone back to
	log := newLogger(cfg.Log, p.stderr)
	manager := &notifier{log: log.Logger}
	defer manager.start(ctx)()
	for {
		a, ln, err := openDaemon(ctx, cfg, p, log)
		if err != nil {
			if former == nil {
				return err
			}
			log.Error("cannot begin with the new configuration; going back to the former", zap.Error(err))
			cfg, former = former, nil
			continue
		}
		ctx, end := context.WithCancel(ctx)
		progressed := a.showProgress(ctx, p.stderr)
		r := newReloader(cfg, load, log.Logger)
		err = a.daemon(ctx, ln, func(ctx context.Context, s *supervisor) error {
			manager.begin(s)
			return r.run(ctx, hangup, s, manager)
		})
		end()
		progressed()
		manager.open.Store(nil)
		anew, ok := errors.AsType[*anewError](err)
		if !ok {
			return errors.Join(err, a.close())
		}
		if err := a.close(); err != nil {
			return err
		}
		log.set(a.cfg().Log, anew.next.Log)
		cfg, former = anew.next, a.cfg()
	}
}

// openDaemon opens everything and the console's port.
func openDaemon(ctx context.Context, cfg *config.Config, p process, log *logs) (*app, net.Listener, error) {
	a, err := open(cfg, p, log)
	if err != nil {
		return nil, nil, err
	}
	ln, err := listen(ctx, cfg.HTTP)
	if err != nil {
		return nil, nil, errors.Join(err, a.close())
	}
	return a, ln, nil
}

// The most sweeps that --once tries for a certificate.
const onceSweeps = 3

// once sweeps each source, delivers everything, and ends.
func (a *app) once(ctx context.Context, stderr io.Writer, timeout time.Duration) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer a.showProgress(ctx, stderr)()
	go a.stalled(ctx, timeout, stop)

	workers, workCtx := errgroup.WithContext(ctx)
	workCtx, endWork := context.WithCancel(workCtx)
	defer endWork()
	for _, s := range a.now.Load().sinks {
		workers.Go(func() error { return s.worker.Run(workCtx) })
	}
	if e := a.now.Load().export; e != nil {
		workers.Go(func() error { return e.run(workCtx) })
	}
	deadBefore := a.dead(ctx)
	swept := a.sweepOnce(ctx)
	settled := a.settle(workCtx)
	endWork()
	if err := a.wait(workCtx, workers); err != nil {
		return err
	}
	return worst(swept, settled, a.buried(context.WithoutCancel(ctx), deadBefore), cause(ctx))
}

// cause is why a --once was ended early.
func cause(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return exit(exitFailed, fmt.Errorf("ended early: %w; what is left stays in the journal", err))
	}
	return nil
}

func (a *app) sweepOnce(ctx context.Context) error {
	var errs []error
	for _, s := range a.now.Load().sources {
		cert, err := s.poller.Once(ctx, onceSweeps)
		switch {
		case err != nil:
			errs = append(errs, exit(apiCode(err), fmt.Errorf("source %s: %w", s.source, err)))
		case !cert.Certified && ctx.Err() == nil:
			errs = append(errs, exit(exitFound, fmt.Errorf("source %s: the sweep is not certified: %s: %s", cert.Source, cert.Reason, cert.Detail)))
		}
	}
	return worst(errs...)
}

// apiCode is the exit code for an error of a poll.
func apiCode(err error) int {
	e, ok := errors.AsType[*cwp.Error](err)
	switch {
	case errors.Is(accountError(err), err) && !ok:
		if coded, ok := errors.AsType[*exitError](accountError(err)); ok {
			return coded.code
		}
		return exitFailed
	case !ok:
		return exitFailed
	}
	switch e.Class {
	case cwp.ClassCredentials, cwp.ClassRequest, cwp.ClassClock:
		return exitRefused
	case cwp.ClassNetwork, cwp.ClassServer, cwp.ClassVague, cwp.ClassRate, cwp.ClassAnswerSize, cwp.ClassAnswer:
		return exitUnreachable
	default:
		return exitFailed
	}
}

// settle waits until every sink has settled the last record, or is halted.
func (a *app) settle(ctx context.Context) error {
	st, err := a.journal.Status(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, part := range a.now.Load().sinks {
		state, err := part.worker.Wait(ctx, st.Last)
		s := part.worker.Status()
		switch {
		case err != nil:
			return worst(errs...) // ended early: the cause is told elsewhere
		case state == delivery.Halted && s.Cursor.Seq < st.Last:
			errs = append(errs, exit(exitFailed, fmt.Errorf("sink %s is halted: %s; its records stay in the journal", s.Name, s.HaltReason)))
		}
	}
	return worst(errs...)
}

func (a *app) dead(ctx context.Context) int {
	st, err := a.journal.Status(ctx)
	if err != nil {
		return 0
	}
	return deadLetters(st)
}

func deadLetters(st journal.Status) int {
	n := 0
	for _, s := range st.Sinks {
		n += s.Dead
	}
	return n
}

func (a *app) buried(ctx context.Context, before int) error {
	st, err := a.journal.Status(ctx)
	if err != nil {
		return err
	}
	if n := deadLetters(st) - before; n > 0 {
		return exit(exitFound, fmt.Errorf("%d records went to the dead letters", n))
	}
	return nil
}

// stalled ends a --once that has made no progress for so long.
func (a *app) stalled(ctx context.Context, timeout time.Duration, stop context.CancelCauseFunc) {
	tick := time.NewTicker(min(timeout/4+1, time.Second))
	defer tick.Stop()
	last, since := "", time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		var marks []any
		for _, s := range a.sourceStatus() {
			marks = append(marks, s.Progress.Requests, s.Known, s.Last.Sweep)
		}
		for _, s := range a.sinkStatus() {
			marks = append(marks, s.Cursor.Seq, len(s.Cursor.Ahead))
		}
		now := fmt.Sprintln(marks...)
		switch {
		case now != last:
			last, since = now, time.Now()
		case time.Since(since) >= timeout:
			stop(fmt.Errorf("no progress for %s", timeout))
			return
		}
	}
}

// worst joins what went wrong under the gravest exit code.
func worst(errs ...error) error {
	order := []int{exitFound, exitUnreachable, exitRefused, exitConfig, exitFailed}
	rank := func(code int) int {
		for i, c := range order {
			if c == code {
				return i
			}
		}
		return len(order)
	}
	joined, code := errors.Join(errs...), exitFound
	if joined == nil {
		return nil
	}
	for _, err := range errs {
		if err == nil {
			continue
		}
		c := exitFailed
		if coded, ok := errors.AsType[*exitError](err); ok {
			c = coded.code
		}
		if rank(c) > rank(code) {
			code = c
		}
	}
	return exit(code, joined)
}
