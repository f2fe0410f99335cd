package main

import (
	"context"
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
)

// lookEvery is how often the files that a configuration watches are looked at.
const lookEvery = 5 * time.Second

// A reloader tells a daemon when its configuration is another.
type reloader struct {
	load func() (*config.Config, error)
	cfg  *config.Config // in force
	log  *zap.Logger
	seen []string // stamps of the files it watches
}

func newReloader(cfg *config.Config, load func() (*config.Config, error), log *zap.Logger) *reloader {
	return &reloader{load: load, cfg: cfg, log: log, seen: stamps(cfg.Watched())}
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

// wait returns the next configuration once there is one, nil when ctx is done.
// It looks on SIGHUP, and when a file that holds a secret, or where that is asked
// for the configuration's own, has changed. A configuration with a mistake changes
// nothing, and is told once. reopen is called on SIGHUP
// when the configuration is the same.
func (r *reloader) wait(ctx context.Context, hangup <-chan os.Signal, reopen func()) *config.Config {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		asked := false
		select {
		case <-ctx.Done():
			return nil
		case <-hangup:
			asked = true
		case <-tick.C:
		}
		now := stamps(r.cfg.Watched())
		if !asked && slices.Equal(now, r.seen) {
			continue
		}
		r.seen = now
		next, err := r.load()
		switch {
		case err != nil:
			r.log.Error("the new configuration cannot be used; the one in force stays", zap.Strings("mistakes", strings.Split(err.Error(), "\n")[1:]))
		case !reflect.DeepEqual(next, r.cfg):
			r.log.Info("the configuration has changed: beginning anew with it")
			return next
		case asked:
			reopen()
		}
	}
}

// onHangup is where SIGHUP arrives from now on, until stop.
func onHangup() (hangup <-chan os.Signal, stop func()) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c, func() { signal.Stop(c) }
}
