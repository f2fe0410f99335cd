package webhook

import (
	"cmp"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// What one request carries.
const (
	BatchSingle = "single" // one event
	BatchNDJSON = "ndjson" // several, a line each
)

// How request bodies are compressed.
const (
	CompressionNone = "none"
	CompressionGzip = "gzip"
)

// Config is the configuration of one receiver.
type Config struct {
	URL     secret.String            `koanf:"url"`     // of the receiver; may hold a secret
	Method  string                   `koanf:"method"`  // POST (default), PUT or PATCH
	Headers map[string]secret.String `koanf:"headers"` // further headers, by name

	Secrets  []secret.String `koanf:"secrets"`  // to sign with, whsec_…; several while one is being replaced
	Token    secret.String   `koanf:"token"`    // sent as Authorization: Bearer; or:
	Username string          `koanf:"username"` // with password; or:
	Password secret.String   `koanf:"password"`
	OAuth2   OAuth2          `koanf:"oauth2"` // client credentials

	Batch           string `koanf:"batch"`             // single (default), ndjson
	MaxBatchRecords int    `koanf:"max_batch_records"` // of ndjson, default 500
	MaxBatchBytes   int64  `koanf:"max_batch_bytes"`   // of ndjson before compression, default 1MiB
	Compression     string `koanf:"compression"`       // none (default), gzip

	Template    string `koanf:"template"`     // of the body of one event, Go text/template; empty: the event in the sink's format
	ContentType string `koanf:"content_type"` // default application/json, or application/x-ndjson

	AllowPrivate bool          `koanf:"allow_private"` // true: loopback and private addresses may be called
	Proxy        secret.String `koanf:"proxy"`         // http, https or socks5 address; it may hold a password
	TLS          httpx.TLS     `koanf:"tls"`
}

// OAuth2 are client credentials (RFC 6749 section 4.4).
type OAuth2 struct {
	TokenURL     string            `koanf:"token_url"`
	ClientID     string            `koanf:"client_id"`
	ClientSecret secret.String     `koanf:"client_secret"`
	Scopes       []string          `koanf:"scopes"`
	Params       map[string]string `koanf:"params"` // further parameters, such as audience
}

func (o OAuth2) used() bool { return o.TokenURL != "" || o.ClientID != "" || !o.ClientSecret.IsZero() }

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.Method = cmp.Or(c.Method, http.MethodPost)
	c.Batch = cmp.Or(c.Batch, BatchSingle)
	c.MaxBatchRecords = cmp.Or(c.MaxBatchRecords, 500)
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, 1<<20)
	c.Compression = cmp.Or(c.Compression, CompressionNone)
	if c.Batch == BatchNDJSON {
		c.ContentType = cmp.Or(c.ContentType, "application/x-ndjson")
	}
	c.ContentType = cmp.Or(c.ContentType, "application/json")
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	if err := checkURL(c.URL.Reveal()); err != nil {
		add("url: %w", err)
	}
	if !slices.Contains([]string{http.MethodPost, http.MethodPut, http.MethodPatch}, c.Method) {
		add("method: %q is not one of POST, PUT, PATCH", c.Method)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		if err := checkHeader(name, c.Headers[name].Reveal()); err != nil {
			add("headers.%s: %w", name, err)
		}
	}
	for i, s := range c.Secrets {
		if _, err := signingKey(s); err != nil {
			add("secrets: number %d %w", i+1, err)
		}
	}
	errs = append(errs, c.validateAuth()...)
	switch c.Batch {
	case BatchSingle, BatchNDJSON:
	default:
		add("batch: %q is not one of single, ndjson", c.Batch)
	}
	if c.MaxBatchRecords < 1 || c.MaxBatchRecords > 10_000 {
		add("max_batch_records: %d is not between 1 and 10000", c.MaxBatchRecords)
	}
	if c.MaxBatchBytes < 1<<10 || c.MaxBatchBytes > 64<<20 {
		add("max_batch_bytes: %d is not between 1KiB and 64MiB", c.MaxBatchBytes)
	}
	switch c.Compression {
	case CompressionNone, CompressionGzip:
	default:
		add("compression: %q is not one of none, gzip", c.Compression)
	}
	if c.Template != "" {
		if _, err := parse(c.Template); err != nil {
			add("template: %w", err)
		}
	}
	if strings.ContainsFunc(c.ContentType, func(r rune) bool { return r < ' ' || r > '~' }) {
		add("content_type: holds a character that no header has")
	}
	if err := c.http().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) validateAuth() (errs []error) {
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	ways := 0
	for _, set := range []bool{!c.Token.IsZero(), c.Username != "" || !c.Password.IsZero(), c.OAuth2.used()} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		add("token: only one of token, username with password, and oauth2 can be used")
	}
	if (c.Username == "") != c.Password.IsZero() {
		add("username: must be given together with password")
	}
	if !c.OAuth2.used() {
		return errs
	}
	if err := checkURL(c.OAuth2.TokenURL); err != nil {
		add("oauth2.token_url: %w", err)
	}
	if c.OAuth2.ClientID == "" {
		add("oauth2.client_id: required")
	}
	if c.OAuth2.ClientSecret.IsZero() {
		add("oauth2.client_secret: required")
	}
	return errs
}

func (c Config) http() httpx.HTTP {
	return httpx.HTTP{Proxy: c.Proxy, TLS: c.TLS, RefusePrivate: !c.AllowPrivate}
}

// checkURL checks an address; its errors do not repeat it.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case text == "":
		return errors.New("required, like https://receiver.example/hook")
	case err != nil || u.Hostname() == "":
		return errors.New("not an address; write https://host/path")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("must begin with https:// or http://")
	case u.User != nil:
		return errors.New("must hold no user; use username and password")
	case u.Fragment != "":
		return errors.New("must hold no fragment (#)")
	}
	return nil
}

// checkHeader refuses headers that others own, and what no header can be.
func checkHeader(name, value string) error {
	canonical := http.CanonicalHeaderKey(name)
	if strings.ContainsFunc(name, func(r rune) bool {
		return !strings.ContainsRune("!#$%&'*+-.^_`|~", r) && (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z')
	}) || name == "" {
		return errors.New("is no name of a header")
	}
	if strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
		return errors.New("holds a control character")
	}
	switch canonical {
	case "Host", "Content-Length", "Content-Encoding", "Content-Type", "Transfer-Encoding", "Connection", "Keep-Alive",
		"Te", "Trailer", "Upgrade", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature":
		return errors.New("is set by the program; content_type sets the type")
	}
	return nil
}

// signingKey decodes a secret of the Standard Webhooks specification: whsec_
// and 24 to 64 bytes in base64.
func signingKey(s secret.String) ([]byte, error) {
	text, ok := strings.CutPrefix(s.Reveal(), "whsec_")
	if !ok {
		return nil, errors.New("must begin with whsec_")
	}
	key, err := base64.StdEncoding.DecodeString(text)
	if err != nil || len(key) < 24 || len(key) > 64 {
		return nil, errors.New("must be whsec_ and the base64 of 24 to 64 bytes")
	}
	return key, nil
}
