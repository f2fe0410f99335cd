package main

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/event"
)

// A list is the events that the API shows. It holds a few hundred templates and
// fills in what differs, so that a page costs a copy and a list of ten million
// events some bytes for each.
type list struct {
	templates []template
	starts    []int64 // second of each event, ascending; several share one

	shown  int       // the first events are there from the beginning
	coming time.Time // when the others begin to come, perSecond of them a second
}

// perSecond is how many events come in a second where they come.
const perSecond = 100

// visible is how many events are there.
func (l *list) visible(now time.Time) int {
	if l.coming.IsZero() || now.Before(l.coming) {
		return l.shown
	}
	return min(len(l.starts), l.shown+int(now.Sub(l.coming)*perSecond/time.Second))
}

// came is when an event came.
func (l *list) came(i int) time.Time {
	return l.coming.Add(time.Duration(i-l.shown+1) * time.Second / perSecond)
}

// detectAfter is how long after its start an event is detected, in seconds.
const detectAfter = 30

// come lets the events that are not shown yet come from a moment on, each in
// the second of its detection.
func (l *list) come(from time.Time) {
	for i := l.shown; i < len(l.starts); i++ {
		l.starts[i] = from.Unix() + int64((i-l.shown)/perSecond) - detectAfter
	}
	l.coming = from
}

// A template is a record in pieces: between them stand, in this order, the
// holes of holes.
type template struct {
	pieces [5][]byte
	holes  [4]hole
}

// A hole is what is filled in.
type hole byte

const (
	holeID hole = iota
	holeStart
	holeDetect
	holeStatus
)

// firstID is the id of the first event; all have fifteen digits.
const firstID = 202443000000000

// distinct is how many records differ in more than what is filled in. At about
// 1.4 KB each they are far more than a compressor looks back.
const distinct = 2000

// newList makes a list of so many events over the last sixty days, as an
// emulation of the API would show them. About a third of them share their
// second with another one.
func newList(ctx context.Context, events int) (*list, error) {
	now := time.Now().Truncate(time.Second)
	l := &list{starts: make([]int64, events), shown: events}
	world := &emulator.Lister{World: emulator.NewWorld(1, distinct, now)}
	for offset := 0; offset < distinct; offset += 100 {
		page, err := world.List(ctx, cwp.Query{Sort: cwp.BySweepTime, Offset: offset, Limit: 100})
		if err != nil {
			return nil, fmt.Errorf("make records: %w", err)
		}
		for _, item := range page.Items {
			if t, ok := newTemplate(item.Raw); ok {
				l.templates = append(l.templates, t)
			}
		}
	}
	if len(l.templates) == 0 {
		return nil, fmt.Errorf("make records: none has the expected fields")
	}
	// Of each ten events, three groups of two share a second.
	const span = 60 * 24 * 3600
	seconds := int64(events)*7/10 + 1
	end := now.Unix() - 3600
	for i := range l.starts {
		group := int64(i/10*7) + [10]int64{0, 0, 1, 2, 3, 3, 4, 5, 5, 6}[i%10]
		l.starts[i] = end - (seconds-group)*max(span/seconds, 1)
	}
	return l, nil
}

// newTemplate cuts a record at what is filled in. It is false for one that
// lacks a time: such records are few, and the others show what is measured.
func newTemplate(raw []byte) (template, bool) {
	type cut struct {
		at, end int
		hole    hole
	}
	var cuts []cut
	for h, name := range []string{"EventId", "StartTime", "DetectTime", "HandleStatus"} {
		key := []byte(`"` + name + `":`)
		at := bytes.Index(raw, key)
		if at < 0 {
			return template{}, false
		}
		at += len(key)
		end := at + bytes.IndexAny(raw[at:], ",}")
		if hole(h) == holeStart || hole(h) == holeDetect {
			if end = at + 1 + len(event.WallLayout) + 1; end > len(raw) || raw[at] != '"' || raw[end-1] != '"' {
				return template{}, false
			}
			at, end = at+1, end-1
		}
		cuts = append(cuts, cut{at, end, hole(h)})
	}
	slices.SortFunc(cuts, func(a, b cut) int { return a.at - b.at })
	var t template
	from := 0
	for i, c := range cuts {
		t.pieces[i], t.holes[i] = raw[from:c.at], c.hole
		from = c.end
	}
	t.pieces[len(cuts)] = raw[from:]
	return t, true
}

// size is the mean length of a record.
func (l *list) size() int {
	total := 0
	for i := range l.templates {
		total += len(l.templates[i].append(nil, 0, 0, 0))
	}
	return total / len(l.templates)
}

// append appends event i as the API shows it.
func (l *list) append(dst []byte, i int, status byte) []byte {
	return l.templates[i%len(l.templates)].append(dst, firstID+int64(i), l.starts[i], status)
}

func (t *template) append(dst []byte, id, start int64, status byte) []byte {
	for i, h := range t.holes {
		dst = append(dst, t.pieces[i]...)
		switch h {
		case holeID:
			dst = strconv.AppendInt(dst, id, 10)
		case holeStart:
			dst = appendWall(dst, start)
		case holeDetect:
			dst = appendWall(dst, start+detectAfter)
		case holeStatus:
			dst = append(dst, '0'+status)
		}
	}
	return append(dst, t.pieces[len(t.pieces)-1]...)
}

// The API's wall times are eight hours ahead of UTC.
const zone = 8 * 3600

func appendWall(dst []byte, second int64) []byte {
	return time.Unix(second+zone, 0).UTC().AppendFormat(dst, event.WallLayout)
}

// wallSecond reads a wall time; false when it is none.
func wallSecond(text string) (int64, bool) {
	t, err := time.Parse(event.WallLayout, text)
	return t.Unix() - zone, err == nil
}

// between returns the events that start from begin to end, both included, as
// an index and the index after the last.
func (l *list) between(begin, end int64) (from, to int) {
	from = sort.Search(len(l.starts), func(i int) bool { return l.starts[i] >= begin })
	to = sort.Search(len(l.starts), func(i int) bool { return l.starts[i] > end })
	to = min(to, l.visible(time.Now()))
	return min(from, to), to
}
