// Package hectest emulates Splunk's HTTP Event Collector strictly, for tests
// and for judging from outside: what the documentation says that a collector
// refuses is refused, with its code, and what it silently loses is lost.
//
// It keeps what it indexed in memory and forgets nothing, acknowledgements
// apart: like the collector it tells each "true" once.
package hectest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Config says what the collector demands. The zero value demands a token of
// its default value and acknowledges nothing.
type Config struct {
	Token         string        // default "hectest-token"
	TokenDisabled bool          // every request is answered with code 1
	Ack           bool          // indexer acknowledgement: ids in answers, channels required
	AckDelay      time.Duration // from the answer until the acknowledgement can be had
	Indexes       []string      // the allow-list; empty allows all
	MaxBody       int           // bytes after decompression, answered with 413; default 800 MiB
	CloudLimit    int           // bytes after decompression, answered with code 6 naming object 0; 0: none
	TakesNothing  bool          // a receiver that indexes nothing of a refused request, unlike Splunk

	// Refuse says of an event that it is refused, with code 6. Nil: none is.
	Refuse func(Event) bool
	// Take is given each event that is indexed. It is called by one goroutine at
	// a time. Nil: nobody is told.
	Take func(Event)
	// Volatile is a collector whose events are indexed when their
	// acknowledgement can be had, and are lost when it is restarted before.
	Volatile bool
	// Forgets is a collector that keeps nothing of what it indexed.
	Forgets bool
}

// DefaultToken is the token of a Config without one.
const DefaultToken = "hectest-token"

// An Event is one object that was indexed.
type Event struct {
	UID        string          // fields.cwp_event_uid, "" if there is none
	Time       json.Number     // epoch seconds
	Host       string          //
	Source     string          //
	SourceType string          //
	Index      string          // "" is the token's default
	Event      json.RawMessage // the event itself
	Fields     map[string]any  // indexed fields
	Request    int             // number of the request that brought it, from 1
	Channel    string          // its X-Splunk-Request-Channel
}

// An Endpoint is one of the collector's addresses.
type Endpoint string

// The endpoints.
const (
	Events Endpoint = "event"
	Acks   Endpoint = "ack"
	Health Endpoint = "health"
)

// A Fault is what one request meets in place of the usual answer. The zero
// value of each field changes nothing.
type Fault struct {
	On         Endpoint      // the endpoint it waits for; empty: Events
	Apply      bool          // the request is applied (events are indexed) before the rest happens
	Delay      time.Duration // passes before the answer
	Status     int           // answered; 0 with the other fields empty: the usual answer
	Code       int           // of the JSON body, where Body is empty and Status is set
	Body       string        // in place of a JSON body
	RetryAfter string        // the header
	Drop       bool          // the connection is cut without an answer
	Truncate   bool          // the answer is cut in the middle of its body
	NeverAck   bool          // the answer is usual, the acknowledgement never comes
}

// Busy is code 9: nothing was taken.
func Busy() Fault { return Fault{Status: http.StatusServiceUnavailable, Code: 9} }

// Internal is code 8; whether events were taken is open.
func Internal(applied bool) Fault {
	return Fault{Status: http.StatusInternalServerError, Code: 8, Apply: applied}
}

// LostAnswer indexes the events and cuts the connection before the answer.
func LostAnswer() Fault { return Fault{Apply: true, Drop: true} }

// NeverAck takes the events and never confirms them; a volatile collector has
// lost them.
func NeverAck() Fault { return Fault{NeverAck: true} }

// Slow answers as usual after d.
func Slow(d time.Duration) Fault { return Fault{Delay: d} }

// TooMany is a load balancer's 429.
func TooMany(retryAfter string) Fault {
	return Fault{Status: http.StatusTooManyRequests, Body: "slow down", RetryAfter: retryAfter}
}

// BadGateway is a proxy's page.
func BadGateway() Fault {
	return Fault{Status: http.StatusBadGateway, Body: "<html><head><title>502 Bad Gateway</title></head>\n<body>\n<h1>502 Bad Gateway</h1></body></html>"}
}

// Truncated indexes the events and breaks off within the body of its 200.
func Truncated() Fault { return Fault{Apply: true, Truncate: true} }

// A Server is the collector, an http.Handler. It is safe for concurrent use.
type Server struct {
	cfg Config

	mu       sync.Mutex // guards everything below
	faults   map[Endpoint][]Fault
	standing map[Endpoint]*Fault
	requests map[Endpoint]int
	events   []Event
	seen     map[string]int // how often each uid was indexed
	wrong    []string       // what a client must not do and a collector does not tell
	channels map[string]*channel
	tokenOff bool
	pending  []batch // of a volatile collector, in order
}

type channel struct {
	next int64
	acks map[int64]time.Time // when each untold acknowledgement can be had
}

// batch is what one request brought and a restart loses.
type batch struct {
	events []Event
	ready  time.Time
}

// never is when a batch is confirmed that never is.
func never() time.Time { return time.Unix(1<<40, 0) }

// New makes a collector.
func New(cfg Config) *Server {
	if cfg.Token == "" {
		cfg.Token = DefaultToken
	}
	if cfg.MaxBody == 0 {
		cfg.MaxBody = 800 << 20
	}
	return &Server{
		cfg: cfg, tokenOff: cfg.TokenDisabled,
		faults: map[Endpoint][]Fault{}, standing: map[Endpoint]*Fault{}, requests: map[Endpoint]int{},
		seen: map[string]int{}, channels: map[string]*channel{},
	}
}

// Next makes the next requests meet these faults, one each, after those that
// were asked for before.
func (s *Server) Next(faults ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.faults[f.endpoint()] = append(s.faults[f.endpoint()], f)
	}
}

// Always makes every request meet f, until Recover. Faults of Next go first.
func (s *Server) Always(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.standing[f.endpoint()] = &f
}

// Recover ends all faults.
func (s *Server) Recover() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.faults)
	clear(s.standing)
}

// Restart forgets channels and acknowledgements, as a restarted collector
// does: ids begin at 0 again. Events stay, but for those that a volatile one
// has not indexed.
func (s *Server) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ripen()
	s.pending = nil
	clear(s.channels)
}

// SetAck switches indexer acknowledgement of the token on or off.
func (s *Server) SetAck(on bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Ack = on
}

// DisableToken switches the token off or on again.
func (s *Server) DisableToken(off bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokenOff = off
}

// Events returns what was indexed, in order, duplicates included.
func (s *Server) Events() []Event {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.events)
}

// UIDs returns the uids of what was indexed, in order, duplicates included.
func (s *Server) UIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	uids := make([]string, 0, len(s.events))
	for _, e := range s.events {
		uids = append(uids, e.UID)
	}
	return uids
}

// Pending is how many events a volatile collector has not indexed yet.
func (s *Server) Pending() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ripen()
	n := 0
	for _, b := range s.pending {
		n += len(b.events)
	}
	return n
}

// ripen indexes what can be acknowledged by now. The caller holds mu.
func (s *Server) ripen() {
	now := time.Now()
	s.pending = slices.DeleteFunc(s.pending, func(b batch) bool {
		if now.Before(b.ready) {
			return false
		}
		s.index(b.events)
		return true
	})
}

// index takes events for good. The caller holds mu.
func (s *Server) index(events []Event) {
	for _, e := range events {
		if s.cfg.Take != nil {
			s.cfg.Take(e)
		}
		if !s.cfg.Forgets {
			s.events = append(s.events, e)
			s.seen[e.UID]++
		}
	}
}

// Distinct is the number of different uids that were indexed.
func (s *Server) Distinct() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.seen)
}

// Duplicates is how many times an uid was indexed that had been before.
func (s *Server) Duplicates() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.events) - len(s.seen)
}

// Requests is how many requests an endpoint has had.
func (s *Server) Requests(on Endpoint) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests[on]
}

// Violations returns what clients did that a collector does not refuse but
// that loses events: unknown keys of an envelope, or no channel.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.wrong)
}

func (f Fault) endpoint() Endpoint {
	if f.On == "" {
		return Events
	}
	return f.On
}

// replaces reports whether the fault has an answer of its own.
func (f Fault) replaces() bool { return f.Status != 0 || f.Drop }

// ServeHTTP answers as a collector does.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	on, ok := endpointOf(r.URL.Path)
	if !ok {
		http.Error(w, "The requested URL was not found on this server.", http.StatusNotFound)
		return
	}
	body, status := readBody(r, s.cfg.MaxBody)
	s.mu.Lock()
	f := s.fault(on)
	var a answer
	if !f.replaces() || f.Apply {
		a = s.handle(on, r, body, status, f)
	}
	s.mu.Unlock()
	if f.Delay > 0 {
		select {
		case <-time.After(f.Delay):
		case <-r.Context().Done():
			return
		}
	}
	f.answer(w, a)
}

// answer is a status and its JSON body; a body of nil is a plain text.
type answer struct {
	status int
	body   map[string]any
}

// answer writes a, or what the fault has in its place.
func (f Fault) answer(w http.ResponseWriter, a answer) {
	if f.Drop {
		panic(http.ErrAbortHandler) // net/http closes the connection
	}
	if f.Status != 0 {
		a = say(f.Status, f.Code, "Fault")
	}
	if f.RetryAfter != "" {
		w.Header().Set("Retry-After", f.RetryAfter)
	}
	text := []byte(f.Body)
	switch {
	case f.Body != "":
		w.Header().Set("Content-Type", "text/html")
	case a.body == nil:
		w.Header().Set("Content-Type", "text/plain")
		text = []byte(http.StatusText(a.status))
	default:
		w.Header().Set("Content-Type", "application/json; charset=UTF-8")
		text, _ = json.Marshal(a.body) // plain values always can
	}
	if f.Truncate {
		w.Header().Set("Content-Length", strconv.Itoa(len(text)))
		text = text[:len(text)/2]
	}
	w.WriteHeader(a.status)
	_, _ = w.Write(text) // the client may be gone
	if f.Truncate {
		if flusher, ok := w.(http.Flusher); ok {
			flusher.Flush()
		}
		panic(http.ErrAbortHandler)
	}
}

// fault takes the next fault of an endpoint and counts the request. The caller
// holds mu.
func (s *Server) fault(on Endpoint) Fault {
	s.requests[on]++
	if queue := s.faults[on]; len(queue) > 0 {
		s.faults[on] = queue[1:]
		return queue[0]
	}
	if f := s.standing[on]; f != nil {
		return *f
	}
	return Fault{}
}

func endpointOf(path string) (Endpoint, bool) {
	switch strings.TrimPrefix(path, "/services/collector") {
	case "", "/event", "/event/1.0":
		return Events, true
	case "/ack", "/ack/1.0":
		return Acks, true
	case "/health", "/health/1.0":
		return Health, true
	default:
		return "", false
	}
}

// readBody returns the body after decompression, or the status that its form
// earns.
func readBody(r *http.Request, limit int) ([]byte, int) {
	var from io.Reader = r.Body
	switch r.Header.Get("Content-Encoding") {
	case "":
	case "gzip":
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			return nil, http.StatusBadRequest
		}
		from = unpacked
	default:
		return nil, http.StatusUnsupportedMediaType
	}
	body, err := io.ReadAll(io.LimitReader(from, int64(limit)+1))
	switch {
	case err != nil:
		return nil, http.StatusBadRequest
	case len(body) > limit:
		return nil, http.StatusRequestEntityTooLarge
	default:
		return body, 0
	}
}

func say(status, code int, text string) answer {
	return answer{status, map[string]any{"text": text, "code": code}}
}

// about adds the number of the object that the answer is about.
func (a answer) about(object int) answer {
	a.body["invalid-event-number"] = object
	return a
}

// handle is what the collector does without a fault. The caller holds mu.
func (s *Server) handle(on Endpoint, r *http.Request, body []byte, status int, f Fault) answer {
	if a, refused := s.authorize(on, r); refused {
		return a
	}
	if on == Health {
		return say(http.StatusOK, 17, "HEC is healthy")
	}
	if r.Method != http.MethodPost {
		return answer{status: http.StatusMethodNotAllowed}
	}
	switch status {
	case 0:
	case http.StatusBadRequest:
		return say(status, 6, "Invalid data format").about(0)
	default:
		return answer{status: status}
	}
	id := r.Header.Get("X-Splunk-Request-Channel")
	if id == "" {
		s.wrong = append(s.wrong, "no channel")
		if s.cfg.Ack || on == Acks {
			return say(http.StatusBadRequest, 10, "Data channel is missing")
		}
	} else if !channelForm().MatchString(id) {
		return say(http.StatusBadRequest, 11, "Invalid data channel")
	}
	if on == Acks {
		return s.tell(id, body)
	}
	if r.Header.Get("Content-Type") != "application/json" {
		s.wrong = append(s.wrong, "content type "+r.Header.Get("Content-Type"))
	}
	return s.take(id, body, f)
}

func channelForm() *regexp.Regexp {
	return regexp.MustCompile(`^(?i)[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)
}

// authorize checks the token as the endpoint does.
func (s *Server) authorize(on Endpoint, r *http.Request) (answer, bool) {
	if r.URL.Query().Has("token") {
		return say(http.StatusBadRequest, 16, "Query string authorization is not enabled"), true
	}
	header := r.Header.Get("Authorization")
	token, splunk := strings.CutPrefix(header, "Splunk ")
	bad, off := say(http.StatusForbidden, 4, "Invalid token"), say(http.StatusForbidden, 1, "Token disabled")
	if on == Health {
		bad, off = say(http.StatusBadRequest, 21, "Invalid token"), say(http.StatusBadRequest, 22, "Token disabled")
	}
	switch {
	case header == "":
		return say(http.StatusUnauthorized, 2, "Token is required"), true
	case !splunk:
		return say(http.StatusUnauthorized, 3, "Invalid authorization"), true
	case token != s.cfg.Token:
		return bad, true
	case s.tokenOff:
		return off, true
	default:
		return answer{}, false
	}
}

// tell answers which ids were indexed; each true is told once.
func (s *Server) tell(id string, body []byte) answer {
	if !s.cfg.Ack {
		return say(http.StatusBadRequest, 14, "ACK is disabled")
	}
	var ask struct {
		Acks []int64 `json:"acks"`
	}
	if err := json.Unmarshal(body, &ask); err != nil || ask.Acks == nil {
		return say(http.StatusBadRequest, 6, "Invalid data format")
	}
	s.ripen()
	told := map[string]bool{}
	for _, ack := range ask.Acks {
		done := false
		if ch := s.channels[id]; ch != nil {
			ready, open := ch.acks[ack]
			if done = open && !time.Now().Before(ready); done {
				delete(ch.acks, ack)
			}
		}
		told[strconv.FormatInt(ack, 10)] = done
	}
	return answer{http.StatusOK, map[string]any{"acks": told}}
}

// take indexes the objects of a body up to the first that is refused.
func (s *Server) take(id string, body []byte, f Fault) answer {
	if len(bytes.TrimSpace(body)) == 0 {
		return say(http.StatusBadRequest, 5, "No data")
	}
	if s.cfg.CloudLimit > 0 && len(body) > s.cfg.CloudLimit {
		return say(http.StatusBadRequest, 6, "Invalid data format").about(0)
	}
	good, problem := s.cut(body)
	if problem.body != nil && s.cfg.TakesNothing {
		return problem
	}
	for i := range good {
		good[i].Request, good[i].Channel = s.requests[Events], id
	}
	switch {
	case s.cfg.Volatile && f.NeverAck: // what is never confirmed was lost
	case s.cfg.Volatile:
		s.pending = append(s.pending, batch{good, time.Now().Add(f.Delay + s.cfg.AckDelay)})
	default:
		s.index(good)
	}
	if problem.body != nil {
		return problem
	}
	a := say(http.StatusOK, 0, "Success")
	if s.cfg.Ack {
		a.body["ackId"] = s.acknowledge(id, f)
	}
	return a
}

// acknowledge hands out the next id of a channel.
func (s *Server) acknowledge(id string, f Fault) int64 {
	ch := s.channels[id]
	if ch == nil {
		ch = &channel{acks: map[int64]time.Time{}}
		s.channels[id] = ch
	}
	ack := ch.next
	ch.next++
	ch.acks[ack] = time.Now().Add(f.Delay + s.cfg.AckDelay)
	if f.NeverAck {
		ch.acks[ack] = never()
	}
	return ack
}

// cut returns the objects before the first that is refused, and its answer.
func (s *Server) cut(body []byte) ([]Event, answer) {
	var good []Event
	objects := json.NewDecoder(bytes.NewReader(body))
	for n := 0; ; n++ {
		var object map[string]json.RawMessage
		switch err := objects.Decode(&object); {
		case errors.Is(err, io.EOF):
			return good, answer{}
		case err != nil || object == nil:
			return good, say(http.StatusBadRequest, 6, "Invalid data format").about(n)
		}
		if key, found := unknownKey(object); found {
			s.wrong = append(s.wrong, "envelope key "+key)
			return good, answer{} // lost in silence, with all that follow
		}
		e, refused := s.object(object, n)
		if refused.body != nil {
			return good, refused
		}
		good = append(good, e)
	}
}

func unknownKey(object map[string]json.RawMessage) (string, bool) {
	for key := range object {
		switch key {
		case "time", "host", "source", "sourcetype", "index", "event", "fields":
		default:
			return key, true
		}
	}
	return "", false
}

// object reads envelope number n.
func (s *Server) object(object map[string]json.RawMessage, n int) (Event, answer) {
	bad := func(code int, text string) (Event, answer) {
		return Event{}, say(http.StatusBadRequest, code, text).about(n)
	}
	raw, given := object["event"]
	if !given || string(raw) == "null" {
		return bad(12, "Event field is required")
	}
	var blank string
	if json.Unmarshal(raw, &blank) == nil && strings.TrimSpace(blank) == "" {
		return bad(13, "Event field cannot be blank")
	}
	e := Event{Event: slices.Clone(raw)}
	for key, into := range map[string]*string{
		"host": &e.Host, "source": &e.Source, "sourcetype": &e.SourceType, "index": &e.Index,
	} {
		if value, given := object[key]; given && json.Unmarshal(value, into) != nil {
			return bad(6, "Invalid data format")
		}
	}
	if value, given := object["time"]; given {
		if err := json.Unmarshal(value, &e.Time); err != nil {
			return bad(6, "Invalid data format")
		}
		if _, err := e.Time.Float64(); err != nil {
			return bad(6, "Invalid data format")
		}
	}
	if value, given := object["fields"]; given {
		fields, err := flat(value)
		if err != nil {
			return bad(15, "Error in handling indexed fields")
		}
		e.Fields = fields
		e.UID, _ = fields["cwp_event_uid"].(string)
	}
	if len(s.cfg.Indexes) > 0 && e.Index != "" && !slices.Contains(s.cfg.Indexes, e.Index) {
		a := say(http.StatusBadRequest, 7, "Incorrect index").about(n + 1) // the collector names the object after it
		return Event{}, a
	}
	if s.cfg.Refuse != nil && s.cfg.Refuse(e) {
		return bad(6, "Invalid data format")
	}
	return e, answer{}
}

// flat reads indexed fields: strings, numbers, booleans and arrays of strings.
func flat(raw json.RawMessage) (map[string]any, error) {
	var fields map[string]any
	if err := json.Unmarshal(raw, &fields); err != nil {
		return nil, fmt.Errorf("read fields: %w", err)
	}
	if fields == nil {
		return nil, errors.New("fields is null")
	}
	for key, value := range fields {
		switch v := value.(type) {
		case string, float64, bool:
		case []any:
			for _, item := range v {
				if _, text := item.(string); !text {
					return nil, fmt.Errorf("field %s holds more than text", key)
				}
			}
		default:
			return nil, fmt.Errorf("field %s is not flat", key)
		}
	}
	return fields, nil
}
