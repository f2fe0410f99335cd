package otlp

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/cwprelay/cwprelay/config/secret"
)

// Config says where metrics and traces are exported to. Nothing is exported
// unless Endpoint is set.
type Config struct {
	// Endpoint is the base URL of a receiver of OTLP over HTTP, such as
	// http://collector:4318; /v1/metrics and /v1/traces are appended.
	Endpoint string `koanf:"endpoint"`
	// Signals are what is exported: metrics, traces, or both (default).
	Signals  []string                 `koanf:"signals"`
	Headers  map[string]secret.String `koanf:"headers"`  // further headers of each request, by name
	Interval time.Duration            `koanf:"interval"` // between two exports of metrics, default 60s
	Timeout  time.Duration            `koanf:"timeout"`  // of one request, default 10s
	TLS      TLS                      `koanf:"tls"`
}

// TLS is how an https endpoint is spoken to.
type TLS struct {
	CAFile   string `koanf:"ca_file"`   // PEM; trusted beside the system's authorities; read at the start
	CertFile string `koanf:"cert_file"` // PEM; the client's certificate, with key_file; read again for each connection
	KeyFile  string `koanf:"key_file"`  // PEM
}

// The signals.
const (
	Metrics = "metrics"
	Traces  = "traces"
)

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	if c.Endpoint == "" {
		return c
	}
	if len(c.Signals) == 0 {
		c.Signals = []string{Metrics, Traces}
	}
	if c.Interval == 0 {
		c.Interval = time.Minute
	}
	if c.Timeout == 0 {
		c.Timeout = 10 * time.Second
	}
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	if c.Endpoint == "" {
		if len(c.Signals)+len(c.Headers) > 0 || c.Interval != 0 || c.Timeout != 0 || c.TLS != (TLS{}) {
			return errors.New("endpoint: required beside other options; remove the block to export nothing")
		}
		return nil
	}
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch u, err := url.Parse(c.Endpoint); {
	case err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https":
		add("endpoint: is not an http or https URL; use one like http://collector:4318")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		add("endpoint: must hold no user, query or fragment; credentials go into headers")
	case u.Scheme == "http" && c.TLS != (TLS{}):
		add("tls: needs an https endpoint")
	}
	for _, s := range c.Signals {
		if s != Metrics && s != Traces {
			add("signals: %q is not one of metrics, traces", s)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if !httpguts.ValidHeaderFieldName(name) || !httpguts.ValidHeaderFieldValue(c.Headers[name].Reveal()) {
			add("headers.%s: is not a header that can be sent", name)
		}
	}
	if c.Interval < time.Second {
		add("interval: must be at least 1s")
	}
	if c.Timeout < time.Second || c.Timeout > 5*time.Minute {
		add("timeout: must be from 1s to 5m")
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		add("tls: cert_file and key_file go together")
	}
	return errors.Join(errs...)
}

func (c Config) wants(signal string) bool { return slices.Contains(c.Signals, signal) }

// url is the endpoint's URL with a path behind it.
func (c Config) url(path string) string { return strings.TrimSuffix(c.Endpoint, "/") + path }

// client makes the HTTP client of a configuration.
func (c Config) client() (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // that is what it is
	t.TLSClientConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	if path := c.TLS.CAFile; path != "" {
		pem, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("tls.ca_file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool()
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca_file: %s holds no certificate in PEM", path)
		}
		t.TLSClientConfig.RootCAs = pool
	}
	if c.TLS.CertFile != "" {
		load := func() (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(c.TLS.CertFile, c.TLS.KeyFile)
			return &pair, err
		}
		if _, err := load(); err != nil {
			return nil, fmt.Errorf("tls: %w", err)
		}
		t.TLSClientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return load() }
	}
	return &http.Client{Transport: t, Timeout: c.Timeout}, nil
}
