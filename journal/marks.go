package journal

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"

	bolt "go.etcd.io/bbolt"
)

// marksName is a small file beside the journal: how far it and its sinks had
// come. It is written after each commit and never synced, so that it is never
// ahead of the journal, and may be behind after a loss of power. It is read only
// when the journal is damaged, to tell exactly what is missing: where the newest
// records stood, nothing else may tell of them.
const marksName = "journal.marks"

type marks struct {
	Last    uint64            // number of the newest record
	Dead    int               // dead letters of all sinks
	Cursors map[string]Cursor // by sink
}

const marksKey = "marks"

// marksOf are the marks of a transaction, as they will be written.
func (f *File) marksOf(tx *bolt.Tx) ([]byte, error) {
	m := marks{Last: tx.Bucket([]byte("log")).Sequence(), Dead: f.meta.Dead}
	var err error
	if m.Cursors, err = f.cursors(tx); err != nil {
		return nil, err
	}
	payload, err := encodeJSON(m)
	if err != nil {
		return nil, err
	}
	row := seal(rowMarks, []byte(marksKey), payload)
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(row))), row...), nil
}

// openMarks opens the file of the marks. Without one, damage is told less
// exactly.
func (f *File) openMarks() {
	file, err := os.OpenFile(filepath.Join(f.cfg.Dir, marksName), os.O_CREATE|os.O_RDWR, 0o600)
	if err == nil {
		f.marks = file
	}
}

func (f *File) writeMarks(row []byte) {
	if f.marks != nil {
		_, _ = f.marks.WriteAt(row, 0) // the next commit writes them again
	}
}

func (f *File) closeMarks() error {
	if f.marks == nil {
		return nil
	}
	return f.marks.Close()
}

// readMarks returns the marks of a directory, none where they cannot be read.
func readMarks(dir string) (m marks) {
	file, err := os.Open(filepath.Join(dir, marksName))
	if err != nil {
		return m
	}
	defer func() { _ = file.Close() }() // only read
	var head [4]byte
	if _, err := io.ReadFull(file, head[:]); err != nil {
		return m
	}
	row := make([]byte, min(binary.BigEndian.Uint32(head[:]), 1<<20))
	if _, err := io.ReadFull(file, row); err != nil {
		return m
	}
	if decodeJSON(rowMarks, []byte(marksKey), row, &m) != nil {
		return marks{}
	}
	return m
}
