package delivery

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/format"
)

// Values of Config.StartFrom.
const (
	StartOldest = "oldest" // begin with the oldest record that the journal holds
	StartNow    = "now"    // begin with what comes after the first start, and take no backfill
)

// Values of Config.OnFull.
const (
	FullPause = "pause" // the poller pauses until the sink has caught up
	FullSkip  = "skip"  // the sink loses its oldest records, counted as a gap
)

// Config says how one sink is served, whatever its kind. Its keys stand beside
// the block of the kind.
type Config struct {
	// Format is the name of the encoding of records. Its default depends on the
	// kind of the sink and is set by whoever knows the kind.
	Format string `koanf:"format"`
	// Transform changes the fields of the format for this sink, step by step.
	Transform []format.Change `koanf:"transform"`
	// When is a condition; records that it refuses are not sent. Empty: all are.
	When string `koanf:"when"`
	// StartFrom is where a new sink begins: oldest (default) or now.
	StartFrom string `koanf:"start_from"`
	// OnFull is what happens when the journal is full and this sink is last:
	// pause (default) or skip. The journal acts on it.
	OnFull string `koanf:"on_full"`
	// BatchRecords is the most records in one attempt, default 1000. A sink's
	// own limit applies where it is smaller.
	BatchRecords int `koanf:"batch_records"`
	// BatchBytes is the most bytes of encoded records in one attempt, default
	// 4 MiB. A single record may be larger. A sink's own limit applies where it
	// is smaller.
	BatchBytes int64 `koanf:"batch_bytes"`
	// Timeout bounds one attempt, default 60s. Waiting for an acknowledgement
	// that comes later than the answer counts apart.
	Timeout time.Duration `koanf:"timeout"`
	// AttemptsPerSecond bounds how often the destination is called, default 0:
	// as often as there is something to send.
	AttemptsPerSecond float64 `koanf:"attempts_per_second"`
	// RateLimit is the most records a second, on average over a few seconds,
	// default 0: no limit. Batches are no larger than a second's worth.
	RateLimit float64 `koanf:"rate_limit"`
	// Heartbeat is how often the destination gets an event that says that
	// cwprelay lives and whether it is ready, whatever the condition says.
	// Default 0: never.
	Heartbeat time.Duration `koanf:"heartbeat"`
}

// WithDefaults returns c with every unset option at its default; Format stays
// as it is.
func (c Config) WithDefaults() Config {
	c.StartFrom = cmp.Or(c.StartFrom, StartOldest)
	c.OnFull = cmp.Or(c.OnFull, FullPause)
	c.BatchRecords = cmp.Or(c.BatchRecords, 1000)
	c.BatchBytes = cmp.Or(c.BatchBytes, 4<<20)
	c.Timeout = cmp.Or(c.Timeout, time.Minute)
	return c
}

// Validate reports every mistake, each beginning with its key. An empty Format
// is none: its default is set elsewhere.
func (c Config) Validate() error {
	var errs []error
	add := func(msg string, args ...any) { errs = append(errs, fmt.Errorf(msg, args...)) }
	if c.Format != "" && !slices.Contains(format.Names(), c.Format) {
		add("format: %q is not one of %s", c.Format, strings.Join(format.Names(), ", "))
	}
	if c.When != "" {
		if _, err := compile(c.When); err != nil {
			add("when: %w", err)
		}
	}
	if c.StartFrom != StartOldest && c.StartFrom != StartNow {
		add("start_from: %q is not one of oldest, now", c.StartFrom)
	}
	if c.OnFull != FullPause && c.OnFull != FullSkip {
		add("on_full: %q is not one of pause, skip", c.OnFull)
	}
	if c.BatchRecords < 1 || c.BatchRecords > maxBatchRecords {
		add("batch_records: %d is not between 1 and %d", c.BatchRecords, maxBatchRecords)
	}
	if c.BatchBytes < 1024 || c.BatchBytes > maxBatchBytes {
		add("batch_bytes: %d is not between 1KiB and 64MiB", c.BatchBytes)
	}
	if c.Timeout < time.Second || c.Timeout > time.Hour {
		add("timeout: %s is not between 1s and 1h", c.Timeout)
	}
	if c.AttemptsPerSecond < 0 || (c.AttemptsPerSecond > 0 && c.AttemptsPerSecond < 0.001) {
		add("attempts_per_second: %g is not 0.001 or more; leave it out for no limit", c.AttemptsPerSecond)
	}
	if c.RateLimit < 0 || (c.RateLimit > 0 && c.RateLimit < 0.001) {
		add("rate_limit: %g is not 0.001 or more; leave it out for no limit", c.RateLimit)
	}
	if c.Heartbeat != 0 && (c.Heartbeat < 10*time.Second || c.Heartbeat > 24*time.Hour) {
		add("heartbeat: %s is not between 10s and 24h; leave it out for none", c.Heartbeat)
	}
	return errors.Join(errs...)
}

const (
	maxBatchRecords = 10_000
	maxBatchBytes   = 64 << 20
)
