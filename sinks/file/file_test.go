package file_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/file"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestContract(t *testing.T) {
	for _, fsync := range []string{file.FsyncBatch, file.FsyncNone} {
		t.Run(fsync, func(t *testing.T) {
			sinktest.Working(t, func(t *testing.T) sinks.Sink {
				t.Helper()
				return file.New(file.Config{Path: filepath.Join(t.TempDir(), "out"), Fsync: fsync})
			})
		})
	}
}

func open(t *testing.T, cfg file.Config) *file.Sink {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := file.New(cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

func accepted(t *testing.T, s sinks.Sink, batch []sinks.Message) sinks.Receipt {
	t.Helper()
	receipt, err := s.Send(t.Context(), batch)
	if err != nil {
		t.Fatalf("Send: %v", err)
	}
	return receipt
}

// text returns a batch with these bodies.
func text(bodies ...string) []sinks.Message {
	batch := sinktest.Messages(len(bodies))
	for i := range batch {
		batch[i].Body = []byte(bodies[i])
	}
	return batch
}

func content(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func wantContent(t *testing.T, path, want string) {
	t.Helper()
	if diff := cmp.Diff(want, content(t, path)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", filepath.Base(path), diff)
	}
}

func TestOneLineForEachRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path})
	if got, want := accepted(t, s, text("a", "bb")).Answer, "bytes=0-4"; got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	if got, want := accepted(t, s, text("c")).Answer, "bytes=5-6"; got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	wantContent(t, path, "a\nbb\nc\n")
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm()&^0o640 != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// A body that would be read as several records, or as none, is refused alone.
func TestNoLineIsForged(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	var stream bytes.Buffer
	for name, s := range map[string]sinks.Sink{"file": open(t, file.Config{Path: path}), "stdout": file.NewStdout(&stream)} {
		t.Run(name, func(t *testing.T) {
			_, err := s.Send(t.Context(), text("a", "b\n{}", "c", "", "\n"))
			p, ok := errors.AsType[*sinks.PartialError](err)
			if !ok || len(p.Failed) != 3 {
				t.Fatalf("error %v, want three failures", err)
			}
			for _, i := range []int{1, 3, 4} {
				if sinks.ClassOf(p.Failed[i]) != sinks.ClassPoison {
					t.Errorf("record %d: %v, want poison", i, p.Failed[i])
				}
			}
			if _, err := s.Send(t.Context(), text("b\nc")); err == nil {
				t.Error("accepted alone")
			}
		})
	}
	wantContent(t, path, "a\nc\n")
	if got := stream.String(); got != "a\nc\n" {
		t.Errorf("stream %q", got)
	}
}

// A line that a crash left unfinished does not swallow the next record.
func TestUnfinishedLineIsEnded(t *testing.T) {
	for name, x := range map[string]struct{ before, want string }{
		"unfinished": {"a\n{\"half", "a\n{\"half\nb\n"},
		"finished":   {"a\n", "a\nb\n"},
		"empty":      {"", "b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(path, []byte(x.before), 0o600); err != nil {
				t.Fatal(err)
			}
			receipt := accepted(t, open(t, file.Config{Path: path}), text("b"))
			wantContent(t, path, x.want)
			if want := fmt.Sprintf("bytes=%d-%d", len(x.want)-2, len(x.want)-1); receipt.Answer != want {
				t.Errorf("answer %q, want %q", receipt.Answer, want)
			}
		})
	}
}

// Whatever others do to the file, records go to what its name means.
func TestFollowsName(t *testing.T) {
	for name, x := range map[string]struct {
		do          func(path string) error
		first, then string // contents of path.1 and path
	}{
		"renamed": {func(path string) error { return os.Rename(path, path+".1") }, "a\n", "b\n"},
		"renamed and created": {func(path string) error {
			return errors.Join(os.Rename(path, path+".1"), os.WriteFile(path, nil, 0o600))
		}, "a\n", "b\n"},
		"deleted": {os.Remove, "", "b\n"},
		"copied and truncated": {func(path string) error {
			b, err := os.ReadFile(path)
			return errors.Join(err, os.WriteFile(path+".1", b, 0o600), os.Truncate(path, 0))
		}, "a\n", "b\n"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			s := open(t, file.Config{Path: path})
			accepted(t, s, text("a"))
			if err := x.do(path); err != nil {
				t.Fatal(err)
			}
			accepted(t, s, text("b"))
			if x.first != "" {
				wantContent(t, path+".1", x.first)
			}
			wantContent(t, path, x.then)
		})
	}
}

// Reopen may come at any time and loses nothing.
func TestReopenBesideSend(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path, Fsync: file.FsyncNone})
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 50 {
			if err := s.Reopen(); err != nil {
				t.Errorf("Reopen: %v", err)
			}
		}
	})
	for range 200 {
		accepted(t, s, text("a"))
	}
	wg.Wait()
	wantContent(t, path, strings.Repeat("a\n", 200))
}

func TestRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	cfg := file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Keep: 3}}
	s := open(t, cfg)
	long := strings.Repeat("x", 3000)
	for n := range 6 {
		accepted(t, s, text(fmt.Sprint(n)+long))
	}
	for suffix, n := range map[string]int{"": 5, ".1": 4, ".2": 3, ".3": 2} {
		wantContent(t, path+suffix, fmt.Sprint(n)+long+"\n")
	}
	if _, err := os.Stat(path + ".4"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a fourth former file: %v", err)
	}
	// A batch is never cut, and a file that is empty never rotated.
	huge := strings.Repeat("y", 9000)
	accepted(t, s, text(huge, "z"))
	wantContent(t, path, huge+"\nz\n")
	wantContent(t, path+".1", "5"+long+"\n")
	fresh := filepath.Join(t.TempDir(), "out")
	accepted(t, open(t, file.Config{Path: fresh, Rotate: cfg.Rotate}), text(huge))
	if _, err := os.Stat(fresh + ".1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an empty file was rotated: %v", err)
	}
}

// A rotation that a crash ended in the middle costs no former file.
func TestRotationGoesOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	long := strings.Repeat("x", 4000)
	for suffix, body := range map[string]string{"": long, ".2": "older", ".3": "oldest"} { // .1 was moved, the file was not
		if err := os.WriteFile(path+suffix, []byte(body+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	accepted(t, open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Keep: 3}}), text(long))
	for suffix, body := range map[string]string{"": long, ".1": long, ".2": "older", ".3": "oldest"} {
		wantContent(t, path+suffix, body+"\n")
	}
}

// What only a person can repair halts the sink and says what to do; the sink
// goes on when it was repaired.
func TestOurMistakesHalt(t *testing.T) {
	for name, x := range map[string]struct {
		spoil, repair func(dir string) error
		path, says    string
	}{
		"no directory": {
			func(string) error { return nil },
			func(dir string) error { return os.Mkdir(filepath.Join(dir, "logs"), 0o700) },
			"logs/out", "logs does not exist",
		},
		"a file as directory": {
			func(dir string) error { return os.WriteFile(filepath.Join(dir, "logs"), nil, 0o600) },
			func(dir string) error {
				return errors.Join(os.Remove(filepath.Join(dir, "logs")), os.Mkdir(filepath.Join(dir, "logs"), 0o700))
			},
			"logs/out", "not a directory",
		},
		"a directory": {
			func(dir string) error { return os.Mkdir(filepath.Join(dir, "out"), 0o700) },
			func(dir string) error { return os.Remove(filepath.Join(dir, "out")) },
			"out", "not a regular file",
		},
		"a pipe": { // opening it would block until there is a reader
			func(dir string) error { return syscall.Mkfifo(filepath.Join(dir, "out"), 0o600) },
			func(dir string) error { return os.Remove(filepath.Join(dir, "out")) },
			"out", "not a regular file",
		},
		"a circle of links": {
			func(dir string) error { return os.Symlink("out", filepath.Join(dir, "out")) },
			func(dir string) error { return os.Remove(filepath.Join(dir, "out")) },
			"out", "too many levels",
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := x.spoil(dir); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, x.path)
			s := open(t, file.Config{Path: path})
			_, err := s.Send(t.Context(), text("a"))
			if sinks.ClassOf(err) != sinks.ClassHalt || !strings.Contains(err.Error(), x.says) || !strings.Contains(err.Error(), dir) {
				t.Errorf("class %v of %v, want halt, the path and %q", sinks.ClassOf(err), err, x.says)
			}
			if _, err := s.Probe(t.Context()); sinks.ClassOf(err) != sinks.ClassHalt {
				t.Errorf("Probe: class %v of %v, want halt", sinks.ClassOf(err), err)
			}
			if err := x.repair(dir); err != nil {
				t.Fatal(err)
			}
			if got, err := s.Probe(t.Context()); err != nil || got != path+" size=0" {
				t.Errorf("Probe: %q, %v", got, err)
			}
			accepted(t, s, text("a"))
			wantContent(t, path, "a\n")
		})
	}
}

// Root may ask whether the service could write; the file must be the service's.
func TestProbeLeavesNoFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out.jsonl")
	s := open(t, file.Config{Path: path})
	if got, err := s.Probe(t.Context()); err != nil || got != path+" size=0" {
		t.Errorf("Probe: %q, %v", got, err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file is left: %v", err)
	}
	accepted(t, s, text("a"))
	if _, err := s.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	accepted(t, s, text("b"))
	wantContent(t, path, "a\nb\n")
}

func TestPermissionHalts(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere")
	}
	path := filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(path, nil, 0o400); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, file.Config{Path: path}).Send(t.Context(), text("a")); sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("class %v of %v, want halt", sinks.ClassOf(err), err)
	}
}
