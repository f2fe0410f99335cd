// Package httpx is what the HTTP sinks share: one exchange with bounded time
// and size, TLS and proxy from configuration only, no redirects, and errors
// that hold neither addresses' paths nor secrets.
//
// It makes no second attempt and does not know what an answer's body means;
// both belong to others (package delivery and the sink).
package httpx

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
)

// The parts of one attempt and how long each may take. The whole attempt is
// bounded by the context of the request.
const (
	DialTimeout           = 10 * time.Second
	TLSTimeout            = 10 * time.Second
	ResponseHeaderTimeout = 30 * time.Second
)

// MaxBody is how much of an answer is read, in bytes.
const MaxBody = 64 << 10

const (
	maxDrain      = 256 << 10 // read on beyond MaxBody to keep the connection; longer ones lose it
	excerptLength = 200       // runes of a body that an error shows
	minSecret     = 4         // shorter ones would mask ordinary text
)

// HTTP configures the way to a destination behind HTTP.
type HTTP struct {
	// Proxy is the address of an HTTP, HTTPS or SOCKS5 proxy. It may hold a
	// password. The environment's proxy variables are not read.
	Proxy secret.String `koanf:"proxy"`
	TLS   TLS           `koanf:"tls"`

	// RefusePrivate refuses connections to loopback, link-local, private and
	// otherwise not public addresses, checked on the address that is dialled.
	// Behind a proxy it is the proxy that resolves and dials: nothing is
	// checked then.
	RefusePrivate bool `koanf:"-"`

	// MaxAnswer is how much of an answer is read, in bytes; 0: MaxBody. It is
	// for destinations whose answers grow with the batch.
	MaxAnswer int64 `koanf:"-"`
}

// Validate reports every mistake, each beginning with its key.
func (h HTTP) Validate() error {
	var errs []error
	if _, err := h.proxyURL(); err != nil {
		errs = append(errs, err)
	}
	if err := h.TLS.Validate(); err != nil {
		for e := range strings.SplitSeq(err.Error(), "\n") {
			errs = append(errs, errors.New("tls."+e))
		}
	}
	return errors.Join(errs...)
}

// proxyURL parses the proxy's address; its errors do not repeat it.
func (h HTTP) proxyURL() (*url.URL, error) {
	if h.Proxy.IsZero() {
		return nil, nil //nolint:nilnil // no proxy is what http.Transport calls nil
	}
	u, err := url.Parse(h.Proxy.Reveal())
	if err != nil || u.Host == "" {
		return nil, errors.New("proxy: not an address; write http://host:port")
	}
	switch u.Scheme {
	case "http", "https", "socks5", "socks5h":
		return u, nil
	default:
		return nil, errors.New("proxy: the scheme must be http, https, socks5 or socks5h")
	}
}

// A Client makes single exchanges. It is safe for concurrent use.
type Client struct {
	cfg     HTTP
	masks   *strings.Replacer
	replace http.RoundTripper // stands in for the network; nil outside tests

	mu        sync.Mutex // guards the fields below
	transport *http.Transport
	stamps    Stamps // of the TLS files that transport was made of
}

// New makes a client of a valid configuration. The secrets are masked in
// every error and excerpt. Nothing is opened or read before the first Do.
func New(cfg HTTP, secrets ...secret.String) *Client {
	secrets = append(secrets, cfg.Proxy)
	if u, err := cfg.proxyURL(); err == nil && u != nil {
		password, _ := u.User.Password()
		secrets = append(secrets, secret.New(password))
	}
	return &Client{cfg: cfg, masks: masksOf(secrets)}
}

// NewWithTransport is New with rt in place of the network, for tests under a
// fake clock, which cannot use sockets.
func NewWithTransport(rt http.RoundTripper, secrets ...secret.String) *Client {
	return &Client{replace: rt, masks: masksOf(secrets)}
}

// Close closes the idle connections. The client may still be used.
func (c *Client) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// A Response is an answer, read and closed.
type Response struct {
	Status int
	Header http.Header
	Body   []byte // at most MaxBody, or HTTP.MaxAnswer
	Cut    bool   // there was more, or an answer of refusal broke off

	masks *strings.Replacer
}

// Do sends req once, as it is: no redirects, no cookies, no retries but the
// transport's own on a connection on which nothing was written yet.
//
// An error means that there was no whole answer: the request may have been
// applied. It is classed: sinks.ClassHalt for certificates that do not fit and
// refused addresses, else sinks.ClassRetry. An answer other than 2xx counts
// even when its body breaks off.
func (c *Client) Do(req *http.Request) (*Response, error) {
	if err := context.Cause(req.Context()); err != nil {
		return nil, c.wrap(req, err)
	}
	rt, err := c.roundTripper()
	if err != nil {
		return nil, sinks.Halt(c.wrap(req, err))
	}
	if req.Header.Get("User-Agent") == "" {
		req.Header.Set("User-Agent", "cwprelay")
	}
	answer, err := rt.RoundTrip(req)
	if err != nil {
		return nil, c.classNetwork(req, err)
	}
	defer answer.Body.Close() //nolint:errcheck // it was only read
	r := &Response{Status: answer.StatusCode, Header: answer.Header, masks: c.masks}
	r.Body, err = io.ReadAll(io.LimitReader(answer.Body, cmp.Or(c.cfg.MaxAnswer, MaxBody)))
	if err == nil {
		var more int64
		more, err = io.Copy(io.Discard, io.LimitReader(answer.Body, maxDrain))
		r.Cut = more > 0
	}
	if err != nil {
		if r.Status/100 == 2 || req.Context().Err() != nil {
			return nil, c.classNetwork(req, fmt.Errorf("read the answer (%d): %w", r.Status, err))
		}
		r.Cut = true
	}
	return r, nil
}

// roundTripper returns the transport for the TLS files as they are now. While
// new files cannot be used (a rotation under way), the former ones count.
func (c *Client) roundTripper() (http.RoundTripper, error) {
	if c.replace != nil {
		return c.replace, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	stamps := c.cfg.TLS.Stamps()
	if c.transport != nil && stamps == c.stamps {
		return c.transport, nil
	}
	fresh, err := c.cfg.newTransport()
	if err != nil {
		if c.transport != nil {
			return c.transport, nil
		}
		return nil, err
	}
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	c.transport, c.stamps = fresh, stamps
	return c.transport, nil
}

func (h HTTP) newTransport() (*http.Transport, error) {
	proxy, err := h.proxyURL()
	if err != nil {
		return nil, err
	}
	tlsConfig, err := h.TLS.Config()
	if err != nil {
		return nil, err
	}
	dialer := &net.Dialer{Timeout: DialTimeout, KeepAlive: 15 * time.Second}
	if h.RefusePrivate && proxy == nil {
		dialer.Control = refusePrivate
	}
	t := &http.Transport{
		DialContext:            dialer.DialContext,
		TLSClientConfig:        tlsConfig, // set and without ForceAttemptHTTP2: HTTP/1.1, where a dead peer is noticed by its connection
		TLSHandshakeTimeout:    TLSTimeout,
		ResponseHeaderTimeout:  ResponseHeaderTimeout,
		MaxIdleConnsPerHost:    64, // the default of 2 would dial anew for most of a window of requests
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: MaxBody,
		DisableCompression:     true, // answers are short, and a bomb would pass the cap
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
		t.OnProxyConnectResponse = func(_ context.Context, _ *url.URL, _ *http.Request, answer *http.Response) error {
			if ours(answer.StatusCode) {
				return proxyRefusesError{answer.StatusCode}
			}
			return nil // the transport turns the rest into errors itself
		}
	}
	return t, nil
}

// notPublicError is why refusePrivate refuses.
type notPublicError struct{ addr netip.Addr }

func (e notPublicError) Error() string {
	return e.addr.String() + " is not a public address; set allow_private: true if that is meant"
}

// proxyRefusesError is a proxy that does not let us through and will not later.
type proxyRefusesError struct{ status int }

func (e proxyRefusesError) Error() string {
	return fmt.Sprintf("the proxy answered %d %s", e.status, http.StatusText(e.status))
}

// refusePrivate is a net.Dialer's Control: it sees each address after name
// resolution, right before the connection.
func refusePrivate(_, address string, _ syscall.RawConn) error {
	ap, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("read the resolved address: %w", err)
	}
	if addr := ap.Addr().Unmap().WithZone(""); !public(addr) {
		return notPublicError{addr}
	}
	return nil
}

// public reports whether addr is meant to be reached from anywhere.
func public(addr netip.Addr) bool {
	if !addr.IsGlobalUnicast() || addr.IsPrivate() {
		return false // unspecified, loopback, link-local with the clouds' metadata, multicast, broadcast, private
	}
	for _, text := range []string{
		"0.0.0.0/8",     // this network
		"100.64.0.0/10", // shared address space; holds one cloud's metadata service
		"198.18.0.0/15", // benchmarks
		"240.0.0.0/4",   // reserved
		"64:ff9b::/96",  // NAT64: any IPv4 address in disguise
		"64:ff9b:1::/48",
		"2002::/16", // 6to4, the same
		"2001::/32", // Teredo, the same
	} {
		if netip.MustParsePrefix(text).Contains(addr) {
			return false
		}
	}
	return true
}

// classNetwork classes a failure of the exchange: certificates and refused
// addresses are our setup, everything else is tried again.
func (c *Client) classNetwork(req *http.Request, err error) error {
	if cause := context.Cause(req.Context()); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	wrapped := c.wrap(req, err)
	if _, ok := errors.AsType[notPublicError](err); ok {
		return sinks.Halt(wrapped)
	}
	if _, ok := errors.AsType[proxyRefusesError](err); ok {
		return sinks.Halt(wrapped)
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return sinks.Halt(wrapped)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" && aboutCertificate(op.Err.Error()) {
		return sinks.Halt(wrapped)
	}
	return wrapped
}

// aboutCertificate reports whether a TLS alert of the peer (whose type
// crypto/tls keeps to itself) refuses our certificate or its lack.
func aboutCertificate(alert string) bool {
	return strings.Contains(alert, "certificate") || strings.Contains(alert, "access denied")
}

// wrap says what was done and to which host; paths and queries can hold
// tokens and stay out.
func (c *Client) wrap(req *http.Request, err error) error {
	wrapped := fmt.Errorf("%s to %s: %w", req.Method, req.URL.Host, err)
	if text := wrapped.Error(); c.masks.Replace(text) != text {
		return errors.New(oneLine(c.masks.Replace(text), excerptLength)) // without the cause: it holds the secret
	}
	return wrapped
}

// Show makes text of the answer fit for an error: one line, not long, secrets
// masked.
func (r *Response) Show(text string) string {
	if r.masks != nil { // nil only where a test made the answer
		text = r.masks.Replace(text)
	}
	return oneLine(text, excerptLength)
}

// Excerpt returns the beginning of the body as one line, secrets masked.
func (r *Response) Excerpt() string {
	return r.Show(string(r.Body))
}

// oneLine makes text fit to be shown: no control characters, one space where
// there was white space, at most limit runes.
func oneLine(text string, limit int) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, text)
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > limit {
		text = string(runes[:limit]) + "…"
	}
	return text
}

// masksOf makes the replacer of secrets in the forms in which an answer may
// repeat them.
func masksOf(secrets []secret.String) *strings.Replacer {
	var pairs []string
	for _, s := range secrets {
		value := s.Reveal()
		if len(value) < minSecret {
			continue
		}
		for _, form := range s.Forms() {
			pairs = append(pairs, form, secret.Mask)
		}
	}
	return strings.NewReplacer(pairs...)
}
