package file

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/cwprelay/cwprelay/sinks"
)

// lines appends the bodies to dst, each as one line, and returns where in dst
// each accepted one ends. A body that would make other than one line is
// refused.
func lines(dst []byte, batch []sinks.Message) (text []byte, ends []line, refused map[int]error) {
	refused = map[int]error{}
	for i := range batch {
		body := batch[i].Body
		switch {
		case len(body) == 0:
			refused[i] = sinks.Poison(errors.New("empty body: it would be an empty line"))
		case bytes.IndexByte(body, '\n') >= 0:
			refused[i] = sinks.Poison(errors.New("line break in the body: it would be read as several records"))
		default:
			dst = append(append(dst, body...), '\n')
			ends = append(ends, line{index: i, end: len(dst)})
		}
	}
	return dst, ends, refused
}

// A line is where the line of a record ends.
type line struct {
	index int // into the batch
	end   int // into the text
}

// partial returns the error for failures of some records, nil when there are
// none.
func partial(failed map[int]error) error {
	if len(failed) == 0 {
		return nil
	}
	return &sinks.PartialError{Failed: failed}
}

// begin checks the context, for sinks that cannot be interrupted.
func begin(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	return nil
}

// room returns an empty buffer with room for the batch's lines: buf, unless it
// is too small or far too large.
func room(buf []byte, batch []sinks.Message) []byte {
	const waste = 8 << 20
	need := 1
	for i := range batch {
		need += len(batch[i].Body) + 1
	}
	if cap(buf) > need+waste {
		buf = nil
	}
	return slices.Grow(buf[:0], need)
}
