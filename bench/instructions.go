package main

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
)

// Instructions are counted, not timed: a count is the same on a busy machine.
// They are compared with those of a reference that only uses the standard
// library, in the same run: a new compiler changes both.

// An Instructions is what one event costs, in thousands of instructions of the
// whole process, and as a multiple of the reference.
type Instructions struct {
	Deliver      float64 `json:"deliver"`   // taken in and delivered
	Reread       float64 `json:"reread"`    // known, read again
	Reference    float64 `json:"reference"` // read into a map, written and compressed
	DeliverRatio float64 `json:"deliver_ratio"`
	RereadRatio  float64 `json:"reread_ratio"`
}

// The events of two runs; what both do but once drops out of the difference.
const (
	fewEvents  = 1000
	manyEvents = 3000
)

// tolerance is how much more a ratio may be than the baseline's.
const tolerance = 1.10

// countInstructions counts, and compares with the baseline file unless it is to
// be renewed.
func countInstructions(ctx context.Context, s *settings) error {
	valgrind, err := exec.LookPath("valgrind")
	if err != nil {
		return errors.New("counting needs valgrind; install the package of that name")
	}
	var counts [2]struct{ deliver, reread, reference float64 }
	for i, events := range []int{fewEvents, manyEvents} {
		one := *s
		one.events, one.valgrind = events, valgrind
		c := &counts[i]
		if c.deliver, c.reread, err = one.countProgram(ctx); err != nil {
			return err
		}
		if c.reference, err = one.countReference(ctx); err != nil {
			return err
		}
	}
	per := func(few, many float64) float64 { return (many - few) / (manyEvents - fewEvents) / 1000 }
	now := Instructions{
		Deliver: per(counts[0].deliver, counts[1].deliver), Reread: per(counts[0].reread, counts[1].reread),
		Reference: per(counts[0].reference, counts[1].reference),
	}
	now.DeliverRatio, now.RereadRatio = now.Deliver/now.Reference, now.Reread/now.Reference
	if _, err := fmt.Fprintf(s.stdout, "thousand instructions per event: taken in and delivered %.1f, read again %.1f, reference %.1f; ratios %.2f and %.2f\n",
		now.Deliver, now.Reread, now.Reference, now.DeliverRatio, now.RereadRatio); err != nil {
		return err
	}
	if s.update {
		return writeBaseline(s.baseline, now)
	}
	return now.compare(s.baseline)
}

func writeBaseline(path string, now Instructions) error {
	text, err := json.MarshalIndent(now, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(path, append(text, '\n'), 0o644) //nolint:gosec // part of the repository
}

// compare fails when a ratio is much more than that of the baseline.
func (now Instructions) compare(baseline string) error {
	text, err := os.ReadFile(baseline)
	if err != nil {
		return err
	}
	var before Instructions
	if err := json.Unmarshal(text, &before); err != nil {
		return fmt.Errorf("%s: %w", baseline, err)
	}
	var errs []error
	check := func(what string, now, before float64) {
		if !(now <= tolerance*before) {
			errs = append(errs, fmt.Errorf("%s costs %.2f times the reference, it was %.2f: more than %.0f percent worse. "+
				"Make it cheaper, or renew %s by -update and say in the commit what is worth it", what, now, before, 100*(tolerance-1), baseline))
		}
	}
	check("taking in and delivering an event", now.DeliverRatio, before.DeliverRatio)
	check("reading a known event again", now.RereadRatio, before.RereadRatio)
	return errors.Join(errs...)
}

// countProgram counts a first run of cwprelay and one with everything known.
func (s *settings) countProgram(ctx context.Context) (deliver, reread float64, err error) {
	h, err := open(ctx, s)
	if err != nil {
		return 0, 0, err
	}
	defer h.close()
	state := filepath.Join(s.dir, fmt.Sprintf("counted-%d", s.events))
	for _, to := range []*float64{&deliver, &reread} {
		f, err := h.runOnce(ctx, s.binary, state, "")
		if err != nil {
			return 0, 0, err
		}
		if to == &deliver && f.Events != s.events {
			return 0, 0, fmt.Errorf("%d of %d events arrived", f.Events, s.events)
		}
		if *to, err = s.collected(); err != nil {
			return 0, 0, err
		}
	}
	return deliver, reread, nil
}

// countReference counts this program at the reference's work.
func (s *settings) countReference(ctx context.Context) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	h := &harness{settings: s}
	p, err := h.start(ctx, []string{self, "-scenario", reference, "-events", strconv.Itoa(s.events)})
	if err != nil {
		return 0, err
	}
	if err := p.wait(); err != nil {
		return 0, err
	}
	return s.collected()
}

func (s *settings) countFile() string { return filepath.Join(s.dir, "count.log") }

// counted is a command line under the counter, as one thread and without
// garbage collections: what threads do while they wait, and one collection more
// or less, are not to be counted. What is allocated is.
func (s *settings) counted(argv []string) (all, env []string) {
	return append([]string{s.valgrind, "--tool=callgrind", "--callgrind-out-file=/dev/null", "--log-file=" + s.countFile()}, argv...),
		[]string{"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1", "GOGC=off"}
}

// collected reads what the counter found.
func (s *settings) collected() (float64, error) {
	text, err := os.ReadFile(s.countFile())
	if err != nil {
		return 0, err
	}
	found := regexp.MustCompile(`Collected : (\d+)`).FindSubmatch(text)
	if found == nil {
		return 0, fmt.Errorf("valgrind counted nothing: %s", bytes.TrimSpace(text))
	}
	return strconv.ParseFloat(string(found[1]), 64)
}

// runReference reads each event into a map, writes it and compresses what was
// written, by the standard library.
func runReference(ctx context.Context, events int) error {
	l, err := newList(ctx, events)
	if err != nil {
		return err
	}
	z, err := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(z)
	var one []byte
	for i := range events {
		one = l.append(one[:0], i, 0)
		var v map[string]any
		if err := json.Unmarshal(one, &v); err != nil {
			return err
		}
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if _, err := w.Write(text); err != nil {
			return err
		}
	}
	return errors.Join(w.Flush(), z.Close())
}
