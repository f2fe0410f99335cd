package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/cwprelay/cwprelay/proof/power"
)

func powerProof() proof {
	return proof{
		name: "power",
		promise: "a loss of power at any moment loses nothing that was acknowledged: of what was not synced any subset of sectors and of names may be missing, " +
			"and the journal opens, is whole, and holds each commit or nothing of it",
		run: powerLoss,
	}
}

// powerLoss opens what a loss of power may leave.
func powerLoss(ctx context.Context, e *evidence) error {
	driver, err := e.driver(ctx)
	if err != nil {
		return err
	}
	dir := e.dir
	if memory, err := os.MkdirTemp("/dev/shm", "cwprelay-proof-power-"); err == nil {
		dir = memory // images are many, and no promise of this proof rests on a disk
		defer func() { _ = os.RemoveAll(memory) }()
	}
	for round := range either(e, 1, 12) {
		work := filepath.Join(dir, fmt.Sprint(round))
		r, err := power.Run(ctx, power.Options{Seed: e.Seed + uint64(round)*100, Images: either(e, 600, 3000), Driver: driver, Dir: work})
		for _, f := range r.Failures {
			e.broke("%s", f)
		}
		if len(r.Failures) > 0 && dir != e.dir { // what failed is to be looked at
			err = errors.Join(err, os.CopyFS(filepath.Join(e.dir, fmt.Sprint(round)), os.DirFS(work)))
		}
		if err != nil {
			return err
		}
		e.add("histories", r.Plans)
		e.add("writes, syncs and changes of names in them", r.Writes)
		e.add("moments at which the power was lost", r.Moments)
		e.add("images opened", r.Images)
		e.tell("round %d: %d images", round+1, r.Images)
	}
	e.did("traced all writes and syncs of a journal that a source and two sinks work on: first start, restarts, compaction, a full journal, salvage of a damaged file, export and import")
	e.did("opened each image with the product: every row against its checksum, every commit against what had been acknowledged, and one more taken in and settled")
	return nil
}

// driver builds the program that works on a journal.
func (e *evidence) driver(ctx context.Context) (string, error) {
	bin := filepath.Join(e.dir, "drive")
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", bin, "./proof/power/drive")
	cmd.Dir = e.root
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the driver: %w\n%s", err, out)
	}
	if _, err := exec.LookPath("strace"); err != nil {
		return "", fmt.Errorf("strace is needed: %w", err)
	}
	return bin, nil
}

// add adds to a figure.
func (e *evidence) add(name string, n int) {
	e.mu.Lock()
	before := 0
	for _, f := range e.Figures {
		if f.Name == name {
			before, _ = f.Value.(int)
		}
	}
	e.mu.Unlock()
	e.count(name, before+n)
}
