package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"syscall"

	"github.com/cwprelay/cwprelay/sinks"
)

// A Stdout writes to a stream that is open already.
//
// Accepted means that the stream took the line, nothing more: a pipe's reader
// may not have read it yet. A reader that is gone halts the sink, because a
// closed standard output does not come back while the process lives; the
// records wait for the next start. (Where nothing catches SIGPIPE, Go ends the
// process instead.)
type Stdout struct {
	w io.Writer

	buf     []byte
	torn    bool         // the last thing written is a part of a line
	pending chan written // a write that was still going on when its context was done
}

// A written is what became of one write.
type written struct {
	n   int
	err error
	buf []byte
}

var _ sinks.Sink = (*Stdout)(nil)

// NewStdout makes the sink of a stream. The sink does not close it.
func NewStdout(w io.Writer) *Stdout { return &Stdout{w: w} }

// Send writes the batch by one write. When the stream does not take it before
// ctx is done, the write goes on and the next Send waits for its end: those
// lines are written twice then, never torn.
func (s *Stdout) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if err := begin(ctx); err != nil {
		return sinks.Receipt{}, err
	}
	if s.pending != nil {
		if _, err := s.await(ctx); err != nil {
			return sinks.Receipt{}, err
		}
	}
	text := room(s.buf, batch)
	s.buf = nil // the write's until it ends
	if s.torn {
		text = append(text, '\n')
	}
	text, ends, failed := lines(text, batch)
	if len(ends) == 0 {
		return sinks.Receipt{}, partial(failed)
	}
	s.pending = make(chan written, 1)
	go write(s.w, text, s.pending)
	done, err := s.await(ctx)
	if err != nil {
		return sinks.Receipt{}, err
	}
	receipt := sinks.Receipt{Answer: fmt.Sprintf("bytes=%d", done.n)}
	if done.err == nil {
		return receipt, partial(failed)
	}
	err = classStream(fmt.Errorf("write to standard output: %w", done.err))
	if ends[0].end > done.n && len(failed) == 0 {
		return sinks.Receipt{}, err
	}
	for _, l := range ends {
		if l.end > done.n {
			failed[l.index] = err
		}
	}
	return receipt, partial(failed)
}

// write writes text and reports. It ends when the stream has taken it.
func write(w io.Writer, text []byte, report chan<- written) {
	n, err := w.Write(text)
	if err == nil && n < len(text) {
		err = io.ErrShortWrite
	}
	report <- written{n: min(max(n, 0), len(text)), err: err, buf: text}
}

// await waits for the write under way.
func (s *Stdout) await(ctx context.Context) (written, error) {
	select {
	case done := <-s.pending:
		s.pending = nil
		s.buf = done.buf
		if done.n > 0 {
			s.torn = done.buf[done.n-1] != '\n'
		}
		return done, nil
	case <-ctx.Done():
		return written{}, fmt.Errorf("standard output takes nothing: %w", ctx.Err())
	}
}

// Close does nothing: the stream is not ours.
func (*Stdout) Close() error { return nil }

// classStream says what an error of a stream means.
func classStream(err error) error {
	for _, gone := range []error{syscall.EPIPE, syscall.EBADF, fs.ErrClosed, io.ErrClosedPipe} {
		if errors.Is(err, gone) {
			return sinks.Halt(err)
		}
	}
	return err
}
