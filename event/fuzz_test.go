package event_test

import (
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// FuzzParseTime reads times of the API: what is read can be told again.
func FuzzParseTime(f *testing.F) {
	for _, text := range []string{"2026-11-01 10:00:00", "2026-11-01T10:00:00+08:00", "", "0000-00-00 00:00:00", "1793500000", "2026-11-01 25:61:61", "2026-13-45"} {
		f.Add(text)
	}
	zone, err := time.LoadLocation("Asia/Shanghai")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text string) {
		at, ok := event.ParseTime(text, zone)
		if !ok {
			return
		}
		again, ok := event.ParseTime(at.In(zone).Format(time.DateTime), zone)
		if at.Year() > 0 && at.Year() < 9999 && (!ok || again.Unix() != at.Unix()) {
			t.Errorf("%q is %v, and that is %v, %t", text, at, again, ok)
		}
	})
}
