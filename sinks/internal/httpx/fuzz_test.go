package httpx_test

import (
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// FuzzRetryAfter holds that no destination makes us wait for ever, or not at
// all where it asked.
func FuzzRetryAfter(f *testing.F) {
	for _, text := range []string{"120", "-1", "99999999999999999999", "Fri, 27 Nov 2026 20:00:00 GMT", "", "1.5", "0x10", " 7 "} {
		f.Add(text)
	}
	now := time.Unix(1_793_500_000, 0)
	f.Fuzz(func(t *testing.T, text string) {
		if d := httpx.ParseRetryAfter(text, now); d < 0 || d > httpx.MaxRetryAfter {
			t.Errorf("%q is %v", text, d)
		}
	})
}
