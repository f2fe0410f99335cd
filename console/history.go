package console

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// The history that the page plots: one sample every sampleEvery, for an hour.
const (
	sampleEvery  = 10 * time.Second
	samplesKept  = 360
	samplesLeast = 60 // that a plot has room for
	rateOver     = 6  // samples that a rate is taken over: a minute
)

// A sample is how far everything was at a moment.
type sample struct {
	at      time.Time
	in      uint64            // sequence of the newest record
	settled map[string]uint64 // by sink: cursor
	lag     time.Duration     // age of the oldest record that a sink has not settled
	sent    map[string]uint64 // by source and kind: requests
	allowed map[string]float64
}

// A history is the last samples. Its zero value is empty.
type history struct {
	mu   sync.Mutex // guards list
	list []sample   // from the oldest
}

// sample notes how things are.
func (s *Server) sample(ctx context.Context, now time.Time) {
	st, err := s.opt.Journal(ctx)
	if err != nil {
		return
	}
	one := sample{at: now, in: st.Last, settled: map[string]uint64{}, sent: map[string]uint64{}, allowed: map[string]float64{}}
	for _, sink := range s.opt.Sinks() {
		one.settled[sink.Name] = sink.Cursor.Seq
		if sink.Behind > 0 {
			one.lag = max(one.lag, now.Sub(sink.Oldest))
		}
	}
	if s.opt.Budget != nil {
		for _, src := range s.opt.Sources() {
			name := src.Source + "/" + src.Kind
			one.sent[name], one.allowed[name] = s.opt.Budget(src.Source, src.Kind)
		}
	}
	h := s.history
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.list = append(h.list, one); len(h.list) > samplesKept {
		h.list = slices.Delete(h.list, 0, len(h.list)-samplesKept)
	}
}

// watch samples until ctx is done.
func (s *Server) watch(ctx context.Context) {
	tick := time.NewTicker(sampleEvery)
	defer tick.Stop()
	s.sample(ctx, time.Now())
	for {
		select {
		case now := <-tick.C:
			s.sample(ctx, now)
		case <-ctx.Done():
			return
		}
	}
}

// recent are the first and the last sample of the last minute; false while
// there are no two.
func (h *history) recent() (first, last sample, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := len(h.list)
	if n < 2 {
		return first, last, false
	}
	return h.list[max(n-1-rateOver, 0)], h.list[n-1], true
}

// rate is how many records a second a sink has settled in the last minute.
func (h *history) rate(sink string) string {
	first, last, ok := h.recent()
	if !ok {
		return ""
	}
	return perSecond(settledBetween(first, last, sink), last.at.Sub(first.at))
}

// settledBetween is how many records a sink settled from one sample to another;
// where the first does not know the sink, its cursor says nothing.
func settledBetween(from, to sample, sink string) uint64 {
	before, known := from.settled[sink]
	if !known {
		return 0
	}
	return grown(before, to.settled[sink])
}

// budget says how much of its requests a source used in the last minute, also
// in percent.
func (h *history) budget(source, kind string) (text string, used int) {
	first, last, ok := h.recent()
	name := source + "/" + kind
	if !ok || last.allowed[name] == 0 {
		return "", 0
	}
	sent, over := grown(first.sent[name], last.sent[name]), last.at.Sub(first.at)
	return fmt.Sprintf("%s of %.3g requests/s", perSecond(sent, over), last.allowed[name]),
		percent(float64(sent)/max(over.Seconds(), 1), last.allowed[name])
}

// grown is how much a count has grown; one that fell began anew.
func grown(before, after uint64) uint64 { return after - min(before, after) }

func perSecond(n uint64, d time.Duration) string {
	return fmt.Sprintf("%.3g", float64(n)/max(d.Seconds(), 1))
}

// A plot is one line of the history.
type plot struct {
	Title, Now, Most, Span, Color string
	Path, Area                    string // the line, and what is below it
}

// plots are in, out and lag over the time that was sampled; none before that is
// two samples.
func (h *history) plots() []plot {
	h.mu.Lock()
	list := slices.Clone(h.list)
	h.mu.Unlock()
	if len(list) < 2 {
		return nil
	}
	var in, out, lag []float64
	for i, s := range list[1:] {
		before := list[i]
		d := max(s.at.Sub(before.at).Seconds(), 1)
		in = append(in, float64(grown(before.in, s.in))/d)
		sum := uint64(0)
		for sink := range s.settled {
			sum += settledBetween(before, s, sink)
		}
		out, lag = append(out, float64(sum)/d), append(lag, s.lag.Seconds())
	}
	over := span(list[len(list)-1].at.Sub(list[0].at))
	rate := func(v float64) string { return fmt.Sprintf("%.3g/s", v) }
	seconds := func(v float64) string { return span(time.Duration(v * float64(time.Second))) }
	return []plot{
		line("Taken in", "in", over, in, rate),
		line("Settled by all sinks", "out", over, out, rate),
		line("Oldest waiting record", "lag", over, lag, seconds),
	}
}

// line draws values, the newest at the right edge.
func line(title, color, over string, values []float64, text func(float64) string) plot {
	const width, height = 360.0, 60.0
	spaces := max(len(values), samplesLeast) - 1
	most := slices.Max(values)
	first := width - width*float64(len(values)-1)/float64(spaces)
	var path strings.Builder
	for i, v := range values {
		x := width - width*float64(len(values)-1-i)/float64(spaces)
		fmt.Fprintf(&path, "%c%.1f %.1f", map[bool]rune{true: 'M', false: 'L'}[i == 0], x, height-2-(height-4)*v/max(most, 1e-9))
	}
	return plot{
		Title: title, Now: text(values[len(values)-1]), Most: text(most), Span: over, Color: color,
		Path: path.String(), Area: fmt.Sprintf("%sL%.1f %.1fL%.1f %.1fZ", path.String(), width, height, first, height),
	}
}
