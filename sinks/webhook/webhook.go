// Package webhook delivers events to any HTTP receiver: one event a request,
// or several as lines, signed as the Standard Webhooks specification says,
// with a body in the sink's format or by a template.
//
// An event counts as delivered when the receiver answers 2xx to the request
// that carried it. What is sent again has the same webhook-id.
package webhook

import (
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"text/template"
	"time"

	"github.com/klauspost/compress/gzip"
	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// singles is how many requests one Send makes, one event each.
const singles = 20

// A Sink sends to one receiver.
type Sink struct {
	cfg    Config
	keys   [][]byte
	body   *template.Template // nil: the message's body as it is
	client *httpx.Client

	token *oauth2.Token // of the last fetch; Send is called by one goroutine
}

var (
	_ sinks.Sink    = (*Sink)(nil)
	_ sinks.Limiter = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It makes no connection.
func New(cfg Config) *Sink {
	cfg = cfg.WithDefaults()
	s := &Sink{cfg: cfg, client: httpx.New(cfg.http(), secrets(cfg)...)}
	for _, text := range cfg.Secrets {
		key, _ := signingKey(text) // the configuration is valid
		s.keys = append(s.keys, key)
	}
	if cfg.Template != "" {
		s.body, _ = parse(cfg.Template) // likewise
	}
	return s
}

// secrets are what no error may show: those, and the parts of the address that
// can be one.
func secrets(cfg Config) []secret.String {
	all := append([]secret.String{cfg.Token, cfg.Password, cfg.OAuth2.ClientSecret}, cfg.Secrets...)
	for _, v := range cfg.Headers {
		all = append(all, v)
	}
	if u, err := url.Parse(cfg.URL.Reveal()); err == nil {
		for part := range strings.SplitSeq(u.Path, "/") {
			if len(part) >= 16 { // shorter ones are words
				all = append(all, secret.New(part))
			}
		}
		for _, values := range u.Query() {
			for _, v := range values {
				all = append(all, secret.New(v))
			}
		}
	}
	return all
}

// Close closes idle connections.
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// Limits keep one Send short where each event is a request.
func (s *Sink) Limits() sinks.Limits {
	if s.cfg.Batch == BatchNDJSON {
		return sinks.Limits{Records: s.cfg.MaxBatchRecords, Bytes: int(s.cfg.MaxBatchBytes)}
	}
	return sinks.Limits{Records: singles}
}

// Send makes one request, or one for each event in order. It ends with the
// first that fails for another reason than its event.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if s.cfg.Batch == BatchNDJSON {
		return s.sendLines(ctx, batch)
	}
	failed := map[int]error{}
	receipt := sinks.Receipt{}
	for i := range batch {
		body, err := s.render(&batch[i])
		if err == nil {
			receipt.Answer, err = s.post(ctx, batch[i].Record.UID, body)
		}
		if err == nil {
			continue
		}
		failed[i] = err
		if c := sinks.ClassOf(err); c == sinks.ClassPoison || c == sinks.ClassTooLarge {
			continue
		}
		if i == 0 {
			return receipt, err
		}
		for later := i + 1; later < len(batch); later++ {
			failed[later] = errors.New("not sent: one before it failed")
		}
		break
	}
	if len(failed) > 0 {
		return receipt, &sinks.PartialError{Failed: failed}
	}
	return receipt, nil
}

// sendLines sends the whole batch as one request.
func (s *Sink) sendLines(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	var body []byte
	sum := sha256.New()
	for i := range batch {
		line, err := s.render(&batch[i])
		if err != nil {
			failed := map[int]error{i: err}
			for other := range batch {
				if other != i {
					failed[other] = errors.New("not sent: another one of its batch has no body")
				}
			}
			return sinks.Receipt{}, &sinks.PartialError{Failed: failed}
		}
		body = append(append(body, line...), '\n')
		_, _ = io.WriteString(sum, batch[i].Record.UID+"\n") // never fails
	}
	id := batch[0].Record.UID
	if len(batch) > 1 {
		id = hex.EncodeToString(sum.Sum(nil))[:40]
	}
	answer, err := s.post(ctx, id, body)
	return sinks.Receipt{Answer: answer}, err
}

// render is the body of one event.
func (s *Sink) render(m *sinks.Message) ([]byte, error) {
	if s.body == nil {
		return m.Body, nil
	}
	out, err := execute(s.body, m.Body)
	if err != nil {
		return nil, sinks.Poison(fmt.Errorf("template: %w", err))
	}
	if strings.Contains(s.cfg.ContentType, "json") {
		if !json.Valid(out) {
			return nil, sinks.Poison(errors.New("template: the body is not JSON: bring values in by {{json …}}"))
		}
		if s.cfg.Batch == BatchNDJSON {
			var line bytes.Buffer
			_ = json.Compact(&line, out) // valid
			return line.Bytes(), nil
		}
	}
	return out, nil
}

// post makes one request and reads its answer.
func (s *Sink) post(ctx context.Context, id string, body []byte) (answer string, err error) {
	if s.cfg.Compression == CompressionGzip {
		var buf bytes.Buffer
		gz := gzip.NewWriter(&buf)
		_, err := gz.Write(body)
		if err := errors.Join(err, gz.Close()); err != nil {
			return "", fmt.Errorf("compress the request: %w", err)
		}
		body = buf.Bytes()
	}
	req, err := http.NewRequestWithContext(ctx, s.cfg.Method, s.cfg.URL.Reveal(), bytes.NewReader(bytes.Clone(body)))
	if err != nil {
		return "", sinks.Halt(errors.New("url: cannot be used for a request"))
	}
	for name, value := range s.cfg.Headers {
		req.Header.Set(name, value.Reveal())
	}
	req.Header.Set("Content-Type", s.cfg.ContentType)
	if s.cfg.Compression == CompressionGzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	s.sign(req.Header, id, time.Now(), body)
	fresh, err := s.authorize(ctx, req)
	if err != nil {
		return "", err
	}
	r, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	answer = strings.TrimSpace(fmt.Sprintf("%d %s", r.Status, r.Excerpt()))
	if r.Status == http.StatusUnauthorized && s.token != nil && !fresh {
		s.token = nil // it may have been withdrawn
		return answer, fmt.Errorf("%w; a new token is fetched", r.Err())
	}
	return answer, r.Class()
}

// sign adds the headers of the Standard Webhooks specification. Signatures are
// of the bytes that are sent.
func (s *Sink) sign(h http.Header, id string, now time.Time, body []byte) {
	stamp := strconv.FormatInt(now.Unix(), 10)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", stamp)
	var signatures []string
	for _, key := range s.keys {
		mac := hmac.New(sha256.New, key)
		_, _ = io.WriteString(mac, id+"."+stamp+".") // never fails
		_, _ = mac.Write(body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	if len(signatures) > 0 {
		h.Set("Webhook-Signature", strings.Join(signatures, " "))
	}
}

// authorize adds credentials. fresh says that the token was fetched for this
// request.
func (s *Sink) authorize(ctx context.Context, req *http.Request) (fresh bool, err error) {
	switch {
	case !s.cfg.Token.IsZero():
		req.Header.Set("Authorization", "Bearer "+s.cfg.Token.Reveal())
	case s.cfg.Username != "":
		req.SetBasicAuth(s.cfg.Username, s.cfg.Password.Reveal())
	case s.cfg.OAuth2.used():
		if !s.token.Valid() {
			if s.token, err = s.fetchToken(ctx); err != nil {
				return false, err
			}
			fresh = true
		}
		s.token.SetAuthHeader(req)
	}
	return fresh, nil
}

// fetchToken asks for a token. What refuses our credentials is our setup.
func (s *Sink) fetchToken(ctx context.Context) (*oauth2.Token, error) {
	o := s.cfg.OAuth2
	params := url.Values{}
	for name, value := range o.Params {
		params.Set(name, value)
	}
	cfg := clientcredentials.Config{
		ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(), TokenURL: o.TokenURL, Scopes: o.Scopes, EndpointParams: params,
	}
	ctx = context.WithValue(ctx, oauth2.HTTPClient, &http.Client{Transport: through{s.client}})
	token, err := cfg.Token(ctx)
	if err == nil {
		return token, nil
	}
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		said := fmt.Errorf("the token endpoint answered %d %s", refused.Response.StatusCode, (&httpx.Response{}).Show(cmp.Or(refused.ErrorCode, "without a code")))
		if refused.Response.StatusCode/100 == 4 && refused.Response.StatusCode != http.StatusTooManyRequests && refused.Response.StatusCode != http.StatusRequestTimeout {
			return nil, sinks.Halt(said)
		}
		return nil, sinks.After(said, httpx.ParseRetryAfter(refused.Response.Header.Get("Retry-After"), time.Now()))
	}
	if halted := sinks.ClassOf(err); halted == sinks.ClassHalt {
		return nil, sinks.Halt(errors.New("fetch a token: the endpoint cannot be used"))
	}
	return nil, errors.New("fetch a token: no usable answer from the token endpoint")
}

// through is the way of the token's requests: the sink's own client.
type through struct{ client *httpx.Client }

func (t through) RoundTrip(req *http.Request) (*http.Response, error) {
	r, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: http.StatusText(r.Status), StatusCode: r.Status, Header: r.Header, Body: io.NopCloser(bytes.NewReader(r.Body)), Request: req,
	}, nil
}
