// Package file writes records to a file or to standard output, each as one
// line, which with a JSON format gives JSON lines.
//
// For a file, accepted means that the lines survive power loss, unless
// Config.Fsync says otherwise. A batch is written whole or taken back, so a
// record that failed is not in the file; only a crash in the middle of a write
// can leave the beginning of one, which the next start ends with a line break.
// Other programs may read, rename, compress and truncate the file, but must not
// write to it.
//
// A file that is rotated is renamed, compressed beside delivery if that is
// asked for, and deleted when it is no longer to be kept. No line is lost by a
// crash in any of that: a former file is there whole under one of its names.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
)

// A Sink writes to one file.
type Sink struct {
	cfg  Config
	mode fs.FileMode

	write func(*os.File, []byte) (int, error) // (*os.File).Write outside tests
	sync  func(*os.File) error                // (*os.File).Sync outside tests

	life    context.Context // ends at Close
	end     context.CancelFunc
	packers sync.WaitGroup

	mu      sync.Mutex // guards the fields below: Reopen may be called beside Send
	file    *os.File   // nil: not open
	buf     []byte
	begun   time.Time // when the first line of the file was written; zero: it has none, or nobody asks
	tended  time.Time // when former files were last looked at
	packing bool      // a packer runs
	problem error     // with former files, nil if all is well; shown in receipts
}

var (
	_ sinks.Sink   = (*Sink)(nil)
	_ sinks.Prober = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It opens nothing.
func New(cfg Config) *Sink {
	cfg = cfg.WithDefaults()
	mode, _ := cfg.mode() // the configuration is valid
	s := &Sink{cfg: cfg, mode: mode, write: (*os.File).Write, sync: (*os.File).Sync}
	s.life, s.end = context.WithCancel(context.Background())
	return s
}

// Send appends the batch by one write. It cannot be interrupted while the
// system writes.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if err := begin(ctx); err != nil {
		return sinks.Receipt{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	text, ends, failed := lines(room(s.buf, batch), batch)
	s.buf = text
	if len(ends) == 0 {
		return sinks.Receipt{}, partial(failed)
	}
	start, err := s.ready(int64(len(text)))
	if err == nil {
		err = s.begin(time.Now())
	}
	if err == nil {
		err = s.append(text, start)
	}
	if err != nil {
		return sinks.Receipt{}, s.whole(err, ends, failed)
	}
	answer := fmt.Sprintf("bytes=%d-%d", start, start+int64(len(text))-1)
	if s.problem != nil {
		answer += "; former files: " + oneLine(s.problem)
	}
	return sinks.Receipt{Answer: answer}, partial(failed)
}

// oneLine is the text of an error that was joined of several.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

// whole adds the failure of all records that were not refused.
func (s *Sink) whole(err error, ends []line, failed map[int]error) error {
	err = class(err)
	if len(failed) == 0 {
		return err
	}
	for _, l := range ends {
		failed[l.index] = err
	}
	return partial(failed)
}

// Probe opens the file as Send would. One that was not there is not there
// afterwards: whoever asks may be another user than whoever will write.
func (s *Sink) Probe(ctx context.Context) (string, error) {
	if err := begin(ctx); err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, before := os.Lstat(s.cfg.Path)
	size, err := s.ready(0)
	if err == nil && errors.Is(before, fs.ErrNotExist) {
		err = errors.Join(s.close(), os.Remove(s.cfg.Path))
	}
	if err != nil {
		return "", class(err)
	}
	return fmt.Sprintf("%s size=%d", s.cfg.Path, size), nil
}

// Reopen closes the file, so that the next record goes to whatever then is at
// the path. It is for programs that rename the file and then tell us; those
// that do not tell us are noticed all the same.
func (s *Sink) Reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.close()
}

// Close closes the file. A former file that is being compressed stays as it
// is; the next start begins it anew.
func (s *Sink) Close() error {
	s.mu.Lock()
	s.end() // under the mutex: after it no packer is started
	err := s.close()
	s.mu.Unlock()
	s.packers.Wait()
	return err
}

// close closes the file; what Send accepted has been synced, if asked for.
func (s *Sink) close() error {
	if s.file == nil {
		return nil
	}
	file := s.file
	s.file = nil
	return file.Close()
}

// ready makes the file at the path the open one, with room for n bytes before
// it is to be rotated, and returns its size.
func (s *Sink) ready(n int64) (int64, error) {
	size, err := s.open()
	if err != nil {
		return 0, err
	}
	now := time.Now()
	if size == 0 {
		s.begun = time.Time{} // new, or truncated by others
	}
	if !s.due(size, n, now) {
		if now.Sub(s.tended) >= tendEvery {
			s.tend(now)
		}
		return size, nil
	}
	if err := errors.Join(s.close(), s.rotate()); err != nil {
		return 0, fmt.Errorf("rotate %s: %w", s.cfg.Path, err)
	}
	s.tend(now)
	return s.open()
}

// open opens the file unless it is open and still what the path names.
func (s *Sink) open() (size int64, err error) {
	named, err := os.Stat(s.cfg.Path)
	switch {
	case err == nil && !named.Mode().IsRegular():
		return 0, notAFileError{s.cfg.Path}
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return 0, err
	}
	if s.file != nil {
		if info, statErr := s.file.Stat(); err == nil && statErr == nil && os.SameFile(named, info) {
			return info.Size(), nil
		}
		if err := s.close(); err != nil {
			return 0, err
		}
	}
	return s.openNew(err != nil)
}

// openNew opens the file, or creates it. A last line without its end, which a
// crash left, is ended.
func (s *Sink) openNew(create bool) (size int64, err error) {
	// For reading too: the last byte is looked at.
	file, err := os.OpenFile(s.cfg.Path, os.O_RDWR|os.O_APPEND|os.O_CREATE, s.mode)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if create {
		if err := s.syncDir(); err != nil {
			return 0, err
		}
	}
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	size = info.Size()
	if size > 0 {
		last := make([]byte, 1)
		if _, err := file.ReadAt(last, size-1); err != nil {
			return 0, fmt.Errorf("read the end of %s: %w", s.cfg.Path, err)
		}
		if last[0] != '\n' {
			if _, err := file.WriteString("\n"); err != nil {
				return 0, fmt.Errorf("end the last line: %w", err)
			}
			size++
		}
	}
	s.file = file
	s.begun = s.recall(info, time.Now())
	return size, nil
}

// append writes text at the end of the file, which is at start, or nothing.
func (s *Sink) append(text []byte, start int64) error {
	n, err := s.write(s.file, text)
	if err == nil && s.cfg.Fsync == FsyncBatch {
		// After a failure the system may have dropped what it could not write
		// and report success next time: it is taken back and written again.
		err = s.sync(s.file)
	}
	if err == nil {
		return nil
	}
	return errors.Join(err, s.takeBack(start, n))
}

// takeBack removes the n bytes at start, where that is the end of the file,
// and closes it. What it cannot remove, the next open ends with a line break.
func (s *Sink) takeBack(start int64, n int) error {
	var errs []error
	if info, err := s.file.Stat(); err != nil {
		errs = append(errs, err)
	} else if n > 0 && info.Size() == start+int64(n) {
		errs = append(errs, s.file.Truncate(start))
	}
	return errors.Join(append(errs, s.close())...)
}

// syncDir makes the directory's names survive power loss.
func (s *Sink) syncDir() error {
	if s.cfg.Fsync != FsyncBatch {
		return nil
	}
	return s.forceDir()
}

// forceDir does so whatever Config.Fsync says.
func (s *Sink) forceDir() (err error) {
	dir, err := os.Open(filepath.Dir(s.cfg.Path))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Close()) }()
	if err := dir.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) { // some file systems cannot
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

// notAFileError says that the path names a directory, a device or a pipe.
type notAFileError struct{ path string }

func (e notAFileError) Error() string {
	return e.path + " is not a regular file; for standard output use stdout"
}

// class says what an error of the file system means: a full disk and errors of
// the device pass, a missing directory or permission does not by itself.
func class(err error) error {
	if _, ok := errors.AsType[notAFileError](err); ok {
		return sinks.Halt(err)
	}
	if path, ok := errors.AsType[*fs.PathError](err); ok && errors.Is(err, fs.ErrNotExist) {
		return sinks.Halt(fmt.Errorf("directory %s does not exist; create it: %w", filepath.Dir(path.Path), err))
	}
	for _, ours := range []error{
		fs.ErrPermission, syscall.EROFS, syscall.ENOTDIR, syscall.EISDIR, syscall.ENAMETOOLONG, syscall.ELOOP,
	} {
		if errors.Is(err, ours) {
			return sinks.Halt(err)
		}
	}
	return err
}
