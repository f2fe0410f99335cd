package format

import (
	"net/url"
	"strings"
	"testing"
	"time"
)

// What is taken for a link at a glance is one to package url too.
func FuzzSimpleLink(f *testing.F) {
	for _, text := range []string{
		"https://docs.example.com/linux", "http://a", "https://", "https:///x", "https://./", "https://-_.", "http://host//x/", "https://h:80/", "https://u@h/", "https://[::1]/", "https://h/%zz",
	} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if !isSimpleLink(text) {
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || strings.TrimSpace(text) != text {
			t.Errorf("%q is taken for a link: %v, %v", text, u, err)
		}
	})
}

func TestMillisAreThoseOfTheLayout(t *testing.T) {
	for _, at := range []time.Time{
		{},
		time.Unix(0, 0), time.Unix(1795804255, 999_999_999), time.Unix(1795804255, 7_000_000), time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(-1, 1, 1, 0, 0, 0, 0, time.UTC), time.Date(2026, 3, 4, 5, 6, 7, 89e6, time.FixedZone("", 8*3600)),
	} {
		if got, want := string(appendMillis(nil, at)), at.UTC().Format(millis); got != want {
			t.Errorf("%v is %s, want %s", at, got, want)
		}
	}
}
