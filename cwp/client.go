package cwp

import (
	"bytes"
	"cmp"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Options are what a Client needs beside its configuration.
type Options struct {
	Source      string   // configured name, for metrics
	Credentials Provider // whose keys sign
	Limits      *Limits  // shared by all clients of the process
	Metrics     *Metrics // nil: none
	UserAgent   string
}

// A Client asks one list action of the API. It is safe for concurrent use.
type Client struct {
	cfg   Config
	kind  *Kind
	opt   Options
	url   *url.URL
	sts   *url.URL // nil: the account cannot be asked for
	http  *http.Client
	limit *limiter
	leave func() // gives up its share of limit
	sent  atomic.Uint64
	skew  atomic.Int64 // nanoseconds that the server's clock is ahead of ours, by which requests are corrected
	ahead atomic.Int64 // the same as the last answer tells it
}

// New makes a client of a valid configuration. It makes no connection; an
// error means that a file of the tls block cannot be used.
func New(cfg Config, kind *Kind, opt Options) (*Client, error) {
	if err := cfg.ValidateKind(kind); err != nil {
		return nil, err
	}
	c := &Client{cfg: cfg, kind: kind, opt: opt}
	var err error
	if cfg.Endpoint != "" {
		c.url, err = parseEndpoint(cfg.Endpoint)
	} else {
		c.url, err = cfg.serviceURL(kind.Service, "")
	}
	if err != nil {
		return nil, err
	}
	if c.sts, err = cfg.serviceURL("sts", cfg.Credentials.STSEndpoint); err != nil {
		return nil, err
	}
	if c.http, err = newHTTP(cfg); err != nil {
		return nil, err
	}
	c.limit, c.leave = opt.Limits.of(opt.Credentials.Identity(), kind.Action, cfg.RequestsPerSecond)
	return c, nil
}

// newHTTP makes the connections of a source: TLS 1.2 or later, no redirects,
// and idle ones dropped before the server does (at 60 s).
func newHTTP(cfg Config) (*http.Client, error) {
	proxy := http.ProxyFromEnvironment
	if text := cfg.Proxy.Reveal(); text != "" {
		u, err := parseProxy(text)
		if err != nil {
			return nil, err
		}
		proxy = http.ProxyURL(u)
	}
	connections, err := newTransport(cfg.TLS, func(conf *tls.Config) *http.Transport {
		return &http.Transport{
			Proxy:               proxy,
			DialContext:         (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 15 * time.Second}).DialContext,
			TLSClientConfig:     conf,
			TLSHandshakeTimeout: 10 * time.Second,
			ForceAttemptHTTP2:   true,
			MaxIdleConnsPerHost: 32,
			IdleConnTimeout:     30 * time.Second,
		}
	})
	if err != nil {
		return nil, err
	}
	return &http.Client{
		Timeout:       cfg.Timeout,
		Transport:     connections,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, nil
}

// Close drops idle connections and the client's share of the request budget.
func (c *Client) Close() {
	c.leave()
	c.http.CloseIdleConnections()
}

// List waits for the request budget, asks once, and returns the answer or an
// *Error. It asks a second time only to correct the clock by the server's Date
// header, or with credentials that were read again.
func (c *Client) List(ctx context.Context, q Query) (*Page, error) {
	body, err := c.body(q)
	if err != nil {
		return nil, &Error{Class: ClassRequest, Message: "encode the request", Err: err}
	}
	var page *Page
	err = c.mending(func() (err error) {
		page, err = c.attempt(ctx, body, q.Urgent)
		return err
	})
	return page, err
}

// mending calls f, and again where the failure has taught us the server's clock,
// or that the credentials must be read again.
func (c *Client) mending(f func() error) error {
	corrected, refreshed := 0, false
	for {
		err := f()
		e, ok := errors.AsType[*Error](err)
		switch {
		case !ok:
			return err
		case e.Code == codeSignatureExpire && corrected < 2: // STS may have told, and then the API
			corrected++
		case (e.Code == codeTokenFailure || e.Code == codeSecretIDNotFound) && !refreshed:
			refreshed = true
			c.opt.Credentials.Invalidate()
		default:
			return err
		}
	}
}

// body is the JSON of a request.
func (c *Client) body(q Query) ([]byte, error) {
	type filter struct {
		Name   string
		Values []string
	}
	members := map[string]any{}
	maps.Copy(members, c.kind.Params)
	var filters []filter
	for _, name := range slices.Sorted(maps.Keys(c.cfg.Filters)) {
		filters = append(filters, filter{name, c.cfg.Filters[name]})
	}
	add := func(name, value string) {
		if value != "" {
			filters = append(filters, filter{name, []string{value}})
		}
	}
	add(c.kind.BeginFilter, q.Begin)
	add(c.kind.EndFilter, q.End)
	add(c.kind.StatusFilter, q.Status)
	add(q.Where.Name, q.Where.Value)
	if len(filters) > 0 {
		members["Filters"] = filters
	}
	members["Limit"], members["Offset"] = q.Limit, q.Offset
	members["By"], members["Order"] = c.kind.BySweepTime, c.kind.Ascending
	switch q.Sort {
	case BySweepTime:
	case BySweepTimeDesc:
		members["Order"] = c.kind.Descending
	case ByHeadTimeDesc:
		members["By"], members["Order"] = c.kind.ByHeadTime, c.kind.Descending
	}
	return json.Marshal(members)
}

func (c *Client) attempt(ctx context.Context, body []byte, urgent bool) (*Page, error) {
	creds, err := c.opt.Credentials.Get(ctx)
	if err != nil {
		c.count(asError(err))
		return nil, err
	}
	departure, err := c.limit.wait(ctx, urgent)
	if err != nil {
		return nil, err
	}
	defer c.limit.written(departure)
	sent := time.Now()
	var page *Page
	var received time.Time
	var answered atomic.Pointer[time.Time] // set by a goroutine of the connection
	_, failure := c.post(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { c.limit.written(departure) },
		GotFirstResponseByte: func() { answered.Store(new(time.Now())) },
	}), call{
		url: c.url, service: c.kind.Service, version: c.kind.Version, action: c.kind.Action, body: body, creds: creds,
		open: func(raw []byte) (failure *Error) {
			received = time.Now()
			page, failure = c.open(raw)
			return failure
		},
	})
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	received = cmp.Or(received, time.Now())
	if c.opt.Metrics != nil {
		c.opt.Metrics.duration.WithLabelValues(c.opt.Source, c.kind.Name).Observe(received.Sub(sent).Seconds())
	}
	if at := answered.Load(); failure == nil && at != nil {
		c.limit.answered(departure, *at)
	}
	if failure != nil && failure.Class == ClassRate {
		c.limit.refused()
	}
	c.count(failure)
	if failure != nil {
		failure.hide(append(creds.secrets(), c.proxySecrets()...))
		return nil, failure
	}
	page.SentAt, page.ReceivedAt, page.Ahead = sent, received, time.Duration(c.ahead.Load())
	return page, nil
}

func asError(err error) *Error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return &Error{Class: ClassNetwork, Err: err}
}

// Budget returns how many requests the client has sent, and how many a second it
// may send now, which all clients of the same credentials and action share.
func (c *Client) Budget() (sent uint64, perSecond float64) {
	return c.sent.Load(), c.limit.perSecond()
}

func (c *Client) count(e *Error) {
	c.sent.Add(1)
	if c.opt.Metrics == nil {
		return
	}
	code := "ok"
	if e != nil {
		code = codeLabel(e)
	}
	c.opt.Metrics.requests.WithLabelValues(c.opt.Source, c.kind.Name, code).Inc()
	c.opt.Metrics.rate.WithLabelValues(c.opt.Source, c.kind.Name).Set(c.limit.perSecond())
}

// open reads an answer with HTTP status 200.
func (c *Client) open(raw []byte) (*Page, *Error) {
	e, ok := openEnvelope(raw, c.kind)
	if !ok {
		return nil, &Error{Class: ClassNetwork, Message: "the answer is not JSON, or was cut short", HTTPStatus: http.StatusOK}
	}
	if failure := e.failure(http.StatusOK); failure != nil {
		return nil, failure
	}
	if e.response == nil {
		return nil, &Error{Class: ClassAnswer, Message: "the answer has no Response", HTTPStatus: http.StatusOK}
	}
	page, failure := e.page(c.kind)
	if page != nil {
		page.Bytes = len(raw)
	}
	return page, failure
}

// A call is one signed request to a service of the vendor's.
type call struct {
	url             *url.URL
	service         string
	version, action string
	body            []byte
	creds           Credentials
	region          string                  // default: the configured one
	unsigned        bool                    // the body itself proves who asks
	open            func(raw []byte) *Error // reads an answer with HTTP status 200; nil: the caller does
}

// post sends a call and returns the body of an answer with HTTP status 200.
func (c *Client) post(ctx context.Context, in call) ([]byte, *Error) {
	const contentType = "application/json"
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, in.url.String(), bytes.NewReader(in.body))
	if err != nil {
		return nil, &Error{Class: ClassRequest, Message: "make the request", Err: errors.New("the endpoint is no usable address")}
	}
	now := time.Now().Add(time.Duration(c.skew.Load()))
	h := req.Header
	h.Set("Content-Type", contentType)
	h.Set("X-TC-Action", in.action)
	h.Set("X-TC-Version", in.version)
	h.Set("X-TC-Timestamp", strconv.FormatInt(now.Unix(), 10))
	h.Set("X-TC-Language", c.cfg.Language)
	h.Set("User-Agent", c.opt.UserAgent)
	if region := cmp.Or(in.region, c.cfg.Region); region != "" {
		h.Set("X-TC-Region", region)
	}
	if in.unsigned {
		h.Set("Authorization", "SKIP")
	} else {
		h.Set("Authorization", signable{
			service: in.service, host: req.URL.Host, headers: map[string]string{"content-type": contentType},
			signed: []string{"content-type", "host"}, body: in.body, time: now,
		}.authorization(in.creds.SecretID, in.creds.SecretKey.Reveal()))
		if token := in.creds.Token.Reveal(); token != "" {
			h.Set("X-TC-Token", token)
		}
	}
	secrets := append(in.creds.secrets(), c.proxySecrets()...)
	resp, err := c.http.Do(req)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, &Error{Class: ClassNetwork, Message: "no answer within " + c.cfg.Timeout.String()}
	case err != nil:
		return nil, &Error{Class: ClassNetwork, Err: withoutURL(err, secrets)}
	}
	defer func() { _ = resp.Body.Close() }() // only read
	raw, err := readAll(resp, c.cfg.MaxBody)
	if err != nil {
		return nil, &Error{Class: ClassNetwork, Message: "read the answer", HTTPStatus: resp.StatusCode, Err: withoutURL(err, secrets)}
	}
	if int64(len(raw)) > c.cfg.MaxBody {
		return nil, &Error{Class: ClassAnswerSize, Message: "the answer is longer than max_body", HTTPStatus: resp.StatusCode}
	}
	return c.judge(resp, raw, in.open)
}

// proxySecrets are the proxy's address and the password in it.
func (c *Client) proxySecrets() []string {
	out := []string{c.cfg.Proxy.Reveal()}
	if u, err := parseProxy(c.cfg.Proxy.Reveal()); err == nil && u != nil {
		password, _ := u.User.Password()
		out = append(out, password)
	}
	return out
}

// readAll reads a body, and one byte more than limit of a longer one. What the
// answer says of its length is believed as far as a page is long; one that says
// nothing, as compressed ones do, is read into memory that is used again.
func readAll(resp *http.Response, limit int64) ([]byte, error) {
	const pageBytes = 1 << 20
	body := io.LimitReader(resp.Body, limit+1)
	if resp.ContentLength > 0 && resp.ContentLength <= min(limit, pageBytes) {
		raw := make([]byte, resp.ContentLength)
		_, err := io.ReadFull(body, raw) // the transport gives no more than it said
		return raw, err
	}
	scratch, _ := scratches.Get().(*bytes.Buffer)
	scratch.Reset()
	_, err := scratch.ReadFrom(body)
	raw := bytes.Clone(scratch.Bytes())
	if scratch.Cap() <= 2*pageBytes {
		scratches.Put(scratch)
	}
	return raw, err
}

// scratches are what bodies of unknown length are read into.
//
//nolint:gochecknoglobals // a pool is shared by its nature
var scratches = sync.Pool{New: func() any { return new(bytes.Buffer) }}

// judge sorts out what is no answer with status 200, and learns the server's
// clock where it says that ours is off. open reads one with status 200.
func (c *Client) judge(resp *http.Response, raw []byte, open func([]byte) *Error) ([]byte, *Error) {
	var failure *Error
	if resp.StatusCode == http.StatusOK && open != nil {
		failure = open(raw)
	} else {
		e, ok := openEnvelope(raw, nil)
		if !ok && resp.StatusCode == http.StatusOK {
			return raw, nil // whoever reads it says what it is
		}
		failure = e.failure(resp.StatusCode)
	}
	if date, err := http.ParseTime(resp.Header.Get("Date")); err == nil {
		ahead := time.Until(date)
		c.ahead.Store(int64(ahead))
		if failure != nil && failure.Class == ClassClock {
			c.skew.Store(int64(ahead))
			failure.Message += " (our clock differs from the server's by " + ahead.Round(time.Second).String() + ")"
		}
	}
	switch {
	case resp.StatusCode == http.StatusOK && open == nil:
		return raw, nil
	case failure != nil:
		return nil, failure
	case resp.StatusCode == http.StatusOK:
		return raw, nil
	case resp.StatusCode/100 == 5, resp.StatusCode == http.StatusTooManyRequests, resp.StatusCode == http.StatusRequestTimeout:
		return nil, &Error{Class: ClassServer, Message: "no answer of the API", HTTPStatus: resp.StatusCode}
	default:
		return nil, &Error{Class: ClassNetwork, Message: "no answer of the API; is the endpoint right, or a proxy in between?", HTTPStatus: resp.StatusCode}
	}
}

// withoutURL is an error without the address, which may hold a secret.
func withoutURL(err error, secrets []string) error {
	if u, ok := errors.AsType[*url.Error](err); ok {
		err = u.Err
	}
	text := err.Error()
	if shown := hide(text, secrets); shown != text {
		return errors.New(shown)
	}
	return err
}

// AccountID asks whose credentials these are (sts:GetCallerIdentity). It is ""
// where there is nobody to ask: an own endpoint.
func (c *Client) AccountID(ctx context.Context) (string, error) {
	if c.sts == nil {
		return "", nil
	}
	var answer struct{ Response struct{ AccountId string } } //nolint:revive // the API's own name
	err := c.mending(func() error {
		creds, err := c.opt.Credentials.Get(ctx)
		if err != nil {
			return err
		}
		return c.askSTS(ctx, call{action: "GetCallerIdentity", body: []byte("{}"), creds: creds}, creds.secrets(), &answer)
	})
	switch {
	case err != nil:
		return "", err
	case answer.Response.AccountId == "":
		return "", &Error{Class: ClassAnswer, Message: "GetCallerIdentity gave no AccountId; set account_id", HTTPStatus: http.StatusOK}
	}
	return answer.Response.AccountId, nil
}

// STS has regions, unlike the lists, and must be told one. Where none is
// configured it is the one that the vendor's SDKs name.
const (
	stsVersion = "2018-08-13"
	stsRegion  = "ap-guangzhou"
)

// askSTS makes a call to STS and reads the answer. Its errors hide secrets.
func (c *Client) askSTS(ctx context.Context, in call, secrets []string, to any) error {
	in.url, in.service, in.version = c.sts, "sts", stsVersion
	in.region = cmp.Or(in.region, c.cfg.Region, stsRegion)
	raw, failure := c.post(ctx, in)
	if failure != nil {
		failure.hide(append(secrets, c.proxySecrets()...))
		return failure
	}
	err := openSTS(raw, to)
	if e, ok := errors.AsType[*Error](err); ok {
		e.hide(append(secrets, c.proxySecrets()...))
	}
	return err
}

// openSTS reads an answer of STS.
func openSTS(raw []byte, to any) error {
	e, ok := openEnvelope(raw, nil)
	if !ok {
		return &Error{Class: ClassNetwork, Message: "the answer of STS is not JSON, or was cut short", HTTPStatus: http.StatusOK}
	}
	if failure := e.failure(http.StatusOK); failure != nil {
		return failure
	}
	if err := json.Unmarshal(raw, to); err != nil {
		return &Error{Class: ClassAnswer, Message: "the answer of STS has another form", HTTPStatus: http.StatusOK}
	}
	return nil
}
