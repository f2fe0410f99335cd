package file

import "os"

// Fail has the sink write and sync by these functions, for disks that are full
// or broken.
func (s *Sink) Fail(write func(*os.File, []byte) (int, error), sync func(*os.File) error) {
	s.write, s.sync = write, sync
}
