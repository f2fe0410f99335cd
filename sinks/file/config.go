package file

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
	"time"
)

// When a batch counts as written.
const (
	FsyncBatch = "batch" // when it survives power loss
	FsyncNone  = "none"  // when the system has it: power loss or a crash of the system can lose it
)

// Config is the configuration of one file.
type Config struct {
	Path   string `koanf:"path"` // its directory must exist
	Rotate Rotate `koanf:"rotate"`
	Fsync  string `koanf:"fsync"` // batch (default), none

	// Mode is the permissions of a file that is created, as octal text: "0640"
	// (default), which the process's umask narrows.
	Mode string `koanf:"mode"`
}

// How former files are kept.
const (
	CompressNone = "none"
	CompressGzip = "gzip"
)

// Rotate configures rotation by size, by age or by both; without them the file
// grows until something else rotates it.
type Rotate struct {
	// MaxBytes is the size from which on a new file is begun, default 0: never.
	// A batch is never cut, so a file can be larger by one.
	MaxBytes int64 `koanf:"max_bytes"`
	// After is the age from which on a new file is begun, counted from the
	// file's first line, default 0: never. It is looked at when records are
	// written: a file to which nothing is written is left alone.
	After time.Duration `koanf:"after"`
	// Compress is none (default) or gzip: former files become path.1.gz and so
	// on, beside delivery.
	Compress string `koanf:"compress"`
	// Keep is how many former files are kept, default 0: all. path.1 is the
	// newest. Older ones are deleted.
	Keep int `koanf:"keep"`
	// KeepDays is for how many days after its last line a former file is kept,
	// default 0: for ever. It is looked at when the file is rotated, and once
	// an hour while records are written.
	KeepDays int `koanf:"keep_days"`
}

// used reports whether the sink rotates.
func (r Rotate) used() bool { return r.MaxBytes != 0 || r.After != 0 }

// StdoutConfig is the configuration of standard output; there is none.
type StdoutConfig struct{}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.Fsync = cmp.Or(c.Fsync, FsyncBatch)
	c.Mode = cmp.Or(c.Mode, "0640")
	c.Rotate.Compress = cmp.Or(c.Rotate.Compress, CompressNone)
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	switch {
	case c.Path == "":
		errs = append(errs, errors.New("path: required"))
	case strings.HasSuffix(c.Path, "/"):
		errs = append(errs, fmt.Errorf("path: %q is a directory; name a file in it", c.Path))
	case strings.ContainsRune(c.Path, 0):
		errs = append(errs, errors.New("path: holds a zero byte"))
	}
	switch c.Fsync {
	case FsyncBatch, FsyncNone:
	default:
		errs = append(errs, fmt.Errorf("fsync: %q is not one of batch, none", c.Fsync))
	}
	if _, err := c.mode(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(append(errs, c.Rotate.validate()...)...)
}

// validate reports every mistake. r has its defaults.
func (r Rotate) validate() (errs []error) {
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	if r.MaxBytes != 0 && r.MaxBytes < 4096 {
		add("rotate.max_bytes: %d is less than 4KiB; leave it out for no rotation by size", r.MaxBytes)
	}
	if r.After != 0 && r.After < time.Minute {
		add("rotate.after: %s is less than a minute; leave it out for no rotation by age", r.After)
	}
	switch r.Compress {
	case CompressNone, CompressGzip:
	default:
		add("rotate.compress: %q is not one of none, gzip", r.Compress)
	}
	if r.Keep < 0 || r.Keep > maxFormer {
		add("rotate.keep: %d is not between 1 and %d; leave it out to keep all", r.Keep, maxFormer)
	}
	if r.KeepDays < 0 || r.KeepDays > 36_500 {
		add("rotate.keep_days: %d is not between 1 and 36500; leave it out to keep all", r.KeepDays)
	}
	if r.used() {
		return errs
	}
	const useless = "has no effect without rotate.max_bytes or rotate.after"
	if r.Keep > 0 {
		add("rotate.keep: %s", useless)
	}
	if r.KeepDays > 0 {
		add("rotate.keep_days: %s", useless)
	}
	if r.Compress == CompressGzip {
		add("rotate.compress: %s", useless)
	}
	return errs
}

// mode parses the permissions. It insists on the leading zero: YAML reads 0640
// without quotes as the number 416.
func (c Config) mode() (fs.FileMode, error) {
	n, err := strconv.ParseUint(c.Mode, 8, 32)
	if err != nil || len(c.Mode) != 4 || c.Mode[0] != '0' {
		return 0, fmt.Errorf("mode: %q is not octal text like \"0640\", with the quotes", c.Mode)
	}
	if n&0o600 != 0o600 {
		return 0, fmt.Errorf("mode: %q does not let the owner read and write", c.Mode)
	}
	return fs.FileMode(n), nil
}

// Validate finds nothing to report.
func (StdoutConfig) Validate() error { return nil }

// WithDefaults returns c.
func (c StdoutConfig) WithDefaults() StdoutConfig { return c }
