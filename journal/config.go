package journal

import (
	"cmp"
	"errors"
	"fmt"
	"time"
)

// Config says where the journal is and how much it may hold.
type Config struct {
	Dir         string        `koanf:"dir"`           // state directory, default ./cwprelay-state; on a local file system
	MaxBytes    int64         `koanf:"max_bytes"`     // most bytes of rows, default 8GiB; the file is somewhat larger
	MinFreeDisk int64         `koanf:"min_free_disk"` // free space of the disk below which nothing is taken in, default 256MiB
	Retention   time.Duration `koanf:"retention"`     // how long records that every sink has are kept for replay, default 24h
}

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	c.Dir = cmp.Or(c.Dir, "./cwprelay-state")
	c.MaxBytes = cmp.Or(c.MaxBytes, 8<<30)
	c.MinFreeDisk = cmp.Or(c.MinFreeDisk, 256<<20)
	c.Retention = cmp.Or(c.Retention, 24*time.Hour)
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	var errs []error
	if c.MaxBytes < 1<<20 {
		errs = append(errs, fmt.Errorf("max_bytes: %d is too small; at least 1MiB", c.MaxBytes))
	}
	if c.MinFreeDisk < 0 {
		errs = append(errs, errors.New("min_free_disk: must not be negative"))
	}
	if c.Retention < time.Minute {
		errs = append(errs, fmt.Errorf("retention: %s is too short; at least 1m", c.Retention))
	}
	return errors.Join(errs...)
}

// What OnFull and StartFrom of a SinkRule can be.
const (
	OnFullPause = "pause" // nothing is taken in until the sink has settled (default)
	OnFullSkip  = "skip"  // the sink loses its oldest records, and a Gap says which
	StartOldest = "oldest"
	StartNow    = "now"
)

// A SinkRule is what the journal must know of a configured sink.
type SinkRule struct {
	Name      string
	OnFull    string // OnFullPause or OnFullSkip
	StartFrom string // StartOldest or StartNow: where a sink begins that was never seen
}
