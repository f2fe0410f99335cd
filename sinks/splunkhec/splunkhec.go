// Package splunkhec delivers to Splunk's HTTP Event Collector and to what
// speaks its protocol.
//
// With indexer acknowledgement a batch counts as delivered when the indexer
// has confirmed it, without it when the collector has answered 200: it is then
// in the collector's memory, and lost if that server dies. The collector knows
// no duplicates: what is sent again is indexed again, with the same
// cwp_event_uid.
package splunkhec

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// postTimeout bounds one post; waiting for its acknowledgement counts apart.
const postTimeout = 60 * time.Second

// envelope is about what is around a body, in bytes, with room to spare.
const envelope = 512

// response is an answer of the collector or of something on the way to it.
type response = httpx.Response

// A Sink sends to one collector.
type Sink struct {
	cfg    Config
	base   string // what the collector's paths are appended to
	client *httpx.Client

	packer  *httpx.Packer
	objects bool // bodies are JSON objects that an encoder has made

	life    context.Context // ends at Close
	end     context.CancelFunc
	pollers sync.WaitGroup
	look    chan struct{} // buffered by one: something is newly open, or no longer

	mu      sync.Mutex // guards the fields below and those of channels
	current *channel
	waiting map[*channel]struct{} // channels with open ids
	polling bool                  // the poller runs
	ackOff  bool                  // never wait for acknowledgements
	ackSeen bool                  // an answer had an ackId
	filling bool                  // the last accepted post was answered "approaching capacity"
}

var (
	_ sinks.Sink     = (*Sink)(nil)
	_ sinks.Windower = (*Sink)(nil)
	_ sinks.Prober   = (*Sink)(nil)
	_ sinks.Limiter  = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It makes no connection. The
// bodies of messages are in the named format.
func New(cfg Config, formatName string) *Sink {
	s := newSink(cfg, httpx.New(cfg.http(), cfg.Token))
	s.objects = format.MakesObjects(formatName)
	return s
}

func newSink(cfg Config, client *httpx.Client) *Sink {
	cfg = cfg.WithDefaults()
	base, _ := baseURL(cfg.URL) // the configuration is valid
	s := &Sink{
		cfg: cfg, base: base, client: client, packer: httpx.NewPacker(cfg.CompressionLevel),
		look:    make(chan struct{}, 1),
		current: newChannel(),
		waiting: map[*channel]struct{}{},
		ackOff:  cfg.Ack == AckOff,
	}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Close ends polling for acknowledgements and closes idle connections.
func (s *Sink) Close() error {
	s.mu.Lock()
	s.end() // under the mutex: after it no poller is started
	s.mu.Unlock()
	s.pollers.Wait()
	s.client.Close()
	return nil
}

// Window is 1 until batches wait for acknowledgements, and while the collector
// says that it is nearly full.
func (s *Sink) Window() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.acking() && !s.filling {
		return s.cfg.Window
	}
	return 1
}

// AckTimeout is how long Send may wait for an acknowledgement once the batch
// was taken: the deadline of an attempt must leave it that time.
func (s *Sink) AckTimeout() time.Duration { return s.cfg.AckTimeout }

// Limits leaves a quarter of a request for the envelopes around the bodies,
// which are some 400 bytes each.
func (s *Sink) Limits() sinks.Limits {
	return sinks.Limits{Records: s.cfg.MaxBatchRecords, Bytes: int(s.cfg.MaxBatchBytes / 4 * 3)}
}

// Probe asks the collector's health endpoint.
func (s *Sink) Probe(ctx context.Context) (string, error) {
	s.mu.Lock()
	ch := s.current
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	r, err := s.exchange(ctx, ch, http.MethodGet, "/services/collector/health", nil, "")
	if err != nil {
		return "", err
	}
	a := parseAnswer(r.Status, r.Body)
	if a.status/100 == 2 && a.code == codeHealthy {
		return a.String() + " " + r.Show(a.text), nil
	}
	return a.String(), refusal(r, a)
}

// Send posts the batch as one request and, where the answer offers it, waits
// until the indexer has confirmed it.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	body, size, err := s.encode(batch)
	if err != nil {
		return sinks.Receipt{}, err
	}
	ch, err := s.channel(ctx)
	if err != nil {
		return sinks.Receipt{}, fmt.Errorf("wait for the first post of a channel: %w", err)
	}
	r, err := s.post(ctx, ch, body)
	s.posted(ch, r, err)
	if err != nil {
		return sinks.Receipt{}, err
	}
	a := parseAnswer(r.Status, r.Body)
	receipt := sinks.Receipt{Answer: a.String()}
	if !a.accepted() {
		return receipt, s.judge(ch, r, a, len(batch), size)
	}
	wait, err := s.taken(a)
	if err != nil || !wait {
		return receipt, err
	}
	return receipt, s.confirm(ctx, ch, a.ackID)
}

func (s *Sink) post(ctx context.Context, ch *channel, body []byte) (*response, error) {
	ctx, cancel := context.WithTimeout(ctx, postTimeout)
	defer cancel()
	encoding := ""
	if s.cfg.Compression == CompressionGzip {
		encoding = "gzip"
	}
	return s.exchange(ctx, ch, http.MethodPost, "/services/collector/event", body, encoding)
}

// taken notes what an accepting answer says of the collector, and reports
// whether to wait for an acknowledgement.
func (s *Sink) taken(a answer) (wait bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.filling = a.filling()
	switch {
	case s.ackOff:
		return false, nil
	case a.ackID != none:
		s.ackSeen = true
		return true, nil
	case s.cfg.Ack == AckOn:
		return false, sinks.Halt(fmt.Errorf(
			"answered %s without ackId, but ack is on: enable indexer acknowledgement for the token, or set ack: auto", a))
	default:
		s.ackSeen = false
		return false, nil
	}
}

// judge classes an answer that did not accept the batch.
func (s *Sink) judge(ch *channel, r *response, a answer, records, size int) error {
	if a.status == http.StatusRequestEntityTooLarge {
		return refusal(r, a)
	}
	switch a.code {
	case codeAckDisabled:
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cfg.Ack == AckAuto && !s.ackOff {
			s.ackOff = true
			return fmt.Errorf("%w (sending without acknowledgements from now on)", describe(r, a))
		}
	case codeAckAtCapacity:
		s.mu.Lock()
		defer s.mu.Unlock()
		s.leave(ch)
	case codeBadFormat, codeEventRequired, codeEventBlank, codeBadFields:
		return isolate(r, a, records, size)
	case codeBadIndex:
		if s.cfg.Index == "" {
			return isolate(r, a, records, size)
		}
	}
	return refusal(r, a)
}

// encode returns the request's body and its size before compression.
func (s *Sink) encode(batch []sinks.Message) ([]byte, int, error) {
	var body bytes.Buffer
	size, written := 0, 0
	for _, m := range batch {
		size += len(m.Body) + envelope
	}
	write := func(w io.Writer) (err error) {
		written, err = s.writeBody(w, batch)
		return err
	}
	var err error
	if s.cfg.Compression == CompressionNone {
		body.Grow(size)
		err = write(&body)
	} else {
		body.Grow(size / 6)
		err = s.packer.Pack(&body, write)
	}
	return body.Bytes(), written, err
}

// writeBody writes one envelope after the other and returns their size. A
// record without a body that can stand in one fails alone; the others were not
// sent.
func (s *Sink) writeBody(w io.Writer, batch []sinks.Message) (size int, err error) {
	opts := format.HECOptions{Index: s.cfg.Index, Source: s.cfg.Source, SourceType: s.cfg.SourceType, Host: s.cfg.Host, Object: s.objects}
	var one []byte
	for i, m := range batch {
		if one, err = format.AppendHEC(one[:0], m.Record, m.Body, opts); err != nil {
			return size, onlyFailed(len(batch), i, err)
		}
		one = append(one, '\n')
		size += len(one)
		if len(batch) > 1 && int64(size) > s.cfg.MaxBatchBytes {
			return size, sinks.TooLarge(fmt.Errorf("a request is over max_batch_bytes (%d)", s.cfg.MaxBatchBytes))
		}
		if _, err := w.Write(one); err != nil {
			return size, fmt.Errorf("make the request: %w", err)
		}
	}
	return size, nil
}

// onlyFailed says that nothing was sent because of record i of n.
func onlyFailed(n, i int, err error) error {
	if n == 1 {
		return sinks.Poison(err)
	}
	failed := make(map[int]error, n)
	for j := range n {
		failed[j] = fmt.Errorf("not sent because of record %d: %w", i, err)
	}
	failed[i] = sinks.Poison(err)
	return &sinks.PartialError{Failed: failed}
}
