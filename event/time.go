package event

import (
	"strings"
	"time"
)

// WallLayout is how the API writes almost all of its times: wall time without
// a zone. Times of this form compare as text.
const WallLayout = "2006-01-02 15:04:05"

// ParseTime reads a time as the API writes them. Text without a zone is wall
// time in loc. It returns false for what means "no time" (empty, year 1 or
// earlier, the first day of 1970) and for what cannot be read; nothing is ever
// guessed.
//
// The forms are those of the vendor's own published examples: wall time, RFC
// 3339 with an offset, and Go's "-0700 CST" form; leading spaces occur.
func ParseTime(text string, loc *time.Location) (time.Time, bool) {
	text = strings.TrimSpace(text)
	if w, ok := parseWall(text); ok {
		return w.in(loc), true
	}
	var t time.Time
	var err error
	switch {
	case len(text) == len(WallLayout):
		t, err = time.ParseInLocation(WallLayout, text, loc)
	case len(text) > 10 && text[10] == 'T':
		t, err = time.Parse(time.RFC3339, text)
	default:
		t, err = time.Parse("2006-01-02 15:04:05 -0700 MST", text)
	}
	if err != nil || t.Year() <= 1 {
		return time.Time{}, false
	}
	// A zero epoch shows as 1970-01-01 in UTC or in the zone it was printed in.
	if y, m, d := t.Date(); y == 1970 && m == time.January && d == 1 {
		return time.Time{}, false
	}
	return t, true
}

// WallSecond is a text in exactly WallLayout as seconds since 1970, reckoned as
// if it were UTC. It is false for everything else, and for what is before 1971.
func WallSecond(text string) (int64, bool) {
	w, ok := parseWall(text)
	return w.in(time.UTC).Unix(), ok
}

// A wall is a wall time by its parts.
type wall struct{ year, month, day, hour, minute, second int }

func (w wall) in(loc *time.Location) time.Time {
	return time.Date(w.year, time.Month(w.month), w.day, w.hour, w.minute, w.second, 0, loc)
}

// parseWall reads a wall time that begins after the year 1970, as ParseTime
// does: each event bears two. It is false for everything else.
func parseWall(text string) (w wall, ok bool) {
	if len(text) != len(WallLayout) || text[4] != '-' || text[7] != '-' || text[10] != ' ' || text[13] != ':' || text[16] != ':' {
		return w, false
	}
	ok = true
	two := func(i int) int {
		a, b := text[i]-'0', text[i+1]-'0'
		ok = ok && a <= 9 && b <= 9
		return int(a)*10 + int(b)
	}
	w = wall{two(0)*100 + two(2), two(5), two(8), two(11), two(14), two(17)}
	if !ok || w.year <= 1970 || w.month < 1 || w.month > 12 || w.day < 1 || w.day > 28 && w.day > daysIn(time.Month(w.month), w.year) ||
		w.hour > 23 || w.minute > 59 || w.second > 59 {
		return wall{}, false
	}
	return w, true
}

func daysIn(month time.Month, year int) int {
	return time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
}

// WallTime brings a time of the API to WallLayout in loc, so that two of them
// compare as text. It returns false where ParseTime does.
func WallTime(text string, loc *time.Location) (string, bool) {
	t, ok := ParseTime(text, loc)
	if !ok {
		return "", false
	}
	return t.In(loc).Format(WallLayout), true
}
