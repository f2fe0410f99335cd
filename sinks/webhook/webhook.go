// Package webhook delivers events to any HTTP receiver: one event a request,
// or several as lines, signed as the Standard Webhooks specification says,
// with a body in the sink's format or by a template.
//
// An event counts as delivered when the receiver answers 2xx to the request
// that carried it; what the receiver does with it then is not known. What is
// sent again has the same webhook-id. Order is kept: of several requests the
// next is made when the one before was answered. Retries, dead letters and
// conditions are left to package delivery.
package webhook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// singles is how many requests one Send makes, one event each.
const singles = 20

// requestTimeout bounds one request; Standard Webhooks advises 15 to 30 s.
const requestTimeout = 30 * time.Second

// A Sink sends to one receiver.
type Sink struct {
	cfg    Config
	keys   [][]byte
	bodies *renderer // nil: the message's body as it is
	client *httpx.Client
	tokens *tokens // nil: no client credentials
}

var (
	_ sinks.Sink    = (*Sink)(nil)
	_ sinks.Limiter = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It makes no connection.
func New(cfg Config) *Sink {
	cfg = cfg.WithDefaults()
	s := &Sink{cfg: cfg, client: httpx.New(cfg.http(), cfg.hidden()...)}
	for _, text := range cfg.Secrets {
		key, _ := signingKey(text) // the configuration is valid
		s.keys = append(s.keys, key)
	}
	if cfg.Template != "" {
		s.bodies, _ = newRenderer(cfg.Template, cfg.ContentType, cfg.Values) // likewise
	}
	if cfg.OAuth2.used() {
		s.tokens = newTokens(cfg.OAuth2, s.client)
	}
	return s
}

// hidden are what no error may show: the secrets, and the address behind the
// host, whole and in those parts that can be one.
func (c Config) hidden() []secret.String {
	var all []secret.String
	if u, err := url.Parse(c.URL.Reveal()); err == nil {
		all = append(all, longer(u.RequestURI()), longer(u.EscapedPath()), longer(u.RawQuery))
		for part := range strings.SplitSeq(u.Path, "/") {
			all = append(all, longer(part))
		}
		for _, values := range u.Query() {
			for _, v := range values {
				all = append(all, secret.New(v))
			}
		}
	}
	all = append(all, secret.New(c.Username+":"+c.Password.Reveal()), c.Token, c.Password, c.OAuth2.ClientSecret)
	all = append(all, c.Secrets...)
	for _, v := range c.Headers {
		all = append(all, v)
	}
	for _, v := range c.Values {
		all = append(all, v)
	}
	return all
}

// longer makes a secret of a part of the address, unless it is too short to be
// one: masked, it would make answers hard to read.
func longer(part string) secret.String {
	if len(part) < 8 {
		return secret.String{}
	}
	return secret.New(part)
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

// Send makes one request, or one for each event, in order. It ends with the
// first that fails: those before it are accepted, those behind it were not
// sent.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if s.cfg.Batch == BatchNDJSON {
		return s.sendLines(ctx, batch)
	}
	var receipt sinks.Receipt
	for i := range batch {
		body, err := s.render(&batch[i])
		if err == nil {
			receipt.Answer, err = s.post(ctx, batch[i].Record.UID, body)
		}
		if err != nil {
			return receipt, stopped(len(batch), i, err)
		}
	}
	return receipt, nil
}

// stopped says that record i of n failed and those behind it were not sent.
func stopped(n, i int, err error) error {
	class := sinks.ClassOf(err)
	if i == 0 && (n == 1 || class == sinks.ClassRetry || class == sinks.ClassHalt) {
		return err // it is not about the one event, and nothing was accepted
	}
	failed := map[int]error{i: err}
	for later := i + 1; later < n; later++ {
		failed[later] = errors.New("not sent: one before it failed")
	}
	return &sinks.PartialError{Failed: failed}
}

// sendLines sends the batch as one request. Records that cannot be a line of
// it are refused; the others are sent without them.
func (s *Sink) sendLines(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	var body []byte
	var sent []int
	failed := map[int]error{}
	for i := range batch {
		line, err := s.line(&batch[i])
		if err != nil {
			failed[i] = err
			continue
		}
		body = append(append(body, line...), '\n')
		sent = append(sent, i)
	}
	if len(sent) == 0 {
		return sinks.Receipt{}, some(failed)
	}
	var answer string
	var err error
	if len(sent) > 1 && int64(len(body)) > s.cfg.MaxBatchBytes {
		err = sinks.TooLarge(fmt.Errorf("a request of %d bytes is over max_batch_bytes", len(body)))
	} else {
		answer, err = s.post(ctx, batchID(batch, sent), body)
	}
	receipt := sinks.Receipt{Answer: answer}
	if err == nil {
		return receipt, some(failed)
	}
	if len(failed) == 0 {
		return receipt, err // delivery finds out which, if it is about one
	}
	for _, i := range sent {
		if class := sinks.ClassOf(err); len(sent) > 1 && class == sinks.ClassPoison {
			failed[i] = sinks.TooLarge(err) // it names no record: to be halved
		} else {
			failed[i] = err
		}
	}
	return receipt, some(failed)
}

// some is the error for failures of some records, nil when there are none.
func some(failed map[int]error) error {
	if len(failed) == 0 {
		return nil
	}
	return &sinks.PartialError{Failed: failed}
}

// batchID is the webhook-id of a request with these records: the record's own
// when there is one, else made of all of theirs.
func batchID(batch []sinks.Message, sent []int) string {
	if len(sent) == 1 {
		return batch[sent[0]].Record.UID
	}
	sum := sha256.New()
	for _, i := range sent {
		_, _ = io.WriteString(sum, batch[i].Record.UID+"\n") // never fails
	}
	return hex.EncodeToString(sum.Sum(nil))[:40]
}

// render is the body of one event. It is the caller's own.
func (s *Sink) render(m *sinks.Message) ([]byte, error) {
	if s.bodies == nil {
		return bytes.Clone(m.Body), nil // the transport may read on in it after the exchange
	}
	out, err := s.bodies.render(m.Record, m.Body)
	if err != nil {
		return nil, sinks.Poison(fmt.Errorf("template: %w", err))
	}
	return out, nil
}

// line is the body of one event as one line, without its end.
func (s *Sink) line(m *sinks.Message) ([]byte, error) {
	out, err := s.render(m)
	if err != nil {
		return nil, err
	}
	if s.bodies != nil && s.bodies.json {
		var line bytes.Buffer
		_ = json.Compact(&line, out) // it is valid
		out = line.Bytes()
	}
	switch {
	case len(out) == 0:
		return nil, sinks.Poison(errors.New("empty body: it would be an empty line"))
	case bytes.IndexByte(out, '\n') >= 0:
		return nil, sinks.Poison(errors.New("line break in the body: it would be read as several records"))
	}
	return out, nil
}

// post makes one request and reads its answer.
func (s *Sink) post(ctx context.Context, id string, body []byte) (answer string, err error) {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	if s.cfg.Compression == CompressionGzip {
		if body, err = pack(body); err != nil {
			return "", err
		}
	}
	req, err := http.NewRequestWithContext(ctx, s.cfg.Method, s.cfg.URL.Reveal(), bytes.NewReader(body))
	if err != nil {
		return "", sinks.Halt(errors.New("url: cannot be used for a request")) // the cause repeats the address
	}
	for name, value := range s.cfg.Headers {
		req.Header.Set(name, value.Reveal())
	}
	req.Header.Set("Content-Type", s.cfg.ContentType)
	if s.cfg.Compression == CompressionGzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	fresh, err := s.authorize(ctx, req)
	if err != nil {
		return "", err
	}
	sign(req.Header, s.keys, id, time.Now(), body)
	r, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	if s.tokens != nil {
		s.tokens.mask(r)
	}
	answer = strings.TrimSpace(fmt.Sprintf("%d %s", r.Status, r.Excerpt()))
	return answer, s.judge(r, fresh)
}

// pack compresses a body.
func pack(body []byte) ([]byte, error) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write(body)
	if err := errors.Join(err, w.Close()); err != nil {
		return nil, fmt.Errorf("compress the request: %w", err)
	}
	return packed.Bytes(), nil
}
