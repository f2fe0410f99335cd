// Package console is the operator's HTTP side: health, readiness with reasons,
// metrics, and a page that says in a few lines how things stand. It shows and
// never steers, and it promises that nothing an event holds is shown: only
// figures and the configured names.
package console

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cwprelay/cwprelay/delivery"
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
}

// A Server is the console.
type Server struct {
	opt  Options
	page *template.Template
}

// New makes a console. It listens to nothing yet.
func New(opt Options) *Server {
	return &Server{opt: opt, page: template.Must(template.New("page").Funcs(template.FuncMap{
		"age": age,
	}).Parse(pageText))}
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
			detail := src.Error
			switch {
			case src.Full != "":
				detail = src.Full
			case detail == "" && !src.Last.Certified:
				detail = src.Last.Detail
			}
			r.Reasons = append(r.Reasons, Reason{Code: code, About: "source " + src.Source + "/" + src.Kind, Detail: detail})
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

// ServeHTTP answers GET and HEAD on /, /healthz, /readyz and /metrics.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cache-Control", "no-store")
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.Set("Allow", "GET, HEAD")
		http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
		return
	}
	// A page of another site must not read this one under a name of its own.
	if !localName(r.Host) {
		http.Error(w, "unknown host name", http.StatusMisdirectedRequest)
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

type view struct {
	Version string
	Now     time.Time
	Ready   Readiness
	Sources []poller.Status
	Sinks   []delivery.Status
	Journal journal.Status
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	v := view{
		Version: s.opt.Version, Now: time.Now().UTC(), Ready: s.Readiness(r.Context()),
		Sources: s.opt.Sources(), Sinks: s.opt.Sinks(),
	}
	v.Journal, _ = s.opt.Journal(r.Context()) // its error is among the reasons
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = s.page.Execute(w, v) // the reader has gone
}

// age is how long ago a moment was, for people.
func age(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Truncate(time.Second).String() + " ago"
}

const pageText = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5"><title>cwprelay</title>
<style>
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:60rem;padding:0 1rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid #8884;vertical-align:top}
.good{color:#1a7f37}.bad{color:#cf222e}@media(prefers-color-scheme:dark){.good{color:#3fb950}.bad{color:#ff7b72}}
.wide{overflow-x:auto}small{opacity:.7}
</style></head><body>
<h1>cwprelay <small>{{.Version}}</small></h1>
{{if .Ready.Ready}}<p class="good"><b>Ready.</b></p>{{else}}<p class="bad"><b>Not ready:</b></p><ul>{{range .Ready.Reasons}}<li class="bad"><b>{{.Code}}</b> ({{.About}}) {{.Detail}}</li>{{end}}</ul>{{end}}
<h2>Sources</h2><div class="wide"><table><tr><th>Source</th><th>Account</th><th>Known events</th><th>Last sweep</th><th>Last certified</th></tr>
{{range .Sources}}<tr><td>{{.Source}}/{{.Kind}}</td><td>{{.Account}}</td><td>{{.Known}}</td>
<td>{{if .Progress.Running}}running: {{.Progress.Requests}} requests{{else}}{{if .Last.Certified}}certified{{else}}{{.Last.Reason}}{{end}}, {{.Last.Requests}} requests, {{.Last.IDs}} events{{end}}</td>
<td>{{age .Certified.Ended}}</td></tr>{{end}}</table></div>
<h2>Sinks</h2><div class="wide"><table><tr><th>Sink</th><th>State</th><th>Behind</th><th>Dead letters</th><th>Last success</th><th>Last answer</th></tr>
{{range .Sinks}}<tr><td>{{.Name}}</td><td class="{{if eq .State "halted"}}bad{{else if eq .State "ok"}}good{{end}}">{{.State}}</td><td>{{.Behind}}</td><td>{{.Dead}}</td><td>{{age .LastSuccess}}</td>
<td>{{.LastAnswer}}{{if .HaltReason}}<br><span class="bad">{{.HaltReason}}</span>{{else if and .Failures .LastError}}<br>{{.LastError}}{{end}}</td></tr>{{end}}</table></div>
<h2>Journal</h2><p>{{.Journal.Records}} records, {{.Journal.Keys}} known events, {{.Journal.Bytes}} of {{.Journal.MaxBytes}} bytes.</p>
<p><small><a href="/readyz">/readyz</a> · <a href="/healthz">/healthz</a> · <a href="/metrics">/metrics</a> · {{.Now.Format "2006-01-02 15:04:05"}} UTC</small></p>
</body></html>
`

// Serve answers on ln until ctx is done. It closes ln.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error { return serve(ctx, ln, s) }

func serve(ctx context.Context, ln net.Listener, handler http.Handler) error {
	srv := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second, MaxHeaderBytes: 1 << 16}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() })
	defer stop()
	if err := srv.Serve(ln); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the console: %w", err)
	}
	return nil
}
