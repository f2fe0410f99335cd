package webhook

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"mime"
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
	Password secret.String   `koanf:"password"` // of username
	OAuth2   OAuth2          `koanf:"oauth2"`   // client credentials

	Batch           string `koanf:"batch"`             // single (default), ndjson
	MaxBatchRecords int    `koanf:"max_batch_records"` // of ndjson, default 500
	MaxBatchBytes   int64  `koanf:"max_batch_bytes"`   // of ndjson before compression, default 1MiB
	Compression     string `koanf:"compression"`       // none (default), gzip

	Template    string                   `koanf:"template"`     // of the body of one event, Go text/template; empty: the event in the sink's format
	Values      map[string]secret.String `koanf:"values"`       // secrets that the template brings in by {{json (value "name")}}
	ContentType string                   `koanf:"content_type"` // default application/json, or application/x-ndjson

	AllowPrivate bool          `koanf:"allow_private"` // true: loopback and private addresses may be called
	Proxy        secret.String `koanf:"proxy"`         // http, https or socks5 address; it may hold a password
	TLS          httpx.TLS     `koanf:"tls"`
}

// OAuth2 are client credentials (RFC 6749 section 4.4).
type OAuth2 struct {
	TokenURL     string            `koanf:"token_url"`     // where tokens are fetched
	ClientID     string            `koanf:"client_id"`     // required with token_url
	ClientSecret secret.String     `koanf:"client_secret"` // required with token_url
	Scopes       []string          `koanf:"scopes"`        // that are asked for
	Params       map[string]string `koanf:"params"`        // further parameters, such as audience
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
	errs = append(errs, c.validateHeaders()...)
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
	if _, _, err := mime.ParseMediaType(c.ContentType); err != nil {
		add("content_type: is no media type; write one like application/json")
	} else if err := c.checkTemplate(); err != nil {
		add("template: %w", err)
	}
	if c.Template == "" && len(c.Values) > 0 {
		add("values: have no effect without template")
	}
	if err := c.http().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) validateHeaders() (errs []error) {
	seen := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		canonical := http.CanonicalHeaderKey(name)
		if err := checkHeader(name, c.Headers[name].Reveal()); err != nil {
			errs = append(errs, fmt.Errorf("headers.%s: %w", name, err))
		} else if seen[canonical] {
			errs = append(errs, fmt.Errorf("headers.%s: is there twice; case makes no difference", name))
		} else if canonical == "Authorization" && c.ways() > 0 {
			errs = append(errs, fmt.Errorf("headers.%s: is set from token, username or oauth2; use one of them", name))
		}
		seen[canonical] = true
	}
	return errs
}

// checkTemplate parses the template and tries it.
func (c Config) checkTemplate() error {
	if c.Template == "" {
		return nil
	}
	r, err := newRenderer(c.Template, c.ContentType, c.Values)
	if err != nil {
		return err
	}
	return r.check()
}

// ways is how many kinds of credentials are configured.
func (c Config) ways() (n int) {
	for _, set := range []bool{!c.Token.IsZero(), c.Username != "" || !c.Password.IsZero(), c.OAuth2.used()} {
		if set {
			n++
		}
	}
	return n
}

func (c Config) validateAuth() (errs []error) {
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	if c.ways() > 1 {
		add("token: only one of token, username with password, and oauth2 can be used")
	}
	if strings.ContainsFunc(c.Token.Reveal(), func(r rune) bool { return r <= ' ' || r > '~' }) {
		add("token: holds a space, line break or other character that no token has")
	}
	if strings.Contains(c.Username, ":") {
		add("username: must hold no colon")
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
	case "Content-Type":
		return errors.New("is set by content_type")
	case "Content-Encoding":
		return errors.New("is set by compression")
	case headerID, headerTimestamp, headerSignature:
		return errors.New("is set by the program, signed with secrets")
	case "Host", "Content-Length", "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade", // of one connection: RFC 9110 section 7.6.1
		"Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "Expect":
		return errors.New("belongs to the connection and is set by the program")
	}
	return nil
}
