package format_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/format"
)

// The scanner takes what encoding/json takes, and reads strings as it does.
func FuzzScannerAgreesWithTheLibrary(f *testing.F) {
	for _, s := range []string{
		`{}`, `[]`, `null`, ` {"a" : [1, -0.5e+7, true,false , "x\u00e9\ud83d\udda5\n"] } `, `{"a":{"b":{}}}`, "{\"a\":\"\x1f\"}", "\"1234567\x1f1234567890\"", `01`, `-`, `1.`,
		`1e`, `"\x"`, `"\u12g4"`, `{"a":1,}`, `[1,]`, `{"a"}`, `nul`, `"`, `"\`, `"\u12`, "\"\xff\"", `"\ud800"`, `"\ud800\u0041"`, `""x`, `+1`, ``, ` `,
		strings.Repeat("[", 10001) + strings.Repeat("]", 10001), strings.Repeat("[", 10000) + strings.Repeat("]", 10000),
		`"long string with eight bytes and more\n\\\"` + "\x7f\u0080" + `"`,
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if got, want := format.ValidJSON([]byte(s)), json.Valid([]byte(s)); got != want {
			t.Fatalf("%q: valid %v, want %v", s, got, want)
		}
		var want string
		if json.Unmarshal([]byte(s), &want) != nil || !strings.HasPrefix(s, `"`) || !strings.HasSuffix(s, `"`) {
			return
		}
		// Runs of invalid bytes may become one U+FFFD or several.
		squeeze := func(s string) string {
			for strings.Contains(s, "\uFFFD\uFFFD") {
				s = strings.ReplaceAll(s, "\uFFFD\uFFFD", "\uFFFD")
			}
			return s
		}
		if got := format.Unquote(s); squeeze(got) != squeeze(want) || !utf8.ValidString(got) {
			t.Fatalf("%q: %q, want %q", s, got, want)
		}
	})
}

func TestIntegers(t *testing.T) {
	tests := map[string]format.Int{
		"0": {Value: 0, Valid: true}, "-7": {Value: -7, Valid: true}, `"24"`: {Value: 24, Valid: true},
		"9223372036854775807": {Value: 9223372036854775807, Valid: true}, "9007199254740993": {Value: 9007199254740993, Valid: true},
		"9223372036854775808": {}, "1.0": {}, "1e3": {}, "-0": {}, `"+5"`: {}, `"007"`: {}, `""`: {}, `" 1"`: {}, "null": {}, "true": {}, "[1]": {}, "{}": {},
	}
	for in, want := range tests {
		if got := format.IntOf(in); got.Valid != want.Valid || got.Valid && got.Value != want.Value {
			t.Errorf("%s: %v, want %v", in, got, want)
		}
	}
}

func TestLists(t *testing.T) {
	tests := map[string][]string{
		`["a","b"]`: {"a", "b"}, `[]`: nil, `null`: nil, `"a"`: {"a"}, `""`: nil, `[1,null,"",true]`: {"1", "true"},
		`[["a", 1],{"b" : 2}]`: {`["a",1]`, `{"b":2}`}, `7`: {"7"}, `{"a":1}`: {`{"a":1}`},
	}
	for in, want := range tests {
		if diff := cmp.Diff(want, format.ListOf(in)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", in, diff)
		}
	}
}
