package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
)

// How long a part that is replaced may take to end. Its attempt under way may
// end for handover and is then cancelled; who does not end givenUp after that is
// no longer waited for. What such a one may still store, the lease of its
// successor refuses; what it had in flight is sent again.
const (
	handover = 3 * time.Second
	givenUp  = time.Second
)

// A life is the time in which something runs.
type life struct {
	end  context.CancelFunc
	done chan struct{} // closed when it has ended and is closed
	err  error         // why it ended; set before done is closed

	once sync.Once
	gone chan struct{} // closed when nobody waits for it any more: done, or given up
}

// live runs something until ctx is done, then closes it. It begins when what it
// replaces is gone; nil: at once.
func live(ctx context.Context, former *life, run func(context.Context) error, closing func() error) *life {
	ctx, end := context.WithCancel(ctx)
	l := &life{end: end, done: make(chan struct{}), gone: make(chan struct{})}
	go func() {
		defer l.leave()
		defer close(l.done)
		defer end()
		if former != nil {
			<-former.gone // soon, whatever it does
		}
		if ctx.Err() == nil {
			l.err = run(ctx)
		}
		l.err = errors.Join(l.err, closing())
	}()
	return l
}

func (l *life) leave() { l.once.Do(func() { close(l.gone) }) }

// wait waits until it is gone and returns why it ended.
func (l *life) wait() error {
	<-l.gone
	select {
	case <-l.done:
		return l.err
	default:
		return nil // given up
	}
}

// retire ends it and waits, no longer than patience. It reports whether it has
// ended.
func (l *life) retire(patience time.Duration) bool {
	l.end()
	t := time.NewTimer(patience)
	defer t.Stop()
	select {
	case <-l.done:
		return true
	case <-t.C:
		l.leave()
		return false
	}
}

// A supervisor keeps the parts of a daemon running, and replaces those that a
// new configuration changes. All others go on undisturbed.
type supervisor struct {
	a    *app
	ctx  context.Context // of the daemon
	g    *errgroup.Group // of the daemon: it ends with the first error
	page *console.Server

	mu      sync.Mutex // held while a configuration is put in force; guards the rest
	serving *life      // the console's port; nil: none is open
}

// begin begins a part, in place of a former one if there is one.
func (s *supervisor) begin(x part, former *life) {
	l := live(s.ctx, former, x.run, x.close)
	x.begin(l)
	s.g.Go(func() error {
		err := l.wait()
		if err != nil && s.a.now.Load().find(x.name()) != x { // it was replaced: this is no end of the daemon
			s.a.log.Warn("the end of a part that was replaced", zap.String("part", x.name()), zap.Error(err))
			return nil
		}
		return err
	})
}

// retire ends a part without waiting for it, and forgets its figures where
// nothing has its name any more.
func (s *supervisor) retire(x part) {
	forget := func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.a.now.Load().find(x.name()) == nil {
			x.forget(s.a.metrics)
		}
	}
	go func() {
		if !x.living().retire(handover + givenUp) {
			s.a.log.Warn("a part that was replaced does not end; going on without it, and what it had in flight may come twice", zap.String("part", x.name()))
			forget()
			<-x.living().done
		}
		forget()
	}()
}

// serve opens the console's port as the parts want it.
func (s *supervisor) serve(p *parts) error {
	ln, err := listen(s.ctx, p.cfg.HTTP)
	if err == nil {
		s.serveOn(ln, p)
	}
	return err
}

func (s *supervisor) serveOn(ln net.Listener, p *parts) {
	if ln == nil {
		return
	}
	scheme := "http://"
	if p.cfg.HTTP.TLS.CertFile != "" {
		scheme = "https://"
	}
	s.a.log.Info("console: " + scheme + ln.Addr().String() + "/")
	page := s.page.With(p.access, p.cfg.HTTP.ShowCommands)
	s.serving = live(s.ctx, nil, func(ctx context.Context) error { return page.Serve(ctx, ln) }, func() error { return nil })
	s.g.Go(s.serving.wait)
}

// quiet closes the console's port.
func (s *supervisor) quiet() {
	if s.serving != nil {
		s.serving.end()
		<-s.serving.done // at once: it waits for nobody
		s.serving = nil
	}
}

// move moves the console to where next has it. With an error it is where it
// was.
func (s *supervisor) move(former, next *parts) error {
	if former.cfg.HTTP == next.cfg.HTTP {
		return nil
	}
	ln, err := listen(s.ctx, next.cfg.HTTP)
	if err == nil {
		s.quiet()
		s.serveOn(ln, next)
		return nil
	}
	if port(former.cfg.HTTP) != port(next.cfg.HTTP) {
		return err
	}
	s.quiet() // it is we who have the port
	if err = s.serve(next); err != nil {
		return errors.Join(err, s.serve(former))
	}
	return nil
}

func port(cfg console.Config) string { return cfg.Listen[strings.LastIndexByte(cfg.Listen, ':')+1:] }

// An anewError says that a configuration needs everything to begin anew.
type anewError struct{ next *config.Config }

func (*anewError) Error() string { return "the configuration names another state directory" }

// reload puts a configuration in force and names what it changed. An error
// means that nothing has changed; with an *anewError the daemon is to end.
func (s *supervisor) reload(cfg *config.Config) (changes []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, former := s.a, s.a.now.Load()
	if !sameDir(former.cfg.State.Dir, cfg.State.Dir) {
		for _, sink := range former.sinks {
			sink.worker.SetGrace(handover)
		}
		a.patience.Store(int64(handover + givenUp))
		return nil, &anewError{cfg}
	}
	next, err := a.make(cfg, former)
	if err != nil {
		return nil, err
	}
	if err = s.move(former, next); err == nil {
		if err = a.journal.Reconfigure(s.ctx, cfg.State, sinkRules(cfg)); err != nil {
			err = errors.Join(err, s.move(next, former))
		}
	}
	if err != nil {
		err = errors.Join(err, next.close(former))
		next.forget(a.metrics, former)
		return nil, err
	}
	a.now.Store(next)
	a.logs.set(former.cfg.Log, cfg.Log)
	a.patience.Store(int64(cfg.ShutdownGrace + leaving))
	for _, sink := range next.sinks {
		sink.worker.SetGrace(cfg.ShutdownGrace)
	}
	return append(settings(former.cfg, cfg), s.replace(former, next)...), nil
}

// settings names what changed beside sinks and sources.
func settings(former, next *config.Config) []string {
	var changes []string
	add := func(name string, changed bool) {
		if changed {
			changes = append(changes, name+" changed")
		}
	}
	add("state", former.State != next.State)
	add("http", former.HTTP != next.HTTP)
	add("log", former.Log != next.Log)
	add("shutdown_grace", former.ShutdownGrace != next.ShutdownGrace)
	add("reload_on_change", former.ReloadOnChange != next.ReloadOnChange)
	return changes
}

// replace ends what next does not have, begins what is new in it, and names
// both.
func (s *supervisor) replace(former, next *parts) (changes []string) {
	for _, x := range former.all() {
		switch successor := next.find(x.name()); successor {
		case x:
			continue
		case nil:
			changes = append(changes, x.name()+" removed")
			x.giveWay(nil)
		default:
			changes = append(changes, x.name()+" changed")
			x.giveWay(successor)
		}
		s.retire(x)
	}
	for _, x := range next.all() {
		if x.living() != nil {
			continue
		}
		if was := former.find(x.name()); was != nil {
			s.begin(x, was.living())
			continue
		}
		changes = append(changes, x.name()+" added")
		s.begin(x, nil)
	}
	return changes
}

// sameDir reports whether two names are of one directory.
func sameDir(one, other string) bool {
	if one == other {
		return true
	}
	a, err := os.Stat(one)
	if err != nil {
		return false
	}
	b, err := os.Stat(other)
	return err == nil && os.SameFile(a, b)
}

// A reopener is a sink that writes to a file that may have been moved away.
type reopener interface{ Reopen() error }

// reopen makes sinks open their files anew. It waits for none: one that writes
// to a disk that hangs comes to it later.
func (a *app) reopen() {
	for _, s := range a.now.Load().sinks {
		if r, ok := s.sink.(reopener); ok {
			go func() {
				if err := r.Reopen(); err != nil {
					a.log.Warn("a sink's file cannot be opened anew", zap.String("sink", s.sinkName), zap.Error(err))
				}
			}()
		}
	}
}

// listen opens the console's port; nil when it is off.
func listen(ctx context.Context, cfg console.Config) (net.Listener, error) {
	if cfg.Listen == console.Off {
		return nil, nil //nolint:nilnil // documented: no port and no mistake
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", cfg.Listen)
	if err != nil {
		return nil, fmt.Errorf("http.listen: %w; choose another address, or off", err)
	}
	return ln, nil
}
