package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cwprelay/cwprelay/sinks/elastic/elastictest"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
	"github.com/cwprelay/cwprelay/sinks/syslog/syslogtest"
)

// batch is the most records of one attempt unless a rig says otherwise, and
// window how many requests to a destination with acknowledgement may wait for
// it: what is in flight.
const (
	batch  = 100
	window = 4
)

// A destination is where one sink delivers to: it counts, and misbehaves as it
// is told.
type destination struct {
	name    string // of the sink
	config  string // the sink's block of the configuration; %s is the address
	address string // that it listens on; empty for a file
	index   int    // in the ledger
	ledger  *ledger
	window  int             // requests that may be in flight at once
	batch   int             // records of one of them at most
	late    bool            // what was answered is in flight until it is confirmed
	loose   bool            // keeps no order of the records of one event
	refused map[string]bool // event_uids that were refused for the moment, and come after others of their request

	catchUp func() error // waits until what was delivered is noted
	open    func() int   // connections that the daemon has
	close   func()

	mu      sync.Mutex // guards the rest and serializes requests
	manners manners
	random  *rand.Rand
	body    []byte // of the request
	size    int    // of it, about, before it was compressed
	down    bool
	arrived int   // records
	life    int   // of them since the last kill
	recent  []int // records of the last requests since the last kill, where that tells
	allowed int   // duplicates that kills and lost answers account for
	twice   int   // records of this life that had come in it before
	excused int   // of them at most, that lost answers of this life account for
	faults  map[string]int
}

// manners are the probabilities of what befalls a request.
type manners struct {
	refuse float64 // answered 503, nothing taken
	reset  float64 // the connection is cut, nothing taken
	lose   float64 // everything is taken, and the connection is cut before the answer
	slow   float64 // answered late
	large  float64 // answered 413 where it is larger than one record may be, nothing taken
	poison int     // every so many-th event is refused for good; 0: none

	restart float64 // the destination begins anew and loses what it has not confirmed
}

// bad chooses the events that a destination refuses for good, by their id: the
// same ones every time.
func (m manners) bad(id string) bool {
	if m.poison == 0 {
		return false
	}
	n := 7
	for _, c := range id {
		n = n*31 + int(c)
	}
	return (n&0x7fffffff)%m.poison == 0
}

// take notes a record, or that it could not be read.
func (d *destination) take(a arrival, err error, body []byte) {
	if err != nil {
		d.ledger.e.broke("%s was sent what cannot be read (%v): %.300q", d.name, err, body)
		return
	}
	d.arrived++
	d.life++
	if d.ledger.arrive(d.index, a, !d.loose && !d.refused[a.uid]) {
		d.twice++
	}
}

// excuse accounts for records that come again because of an answer that was
// lost.
func (d *destination) excuse(n int) {
	d.allowed += n
	d.excused += n
}

// setManners changes how the destination behaves from now on.
func (d *destination) setManners(m manners) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.manners = m
}

// setDown makes the destination refuse every request, or serve again. What
// waits to be confirmed when it goes down comes again: nobody can ask about it.
func (d *destination) setDown(down bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.down = down
	if down && d.late {
		d.excuse(d.inFlight())
	}
}

// count is how many records came.
func (d *destination) count() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.arrived
}

// killed accounts for what was in flight when the daemon was killed.
func (d *destination) killed() {
	d.mu.Lock()
	d.allowed += d.inFlight()
	d.mu.Unlock()
	d.lived()
}

// lived ends a life of the daemon: within one a record comes twice only where
// an answer was lost.
func (d *destination) lived() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.twice > d.excused {
		d.ledger.e.broke("%s got %d records twice from one and the same process; %d of them after lost answers", d.name, d.twice, d.excused)
	}
	d.recent, d.life, d.twice, d.excused = nil, 0, 0, 0
}

// inFlight is the most that may not have been settled: the last requests, where
// they are known, and no more than so many batches.
func (d *destination) inFlight() int {
	n := d.life
	if d.recent != nil {
		n = 0
		for _, r := range d.recent {
			n += r
		}
	}
	return min(n, d.window*d.batch)
}

// request notes that one request brought n records. Of a destination that
// confirms later than it answers it says nothing of what is in flight.
func (d *destination) request(n int) {
	if n == 0 || d.late {
		return
	}
	if d.recent = append(d.recent, n); len(d.recent) > d.window {
		d.recent = d.recent[1:]
	}
}

// oneRecord is more bytes than one record has in any form.
const oneRecord = 8 << 10

// fate draws what befalls a request.
func (d *destination) fate() string {
	if d.down {
		return "down"
	}
	draw := d.random.Float64()
	for _, f := range []struct {
		name string
		p    float64
	}{{"refuse", d.manners.refuse}, {"reset", d.manners.reset}, {"lose", d.manners.lose}, {"slow", d.manners.slow}, {"large", d.manners.large}} {
		if draw -= f.p; draw < 0 {
			if f.name == "large" && d.size <= oneRecord {
				return ""
			}
			d.faults[f.name]++
			return f.name
		}
	}
	return ""
}

// handler is the destination as an HTTP server: next, which takes records by
// calls of take, behind its manners.
func (d *destination) handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // broken off by the client: nothing is taken
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		answer := httptest.NewRecorder()
		d.mu.Lock()
		d.body, d.size = body, len(body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			d.size *= 4 // less than findings shrink
		}
		fate, n := d.fate(), 0
		if fate != "refuse" && fate != "reset" && fate != "down" && fate != "large" {
			before := d.arrived
			next.ServeHTTP(answer, r)
			n = d.arrived - before
			d.request(n)
			// An answer that is lost, or that refuses what comes behind, brings the
			// same records again; where records are confirmed later than answered,
			// also those whose confirmation is lost.
			if fate == "lose" || answer.Code >= http.StatusBadRequest {
				if d.late {
					n = d.window * d.batch
				}
				d.excuse(n)
			}
		}
		if r.Context().Err() != nil {
			d.excuse(n) // the client gave up meanwhile
		}
		d.mu.Unlock()
		switch fate {
		case "refuse", "down":
			http.Error(w, "overloaded", http.StatusServiceUnavailable)
			return
		case "large":
			http.Error(w, "too large", http.StatusRequestEntityTooLarge)
			return
		case "reset", "lose":
			panic(http.ErrAbortHandler) // net/http's way to end a connection
		case "slow":
			select {
			case <-time.After(50 * time.Millisecond):
			case <-r.Context().Done():
			}
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		_, _ = w.Write(answer.Body.Bytes()) // the client may be gone
	})
}

// serve makes the destination listen.
func (d *destination) serve(h http.Handler) error {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return err
	}
	var conns atomic.Int64
	d.open = func() int { return int(conns.Load()) }
	srv := &http.Server{
		Handler: d.handler(h), ReadHeaderTimeout: time.Minute, ErrorLog: silent(),
		ConnState: func(_ net.Conn, state http.ConnState) {
			switch state { //nolint:exhaustive // the others are between these
			case http.StateNew:
				conns.Add(1)
			case http.StateClosed, http.StateHijacked:
				conns.Add(-1)
			}
		},
	}
	go func() { _ = srv.Serve(ln) }()
	d.address = ln.Addr().String()
	d.close = func() { _ = srv.Close() }
	return nil
}

// everyKind is the list of destinations: each kind of sink that counts records,
// in the forms that it has by default. Endless ones keep no record that was
// counted.
func everyKind(ctx context.Context, l *ledger, dir string, cfg rigConfig) ([]*destination, error) {
	var all []*destination
	for i, open := range []func(*destination) error{
		openHEC(cfg.endless), openKafka(ctx, cfg), openElastic(cfg.endless), openRELP, openStream, openWebhook(cfg.endless), openFile(filepath.Join(dir, "archive.jsonl"), cfg.endless),
	} {
		d := &destination{
			ledger: l, window: 1, batch: cmp.Or(cfg.batch, batch), faults: map[string]int{}, random: rand.New(rand.NewPCG(l.e.Seed, uint64(100+i))),
			catchUp: func() error { return nil }, open: func() int { return 0 }, close: func() {},
		}
		err := open(d)
		if err == nil && d.address != "" && d.name != "bus" {
			d.address, err = cfg.before(d.name, d.address)
		}
		if err != nil {
			d.close()
			for _, d := range all {
				d.close()
			}
			return nil, err
		}
		d.index = l.add(d.name)
		all = append(all, d)
	}
	return all, nil
}

// openHEC is Splunk with indexer acknowledgement.
func openHEC(endless bool) func(*destination) error {
	return func(d *destination) error {
		d.name, d.window, d.late, d.loose = "soc", window, true, true
		d.config = fmt.Sprintf(`{splunk_hec: {url: "http://%%s", token: %s, ack: "on", window: %d, ack_timeout: 5s}`, hectest.DefaultToken, window)
		collector := hectest.New(hectest.Config{
			Ack: true, Volatile: true, AckDelay: 20 * time.Millisecond, Forgets: endless,
			Refuse: func(e hectest.Event) bool { return d.manners.bad(after(e.Event, `"event_id":`, ",}")) },
			Take: func(e hectest.Event) {
				a, err := ofSplunk(e.Event)
				if err == nil && a.uid != e.UID {
					err = fmt.Errorf("the indexed field says event_uid %q", e.UID)
				}
				d.take(a, err, e.Event)
			},
		})
		d.catchUp = func() error {
			return eventually(10*time.Second, func() (bool, string) {
				d.mu.Lock() // which take is called under
				defer d.mu.Unlock()
				n := collector.Pending()
				return n == 0, fmt.Sprintf("%d events are not indexed", n)
			})
		}
		return d.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			switch draw := d.random.Float64(); {
			case draw < d.manners.restart:
				d.faults["restart"]++
				collector.Restart()          // with what was not indexed yet
				d.excuse(d.window * d.batch) // and of what was it will never say so
			case draw < 2*d.manners.restart && !strings.HasSuffix(r.URL.Path, "/ack"):
				d.faults["never confirmed"]++
				collector.Next(hectest.NeverAck())
			}
			collector.ServeHTTP(w, r)
		}))
	}
}

// topic is that of the Kafka destination.
const topic = "cwp.findings"

// openKafka is a broker, read back by another implementation's client.
func openKafka(ctx context.Context, cfg rigConfig) func(*destination) error {
	return func(d *destination) error {
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
		if err != nil {
			return err
		}
		// Clients go where the broker says that it is.
		address, err := cfg.before("bus", ln.Addr().String())
		if err != nil {
			return errors.Join(err, ln.Close())
		}
		door := &elsewhere{Listener: ln, address: address, own: map[string]bool{}, conns: map[string]bool{}}
		cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic),
			kfake.ListenFn(func(string, string) (net.Listener, error) { return door, nil }))
		if err != nil {
			return err
		}
		consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond), kgo.Dialer(door.dial))
		if err != nil {
			cluster.Close()
			return err
		}
		// What is refused and what is appended without the client being told.
		draw := func(fate string) func(kmsg.Request) bool {
			return func(kmsg.Request) bool {
				d.mu.Lock()
				defer d.mu.Unlock()
				p := d.manners.refuse
				if fate == "lose" {
					p = d.manners.lose
				}
				hit := d.down && fate == "refuse" || d.random.Float64() < p
				if hit && !d.down {
					d.faults[fate]++
				}
				if hit && fate == "lose" {
					d.excuse(d.batch)
				}
				return hit
			}
		}
		produce := []kmsg.Key{kmsg.Produce}
		cluster.Fault(
			kfake.Fault{Keys: produce, Err: kerr.NotLeaderForPartition, Count: -1, When: draw("refuse")},
			kfake.Fault{Keys: produce, Err: kerr.NotEnoughReplicasAfterAppend, Count: -1, When: draw("lose")},
		)
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		var read atomic.Int64
		var reading sync.WaitGroup
		reading.Go(func() {
			for ctx.Err() == nil {
				consumer.PollFetches(ctx).EachPartition(func(p kgo.FetchTopicPartition) {
					for _, r := range p.Records {
						a, err := ofECS(r.Value)
						for _, h := range r.Headers {
							if h.Key == "event_uid" && err == nil && string(h.Value) != a.uid {
								err = fmt.Errorf("the header says event_uid %q", h.Value)
							}
						}
						d.mu.Lock()
						d.take(a, err, r.Value)
						d.mu.Unlock()
					}
					read.Add(int64(len(p.Records)))
					if n := len(p.Records); cfg.endless && n > 0 {
						// What was read and is not kept anywhere else.
						_ = cluster.DeleteRecords(topic, p.Partition, p.Records[n-1].Offset+1)
					}
				})
			}
		})
		d.name, d.address, d.open = "bus", address, door.open
		d.config = fmt.Sprintf(`{kafka: {brokers: ["%%s"], topic: %s}`, topic)
		d.catchUp = func() error {
			return eventually(30*time.Second, func() (bool, string) {
				written := int64(0)
				for _, p := range cluster.PartitionInfos(topic) {
					written += p.HighWatermark
				}
				return read.Load() == written, fmt.Sprintf("%d of %d records read back from Kafka", read.Load(), written)
			})
		}
		d.close = func() { cancel(); reading.Wait(); consumer.Close(); cluster.Close() }
		return nil
	}
}

// elsewhere is a listener that is reached at another address, and knows how
// many connections others than its own client have.
type elsewhere struct {
	net.Listener
	address string

	mu    sync.Mutex      // guards the rest
	own   map[string]bool // addresses from which our client connects
	conns map[string]bool // and those of all who are connected
}

// Addr is where clients go.
func (l *elsewhere) Addr() net.Addr {
	a, err := net.ResolveTCPAddr("tcp", l.address)
	if err != nil {
		return l.Listener.Addr()
	}
	return a
}

// Accept notes the connection.
func (l *elsewhere) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	from := c.RemoteAddr().String()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns[from] = true
	return guest{c, func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.conns, from)
	}}, nil
}

// A guest is a connection whose end is noted.
type guest struct {
	net.Conn
	left func()
}

// Close ends the connection.
func (g guest) Close() error {
	g.left()
	return g.Conn.Close()
}

// dial connects our own client.
func (l *elsewhere) dial(ctx context.Context, network, address string) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own[c.LocalAddr().String()] = true
	return c, nil
}

func (l *elsewhere) open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for from := range l.conns {
		if !l.own[from] {
			n++
		}
	}
	return n
}

// openElastic is a node's _bulk.
func openElastic(endless bool) func(*destination) error {
	return func(d *destination) error {
		d.name = "search"
		d.config = `{elasticsearch: {urls: ["http://%s"]}`
		d.refused = map[string]bool{}
		return d.serve(elastictest.New(elastictest.Config{
			Forgets: endless,
			Refuse: func(_ string, document []byte) (int, string) {
				switch {
				case d.manners.bad(after(document, `"event_id":`, ",}")):
					return http.StatusBadRequest, `{"type":"document_parsing_exception","reason":"this event is refused"}`
				case d.random.Float64() < d.manners.refuse:
					d.faults["item refused"]++
					d.refused[after(document, `"event_uid":"`, `"`)] = true
					return http.StatusTooManyRequests, `{"type":"es_rejected_execution_exception","reason":"queue is full"}`
				}
				return 0, ""
			},
			Take: func(id string, document []byte, _ bool) {
				a, err := ofECS(document)
				if err == nil && a.uid != id {
					err = fmt.Errorf("its _id is %q", id)
				}
				d.take(a, err, document)
			},
		}))
	}
}

// openWebhook is a receiver of one event a request; an endless one, of lines.
func openWebhook(endless bool) func(*destination) error {
	return func(d *destination) error {
		d.name, d.window = "hook", 20 // an attempt is so many requests
		d.config = `{webhook: {url: "http://%s/hook", allow_private: true}`
		if endless {
			d.config = `{webhook: {url: "http://%s/hook", allow_private: true, batch: ndjson}`
		}
		return d.serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			for event := range bytes.Lines(d.body) {
				a, err := ofECS(event)
				if d.manners.bad(a.id) {
					http.Error(w, "this event is refused", http.StatusUnprocessableEntity)
					return
				}
				if err == nil && !endless && a.uid != r.Header.Get("Webhook-Id") {
					err = fmt.Errorf("its webhook-id is %q", r.Header.Get("Webhook-Id"))
				}
				d.take(a, err, event)
			}
		}))
	}
}

// syslogOptions give each message its event_uid and the room to hold it whole.
const syslogOptions = "enterprise_number: 64999, max_message_bytes: 65536"

// openRELP is a receiver of RELP.
func openRELP(d *destination) error {
	d.loose = true // messages are answered one by one, and one that is refused comes later
	return d.listen("collector", `{syslog: {address: "relp://%s", `+syslogOptions+`}`, true)
}

// openStream is a receiver of syslog over TCP that reads to the end.
func openStream(d *destination) error {
	return d.listen("stream", `{syslog: {address: "tcp://%s", `+syslogOptions+`}`, false)
}

func (d *destination) listen(name, config string, relp bool) error {
	d.name, d.config = name, config
	r, err := syslogtest.Listen(nil, syslogtest.Config{
		RELP: relp,
		Answer: func(received []byte) string {
			if len(received) == 0 {
				return syslogtest.OK // a connection that only watches
			}
			d.mu.Lock()
			defer d.mu.Unlock()
			switch d.fate() {
			case "refuse", "down":
				if relp {
					return "500 overloaded"
				}
				return syslogtest.Lost
			case "reset":
				if relp {
					d.excuse(d.batch) // answers to what came before may be lost with it
					return ""
				}
				return syslogtest.Lost
			case "lose":
				d.excuse(d.batch) // a stream was taken all the same
				return ""
			case "slow":
				time.Sleep(20 * time.Millisecond)
			}
			return syslogtest.OK
		},
		Take: func(message []byte) {
			d.mu.Lock()
			defer d.mu.Unlock()
			a, err := ofCEF(message)
			d.take(a, err, message)
		},
	})
	if err != nil {
		return err
	}
	d.address, d.open = r.Addr(), r.Open
	d.close = func() {
		r.Close()
		for _, v := range r.Violations() {
			d.ledger.e.broke("%s: the receiver would not like %s", name, v)
		}
	}
	return nil
}

// openFile is a file, read as it grows. The beginning of a line that a killed
// process left is ended by the next; the record follows whole.
func openFile(path string, endless bool) func(*destination) error {
	return func(d *destination) error {
		d.name, d.config = "archive", fmt.Sprintf(`{file: {path: %q}`, path)
		if endless {
			d.config = fmt.Sprintf(`{file: {path: %q, rotate: {max_bytes: %d, keep: 3}}`, path, 100<<20)
		}
		lines := tail{path: path}
		d.catchUp = func() error {
			return lines.read(func(line []byte) {
				d.mu.Lock()
				defer d.mu.Unlock()
				a, err := ofECS(line)
				if err != nil || line[len(line)-1] != '}' {
					d.faults["torn lines"]++
					return
				}
				d.take(a, nil, line)
			})
		}
		d.close = lines.close
		return nil
	}
}
