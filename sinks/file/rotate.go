package file

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxFormer is the highest number of a former file. Beyond it, numbers are
// somebody's dates.
const maxFormer = 99_999

// tendEvery is how often former files are looked at while there is no
// rotation.
const tendEvery = time.Hour

// packed is what the names of compressed files end in.
const packed = ".gz"

// A former is one number of the former files. Both forms are there only after
// a crash; the plain one counts then.
type former struct {
	n             int
	plain, packed bool
	odd           bool // one is no regular file: it is moved along, never opened
}

// former names the former file of a number; 0 is the file itself.
func (s *Sink) former(n int) string {
	if n == 0 {
		return s.cfg.Path
	}
	return fmt.Sprintf("%s.%d", s.cfg.Path, n)
}

// hidden names a file of the sink's own beside the file. It begins with a dot,
// so that patterns for the file do not find it.
func (s *Sink) hidden(suffix string) string {
	dir, name := filepath.Split(s.cfg.Path)
	return dir + "." + name + suffix
}

// formers lists the former files by number.
func (s *Sink) formers() ([]former, error) {
	entries, err := os.ReadDir(filepath.Dir(s.cfg.Path))
	if err != nil {
		return nil, err
	}
	byNumber := map[int]former{}
	for _, e := range entries {
		rest, ours := strings.CutPrefix(e.Name(), filepath.Base(s.cfg.Path)+".")
		number, isPacked := strings.CutSuffix(rest, packed)
		n, err := strconv.Atoi(number)
		if !ours || err != nil || n < 1 || n > maxFormer || strconv.Itoa(n) != number {
			continue
		}
		f := byNumber[n]
		f.n, f.plain, f.packed, f.odd = n, f.plain || !isPacked, f.packed || isPacked, f.odd || !e.Type().IsRegular()
		byNumber[n] = f
	}
	all := make([]former, 0, len(byNumber))
	for _, f := range byNumber {
		all = append(all, f)
	}
	slices.SortFunc(all, func(a, b former) int { return cmp.Compare(a.n, b.n) })
	return all, nil
}

// due reports whether the file is to be rotated before n bytes are written.
func (s *Sink) due(size, n int64, now time.Time) bool {
	r := s.cfg.Rotate
	return size > 0 && (r.MaxBytes != 0 && size+n > r.MaxBytes || r.After != 0 && now.Sub(s.begun) >= r.After)
}

// begin notes, before the first line is written, that the file begins now. A
// restart must not make it younger, so it is written down.
func (s *Sink) begin(now time.Time) error {
	if s.cfg.Rotate.After == 0 || !s.begun.IsZero() {
		return nil
	}
	if err := s.remember(now); err != nil {
		return fmt.Errorf("note the age of the file: %w", err)
	}
	s.begun = now
	return nil
}

func (s *Sink) remember(begun time.Time) error {
	return os.WriteFile(s.hidden(".begun"), []byte(begun.UTC().Format(time.RFC3339Nano)+"\n"), s.mode)
}

// recall returns when the file that was opened got its first line, zero when
// it has none. Without a note that can be true, it counts as begun when it was
// last written.
func (s *Sink) recall(info fs.FileInfo, now time.Time) time.Time {
	if s.cfg.Rotate.After == 0 || info.Size() == 0 {
		return time.Time{}
	}
	last := info.ModTime()
	if now.Before(last) {
		last = now
	}
	text, err := os.ReadFile(s.hidden(".begun"))
	if err == nil {
		begun, err := time.Parse(time.RFC3339Nano, strings.TrimSpace(string(text)))
		if err == nil && !begun.After(last) {
			return begun
		}
	}
	_ = s.remember(last) // without it, the next start counts from then
	return last
}

// rotate renames path to path.1, path.1 to path.2 and so on up to the first
// number that is free. After a crash in between it goes on where it stopped.
// What then has too high a number, tend deletes.
func (s *Sink) rotate() error {
	all, err := s.formers()
	if err != nil {
		return err
	}
	forms := map[int]string{0: ""}
	for _, f := range all {
		if f.plain && f.packed { // a crash came before the plain one was removed
			if err := os.Remove(s.former(f.n) + packed); err != nil {
				return err
			}
			f.packed = false
		}
		forms[f.n] = map[bool]string{true: packed}[f.packed]
	}
	free := 1
	for ; free < maxFormer; free++ {
		if _, taken := forms[free]; !taken {
			break
		}
	}
	for n := free; n > 0; n-- {
		if err := os.Rename(s.former(n-1)+forms[n-1], s.former(n)+forms[n-1]); err != nil {
			return err
		}
	}
	return s.syncDir()
}

// tend deletes former files that are no longer to be kept and sees to it that
// the others get compressed. What goes wrong does not hold up delivery; it is
// tried again at the next occasion.
func (s *Sink) tend(now time.Time) {
	if !s.cfg.Rotate.used() {
		return
	}
	s.tended = now
	var errs []error
	if !s.packing {
		errs = append(errs, remove(s.hidden(packed+".tmp"))) // left by a crash
	}
	all, err := s.formers()
	errs = append(errs, err)
	var toPack bool
	for _, f := range all {
		if f.odd {
			continue
		}
		gone, err := s.expire(f, now)
		errs = append(errs, err)
		toPack = toPack || f.plain && !gone
	}
	s.problem = errors.Join(errs...)
	if toPack {
		s.startPacking()
	}
}

// expire deletes a former file unless it is to be kept.
func (s *Sink) expire(f former, now time.Time) (gone bool, err error) {
	r := s.cfg.Rotate
	var errs []error
	for form, there := range map[string]bool{"": f.plain, packed: f.packed} {
		if !there {
			continue
		}
		name := s.former(f.n) + form
		info, err := os.Lstat(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		age := now.Sub(info.ModTime())
		if r.Keep > 0 && f.n > r.Keep || r.KeepDays > 0 && age > time.Duration(r.KeepDays)*24*time.Hour {
			errs = append(errs, remove(name))
			gone = true
		}
	}
	return gone, errors.Join(errs...)
}

// remove deletes a file that may be gone already.
func remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
