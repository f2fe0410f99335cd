package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// A Steered is the worker of a sink, as the admin side steers it.
type Steered interface {
	Pause(paused bool)
	Replay(ctx context.Context, from uint64) error
	EndReplay(ctx context.Context) error
	Retry(ctx context.Context, seqs ...uint64) error
	Drop(ctx context.Context, seqs ...uint64) error
	Resend(ctx context.Context, records []*event.Record, filled []journal.Range) (refused int, err error)
}

// AdminOptions are what an Admin answers from.
type AdminOptions struct {
	Options
	Store journal.Journal
	// Sink returns the worker of a configured sink, nil for any other name.
	// Nil: no daemon runs, and what needs one is refused.
	Sink func(name string) Steered
	// Show makes a sweep of every source and returns what the API showed, with
	// the records of what keep says true for; the error of a source is in its
	// place. Nil: no source is open.
	Show func(ctx context.Context, keep func(event.Key) bool) ([]*poller.Shown, []error)
	// Check reads all of the journal; Export writes a snapshot of it. Nil: it
	// cannot be done.
	Check  func(ctx context.Context) (journal.Checked, error)
	Export func(ctx context.Context, w io.Writer) error
	// Level sets the level of the log by its name: debug, info, warn or error.
	// Nil: no daemon runs.
	Level func(name string) error
}

// An Admin answers the operator's verbs: what the console shows, with the
// events themselves, and what steers. It has no authentication of its own:
// whoever can reach it may do everything, so it is served on a socket that only
// the owner of the state directory can open.
type Admin struct {
	opt     AdminOptions
	console *Server
	mux     *http.ServeMux
}

// Bounds of one answer.
const (
	maxListed  = 1000
	maxTraced  = 100
	scanRead   = 2000
	maxRequest = 1 << 20
)

// NewAdmin makes an Admin. It listens to nothing yet.
func NewAdmin(opt AdminOptions) *Admin {
	a := &Admin{opt: opt, console: New(opt.Options), mux: http.NewServeMux()}
	handle := func(pattern string, f func(r *http.Request) (any, error)) {
		a.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
			_ = http.NewResponseController(w).SetWriteDeadline(time.Time{}) // a sweep takes its time
			v, err := f(r)
			if err != nil {
				status := http.StatusInternalServerError
				if bad, ok := errors.AsType[*AdminError](err); ok {
					status = bad.Status
				}
				writeJSON(w, status, AdminError{Status: status, Message: err.Error()})
				return
			}
			writeJSON(w, http.StatusOK, v)
		})
	}
	handle("GET /v1/health", func(*http.Request) (any, error) { return map[string]bool{"alive": true}, nil })
	handle("GET /v1/status", a.status)
	handle("GET /v1/trace", a.trace)
	handle("GET /v1/deadletters", a.deadLetters)
	handle("POST /v1/deadletters/retry", a.each(Steered.Retry))
	handle("POST /v1/deadletters/drop", a.each(Steered.Drop))
	handle("POST /v1/sinks/pause", a.pause(true))
	handle("POST /v1/sinks/resume", a.pause(false))
	handle("POST /v1/sinks/forget", a.forget)
	handle("POST /v1/replay", a.replay)
	handle("POST /v1/replay/end", a.endReplay)
	handle("POST /v1/log", a.level)
	handle("POST /v1/reconcile", a.reconcile)
	handle("GET /v1/state/check", func(r *http.Request) (any, error) { return opt.Check(r.Context()) })
	a.mux.HandleFunc("GET /v1/state/export", a.export)
	return a
}

// export streams the journal. An answer that breaks off is not whole.
func (a *Admin) export(w http.ResponseWriter, r *http.Request) {
	_ = http.NewResponseController(w).SetWriteDeadline(time.Time{})
	w.Header().Set("Content-Type", "application/octet-stream")
	if err := a.opt.Export(r.Context(), w); err != nil {
		panic(http.ErrAbortHandler) // closes the connection before the end
	}
}

// ServeHTTP answers the operator's verbs.
func (a *Admin) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Serve answers on ln until ctx is done. It closes ln.
func (a *Admin) Serve(ctx context.Context, ln net.Listener) error { return serve(ctx, ln, a) }

// An AdminError is what an Admin refuses, and why.
type AdminError struct {
	Status  int    `json:"status"` // of HTTP
	Message string `json:"error"`
}

func (e *AdminError) Error() string { return e.Message }

func refuse(status int, text string, args ...any) error {
	return &AdminError{status, fmt.Sprintf(text, args...)}
}

// An Overview is how everything stands.
type Overview struct {
	Version string           `json:"version"`
	At      time.Time        `json:"at"`
	Running bool             `json:"running"` // a daemon answered; else the journal alone did
	Ready   Readiness        `json:"readiness"`
	Config  *Configuration   `json:"configuration,omitzero"` // nil: no daemon runs
	Sources []SourceOverview `json:"sources"`
	Sinks   []SinkOverview   `json:"sinks"`
	Journal JournalOverview  `json:"journal"`
}

// A SourceOverview is how a source stands.
type SourceOverview struct {
	Source     string    `json:"source"`
	Kind       string    `json:"kind"`
	Account    string    `json:"account,omitzero"`
	Known      int       `json:"known"`                // events that were seen and are not forgotten
	Newest     time.Time `json:"newest,omitzero"`      // latest detection
	Certified  time.Time `json:"certified,omitzero"`   // when the last certified sweep ended
	LastSweep  string    `json:"last_sweep,omitzero"`  // id
	LastEnded  time.Time `json:"last_ended,omitzero"`  // of it
	LastResult string    `json:"last_result,omitzero"` // certified, or why not
	Error      string    `json:"error,omitzero"`
	Since      time.Time `json:"error_since,omitzero"`
}

// A SinkOverview is how a sink stands.
type SinkOverview struct {
	Name        string    `json:"name"`
	State       string    `json:"state"` // ok, behind, retrying, halted, paused; stopped where no daemon runs; unconfigured
	Since       time.Time `json:"since,omitzero"`
	Cursor      uint64    `json:"cursor"`
	Behind      int       `json:"behind"`
	Oldest      time.Time `json:"oldest,omitzero"`
	Dead        int       `json:"dead_letters"`
	LastAnswer  string    `json:"last_answer,omitzero"`
	LastSuccess time.Time `json:"last_success,omitzero"`
	LastError   string    `json:"last_error,omitzero"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// LastHeartbeat is of this process; HeartbeatError is why the last one was
	// not accepted.
	LastHeartbeat  time.Time `json:"last_heartbeat,omitzero"`
	HeartbeatError string    `json:"heartbeat_error,omitzero"`
	Replay         *Progress `json:"replay,omitzero"`
}

// Progress is how far a replay is.
type Progress struct {
	From  uint64    `json:"from"`
	After uint64    `json:"after"` // sent again up to here
	Until uint64    `json:"until"` // goes up to here; 0: not known while no daemon runs
	Begun time.Time `json:"begun"`
}

// A JournalOverview is how the journal stands.
type JournalOverview struct {
	First     uint64   `json:"first"`
	Last      uint64   `json:"last"`
	Records   int      `json:"records"`
	Keys      int      `json:"keys"`
	Bytes     int64    `json:"bytes"`
	FileBytes int64    `json:"file_bytes"`
	MaxBytes  int64    `json:"max_bytes"`
	Full      string   `json:"full,omitzero"`
	Gaps      int      `json:"gaps"`
	Damaged   int      `json:"damaged"`
	SetAside  []string `json:"set_aside,omitzero"`
}

func (a *Admin) status(r *http.Request) (any, error) {
	st, err := a.opt.Store.Status(r.Context())
	if err != nil {
		return nil, err
	}
	o := Overview{
		Version: a.opt.Version, At: time.Now().UTC(), Running: a.opt.Sink != nil, Ready: a.console.Readiness(r.Context()),
		Sources: []SourceOverview{}, Sinks: []SinkOverview{},
		Journal: JournalOverview{
			First: st.First, Last: st.Last, Records: st.Records, Keys: st.Keys, Bytes: st.Bytes, FileBytes: st.FileBytes,
			MaxBytes: st.MaxBytes, Gaps: len(st.Gaps), Damaged: st.Damaged, SetAside: st.SetAside,
		},
	}
	if st.Full != nil {
		o.Journal.Full = st.Full.Error()
	}
	if a.opt.Configuration != nil {
		o.Config = new(a.opt.Configuration())
	}
	for _, s := range a.opt.Sources() {
		v := SourceOverview{
			Source: s.Source, Kind: s.Kind, Account: s.Account, Known: s.Known, Newest: s.Newest, Certified: s.Certified.Ended,
			LastSweep: s.Last.Sweep, LastEnded: s.Last.Ended, Error: s.Error, Since: s.Since,
		}
		switch {
		case s.Last.Certified:
			v.LastResult = "certified"
		case s.Last.Sweep != "":
			v.LastResult = strings.TrimSuffix(s.Last.Reason+": "+s.Last.Detail, ": ")
		}
		o.Sources = append(o.Sources, v)
	}
	live := map[string]delivery.Status{}
	for _, s := range a.opt.Sinks() {
		live[s.Name] = s
	}
	for _, s := range st.Sinks {
		o.Sinks = append(o.Sinks, sinkOverview(s, live))
	}
	return o, nil
}

func sinkOverview(s journal.SinkStatus, live map[string]delivery.Status) SinkOverview {
	v := SinkOverview{Name: s.Sink, State: "stopped", Cursor: s.Cursor.Seq, Behind: s.Behind, Oldest: s.Oldest, Dead: s.Dead}
	if s.Last.Failed {
		v.LastError, v.LastErrorAt = s.Last.Answer, s.Last.At
	} else {
		v.LastAnswer, v.LastSuccess = s.Last.Answer, s.Last.At
	}
	if s.Replay != nil {
		v.Replay = &Progress{From: s.Replay.From, After: s.Replay.After, Begun: s.Replay.Begun}
	}
	if !s.Configured {
		v.State = "unconfigured"
	}
	w, ok := live[s.Sink]
	if !ok {
		return v
	}
	v.State, v.Since = string(w.State), w.Since
	v.LastHeartbeat, v.HeartbeatError = w.LastHeartbeat, w.HeartbeatError
	if w.LastAnswer != "" {
		v.LastAnswer, v.LastSuccess = w.LastAnswer, w.LastSuccess
	}
	if w.LastError != "" {
		v.LastError, v.LastErrorAt = w.LastError, w.LastErrorAt
	}
	if w.HaltReason != "" {
		v.LastError = w.HaltReason
	}
	if w.Replay != nil {
		v.Replay = &Progress{From: w.Replay.From, After: w.Replay.After, Until: w.Replay.Until, Begun: w.Replay.Begun}
	}
	return v
}

// A Traced is a record and what became of it.
type Traced struct {
	Seq       uint64    `json:"seq"`
	Finding   string    `json:"finding_uid"`
	UID       string    `json:"event_uid"`
	Sequence  uint64    `json:"sequence"`
	Action    string    `json:"action"`
	Status    string    `json:"status"`
	Previous  string    `json:"previous_status,omitzero"`
	Observed  time.Time `json:"observed"`
	Backfill  bool      `json:"backfill,omitzero"`
	Source    string    `json:"source"`
	Sweep     string    `json:"sweep"`
	Page      int       `json:"page"`
	RequestID string    `json:"request_id"`
	Sinks     []Attempt `json:"sinks"`
}

// An Attempt is what became of a record at one sink.
type Attempt struct {
	Sink string `json:"sink"`
	// State is waiting, settled (accepted, or refused by when), or dead.
	State    string            `json:"state"`
	Receipts []ReceiptOverview `json:"receipts"`
	Reason   string            `json:"reason,omitzero"` // of a dead letter; or why the sink does not send now
	Class    string            `json:"class,omitzero"`  // of a dead letter; or the sink's state
}

// A ReceiptOverview is what a destination said to the batch that the record
// was in.
type ReceiptOverview struct {
	At       time.Time `json:"at"`
	First    uint64    `json:"first"`
	Last     uint64    `json:"last"`
	Records  int       `json:"records"`
	Attempts int       `json:"attempts"`
	Accepted bool      `json:"accepted"`
	Again    bool      `json:"again,omitzero"` // by a replay, or out of the dead letters
	Answer   string    `json:"answer"`
}

// trace finds the records of an event by its id, its finding_uid, the event_uid
// of a change, or "#" and the sequence in the journal.
func (a *Admin) trace(r *http.Request) (any, error) {
	id := strings.TrimSpace(r.URL.Query().Get("id"))
	if id == "" {
		return nil, refuse(http.StatusBadRequest, "id is required: an EventId, a finding_uid, an event_uid, or # and a sequence")
	}
	found := []Traced{}
	if number, ok := strings.CutPrefix(id, "#"); ok {
		seq, err := strconv.ParseUint(number, 10, 64)
		if err != nil {
			return nil, refuse(http.StatusBadRequest, "%q is no sequence", id)
		}
		rec, err := a.opt.Store.Get(r.Context(), seq)
		if err != nil || rec == nil {
			return found, err
		}
		t, err := a.traced(r.Context(), rec)
		return append(found, t), err
	}
	for after := uint64(0); len(found) < maxTraced; {
		list, err := a.opt.Store.Read(r.Context(), after, scanRead, 0)
		if err != nil {
			return nil, err
		}
		if len(list) == 0 {
			return found, nil
		}
		for _, rec := range list {
			after = rec.Seq
			if rec.Key.ID != id && rec.UID != id && rec.Key.FindingUID() != id {
				continue
			}
			t, err := a.traced(r.Context(), rec)
			if err != nil {
				return nil, err
			}
			found = append(found, t)
		}
	}
	return found, nil
}

func (a *Admin) traced(ctx context.Context, rec *event.Record) (Traced, error) {
	t := Traced{
		Seq: rec.Seq, Finding: rec.Key.FindingUID(), UID: rec.UID, Sequence: rec.Sequence, Action: string(rec.Action), Status: rec.Status.Symbol,
		Previous: rec.Previous.Symbol, Observed: rec.ObservedAt, Backfill: rec.Backfill, Source: rec.Source, Sweep: rec.Sweep, Page: rec.Page,
		RequestID: rec.RequestID, Sinks: []Attempt{},
	}
	st, err := a.opt.Store.Status(ctx)
	if err != nil {
		return t, err
	}
	for _, s := range st.Sinks {
		at := Attempt{Sink: s.Sink, State: "waiting", Receipts: []ReceiptOverview{}}
		inside := func(r journal.Range) bool { return r.First <= rec.Seq && rec.Seq <= r.Last }
		if rec.Seq <= s.Cursor.Seq || slices.ContainsFunc(s.Cursor.Ahead, inside) {
			at.State = "settled"
		}
		if at.State == "waiting" {
			at.Class, at.Reason = a.holdsUp(s.Sink)
		}
		letters, err := a.opt.Store.DeadLetters(ctx, s.Sink, rec.Seq-1, 1)
		if err != nil {
			return t, err
		}
		if len(letters) == 1 && letters[0].Record.Seq == rec.Seq {
			at.State, at.Reason, at.Class = "dead", letters[0].Reason, letters[0].Class
		}
		receipts, err := a.opt.Store.Receipts(ctx, s.Sink, rec.Seq)
		if err != nil {
			return t, err
		}
		for _, r := range receipts {
			at.Receipts = append(at.Receipts, ReceiptOverview{
				At: r.At, First: r.Range.First, Last: r.Range.Last, Records: r.Records, Attempts: r.Attempts, Accepted: !r.Failed, Again: r.Again, Answer: r.Answer,
			})
		}
		t.Sinks = append(t.Sinks, at)
	}
	return t, nil
}

// holdsUp is why a sink does not send now: its state and what it was told; empty
// while nothing is wrong with it.
func (a *Admin) holdsUp(sink string) (state, why string) {
	for _, s := range a.opt.Sinks() {
		if s.Name != sink {
			continue
		}
		switch s.State {
		case delivery.Halted:
			return string(s.State), s.HaltReason
		case delivery.Retrying:
			return string(s.State), s.LastError
		case delivery.Paused:
			return string(s.State), "by an operator: sinks resume " + sink + " goes on"
		case delivery.Behind, delivery.OK:
		}
	}
	return "", ""
}

// A Letter is a dead letter. Raw is the vendor's JSON, not redacted; it is there
// only where it was asked for.
type Letter struct {
	Sink     string          `json:"sink"`
	Seq      uint64          `json:"seq"`
	Finding  string          `json:"finding_uid"`
	UID      string          `json:"event_uid"`
	Action   string          `json:"action"`
	Status   string          `json:"status"`
	Class    string          `json:"class"` // poison, stuck, encode
	Reason   string          `json:"reason"`
	Attempts int             `json:"attempts"`
	At       time.Time       `json:"at"`
	Raw      json.RawMessage `json:"raw,omitzero"`
}

func (a *Admin) deadLetters(r *http.Request) (any, error) {
	q := r.URL.Query()
	sink := q.Get("sink")
	if err := a.known(r.Context(), sink); err != nil {
		return nil, err
	}
	after, err := strconv.ParseUint("0"+q.Get("after"), 10, 64)
	limit, err2 := strconv.Atoi("0" + q.Get("limit"))
	if err != nil || err2 != nil {
		return nil, refuse(http.StatusBadRequest, "after and limit are numbers")
	}
	if limit == 0 || limit > maxListed {
		limit = maxListed
	}
	letters, err := a.opt.Store.DeadLetters(r.Context(), sink, after, limit)
	if err != nil {
		return nil, err
	}
	out := make([]Letter, 0, len(letters))
	for _, l := range letters {
		v := Letter{
			Sink: sink, Seq: l.Record.Seq, Finding: l.Record.Key.FindingUID(), UID: l.Record.UID, Action: string(l.Record.Action),
			Status: l.Record.Status.Symbol, Class: l.Class, Reason: l.Reason, Attempts: l.Attempts, At: l.At,
		}
		if q.Get("raw") != "" && json.Valid(l.Record.Raw) {
			v.Raw = l.Record.Raw
		}
		out = append(out, v)
	}
	return out, nil
}

// known refuses a name that is no sink of the journal, and names those there
// are.
func (a *Admin) known(ctx context.Context, sink string) error {
	st, err := a.opt.Store.Status(ctx)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range st.Sinks {
		names = append(names, s.Sink)
	}
	if !slices.Contains(names, sink) {
		return refuse(http.StatusNotFound, "there is no sink %q; there are: %s", sink, strings.Join(names, ", "))
	}
	return nil
}

// A Steering says what is to be done with a sink.
type Steering struct {
	Sink  string    `json:"sink"`
	Seqs  []uint64  `json:"seqs,omitzero"`
	From  uint64    `json:"from,omitzero"`  // a replay begins with this sequence, or
	Since time.Time `json:"since,omitzero"` // with the first record observed then
}

// steered reads a request and finds the worker it is about.
func (a *Admin) steered(r *http.Request) (s Steering, w Steered, err error) {
	if err := decodeInto(r, &s); err != nil {
		return s, nil, err
	}
	if err := a.known(r.Context(), s.Sink); err != nil {
		return s, nil, err
	}
	if a.opt.Sink == nil {
		return s, nil, refuse(http.StatusConflict, "no daemon runs on this state directory: start cwprelay run, then ask again")
	}
	if w = a.opt.Sink(s.Sink); w == nil {
		return s, nil, refuse(http.StatusConflict, "sink %s is not configured any more", s.Sink)
	}
	return s, w, nil
}

func decodeInto(r *http.Request, v any) error {
	dec := json.NewDecoder(r.Body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil && !errors.Is(err, io.EOF) {
		return refuse(http.StatusBadRequest, "the request cannot be read: %v", err)
	}
	return nil
}

// Done says how many records a request was carried out for.
type Done struct {
	Records uint64 `json:"records"` // of a replay at most; dead letters that were forgotten
	From    uint64 `json:"from,omitzero"`
}

// each does something with dead letters.
func (a *Admin) each(do func(Steered, context.Context, ...uint64) error) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		s, w, err := a.steered(r)
		if err != nil {
			return nil, err
		}
		if len(s.Seqs) == 0 {
			return nil, refuse(http.StatusBadRequest, "seqs: name the dead letters")
		}
		var missing []string
		for _, seq := range s.Seqs {
			found, err := a.opt.Store.DeadLetters(r.Context(), s.Sink, max(seq, 1)-1, 1)
			if err != nil {
				return nil, err
			}
			if len(found) == 0 || found[0].Record.Seq != seq {
				missing = append(missing, strconv.FormatUint(seq, 10))
			}
		}
		if len(missing) > 0 {
			return nil, refuse(http.StatusNotFound, "sink %s has no dead letter %s", s.Sink, strings.Join(missing, ", "))
		}
		return Done{Records: uint64(len(s.Seqs))}, do(w, r.Context(), s.Seqs...)
	}
}

func (a *Admin) pause(paused bool) func(r *http.Request) (any, error) {
	return func(r *http.Request) (any, error) {
		_, w, err := a.steered(r)
		if err == nil {
			w.Pause(paused)
		}
		return Done{}, err
	}
}

// forget removes what is kept of a sink that is no longer configured.
func (a *Admin) forget(r *http.Request) (any, error) {
	var s Steering
	if err := decodeInto(r, &s); err != nil {
		return nil, err
	}
	if err := a.known(r.Context(), s.Sink); err != nil {
		return nil, err
	}
	lease, err := a.opt.Store.Lease(r.Context(), "sink/"+s.Sink)
	if err != nil {
		return nil, err
	}
	dead, err := a.opt.Store.Forget(r.Context(), lease, s.Sink)
	if errors.Is(err, journal.ErrConfigured) {
		err = refuse(http.StatusConflict, "%v", err)
	}
	return Done{Records: uint64(dead)}, errors.Join(err, lease.Release()) //nolint:gosec // never negative
}

// replay begins a replay, by a sequence or a time.
func (a *Admin) replay(r *http.Request) (any, error) {
	s, w, err := a.steered(r)
	if err != nil {
		return nil, err
	}
	st, err := a.opt.Store.Status(r.Context())
	if err != nil {
		return nil, err
	}
	from := s.From
	if !s.Since.IsZero() {
		if from, err = a.firstSince(r.Context(), s.Since); err != nil {
			return nil, err
		}
	}
	if from == 0 {
		return nil, refuse(http.StatusBadRequest, "from or since is required; the journal has records %d to %d", st.First, st.Last)
	}
	if err := w.Replay(r.Context(), from); err != nil {
		if errors.Is(err, journal.ErrReplay) {
			return nil, refuse(http.StatusConflict, "%v", err)
		}
		return nil, err
	}
	return Done{Records: st.Last - min(from, st.Last) + 1, From: from}, nil
}

// firstSince is the first record that was observed at a time or later; 0 for
// none.
func (a *Admin) firstSince(ctx context.Context, since time.Time) (uint64, error) {
	for after := uint64(0); ; {
		list, err := a.opt.Store.Read(ctx, after, scanRead, 0)
		if err != nil {
			return 0, err
		}
		if len(list) == 0 {
			return 0, refuse(http.StatusNotFound, "the journal has no record observed since %s", since.Format(time.RFC3339))
		}
		for _, rec := range list {
			if after = rec.Seq; !rec.ObservedAt.Before(since) {
				return rec.Seq, nil
			}
		}
	}
}

func (a *Admin) endReplay(r *http.Request) (any, error) {
	_, w, err := a.steered(r)
	if err != nil {
		return nil, err
	}
	return Done{}, w.EndReplay(r.Context())
}

func (a *Admin) level(r *http.Request) (any, error) {
	var q struct {
		Level string `json:"level"`
	}
	if err := decodeInto(r, &q); err != nil {
		return nil, err
	}
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, q.Level) {
		return nil, refuse(http.StatusBadRequest, "level: %q is not one of debug, info, warn, error", q.Level)
	}
	if a.opt.Level == nil {
		return nil, refuse(http.StatusConflict, "no daemon runs on this state directory")
	}
	return Done{}, a.opt.Level(q.Level)
}
