package file

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"
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

// Rotate configures rotation by size; without it the file grows until
// something else rotates it.
type Rotate struct {
	// MaxBytes is the size from which on a new file is begun, default 0: never.
	// A batch is never cut, so a file can be larger by one.
	MaxBytes int64 `koanf:"max_bytes"`
	// Keep is how many former files are kept, default 5: path.1 is the newest.
	// Older ones are deleted.
	Keep int `koanf:"keep"`
}

// StdoutConfig is the configuration of standard output; there is none.
type StdoutConfig struct{}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.Fsync = cmp.Or(c.Fsync, FsyncBatch)
	c.Mode = cmp.Or(c.Mode, "0640")
	if c.Rotate.MaxBytes != 0 {
		c.Rotate.Keep = cmp.Or(c.Rotate.Keep, 5)
	}
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
	if c.Rotate.MaxBytes != 0 && c.Rotate.MaxBytes < 4096 {
		errs = append(errs, fmt.Errorf("rotate.max_bytes: %d is less than 4KiB; leave it out for no rotation", c.Rotate.MaxBytes))
	}
	if c.Rotate.Keep != 0 && c.Rotate.MaxBytes == 0 {
		errs = append(errs, errors.New("rotate.keep: has no effect without rotate.max_bytes"))
	}
	if c.Rotate.Keep < 0 || c.Rotate.Keep > 1000 {
		errs = append(errs, fmt.Errorf("rotate.keep: %d is not between 1 and 1000", c.Rotate.Keep))
	}
	return errors.Join(errs...)
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
