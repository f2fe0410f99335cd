package file

import (
	"os"
	"time"
)

// Fail has the sink write and sync by these functions, for disks that are full
// or broken.
func (s *Sink) Fail(write func(*os.File, []byte) (int, error), sync func(*os.File) error) {
	s.write, s.sync = write, sync
}

// Packed waits until no former file is left to compress.
func (s *Sink) Packed() { s.packers.Wait() }

// Tend looks at former files as Send does once an hour.
func (s *Sink) Tend(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tend(now)
}

// Interrupted has compressing interrupted, as Close does.
func (s *Sink) Interrupted() { s.end() }
