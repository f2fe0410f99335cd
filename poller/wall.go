package poller

import (
	"math"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// Sweeps compare and slice the API's wall times. They are reckoned as if they
// were UTC, so that the next second is always one more; a zone's jumps change
// nothing about their order as text, which is the API's.

// noTime is the wall second of an item whose sweep time is null, empty or
// unreadable.
const noTime = math.MinInt64

// endOfTime is later than every wall second that the API can show.
const endOfTime = math.MaxInt64

// The outermost wall seconds that slices are cut from: what the API shows
// before or after them is no time at all.
const (
	firstSecond = 0            // 1970-01-01 00:00:00
	lastSecond  = 253402300799 // 9999-12-31 23:59:59
)

// wallSecond reads a time of the API, noTime when there is none.
func wallSecond(text string, loc *time.Location) int64 {
	t, ok := event.ParseTime(text, loc)
	if !ok {
		return noTime
	}
	_, offset := t.In(loc).Zone()
	if second := t.Unix() + int64(offset); second <= lastSecond {
		return second
	}
	return noTime
}

// wallText writes a wall second as the API's own text.
func wallText(second int64) string {
	return time.Unix(min(max(second, firstSecond), lastSecond), 0).UTC().Format(event.WallLayout)
}
