package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/cwprelay/cwprelay/proof/power"
)

func diskProof() proof {
	return proof{
		name: "disk",
		promise: "a disk that fails, fills up, turns read-only or spoils the file costs nothing that was acknowledged; " +
			"what a spoiled file no longer has is told exactly, and service goes on",
		run: disk,
	}
}

// disk lets system calls fail, fills file systems and spoils files.
func disk(ctx context.Context, e *evidence) error {
	driver, err := e.driver(ctx)
	if err != nil {
		return err
	}
	for round := range either(e, 1, 5) {
		r, err := power.InjectFaults(ctx, power.Options{Seed: e.Seed + uint64(round), Driver: driver, Dir: e.dir}, either(e, 8, 1))
		for _, f := range r.Failures {
			e.broke("%s", f)
		}
		if err != nil {
			return err
		}
		e.add("runs on a failing disk", r.Runs)
		e.add("calls that failed in them", r.Injected)
		e.add("runs that had to end", r.Stopped)
		e.add("places of a run at which a single call failed", r.Hit)
		e.add("places there are", r.Of)
		e.tell("round %d: %d runs", round+1, r.Runs)
	}
	e.did("let fdatasync, fsync, pwrite64, ftruncate and renameat fail with EIO, ENOSPC and EROFS, once and for good, and looked at the journal when the disk works again")
	if err := e.goTest(ctx, "./journal", "DamageIsFound|AllOfAFileWithoutHeads|DamagedRecord"); err != nil {
		return err
	}
	e.did("cut files of a journal, changed bits, zeroed and overwrote sectors, put back pages of before: each record is there, or counted as lost and in a gap of each sink that misses it")
	if os.Geteuid() != 0 {
		e.did("left out, for want of root: file systems that are full or read-only")
		return nil
	}
	if err := e.goTest(ctx, "./journal", "FullDisk|ReadOnlyDisk"); err != nil {
		return err
	}
	e.did("filled a tmpfs and an ext4 until nothing could be taken in, and then until nothing could be settled; remounted one read-only")
	return nil
}

// goTest runs tests of the checkout, in the long form if this is it. Tests that
// fail are broken promises.
func (e *evidence) goTest(ctx context.Context, pkg, names string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", append([]string{"test", "-count=1", "-timeout=0", "-v", "-run", names, pkg}, args...)...)
	cmd.Dir = e.root
	cmd.Env = environment("CWPRELAY_REAL_SERVERS=1")
	if e.Long {
		cmd.Env = append(cmd.Env, "CWPRELAY_LONG=1")
	}
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	passed := strings.Count("\n"+string(out), "\n--- PASS: ")
	e.add("tests of the checkout that ran", passed)
	if err != nil && !strings.Contains(string(out), "--- FAIL: ") && !strings.Contains(string(out), "\npanic: ") {
		return fmt.Errorf("go test -run '%s' %s: %w\n%.2000s", names, pkg, err, out) // nothing was put to the test
	}
	if err != nil {
		log := filepath.Join(e.dir, strings.ReplaceAll(strings.Trim(pkg, "./"), "/", "-")+".log")
		if err := os.WriteFile(log, out, 0o600); err != nil {
			return err
		}
		e.broke("go test -run '%s' %s: %v: %.200s; see %s", names, pkg, err, complaint(out), log)
		return nil
	}
	if passed == 0 {
		return fmt.Errorf("go test -run '%s' %s ran no test", names, pkg)
	}
	return nil
}

// complaint is the first line of a test's output that says what is wrong.
func complaint(out []byte) string {
	if line := regexp.MustCompile(`(?m)^ *([a-z_]+\.go:\d+: .*|panic: .*)$`).FindSubmatch(out); line != nil {
		return string(line[1])
	}
	return "it says nothing"
}
