package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// TestFullDiskRefusesClearlyAndLosesNothing runs on a file system of its own that
// is too small for the list, makes it larger, and runs again.
func TestFullDiskRefusesClearlyAndLosesNothing(t *testing.T) {
	mount := sinktest.RealProgram(t, "mount", "util-linux, and be allowed to mount (root)")
	s := newStage(t, emulator.Config{Events: 20_000})
	state := filepath.Join(s.dir, "state")
	if err := os.Mkdir(state, 0o700); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), mount, args...).CombinedOutput(); err != nil {
			t.Fatalf("mount %q (root is needed): %v: %s", args, err, out)
		}
	}
	run("-t", "tmpfs", "-o", "size=12m,mode=0700", "tmpfs", state)
	t.Cleanup(func() {
		if err := unix.Unmount(state, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.hec.DisableToken(true) // what is delivered could be trimmed: nothing is
	code, text := s.run("run", "--once", "--timeout", "5s", "-c", s.config)
	if code != exitFailed || !strings.Contains(text, "the disk of the state directory is full: free space on it") || !strings.Contains(text, "no progress for 5s") {
		t.Errorf("exit code %d, printed:\n%s", code, text)
	}
	// A commit may fit in what the one that failed has left; then it is told again.
	paused, goesOn := strings.Count(text, "polling paused"), strings.Count(text, "polling goes on")
	if paused != goesOn+1 || paused > 3 {
		t.Errorf("the full disk is told %d times, and %d times that there is room:\n%s", paused, goesOn, text)
	}
	s.hec.DisableToken(false)
	run("-o", "remount,size=256m", state)
	from, to := s.sweepAll()
	s.requireAll(s.api.World().VisibleThroughout(from, to))
}
