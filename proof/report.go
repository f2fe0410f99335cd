package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

// The verdicts.
const (
	verdictHeld   = "held"
	verdictBroken = "BROKEN"
	verdictUndone = "NOT CARRIED OUT"
	verdictCut    = "CUT SHORT" // by whoever ran it: it says nothing
)

// report is what is printed for a machine.
type report struct {
	Began   time.Time `json:"began"`
	Seed    uint64    `json:"seed"`
	Long    bool      `json:"long"`
	Verdict string    `json:"verdict"`
	Proofs  []*result `json:"proofs"`
}

// result is what one proof found.
type result struct {
	Name    string        `json:"name"`
	Promise string        `json:"promise"`
	Verdict string        `json:"verdict"`
	Seed    uint64        `json:"seed"`
	Long    bool          `json:"long"`
	Took    time.Duration `json:"-"`
	Seconds float64       `json:"seconds"`
	Done    []string      `json:"done"`
	Figures []figure      `json:"figures"`
	Broken  []string      `json:"broken,omitempty"`
	More    int           `json:"broken_more,omitempty"` // further ones that are only counted
	Error   string        `json:"error,omitempty"`
	Files   string        `json:"files,omitempty"` // where the working files are
}

type figure struct {
	Name  string `json:"name"`
	Value any    `json:"value"`
}

func (r *result) print(w io.Writer) {
	form := "short"
	if r.Long {
		form = "long"
	}
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	say("\n== %s: %s (%s form, seed %d, %s)", r.Name, r.Verdict, form, r.Seed, r.Took)
	say("promised: %s", r.Promise)
	for _, d := range r.Done {
		say("done: %s", d)
	}
	width := 0
	for _, f := range r.Figures {
		width = max(width, len(f.Name))
	}
	for _, f := range r.Figures {
		say("  %-*s  %v", width, f.Name, f.Value)
	}
	for _, b := range r.Broken {
		say("BROKEN: %s", b)
	}
	if r.More > 0 {
		say("BROKEN: and %d more", r.More)
	}
	if r.Error != "" {
		say("NOT CARRIED OUT: %s", strings.ReplaceAll(r.Error, "\n", "\n    "))
	}
	if r.Verdict == verdictBroken || r.Verdict == verdictUndone {
		again := "go run ./proof"
		if r.Long {
			again += " --long"
		}
		say("again: %s --seed %d %s", again, r.Seed, r.Name)
	}
	if r.Files != "" {
		say("files: %s", r.Files)
	}
}

// evidence is what a proof works with and reports to. Its methods may be
// called by many goroutines.
type evidence struct {
	result // Name, Seed and Long are set; the rest is written by the methods

	root     string // the checkout
	dir      string // the proof's own, empty; removed when it held
	progress io.Writer
	duration time.Duration   // of the soak; 0: as the form says
	rate     int             // of the soak; 0: as documented
	mutation string          // a part of the names or proofs of the mutations; empty: all
	cut      context.Context // done: somebody ends the run

	mu  sync.Mutex // guards result and bin
	bin string
}

// did tells what was done.
func (e *evidence) did(format string, args ...any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.Done = append(e.Done, fmt.Sprintf(format, args...))
}

// count reports a figure; a later one of the same name replaces it.
func (e *evidence) count(name string, value any) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if i := slices.IndexFunc(e.Figures, func(f figure) bool { return f.Name == name }); i >= 0 {
		e.Figures[i].Value = value
		return
	}
	e.Figures = append(e.Figures, figure{name, value})
}

// most is how many broken promises are told one by one.
const most = 20

// broke reports that a promise was broken. The proof may go on. What is seen
// while the run is being ended is that of servers that were stopped.
func (e *evidence) broke(format string, args ...any) {
	if e.cut.Err() != nil {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.Broken) == most {
		e.More++
		return
	}
	e.Broken = append(e.Broken, fmt.Sprintf(format, args...))
}

// failed reports whether a promise was broken so far.
func (e *evidence) failed() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.Broken) > 0
}

// tell shows progress to who waits.
func (e *evidence) tell(format string, args ...any) {
	_, _ = fmt.Fprintf(e.progress, "%s %s: %s\n", time.Now().Format(time.TimeOnly), e.Name, fmt.Sprintf(format, args...))
}

// either is short, or long in the long form.
func either[T any](e *evidence, short, long T) T {
	if e.Long {
		return long
	}
	return short
}

// program builds cwprelay as it is released and returns its path.
func (e *evidence) program(ctx context.Context) (string, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.bin != "" {
		return e.bin, nil
	}
	bin := filepath.Join(e.dir, "cwprelay")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "./cmd/cwprelay")
	cmd.Dir = e.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cwprelay: %w\n%s", err, out)
	}
	e.bin = bin
	return bin, nil
}

// environment is that of a child: none of what configures cwprelay.
func environment(more ...string) []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CWPRELAY_") })
	return append(env, more...)
}
