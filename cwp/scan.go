package cwp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"math/bits"
	"slices"
	"strings"
	"unicode/utf8"
)

// The scanner reads JSON text in one pass without building values: it checks
// the grammar, finds where values end and leaves the text where it is. It
// accepts exactly what encoding/json accepts; a fuzz test holds the two
// together.
//
// Why not a library: encoding/json alone needs about as long to check a page
// as the rest of the program to carry it, and the check of tidwall/gjson calls
// itself for each level of nesting without a bound, so that sixteen megabytes
// of opening brackets end the process.

// maxDepth is encoding/json's own bound on nesting.
const maxDepth = 10000

// skipSpace returns the index of the first byte at or after i that is not
// white space.
func skipSpace(b []byte, i int) int {
	for i < len(b) && (b[i] == ' ' || b[i] == '\n' || b[i] == '\t' || b[i] == '\r') {
		i++
	}
	return i
}

// skipValue returns the index after the value that begins at i, -1 when there
// is none.
func skipValue(b []byte, i, depth int) int {
	if i < 0 || i >= len(b) {
		return -1
	}
	switch b[i] {
	case '"':
		return skipString(b, i)
	case '{':
		return walkObject(b, i, depth, nil)
	case '[':
		return walkArray(b, i, depth, nil)
	case 't':
		return skipWord(b, i, "true")
	case 'f':
		return skipWord(b, i, "false")
	case 'n':
		return skipWord(b, i, "null")
	default:
		return skipNumber(b, i)
	}
}

func skipWord(b []byte, i int, word string) int {
	if end := i + len(word); end <= len(b) && string(b[i:end]) == word {
		return end
	}
	return -1
}

func skipString(b []byte, i int) int {
	for i++; i < len(b); i++ {
		if i = skipPlain(b, i); i == len(b) {
			return -1
		}
		switch c := b[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return -1
		case c == '\\':
			i++
			if i == len(b) {
				return -1
			}
			if b[i] == 'u' {
				if i+4 >= len(b) || slices.ContainsFunc(b[i+1:i+5], notHex) {
					return -1
				}
				i += 4
			} else if strings.IndexByte(`"\/bfnrt`, b[i]) < 0 {
				return -1
			}
		}
	}
	return -1
}

// skipPlain moves over characters of a string that mean themselves, eight at a
// time, to the first that does not; it may stop early near the end of b.
func skipPlain(b []byte, i int) int {
	const low, high = 0x0101010101010101, 0x8080808080808080
	for i+8 <= len(b) {
		x := binary.LittleEndian.Uint64(b[i:])
		quote, slash := x^('"'*low), x^('\\'*low)
		// The lowest high bit is that of the first byte that is a quote, a
		// backslash or a control (a borrow disturbs only bytes behind it). Bytes
		// above 0x7F never set theirs (&^ x).
		if m := ((quote-low)&^quote | (slash-low)&^slash | (x-' '*low)&^x) & high; m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
		i += 8
	}
	return i
}

func notHex(c byte) bool {
	return (c < '0' || c > '9') && (c < 'a' || c > 'f') && (c < 'A' || c > 'F')
}

func skipNumber(b []byte, i int) int {
	if i < len(b) && b[i] == '-' {
		i++
	}
	switch {
	case i < len(b) && b[i] == '0':
		i++
	default:
		if i = skipDigits(b, i); i < 0 {
			return -1
		}
	}
	if i < len(b) && b[i] == '.' {
		if i = skipDigits(b, i+1); i < 0 {
			return -1
		}
	}
	if i < len(b) && (b[i] == 'e' || b[i] == 'E') {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		return skipDigits(b, i)
	}
	return i
}

// skipDigits needs at least one.
func skipDigits(b []byte, i int) int {
	start := i
	for i < len(b) && b[i] >= '0' && b[i] <= '9' {
		i++
	}
	if i == start {
		return -1
	}
	return i
}

// A visit looks at a member or element: its key, quotes included (nil in an
// array), and where its value begins. It returns the index after the value, or
// -1 to refuse it; most end with skipValue.
type visit func(key []byte, at, depth int) int

// walkObject reads the object that begins at i and returns the index after it,
// -1 when it is not one.
func walkObject(b []byte, i, depth int, each visit) int {
	if depth++; depth > maxDepth {
		return -1
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == '}' {
		return i + 1
	}
	for i < len(b) && b[i] == '"' {
		key := i
		if i = skipString(b, i); i < 0 {
			return -1
		}
		name := b[key:i]
		if i = skipSpace(b, i); i == len(b) || b[i] != ':' {
			return -1
		}
		i = skipSpace(b, i+1)
		if each == nil {
			i = skipValue(b, i, depth)
		} else {
			i = each(name, i, depth)
		}
		if i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		switch {
		case i < len(b) && b[i] == '}':
			return i + 1
		case i == len(b) || b[i] != ',':
			return -1
		}
		i = skipSpace(b, i+1)
	}
	return -1
}

// walkArray reads the array that begins at i and returns the index after it,
// -1 when it is not one.
func walkArray(b []byte, i, depth int, each visit) int {
	if depth++; depth > maxDepth {
		return -1
	}
	i = skipSpace(b, i+1)
	if i < len(b) && b[i] == ']' {
		return i + 1
	}
	for i < len(b) {
		if each == nil {
			i = skipValue(b, i, depth)
		} else {
			i = each(nil, i, depth)
		}
		if i < 0 {
			return -1
		}
		i = skipSpace(b, i)
		switch {
		case i < len(b) && b[i] == ']':
			return i + 1
		case i == len(b) || b[i] != ',':
			return -1
		}
		i = skipSpace(b, i+1)
	}
	return -1
}

// members calls each with the members of the object that text is, in order,
// and reports whether text is JSON. A text that is JSON but no object has no
// members.
func members(text []byte, each func(key, value []byte)) bool {
	i := skipSpace(text, 0)
	if i < len(text) && text[i] == '{' {
		i = walkObject(text, i, 0, func(key []byte, at, depth int) int {
			end := skipValue(text, at, depth)
			if end >= 0 {
				each(key, text[at:end])
			}
			return end
		})
	} else {
		i = skipValue(text, i, 0)
	}
	return i >= 0 && skipSpace(text, i) == len(text)
}

// keyIs compares a key as it stands in the text with a plain name.
func keyIs(key []byte, name string) bool { return string(keyName(key)) == name }

// keyName is what a key as it stands in the text means.
func keyName(key []byte) []byte {
	if bytes.IndexByte(key, '\\') < 0 {
		return key[1 : len(key)-1]
	}
	return []byte(stringOf(key))
}

// stringOf is the text of a JSON string, "" of anything else. What is not
// UTF-8 becomes U+FFFD.
func stringOf(value []byte) string {
	if len(value) < 2 || value[0] != '"' {
		return ""
	}
	if inner := value[1 : len(value)-1]; isPlain(inner) || isText(inner) {
		return string(inner)
	}
	var s string
	if json.Unmarshal(value, &s) != nil {
		return ""
	}
	return s
}

// isPlain reports whether what stands between quotes is printable ASCII
// without escapes: then it is its own value, and the same in canonical JSON.
func isPlain[T string | []byte](inner T) bool {
	for i := range len(inner) {
		if c := inner[i]; c < ' ' || c > '~' || c == '\\' || c == '"' {
			return false
		}
	}
	return true
}

// isText reports whether what stands between quotes is UTF-8 without escapes
// and controls: then it is its own value.
func isText(inner []byte) bool {
	for _, c := range inner {
		if c < ' ' || c == '\\' || c == '"' {
			return false
		}
	}
	return utf8.Valid(inner)
}

// integerOf is the decimal text of a JSON number that is a whole number,
// however it is written: "24" for 24, 24.0 and 2.4e1. It is exact at any size
// and false for a fraction, for what is no number, and for more than maxDigits
// digits: 1e999999999 is not written out.
func integerOf(value []byte) (string, bool) {
	const maxDigits = 40
	if len(value) == 0 || value[0] != '-' && (value[0] < '0' || value[0] > '9') {
		return "", false
	}
	if isInteger(value) {
		text := digitText(value)
		if text == "-0" {
			text = "0"
		}
		return text, len(text) <= maxDigits
	}
	text, negative := strings.CutPrefix(string(value), "-")
	mantissa, exponent, _ := strings.Cut(strings.ToLower(text), "e")
	whole, fraction, _ := strings.Cut(mantissa, ".")
	shift, ok := smallInt(exponent)
	if !ok {
		return "", false
	}
	digits := whole + fraction
	point := len(whole) + shift // digits[:point] is the whole part
	switch {
	case strings.Trim(digits, "0") == "":
		return "0", true
	case point > maxDigits || point <= 0:
		return "", false
	case point < len(digits):
		if strings.Trim(digits[point:], "0") != "" {
			return "", false
		}
		digits = digits[:point]
	default:
		digits += strings.Repeat("0", point-len(digits))
	}
	digits = strings.TrimLeft(digits, "0")
	if negative {
		digits = "-" + digits
	}
	return digits, true
}

// isInteger reports whether a JSON number is written without fraction and
// exponent.
func isInteger(value []byte) bool {
	for _, c := range value {
		if c == '.' || c == 'e' || c == 'E' {
			return false
		}
	}
	return true
}

// digitText is a number's text; the statuses, which every event bears, are not
// made anew for each.
func digitText(value []byte) string {
	const digits = "0123456789"
	if len(value) == 1 && value[0] >= '0' && value[0] <= '9' {
		return digits[value[0]-'0' : value[0]-'0'+1]
	}
	return string(value)
}

// smallInt reads an exponent; false when it is beyond any use.
func smallInt(text string) (int, bool) {
	sign := 1
	if rest, ok := strings.CutPrefix(text, "-"); ok {
		sign, text = -1, rest
	}
	text = strings.TrimLeft(strings.TrimPrefix(text, "+"), "0")
	if len(text) > 6 {
		return 0, false
	}
	n := 0
	for _, c := range text {
		n = 10*n + int(c-'0')
	}
	return sign * n, true
}
