package main

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/event"
)

func soakProof() proof {
	return proof{
		name: "soak",
		promise: "under 2,000 events a second to all kinds of sinks, one of which is down for a third of the time, memory, goroutines, open files and the " +
			"journal reach a plateau, and nothing is lost",
		run: soak,
	}
}

// What the soak does.
const (
	soakRate   = 2000 // changes of status a second, over all sources, unless --rate says otherwise
	sourceRate = 350  // of one source at most: the API gives 100 events in each of 20 requests a second
	soakEvents = 5000 // of each source
)

// A sample is what the daemon used at one moment.
type sample struct {
	at                                time.Duration
	rss, heap, goroutines, open, file float64
	records                           int
}

// soak runs one daemon for long, and measures it.
func soak(ctx context.Context, e *evidence) error {
	duration := cmp.Or(e.duration, either(e, time.Minute, time.Hour))
	cycle := either(e, 30*time.Second, 3*time.Minute) // of which a third is an outage
	every := either(e, time.Second, 5*time.Second)
	cfg := rigConfig{
		endless: true, batch: 1000, state: ", retention: 1m",
		settings: "poll_interval: 1s, sweep_interval: 30s",
	}
	rate := cmp.Or(e.rate, soakRate)
	for i := range (rate + sourceRate - 1) / sourceRate {
		cfg.apis = append(cfg.apis, emulator.Config{Seed: e.Seed + uint64(i)})
	}
	r, err := newRig(ctx, e, cfg)
	if err != nil {
		return err
	}
	defer r.close()
	for _, src := range r.sources {
		events := make([]emulator.Event, soakEvents)
		for i := range events {
			events[i].Start = time.Now().Add(-time.Duration(i) * time.Minute).Format(event.WallLayout)
		}
		src.api.Change(func(w *emulator.World) { _, err = w.Insert(events...) })
		if err != nil {
			return err
		}
	}
	d, err := r.start(ctx, "run")
	if err != nil {
		return err
	}
	s := &soaking{rig: r, daemon: d, began: time.Now()}
	var running sync.WaitGroup
	defer running.Wait()
	busy, stop := context.WithTimeout(ctx, duration)
	defer stop()
	for _, src := range r.sources {
		running.Go(func() { s.change(busy, src.api, float64(rate)/float64(len(r.sources))) })
	}
	running.Go(func() { s.outages(busy, cycle) })
	if err := s.watch(busy, every); err != nil {
		return err
	}
	running.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	took := time.Since(s.began)
	records := r.ledger.records()
	if s.swept == 0 {
		return errors.New("no sweep was certified: there is nothing to compare with")
	}
	if err := s.drain(ctx); err != nil {
		return err
	}
	if code := d.terminate(); code != 0 {
		e.broke("the daemon ended with code %d after SIGTERM; its log is %s", code, r.logs.path)
	}
	// What a sweep found between the last look and the end is in the journal.
	if err := errors.Join(r.ended(), r.settle(ctx)); err != nil {
		return err
	}
	e.did("ran the built binary for %s with %d sources of %d events each, whose status changed %d times a second in all; a few events came and went", duration, len(r.sources), soakEvents, rate)
	e.did("fed %d sinks of %d kinds; one after the other was down for the first third of each %s, %d times in all", len(r.dests), 6, cycle, s.outage)
	e.did("compared every record at every sink with the truth of the emulated APIs, for every certified sweep, while it ran; sampled the process every %s", every)
	e.count("changes a second", math.Round(float64(s.changes)/duration.Seconds()))
	e.count("records a second", math.Round(float64(records)/took.Seconds()))
	e.count("deliveries a second", math.Round(float64(records*len(r.dests))/took.Seconds()))
	s.plateau()
	return r.judge(ctx)
}

// soaking is a soak under way.
type soaking struct {
	rig     *rig
	daemon  *daemon
	began   time.Time
	samples []sample
	outage  int // how many there were
	swept   int // sweeps that were judged
	pairs   int

	mu      sync.Mutex // guards changes
	changes int
}

// change lets a list change its share of the rate. Three of five events have
// nine of ten changes; the others keep a status for a minute, longer than a
// sweep lasts. Now and then an event goes and another comes.
func (s *soaking) change(ctx context.Context, api *emulator.Server, share float64) {
	ids := api.World().IDs()
	slices.Sort(ids)
	fast, slow := &ring{ids: ids[:len(ids)*3/5], rate: share * 0.9}, &ring{ids: ids[len(ids)*3/5:], rate: share * 0.1}
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for last := time.Now(); ; {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			changed := fast.turn(api, now.Sub(last)) + slow.turn(api, now.Sub(last))
			last = now
			s.mu.Lock()
			s.changes += changed
			s.mu.Unlock()
		}
	}
}

// A ring is events that change one after the other.
type ring struct {
	ids   []string
	rate  float64 // changes a second
	due   float64
	place int
	turns int
}

// turn makes the changes that are due after a time, and returns how many.
func (r *ring) turn(api *emulator.Server, passed time.Duration) int {
	changed := 0
	// After a standstill of the machine the list does not make up for it.
	for r.due = min(r.due+r.rate*passed.Seconds(), r.rate); r.due >= 1; {
		ids := r.ids[r.place:min(r.place+int(r.due), len(r.ids))]
		api.Change(func(w *emulator.World) {
			changed += w.SetStatus([]int{2, 3, 0}[r.turns%3], ids...)
			w.Redetect(ids...) // so that they are the newest, and seen at once
		})
		r.due -= float64(len(ids))
		if r.place += len(ids); r.place < len(r.ids) {
			continue
		}
		r.place, r.turns = 0, r.turns+1
		api.Change(func(w *emulator.World) {
			if born, err := w.Insert(emulator.Event{}); err == nil {
				gone := &r.ids[r.turns%len(r.ids)]
				w.Delete(*gone)
				*gone = born[0]
			}
		})
	}
	return changed
}

// outages lets one destination after the other be down for a third of each
// cycle. Files have no outages.
func (s *soaking) outages(ctx context.Context, cycle time.Duration) {
	for n := 0; ctx.Err() == nil; n++ {
		d := s.rig.dests[n%(len(s.rig.dests)-1)]
		d.setDown(true)
		sleep(ctx, cycle/3)
		d.setDown(false)
		if ctx.Err() == nil {
			s.outage++
		}
		sleep(ctx, cycle-cycle/3)
	}
}

// A mark is a moment up to which everything that was taken in has a number
// below last.
type mark struct {
	at   time.Time
	last uint64
}

// watch samples the daemon and judges its certificates until ctx is done.
func (s *soaking) watch(ctx context.Context, every time.Duration) error {
	var marks []mark
	for ctx.Err() == nil {
		sleep(ctx, every)
		select {
		case <-s.daemon.done:
			return fmt.Errorf("cwprelay ended by itself: %w; its log is %s", s.daemon.err, s.rig.logs.path)
		default:
		}
		if err := s.sample(context.WithoutCancel(ctx)); err != nil {
			return err
		}
		at := time.Now()
		var now console.Overview
		if err := s.rig.control(context.WithoutCancel(ctx), "/v1/status", &now); err != nil {
			return err
		}
		marks = append(marks, mark{at, now.Journal.Last})
		if err := s.rig.archive().catchUp(); err != nil {
			return err
		}
		if _, err := s.rig.certificates(); err != nil {
			return err
		}
		// What the archive has settled by now has been read back from it.
		for _, sink := range now.Sinks {
			if sink.Name != s.rig.archive().name {
				continue
			}
			for len(marks) > 0 && marks[0].last <= sink.Cursor {
				s.judge(marks[0].at)
				marks = marks[1:]
			}
		}
	}
	return nil
}

// archive is the destination that never fails.
func (r *rig) archive() *destination { return r.dests[len(r.dests)-1] }

// judge checks the sweeps that ended before a moment, and gives up truth and
// records that nobody needs any more.
func (s *soaking) judge(before time.Time) {
	r := s.rig
	r.sweeps = slices.DeleteFunc(r.sweeps, func(w sweep) bool {
		if !w.end.Before(before) {
			return false
		}
		s.swept++
		s.pairs += r.ledger.certified(w)
		return true
	})
	if len(s.samples)%10 != 0 {
		return
	}
	old := before.Add(-2 * time.Minute)
	r.ledger.forget(old)
	for _, src := range r.sources {
		w := src.api.World()
		_, tick := w.Window(old, old)
		w.Forget(tick)
	}
}

// drain waits until every sink has everything, as long as there is progress.
func (s *soaking) drain(ctx context.Context) error {
	var now console.Overview
	for best, since := math.MaxInt, time.Now(); ; sleep(ctx, 100*time.Millisecond) {
		if err := s.rig.control(ctx, "/v1/status", &now); err != nil {
			return err
		}
		behind := 0
		for _, sink := range now.Sinks {
			behind += sink.Behind
		}
		switch {
		case behind == 0:
			return nil
		case behind < best:
			best, since = behind, time.Now()
		case time.Since(since) > 3*time.Minute:
			s.rig.e.broke("nothing was delivered for three minutes, and the sinks together are %d records behind", behind)
			return nil
		}
	}
}

// sample looks at the process from outside and at what it says of itself.
func (s *soaking) sample(ctx context.Context) error {
	one := sample{at: time.Since(s.began), records: s.rig.ledger.records()}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.daemon.cmd.Process.Pid))
	if err != nil {
		return fmt.Errorf("the soak needs Linux: %w", err)
	}
	// Without the pages of mapped files, which the system takes back at will.
	kib, err := strconv.ParseFloat(strings.TrimSpace(after(status, "RssAnon:", "k")), 64)
	if err != nil {
		return fmt.Errorf("the soak needs Linux: RssAnon: %w", err)
	}
	one.rss = kib * 1024
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", s.daemon.cmd.Process.Pid))
	if err != nil {
		return err
	}
	one.open = float64(len(fds))
	files, err := filepath.Glob(filepath.Join(s.rig.state(), "*.db"))
	if err != nil {
		return err
	}
	for _, f := range files {
		if info, err := os.Stat(f); err == nil {
			one.file += float64(info.Size())
		}
	}
	metrics, err := s.rig.metrics(ctx)
	if err != nil {
		return err
	}
	one.heap, one.goroutines = metrics["go_memstats_heap_alloc_bytes"], metrics["go_goroutines"]
	s.samples = append(s.samples, one)
	if len(s.samples)%20 == 0 {
		s.rig.e.tell("%s: %d records, memory %s, heap %s, %.0f goroutines, %.0f open files, journal %s", one.at.Round(time.Second), one.records,
			mebibytes(one.rss), mebibytes(one.heap), one.goroutines, one.open, mebibytes(one.file))
	}
	return nil
}

func mebibytes(n float64) string { return fmt.Sprintf("%.0f MiB", n/(1<<20)) }

// metrics are the daemon's own figures without labels.
func (r *rig) metrics(ctx context.Context) (map[string]float64, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+r.console+"/metrics", nil)
	if err != nil {
		return nil, err
	}
	res, err := (&http.Client{Timeout: time.Minute}).Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close() //nolint:errcheck // it is only read
	all := map[string]float64{}
	lines := bufio.NewScanner(io.LimitReader(res.Body, 16<<20))
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseFloat(value, 64); err == nil {
			all[name] = n
		}
	}
	return all, lines.Err()
}

// plateau fits a line to the later half of the samples of each measure, and
// writes all samples beside the working files.
func (s *soaking) plateau() {
	e := s.rig.e
	later := s.samples[len(s.samples)/2:]
	slack := either(e, 5.0, 1) // a minute is too short for a plateau: it shows what grows without end
	for _, m := range []struct {
		name   string
		of     func(sample) float64
		allow  float64 // growth over the later half, as a part of the mean
		beside float64 // and so much beside
		form   func(float64) string
	}{
		{"memory (RssAnon)", func(p sample) float64 { return p.rss }, 0.10, 16 << 20, mebibytes},
		{"heap in use", func(p sample) float64 { return p.heap }, 0.10, 16 << 20, mebibytes},
		{"goroutines", func(p sample) float64 { return p.goroutines }, 0.05, 10, func(n float64) string { return fmt.Sprintf("%.0f", n) }},
		{"open files", func(p sample) float64 { return p.open }, 0.05, 10, func(n float64) string { return fmt.Sprintf("%.0f", n) }},
		{"journal file", func(p sample) float64 { return p.file }, 0.10, 32 << 20, mebibytes},
	} {
		mean, growth := fit(later, m.of)
		bound := slack * (m.allow*mean + m.beside)
		least, greatest := math.Inf(1), math.Inf(-1)
		for _, p := range later {
			least, greatest = min(least, m.of(p)), max(greatest, m.of(p))
		}
		e.count(m.name, fmt.Sprintf("%s on average over the later half, %s to %s; fitted growth over it %s, at most %s",
			m.form(mean), m.form(least), m.form(greatest), m.form(growth), m.form(bound)))
		if growth > bound {
			e.broke("%s grew by %s over the later half of the run; at most %s would be a plateau", m.name, m.form(growth), m.form(bound))
		}
	}
	e.count("certified sweeps judged while it ran", s.swept)
	e.count("pairs visible throughout one of them, summed", s.pairs)
	if err := s.write(); err != nil {
		e.did("the samples could not be written: %v", err)
	}
}

// fit is the mean of a measure and how much the line of least squares rises
// over the samples.
func fit(samples []sample, of func(sample) float64) (mean, growth float64) {
	var sx, sy, sxx, sxy float64
	n := float64(len(samples))
	for _, p := range samples {
		x, y := p.at.Seconds(), of(p)
		sx, sy, sxx, sxy = sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	if n < 2 {
		return sy / max(n, 1), 0
	}
	slope := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	return sy / n, slope * (samples[len(samples)-1].at - samples[0].at).Seconds()
}

// write leaves the samples as a table.
func (s *soaking) write() (err error) {
	f, err := os.Create(filepath.Join(s.rig.dir, "samples.csv"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	defer func() { err = errors.Join(err, w.Flush()) }()
	_, _ = fmt.Fprintln(w, "seconds,records,rss,heap,goroutines,files,journal") // Flush tells
	for _, p := range s.samples {
		_, _ = fmt.Fprintf(w, "%.0f,%d,%.0f,%.0f,%.0f,%.0f,%.0f\n", p.at.Seconds(), p.records, p.rss, p.heap, p.goroutines, p.open, p.file)
	}
	return nil
}
