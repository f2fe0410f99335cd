package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// A serviceManager hears what a service tells it.
type serviceManager struct {
	t    *testing.T
	conn *net.UnixConn
}

// newServiceManager is what NOTIFY_SOCKET names, with a watchdog.
func newServiceManager(t *testing.T) *serviceManager {
	t.Helper()
	dir, err := os.MkdirTemp("", "notify") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "800000")
	return &serviceManager{t, conn}
}

// next is what is told within d, a line each; nil: nothing was.
func (m *serviceManager) next(d time.Duration) []string {
	m.t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(d)); err != nil {
		m.t.Fatal(err)
	}
	buf := make([]byte, 4096)
	n, err := m.conn.Read(buf)
	if err != nil {
		return nil
	}
	return strings.Split(string(buf[:n]), "\n")
}

// until waits for a line, and returns all that was told with it.
func (m *serviceManager) until(line string) []string {
	m.t.Helper()
	var told []string
	for deadline := time.Now().Add(time.Minute); ; {
		states := m.next(time.Until(deadline))
		told = append(told, states...)
		if slices.ContainsFunc(states, func(s string) bool { return strings.HasPrefix(s, line) }) {
			return states
		}
		if states == nil {
			break
		}
	}
	m.t.Fatalf("never told %s; told %q", line, told)
	return nil
}

// The service manager hears when the daemon serves, how it stands, that it
// reads its configuration again, and that it ends.
func TestServiceManagerIsTold(t *testing.T) {
	m := newServiceManager(t)
	s := newStage(t, emulator.Config{Events: 20, Seed: 3})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var stderr bytes.Buffer
	ended := make(chan int, 1)
	go func() {
		ended <- run(ctx, process{args: []string{"run", "-c", s.config}, environ: os.Environ(), stdout: &bytes.Buffer{}, stderr: &stderr})
	}()
	m.until("READY=1")
	m.until("STATUS=ready")
	hangup := func() {
		t.Helper()
		if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		before, now := time.Duration(0), monotonic(t)
		states := m.until("RELOADING=1")
		for _, state := range states {
			if usec, ok := strings.CutPrefix(state, "MONOTONIC_USEC="); ok {
				if _, err := fmt.Sscan(usec, &before); err != nil {
					t.Fatal(err)
				}
			}
		}
		if before *= time.Microsecond; before < now-time.Minute || before > monotonic(t)+time.Second {
			t.Errorf("told %q at %s", states, now)
		}
		m.until("READY=1")
	}
	hangup()
	if err := os.WriteFile(s.config, []byte("sinks: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	hangup() // a mistake ends the reload too
	stop()
	m.until("STOPPING=1")
	if code := <-ended; code != exitDone {
		t.Errorf("exit code %d\n%s", code, &stderr)
	}
}

func monotonic(t *testing.T) time.Duration {
	t.Helper()
	text, err := os.ReadFile("/proc/uptime")
	if err != nil {
		t.Skip("needs /proc")
	}
	var seconds float64
	if _, err := fmt.Sscan(string(text), &seconds); err != nil {
		t.Fatal(err)
	}
	return time.Duration(seconds * float64(time.Second))
}

// A watchdog gets signs of life while every loop is back in time, and none while
// one is not.
func TestNoSignOfLifeOfAStuckLoop(t *testing.T) {
	m := newServiceManager(t)
	s := newStage(t, emulator.Config{Events: 20, Seed: 3})
	free := make(chan struct{})
	deaf := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-free }))
	defer deaf.Close()
	defer close(free)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(strings.Replace(string(text), "sinks:", "sinks:\n  deaf: {splunk_hec: {url: \""+deaf.URL+"\", token: hectest-token}}", 1) + "shutdown_grace: 1ns\n")
	cfg, err := config.Load(config.Options{Path: s.config})
	if err != nil {
		t.Fatal(err)
	}
	var stderr bytes.Buffer
	p := process{environ: os.Environ(), stdout: io.Discard, stderr: &stderr}
	log := newLogger(cfg.Log, p.stderr)
	a, err := open(cfg, p, log)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	manager := &notifier{log: log.Logger}
	end := manager.start(ctx)
	m.until("WATCHDOG=1") // also while it opens
	ended := make(chan error, 1)
	go func() {
		ended <- a.daemon(ctx, nil, func(ctx context.Context, s *supervisor) error {
			manager.begin(s)
			<-ctx.Done()
			return nil
		})
	}()
	m.until("STATUS=ready")

	// The loops say when they will be back.
	in := func(name, loop string) bool {
		return slices.Contains(a.now.Load().late(time.Now().Add(24*time.Hour)), name+" ("+loop+")")
	}
	for deadline := time.Now().Add(time.Minute); !in("source prod/risk_process", "sweeps") || !in("sink deaf", "sending"); {
		if time.Now().After(deadline) {
			t.Fatalf("not all loops are watched: %v", a.now.Load().late(time.Now().Add(24*time.Hour)))
		}
		m.until("WATCHDOG=1")
	}

	a.now.Load().sinks[0].beat("test", -time.Hour)
	m.until("STATUS=stuck: sink archive (test)")
	for range 20 { // five times as long as a watchdog waits
		if states := m.next(200 * time.Millisecond); slices.Contains(states, "WATCHDOG=1") {
			t.Fatalf("a sign of life while a loop is stuck: %q", states)
		}
	}
	a.now.Load().sinks[0].beat("test", 0)
	m.until("WATCHDOG=1")
	stop()
	end()
	if err := errors.Join(<-ended, a.close()); err != nil {
		t.Error(err)
	}
	if !strings.Contains(stderr.String(), "a loop does not come back") {
		t.Errorf("nothing in the log:\n%s", &stderr)
	}
}
