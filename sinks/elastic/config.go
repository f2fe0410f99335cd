package elastic

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// How request bodies are compressed.
const (
	CompressionGzip = "gzip"
	CompressionNone = "none"
)

// streams begins the names of the data streams; the namespace follows.
const streams = "logs-tencent_cloud.cwp_risk_process-"

// Config is the configuration of one cluster.
type Config struct {
	URLs []string `koanf:"urls"` // of its nodes or of a load balancer; another one is asked after a failure

	APIKey   secret.String `koanf:"api_key"`  // as Elasticsearch encodes it; or:
	Username string        `koanf:"username"` // with password; or:
	Password secret.String `koanf:"password"` // of username
	Bearer   secret.String `koanf:"bearer"`   // a token

	Index string `koanf:"index"` // data stream, index or alias; default logs-tencent_cloud.cwp_risk_process-<format.namespace>

	KeepDays int `koanf:"keep_days"` // after which `sinks setup` lets the cluster delete; default 0: never

	Compression      string `koanf:"compression"`       // gzip (default), none
	CompressionLevel int    `koanf:"compression_level"` // of gzip, 1 (fastest, default) to 9
	MaxBatchBytes    int64  `koanf:"max_batch_bytes"`   // of one request before compression, default 5MiB
	MaxBatchRecords  int    `koanf:"max_batch_records"` // default 500

	Proxy secret.String `koanf:"proxy"` // http, https or socks5 address; it may hold a password
	TLS   httpx.TLS     `koanf:"tls"`
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.Compression = cmp.Or(c.Compression, CompressionGzip)
	c.CompressionLevel = cmp.Or(c.CompressionLevel, 1)
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, 5<<20)
	c.MaxBatchRecords = cmp.Or(c.MaxBatchRecords, 500)
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	if len(c.URLs) == 0 {
		add("urls: at least one is required, like https://es.example:9200")
	}
	for i, text := range c.URLs {
		if _, err := baseURL(text); err != nil {
			add("urls: number %d %w", i+1, err)
		}
	}
	ways := 0
	for _, set := range []bool{!c.APIKey.IsZero(), c.Username != "" || !c.Password.IsZero(), !c.Bearer.IsZero()} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		add("api_key: only one of api_key, username with password, and bearer can be used")
	}
	if (c.Username == "") != c.Password.IsZero() {
		add("username: must be given together with password")
	}
	// Elasticsearch reference, "Create index API".
	if len(c.Index) > 255 || c.Index != strings.ToLower(c.Index) || strings.ContainsAny(c.Index, `\/*?"<>| ,#:`) || strings.HasPrefix(c.Index, "-") || strings.HasPrefix(c.Index, "_") || strings.HasPrefix(c.Index, "+") {
		add("index: %q is no name of an index: lower case, without spaces, wildcards and \\ / \" < > | , # :", c.Index)
	}
	if c.KeepDays < 0 {
		add("keep_days: must not be negative; leave it out to keep everything")
	}
	switch c.Compression {
	case CompressionGzip, CompressionNone:
	default:
		add("compression: %q is not one of gzip, none", c.Compression)
	}
	if c.CompressionLevel < 1 || c.CompressionLevel > 9 {
		add("compression_level: %d is not between 1 and 9", c.CompressionLevel)
	}
	if c.MaxBatchBytes < 1<<10 || c.MaxBatchBytes > 100<<20 {
		add("max_batch_bytes: %d is not between 1KiB and 100MiB, the server's own limit", c.MaxBatchBytes)
	}
	if c.MaxBatchRecords < 1 || c.MaxBatchRecords > 10_000 {
		add("max_batch_records: %d is not between 1 and 10000", c.MaxBatchRecords)
	}
	if err := c.http().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// maxAnswer is how much of an answer is read: each item of a refused batch
// comes with its reason.
const maxAnswer = 16 << 20

func (c Config) http() httpx.HTTP {
	return httpx.HTTP{Proxy: c.Proxy, TLS: c.TLS, MaxAnswer: maxAnswer}
}

// baseURL returns what paths are appended to. Its errors do not repeat the
// address, which may hold a password.
func baseURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return "", errors.New("is not an address; write https://host:9200")
	case u.Scheme != "http" && u.Scheme != "https":
		return "", errors.New("must begin with http:// or https://")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return "", errors.New("must hold no user, query or fragment; credentials have keys of their own")
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}
