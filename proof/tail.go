package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
)

// A tail reads the lines that are added to a file, also when the file is
// rotated to path.1, path.2 and so on.
type tail struct {
	path string

	mu   sync.Mutex // guards the rest
	file *os.File   // nil before the first line
	in   *bufio.Reader
	part []byte // the beginning of a line
}

// read passes on the lines that were added since the last call, without their
// ends. They are valid during the call.
func (t *tail) read(each func(line []byte)) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		if err := t.open(t.path); errors.Is(err, os.ErrNotExist) {
			return nil
		} else if err != nil {
			return err
		}
	}
	for {
		// What follows is opened before reading: the present one does not grow
		// any more then.
		next, err := t.next()
		if err != nil {
			return err
		}
		if err := t.rest(each); err != nil || next == nil {
			return errors.Join(err, shut(next))
		}
		if err := t.file.Close(); err != nil {
			return errors.Join(err, next.Close())
		}
		t.begin(next)
	}
}

func (t *tail) open(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	t.begin(f)
	return nil
}

func (t *tail) begin(f *os.File) { t.file, t.in, t.part = f, bufio.NewReaderSize(f, 1<<20), nil }

// next opens the file that follows the one that is read; nil when that is the
// last.
func (t *tail) next() (*os.File, error) {
	current, err := t.file.Stat()
	if err != nil {
		return nil, err
	}
	var newer *os.File
	for n, path := 0, t.path; ; path = fmt.Sprintf("%s.%d", t.path, n) {
		f, err := os.Open(path)
		switch {
		case errors.Is(err, os.ErrNotExist) && n == 0:
			return nil, nil //nolint:nilnil // between two names: later
		case errors.Is(err, os.ErrNotExist):
			return nil, errors.Join(fmt.Errorf("%s was rotated away before it was read", t.path), shut(newer))
		case err != nil:
			return nil, errors.Join(err, shut(newer))
		}
		info, err := f.Stat()
		if err != nil {
			return nil, errors.Join(err, f.Close(), shut(newer))
		}
		if os.SameFile(info, current) {
			return newer, f.Close()
		}
		if err := shut(newer); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		newer = f
		n++
	}
}

func shut(f *os.File) error {
	if f == nil {
		return nil
	}
	return f.Close()
}

func (t *tail) rest(each func(line []byte)) error {
	for {
		text, err := t.in.ReadSlice('\n')
		switch {
		case err == nil:
			line := text[:len(text)-1]
			if len(t.part) > 0 {
				line = append(t.part, line...)
				t.part = nil
			}
			if line = bytes.TrimRight(line, "\r"); len(line) > 0 {
				each(line)
			}
		case errors.Is(err, io.EOF), errors.Is(err, bufio.ErrBufferFull):
			t.part = append(t.part, slices.Clone(text)...)
			if errors.Is(err, io.EOF) {
				return nil
			}
		default:
			return err
		}
	}
}

func (t *tail) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = shut(t.file) // it is only read
	t.file = nil
}
