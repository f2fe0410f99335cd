package file

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"github.com/klauspost/compress/gzip"
)

// startPacking has former files compressed beside Send, one after the other.
// The caller holds mu.
func (s *Sink) startPacking() {
	if s.cfg.Rotate.Compress != CompressGzip || s.packing || s.life.Err() != nil {
		return
	}
	s.packing = true
	s.packers.Go(func() {
		for {
			source, err := s.nextToPack()
			if source == nil && err == nil {
				return
			}
			if err == nil {
				err = s.pack(source)
			}
			if err != nil {
				s.gaveUp(err)
				return
			}
		}
	})
}

// nextToPack opens the oldest former file that is not compressed. Without one,
// the packer must end.
func (s *Sink) nextToPack() (*os.File, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.formers()
	if err != nil {
		return nil, err
	}
	for _, f := range slices.Backward(all) {
		if f.plain && !f.odd {
			return os.Open(s.former(f.n))
		}
	}
	s.packing = false
	return nil, nil //nolint:nilnil // nothing to do is no error
}

// gaveUp ends packing until former files are looked at again.
func (s *Sink) gaveUp(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.packing = false
	if s.life.Err() == nil {
		s.problem = fmt.Errorf("compress: %w", err)
	}
}

// pack compresses source, which it closes. The compressed file gets its name
// when it is whole and on disk; only then the plain one goes.
func (s *Sink) pack(source *os.File) (err error) {
	defer func() { err = errors.Join(err, source.Close()) }()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	temporary := s.hidden(packed + ".tmp")
	defer func() {
		if err != nil {
			err = errors.Join(err, remove(temporary))
		}
	}()
	if err := s.packInto(temporary, source, info.Mode().Perm()); err != nil {
		return err
	}
	if err := os.Chtimes(temporary, info.ModTime(), info.ModTime()); err != nil { // keep_days counts from the last line
		return err
	}
	return s.replace(info, temporary)
}

// packInto writes a compressed copy and syncs it.
func (s *Sink) packInto(name string, source io.Reader, mode os.FileMode) (err error) {
	target, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, target.Close()) }()
	w := gzip.NewWriter(target)
	if _, err := io.Copy(w, interruptible{s.life, source}); err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return s.sync(target)
}

// replace puts the compressed file in the place of the plain one, whatever its
// number is now; it may have been deleted meanwhile.
func (s *Sink) replace(plain os.FileInfo, temporary string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	all, err := s.formers()
	if err != nil {
		return err
	}
	for _, f := range all {
		name := s.former(f.n)
		if info, err := os.Lstat(name); err != nil || !f.plain || !os.SameFile(info, plain) {
			continue
		}
		if err := os.Rename(temporary, name+packed); err != nil {
			return err
		}
		if err := s.forceDir(); err != nil { // before the plain one goes, whatever fsync says
			return err
		}
		return os.Remove(name)
	}
	return remove(temporary)
}

// interruptible is a reader that ends with its context.
type interruptible struct {
	ctx context.Context //nolint:containedctx // it belongs to one copy
	r   io.Reader
}

func (i interruptible) Read(b []byte) (int, error) {
	if err := i.ctx.Err(); err != nil {
		return 0, err
	}
	return i.r.Read(b)
}
