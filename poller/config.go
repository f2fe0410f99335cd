package poller

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
)

// DefaultKind is what a source polls when it names no kinds.
const DefaultKind = "risk_process"

// Config says what a source polls, when, and how it reads what it gets.
type Config struct {
	Kinds         []string      `koanf:"kinds"`                 // rows of the registry of kinds; default risk_process
	AccountID     string        `koanf:"account_id"`            // identity of the source's keys; default: asked of the API once
	PollInterval  time.Duration `koanf:"poll_interval"`         // between head scans, default 15s, at least 1s; they come sooner while many events are new
	SweepInterval time.Duration `koanf:"sweep_interval"`        // between the starts of sweeps, default 60s, at least poll_interval
	Timezone      string        `koanf:"timezone"`              // zone of the API's wall times, default Asia/Shanghai
	Dialect       string        `koanf:"handle_status_dialect"` // reading of HandleStatus: record (default) or filter
	ChangedOn     []string      `koanf:"changed_on"`            // what makes a change: HandleStatus (default), and DetectTime
	Backfill      string        `koanf:"backfill"`              // emit (default): old news become records; silent: they only set the state
	ForgetAfter   time.Duration `koanf:"forget_after"`          // certified absence after which a key is forgotten, default 720h
}

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	if len(c.Kinds) == 0 {
		c.Kinds = []string{DefaultKind}
	}
	c.PollInterval = cmp.Or(c.PollInterval, 15*time.Second)
	c.SweepInterval = cmp.Or(c.SweepInterval, max(time.Minute, c.PollInterval))
	c.Timezone = cmp.Or(c.Timezone, "Asia/Shanghai")
	c.Dialect = cmp.Or(c.Dialect, "record")
	if len(c.ChangedOn) == 0 {
		c.ChangedOn = []string{"HandleStatus"}
	}
	c.Backfill = cmp.Or(c.Backfill, backfillEmit)
	c.ForgetAfter = cmp.Or(c.ForgetAfter, 30*24*time.Hour)
	return c
}

const (
	backfillEmit   = "emit"
	backfillSilent = "silent"
)

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	seen := map[string]bool{}
	for _, name := range c.Kinds {
		kind := cwp.KindByName(name)
		switch {
		case kind == nil:
			add("kinds: unknown kind %q; known: %s", name, strings.Join(kindNames(), ", "))
			continue
		case seen[name]:
			add("kinds: %s is named twice", name)
		}
		seen[name] = true
		if !slices.Contains(kind.DialectNames, c.Dialect) {
			add("handle_status_dialect: %q is not one of %s", c.Dialect, strings.Join(kind.DialectNames, ", "))
		}
		if !slices.Contains(c.ChangedOn, kind.StatusField) {
			add("changed_on: must contain %s; fields that can be added: %s", kind.StatusField, strings.Join(kind.Trackable, ", "))
		}
		for i, field := range c.ChangedOn {
			if field != kind.StatusField && !slices.Contains(kind.Trackable, field) {
				add("changed_on: %s cannot be tracked; use %s, %s", field, kind.StatusField, strings.Join(kind.Trackable, ", "))
			}
			if slices.Contains(c.ChangedOn[:i], field) {
				add("changed_on: %s is named twice", field)
			}
		}
	}
	if strings.ContainsAny(c.AccountID, " \t\r\n:") {
		add("account_id: must be the account's number, without spaces or colons")
	}
	if c.PollInterval < time.Second {
		add("poll_interval: %s is too short; at least 1s", c.PollInterval)
	}
	if c.SweepInterval < c.PollInterval {
		add("sweep_interval: %s is shorter than poll_interval (%s)", c.SweepInterval, c.PollInterval)
	}
	if _, err := time.LoadLocation(c.Timezone); err != nil || c.Timezone == "Local" {
		add("timezone: %q is not the name of a zone; use one like Asia/Shanghai or UTC", c.Timezone)
	}
	if c.Backfill != backfillEmit && c.Backfill != backfillSilent {
		add("backfill: %q is not one of emit, silent", c.Backfill)
	}
	if c.ForgetAfter < time.Hour {
		add("forget_after: %s is too short; at least 1h", c.ForgetAfter)
	}
	return errors.Join(errs...)
}

func kindNames() []string {
	var names []string
	for _, k := range cwp.Kinds() {
		names = append(names, k.Name)
	}
	return names
}
