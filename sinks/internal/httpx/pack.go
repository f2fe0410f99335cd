package httpx

import (
	"io"

	"github.com/klauspost/compress/gzip"
)

// spareWriters bounds how many unused writers a Packer keeps: each holds about
// a megabyte.
const spareWriters = 2

// A Packer lends gzip writers. It is safe for concurrent use.
//
// A sync.Pool loses what it holds at every second garbage collection, of which
// there are many while there is much to send.
type Packer struct {
	level int
	spare chan *gzip.Writer
}

// NewPacker makes a Packer of a valid level.
func NewPacker(level int) *Packer {
	return &Packer{level: level, spare: make(chan *gzip.Writer, spareWriters)}
}

// Pack calls write with a writer whose compressed output goes to dst, and
// closes it.
func (p *Packer) Pack(dst io.Writer, write func(io.Writer) error) error {
	var w *gzip.Writer
	select {
	case w = <-p.spare:
		w.Reset(dst)
	default:
		var err error
		if w, err = gzip.NewWriterLevel(dst, p.level); err != nil {
			return err
		}
	}
	err := write(w)
	if err == nil {
		err = w.Close()
	}
	w.Reset(io.Discard)
	select {
	case p.spare <- w:
	default:
	}
	return err
}
