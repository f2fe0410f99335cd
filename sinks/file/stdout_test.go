package file_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/file"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestStdoutContract(t *testing.T) {
	sinktest.Working(t, func(*testing.T) sinks.Sink { return file.NewStdout(io.Discard) })
}

// wantClasses compares the failures of a partial error.
func wantClasses(t *testing.T, err error, want map[int]sinks.Class) {
	t.Helper()
	got := map[int]sinks.Class{}
	if p, ok := errors.AsType[*sinks.PartialError](err); ok {
		for i, e := range p.Failed {
			got[i] = sinks.ClassOf(e)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("classes of %v (-want +got):\n%s", err, diff)
	}
}

// writerFunc is a stream.
type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// A stream whose reader has gone halts the sink.
func TestReaderGone(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	r.Close()
	for name, stream := range map[string]io.Writer{
		"pipe":   w,
		"closed": writerFunc(func([]byte) (int, error) { return 0, os.ErrClosed }),
		"none":   writerFunc(func([]byte) (int, error) { return 0, syscall.EBADF }),
	} {
		if _, err := file.NewStdout(stream).Send(t.Context(), text("a")); sinks.ClassOf(err) != sinks.ClassHalt {
			t.Errorf("%s: class %v of %v, want halt", name, sinks.ClassOf(err), err)
		}
	}
}

// A stream that takes only a part accepts the lines it took whole; the torn
// one is ended before it is written again.
func TestStreamTakesPart(t *testing.T) {
	for name, x := range map[string]struct {
		takes int
		want  map[int]sinks.Class // nil: nothing was accepted
		then  string
	}{
		"nothing":         {0, nil, "b\nc\n"},
		"part of a line":  {1, nil, "a\nb\nc\n"},
		"a line":          {3, map[int]sinks.Class{1: 0, 2: 0}, "aa\nb\nc\n"},
		"a line and more": {4, map[int]sinks.Class{1: 0, 2: 0}, "aa\nb\nb\nc\n"},
		"two lines":       {6, map[int]sinks.Class{2: 0}, "aa\nbb\nb\nc\n"},
	} {
		t.Run(name, func(t *testing.T) {
			var stream bytes.Buffer
			full := true
			s := file.NewStdout(writerFunc(func(b []byte) (int, error) {
				if !full {
					return stream.Write(b)
				}
				n, _ := stream.Write(b[:x.takes])
				return n, syscall.ENOSPC
			}))
			_, err := s.Send(t.Context(), text("aa", "bb", "cc"))
			if x.want != nil {
				wantClasses(t, err, x.want)
			} else if p, ok := errors.AsType[*sinks.PartialError](err); ok || err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
				t.Errorf("error %v (partial %v), want a plain one", err, p)
			}
			full = false
			if _, err := s.Send(t.Context(), text("b", "c")); err != nil {
				t.Fatal(err)
			}
			if got := stream.String(); got != x.then {
				t.Errorf("stream %q, want %q", got, x.then)
			}
		})
	}
}

// A reader that does not read does not hold Send; when it reads again, no line
// is torn and none is missing.
func TestReaderStalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, w := io.Pipe()
		s := file.NewStdout(w)
		for range 2 {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			begun := time.Now()
			_, err := s.Send(ctx, text("a", "b"))
			cancel()
			if !errors.Is(err, context.DeadlineExceeded) || sinks.ClassOf(err) != sinks.ClassRetry || time.Since(begun) != time.Minute {
				t.Fatalf("after %s: %v, want the deadline", time.Since(begun), err)
			}
		}
		read := make(chan string)
		go func() {
			b, _ := io.ReadAll(r)
			read <- string(b)
		}()
		if _, err := s.Send(t.Context(), text("a", "b")); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		if got, want := <-read, "a\nb\na\nb\n"; got != want {
			t.Errorf("read %q, want %q", got, want)
		}
	})
}
