// Package console is the operator's HTTP side: health, readiness with reasons,
// metrics, and a page that says in a few lines how things stand. It shows and
// never steers. Of events it shows a line each for the last ones, escaped, and
// never a command line unless that was asked for.
package console

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// Options are what the console shows. The functions are called for each
// request, by several goroutines at once.
type Options struct {
	Version string
	Sources func() []poller.Status
	Sinks   func() []delivery.Status
	Journal func(context.Context) (journal.Status, error)
	Metrics prometheus.Gatherer
	// Sweeps returns the last certificates of a source, the newest first; nil:
	// they are not shown.
	Sweeps func(ctx context.Context, source, kind string, limit int) ([]journal.Certificate, error)
	// Records returns records behind a sequence, in order, and Describe what is
	// to be shown of one; nil: no events are shown. Letters returns a sink's
	// dead letters behind a sequence; nil: none is known.
	Records  func(ctx context.Context, after uint64, limit int) ([]*event.Record, error)
	Describe func(*event.Record) Description
	Letters  func(ctx context.Context, sink string, after uint64, limit int) ([]journal.DeadLetter, error)
	Access   *Access // who is answered; nil: everybody on this machine
	// ShowCommands shows command lines on the page.
	ShowCommands bool
	// Budget returns how many requests a source has sent, and how many a second
	// it may send now; nil: it is not shown.
	Budget func(source, kind string) (sent uint64, perSecond float64)
	// Configuration says which configuration is in force; nil: it is not shown.
	Configuration func() Configuration
}

// A Configuration says whether what is in force is what stands in the file.
type Configuration struct {
	File     string    `json:"file,omitzero"` // empty: there is none
	Since    time.Time `json:"since"`         // when it was put in force
	State    string    `json:"state"`
	Mistakes []string  `json:"mistakes,omitzero"` // why what stands in the file, or in those of secrets, was refused
}

// The states of a Configuration.
const (
	ConfigurationCurrent = "current" // what stands in the file is in force
	ConfigurationEdited  = "edited"  // the file was changed and nobody asked to read it
	ConfigurationRefused = "refused" // it was read and cannot be used
)

// A Server is the console.
type Server struct {
	opt     Options
	page    *template.Template
	policy  string
	history *history
}

// New makes a console. It listens to nothing yet.
func New(opt Options) *Server {
	return &Server{opt: opt, policy: policy(), history: &history{}, page: template.Must(template.New("page").Funcs(template.FuncMap{
		"age": age, "size": Size, "took": took, "counts": counts,
	}).Parse(pageText))}
}

// With returns a console that answers others and shows more or less, and has the
// same history.
func (s *Server) With(access *Access, showCommands bool) *Server {
	other := *s
	other.opt.Access, other.opt.ShowCommands = access, showCommands
	return &other
}

// A Reason is why cwprelay cannot be relied on now.
type Reason struct {
	Code   string `json:"code"`            // "no_certified_sweep", "sink_halted", "journal_full", "api_credentials", …
	About  string `json:"about"`           // the source or sink, "journal"
	Detail string `json:"detail,omitzero"` // in one line, without secrets
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []Reason `json:"reasons"`
}

// Readiness says whether everything is as it should be, and if not, why.
func (s *Server) Readiness(ctx context.Context) Readiness {
	r := Readiness{Reasons: []Reason{}}
	for _, src := range s.opt.Sources() {
		if code := src.NotReady(time.Now()); code != "" {
			r.Reasons = append(r.Reasons, Reason{Code: code, About: "source " + src.Source + "/" + src.Kind, Detail: detail(src, time.Now())})
		}
	}
	for _, sink := range s.opt.Sinks() {
		if sink.State == delivery.Halted {
			r.Reasons = append(r.Reasons, Reason{Code: "sink_halted", About: "sink " + sink.Name, Detail: sink.HaltReason})
		}
	}
	switch st, err := s.opt.Journal(ctx); {
	case err != nil:
		r.Reasons = append(r.Reasons, Reason{Code: "journal_unreadable", About: "journal", Detail: err.Error()})
	case st.Full != nil:
		r.Reasons = append(r.Reasons, Reason{Code: "journal_full", About: "journal", Detail: st.Full.Error()})
	}
	r.Ready = len(r.Reasons) == 0
	return r
}

// detail says in a line why a source is not ready.
func detail(src poller.Status, now time.Time) string {
	switch {
	case src.Full != "":
		return src.Full
	case src.Error != "":
		return src.Error
	case src.Ahead != 0:
		way := "behind"
		if src.Ahead < 0 {
			way = "ahead of"
		}
		return fmt.Sprintf("our clock is %s %s the API's: requests are corrected, the times that we write are not; set the clock (NTP)", src.Ahead.Abs(), way)
	}
	var parts []string
	if !src.Certified.Ended.IsZero() {
		parts = append(parts, "the last certified sweep ended "+now.Sub(src.Certified.Ended).Round(time.Second).String()+" ago")
	}
	if src.Last.Sweep != "" && !src.Last.Certified {
		parts = append(parts, "the last one is not certified: "+strings.TrimSuffix(src.Last.Reason+": "+src.Last.Detail, ": "))
	}
	if p := src.Progress; p.Running {
		text := fmt.Sprintf("one runs since %s: %d requests, %d events", now.Sub(p.Started).Round(time.Second), p.Requests, p.IDs)
		if p.Total > 0 {
			text += fmt.Sprintf(" of about %d", p.Total)
		}
		parts = append(parts, text)
	}
	return cmp.Or(strings.Join(parts, "; "), "no sweep has begun")
}

// ServeHTTP answers GET and HEAD on /, /healthz, /readyz and /metrics.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", s.policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	// A page of another site must not read this one under a name of its own.
	if !s.opt.Access.guards() && !localName(r.Host) {
		http.Error(w, "unknown host name", http.StatusMisdirectedRequest)
		return
	}
	if !s.opt.Access.allow(w, r) {
		return
	}
	switch r.URL.Path {
	case "/healthz":
		writeJSON(w, http.StatusOK, map[string]bool{"alive": true})
	case "/readyz":
		ready := s.Readiness(r.Context())
		status := http.StatusOK
		if !ready.Ready {
			status = http.StatusServiceUnavailable
		}
		writeJSON(w, status, ready)
	case "/metrics":
		promhttp.HandlerFor(s.opt.Metrics, promhttp.HandlerOpts{}).ServeHTTP(w, r)
	case "/":
		s.show(w, r)
	default:
		http.NotFound(w, r)
	}
}

func localName(host string) bool {
	name, _, err := net.SplitHostPort(host)
	if err != nil {
		name = host
	}
	ip := net.ParseIP(name)
	return name == "localhost" || ip != nil && ip.IsLoopback()
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader has gone
}

// Serve answers on ln until ctx is done. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	watching.Go(func() { s.watch(ctx) })
	return serve(ctx, s.opt.Access.listener(ln), s)
}

func serve(ctx context.Context, ln net.Listener, handler http.Handler) error {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 1 << 16}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the console: %w", err)
	}
	return nil
}
