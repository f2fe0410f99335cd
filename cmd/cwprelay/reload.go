package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/signal"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
)

// lookEvery is how often the files that a configuration depends on are looked
// at.
const lookEvery = 5 * time.Second

// A reloader puts another configuration in force when there is one. What stands
// in the file counts on SIGHUP and, where that is asked for, when it changes;
// what stands in a file that holds a secret, always.
type reloader struct {
	load func(text []byte) (*config.Config, error) // text nil: that of the file
	cfg  *config.Config                            // in force
	log  *zap.Logger

	seen     []string // stamps of the files it looks at
	refused  []byte   // what stood in the file when it was refused; nil: it was not
	mistakes []string // of that
	told     map[string]bool
}

func newReloader(cfg *config.Config, load func([]byte) (*config.Config, error), log *zap.Logger) *reloader {
	return &reloader{load: load, cfg: cfg, log: log, told: map[string]bool{}}
}

// run looks until ctx is done. Its error is an *anewError.
func (r *reloader) run(ctx context.Context, hangup <-chan os.Signal, s *supervisor, manager *notifier) error {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			asked = true
			manager.reloading()
		case <-tick.C:
		}
		if err := r.look(s, asked); err != nil {
			return err
		}
		if asked {
			s.a.reopen()
			manager.ready()
		}
	}
}

// look puts in force what is new. asked is whether a person wants it.
func (r *reloader) look(s *supervisor, asked bool) error {
	now := stamps(append(slices.Clone(r.cfg.SecretFiles), r.cfg.File))
	if !asked && slices.Equal(now, r.seen) && r.refused == nil {
		return nil
	}
	r.seen = now
	text, err := os.ReadFile(r.cfg.File)
	edited := r.cfg.File != "" && (err != nil || !bytes.Equal(text, r.cfg.Text))
	if err != nil {
		text = nil // reading it again says why
	}
	if !edited || !bytes.Equal(text, r.refused) {
		r.refused, r.mistakes = nil, nil
	}
	if asked {
		clear(r.told)
	}
	if asked || edited && r.cfg.ReloadOnChange {
		mistakes, err := r.apply(s, text)
		if err != nil {
			return err
		}
		if mistakes != nil {
			r.refused, r.mistakes = append([]byte{}, text...), mistakes
		}
		edited = mistakes != nil
	}
	mistakes, err := r.apply(s, r.cfg.Text) // with the secrets that its files hold now
	if err != nil {
		return err
	}
	standing := console.Configuration{File: r.cfg.File, Since: s.a.standing.Load().Since, State: console.ConfigurationCurrent}
	switch {
	case len(r.mistakes)+len(mistakes) > 0:
		standing.State, standing.Mistakes = console.ConfigurationRefused, slices.Concat(r.mistakes, mistakes)
	case edited:
		standing.State = console.ConfigurationEdited
	}
	s.a.standing.Store(&standing)
	return nil
}

// apply puts a text of the configuration in force. mistakes say why it cannot.
func (r *reloader) apply(s *supervisor, text []byte) (mistakes []string, err error) {
	next, err := r.load(text)
	var changes []string
	if err == nil && !reflect.DeepEqual(next, r.cfg) {
		changes, err = s.reload(next)
	}
	if _, ok := errors.AsType[*anewError](err); ok {
		return nil, err
	}
	if err != nil {
		mistakes = strings.Split(err.Error(), "\n")
		if !r.told[err.Error()] {
			r.told[err.Error()] = true
			r.log.Error("the new configuration cannot be used; the one in force stays", zap.Strings("mistakes", mistakes))
		}
		return mistakes, nil
	}
	r.cfg = next
	if len(changes) > 0 {
		clear(r.told)
		r.log.Info("another configuration is in force; what is not named goes on undisturbed", zap.Strings("changes", changes))
		s.a.standing.Store(&console.Configuration{File: next.File, Since: time.Now().UTC()})
	}
	return nil, nil
}

// stamps tell versions of files apart without reading them.
func stamps(paths []string) []string {
	var out []string
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			out = append(out, path+": "+err.Error())
			continue
		}
		out = append(out, path+info.ModTime().String()+info.Mode().String()+strconv.FormatInt(info.Size(), 10))
	}
	return out
}

// onHangup is where SIGHUP arrives from now on, until stop.
func onHangup() (hangup <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}
