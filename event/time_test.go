package event_test

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata"

	"github.com/cwprelay/cwprelay/event"
)

// The forms and the oddities of the vendor's published examples.
func TestParseTime(t *testing.T) {
	tests := map[string]struct {
		text string
		want string // in UTC; empty: no time
		wall string // in the zone, as WallTime gives it
	}{
		"wall time":             {"2026-09-17 10:15:30", "2026-09-17T02:15:30Z", "2026-09-17 10:15:30"},
		"spaces":                {" 2026-09-17 10:15:30 ", "2026-09-17T02:15:30Z", "2026-09-17 10:15:30"},
		"RFC 3339":              {"2026-09-17T11:22:33+08:00", "2026-09-17T03:22:33Z", "2026-09-17 11:22:33"},
		"RFC 3339 in UTC":       {"2026-09-17T23:22:33Z", "2026-09-17T23:22:33Z", "2026-09-18 07:22:33"},
		"empty":                 {"", "", ""},
		"space":                 {" ", "", ""},
		"year 1":                {"0001-01-01 00:00:00", "", ""},
		"year 0":                {"0000-00-00 00:00:00", "", ""},
		"Go's zero in Shanghai": {"0001-01-01T08:05:43+08:05", "", ""},
		"epoch":                 {"1970-01-01T08:00:00+08:00", "", ""},
		"epoch as wall time":    {"1970-01-01 08:00:00", "", ""},
		"damaged":               {"2020-11-11 :00:00:00", "", ""},
		"no such day":           {"2026-02-30 10:00:00", "", ""},
		"no such hour":          {"2026-02-03 25:00:00", "", ""},
		"date alone":            {"2026-02-03", "", ""},
		"number":                {"1789611330", "", ""},
		"words":                 {"none", "", ""},
	}
	loc, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			got, ok := event.ParseTime(tt.text, loc)
			if ok != (tt.want != "") || ok && got.UTC().Format(time.RFC3339) != tt.want {
				t.Errorf("%q: %v, %v; want %s", tt.text, got, ok, tt.want)
			}
			wall, ok := event.WallTime(tt.text, loc)
			if ok != (tt.wall != "") || wall != tt.wall {
				t.Errorf("%q: %q, %v; want %q", tt.text, wall, ok, tt.wall)
			}
		})
	}
}

// Times compare as text once they are in one form and zone.
func TestWallTimesCompareAsText(t *testing.T) {
	loc := time.FixedZone("", 8*60*60)
	in := []string{"2026-09-17 10:15:30", "2026-09-17T02:15:31Z", " 2026-09-17 10:15:32", "2026-09-17T10:15:33+08:00"}
	last := ""
	for _, text := range in {
		wall, ok := event.WallTime(text, loc)
		if !ok || wall <= last {
			t.Errorf("%q gives %q after %q", text, wall, last)
		}
		last = wall
	}
}

// What is read digit by digit is what package time reads.
func FuzzWallTime(f *testing.F) {
	for _, text := range []string{
		"2026-11-27 18:30:55", "2024-02-29 00:00:00", "2023-02-29 00:00:00", "2026-04-31 10:00:00", "1970-01-01 08:00:00", "1971-01-01 00:00:00",
		"2026-13-01 00:00:00", "2026-00-01 00:00:00", "2026-01-00 00:00:00", "2026-01-01 24:00:00", "2026-01-01 00:60:00", "2026-01-01 00:00:60",
		"2026-03-29 02:30:00", "2026-10-25 02:30:00", "2026-11-27T18:30:55", "2026-11-27 18:30: 5", "9999-12-31 23:59:59", "0001-01-01 00:00:00",
	} {
		f.Add(text)
	}
	var zones []*time.Location
	for _, name := range []string{"Asia/Shanghai", "UTC", "Europe/Berlin", "America/St_Johns"} {
		loc, err := time.LoadLocation(name)
		if err != nil {
			f.Fatal(err)
		}
		zones = append(zones, loc)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) != len(event.WallLayout) {
			return
		}
		for _, loc := range zones {
			got, ok := event.ParseTime(text, loc)
			want, err := time.ParseInLocation(event.WallLayout, strings.TrimSpace(text), loc)
			if ok && (err != nil || !got.Equal(want)) {
				t.Errorf("%q in %s is %v, want %v, %v", text, loc, got, want, err)
			}
			if !ok && err == nil && want.Year() > 1970 {
				t.Errorf("%q in %s is not read, want %v", text, loc, want)
			}
		}
	})
}
