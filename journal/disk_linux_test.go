package journal_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// A badDisk opens files whose descriptors can be replaced by ones that fail.
type badDisk struct {
	t    *testing.T
	mu   sync.Mutex // guards the rest
	last *os.File   // the newest file that was opened
	fail bool       // opening fails
}

func (d *badDisk) open(name string, flag int, perm fs.FileMode) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.fail {
		return nil, errors.New("input/output error")
	}
	f, err := os.OpenFile(name, flag, perm)
	d.last = f
	return f, err
}

// protect makes writes to the newest file fail, and not for want of space.
func (d *badDisk) protect() {
	d.t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	other, err := os.Open(d.last.Name())
	if err != nil {
		d.t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	if err := unix.Dup3(int(other.Fd()), int(d.last.Fd()), unix.O_CLOEXEC); err != nil {
		d.t.Fatal(err)
	}
}

func onBadDisk(t *testing.T, cfg journal.Config) (*journal.File, *badDisk, *[]string) {
	t.Helper()
	d := &badDisk{t: t}
	var reports []string
	opt := sinks(journal.SinkRule{Name: "soc"})
	opt.OpenFile = d.open
	opt.Report = func(m string) { reports = append(reports, m) }
	return open(t, cfg, opt), d, &reports
}

func TestGoesOnWithACopyAfterAnErrorOfUnknownOutcome(t *testing.T) {
	cfg := config(t.TempDir())
	f, disk, reports := onBadDisk(t, cfg)
	if err := fill(t, f, 0, 50, 500); err != nil {
		t.Fatal(err)
	}
	disk.protect()
	err := fill(t, f, 50, 1, 500)
	if err == nil || errors.Is(err, journal.ErrFull) || errors.Is(err, journal.ErrDead) {
		t.Fatalf("append with a failing disk: %v", err)
	}
	if len(*reports) == 0 || !strings.Contains((*reports)[0], "copy") {
		t.Errorf("reports %q", *reports)
	}
	// The caller repeats what it did not get an answer to.
	if err := fill(t, f, 50, 50, 500); err != nil {
		t.Fatalf("append after the copy: %v", err)
	}
	if recs, err := f.Read(t.Context(), 0, 1000, 0); err != nil || len(recs) != 100 {
		t.Errorf("%d records, %v", len(recs), err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	g := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	if recs, err := g.Read(t.Context(), 0, 1000, 0); err != nil || len(recs) != 100 {
		t.Errorf("%d records after a restart, %v", len(recs), err)
	}
}

// TestFullDiskRefusesAppendsAndGoesOn fills a file system of 24 MiB.
func TestFullDiskRefusesAppendsAndGoesOn(t *testing.T) {
	mount := sinktest.RealProgram(t, "mount", "util-linux, and be allowed to mount (root)")
	dir := t.TempDir()
	if out, err := exec.CommandContext(t.Context(), mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Fatalf("mount a small file system (root is needed): %v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	cfg := config(filepath.Join(dir, "state"))
	f := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	ballast := filepath.Join(dir, "ballast")
	if err := os.WriteFile(ballast, make([]byte, 10<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	err := fill(t, f, 0, 100_000, 2000)
	if full, ok := errors.AsType[*journal.FullError](err); !ok || full.Limit != journal.LimitDisk {
		t.Fatalf("error %v, want a full disk", err)
	}
	st := status(t, f)
	if st.Full == nil || st.Records == 0 {
		t.Fatalf("status %+v", st)
	}
	// What was taken in is there, and settling needs no space.
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: st.Last}})
	if recs, err := f.Read(t.Context(), 0, st.Records+1, 0); err != nil || len(recs) != st.Records {
		t.Errorf("%d of %d records, %v", len(recs), st.Records, err)
	}
	if err := os.Remove(ballast); err != nil {
		t.Fatal(err)
	}
	if err := fill(t, f, 200_000, 50, 2000); err != nil {
		t.Errorf("append once there is space: %v", err)
	}
	if now := status(t, f); now.Full != nil || now.Records != st.Records+50 {
		t.Errorf("status %+v", now)
	}
}

func TestJournalThatCannotBeSavedIsDeadAndSaysSo(t *testing.T) {
	cfg := config(t.TempDir())
	f, disk, _ := onBadDisk(t, cfg)
	if err := fill(t, f, 0, 5, 500); err != nil {
		t.Fatal(err)
	}
	disk.protect()
	disk.fail = true
	if err := fill(t, f, 5, 1, 500); err == nil {
		t.Fatal("append succeeded")
	}
	<-f.Dead()
	if err := f.Err(); !errors.Is(err, journal.ErrDead) {
		t.Errorf("error %v", err)
	}
	if err := fill(t, f, 5, 1, 500); !errors.Is(err, journal.ErrDead) {
		t.Errorf("append to a dead journal: %v", err)
	}
	if recs, err := f.Read(t.Context(), 0, 100, 0); err != nil || len(recs) != 5 {
		t.Errorf("%d records can still be read, %v", len(recs), err)
	}
}
