// Package power proves that a loss of power costs nothing that was
// acknowledged.
//
// It traces every write, sync and change of a name that a journal makes while a
// source and two sinks work on it, rebuilds from the trace what a disk may hold
// if the power goes at some moment (all that was synced, and of the rest any
// subset of sectors of 512 bytes and of names), opens that with the product,
// and compares what is there with what had been acknowledged by then: nothing
// is missing, what was under way is there whole or not at all, every row passes
// its checksum, and no start is refused or finds damage.
package power

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cwprelay/cwprelay/journal"
)

// Options say how much is proved.
type Options struct {
	Seed   uint64
	Images int    // how many images are tried, over all plans
	Driver string // the built program of folder drive
	Dir    string // for images; best in memory
}

// A Report is what was tried and what came out.
type Report struct {
	Plans    int
	Writes   int      // calls that changed a file or a name
	Moments  int      // at which the power was lost
	Images   int      // that were tried
	Failures []string // with the seed and the moment to repeat them by
}

// plans are the histories that are traced.
func plans(seed uint64) []Plan {
	return []Plan{
		{Seed: seed, Appends: 40, Lives: 4, Import: true},
		{Seed: seed + 1, Appends: 90, Lives: 3, MaxBytes: 160 << 10},
		{Seed: seed + 2, Appends: 30, Lives: 5, Damage: true},
		{Seed: seed + 3, Appends: 40, Lives: 2, FailSync: "40+50"},
	}
}

// Run traces the histories and tries images of them. The trace of a history
// that failed is left in Options.Dir.
func Run(ctx context.Context, opt Options) (Report, error) {
	var r Report
	all := plans(opt.Seed)
	for i, plan := range all {
		dir := filepath.Join(opt.Dir, fmt.Sprint("plan", i))
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return r, err
		}
		trace, err := Trace(ctx, opt.Driver, dir, &plan)
		if err != nil {
			return r, fmt.Errorf("trace of plan %+v: %w", plan, err)
		}
		r.Plans++
		failures := len(r.Failures)
		if err := r.try(ctx, trial{plan: plan, trace: trace, dir: dir, images: opt.Images / len(all)}); err != nil {
			return r, fmt.Errorf("plan %+v: %w", plan, err)
		}
		if len(r.Failures) > failures {
			continue // another run of the plan would not be the same
		}
		if err := os.RemoveAll(dir); err != nil {
			return r, err
		}
	}
	return r, nil
}

// Trace lets the driver work by a plan in dir/work/state and returns the file
// of the trace.
func Trace(ctx context.Context, driver, dir string, plan *Plan) (string, error) {
	// The directory of the state does not exist: making it is part of it.
	work := filepath.Join(dir, "work")
	if err := os.Mkdir(work, 0o700); err != nil {
		return "", err
	}
	plan.Dir = filepath.Join(work, "state")
	text, err := json.Marshal(plan)
	if err != nil {
		return "", err
	}
	trace := filepath.Join(dir, "trace")
	args := []string{"-f", "-xx", "-s", "67108864", "-e", "trace=" + syscalls, "-e", "signal=none", "-o", trace}
	if plan.FailSync != "" {
		args = append(args, "-e", "inject=fdatasync:error=EIO:when="+plan.FailSync)
	}
	cmd := exec.CommandContext(ctx, "strace", append(args, driver, string(text))...)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil && plan.FailSync == "" {
		return "", fmt.Errorf("strace: %w: %s", err, said.String())
	}
	return trace, nil
}

// A trial is the images of one trace.
type trial struct {
	plan   Plan
	trace  string
	dir    string
	images int
}

// try goes through a trace twice: once to count its moments, then to draw
// images at as many of them as are asked for, evenly.
func (r *Report) try(ctx context.Context, t trial) error {
	moments := 0
	count := func(*disk, *Model) error { moments++; return nil }
	if err := replay(t, count); err != nil {
		return err
	}
	r.Writes += moments
	per, step := max(1, t.images/moments), max(1, float64(moments)/float64(t.images))
	next, at := 0.0, 0
	return replay(t, func(d *disk, m *Model) error {
		at++
		if float64(at) < next {
			return ctx.Err()
		}
		next += step
		r.Moments++
		for n := range per {
			random := rand.New(rand.NewPCG(t.plan.Seed, uint64(at)<<20|uint64(n)))
			img := d.image(random)
			r.Images++
			if err := check(ctx, filepath.Join(t.dir, "image"), img, m, t.plan); err != nil {
				r.Failures = append(r.Failures, fmt.Sprintf("seed %d, moment %d, image %d: %v", t.plan.Seed, at, n, err))
				if len(r.Failures) >= 20 {
					return errors.New("too many failures, the rest is not tried")
				}
			}
		}
		return ctx.Err()
	})
}

// replay goes through a trace and calls moment after each change.
func replay(t trial, moment func(*disk, *Model) error) (err error) {
	file, err := os.Open(t.trace)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	d, m := newDisk(filepath.Dir(t.plan.Dir)), NewModel(t.plan.MaxBytes > 0)
	return parse(file, func(c call) error {
		lines, changed, err := d.apply(c)
		if err != nil {
			return err
		}
		for _, text := range lines {
			var l Line
			if err := json.Unmarshal([]byte(text), &l); err != nil {
				return fmt.Errorf("%w: %.100s", err, text)
			}
			if err := m.Apply(l); err != nil {
				return err
			}
		}
		if !changed {
			return nil
		}
		return moment(d, m)
	})
}

// check opens an image with the product and compares it with the model.
func check(ctx context.Context, dir string, img image, m *Model, plan Plan) (err error) {
	if err := img.write(dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	return Verify(ctx, filepath.Join(dir, "state"), m, plan)
}

// Verify opens the journal of a directory with the product, and compares what
// it holds with a model. Then it takes something in and settles it.
func Verify(ctx context.Context, dir string, m *Model, plan Plan) (err error) {
	var reports []string
	cfg := journal.Config{Dir: dir, MinFreeDisk: 1, MaxBytes: plan.MaxBytes}.WithDefaults()
	f, err := journal.Open(cfg, journal.Options{Sinks: Sinks(), Report: func(s string) { reports = append(reports, s) }})
	if err != nil {
		return fmt.Errorf("start refused: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	checked, err := f.Check(ctx)
	if err != nil {
		return err
	}
	if len(checked.Damaged)+len(checked.Mistakes) > 0 {
		return fmt.Errorf("the journal is not sound: %+v", checked)
	}
	st, err := f.Status(ctx)
	if err != nil {
		return err
	}
	if !m.damaged && (len(st.SetAside) > 0 || st.Damaged > 0 || len(reports) > 0) {
		return fmt.Errorf("damage was found where there is none: %+v, %q", st, reports)
	}
	if st.Damaged > 0 {
		return fmt.Errorf("%d records are reported as lost", st.Damaged)
	}
	found, err := Read(ctx, f)
	if err != nil {
		return err
	}
	if err := m.Compare(found); err != nil {
		return err
	}
	return goOn(ctx, f)
}

// goOn sees that the journal is of use: that it takes in one record more, where
// it is full as soon as every sink has what it holds, and settles it.
func goOn(ctx context.Context, f *journal.File) error {
	source, err := f.Lease(ctx, "source/prod/risk_process")
	if err != nil {
		return err
	}
	one := journal.Batch{Changes: []journal.Change{Change{ID: "afterwards", Sequence: 1, Size: 100}.change(0)}}
	last, err := f.Append(ctx, source, one)
	if errors.Is(err, journal.ErrFull) {
		if err := settleAll(ctx, f); err != nil {
			return fmt.Errorf("settle all of a full journal: %w", err)
		}
		last, err = f.Append(ctx, source, one)
	}
	if err != nil {
		return fmt.Errorf("append afterwards: %w", err)
	}
	sink, err := f.Lease(ctx, "sink/a")
	if err != nil {
		return err
	}
	if err := f.Settle(ctx, sink, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: last}}); err != nil {
		return fmt.Errorf("settle afterwards: %w", err)
	}
	return nil
}

// settleAll lets every sink have what the journal holds.
func settleAll(ctx context.Context, f *journal.File) error {
	st, err := f.Status(ctx)
	if err != nil {
		return err
	}
	for _, rule := range Sinks() {
		lease, err := f.Lease(ctx, "sink/"+rule.Name)
		if err != nil {
			return err
		}
		if err := f.Settle(ctx, lease, journal.Settlement{Sink: rule.Name, Cursor: journal.Cursor{Seq: st.Last}}); err != nil {
			return err
		}
	}
	return nil
}

// write makes the files of an image.
func (img image) write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, data := range img {
		path := filepath.Join(dir, name)
		if strings.HasSuffix(name, "/") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				return err
			}
			continue
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o600); err != nil {
			return err
		}
	}
	return nil
}
