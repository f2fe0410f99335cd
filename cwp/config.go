package cwp

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/cwprelay/cwprelay/config/secret"
)

// The vendor's two sites. They are different account systems: keys do not
// cross.
const (
	SiteCN   = "cn"
	SiteIntl = "intl"
)

// MaxRequestsPerSecond is the API's own limit for an action and sub-account,
// as every page of the service states it.
const MaxRequestsPerSecond = 20

// maxOwnRequestsPerSecond is the most for an endpoint that is not the vendor's.
const maxOwnRequestsPerSecond = 10_000

// vendorDomain ends every host name of the vendor's API.
const vendorDomain = ".tencentcloudapi.com"

// Config says where the API of one source is, who asks and what it is asked
// for. The same Config serves every kind of the source.
type Config struct {
	Site     string `koanf:"site"`     // intl (default) or cn
	Endpoint string `koanf:"endpoint"` // instead of site: [http[s]://]host[:port][/path], for a regional or own endpoint
	Region   string `koanf:"region"`   // X-TC-Region; default: not sent, the list covers all regions
	Language string `koanf:"language"` // of the API's texts: en-US or zh-CN; default zh-CN at the site cn, else en-US

	Credentials CredentialsConfig `koanf:"credentials"`

	RequestsPerSecond float64                 `koanf:"requests_per_second"` // per action, default 10, at most 20; more only for an own endpoint
	Filters           map[string]FilterValues `koanf:"filters"`             // the API's own filters by name; other events are not asked for

	Proxy   secret.String `koanf:"proxy"`    // URL: http, https or socks5; default: HTTPS_PROXY and its like; "direct": none
	TLS     TLSConfig     `koanf:"tls"`      // only needed for a proxy or endpoint with an own authority
	Timeout time.Duration `koanf:"timeout"`  // of one request, default 30s
	MaxBody int64         `koanf:"max_body"` // bytes of an answer, default 16 MiB; a longer one is asked for again in smaller parts
}

// TLSConfig says how the endpoint proves who it is, and who we are to it.
type TLSConfig struct {
	CAFile     string `koanf:"ca_file"`     // PEM; trusted beside the system's authorities
	CertFile   string `koanf:"cert_file"`   // PEM; our certificate, with key_file
	KeyFile    string `koanf:"key_file"`    // PEM
	ServerName string `koanf:"server_name"` // name in the endpoint's certificate; default: the endpoint's host
}

// FilterValues are the values of one filter. Text is one value, commas
// included: paths may hold them.
type FilterValues []string

// UnmarshalText takes one value as it stands.
func (v *FilterValues) UnmarshalText(text []byte) error {
	*v = FilterValues{string(text)}
	return nil
}

const proxyDirect = "direct"

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	if c.Endpoint == "" {
		c.Site = cmp.Or(c.Site, SiteIntl)
	}
	language := "en-US"
	if c.Site == SiteCN {
		language = "zh-CN"
	}
	c.Language = cmp.Or(c.Language, language)
	c.RequestsPerSecond = cmp.Or(c.RequestsPerSecond, 10)
	c.Timeout = cmp.Or(c.Timeout, 30*time.Second)
	c.MaxBody = cmp.Or(c.MaxBody, 16<<20)
	c.Credentials = c.Credentials.WithDefaults()
	return c
}

// Validate reports every mistake that can be seen without the kinds that the
// source polls, each beginning with its key. Filters are checked against all
// kinds; ValidateKind checks them against one.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	switch {
	case c.Site != "" && c.Endpoint != "":
		add("site: cannot be set together with endpoint; remove one of them")
	case c.Site == "" && c.Endpoint == "":
		add("site: required: intl or cn")
	case c.Site != "" && c.Site != SiteCN && c.Site != SiteIntl:
		add("site: %q is not one of intl, cn", c.Site)
	}
	if c.Endpoint != "" {
		if _, err := parseEndpoint(c.Endpoint); err != nil {
			add("endpoint: %w", err)
		}
	}
	if !isToken(c.Region) {
		add("region: %q is not the name of a region; use one like ap-singapore, or leave it out", c.Region)
	}
	if c.Language != "en-US" && c.Language != "zh-CN" {
		add("language: %q is not one of en-US, zh-CN", c.Language)
	}
	most, whose := float64(MaxRequestsPerSecond), "the API's own limit"
	if !c.Vendor() {
		most, whose = maxOwnRequestsPerSecond, "the most for an own endpoint"
	}
	// Written so that NaN is refused too.
	if !(c.RequestsPerSecond >= 0.1 && c.RequestsPerSecond <= most) {
		add("requests_per_second: must be from 0.1 to %g, %s", most, whose)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Filters)) {
		if err := checkFilter(name, c.Filters[name], Kinds()); err != nil {
			add("filters.%s: %w", name, err)
		}
	}
	if _, err := parseProxy(c.Proxy.Reveal()); err != nil {
		add("proxy: %w", err)
	}
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		add("tls: cert_file and key_file go together; set both or neither")
	}
	if c.Timeout < time.Second {
		add("timeout: %s is too short; at least 1s", c.Timeout)
	}
	if c.MaxBody < 1<<16 {
		add("max_body: must be at least 64KiB")
	}
	if err := c.Credentials.Validate(); err != nil {
		errs = append(errs, prefixed("credentials.", err)...)
	}
	if c.Credentials.usesSTS() && c.Credentials.STSEndpoint == "" && c.Endpoint != "" && !c.Vendor() {
		add("credentials.sts_endpoint: required, because endpoint is not the vendor's: it says who is asked for the role's keys")
	}
	return errors.Join(errs...)
}

// ValidateKind reports what of a valid c does not fit a kind.
func (c Config) ValidateKind(k *Kind) error {
	var errs []error
	if c.Site != "" && !k.HasSite(c.Site) {
		errs = append(errs, fmt.Errorf("kinds: %s is not offered at the site %s", k.Name, c.Site))
	}
	for _, name := range slices.Sorted(maps.Keys(c.Filters)) {
		if err := checkFilter(name, c.Filters[name], []*Kind{k}); err != nil {
			errs = append(errs, fmt.Errorf("filters.%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Vendor reports whether the endpoint is one of the vendor's: only then does
// an account id exist that can be asked for.
func (c Config) Vendor() bool {
	if c.Endpoint == "" {
		return true
	}
	u, err := parseEndpoint(c.Endpoint)
	return err == nil && strings.HasSuffix(u.Hostname(), vendorDomain)
}

// serviceURL is the address of a service of the vendor's, nil when it is not
// known: STS beside an own endpoint.
func (c Config) serviceURL(service, override string) (*url.URL, error) {
	switch {
	case override != "":
		return parseEndpoint(override)
	case c.Endpoint == "" && c.Site == SiteCN:
		return &url.URL{Scheme: "https", Host: service + vendorDomain, Path: "/"}, nil
	case c.Endpoint == "":
		return &url.URL{Scheme: "https", Host: service + ".intl" + vendorDomain, Path: "/"}, nil
	case !c.Vendor():
		return nil, nil //nolint:nilnil // documented: no address and no mistake
	}
	u, err := parseEndpoint(c.Endpoint)
	if err != nil {
		return nil, err
	}
	// cwp.ap-singapore.tencentcloudapi.com -> sts.ap-singapore.tencentcloudapi.com
	_, rest, _ := strings.Cut(u.Host, ".")
	u.Host, u.Path = service+"."+rest, "/"
	return u, nil
}

// parseEndpoint reads [http[s]://]host[:port][/path]. Without a scheme it is
// https. The host is lower case and without a default port, because it is
// signed as it is sent.
func parseEndpoint(text string) (*url.URL, error) {
	const form = "must be like https://cwp.ap-singapore.tencentcloudapi.com or http://127.0.0.1:9811"
	if !strings.Contains(text, "://") {
		text = "https://" + text
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Opaque != "" || u.Hostname() == "":
		return nil, errors.New(form) // url's own error shows the text, which may hold a password
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("the scheme must be http or https; it " + form)
	case u.User != nil:
		return nil, errors.New("must not hold a user or password; keys belong into credentials")
	case u.RawQuery != "" || u.ForceQuery || u.Fragment != "" || strings.HasSuffix(text, "#"):
		return nil, errors.New("must not have a query or fragment; it " + form)
	case strings.ContainsFunc(u.Host, notHostByte):
		return nil, errors.New("the host must be a plain ASCII name or address; it " + form)
	}
	port := u.Port()
	if n, err := strconv.Atoi(port); port != "" && (err != nil || n < 1 || n > 65535) || strings.HasSuffix(u.Host, ":") {
		return nil, errors.New("the port must be from 1 to 65535")
	}
	u.Host = strings.ToLower(u.Host)
	if u.Scheme == "https" && port == "443" || u.Scheme == "http" && port == "80" {
		u.Host = strings.TrimSuffix(u.Host, ":"+port)
	}
	u.Path = cmp.Or(u.Path, "/")
	return u, nil
}

func notHostByte(r rune) bool {
	return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(".-_:[]", r)
}

// parseProxy reads the proxy's address; nil when there is none. Its errors
// never show the text.
func parseProxy(text string) (*url.URL, error) {
	if text == "" || text == proxyDirect {
		return nil, nil //nolint:nilnil // documented: no proxy and no mistake
	}
	u, err := url.Parse(text)
	if err != nil || u.Hostname() == "" || !slices.Contains([]string{"http", "https", "socks5", "socks5h"}, u.Scheme) {
		return nil, errors.New(`must be like http://user:password@proxy.example:3128 (http, https or socks5), or "direct"`)
	}
	return u, nil
}

// checkFilter says what is wrong with a filter of a source, by the rows of
// kinds.
func checkFilter(name string, values []string, kinds []*Kind) error {
	var known []string
	for _, k := range kinds {
		if slices.Contains([]string{k.BeginFilter, k.EndFilter, k.SweepTime, k.HeadTime}, name) {
			return errors.New("filters on time are not possible: they would hide events and changes. " +
				"Limit what a destination gets with its when condition instead")
		}
		if name == k.StatusFilter || name == k.StatusField {
			return errors.New("filters on the status are not possible: an event that leaves the status would never be seen to change. " +
				"Limit what a destination gets with its when condition instead")
		}
		known = append(known, k.SourceFilters...)
	}
	if !slices.Contains(known, name) {
		for _, n := range known {
			if strings.EqualFold(n, name) {
				return fmt.Errorf("unknown filter; did you mean %s?", n)
			}
		}
		return fmt.Errorf("unknown filter; the API has %s", strings.Join(slices.Compact(slices.Sorted(slices.Values(known))), ", "))
	}
	if len(values) == 0 {
		return errors.New("has no value; remove it or give one")
	}
	for _, v := range values {
		if strings.TrimSpace(v) == "" || strings.ContainsFunc(v, unicode.IsControl) {
			return fmt.Errorf("%q is not a usable value", v)
		}
	}
	return nil
}

// isToken reports whether s can stand in a header: empty, or letters, digits,
// dots, dashes and underscores.
func isToken(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		return r > unicode.MaxASCII || !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune(".-_", r)
	})
}

// prefixed puts a key path in front of each of joined errors.
func prefixed(prefix string, err error) []error {
	all := []error{err}
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		all = joined.Unwrap()
	}
	for i, e := range all {
		all[i] = fmt.Errorf("%s%w", prefix, e)
	}
	return all
}

// client reads the files that c names.
func (c TLSConfig) client() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.ServerName}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return nil, fmt.Errorf("tls.ca_file: %w", err)
		}
		pool, err := x509.SystemCertPool()
		if err != nil {
			pool = x509.NewCertPool() // no system authorities: those of the file alone
		}
		if !pool.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("tls.ca_file: %s holds no certificate in PEM form", c.CAFile)
		}
		conf.RootCAs = pool
	}
	if c.CertFile != "" {
		cert, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("tls.cert_file: %w", err)
		}
		conf.Certificates = []tls.Certificate{cert}
	}
	return conf, nil
}
