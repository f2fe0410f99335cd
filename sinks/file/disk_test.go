package file_test

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/file"
)

// fill writes all but the last bytes and then has no space.
func fill(missing int) func(*os.File, []byte) (int, error) {
	return func(f *os.File, b []byte) (int, error) {
		n, err := f.Write(b[:len(b)-missing])
		if err == nil {
			err = &os.PathError{Op: "write", Path: f.Name(), Err: syscall.ENOSPC}
		}
		return n, err
	}
}

// While the disk is full nothing of a batch stays in the file, however far it
// came, and the records go in when there is space.
func TestFullDisk(t *testing.T) {
	for missing := 1; missing <= 9; missing++ {
		t.Run(fmt.Sprint(missing), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			s := open(t, file.Config{Path: path})
			accepted(t, s, text("before"))
			s.Fail(fill(missing), (*os.File).Sync)
			for range 3 {
				_, err := s.Send(t.Context(), text("aa", "bb", "cc"))
				if err == nil || sinks.ClassOf(err) != sinks.ClassRetry || sinks.IsAnswer(err) {
					t.Fatalf("class %v of %v, want retry", sinks.ClassOf(err), err)
				}
				wantContent(t, path, "before\n")
			}
			s.Fail((*os.File).Write, (*os.File).Sync)
			accepted(t, s, text("aa", "bb", "cc"))
			wantContent(t, path, "before\naa\nbb\ncc\n")
		})
	}
}

// A batch with a refused record that also finds the disk full is not accepted
// in part.
func TestFullDiskAndRefusedRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path})
	s.Fail(fill(1), (*os.File).Sync)
	_, err := s.Send(t.Context(), text("a", "x\ny", "c"))
	want := map[int]sinks.Class{0: sinks.ClassRetry, 1: sinks.ClassPoison, 2: sinks.ClassRetry}
	wantClasses(t, err, want)
	wantContent(t, path, "")
}

// What could not be synced is not accepted: it is taken back, and written by
// another descriptor next time, since a second fsync of the same may report
// success without having written anything.
func TestFailedSync(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path})
	accepted(t, s, text("before"))
	var first, second *os.File
	s.Fail((*os.File).Write, func(f *os.File) error {
		first = f
		return syscall.EIO
	})
	if _, err := s.Send(t.Context(), text("a")); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
		t.Fatalf("class %v of %v, want retry", sinks.ClassOf(err), err)
	}
	wantContent(t, path, "before\n")
	s.Fail((*os.File).Write, func(f *os.File) error {
		second = f
		return f.Sync()
	})
	accepted(t, s, text("a"))
	wantContent(t, path, "before\na\n")
	if first == nil || first == second {
		t.Error("went on with the descriptor whose sync had failed")
	}
}

// Every batch is synced, unless that is switched off.
func TestSyncsEachBatch(t *testing.T) {
	for mode, want := range map[string]int{file.FsyncBatch: 3, file.FsyncNone: 0} {
		s := open(t, file.Config{Path: filepath.Join(t.TempDir(), "out"), Fsync: mode})
		n := 0
		s.Fail((*os.File).Write, func(f *os.File) error {
			n++
			return f.Sync()
		})
		for range 3 {
			accepted(t, s, text("a", "b"))
		}
		if n != want {
			t.Errorf("fsync %s: %d syncs, want %d", mode, n, want)
		}
	}
}

// What another program appended meanwhile is not cut off with our failure; the
// torn line is ended.
func TestTakesBackOnlyItsOwn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path})
	s.Fail(func(f *os.File, b []byte) (int, error) {
		n, _ := f.Write(b[:1])
		other, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer other.Close()
		_, _ = other.WriteString("other")
		return n, syscall.ENOSPC
	}, (*os.File).Sync)
	if _, err := s.Send(t.Context(), text("abc")); err == nil {
		t.Fatal("accepted")
	}
	s.Fail((*os.File).Write, (*os.File).Sync)
	accepted(t, s, text("abc"))
	wantContent(t, path, "aother\nabc\n")
}
