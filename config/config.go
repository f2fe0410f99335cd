// Package config reads the configuration: a file, the environment and flags
// make one Config, or all mistakes at once, each with its place and a remedy.
//
// It owns no option: each package has a Config of its own with defaults and
// validation, and this package puts them together. Only cmd imports it.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/console/otlp"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
	"github.com/cwprelay/cwprelay/sinks/all"
)

// Config is everything that can be configured.
type Config struct {
	Sources       map[string]Source `koanf:"sources"`
	State         journal.Config    `koanf:"state"`
	Sinks         map[string]Sink   `koanf:"sinks"`
	Format        format.Config     `koanf:"format"`
	HTTP          console.Config    `koanf:"http"`
	OTLP          otlp.Config       `koanf:"otlp"`
	Log           Log               `koanf:"log"`
	ShutdownGrace time.Duration     `koanf:"shutdown_grace"` // how long attempts may go on after SIGTERM, default 20s
	// ReloadOnChange reads the configuration again when its file changes, as
	// SIGHUP does; default false.
	ReloadOnChange bool `koanf:"reload_on_change"`

	File        string   // where it was read from; empty: nowhere
	Text        []byte   // what stood in it, before ${…} was replaced
	SecretFiles []string // that ${file:…} names
}

// Source is an account whose events are polled.
type Source struct {
	API  cwp.Config    `koanf:",squash"`
	Poll poller.Config `koanf:",squash"`
}

// Sink is a destination and how it is served.
type Sink struct {
	Kind     all.Config      `koanf:",squash"`
	Delivery delivery.Config `koanf:",squash"`
}

// Log says what is logged and how.
type Log struct {
	Level  string `koanf:"level"`  // debug, info (default), warn or error
	Format string `koanf:"format"` // json, console, or auto (default): console on a terminal
}

// withDefaults returns c with every unset option at its default. Without any
// source and sink there is one of each: credentials from the environment, and
// JSON lines on standard output.
func (c Config) withDefaults() Config {
	if len(c.Sources) == 0 && len(c.Sinks) == 0 {
		c.Sources = map[string]Source{"default": {}}
		c.Sinks = map[string]Sink{"stdout": {Kind: all.StandardOutput()}}
	}
	sources, sinks := map[string]Source{}, map[string]Sink{}
	for name, s := range c.Sources {
		sources[name] = Source{API: s.API.WithDefaults(), Poll: s.Poll.WithDefaults()}
	}
	for name, s := range c.Sinks {
		s.Kind, s.Delivery = s.Kind.WithDefaults(), s.Delivery.WithDefaults()
		s.Delivery.Format = cmp.Or(s.Delivery.Format, s.Kind.DefaultFormat())
		s.Delivery.When = cmp.Or(s.Delivery.When, s.Kind.DefaultWhen())
		sinks[name] = s
	}
	c.Sources, c.Sinks = sources, sinks
	c.State = c.State.WithDefaults()
	c.Format = c.Format.WithDefaults()
	c.HTTP = c.HTTP.WithDefaults()
	c.OTLP = c.OTLP.WithDefaults()
	c.Log.Level = cmp.Or(c.Log.Level, "info")
	c.Log.Format = cmp.Or(c.Log.Format, "auto")
	c.ShutdownGrace = cmp.Or(c.ShutdownGrace, 20*time.Second)
	return c
}

// A mistake is one thing that is wrong, by the path of its key.
type mistake struct {
	path string
	err  error
}

// validate finds every mistake.
func (c Config) validate() []mistake {
	var out []mistake
	add := func(path string, err error) {
		for _, e := range flatten(err) {
			out = append(out, mistake{path, e})
		}
	}
	if len(c.Sources) == 0 {
		add("sources", errors.New("at least one is required"))
	}
	if len(c.Sinks) == 0 {
		add("sinks", errors.New("at least one is required"))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		path := "sources." + name
		add(path, checkName(name))
		s := c.Sources[name]
		add(path, s.API.Validate())
		add(path, s.Poll.Validate())
		for _, kind := range s.Poll.Kinds {
			if k := cwp.KindByName(kind); k != nil && s.API.Validate() == nil {
				add(path, s.API.ValidateKind(k))
			}
		}
	}
	out = append(out, c.accounts()...)
	for _, name := range slices.Sorted(maps.Keys(c.Sinks)) {
		path := "sinks." + name
		add(path, checkName(name))
		add(path, c.Sinks[name].Kind.Validate())
		add(path, c.Sinks[name].Delivery.Validate())
		add(path, c.checkFormat(c.Sinks[name]))
	}
	add("state", c.State.Validate())
	add("format", c.Format.Validate())
	add("http", c.HTTP.Validate())
	add("otlp", c.OTLP.Validate())
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, c.Log.Level) {
		add("log", fmt.Errorf("level: %q is not one of debug, info, warn, error", c.Log.Level))
	}
	if !slices.Contains([]string{"auto", "json", "console"}, c.Log.Format) {
		add("log", fmt.Errorf("format: %q is not one of auto, json, console", c.Log.Format))
	}
	if c.ShutdownGrace < 0 {
		add("", errors.New("shutdown_grace: must not be negative"))
	}
	return out
}

// checkFormat checks what a sink makes of records.
func (c Config) checkFormat(s Sink) error {
	kind, name := s.Kind.Kind(), s.Delivery.Format
	takes := s.Kind.Formats()
	switch {
	case kind == "" || name != "" && !slices.Contains(format.Names(), name):
		return nil // told elsewhere
	case len(takes) == 0 && name != "":
		return fmt.Errorf("format: %s makes its own messages; remove the key", kind)
	case name != "" && !slices.Contains(takes, name):
		return fmt.Errorf("format: %s takes JSON: one of %s; not %s", kind, strings.Join(takes, ", "), name)
	}
	if err := format.CheckChanges(name, c.Format, s.Delivery.Transform); err != nil {
		var errs []error
		for _, e := range flatten(err) {
			text := e.Error()
			if !strings.HasPrefix(text, "[") {
				text = ": " + text
			}
			errs = append(errs, errors.New("transform"+text))
		}
		return errors.Join(errs...)
	}
	return nil
}

// accounts checks that keys of several sources cannot be mixed up.
func (c Config) accounts() []mistake {
	if len(c.Sources) < 2 {
		return nil
	}
	var out []mistake
	owner := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Sources)) {
		s := c.Sources[name]
		if s.Poll.AccountID == "" {
			out = append(out, mistake{"sources." + name, errors.New("account_id: required with several sources")})
			continue
		}
		for _, kind := range s.Poll.Kinds {
			key := s.Poll.AccountID + "/" + kind
			if other := owner[key]; other != "" {
				out = append(out, mistake{"sources." + name, fmt.Errorf("account_id: the source %s has the kind %s of this account already", other, kind)})
			}
			owner[key] = name
		}
	}
	return out
}

// checkName checks the name of a source or sink: it is a log field, a metric
// label and part of the name of a variable.
func checkName(name string) error {
	ok := name != "" && strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789_-") == "" && !strings.ContainsAny(name[:1], "_-") && !strings.Contains(name, "__")
	if !ok {
		return errors.New("a name may hold lower-case letters, digits, - and single _, and begins with a letter or digit")
	}
	return nil
}

// flatten takes joined errors apart.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var out []error
		for _, e := range joined.Unwrap() {
			out = append(out, flatten(e)...)
		}
		return out
	}
	return []error{err}
}
