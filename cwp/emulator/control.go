package emulator

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// control answers the endpoints that the real API does not have.
func (s *Server) control(w http.ResponseWriter, r *http.Request, path string) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, "read the request: "+err.Error(), http.StatusBadRequest)
		return
	}
	var answer any
	switch r.Method + " " + path {
	case "GET truth":
		answer, err = s.truth(r.URL.Query().Get("from"), r.URL.Query().Get("to"))
	case "POST truth":
		answer, err = s.lies(body)
	case "POST mutate":
		answer, err = s.mutate(body)
	case "GET faults":
		answer = s.faultsNow()
	case "POST faults":
		answer, err = s.replaceFaults(body)
	case "POST credentials":
		answer, err = struct{}{}, s.rotate(body)
	case "GET stats":
		answer = s.Stats()
	default:
		http.NotFound(w, r)
		return
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(answer) // the client may be gone
}

// truthAnswer is the answer of GET /-/truth.
type truthAnswer struct {
	From  uint64 `json:"from"` // tick
	To    uint64 `json:"to"`   // tick
	Pairs []Pair `json:"pairs"`
}

func (s *Server) truth(from, to string) (truthAnswer, error) {
	now := time.Now()
	end, err := parseMoment(to, now)
	if err != nil {
		return truthAnswer{}, fmt.Errorf("to: %w", err)
	}
	if from == "" && to == "" {
		tick := s.world.Tick()
		return truthAnswer{From: tick, To: tick, Pairs: nonNil(s.world.Visible(tick))}, nil
	}
	begin, err := parseMoment(from, end)
	if err != nil {
		return truthAnswer{}, fmt.Errorf("from: %w", err)
	}
	// Behind the lock no change is under way that bears a time of the span.
	s.mu.Lock()
	defer s.mu.Unlock()
	var a truthAnswer
	a.From, a.To = s.world.Window(begin, end)
	a.Pairs = nonNil(s.world.VisibleThroughout(a.From, a.To))
	return a, nil
}

func nonNil(pairs []Pair) []Pair {
	if pairs == nil {
		return []Pair{}
	}
	return pairs
}

// parseMoment reads RFC 3339 or Unix nanoseconds.
func parseMoment(text string, missing time.Time) (time.Time, error) {
	if text == "" {
		return missing, nil
	}
	if nanos, err := strconv.ParseInt(text, 10, 64); err == nil {
		return time.Unix(0, nanos), nil
	}
	// A plus sign in a query that was not escaped arrives as a space.
	t, err := time.Parse(time.RFC3339Nano, strings.ReplaceAll(text, " ", "+"))
	if err != nil {
		return t, fmt.Errorf("%q is neither RFC 3339 nor Unix nanoseconds", text)
	}
	return t, nil
}

// liesAnswer is the answer of POST /-/truth.
type liesAnswer struct {
	Checked int      `json:"checked"`
	Never   []string `json:"never"` // ids of lines that were never shown so
}

// lies looks for records that no answer held: lines of JSON, {"id": text,
// "raw": the element} or, for records that keep no bytes, {"id": text,
// "status": text, "detect": text}.
func (s *Server) lies(body []byte) (liesAnswer, error) {
	answer := liesAnswer{Never: []string{}}
	lines := bufio.NewScanner(bytes.NewReader(body))
	lines.Buffer(nil, maxBody)
	for lines.Scan() {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		var claim struct {
			ID     string          `json:"id"`
			Status string          `json:"status"`
			Detect string          `json:"detect"`
			Raw    json.RawMessage `json:"raw"`
		}
		if err := jsonObject(lines.Bytes(), &claim); err != nil {
			return answer, fmt.Errorf("line %d: %w", answer.Checked+1, err)
		}
		answer.Checked++
		shown := false
		if claim.Raw != nil {
			shown = s.world.EverShown(claim.ID, claim.Raw)
		} else {
			shown = s.world.EverTrue(Claim{Pair: Pair{ID: claim.ID, Status: claim.Status}, Detect: claim.Detect})
		}
		if !shown {
			answer.Never = append(answer.Never, claim.ID)
		}
	}
	return answer, lines.Err()
}

// A mutation is the body of POST /-/mutate. Its parts happen in the order in
// which they stand here, each in one change of the list.
type mutation struct {
	Rate     *float64          `json:"rate"`     // operations per second from now on; 0 freezes the list
	Steps    int               `json:"steps"`    // so many operations, chosen by the seed
	Op       Op                `json:"op"`       // one operation by name
	Burst    int               `json:"burst"`    // so many events of one second
	Insert   []Event           `json:"insert"`   // new events
	JSON     []json.RawMessage `json:"json"`     // new elements of the list as they stand
	Status   map[string]int    `json:"status"`   // id to status
	Redetect []string          `json:"redetect"` // ids that are detected again
	Flap     []string          `json:"flap"`     // ids whose hosts change their online state
	Delete   []string          `json:"delete"`   // ids
}

// mutationAnswer says what a mutation did.
type mutationAnswer struct {
	IDs     []string `json:"ids"`     // of new events
	Changed int      `json:"changed"` // events that were changed or deleted
	Tick    uint64   `json:"tick"`
}

func (s *Server) mutate(body []byte) (mutationAnswer, error) {
	answer := mutationAnswer{IDs: []string{}}
	var m mutation
	if err := jsonObject(body, &m); err != nil {
		return answer, err
	}
	if m.Rate != nil {
		if !(*m.Rate >= 0 && *m.Rate <= maxRate) {
			return answer, fmt.Errorf("rate: must be from 0 to %d", maxRate)
		}
		s.SetRate(*m.Rate)
	}
	if m.Burst < 0 || m.Burst > maxEvents || m.Steps < 0 || m.Steps > maxEvents {
		return answer, fmt.Errorf("burst, steps: must be from 0 to %d", maxEvents)
	}
	if m.Op != "" && !slices.Contains(Ops(), m.Op) {
		return answer, fmt.Errorf("op: unknown operation %q", m.Op)
	}
	var errs []error
	s.Change(func(w *World) {
		now := time.Now()
		for range m.Steps {
			w.Step(now)
		}
		w.Do(m.Op, now)
		answer.IDs = append(answer.IDs, w.Burst(m.Burst, now)...)
		insert := func(ids []string, err error) {
			answer.IDs = append(answer.IDs, ids...)
			errs = append(errs, err)
		}
		insert(w.Insert(m.Insert...))
		elements := make([][]byte, len(m.JSON))
		for i, e := range m.JSON {
			elements[i] = e
		}
		insert(w.InsertJSON(elements...))
		for id, status := range m.Status {
			answer.Changed += w.SetStatus(status, id)
		}
		answer.Changed += w.Redetect(m.Redetect...) + w.Flap(m.Flap...) + w.Delete(m.Delete...)
		answer.Tick = w.Tick()
	})
	return answer, errors.Join(errs...)
}

// faultsControl is the body of /-/faults. A member that is missing leaves what
// was.
type faultsControl struct {
	Faults *Faults `json:"faults"` // as text: "reset=0.01,latency=50ms"; "" ends them
	Quirks *Quirks `json:"quirks"`
}

func (s *Server) faultsNow() faultsControl {
	s.mu.Lock()
	defer s.mu.Unlock()
	faults, quirks := s.faults, s.world.Quirks()
	return faultsControl{Faults: &faults, Quirks: &quirks}
}

func (s *Server) replaceFaults(body []byte) (faultsControl, error) {
	var c faultsControl
	if err := jsonObject(body, &c); err != nil {
		return c, err
	}
	if c.Faults != nil {
		s.SetFaults(*c.Faults)
	}
	if c.Quirks != nil {
		s.world.SetQuirks(*c.Quirks)
	}
	return s.faultsNow(), nil
}

func (s *Server) rotate(body []byte) error {
	var c struct {
		SecretID  string `json:"secret_id"`
		SecretKey string `json:"secret_key"`
		Token     string `json:"token"`
	}
	if err := jsonObject(body, &c); err != nil {
		return err
	}
	if c.SecretID == "" || c.SecretKey == "" {
		return errors.New("secret_id and secret_key: required")
	}
	s.SetCredentials(c.SecretID, c.SecretKey, c.Token)
	return nil
}

// Stats says what a server has done.
type Stats struct {
	Requests map[string]int `json:"requests"` // by "ok", code of the API, or "fault." and a fault that gave no answer
	Events   int            `json:"events"`   // visible
	Tick     uint64         `json:"tick"`     // changes so far
	Ops      map[Op]int     `json:"ops"`      // operations that Run let happen
}

// Stats returns what the server has done so far.
func (s *Server) Stats() Stats {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Stats{Requests: maps.Clone(s.codes), Events: s.world.Len(), Tick: s.world.Tick(), Ops: maps.Clone(s.ops)}
}
