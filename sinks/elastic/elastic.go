// Package elastic delivers to Elasticsearch and OpenSearch over plain _bulk
// requests.
//
// A record counts as delivered when its item in the answer says created, or
// that a document of its id is there already: the id is the record's
// event_uid, so that what is sent again makes no second document. That holds
// within one backing index: after a rollover of the data stream it can.
//
// Nothing is created silently: index template and lifecycle are made by Setup.
package elastic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// A Sink sends to one cluster.
type Sink struct {
	cfg    Config
	bases  []string
	stamp  bool // documents are ECS: they get event.ingested
	client *httpx.Client

	node atomic.Int64 // which base is asked
	raw  sync.Pool    // of *[]byte: request bodies before compression
	gz   sync.Pool    // of *gzip.Writer
}

var (
	_ sinks.Sink    = (*Sink)(nil)
	_ sinks.Prober  = (*Sink)(nil)
	_ sinks.Limiter = (*Sink)(nil)
)

// Options is what a sink gets beside its configuration.
type Options struct {
	Format    string // name of the format of the bodies
	Namespace string // of the data stream; empty: default
}

// New makes the sink of a valid configuration. It makes no connection.
func New(cfg Config, opt Options) *Sink {
	cfg = cfg.WithDefaults()
	cfg.Index = cmp.Or(cfg.Index, streams+cmp.Or(opt.Namespace, "default"))
	s := &Sink{
		cfg: cfg, stamp: opt.Format == format.ECS,
		client: httpx.New(cfg.http(), cfg.APIKey, cfg.Password, cfg.Bearer),
	}
	for _, text := range cfg.URLs {
		base, _ := baseURL(text) // the configuration is valid
		s.bases = append(s.bases, base)
	}
	s.raw.New = func() any { return new([]byte) }
	s.gz.New = func() any {
		w, _ := gzip.NewWriterLevel(io.Discard, cfg.CompressionLevel) // the configuration is valid
		return w
	}
	return s
}

// Close closes idle connections.
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// Limits leaves an eighth of a request for the actions between the bodies.
func (s *Sink) Limits() sinks.Limits {
	return sinks.Limits{Records: s.cfg.MaxBatchRecords, Bytes: int(s.cfg.MaxBatchBytes / 8 * 7)}
}

// Send makes one _bulk request with a create for each record.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	raw := s.raw.Get().(*[]byte)
	defer s.raw.Put(raw)
	*raw = s.appendBulk((*raw)[:0], batch, time.Now())
	path := "/" + url.PathEscape(s.cfg.Index) + "/_bulk?filter_path=errors,items.*.status,items.*.error"
	r, err := s.exchange(ctx, http.MethodPost, path, *raw, "application/x-ndjson")
	if err != nil {
		return sinks.Receipt{}, err
	}
	if err := r.Class(); err != nil { // a 400 names no record: the batch is halved until it does
		return sinks.Receipt{Answer: fmt.Sprint(r.Status)}, err
	}
	return judge(r, batch)
}

// appendBulk appends the lines of a request.
func (s *Sink) appendBulk(dst []byte, batch []sinks.Message, now time.Time) []byte {
	// Structure, never content: quotes in a text are escaped.
	event := []byte(`"event":{"`)
	for _, m := range batch {
		dst = append(dst, `{"create":{"_id":"`...)
		dst = append(dst, m.Record.UID...) // hexadecimal digits
		dst = append(dst, "\"}}\n"...)
		body := m.Body
		if at := bytes.Index(body, event); s.stamp && at >= 0 {
			at += len(event) - 1
			dst = append(dst, body[:at]...)
			dst = append(dst, `"ingested":"`...)
			dst = now.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
			dst = append(dst, `",`...)
			body = body[at:]
		}
		dst = append(dst, body...)
		dst = append(dst, '\n')
	}
	return dst
}

// exchange makes one request to the node whose turn it is. After a failure it
// is the next one's.
func (s *Sink) exchange(ctx context.Context, method, path string, body []byte, contentType string) (*httpx.Response, error) {
	turn := s.node.Load()
	var reader io.Reader = http.NoBody
	packed := s.cfg.Compression == CompressionGzip && len(body) > 1024
	switch {
	case packed:
		var buf bytes.Buffer
		gz := s.gz.Get().(*gzip.Writer)
		defer s.gz.Put(gz)
		gz.Reset(&buf)
		_, err := gz.Write(body)
		if err := errors.Join(err, gz.Close()); err != nil {
			return nil, fmt.Errorf("compress the request: %w", err)
		}
		reader = bytes.NewReader(buf.Bytes())
	case body != nil:
		reader = bytes.NewReader(bytes.Clone(body)) // the transport may read on after an answer
	}
	req, err := http.NewRequestWithContext(ctx, method, s.bases[int(turn)%len(s.bases)]+path, reader)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	if packed {
		req.Header.Set("Content-Encoding", "gzip")
	}
	switch {
	case !s.cfg.APIKey.IsZero():
		req.Header.Set("Authorization", "ApiKey "+s.cfg.APIKey.Reveal())
	case !s.cfg.Bearer.IsZero():
		req.Header.Set("Authorization", "Bearer "+s.cfg.Bearer.Reveal())
	case s.cfg.Username != "":
		req.SetBasicAuth(s.cfg.Username, s.cfg.Password.Reveal())
	}
	r, err := s.client.Do(req)
	if err != nil || r.Status == http.StatusBadGateway || r.Status == http.StatusServiceUnavailable || r.Status == http.StatusGatewayTimeout {
		s.node.CompareAndSwap(turn, turn+1)
	}
	return r, err
}

// Probe asks whether the index or its template is there and we may see it.
func (s *Sink) Probe(ctx context.Context) (string, error) {
	info, err := s.product(ctx)
	if err != nil {
		return "", err
	}
	r, err := s.exchange(ctx, http.MethodGet, "/_resolve/index/"+url.PathEscape(s.cfg.Index), nil, "")
	if err != nil {
		return "", err
	}
	switch {
	case r.Status == http.StatusNotFound:
		return info.String() + "; " + s.cfg.Index + " is not there yet", nil
	case r.Status/100 == 2:
		return info.String() + "; " + s.cfg.Index + " is there", nil
	case r.Status == http.StatusForbidden:
		// The right to write needs no right to look.
		return info.String(), nil
	default:
		return "", r.Class()
	}
}

// A product is what a server says that it is.
type product struct {
	Version struct {
		Number       string `json:"number"`
		Distribution string `json:"distribution"` // "opensearch"; Elasticsearch has none
	} `json:"version"`
}

func (p product) String() string {
	if p.opensearch() {
		return "OpenSearch " + p.Version.Number
	}
	return "Elasticsearch " + p.Version.Number
}

func (p product) opensearch() bool { return p.Version.Distribution == "opensearch" }

func (s *Sink) product(ctx context.Context) (p product, err error) {
	r, err := s.exchange(ctx, http.MethodGet, "/", nil, "")
	if err != nil {
		return p, err
	}
	if err := r.Class(); err != nil {
		return p, err
	}
	if err := json.Unmarshal(r.Body, &p); err != nil || p.Version.Number == "" {
		return p, sinks.Halt(fmt.Errorf("no Elasticsearch or OpenSearch at this address: %s", r.Excerpt()))
	}
	return p, nil
}
