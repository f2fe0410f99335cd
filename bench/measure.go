package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// The scenarios.
const (
	deliver = "deliver"
	reread  = "reread"
	known   = "known"
	idle    = "idle"
	limit   = "limit"
	delay   = "delay"

	instructions = "instructions"
	reference    = "reference" // what instructions are compared with
)

// A Figures is what one run took, or the medians of several.
type Figures struct {
	Events          int     `json:"events"`            // that arrived; with known ones: that were read again
	Seconds         float64 `json:"seconds"`           // from the first page to the last acknowledgement
	EventsPerSecond float64 `json:"events_per_second"` // of that time
	CPUSeconds      float64 `json:"cpu_seconds"`       // of the whole process, user and system
	CPUPerMillion   float64 `json:"cpu_seconds_per_million"`
	PeakRSS         float64 `json:"peak_rss_mib"`      // resident at most, pages of mapped files included
	PeakAnon        float64 `json:"peak_anon_mib"`     // resident at most without pages of files; sampled
	Requests        int64   `json:"requests"`          // to the API, or pages pushed
	SentMiB         float64 `json:"sent_mib"`          // to the destination, as it was sent
	StartSeconds    float64 `json:"start_seconds"`     // from the start of the process to its first request
	StartCPU        float64 `json:"start_cpu_seconds"` // what it had used by then
	IdlePercent     float64 `json:"idle_cpu_percent,omitzero"`
	BudgetUsed      float64 `json:"budget_used_percent,omitzero"` // requests of those that the API allows, from the first to the last
	Refused         int64   `json:"refused,omitzero"`             // requests beyond what the API allows
	DelayMedian     float64 `json:"delay_median_seconds,omitzero"`
	DelayMost       float64 `json:"delay_p99_seconds,omitzero"` // of 99 in 100 events
}

// A Contender is a program and its runs.
type Contender struct {
	Name   string    `json:"name"`
	Median Figures   `json:"median"`
	Runs   []Figures `json:"runs"`

	once func(ctx context.Context) (Figures, error)
}

// A Report is the whole result.
type Report struct {
	Scenario   string             `json:"scenario"`
	Sink       string             `json:"sink"`
	Events     int                `json:"events"`
	RecordSize int                `json:"record_bytes"`
	CPUs       int                `json:"cpus"`
	System     string             `json:"system"`
	Contenders []*Contender       `json:"contenders"`
	Ratios     map[string]float64 `json:"ratios,omitzero"` // of the first contender to the second: medians of the ratios round by round
}

// measure runs the contenders in turn and reports.
func (h *harness) measure(ctx context.Context) error {
	contenders, err := h.contenders(ctx)
	if err != nil {
		return err
	}
	for range h.rounds {
		for _, c := range contenders {
			f, err := c.once(ctx)
			if err != nil {
				return fmt.Errorf("%s: %w", c.Name, err)
			}
			c.Runs = append(c.Runs, f)
			_, _ = fmt.Fprintf(h.stderr, "%s: %.0f events/s, %.2f CPU s, %.0f MiB\n", c.Name, f.EventsPerSecond, f.CPUSeconds, f.PeakRSS) // progress only
		}
	}
	r := Report{
		Scenario: h.scenario, Sink: h.sink, Events: h.events, RecordSize: h.api.list.size(),
		CPUs: runtime.NumCPU(), System: runtime.GOOS + "/" + runtime.GOARCH + " " + runtime.Version(), Contenders: contenders,
	}
	for _, c := range contenders {
		c.Median = medians(c.Runs)
	}
	if len(contenders) > 1 {
		r.Ratios = ratios(contenders[0].Runs, contenders[1].Runs)
	}
	if err := r.print(h.stdout); err != nil {
		return err
	}
	if h.jsonPath == "" {
		return nil
	}
	text, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(h.jsonPath, append(text, '\n'), 0o644) //nolint:gosec // figures for everybody
}

func (h *harness) contenders(ctx context.Context) ([]*Contender, error) {
	own := func(name, binary string) (*Contender, error) {
		once, err := h.scenarioOf(ctx, name, binary)
		return &Contender{Name: name, once: once}, err
	}
	first, err := own("cwprelay", h.binary)
	if err != nil {
		return nil, err
	}
	list := []*Contender{first}
	if h.against != "" {
		other, err := own("against", h.against)
		if err != nil {
			return nil, err
		}
		list = append(list, other)
	}
	if h.peer != "" {
		list = append(list, &Contender{Name: "peer", once: h.runPeer})
	}
	return list, nil
}

// scenarioOf returns what one run of a scenario does, after preparing it.
func (h *harness) scenarioOf(ctx context.Context, name, binary string) (func(context.Context) (Figures, error), error) {
	if h.scenario == deliver || h.scenario == limit {
		return func(ctx context.Context) (Figures, error) { return h.runDeliver(ctx, binary) }, nil
	}
	state := cmp.Or(h.prepared, filepath.Join(h.dir, "known-"+name))
	if _, err := os.Stat(state); errors.Is(err, os.ErrNotExist) {
		_, _ = fmt.Fprintf(h.stderr, "%s: taking in %d events first\n", name, h.events) // progress only
		if err := h.prepare(ctx, binary, state); err != nil {
			return nil, errors.Join(fmt.Errorf("prepare the known events: %w", err), os.RemoveAll(state))
		}
	}
	switch h.scenario {
	case reread, known:
		return func(ctx context.Context) (Figures, error) { return h.runKnown(ctx, binary, state) }, nil
	case idle:
		return func(ctx context.Context) (Figures, error) { return h.runIdle(ctx, binary, state) }, nil
	case delay:
		return func(ctx context.Context) (Figures, error) { return h.runDelay(ctx, binary, state) }, nil
	default:
		return nil, fmt.Errorf("-scenario: %q is not one of deliver, reread, known, idle, limit, delay", h.scenario)
	}
}

// prepare takes events in as old news, as fast as it goes.
func (h *harness) prepare(ctx context.Context, binary, state string) error {
	rate, latency, limit := h.requestsPerSecond, h.api.latency, h.api.limit
	defer func() { h.requestsPerSecond, h.api.latency, h.api.limit = rate, latency, limit }()
	h.requestsPerSecond, h.api.latency, h.api.limit = asFastAsItGoes, 0, nil
	_, err := h.runOnce(ctx, binary, state, "    backfill: silent\n")
	return err
}

// runDeliver takes in and delivers a list of which nothing is known.
func (h *harness) runDeliver(ctx context.Context, binary string) (Figures, error) {
	state, err := os.MkdirTemp(h.dir, "state-")
	if err != nil {
		return Figures{}, err
	}
	defer os.RemoveAll(state) //nolint:errcheck // removed with the whole directory at the latest
	f, err := h.runOnce(ctx, binary, filepath.Join(state, "journal"), "")
	if err == nil && f.Events != h.events {
		err = fmt.Errorf("%d of %d events arrived", f.Events, h.events)
	}
	return f, err
}

// runKnown reads a list of which everything is known.
func (h *harness) runKnown(ctx context.Context, binary, state string) (Figures, error) {
	f, err := h.runOnce(ctx, binary, state, "")
	if err == nil && f.Events != 0 {
		err = fmt.Errorf("%d events arrived, though all are known", f.Events)
	}
	f.Events = h.events
	f.rate()
	return f, err
}

// runOnce runs cwprelay until it has delivered everything.
func (h *harness) runOnce(ctx context.Context, binary, state, source string) (Figures, error) {
	path := filepath.Join(h.dir, "bench.yaml")
	if err := os.WriteFile(path, []byte(h.config(state, source)), 0o600); err != nil {
		return Figures{}, err
	}
	h.api.begin()
	h.dest.begin()
	p, err := h.start(ctx, []string{binary, "run", "--once", "-c", path})
	if err != nil {
		return Figures{}, err
	}
	if err := p.wait(); err != nil {
		return Figures{}, err
	}
	f := p.figures()
	first := time.Unix(0, h.api.first.Load())
	f.StartSeconds, f.StartCPU = first.Sub(p.began).Seconds(), p.startCPU.Seconds()
	f.Requests, f.Refused = h.api.requests.Load(), h.api.refused.Load()
	if asked := time.Duration(h.api.last.Load() - h.api.first.Load()); h.rateLimit > 0 && asked > 0 {
		f.BudgetUsed = 100 * float64(f.Requests) / (asked.Seconds()*float64(h.rateLimit) + 1)
	}
	var last time.Time
	f.Events, last = h.dest.count()
	if f.Events == 0 {
		last = p.ended
	}
	f.Seconds, f.SentMiB = last.Sub(first).Seconds(), mib(h.dest.bytes())
	f.rate()
	return f, nil
}

// rate works out what is per event.
func (f *Figures) rate() {
	if f.Events > 0 && f.Seconds > 0 {
		f.EventsPerSecond = float64(f.Events) / f.Seconds
		f.CPUPerMillion = f.CPUSeconds / float64(f.Events) * 1e6
	}
}

// warmUp is how long events come before delays count: at first nothing says how
// many come, and some of those that pile up until the second look at the newest
// wait for the next sweep.
const warmUp = 20 * time.Second

// runDelay watches the daemon while events come, and tells how long each took
// from the moment at which the API shows it to the answer of the destination.
func (h *harness) runDelay(ctx context.Context, binary, state string) (f Figures, err error) {
	dest, ok := h.dest.(*hec)
	if !ok {
		return f, errors.New("-scenario delay goes with -sink hec only")
	}
	known := state
	if state, err = os.MkdirTemp(h.dir, "state-"); err != nil {
		return f, err
	}
	defer os.RemoveAll(state) //nolint:errcheck // removed with the whole directory at the latest
	state = filepath.Join(state, "journal")
	if err := os.CopyFS(state, os.DirFS(known)); err != nil {
		return f, err
	}
	p, err := h.daemon(ctx, binary, state)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	if err := sleep(ctx, settling); err != nil {
		return f, err
	}
	list := h.api.list
	list.come(time.Now().Truncate(time.Second).Add(time.Second))
	coming := len(list.starts) - list.shown
	before := p.cpu()
	if err := sleep(ctx, time.Until(list.came(len(list.starts)-1))); err != nil {
		return f, err
	}
	f = Figures{CPUSeconds: (p.cpu() - before).Seconds()}
	var at map[int]time.Time
	for deadline := time.Now().Add(3*h.pollInterval + 30*time.Second); len(at) < coming && time.Now().Before(deadline); {
		if err := sleep(ctx, time.Second); err != nil {
			return f, err
		}
		if at, err = dest.arrivals(); err != nil {
			return f, err
		}
	}
	if len(at) != coming {
		return f, fmt.Errorf("%d of %d events arrived", len(at), coming)
	}
	var delays []float64
	for i, arrived := range at {
		if came := list.came(i); came.Sub(list.coming) > warmUp {
			delays = append(delays, arrived.Sub(came).Seconds())
		}
	}
	slices.Sort(delays)
	f.Events, f.Requests, f.Refused = coming, h.api.requests.Load(), h.api.refused.Load()
	f.DelayMedian, f.DelayMost = delays[len(delays)/2], delays[len(delays)*99/100]
	f.Seconds = float64(coming) / perSecond
	f.PeakRSS, f.PeakAnon = float64(p.status("VmHWM"))/1024, float64(p.anon)/1024
	f.rate()
	return f, nil
}

// settling is left out of what runIdle watches: starting is not idling.
const settling = 10 * time.Second

// daemon starts the daemon.
func (h *harness) daemon(ctx context.Context, binary, state string) (*program, error) {
	path := filepath.Join(h.dir, "bench.yaml")
	if err := os.WriteFile(path, []byte(h.config(state, fmt.Sprintf("    poll_interval: %s\n", h.pollInterval))), 0o600); err != nil {
		return nil, err
	}
	h.api.begin()
	h.dest.begin()
	return h.start(ctx, []string{binary, "run", "-c", path})
}

// runIdle watches the daemon with a list that does not change.
func (h *harness) runIdle(ctx context.Context, binary, state string) (f Figures, err error) {
	p, err := h.daemon(ctx, binary, state)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	if err := sleep(ctx, settling); err != nil {
		return f, err
	}
	began, before, requests := time.Now(), p.cpu(), h.api.requests.Load()
	if err := sleep(ctx, h.idleFor); err != nil {
		return f, err
	}
	used := p.cpu() - before
	f = Figures{
		Events: h.events, Seconds: time.Since(began).Seconds(), CPUSeconds: used.Seconds(),
		PeakRSS: float64(p.status("VmRSS")) / 1024, PeakAnon: float64(p.status("RssAnon")) / 1024,
		Requests: h.api.requests.Load() - requests,
	}
	f.IdlePercent = 100 * f.CPUSeconds / f.Seconds
	return f, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A program is a running command.
type program struct {
	cmd      *exec.Cmd
	output   bytes.Buffer
	began    time.Time
	ended    time.Time
	done     chan error
	anon     int64         // KiB at most
	startCPU time.Duration // when the first request was seen
	result   error
}

// start starts a command and watches its memory.
func (h *harness) start(ctx context.Context, argv []string, env ...string) (*program, error) {
	if h.valgrind != "" {
		var more []string
		argv, more = h.counted(argv)
		env = append(env, more...)
	}
	p := &program{cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), done: make(chan error, 1)} //nolint:gosec // that is what bench is for
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.output, &p.output
	if h.showOutput {
		p.cmd.Stdout, p.cmd.Stderr = h.stderr, h.stderr
	}
	timer := time.AfterFunc(h.timeout, func() { _ = p.cmd.Process.Kill() }) // then wait tells
	p.began = time.Now()
	if err := p.cmd.Start(); err != nil {
		timer.Stop()
		return nil, err
	}
	stop := make(chan struct{})
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				p.anon = max(p.anon, p.status("RssAnon"))
				if p.startCPU == 0 && h.api != nil && h.api.first.Load() != 0 {
					p.startCPU = p.cpu()
				}
			}
		}
	}()
	go func() {
		err := p.cmd.Wait()
		p.ended = time.Now()
		timer.Stop()
		close(stop)
		<-watched
		if err != nil {
			err = fmt.Errorf("%s: %w: %s", filepath.Base(argv[0]), err, strings.TrimSpace(p.output.String()))
		}
		p.done <- err
	}()
	return p, nil
}

func (p *program) wait() error {
	if p.done != nil {
		p.result, p.done = <-p.done, nil
	}
	return p.result
}

// end stops a program that does not end by itself.
func (p *program) end() error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timer := time.AfterFunc(30*time.Second, func() { _ = p.cmd.Process.Kill() })
	defer timer.Stop()
	err := p.wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() && s.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	return err
}

// figures are those that the system keeps of a program that has ended.
func (p *program) figures() Figures {
	f := Figures{PeakAnon: float64(p.anon) / 1024}
	f.CPUSeconds = (p.cmd.ProcessState.UserTime() + p.cmd.ProcessState.SystemTime()).Seconds()
	if u, ok := p.cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		f.PeakRSS = float64(u.Maxrss) / 1024
	}
	return f
}

// status is a figure of /proc/PID/status in KiB, 0 where there is none.
func (p *program) status(name string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	var kib int64
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			_, _ = fmt.Sscan(rest, &kib) // 0 is told as 0
		}
	}
	return kib
}

// cpu is the time that a running program has used.
func (p *program) cpu() time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(text), ") ") // the name before may hold spaces
	fields := strings.Fields(rest)
	if len(fields) < 13 {
		return 0
	}
	var user, system int64
	_, _ = fmt.Sscan(fields[11]+" "+fields[12], &user, &system) // in hundredths, on every Linux there is
	return time.Duration(user+system) * 10 * time.Millisecond
}

func mib(bytes int64) float64 { return float64(bytes) / (1 << 20) }

// medians are those of each figure.
func medians(runs []Figures) Figures {
	of := func(get func(*Figures) float64) float64 {
		var all []float64
		for i := range runs {
			all = append(all, get(&runs[i]))
		}
		return median(all)
	}
	return Figures{
		Events:          int(of(func(f *Figures) float64 { return float64(f.Events) })),
		Seconds:         of(func(f *Figures) float64 { return f.Seconds }),
		EventsPerSecond: of(func(f *Figures) float64 { return f.EventsPerSecond }),
		CPUSeconds:      of(func(f *Figures) float64 { return f.CPUSeconds }),
		CPUPerMillion:   of(func(f *Figures) float64 { return f.CPUPerMillion }),
		PeakRSS:         of(func(f *Figures) float64 { return f.PeakRSS }),
		PeakAnon:        of(func(f *Figures) float64 { return f.PeakAnon }),
		Requests:        int64(of(func(f *Figures) float64 { return float64(f.Requests) })),
		SentMiB:         of(func(f *Figures) float64 { return f.SentMiB }),
		StartSeconds:    of(func(f *Figures) float64 { return f.StartSeconds }),
		StartCPU:        of(func(f *Figures) float64 { return f.StartCPU }),
		IdlePercent:     of(func(f *Figures) float64 { return f.IdlePercent }),
		BudgetUsed:      of(func(f *Figures) float64 { return f.BudgetUsed }),
		Refused:         int64(of(func(f *Figures) float64 { return float64(f.Refused) })),
		DelayMedian:     of(func(f *Figures) float64 { return f.DelayMedian }),
		DelayMost:       of(func(f *Figures) float64 { return f.DelayMost }),
	}
}

func median(all []float64) float64 {
	slices.Sort(all)
	n := len(all)
	if n == 0 {
		return 0
	}
	return (all[(n-1)/2] + all[n/2]) / 2
}

// ratios compares runs that were made one after the other.
func ratios(a, b []Figures) map[string]float64 {
	of := func(get func(*Figures) float64) float64 {
		var all []float64
		for i := range min(len(a), len(b)) {
			if get(&b[i]) > 0 {
				all = append(all, get(&a[i])/get(&b[i]))
			}
		}
		return median(all)
	}
	return map[string]float64{
		"events_per_second": of(func(f *Figures) float64 { return f.EventsPerSecond }),
		"cpu_seconds":       of(func(f *Figures) float64 { return f.CPUSeconds }),
		"peak_rss":          of(func(f *Figures) float64 { return f.PeakRSS }),
		"sent":              of(func(f *Figures) float64 { return f.SentMiB }),
	}
}
