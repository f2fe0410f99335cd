package journal_test

import (
	"errors"
	"fmt"
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

// A smallDisk mounts a file system of 24 MiB of its own.
func smallDisk(t *testing.T, kind string) (dir string, remount func(how string)) {
	t.Helper()
	mount := sinktest.RealProgram(t, "mount", "util-linux, and be allowed to mount (root)")
	dir = t.TempDir()
	run := func(name string, args ...string) {
		if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %q (root is needed): %v: %s", name, args, err, out)
		}
	}
	if kind == "tmpfs" {
		run(mount, "-t", "tmpfs", "-o", "size=24m", "tmpfs", dir)
	} else {
		image := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(image, make([]byte, 24<<20), 0o600); err != nil {
			t.Fatal(err)
		}
		run(sinktest.RealProgram(t, "mkfs.ext4", "e2fsprogs"), "-q", "-F", "-m", "0", "-O", "^has_journal", image)
		run(mount, "-o", "loop", image, dir)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir, func(how string) { run(mount, "-o", "remount,"+how, dir) }
}

// occupy writes a file that leaves so many bytes of the disk free, or as few
// as it can.
func occupy(t *testing.T, dir string, leave int64) (path string) {
	t.Helper()
	path = filepath.Join(dir, fmt.Sprint("ballast", leave))
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	for block := make([]byte, 4096); ; {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			t.Fatal(err)
		}
		if int64(st.Bavail)*st.Bsize <= leave {
			return path
		}
		if _, err := file.Write(block); err != nil {
			return path
		}
	}
}

// TestFullDiskRefusesAppendsAndGoesOn fills file systems: first so that nothing
// more can be taken in, then so that not even a settlement could be stored
// without the reserve.
func TestFullDiskRefusesAppendsAndGoesOn(t *testing.T) {
	for _, kind := range []string{"tmpfs", "ext4"} {
		t.Run(kind, func(t *testing.T) {
			dir, _ := smallDisk(t, kind)
			cfg := config(filepath.Join(dir, "state"))
			f := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
			ballast := occupy(t, dir, 4<<20)
			err := fill(t, f, 0, 100_000, 2000)
			if full, ok := errors.AsType[*journal.FullError](err); !ok || full.Limit != journal.LimitDisk {
				t.Fatalf("error %v, want a full disk", err)
			}
			st := status(t, f)
			if st.Full == nil || st.Records == 0 {
				t.Fatalf("status %+v", st)
			}
			rest := occupy(t, dir, 0)
			// What was taken in is there, and settling needs no space: at first
			// there is the reserve.
			all, err := f.Read(t.Context(), 0, st.Records+1, 0)
			if err != nil || len(all) != st.Records {
				t.Fatalf("%d of %d records, %v", len(all), st.Records, err)
			}
			var letters []journal.DeadLetter
			for _, r := range all[:100] {
				letters = append(letters, journal.DeadLetter{Record: r, Class: "poison", Attempts: 3})
			}
			settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 100}, Dead: letters})
			settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: st.Last}})
			if again, err := f.DeadLetters(t.Context(), "soc", 0, 1000); err != nil || len(again) != 100 {
				t.Errorf("%d dead letters, %v", len(again), err)
			}
			// Without the reserve and without space a settlement may be refused;
			// it is then stored whole or not at all, and nothing is lost.
			refused := false
			for i := 0; i < 200 && !refused; i++ {
				from := 100 + i*5
				letters = letters[:0]
				for _, r := range all[from:min(from+5, len(all))] {
					letters = append(letters, journal.DeadLetter{Record: r, Class: "poison", Attempts: 3})
				}
				err := f.Settle(t.Context(), lease(t, f, "sink/soc"), journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: st.Last}, Dead: letters})
				if refused = errors.Is(err, journal.ErrFull); err != nil && !refused {
					t.Fatalf("settle on a full disk: %v", err)
				}
				occupy(t, dir, 0)
			}
			if found, err := f.Check(t.Context()); err != nil || !found.Sound() {
				t.Errorf("%+v, %v", found, err)
			}
			if err := errors.Join(os.Remove(ballast), os.Remove(rest)); err != nil {
				t.Fatal(err)
			}
			if err := fill(t, f, 200_000, 50, 2000); err != nil {
				t.Errorf("append once there is space: %v", err)
			}
			if now := status(t, f); now.Full != nil || now.Records != st.Records+50 {
				t.Errorf("status %+v", now)
			}
		})
	}
}

// TestRealReadOnlyDiskIsToldAndHarmsNothing remounts the file system of a journal.
func TestRealReadOnlyDiskIsToldAndHarmsNothing(t *testing.T) {
	dir, remount := smallDisk(t, "ext4")
	cfg := config(filepath.Join(dir, "state"))
	f := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	if err := errors.Join(fill(t, f, 0, 20, 500), f.Close()); err != nil {
		t.Fatal(err)
	}
	remount("ro")
	_, err := journal.Open(cfg, sinks(journal.SinkRule{Name: "soc"}))
	if !errors.Is(err, unix.EROFS) || strings.Contains(err.Error(), "damaged") {
		t.Errorf("open on a read-only disk: %v", err)
	}
	remount("rw")
	f = open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	if recs, err := f.Read(t.Context(), 0, 100, 0); err != nil || len(recs) != 20 || len(status(t, f).SetAside) > 0 {
		t.Errorf("%d records, %v", len(recs), err)
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
