package file_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/file"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestContractWhileRotating(t *testing.T) {
	sinktest.Working(t, func(t *testing.T) sinks.Sink {
		t.Helper()
		return file.New(file.Config{
			Path:   filepath.Join(t.TempDir(), "out"),
			Rotate: file.Rotate{MaxBytes: 4096, After: time.Minute, Compress: file.CompressGzip, Keep: 2, KeepDays: 1},
		})
	})
}

// names lists a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}

func wantNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, names(t, dir)); diff != "" {
		t.Errorf("directory (-want +got):\n%s", diff)
	}
}

// unpacked is the content of a compressed file.
func unpacked(t *testing.T, path string) string {
	t.Helper()
	zr, err := gzip.NewReader(strings.NewReader(content(t, path)))
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	b, err := io.ReadAll(zr)
	if err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return string(b)
}

func put(t *testing.T, path, body string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(body), 0o600); err != nil {
		t.Fatal(err)
	}
}

// A file is rotated when its first line is that old, whatever came since, and
// a restart or a Reopen does not make it younger.
func TestRotatesByAge(t *testing.T) {
	for name, between := range map[string]func(t *testing.T, s *file.Sink, cfg file.Config) *file.Sink{
		"running": func(_ *testing.T, s *file.Sink, _ file.Config) *file.Sink { return s },
		"reopened": func(t *testing.T, s *file.Sink, _ file.Config) *file.Sink {
			t.Helper()
			if err := s.Reopen(); err != nil {
				t.Error(err)
			}
			return s
		},
		"restarted": func(t *testing.T, _ *file.Sink, cfg file.Config) *file.Sink {
			t.Helper()
			return open(t, cfg)
		},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(dir, "out")
				cfg := file.Config{Path: path, Rotate: file.Rotate{After: time.Hour}}
				s := open(t, cfg)
				time.Sleep(3 * time.Hour) // a file without lines has no age
				accepted(t, s, text("a"))
				time.Sleep(40 * time.Minute)
				s = between(t, s, cfg)
				accepted(t, s, text("b"))
				time.Sleep(20*time.Minute - time.Second)
				accepted(t, s, text("c"))
				time.Sleep(time.Second)
				s = between(t, s, cfg)
				accepted(t, s, text("d"))
				wantContent(t, path+".1", "a\nb\nc\n")
				wantContent(t, path, "d\n")
				time.Sleep(59 * time.Minute)
				accepted(t, s, text("e"))
				time.Sleep(time.Minute)
				accepted(t, s, text("f"))
				wantContent(t, path+".1", "d\ne\n")
				wantContent(t, path+".2", "a\nb\nc\n")
				wantContent(t, path, "f\n")
			})
		})
	}
}

// The age begins anew with a file that others renamed or truncated.
func TestAgeIsThatOfTheLines(t *testing.T) {
	for name, do := range map[string]func(path string) error{
		"truncated": func(path string) error { return os.Truncate(path, 0) },
		"renamed":   func(path string) error { return os.Rename(path, path+".old") },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			synctest.Test(t, func(t *testing.T) {
				path := filepath.Join(dir, "out")
				s := open(t, file.Config{Path: path, Rotate: file.Rotate{After: time.Hour}})
				accepted(t, s, text("a"))
				time.Sleep(50 * time.Minute)
				if err := do(path); err != nil {
					t.Fatal(err)
				}
				accepted(t, s, text("b"))
				time.Sleep(50 * time.Minute)
				accepted(t, s, text("c"))
				wantContent(t, path, "b\nc\n")
			})
		})
	}
}

// A file of which nobody noted when it began counts from its last line, and a
// note that cannot be true is not believed.
func TestAgeWithoutNote(t *testing.T) {
	now := time.Now()
	for name, x := range map[string]struct {
		written time.Duration // ago
		note    string
		rotated bool
	}{
		"old":         {2 * time.Hour, "", true},
		"young":       {10 * time.Minute, "", false},
		"torn note":   {10 * time.Minute, "2020-01-", false},
		"future note": {10 * time.Minute, now.Add(time.Hour).Format(time.RFC3339Nano), false},
		"later note":  {2 * time.Hour, now.Add(-time.Minute).Format(time.RFC3339Nano), true},
		"note":        {10 * time.Minute, now.Add(-2 * time.Hour).Format(time.RFC3339Nano), true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "out")
			put(t, path, "a\n")
			if x.note != "" {
				put(t, filepath.Join(dir, ".out.begun"), x.note)
			}
			if err := os.Chtimes(path, now, now.Add(-x.written)); err != nil {
				t.Fatal(err)
			}
			accepted(t, open(t, file.Config{Path: path, Rotate: file.Rotate{After: time.Hour}}), text("b"))
			_, err := os.Stat(path + ".1")
			if (err == nil) != x.rotated {
				t.Errorf("rotated: %v, want %v", err == nil, x.rotated)
			}
		})
	}
}

func TestKeepsAllByDefault(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096}, Fsync: file.FsyncNone})
	long := strings.Repeat("x", 4000)
	for n := range 12 {
		accepted(t, s, text(fmt.Sprint(n)+long))
	}
	for n := range 11 {
		wantContent(t, fmt.Sprintf("%s.%d", path, n+1), fmt.Sprint(10-n)+long+"\n")
	}
}

// Former files are deleted when they are too many or too old, in either form;
// what only looks like one is left alone.
func TestFormerFilesExpire(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	strangers := []string{"out.005", "out.1.bak", "out.20260101", "out.txt", "out2.9", "out.1.gz.2"}
	for _, name := range append([]string{"out.1.gz", "out.2", "out.7", "out.9.gz"}, strangers...) {
		put(t, filepath.Join(dir, name), "a\n")
	}
	old := time.Now().Add(-73 * time.Hour)
	for _, name := range append([]string{"out.2", "out.1.gz"}, strangers...) {
		if err := os.Chtimes(filepath.Join(dir, name), old, old); err != nil {
			t.Fatal(err)
		}
	}
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Keep: 7, KeepDays: 3}})
	if got := accepted(t, s, text("b")).Answer; got != "bytes=0-1" {
		t.Errorf("answer %q", got)
	}
	wantNames(t, dir, "out", "out.005", "out.1.bak", "out.1.gz.2", "out.20260101", "out.7", "out.txt", "out2.9")
	s.Tend(time.Now().Add(80 * time.Hour))
	wantNames(t, dir, "out", "out.005", "out.1.bak", "out.1.gz.2", "out.20260101", "out.txt", "out2.9")
}

func TestFormerFilesAreCompressed(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip, Keep: 3}, Mode: "0600"})
	long := strings.Repeat("x", 4000)
	for n := range 7 {
		accepted(t, s, text(fmt.Sprint(n)+long))
	}
	s.Packed()
	wantNames(t, dir, "out", "out.1.gz", "out.2.gz", "out.3.gz")
	for n := range 3 {
		name := fmt.Sprintf("%s.%d.gz", path, n+1)
		if got, want := unpacked(t, name), fmt.Sprint(5-n)+long+"\n"; got != want {
			t.Errorf("%s holds %.20q, want %.20q", name, got, want)
		}
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
}

// What a crash left of compressing is made anew or removed; no line of a
// former file is lost or there twice.
func TestCompressingGoesOn(t *testing.T) {
	for name, left := range map[string]map[string]string{
		"not begun":            {"out.1": "a\n"},
		"half":                 {"out.1": "a\n", ".out.gz.tmp": "\x1f\x8bhalf"},
		"renamed, not removed": {"out.1": "a\n", "out.1.gz": "\x1f\x8bwhole"},
		"removed meanwhile":    {".out.gz.tmp": "\x1f\x8bhalf"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, first := range []string{"x", strings.Repeat("x", 5000)} { // without and with a rotation at once
				dir := t.TempDir()
				path := filepath.Join(dir, "out")
				for file, body := range left {
					put(t, filepath.Join(dir, file), body)
				}
				put(t, path, "b\n")
				s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip}})
				accepted(t, s, text(first))
				s.Packed()
				var want []string
				if left["out.1"] != "" {
					want = append(want, "a\n")
				}
				if len(first) > 1 {
					want = append(want, "b\n")
				}
				for i := range want {
					name := fmt.Sprintf("%s.%d.gz", path, len(want)-i)
					if got := unpacked(t, name); got != want[i] {
						t.Errorf("%s holds %q, want %q", name, got, want[i])
					}
				}
				if got := names(t, dir); len(got) != 1+len(want) {
					t.Errorf("directory holds %q", got)
				}
			}
		})
	}
}

// A rotation while a former file is being compressed does not mix them up:
// the source may have another number then, or be deleted.
func TestRotatesWhileCompressing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 1 << 20, Compress: file.CompressGzip}, Fsync: file.FsyncNone})
	noise := rand.NewChaCha8([32]byte{1})
	var want []string
	for range 12 {
		junk := make([]byte, 1<<19)
		_, _ = noise.Read(junk)
		line := fmt.Sprintf("%x", junk)
		want = append(want, line+"\n")
		accepted(t, s, text(line))
	}
	s.Packed()
	for n := 1; n < len(want); n++ {
		name := fmt.Sprintf("%s.%d.gz", path, n)
		if got := unpacked(t, name); got != want[len(want)-1-n] {
			t.Errorf("%s holds other lines", name)
		}
	}
}

// Close does not wait for a large file to be compressed, and leaves it whole.
func TestCloseInterruptsCompressing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	put(t, path+".1", "a\n")
	if err := os.Truncate(path+".1", 1<<30); err != nil { // seconds of work
		t.Fatal(err)
	}
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip}, Fsync: file.FsyncNone})
	s.Fail((*os.File).Write, func(*os.File) error {
		t.Error("compressed to its end")
		return nil
	})
	accepted(t, s, text("b"))
	s.Interrupted()
	s.Packed()
	wantNames(t, dir, "out", "out.1")
	accepted(t, open(t, file.Config{Path: path, Fsync: file.FsyncNone}), text("c"))
	wantContent(t, path, "b\nc\n")
}

// keep_days counts from the last line, compressed or not.
func TestCompressedFileIsAsOldAsItsLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	put(t, path+".1", "a\n")
	old := time.Now().Add(-30 * time.Hour)
	if err := os.Chtimes(path+".1", old, old); err != nil {
		t.Fatal(err)
	}
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip, KeepDays: 2}})
	accepted(t, s, text("b"))
	s.Packed()
	if info, err := os.Stat(path + ".1.gz"); err != nil || !info.ModTime().Equal(old) {
		t.Errorf("%v, %v, want the time %s", info, err, old)
	}
}

// What cannot be compressed or deleted does not hold up delivery; it is said.
func TestTroubleWithFormerFilesIsShown(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	put(t, path+".1", "a\n")
	if err := os.MkdirAll(filepath.Join(dir, ".out.gz.tmp", "x"), 0o700); err != nil { // in the way of the temporary file
		t.Fatal(err)
	}
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip}})
	accepted(t, s, text("b"))
	s.Packed()
	answer := accepted(t, s, text("c")).Answer
	if !strings.HasPrefix(answer, "bytes=2-3; former files: ") || !strings.Contains(answer, ".out.gz.tmp") || strings.Contains(answer, "\n") {
		t.Errorf("answer %q", answer)
	}
	if err := os.RemoveAll(filepath.Join(dir, ".out.gz.tmp")); err != nil {
		t.Fatal(err)
	}
	s.Tend(time.Now())
	s.Packed()
	wantNames(t, dir, "out", "out.1.gz")
	if got := accepted(t, s, text("d")).Answer; got != "bytes=4-5" {
		t.Errorf("answer %q", got)
	}
}

// A pipe that has the name of a former file is not opened.
func TestOddFormerFilesAreLeftAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	if err := syscall.Mkfifo(path+".1", 0o600); err != nil {
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	if err := os.Chtimes(path+".1", old, old); err != nil {
		t.Fatal(err)
	}
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip, KeepDays: 1}})
	accepted(t, s, text(strings.Repeat("x", 5000)))
	accepted(t, s, text("b"))
	s.Packed()
	if info, err := os.Lstat(path + ".2"); err != nil || info.Mode().Type() != fs.ModeNamedPipe {
		t.Errorf("%v, %v", info, err)
	}
	if got := unpacked(t, path+".1.gz"); len(got) != 5001 {
		t.Errorf("%d bytes", len(got))
	}
}

// The variable that makes this test's program a writer that is to be killed.
const writerPath = "CWPRELAY_TEST_WRITER"

func killedConfig(path string) file.Config {
	return file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 20_000, Compress: file.CompressGzip}}
}

// TestWriterProcess is what TestKilled runs: it writes numbers from an
// argument on and says which were accepted.
func TestWriterProcess(t *testing.T) {
	path := os.Getenv(writerPath)
	if path == "" {
		return
	}
	var from int
	if _, err := fmt.Fscan(os.Stdin, &from); err != nil {
		t.Fatal(err)
	}
	s := file.New(killedConfig(path))
	for n := from; ; n++ {
		if _, err := s.Send(t.Context(), text(fmt.Sprintf("%d %s", n, strings.Repeat("x", 3000)))); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(os.Stdout, "accepted %d\n", n)
	}
}

// Whenever the process is killed, each line that was accepted is in the file
// or in a former one, once, and what is compressed can be read.
func TestKilled(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	next := 1
	for round := range 20 {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWriterProcess$")
		cmd.Env = append(os.Environ(), writerPath+"="+path)
		cmd.Stdin = strings.NewReader(fmt.Sprintln(next))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		until := next + 15 + rand.IntN(30) + round // killed with what it does then under way
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if number, ok := strings.CutPrefix(lines.Text(), "accepted "); ok {
				n, err := strconv.Atoi(number)
				if err != nil {
					t.Fatal(err)
				}
				if next = n + 1; next == until {
					_ = cmd.Process.Kill()
				}
			}
		}
		_ = cmd.Wait()
	}
	s := open(t, killedConfig(path))
	accepted(t, s, text("the end"))
	s.Packed()

	var all strings.Builder
	for _, name := range names(t, dir) {
		switch {
		case strings.HasPrefix(name, "."):
			t.Errorf("%s was left", name)
		case strings.HasSuffix(name, ".gz"):
			if slices.Contains(names(t, dir), strings.TrimSuffix(name, ".gz")) {
				t.Errorf("%s is there in both forms", name)
			}
			all.WriteString(unpacked(t, filepath.Join(dir, name)))
		default:
			all.WriteString(content(t, filepath.Join(dir, name)))
		}
	}
	count := map[int]int{}
	for line := range strings.SplitSeq(all.String(), "\n") {
		number, rest, _ := strings.Cut(line, " ")
		if n, err := strconv.Atoi(number); err == nil && len(rest) == 3000 {
			count[n]++
		}
	}
	for n := 1; n < next; n++ {
		if count[n] < 1 || count[n] > 2 { // twice: written, and killed before that was said
			t.Errorf("line %d is there %d times", n, count[n])
		}
	}
}

// logrotate, run while records are written, with the ways it has of taking a
// file away.
func TestRealLogrotate(t *testing.T) {
	program := sinktest.RealProgram(t, "logrotate", "logrotate (apt-get install logrotate)")
	for name, x := range map[string]struct {
		options string
		loses   bool // lines between its copy and its truncation: that is its nature
	}{
		"create":       {"create 0600", false},
		"nocreate":     {"nocreate", false},
		"compress":     {"create 0600\n delaycompress\n compress", false},
		"copytruncate": {"copytruncate", true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path, conf := filepath.Join(dir, "out"), filepath.Join(t.TempDir(), "conf")
			put(t, conf, fmt.Sprintf("%s {\n rotate 100\n size 1\n %s\n}\n", path, x.options))
			s := open(t, file.Config{Path: path, Fsync: file.FsyncNone, Mode: "0600"})
			const lines = 4000
			for n := range lines {
				accepted(t, s, text(fmt.Sprintf("line %d", n)))
				if n%500 != 250 {
					continue
				}
				cmd := exec.CommandContext(t.Context(), program, "-f", "-s", conf+".state", conf)
				var said bytes.Buffer
				cmd.Stdout, cmd.Stderr = &said, &said
				if err := cmd.Start(); err != nil { // beside the next lines
					t.Fatal(err)
				}
				done := make(chan error, 1)
				go func() { done <- cmd.Wait() }()
				for more := 0; ; more++ {
					accepted(t, s, text(fmt.Sprintf("beside %d", more)))
					select {
					case err := <-done:
						// We may make the file before it does: it puts that aside, and complains.
						made := strings.Contains(x.options, "create 0600") && strings.Contains(said.String(), "already exists, renaming to ")
						if err != nil && !made {
							t.Fatalf("%s: %v: %s", program, err, said.Bytes())
						}
					default:
						continue
					}
					break
				}
			}
			var all bytes.Buffer
			for _, name := range names(t, dir) {
				if strings.HasSuffix(name, ".gz") {
					all.WriteString(unpacked(t, filepath.Join(dir, name)))
				} else {
					all.WriteString(content(t, filepath.Join(dir, name)))
				}
			}
			found := 0
			for line := range strings.Lines(all.String()) {
				switch {
				case strings.HasPrefix(line, "line ") && strings.HasSuffix(line, "\n"):
					found++
				case strings.HasPrefix(line, "beside ") && strings.HasSuffix(line, "\n"):
				case x.loses && !strings.ContainsRune(line, 0): // its copy can end in the middle of a line
				default:
					t.Errorf("torn line %q", line)
				}
			}
			if found != lines && !x.loses || found < lines*9/10 {
				t.Errorf("%d lines of %d", found, lines)
			}
		})
	}
}

// The plain file stays until the compressed one is on disk.
func TestPlainFileStaysUntilSynced(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "out")
	put(t, path+".1", "a\n")
	s := open(t, file.Config{Path: path, Rotate: file.Rotate{MaxBytes: 4096, Compress: file.CompressGzip}, Fsync: file.FsyncNone})
	s.Fail((*os.File).Write, func(*os.File) error { return syscall.EIO })
	accepted(t, s, text("b"))
	s.Packed()
	wantNames(t, dir, "out", "out.1")
}
