package power

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A Fault is an error that a system call of a disk returns.
type Fault struct {
	Call  string
	Error string
	Stays bool // every later call fails as well
}

// Faults are those that are tried.
func Faults() []Fault {
	var all []Fault
	for _, f := range []Fault{
		{Call: "fdatasync", Error: "EIO"},
		{Call: "pwrite64", Error: "EIO"},
		{Call: "fsync", Error: "EIO"},
		{Call: "pwrite64", Error: "ENOSPC"},
		{Call: "ftruncate", Error: "ENOSPC"},
		{Call: "ftruncate", Error: "EIO"},
		{Call: "pwrite64", Error: "EROFS"},
		{Call: "renameat", Error: "EIO"},
	} {
		stays := f
		stays.Stays = true
		all = append(all, f, stays)
	}
	return all
}

// A FaultReport is what was tried and what came out.
type FaultReport struct {
	Runs     int
	Injected int // calls that failed
	Stopped  int // runs that ended because the journal could not be saved, or could not be opened
	Hit      int // calls of the run without faults at whose place one failed at least once
	Of       int // calls of the run without faults
	Failures []string
}

// InjectFaults lets the driver work on a disk that fails, once for each fault
// and position, and looks at what is left when the disk works again. Every is
// the step from one position to the next.
func InjectFaults(ctx context.Context, opt Options, every int) (FaultReport, error) {
	var r FaultReport
	for _, fault := range Faults() {
		hit := map[int]bool{}
		calls, err := r.sweep(ctx, opt, fault, every, hit)
		if err != nil {
			return r, fmt.Errorf("%+v: %w", fault, err)
		}
		if !fault.Stays {
			r.Of += calls
			r.Hit += len(hit)
		}
	}
	return r, nil
}

// sweep injects a fault at one position after the other, until a run has none
// left. Threads count their calls by themselves.
func (r *FaultReport) sweep(ctx context.Context, opt Options, fault Fault, every int, hit map[int]bool) (calls int, err error) {
	for n := 1; ; n += every {
		plan := Plan{Seed: opt.Seed, Appends: 10, Lives: 2, Tries: 20}
		injected, calls, err := r.inject(ctx, opt, fault, n, plan, hit)
		if err != nil {
			return 0, fmt.Errorf("position %d: %w", n, err)
		}
		if injected == 0 {
			return calls, nil
		}
		if len(r.Failures) >= 20 {
			return 0, errors.New("too many failures, the rest is not tried")
		}
	}
}

func (r *FaultReport) inject(ctx context.Context, opt Options, fault Fault, n int, plan Plan, hit map[int]bool) (injected, calls int, err error) {
	dir, err := os.MkdirTemp(opt.Dir, "fault")
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plan.Dir = filepath.Join(dir, "state")
	text, err := json.Marshal(plan)
	if err != nil {
		return 0, 0, err
	}
	when := fmt.Sprint(n)
	if fault.Stays {
		when += "+"
	}
	trace := filepath.Join(dir, "trace")
	cmd := exec.CommandContext(ctx, "strace", "-f", "-e", "trace="+fault.Call, "-e", "signal=none",
		"-e", "inject="+fault.Call+":error="+fault.Error+":when="+when, "-o", trace, opt.Driver, string(text))
	var said, lines bytes.Buffer
	cmd.Stdout, cmd.Stderr = &lines, &said
	ended := cmd.Run()
	if ctx.Err() != nil {
		return 0, 0, ctx.Err()
	}
	if injected, calls, err = countInjected(trace, fault.Call, hit); err != nil || injected == 0 {
		return injected, calls, errors.Join(err, ended)
	}
	r.Runs++
	r.Injected += injected
	if exit, ok := errors.AsType[*exec.ExitError](ended); ok {
		r.Stopped++
		// One call that fails once ends nothing, unless it is at the start.
		once := injected == 1 && !strings.Contains(said.String(), "open the journal")
		if once || exit.ExitCode() != 1 && exit.ExitCode() != 3 {
			r.fail(fault, n, opt.Seed, fmt.Errorf("%w: %s", ended, said.String()))
		}
	}
	m := NewModel(false)
	in := bufio.NewScanner(&lines)
	in.Buffer(nil, 1<<24)
	for in.Scan() {
		var l Line
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return injected, calls, err
		}
		if err := m.Apply(l); err != nil {
			r.fail(fault, n, opt.Seed, err)
		}
	}
	if err := Verify(ctx, plan.Dir, m, plan); err != nil {
		r.fail(fault, n, opt.Seed, err)
	}
	return injected, calls, in.Err()
}

func (r *FaultReport) fail(fault Fault, n int, seed uint64, err error) {
	r.Failures = append(r.Failures, fmt.Sprintf("seed %d, %+v at position %d: %v", seed, fault, n, err))
}

// countInjected counts the calls of a trace and those that were made to fail,
// and notes the places of these among all.
func countInjected(trace, call string, hit map[int]bool) (injected, calls int, err error) {
	text, err := os.ReadFile(trace)
	if err != nil {
		return 0, 0, err
	}
	began := map[string]int{} // by thread: the place of its call among all
	for line := range strings.Lines(string(text)) {
		pid, rest, _ := strings.Cut(line, " ")
		if rest = strings.TrimLeft(rest, " "); strings.HasPrefix(rest, call+"(") {
			calls++
			began[pid] = calls
		}
		if strings.Contains(line, "(INJECTED)") {
			injected++
			hit[began[pid]] = true
		}
	}
	return injected, calls, nil
}
