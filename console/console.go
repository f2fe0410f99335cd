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
	// Sweeps returns the last certificates of a source, the newest first; nil:
	// they are not shown.
	Sweeps func(ctx context.Context, source, kind string, limit int) ([]journal.Certificate, error)
}

// A Server is the console.
type Server struct {
	opt  Options
	page *template.Template
}

// New makes a console. It listens to nothing yet.
func New(opt Options) *Server {
	return &Server{opt: opt, page: template.Must(template.New("page").Funcs(template.FuncMap{
		"age": age, "size": Size, "took": took,
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
	Sources []sourceView
	Sinks   []delivery.Status
	Journal journal.Status
}

// sourceView is a source with its last sweeps, the newest first.
type sourceView struct {
	poller.Status
	Sweeps []sweepView
}

type sweepView struct {
	journal.Certificate
	Share int // of its records in the most that one of the sweeps has, in percent
}

// sweepsShown is how many sweeps of a source the page shows.
const sweepsShown = 12

func (s *Server) sources(ctx context.Context) []sourceView {
	var out []sourceView
	for _, st := range s.opt.Sources() {
		v := sourceView{Status: st}
		if s.opt.Sweeps != nil {
			list, _ := s.opt.Sweeps(ctx, st.Source, st.Kind, sweepsShown) // a journal that fails is among the reasons
			most := 1
			for _, c := range list {
				most = max(most, c.Records)
			}
			for _, c := range list {
				v.Sweeps = append(v.Sweeps, sweepView{c, 100 * c.Records / most})
			}
		}
		out = append(out, v)
	}
	return out
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	v := view{
		Version: s.opt.Version, Now: time.Now().UTC(), Ready: s.Readiness(r.Context()),
		Sources: s.sources(r.Context()), Sinks: s.opt.Sinks(),
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

// took is how long a sweep took.
func took(c sweepView) string { return c.Ended.Sub(c.Started).Round(10 * time.Millisecond).String() }

// Size is a number of bytes, for people: "579 KiB".
func Size(n int64) string {
	units := [...]string{"B", "KiB", "MiB", "GiB", "TiB"}
	f, i := float64(n), 0
	for f >= 1024 && i < len(units)-1 {
		f, i = f/1024, i+1
	}
	return fmt.Sprintf("%.3g %s", f, units[i])
}

const pageText = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="refresh" content="5"><title>{{if .Ready.Ready}}cwprelay{{else}}NOT READY: cwprelay{{end}}</title>
<style>
:root{color-scheme:light dark}body{font:15px/1.5 system-ui,sans-serif;margin:1.5rem auto;max-width:64rem;padding:0 1rem}
h1{margin:0 0 .5rem}h2{margin:1.5rem 0 .3rem;font-size:1.1rem}h3{margin:.8rem 0 .2rem;font-size:1rem}
table{border-collapse:collapse;width:100%;margin:.3rem 0}th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid #8884;vertical-align:top}
th{font-weight:600;white-space:nowrap}th.n,td.n{text-align:right;font-variant-numeric:tabular-nums}td.w{word-break:break-word;min-width:12rem}
.good{color:#1a7f37}.bad{color:#cf222e}.some{color:#9a6700}@media(prefers-color-scheme:dark){.good{color:#3fb950}.bad{color:#ff7b72}.some{color:#d29922}}
.banner{padding:.5rem .8rem;border-left:.3rem solid;background:#8881;margin:.5rem 0}.banner ul{margin:.2rem 0;padding-left:1.2rem}
.wide{overflow-x:auto}small{opacity:.7}.bar{display:inline-block;height:.7rem;background:#0969da99;min-width:1px}
</style></head><body>
<h1>cwprelay <small>{{.Version}}</small></h1>
{{if .Ready.Ready}}<p class="banner good"><b>Ready.</b></p>{{else}}<div class="banner bad"><b>Not ready</b><ul>{{range .Ready.Reasons}}<li><b>{{.Code}}</b> ({{.About}}) {{.Detail}}</li>{{end}}</ul></div>{{end}}
<h2>Sinks</h2><div class="wide"><table><tr><th>Sink</th><th>State</th><th class="n">Behind</th><th>Oldest</th><th class="n">Dead letters</th><th>Last success</th><th>Last answer</th></tr>
{{range .Sinks}}<tr><td>{{.Name}}</td><td class="{{if eq .State "halted"}}bad{{else if eq .State "ok"}}good{{else}}some{{end}}">{{.State}}{{with .Replay}}<br><small>replay #{{.After}} of #{{.Until}}</small>{{end}}</td>
<td class="n">{{.Behind}}</td><td>{{if .Behind}}{{age .Oldest}}{{end}}</td><td class="n{{if .Dead}} bad{{end}}">{{.Dead}}</td><td>{{age .LastSuccess}}</td>
<td class="w">{{.LastAnswer}}{{if .HaltReason}}<br><span class="bad">{{.HaltReason}}</span>{{else if and .Failures .LastError}}<br><span class="some">{{.LastError}}</span>{{end}}</td></tr>{{end}}</table></div>
<h2>Sources</h2>
{{range .Sources}}<h3>{{.Source}}/{{.Kind}} <small>{{if .Account}}account {{.Account}}, {{end}}{{.Known}} known events, certified {{age .Certified.Ended}}{{if .Progress.Running}}, a sweep is running: {{.Progress.Requests}} requests{{end}}</small></h3>
{{if .Error}}<p class="bad">{{.Error}}</p>{{end}}
<div class="wide"><table><tr><th>Sweep ended</th><th>Verdict</th><th>Took</th><th class="n">Requests</th><th class="n">Events</th><th class="n">Records</th><th></th></tr>
{{range .Sweeps}}<tr><td>{{.Ended.UTC.Format "15:04:05"}}</td><td class="{{if .Certified}}good{{else}}bad{{end}}">{{if .Certified}}certified{{else}}{{.Reason}} <small>{{.Detail}}</small>{{end}}</td><td>{{took .}}</td>
<td class="n">{{.Requests}}</td><td class="n">{{.IDs}}</td><td class="n">{{.Records}}</td><td style="width:20%"><span class="bar" style="width:{{.Share}}%"></span></td></tr>{{else}}<tr><td colspan="7">no sweep has ended yet</td></tr>{{end}}</table></div>{{end}}
<h2>Journal</h2><p>{{.Journal.Records}} records, {{.Journal.Keys}} known events, {{size .Journal.Bytes}} of {{size .Journal.MaxBytes}}{{if .Journal.Gaps}}, <b class="bad">{{len .Journal.Gaps}} gaps</b>{{end}}{{if .Journal.Damaged}}, <b class="bad">{{.Journal.Damaged}} damaged records</b>{{end}}.</p>
<p><small><a href="/readyz">/readyz</a> · <a href="/healthz">/healthz</a> · <a href="/metrics">/metrics</a> · {{.Now.Format "2006-01-02 15:04:05"}} UTC, again every 5 s</small></p>
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
