package main

import (
	"bufio"
	"fmt"
	"os"
	"regexp"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// terminal opens a pseudo terminal: what a program writes to tty can be read
// from screen.
func terminal(t *testing.T) (screen, tty *os.File) {
	t.Helper()
	screen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = screen.Close() })
	if err := unix.IoctlSetPointerInt(int(screen.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(screen.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	return screen, tty
}

// TestFirstSweepShowsItsProgressOnATerminal reads the screen of somebody who
// starts the daemon for the first time, and for the second.
func TestFirstSweepShowsItsProgressOnATerminal(t *testing.T) {
	t.Parallel()
	s := newStage(t, emulator.Config{Events: 4000})
	watch := func(until string) string {
		t.Helper()
		screen, tty := terminal(t)
		cmd := s.command("run", "-c", s.config)
		cmd.Stderr = tty
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if err := tty.Close(); err != nil {
			t.Fatal(err)
		}
		var text strings.Builder
		buf := make([]byte, 4096)
		for !strings.Contains(text.String(), until) {
			n, err := screen.Read(buf)
			text.Write(buf[:n])
			if err != nil { // the program has ended
				t.Errorf("%v", err)
				break
			}
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		return text.String()
	}
	first := watch("sweep ended")
	if !regexp.MustCompile(`\r\x1b\[Kfirst sweep of prod: \d+ pages, \d+ of about 4000 events, about \d+s left`).MatchString(first) {
		t.Errorf("no progress on the screen:\n%q", first)
	}
	if !regexp.MustCompile(`\x1b\[K\d{4}-\d\d-\d\dT[^\n]*sweep ended`).MatchString(first) {
		t.Errorf("the log goes on in the line of progress:\n%q", first)
	}
	if second := watch("sweep ended"); strings.Contains(second, "first sweep") {
		t.Errorf("progress of a sweep that is not the first:\n%q", second)
	}
}

// Who looks at the demonstration sees a line for each event, not documents.
func TestDemoIsForPeopleOnATerminal(t *testing.T) {
	t.Parallel()
	s := &stage{t: t}
	screen, tty := terminal(t)
	cmd := s.command("demo", "--for", "1m")
	cmd.Stdout = tty
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	if err := tty.Close(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(screen)
	for range 10 {
		if !lines.Scan() {
			t.Fatal(lines.Err())
		}
		if line := lines.Text(); !strings.HasPrefix(line, "Tencent CWP: ") {
			t.Errorf("line %q", line)
		}
	}
}
