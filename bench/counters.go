package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// A counter is a destination that takes everything and counts.
type counter interface {
	// begin forgets what came.
	begin()
	// count says how many events came and when the last of them was answered.
	// It may take a while; while it is called nothing that is measured runs.
	count() (events int, last time.Time)
	// seen changes whenever something comes.
	seen() int64
	// bytes is how much came, as it was sent.
	bytes() int64
}

// traffic is what all counters note.
type traffic struct {
	arrivals atomic.Int64
	size     atomic.Int64
	last     atomic.Int64
}

func (t *traffic) begin()       { t.arrivals.Store(0); t.size.Store(0); t.last.Store(0) }
func (t *traffic) seen() int64  { return t.arrivals.Load() }
func (t *traffic) bytes() int64 { return t.size.Load() }

func (t *traffic) came(bytes int) {
	t.arrivals.Add(1)
	t.size.Add(int64(bytes))
	t.last.Store(time.Now().UnixNano())
}

func (t *traffic) lastAt() time.Time { return time.Unix(0, t.last.Load()) }

// An hec is Splunk's collector, without acknowledgements. Bodies are kept and
// counted afterwards, so that counting takes no time from what is measured.
type hec struct {
	traffic

	mu     sync.Mutex // guards the rest
	bodies []body
	events int
}

type body struct {
	data   []byte
	packed bool
	at     time.Time // when it was answered
}

func (h *hec) begin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.traffic.begin()
	h.bodies, h.events = nil, 0
}

func (h *hec) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/health") {
		_, _ = io.WriteString(w, `{"text":"HEC is healthy","code":17}`) // who asked has gone
		return
	}
	data, err := readBody(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = io.WriteString(w, `{"text":"Success","code":0}`) // who asked has gone
	h.mu.Lock()
	h.bodies = append(h.bodies, body{data, r.Header.Get("Content-Encoding") == "gzip", time.Now()})
	h.mu.Unlock()
	h.came(len(data))
}

func readBody(r *http.Request) ([]byte, error) {
	if r.ContentLength <= 0 {
		return io.ReadAll(r.Body)
	}
	data := make([]byte, r.ContentLength)
	_, err := io.ReadFull(r.Body, data)
	return data, err
}

// count counts the envelopes: each has one "event" at its top level, and a
// record holds that key nowhere else in this form.
func (h *hec) count() (int, time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, b := range h.bodies {
		text, err := b.open()
		if err != nil {
			continue // an event that cannot be read did not arrive
		}
		h.events += envelopes(text)
	}
	h.bodies = nil
	return h.events, h.lastAt()
}

// arrivals are the times at which each event came first, by its place in the
// list.
func (h *hec) arrivals() (map[int]time.Time, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	out := map[int]time.Time{}
	id := regexp.MustCompile(`"event_id":(\d+)`)
	for _, b := range h.bodies {
		text, err := b.open()
		if err != nil {
			return nil, err
		}
		for _, found := range id.FindAllSubmatch(text, -1) {
			n, err := strconv.Atoi(string(found[1]))
			if err != nil {
				return nil, err
			}
			if at, ok := out[n-firstID]; !ok || b.at.Before(at) {
				out[n-firstID] = b.at
			}
		}
	}
	return out, nil
}

func (b body) open() ([]byte, error) {
	if !b.packed {
		return b.data, nil
	}
	r, err := gzip.NewReader(bytes.NewReader(b.data))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// envelopes counts the JSON objects that stand one after the other.
func envelopes(text []byte) int {
	n, depth, quoted := 0, 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{':
			if depth == 0 {
				n++
			}
			depth++
		case c == '}':
			depth--
		}
	}
	return n
}

// A bulk is Elasticsearch's _bulk. It must say something of each document, so
// it counts at once.
type bulk struct {
	traffic

	events  atomic.Int64
	answers sync.Map // of the answer to so many documents
}

func (b *bulk) begin() {
	b.traffic.begin()
	b.events.Store(0)
}

func (b *bulk) count() (int, time.Time) { return int(b.events.Load()), b.lastAt() }

func (b *bulk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Elastic-Product", "Elasticsearch")
	if r.Method != http.MethodPost {
		_, _ = io.WriteString(w, `{"version":{"number":"9.1.0"}}`) // who asked has gone
		return
	}
	data, err := readBody(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	text, err := body{data: data, packed: r.Header.Get("Content-Encoding") == "gzip"}.open()
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	n := bytes.Count(text, []byte{'\n'}) / 2
	_, _ = w.Write(b.answer(n)) // who asked has gone
	b.events.Add(int64(n))
	b.came(len(data))
}

func (b *bulk) answer(n int) []byte {
	if known, ok := b.answers.Load(n); ok {
		return known.([]byte)
	}
	text := `{"took":3,"errors":false,"items":[` +
		strings.TrimSuffix(strings.Repeat(`{"create":{"_index":"bench","_id":"x","status":201}},`, n), ",") + `]}`
	b.answers.Store(n, []byte(text))
	return []byte(text)
}

// A broker is a Kafka broker that stores nothing. It counts by the heads of
// the batches, which say how many records they hold.
type broker struct {
	traffic

	cluster *kfake.Cluster
	events  atomic.Int64
}

const topic = "bench"

// newBroker listens on a port, or any with 0.
func newBroker(port int) (*broker, error) {
	b := &broker{}
	opts := []kfake.Opt{kfake.NumBrokers(1), kfake.SeedTopics(3, topic), kfake.BlackholeProduce()}
	if port != 0 {
		opts = append(opts, kfake.Ports(port))
	}
	var err error
	if b.cluster, err = kfake.NewCluster(opts...); err != nil {
		return nil, fmt.Errorf("start the broker: %w", err)
	}
	b.watch()
	return b, nil
}

// watch counts the records of the requests, which go on to the cluster.
func (b *broker) watch() {
	b.cluster.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		b.cluster.KeepControl()
		for _, t := range r.(*kmsg.ProduceRequest).Topics {
			for _, p := range t.Partitions {
				b.events.Add(recordsOf(p.Records))
				b.came(len(p.Records))
			}
		}
		return nil, nil, false
	})
}

// recordsOf counts the records of batches of format 2.
func recordsOf(data []byte) (n int64) {
	const head = 61
	for len(data) >= head {
		n += int64(binary.BigEndian.Uint32(data[57:]))
		length := int64(binary.BigEndian.Uint32(data[8:])) + 12
		if length > int64(len(data)) {
			return n
		}
		data = data[length:]
	}
	return n
}

func (b *broker) begin() {
	b.traffic.begin()
	b.events.Store(0)
}

func (b *broker) count() (int, time.Time) { return int(b.events.Load()), b.lastAt() }

// A collector takes syslog over TCP with counted octets, and knows lines too.
type collector struct {
	traffic

	events atomic.Int64
}

func (c *collector) begin() {
	c.traffic.begin()
	c.events.Store(0)
}

func (c *collector) count() (int, time.Time) { return int(c.events.Load()), c.lastAt() }

// serve takes connections until the listener is closed.
func (c *collector) serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go c.read(conn)
	}
}

func (c *collector) read(conn net.Conn) {
	defer conn.Close() //nolint:errcheck // it was only read
	r := bufio.NewReaderSize(conn, 256<<10)
	for {
		head, err := r.Peek(1)
		if err != nil {
			return
		}
		var size int
		if head[0] == '<' { // a line
			line, err := r.ReadSlice('\n')
			if err != nil {
				return
			}
			size = len(line)
		} else {
			digits, err := r.ReadSlice(' ')
			if err != nil {
				return
			}
			n, err := strconv.Atoi(string(digits[:len(digits)-1]))
			if err != nil {
				return
			}
			if _, err := r.Discard(n); err != nil {
				return
			}
			size = n + len(digits)
		}
		c.events.Add(1)
		if r.Buffered() == 0 || c.events.Load()%64 == 0 {
			c.came(0) // a look at the clock for each would be felt
		}
		c.size.Add(int64(size))
	}
}

// listen opens a port on loopback, any with 0.
func listen(ctx context.Context, port int) (net.Listener, error) {
	return (&net.ListenConfig{}).Listen(ctx, "tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
}
