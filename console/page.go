package console

import (
	"context"
	"crypto/sha256"
	_ "embed" // the page
	"encoding/base64"
	"fmt"
	"html/template"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

//go:embed page.html
var pageText string

//go:embed page.js
var pageScript string

// policy allows the page its own style and its one script, and nothing else.
func policy() string {
	sum := sha256.Sum256([]byte(pageScript))
	return "default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
}

// A Description is what the page shows of a record. It holds what an event
// says, which attackers write: the page escapes it.
type Description struct {
	Severity string // "high"
	What     string // "process detected"
	Threat   string // name of the virus
	Host     string
	Command  string // command line, secrets masked; shown only with Options.ShowCommands
}

type view struct {
	Version    string
	Now        time.Time
	Ready      Readiness
	Config     Configuration
	Sources    []sourceView
	Sinks      []sinkView
	Journal    journal.Status
	Plots      []plot
	Full       int // of the journal's space in use, in percent
	ShowEvents bool
	Events     []eventView
	Script     template.JS
}

// sinkView is a sink with its rate and what its destination said.
type sinkView struct {
	delivery.Status
	Rate  string
	Color string
	Said  []said
}

type said struct{ Text, Color string }

func (s *Server) sink(st delivery.Status) sinkView {
	v := sinkView{Status: st, Rate: s.history.rate(st.Name), Color: "some"}
	switch st.State {
	case delivery.OK:
		v.Color = "good"
	case delivery.Halted:
		v.Color = "bad"
	default:
	}
	say := func(text, color string) {
		if text != "" {
			v.Said = append(v.Said, said{text, color})
		}
	}
	say(st.LastAnswer, "")
	switch {
	case st.HaltReason != "":
		say(st.HaltReason, "bad")
	case st.Failures > 0 || st.Suspects > 0:
		say(st.LastError, "some")
	}
	if st.HeartbeatError != "" {
		say("heartbeat not accepted: "+st.HeartbeatError, "some")
	}
	return v
}

// sourceView is a source with its last sweeps, the newest first.
type sourceView struct {
	poller.Status
	Budget string
	Used   int    // of it, in percent
	Lag    string // what the API showed before that is taken in
	Sweeps []sweepView
}

type sweepView struct {
	journal.Certificate
	Share int // of its records in the most that one of the sweeps has, in percent
}

// eventView is a record and where it stands.
type eventView struct {
	Description
	Seq    uint64
	Seen   time.Time
	Color  string
	Stands []stand // beside the sinks
}

type stand struct{ Sink, Mark, Word, Color string }

// How much of each the page shows.
const (
	sweepsShown = 10
	eventsShown = 15
)

func (s *Server) sources(ctx context.Context) []sourceView {
	var out []sourceView
	for _, st := range s.opt.Sources() {
		v := sourceView{Status: st, Lag: "unknown"}
		v.Budget, v.Used = s.history.budget(st.Source, st.Kind)
		if !st.Certified.Started.IsZero() {
			v.Lag = span(time.Since(st.Certified.Started))
		}
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

// events are the newest records, the newest first.
func (s *Server) events(ctx context.Context, st journal.Status, sinks []delivery.Status) []eventView {
	if st.Last == 0 {
		return nil
	}
	list, _ := s.opt.Records(ctx, max(st.Last, eventsShown)-eventsShown, eventsShown) // a journal that fails is among the reasons
	var out []eventView
	for _, rec := range slices.Backward(list) {
		v := eventView{Description: s.opt.Describe(rec), Seq: rec.Seq, Seen: rec.ObservedAt}
		if !s.opt.ShowCommands {
			v.Command = ""
		}
		switch v.Severity {
		case "critical", "high":
			v.Color = "bad"
		case "medium":
			v.Color = "some"
		}
		for _, sink := range sinks {
			v.Stands = append(v.Stands, s.stands(ctx, sink, rec))
		}
		out = append(out, v)
	}
	return out
}

// stands says where a record stands at a sink.
func (s *Server) stands(ctx context.Context, sink delivery.Status, rec *event.Record) stand {
	if sink.Dead > 0 && s.opt.Letters != nil {
		letters, err := s.opt.Letters(ctx, sink.Name, rec.Seq-1, 1)
		if err == nil && len(letters) == 1 && letters[0].Record.Seq == rec.Seq {
			return stand{sink.Name, "✕", "dead letter", "bad"}
		}
	}
	inside := func(r journal.Range) bool { return r.First <= rec.Seq && rec.Seq <= r.Last }
	if rec.Seq <= sink.Cursor.Seq || slices.ContainsFunc(sink.Cursor.Ahead, inside) {
		return stand{sink.Name, "✓", "settled", "good"}
	}
	return stand{sink.Name, "…", "waits", "some"}
}

func (s *Server) show(w http.ResponseWriter, r *http.Request) {
	sinks := s.opt.Sinks()
	v := view{
		Version: s.opt.Version, Now: time.Now().UTC(), Ready: s.Readiness(r.Context()),
		Sources: s.sources(r.Context()), Plots: s.history.plots(), Script: template.JS(pageScript), //nolint:gosec // it is ours
	}
	for _, sink := range sinks {
		v.Sinks = append(v.Sinks, s.sink(sink))
	}
	v.Journal, _ = s.opt.Journal(r.Context()) // its error is among the reasons
	v.Full = percent(float64(v.Journal.Bytes), float64(v.Journal.MaxBytes))
	if s.opt.Configuration != nil {
		v.Config = s.opt.Configuration()
	}
	if s.opt.Records != nil && s.opt.Describe != nil {
		v.ShowEvents, v.Events = true, s.events(r.Context(), v.Journal, sinks)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	_ = s.page.Execute(w, v) // the reader has gone
}

// age is how long ago a moment was, for people.
func age(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return span(time.Since(t)) + " ago"
}

// span is a length of time, for people: two of its units at most.
func span(d time.Duration) string {
	switch d = max(d, 0); {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", d/time.Minute, d%time.Minute/time.Second)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", d/time.Hour, d%time.Hour/time.Minute)
	default:
		return fmt.Sprintf("%d d %d h", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	}
}

// percent is how much a part is of all, from 0 to 100.
func percent(part, all float64) int {
	if all <= 0 {
		return 0
	}
	return int(min(max(100*part/all, 0), 100))
}

// counts are the API's own counts before and after a sweep.
func counts(c sweepView) string {
	switch {
	case c.TotalBefore < 0 || c.TotalAfter < 0:
		return "–"
	case c.TotalBefore == c.TotalAfter:
		return strconv.FormatInt(c.TotalAfter, 10)
	default:
		return fmt.Sprintf("%d → %d", c.TotalBefore, c.TotalAfter)
	}
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
