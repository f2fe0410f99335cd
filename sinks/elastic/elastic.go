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
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

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

	node   atomic.Int64 // which base is asked
	packer *httpx.Packer
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
		cfg: cfg, stamp: opt.Format == format.ECS, packer: httpx.NewPacker(cfg.CompressionLevel),
		client: httpx.New(cfg.http(), cfg.APIKey, cfg.Password, cfg.Bearer),
	}
	for _, text := range cfg.URLs {
		base, _ := baseURL(text) // the configuration is valid
		s.bases = append(s.bases, base)
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
	path := "/" + url.PathEscape(s.cfg.Index) + "/_bulk?filter_path=errors,items.*.status,items.*.error"
	now, size := time.Now(), 0
	for _, m := range batch {
		size += len(m.Body) + actionBytes
	}
	r, err := s.exchange(ctx, http.MethodPost, path, &content{
		mime: "application/x-ndjson", size: size, write: func(w io.Writer) error { return s.writeBulk(w, batch, now) },
	})
	if err != nil {
		return sinks.Receipt{}, err
	}
	if err := r.Class(); err != nil { // a 400 names no record: the batch is halved until it does
		return sinks.Receipt{Answer: fmt.Sprint(r.Status)}, err
	}
	return judge(r, batch)
}

// actionBytes is about what stands before and after a body, with room to spare.
const actionBytes = 128

// writeBulk writes the lines of a request.
func (s *Sink) writeBulk(w io.Writer, batch []sinks.Message, now time.Time) error {
	var one []byte
	for _, m := range batch {
		one = s.appendBulk(one[:0], m, now)
		if _, err := w.Write(one); err != nil {
			return err
		}
	}
	return nil
}

// appendBulk appends the lines of one record.
func (s *Sink) appendBulk(dst []byte, m sinks.Message, now time.Time) []byte {
	// Structure, never content: quotes in a text are escaped.
	const event = `"event":{"`
	dst = append(dst, `{"create":{"_id":"`...)
	dst = append(dst, m.Record.UID...) // hexadecimal digits
	dst = append(dst, "\"}}\n"...)
	body := m.Body
	if s.stamp {
		if at := bytes.Index(body, []byte(event)); at >= 0 {
			at += len(event) - 1
			dst = append(dst, body[:at]...)
			dst = append(dst, `"ingested":"`...)
			dst = now.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
			dst = append(dst, `",`...)
			body = body[at:]
		}
	}
	dst = append(dst, body...)
	return append(dst, '\n')
}

// A content is the body of a request.
type content struct {
	mime  string
	size  int // about
	write func(io.Writer) error
}

// exchange makes one request to the node whose turn it is. After a failure it
// is the next one's.
func (s *Sink) exchange(ctx context.Context, method, path string, body *content) (*httpx.Response, error) {
	turn := s.node.Load()
	var reader io.Reader = http.NoBody
	packed := body != nil && s.cfg.Compression == CompressionGzip && body.size > 1024
	if body != nil {
		var buf bytes.Buffer
		var err error
		if packed {
			buf.Grow(body.size / 6)
			err = s.packer.Pack(&buf, body.write)
		} else {
			buf.Grow(body.size)
			err = body.write(&buf)
		}
		if err != nil {
			return nil, fmt.Errorf("make the request's body: %w", err)
		}
		reader = bytes.NewReader(buf.Bytes())
	}
	req, err := http.NewRequestWithContext(ctx, method, s.bases[int(turn)%len(s.bases)]+path, reader)
	if err != nil {
		return nil, fmt.Errorf("make the request: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", body.mime)
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
	r, err := s.exchange(ctx, http.MethodGet, "/_resolve/index/"+url.PathEscape(s.cfg.Index), nil)
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
	r, err := s.exchange(ctx, http.MethodGet, "/", nil)
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
