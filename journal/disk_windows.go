package journal

import (
	"errors"

	"golang.org/x/sys/windows"
)

// freeDisk is the space that is left for us where dir is.
func freeDisk(dir string) (int64, error) {
	path, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	if err := windows.GetDiskFreeSpaceEx(path, &free, nil, nil); err != nil {
		return 0, err
	}
	return int64(free), nil
}

func isDiskFull(err error) bool { return errors.Is(err, windows.ERROR_DISK_FULL) }

// lockFile does nothing here: the system refuses to open a file that the
// engine has locked.
func lockFile(string) (unlock func(), err error) { return func() {}, nil }
