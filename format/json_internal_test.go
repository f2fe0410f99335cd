package format

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"
)

// FuzzAppendString writes texts of any bytes: on one line, and what is read back
// is the text with U+FFFD for what has no place in it.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", `a"b\c`, "实例 a\u2028b\u0085c\x7f", "é\x80\xff\xed\xa0\x80", "\x00\x1f tail of more than eight", "中\x01234567", "1234567\"", "中中中x\\y12"} {
		for pad := range 9 {
			f.Add(strings.Repeat("x", pad) + s)
			f.Add(s + strings.Repeat("x", pad))
		}
	}
	f.Fuzz(func(t *testing.T, s string) {
		text := appendString(nil, s)
		for i, r := range string(text) {
			if r < ' ' || r >= 0x7F && r < 0xA0 || r == '\u2028' || r == '\u2029' {
				t.Fatalf("%q becomes %q: %q at %d", s, text, r, i)
			}
		}
		var got string
		if err := json.Unmarshal(text, &got); err != nil || !utf8.Valid(text) {
			t.Fatalf("%q becomes %q: %v", s, text, err)
		}
		var want strings.Builder
		for _, r := range s { // byte by byte where it is not UTF-8
			if r == 0 {
				r = utf8.RuneError
			}
			want.WriteRune(r)
		}
		if got != want.String() {
			t.Errorf("%q becomes %q", s, got)
		}
	})
}
