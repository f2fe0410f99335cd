// Package elastictest emulates the _bulk endpoint of Elasticsearch and
// OpenSearch, for tests: creates are answered item by item, and an id that is
// there already is refused with 409.
package elastictest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
)

// Config says how the node behaves.
type Config struct {
	// Take is given each document, and whether it was created or was there
	// already. It is called by one goroutine at a time.
	Take func(id string, document []byte, created bool)
	// Forgets is a node that keeps no ids, and so finds none there already.
	Forgets bool
	// Refuse answers an item otherwise: the status and what stands in its
	// "error". Nil, or a status of 0: the usual.
	Refuse func(id string, document []byte) (status int, problem string)
}

// A Server is the node, an http.Handler. It is safe for concurrent use.
type Server struct {
	cfg Config

	mu      sync.Mutex // guards the rest
	ids     map[string]bool
	created int
	again   int
	wrong   []string
}

// New makes a node.
func New(cfg Config) *Server { return &Server{cfg: cfg, ids: map[string]bool{}} }

// Created is how many documents were created, and how many creates found their
// document there already.
func (s *Server) Created() (created, again int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.created, s.again
}

// Violations returns what a node would refuse as a whole.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.wrong...)
}

// ServeHTTP answers a _bulk request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost || !strings.HasSuffix(r.URL.Path, "/_bulk") {
		http.Error(w, `{"error":"no handler found"}`, http.StatusBadRequest)
		return
	}
	from := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, `{"error":"not gzip"}`, http.StatusBadRequest)
			return
		}
		from = unpacked
	}
	body, err := io.ReadAll(from)
	if err != nil {
		return // the client broke off: nothing of the body counts
	}
	answer, problem := s.bulk(body)
	if problem != "" {
		s.mu.Lock()
		s.wrong = append(s.wrong, problem)
		s.mu.Unlock()
		http.Error(w, `{"error":{"type":"illegal_argument_exception"}}`, http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(answer) // the client may be gone
}

// bulk answers a body, or says why a node would refuse it whole.
func (s *Server) bulk(body []byte) (answer []byte, problem string) {
	if !bytes.HasSuffix(body, []byte("\n")) {
		return nil, "the body does not end with a newline"
	}
	lines := bytes.Split(body[:len(body)-1], []byte("\n"))
	if len(lines)%2 != 0 {
		return nil, "an action has no document"
	}
	var action struct {
		Create *struct {
			ID string `json:"_id"`
		} `json:"create"`
	}
	failed := false
	for i := 0; i < len(lines); i += 2 {
		action.Create = nil
		if err := json.Unmarshal(lines[i], &action); err != nil || action.Create == nil {
			return nil, fmt.Sprintf("action %q", lines[i])
		}
		status, problem := s.create(action.Create.ID, lines[i+1])
		failed = failed || status > 299
		answer = fmt.Appendf(answer, `{"create":{"status":%d`, status)
		if problem != "" {
			answer = fmt.Appendf(answer, `,"error":%s`, problem)
		}
		answer = append(answer, "}},"...)
	}
	return fmt.Appendf(nil, `{"errors":%t,"items":[%s]}`, failed, bytes.TrimSuffix(answer, []byte(","))), ""
}

func (s *Server) create(id string, document []byte) (status int, problem string) {
	if s.cfg.Refuse != nil {
		if status, problem := s.cfg.Refuse(id, document); status != 0 {
			return status, problem
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	there := s.ids[id]
	if s.cfg.Take != nil {
		s.cfg.Take(id, document, !there)
	}
	if there {
		s.again++
		return http.StatusConflict, `{"type":"version_conflict_engine_exception","reason":"document already exists"}`
	}
	s.created++
	if !s.cfg.Forgets {
		s.ids[id] = true
	}
	return http.StatusCreated, ""
}
