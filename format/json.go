package format

import (
	"math/bits"
	"net/netip"
	"strconv"
	"time"
	"unicode/utf8"
)

// millis is RFC 3339 in UTC with milliseconds.
const millis = "2006-01-02T15:04:05.000Z"

// A writer appends JSON without reflection. Members appear in the order of the
// calls. The methods that take a value leave the member out when the value is
// empty, so that optional fields need no condition at the caller.
type writer struct{ b []byte }

// comma separates a value from the one before it.
func (w *writer) comma() {
	if c := w.b[len(w.b)-1]; c != '{' && c != '[' {
		w.b = append(w.b, ',')
	}
}

// key begins a member. Keys are constants that need no escapes.
func (w *writer) key(k string) {
	b := w.b
	if c := b[len(b)-1]; c != '{' && c != '[' {
		b = append(b, ',', '"')
	} else {
		b = append(b, '"')
	}
	b = append(b, k...)
	b = append(b, '"', ':')
	w.b = b
}

// open begins an object as a member and returns what close needs.
func (w *writer) open(k string) (start int) {
	start = len(w.b)
	w.key(k)
	w.b = append(w.b, '{')
	return start
}

// close ends the object, or removes it when it has no member.
func (w *writer) close(start int) {
	if w.b[len(w.b)-1] == '{' {
		w.b = w.b[:start]
		return
	}
	w.b = append(w.b, '}')
}

// raw writes a member whose value is JSON already.
func (w *writer) raw(k, v string) {
	w.key(k)
	w.b = append(w.b, v...)
}

func (w *writer) str(k, v string) {
	if v == "" {
		return
	}
	w.key(k)
	w.b = appendString(w.b, v)
}

func (w *writer) addr(k string, v netip.Addr) {
	if !v.IsValid() {
		return
	}
	w.key(k)
	w.b = append(v.AppendTo(append(w.b, '"')), '"')
}

// kept writes a text, of which something may be kept.
func (w *writer) kept(k, v string, kept *keptText) {
	if kept != nil && v != "" {
		w.raw(k, kept.json)
		return
	}
	w.str(k, v)
}

func (w *writer) strs(k string, v []string) {
	if len(v) == 0 {
		return
	}
	w.key(k)
	w.b = append(w.b, '[')
	for _, s := range v {
		w.comma()
		w.b = appendString(w.b, s)
	}
	w.b = append(w.b, ']')
}

func (w *writer) num(k string, v Int) {
	if v.Valid {
		w.int(k, v.Value)
	}
}

func (w *writer) int(k string, v int64) {
	w.key(k)
	w.b = strconv.AppendInt(w.b, v, 10)
}

func (w *writer) uint(k string, v uint64) {
	w.key(k)
	w.b = strconv.AppendUint(w.b, v, 10)
}

func (w *writer) bool(k string, v bool) {
	w.key(k)
	w.b = strconv.AppendBool(w.b, v)
}

func (w *writer) time(k string, t time.Time) {
	if t.IsZero() {
		return
	}
	w.key(k)
	w.b = append(w.b, '"')
	w.b = appendMillis(w.b, t)
	w.b = append(w.b, '"')
}

// appendMillis appends a time in the layout millis.
func appendMillis(dst []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	if year < 0 || year > 9999 {
		return t.AppendFormat(dst, millis)
	}
	hour, minute, second := t.Clock()
	two := func(n int) (tens, ones byte) { return "0123456789"[n/10], "0123456789"[n%10] }
	y1, y2 := two(year / 100)
	y3, y4 := two(year % 100)
	mo1, mo2 := two(int(month))
	d1, d2 := two(day)
	h1, h2 := two(hour)
	mi1, mi2 := two(minute)
	s1, s2 := two(second)
	ms1, ms2 := two(t.Nanosecond() / 1e7)
	_, ms3 := two(t.Nanosecond() / 1e6 % 100)
	return append(dst, y1, y2, y3, y4, '-', mo1, mo2, '-', d1, d2, 'T', h1, h2, ':', mi1, mi2, ':', s1, s2,
		'.', ms1, ms2, ms3, 'Z')
}

// appendString appends s as a JSON string on one line, whatever reads it:
// controls, DEL, the C1 controls (U+0085 is a line break to some) and the
// separators U+2028 and U+2029 are escaped, HTML is not. What is not UTF-8
// becomes U+FFFD, and so does NUL, which some destinations refuse.
func appendString(dst []byte, s string) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		if i = plainEnd(s, i); i == len(s) {
			break
		}
		c := s[i]
		if c < utf8.RuneSelf {
			dst = append(dst, s[start:i]...)
			dst = appendEscape(dst, c)
			i++
			start = i
			continue
		}
		if end := wideEnd(s, i); end > i {
			i = end
			continue
		}
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && size == 1:
			dst = append(dst, s[start:i]...)
			dst = append(dst, "\uFFFD"...)
			start = i + size
		case r < 0xA0 || r == '\u2028' || r == '\u2029':
			dst = append(dst, s[start:i]...)
			dst = appendHex4(dst, r)
			start = i + size
		}
		i += size
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"')
}

// wideEnd returns the index after characters of three bytes, from i on, that
// stand in a JSON string as they are: what East Asian text mostly is. Of those
// that begin with 0xE0, 0xE2 or 0xED some must be looked at.
func wideEnd(s string, i int) int {
	for i+3 <= len(s) && s[i]&0xF0 == 0xE0 && s[i] != 0xE0 && s[i] != 0xE2 && s[i] != 0xED && s[i+1]&0xC0 == 0x80 && s[i+2]&0xC0 == 0x80 {
		i += 3
	}
	return i
}

// plainEnd returns the index after characters of s that stand in a JSON string
// as they are, from i on, to the first that does not, eight at a time.
func plainEnd(s string, i int) int {
	for ; i+8 <= len(s); i += 8 {
		if m := marked(eight(s, i)); m != 0 {
			return i + bits.TrailingZeros64(m)/8
		}
	}
	switch {
	case i == len(s):
	case len(s) >= 8: // the last eight, of which those before i do not count
		from := len(s) - 8
		before := uint64(1)<<(8*(i-from)) - 1
		if m := marked(eight(s, from)&^before | 'x'*lowBits&before); m != 0 {
			return from + bits.TrailingZeros64(m)/8
		}
	default:
		for ; i < len(s); i++ {
			if c := s[i]; c < ' ' || c >= 0x7F || c == '"' || c == '\\' {
				return i
			}
		}
	}
	return len(s)
}

const lowBits, highBits = 0x0101010101010101, 0x8080808080808080

func eight[T text](s T, i int) uint64 {
	b := s[i : i+8]
	return uint64(b[0]) | uint64(b[1])<<8 | uint64(b[2])<<16 | uint64(b[3])<<24 |
		uint64(b[4])<<32 | uint64(b[5])<<40 | uint64(b[6])<<48 | uint64(b[7])<<56
}

// marked looks at eight bytes: the lowest bit that is set is the highest one of
// the first byte that is a quote, a backslash, a control, DEL, or not ASCII (a
// borrow or carry disturbs only bytes behind it).
func marked(x uint64) uint64 {
	quote, slash := x^('"'*lowBits), x^('\\'*lowBits)
	return (x | (x + lowBits) | (quote-lowBits)&^quote | (slash-lowBits)&^slash | (x-' '*lowBits)&^x) & highBits
}

// appendEscape appends an ASCII character that may not stand in a string.
func appendEscape(dst []byte, c byte) []byte {
	switch c {
	case 0:
		return append(dst, "\uFFFD"...)
	case '"', '\\':
		return append(dst, '\\', c)
	case '\n':
		return append(dst, '\\', 'n')
	case '\r':
		return append(dst, '\\', 'r')
	case '\t':
		return append(dst, '\\', 't')
	default:
		return appendHex4(dst, rune(c))
	}
}

// appendHex4 appends \uXXXX for a character of the basic plane.
func appendHex4(dst []byte, r rune) []byte {
	const hex = "0123456789abcdef"
	return append(dst, '\\', 'u', hex[r>>12&0xF], hex[r>>8&0xF], hex[r>>4&0xF], hex[r&0xF])
}
