package emulator

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// A Server is the API over HTTP: a World behind signatures, a rate limit and
// faults. Beside the API it has control endpoints under /-/, which are not
// signed and which the real API does not have:
//
//	GET  /-/truth?from=TIME&to=TIME   the pairs that were visible throughout; without times, the present ones
//	POST /-/truth                     JSON lines {"id":…,"raw":…}: which of them were never shown
//	POST /-/mutate                    changes of the list, see mutation
//	GET, POST /-/faults               faults and quirks, see faultsControl
//	POST /-/credentials               {"secret_id":…,"secret_key":…,"token":…}: rotates what is accepted
//	GET  /-/stats                     requests by code, size of the list, changes
//
// TIME is RFC 3339 or Unix nanoseconds.
type Server struct {
	world   *World
	account string
	skew    atomic.Int64 // nanoseconds by which its clock is ahead
	limit   int

	// mu guards what follows and orders changes of the list against answers:
	// the time of a change is taken while no answer is computed, so the truth
	// is exact to the nanosecond.
	mu        sync.Mutex
	secretID  string
	secretKey string
	token     string
	rate      float64
	faults    Faults
	random    *rand.Rand // chooses faults and request ids
	arrivals  map[string][]time.Time
	codes     map[string]int
	ops       map[Op]int
}

// New makes a server of a valid cfg. Its list is filled at once; it changes
// while Run runs.
func New(cfg Config) *Server {
	cfg = cfg.WithDefaults()
	s := &Server{
		world:     NewWorld(cfg.Seed, cfg.Events, time.Now()),
		account:   cfg.Account,
		limit:     cfg.Limit,
		secretID:  cfg.SecretID,
		secretKey: cfg.SecretKey.Reveal(),
		token:     cfg.Token.Reveal(),
		rate:      cfg.Rate,
		faults:    cfg.Faults,
		random:    rand.New(rand.NewPCG(cfg.Seed, 3)),
		arrivals:  map[string][]time.Time{},
		codes:     map[string]int{},
		ops:       map[Op]int{},
	}
	s.world.SetQuirks(cfg.Quirks)
	s.SetClockSkew(cfg.ClockSkew)
	return s
}

// World is the list that the server serves. Its truth may be read at any time;
// it is changed through Change.
func (s *Server) World() *World { return s.world }

// Change lets f change the list. The changes bear the present time.
func (s *Server) Change(f func(*World)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.world.Advance(time.Now())
	f(s.world)
}

// SetFaults replaces the faults, which must be valid.
func (s *Server) SetFaults(f Faults) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = f
}

// SetClockSkew sets by how much the emulator's clock is ahead.
func (s *Server) SetClockSkew(d time.Duration) { s.skew.Store(int64(d)) }

// clock is the emulator's time.
func (s *Server) clock() time.Time { return time.Now().Add(time.Duration(s.skew.Load())) }

// SetRate sets how many operations per second Run lets happen.
func (s *Server) SetRate(rate float64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rate = rate
}

// SetCredentials replaces what is accepted: keys that are rotated. An empty
// token means that the credentials are not temporary.
func (s *Server) SetCredentials(secretID, secretKey, token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.secretID, s.secretKey, s.token = secretID, secretKey, token
}

// beat is how often Run looks whether operations are due.
const beat = 20 * time.Millisecond

// Run lets the list change at the configured rate until ctx is done.
func (s *Server) Run(ctx context.Context) error {
	ticker := time.NewTicker(beat)
	defer ticker.Stop()
	due := 0.0
	last := time.Now()
	for ctx.Err() == nil {
		select {
		case <-ctx.Done():
			return nil
		case now := <-ticker.C:
			due = s.step(due, now.Sub(last))
			last = now
		}
	}
	return nil
}

// step lets happen what is due after a time has passed, and returns the part
// of an operation that is left.
func (s *Server) step(due float64, passed time.Duration) float64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.rate == 0 {
		return 0
	}
	// After a standstill of the machine the list does not make up for it.
	due = min(due+s.rate*passed.Seconds(), max(s.rate, 1))
	for ; due >= 1; due-- {
		s.ops[s.world.Step(time.Now())]++
	}
	return due
}

// Serve serves HTTP on ln and lets the list change, until ctx is done. It
// closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second,
		BaseContext: func(net.Listener) context.Context { return ctx }, // ends the waits of slow answers
	}
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(ln)
		cancel()
	}()
	runErr := s.Run(ctx)

	last, cancelLast := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancelLast()
	if srv.Shutdown(last) != nil {
		_ = srv.Close() // whoever is still connected sends or reads nothing
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return errors.Join(fmt.Errorf("serve the emulator: %w", err), runErr)
	}
	return runErr
}

// maxBody is the API's own limit on a request.
const maxBody = 10 << 20

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if path, ok := strings.CutPrefix(r.URL.Path, "/-/"); ok {
		s.control(w, r, path)
		return
	}
	arrived := time.Now()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.reply(w, nil, &APIError{Code: "RequestSizeLimitExceeded", Message: "The request is larger than 10 MB or was cut short."})
		return
	}
	fate := s.fate()
	switch fate.name {
	case "reset":
		s.count("fault.reset")
		wait(r.Context(), fate.delay)
		reset(w)
		return
	case "not_json":
		s.count("fault.not_json")
		wait(r.Context(), fate.delay)
		w.Header().Set("Content-Type", "text/html")
		_, _ = io.WriteString(w, "<html><body><h1>Please log in to the network</h1></body></html>") // the client may be gone
		return
	case "server_error":
		s.count("fault.server_error")
		wait(r.Context(), fate.delay)
		http.Error(w, "<html><head><title>"+strconv.Itoa(fate.status)+"</title></head></html>", fate.status)
		return
	}
	response, apiErr := s.answer(r, body, arrived, fate)
	if fate.name == "truncate" {
		s.count("fault.truncate")
		s.truncate(w, response, apiErr)
		return
	}
	s.reply(w, response, apiErr)
}

// A fate is what becomes of a request.
type fate struct {
	delay  time.Duration
	name   string // of a fault, or a code of the API; empty: nothing befalls it
	status int    // of a server error
	off    int    // of a wrong total
}

// fate draws what becomes of the next request. Every request draws the same
// number of times, so that one fault does not change those after it.
func (s *Server) fate() fate {
	s.mu.Lock()
	defer s.mu.Unlock()
	draw, jitter, detail := s.random.Float64(), s.random.Float64(), s.random.IntN(20)
	f := fate{
		delay:  s.faults.Latency + time.Duration(jitter*float64(s.faults.Jitter)),
		status: []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}[detail%4],
		off:    detail - 10,
	}
	if f.off >= 0 {
		f.off++ // never 0
	}
	for _, o := range s.faults.odds() {
		if draw -= *o.p; draw < 0 {
			f.name = o.name
			return f
		}
	}
	for _, code := range slices.Sorted(maps.Keys(s.faults.Codes)) {
		if draw -= s.faults.Codes[code]; draw < 0 {
			f.name = code
			return f
		}
	}
	return f
}

// answer is the Response of a request, without its RequestId.
func (s *Server) answer(r *http.Request, body []byte, arrived time.Time, fate fate) ([]byte, *APIError) {
	action := r.Header.Get("X-TC-Action")
	if err := s.admit(r, body, action, arrived); err != nil {
		return nil, err
	}
	// One half of the delay lies before the answer is computed, one after, so
	// that answers can overtake each other.
	wait(r.Context(), fate.delay/2)
	defer wait(r.Context(), fate.delay-fate.delay/2)
	if fate.name != "" && fate.name[0] <= 'Z' {
		return nil, &APIError{Code: fate.name, Message: "This error was asked for: the emulator's faults name it."}
	}
	if action == "GetCallerIdentity" {
		return s.identity(), nil
	}
	return s.events(body, fate)
}

// admit checks everything that the API checks before it looks at the
// parameters of an action.
func (s *Server) admit(r *http.Request, body []byte, action string, arrived time.Time) *APIError {
	version := r.Header.Get("X-TC-Version")
	switch {
	case r.Method != http.MethodPost:
		return &APIError{Code: "UnsupportedProtocol", Message: "This emulation of the API speaks POST only."}
	case !strings.HasPrefix(strings.ToLower(r.Header.Get("Content-Type")), "application/json"):
		return &APIError{Code: "InvalidRequest", Message: "Content-Type must be application/json."}
	case action == "":
		return &APIError{Code: "MissingParameter", Message: "The request is missing the required header X-TC-Action."}
	case version == "":
		return &APIError{Code: "MissingParameter", Message: "The request is missing the required header X-TC-Version."}
	}
	credential, err := s.authenticate(r, body)
	if err != nil {
		return err
	}
	offered := map[string]struct{ version, action string }{
		"cwp": {"2018-02-28", "DescribeRiskProcessEvents"},
		"sts": {"2018-08-13", "GetCallerIdentity"},
	}
	service, ok := offered[credential.service]
	switch {
	case !ok:
		return &APIError{Code: "NoSuchProduct", Message: fmt.Sprintf("The product `%s` does not exist.", credential.service)}
	case version != service.version:
		return &APIError{Code: "NoSuchVersion", Message: fmt.Sprintf("The version `%s` of the API does not exist.", version)}
	case action != service.action:
		return &APIError{Code: "InvalidAction", Message: fmt.Sprintf("The action `%s` does not exist.", action)}
	case credential.service == "sts" && r.Header.Get("X-TC-Region") == "":
		return &APIError{Code: "MissingParameter", Message: "The request is missing the required header X-TC-Region."}
	}
	return s.throttle(credential.secretID+" "+action, arrived)
}

func (s *Server) authenticate(r *http.Request, body []byte) (authorization, *APIError) {
	s.mu.Lock()
	secretID, secretKey, token := s.secretID, s.secretKey, s.token
	s.mu.Unlock()

	header := r.Header.Get("Authorization")
	if header == "" {
		return authorization{}, &APIError{Code: "MissingParameter", Message: "The request is missing the required header Authorization."}
	}
	a, err := parseAuthorization(header)
	switch {
	case err != nil:
		return a, err
	case a.secretID != secretID:
		return a, authFailure("SecretIdNotFound", "The SecretId is not found, please ensure that your SecretId is correct.")
	case r.Header.Get("X-TC-Token") != token:
		return a, authFailure("TokenFailure", "Token verification failed.")
	}
	return a, a.verify(r, body, secretKey, s.clock())
}

// throttle counts a request of a credential and action against the limit: so
// many are admitted in any second, by their arrival, in whatever order they
// get here.
func (s *Server) throttle(who string, arrived time.Time) *APIError {
	s.mu.Lock()
	defer s.mu.Unlock()
	const kept = 2 * time.Second // no request takes longer from its arrival to here
	admitted := slices.DeleteFunc(s.arrivals[who], func(at time.Time) bool { return arrived.Sub(at) >= kept })
	recent := 0
	for _, at := range admitted {
		if since := arrived.Sub(at); since >= 0 && since < time.Second {
			recent++
		}
	}
	if recent >= s.limit {
		s.arrivals[who] = admitted
		return &APIError{Code: "RequestLimitExceeded", Message: fmt.Sprintf("Your current request times equals to `%d` in a second, "+
			"which exceeds the frequency limit `%d` for a second. Please reduce the frequency of calls.", recent+1, s.limit)}
	}
	s.arrivals[who] = append(admitted, arrived)
	return nil
}

func (s *Server) identity() []byte {
	return fmt.Appendf(nil, `"Arn":"qcs::cam::uin/%[1]s:uin/%[1]s","AccountId":"%[1]s","UserId":"%[1]s","PrincipalId":"%[1]s","Type":"CAMUser"`, s.account)
}

func (s *Server) events(body []byte, fate fate) ([]byte, *APIError) {
	req, apiErr := decodeRequest(body)
	if apiErr != nil {
		return nil, apiErr
	}
	s.mu.Lock()
	quirks := s.world.Quirks()
	switch fate.name {
	case "ignore_filter":
		req.Filters = nil
	case "wrong_total":
		quirks.TotalOffset += fate.off
	}
	answer, err := s.world.ListWith(req, quirks)
	s.mu.Unlock()
	if refused, ok := errors.AsType[*APIError](err); ok {
		return nil, refused
	}
	switch fate.name {
	case "empty_list":
		return []byte(`"TotalCount":0,"List":[]`), nil
	case "null_list":
		return []byte(`"TotalCount":0,"List":null`), nil
	}
	return answer.appendTo(nil, quirks.NullWhenEmpty), nil
}

// appendTo writes the members of the Response.
func (a Answer) appendTo(b []byte, nullWhenEmpty bool) []byte {
	size := 64
	for _, r := range a.Rows {
		size += len(r.Raw) + 1
	}
	b = append(slices.Grow(b, size), `"TotalCount":`...)
	if a.NoTotal {
		b = append(b, "null"...)
	} else {
		b = strconv.AppendInt(b, a.Total, 10)
	}
	if len(a.Rows) == 0 && nullWhenEmpty {
		return append(b, `,"List":null`...)
	}
	b = append(b, `,"List":[`...)
	for i, r := range a.Rows {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, r.Raw...)
	}
	return append(b, ']')
}

func (s *Server) count(code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.codes[code]++
}

// envelope completes a Response. Errors, too, come with HTTP 200.
func (s *Server) envelope(response []byte, apiErr *APIError) []byte {
	s.mu.Lock()
	id := uuid(s.random)
	s.mu.Unlock()
	if apiErr != nil {
		response = appendText([]byte(`"Error":{"Code":`), apiErr.Code)
		response = append(appendText(append(response, `,"Message":`...), apiErr.Message), '}')
	}
	return slices.Concat([]byte(`{"Response":{`), response, []byte(`,"RequestId":"`+id+`"}}`))
}

func (s *Server) reply(w http.ResponseWriter, response []byte, apiErr *APIError) {
	code := "ok"
	if apiErr != nil {
		code = apiErr.Code
	}
	s.count(code)
	body := s.envelope(response, apiErr)
	s.header(w, len(body))
	_, _ = w.Write(body) // the client may be gone
}

func (s *Server) header(w http.ResponseWriter, length int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.Header().Set("Date", s.clock().UTC().Format(http.TimeFormat))
}

// truncate promises a whole answer and sends half of it.
func (s *Server) truncate(w http.ResponseWriter, response []byte, apiErr *APIError) {
	body := s.envelope(response, apiErr)
	s.header(w, len(body))
	_, _ = w.Write(body[:len(body)/2]) // the client may be gone
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler) // net/http's way to end a connection
}

// reset ends the connection without an answer, by a TCP reset where the
// connection can be had.
func reset(w http.ResponseWriter) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler) // net/http's way to end a connection
	}
	if tcp, ok := conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // the reset; without it the end is a polite one
	}
	_ = conn.Close()
}

// wait lets d pass, or less when ctx ends: the client has gone and will not
// see what follows.
func wait(ctx context.Context, d time.Duration) {
	_ = pass(ctx, func(int) time.Duration { return d }, 0)
}

func jsonObject(body []byte, to any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	return decoder.Decode(to)
}
