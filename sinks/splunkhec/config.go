package splunkhec

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// How the sink treats indexer acknowledgement.
const (
	AckAuto = "auto" // wait for it where an answer offers it
	AckOn   = "on"   // an answer without it halts the sink
	AckOff  = "off"  // never wait; delivered means in the memory of the collector
)

// How request bodies are compressed.
const (
	CompressionGzip = "gzip"
	CompressionNone = "none"
)

// Config is the configuration of one HTTP Event Collector.
type Config struct {
	URL   string        `koanf:"url"`   // of the collector, with or without /services/collector
	Token secret.String `koanf:"token"` // of the collector's input

	Index      string `koanf:"index"`      // empty: the token's default index
	Source     string `koanf:"source"`     // empty: by event kind
	SourceType string `koanf:"sourcetype"` // empty: by event kind
	Host       string `koanf:"host"`       // empty: the machine the event is about

	Ack        string        `koanf:"ack"`         // auto (default), on, off
	Window     int           `koanf:"window"`      // batches that may wait for their acknowledgement at once; default 32
	AckTimeout time.Duration `koanf:"ack_timeout"` // after which a batch is sent again; default 5m

	Compression      string `koanf:"compression"`       // gzip (default), none
	CompressionLevel int    `koanf:"compression_level"` // of gzip, 1 (fastest, default) to 9
	MaxBatchBytes    int64  `koanf:"max_batch_bytes"`   // of one request before compression; default 1 MiB, as collectors' own default
	MaxBatchRecords  int    `koanf:"max_batch_records"` // default 1000

	Proxy secret.String `koanf:"proxy"` // http, https or socks5 address; it may hold a password
	TLS   httpx.TLS     `koanf:"tls"`
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.Ack = cmp.Or(c.Ack, AckAuto)
	c.Window = cmp.Or(c.Window, 32)
	c.AckTimeout = cmp.Or(c.AckTimeout, 5*time.Minute)
	c.Compression = cmp.Or(c.Compression, CompressionGzip)
	c.CompressionLevel = cmp.Or(c.CompressionLevel, 1)
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, 1<<20)
	c.MaxBatchRecords = cmp.Or(c.MaxBatchRecords, 1000)
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	if _, err := baseURL(c.URL); err != nil {
		errs = append(errs, err)
	}
	if c.Token.IsZero() {
		errs = append(errs, errors.New("token: required"))
	} else if strings.ContainsFunc(c.Token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		errs = append(errs, errors.New("token: holds a space, line break or other character that no token has"))
	}
	switch c.Ack {
	case AckAuto, AckOn, AckOff:
	default:
		errs = append(errs, fmt.Errorf("ack: %q is not one of auto, on, off", c.Ack))
	}
	if c.Window < 1 || c.Window > 1000 {
		errs = append(errs, fmt.Errorf("window: %d is not between 1 and 1000", c.Window))
	}
	if c.AckTimeout < time.Second {
		errs = append(errs, fmt.Errorf("ack_timeout: %s is less than a second", c.AckTimeout))
	}
	switch c.Compression {
	case CompressionGzip, CompressionNone:
	default:
		errs = append(errs, fmt.Errorf("compression: %q is not one of gzip, none", c.Compression))
	}
	if c.CompressionLevel < 1 || c.CompressionLevel > 9 {
		errs = append(errs, fmt.Errorf("compression_level: %d is not between 1 and 9", c.CompressionLevel))
	}
	if c.MaxBatchBytes < 1<<10 || c.MaxBatchBytes > 1<<30 {
		errs = append(errs, fmt.Errorf("max_batch_bytes: %d is not between 1KiB and 1GiB", c.MaxBatchBytes))
	}
	if c.MaxBatchRecords < 1 {
		errs = append(errs, fmt.Errorf("max_batch_records: %d is less than 1", c.MaxBatchRecords))
	}
	if err := c.http().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) http() httpx.HTTP { return httpx.HTTP{Proxy: c.Proxy, TLS: c.TLS} }

// baseURL returns what the collector's paths are appended to. Its errors do
// not repeat the address, which may hold a token.
func baseURL(text string) (string, error) {
	if text == "" {
		return "", errors.New("url: required, like https://splunk.example:8088")
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "", errors.New("url: not an address; write https://host:8088")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("url: must begin with http:// or https://")
	case u.Hostname() == "":
		return "", errors.New("url: has no host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("url: must hold no user, query or fragment; the token goes into token")
	}
	path := strings.TrimRight(u.EscapedPath(), "/")
	if i := strings.LastIndex(path, "/services/collector"); i >= 0 {
		switch strings.TrimSuffix(path[i+len("/services/collector"):], "/1.0") {
		case "", "/event", "/raw", "/ack", "/health":
			path = path[:i]
		}
	}
	return u.Scheme + "://" + u.Host + path, nil
}
