package format

import (
	"bytes"
	"encoding/json"
	"math/bits"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// A scanner walks over JSON text without building values. It is as strict as
// encoding/json, except that it matches keys exactly (the vendor has WanIp and
// WanIP) and takes strings that are not UTF-8. Every method returns false at
// the first mistake; the scanner is of no use after that.
type scanner[T text] struct {
	s T
	i int
}

// text is what a scanner walks over, so that neither has to be copied.
type text interface{ string | []byte }

// maxDepth bounds nesting, as encoding/json does.
const maxDepth = 10000

// validJSON reports whether s is one JSON value.
func validJSON[T text](s T) bool {
	p := scanner[T]{s: s}
	_, ok := p.value(0)
	return ok && p.end()
}

// members calls visit for each member of the object s, with the key as it
// stands between its quotes and the value as JSON text. Of a key that occurs
// twice the later call counts. What is no object has no members.
func members(s string, visit func(key, value string)) {
	p := scanner[string]{s: s}
	p.space()
	p.object(0, visit)
}

// elements calls visit for each element of the array s, as JSON text. It
// returns false if s is no array.
func elements(s string, visit func(value string)) bool {
	p := scanner[string]{s: s}
	p.space()
	return p.array(0, visit) && p.end()
}

func (p *scanner[T]) space() {
	for p.i < len(p.s) {
		if c := p.s[p.i]; c != ' ' && c != '\n' && c != '\t' && c != '\r' {
			return
		}
		p.i++
	}
}

// end reports whether nothing but space is left.
func (p *scanner[T]) end() bool {
	p.space()
	return p.i == len(p.s)
}

// take moves over c if it comes next.
func (p *scanner[T]) take(c byte) bool {
	if p.i < len(p.s) && p.s[p.i] == c {
		p.i++
		return true
	}
	return false
}

// value moves over one value and returns its text.
func (p *scanner[T]) value(depth int) (value T, ok bool) {
	p.space()
	start := p.i
	if p.i == len(p.s) {
		return value, false
	}
	switch p.s[p.i] {
	case '"':
		ok = p.string()
	case '{':
		ok = p.object(depth, nil)
	case '[':
		ok = p.array(depth, nil)
	case 't':
		ok = p.literal("true")
	case 'f':
		ok = p.literal("false")
	case 'n':
		ok = p.literal("null")
	default:
		ok = p.number()
	}
	return p.s[start:p.i], ok
}

func (p *scanner[T]) object(depth int, visit func(key, value T)) bool {
	if depth >= maxDepth || !p.take('{') {
		return false
	}
	p.space()
	if p.take('}') {
		return true
	}
	for {
		p.space()
		start := p.i
		if !p.string() {
			return false
		}
		key := p.s[start+1 : p.i-1]
		p.space()
		if !p.take(':') {
			return false
		}
		value, ok := p.value(depth + 1)
		if !ok {
			return false
		}
		if visit != nil {
			visit(key, value)
		}
		p.space()
		if p.take('}') {
			return true
		}
		if !p.take(',') {
			return false
		}
	}
}

func (p *scanner[T]) array(depth int, visit func(value T)) bool {
	if depth >= maxDepth || !p.take('[') {
		return false
	}
	p.space()
	if p.take(']') {
		return true
	}
	for {
		value, ok := p.value(depth + 1)
		if !ok {
			return false
		}
		if visit != nil {
			visit(value)
		}
		p.space()
		if p.take(']') {
			return true
		}
		if !p.take(',') {
			return false
		}
	}
}

// string moves over a string, quotes included. Characters that mean themselves
// are looked at eight at a time.
func (p *scanner[T]) string() bool {
	s, i := p.s, p.i
	if i == len(s) || s[i] != '"' {
		return false
	}
	for i++; i < len(s); {
		if i+8 <= len(s) {
			x := eight(s, i)
			quote, slash := x^('"'*lowBits), x^('\\'*lowBits)
			// The lowest high bit is that of the first byte that is a quote, a
			// backslash or a control (a borrow disturbs only bytes behind it). Bytes
			// above 0x7F never set theirs (&^ x).
			m := ((quote-lowBits)&^quote | (slash-lowBits)&^slash | (x-' '*lowBits)&^x) & highBits
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) / 8
		}
		switch c := s[i]; {
		case c == '"':
			p.i = i + 1
			return true
		case c == '\\':
			p.i = i
			if !p.escape() {
				return false
			}
			i = p.i
		case c < ' ':
			return false
		default:
			i++
		}
	}
	return false
}

func (p *scanner[T]) escape() bool {
	p.i++
	if p.i == len(p.s) {
		return false
	}
	switch p.s[p.i] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		p.i++
		return true
	case 'u':
		p.i++
		for range 4 {
			if !p.hex() {
				return false
			}
		}
		return true
	default:
		return false
	}
}

func (p *scanner[T]) literal(text string) bool {
	for i := range len(text) {
		if !p.take(text[i]) {
			return false
		}
	}
	return true
}

func (p *scanner[T]) number() bool {
	p.take('-')
	if !p.take('0') && !p.digits() {
		return false
	}
	if p.take('.') && !p.digits() {
		return false
	}
	if p.take('e') || p.take('E') {
		if !p.take('+') {
			p.take('-')
		}
		return p.digits()
	}
	return true
}

// digits moves over one digit or more.
func (p *scanner[T]) digits() bool {
	start := p.i
	for p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9' {
		p.i++
	}
	return p.i > start
}

// hex moves over a hexadecimal digit.
func (p *scanner[T]) hex() bool {
	if p.i == len(p.s) {
		return false
	}
	c := p.s[p.i]
	p.i++
	return c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'f'
}

// hex4 reads the four hexadecimal digits that the scanner has seen.
func hex4(s string) rune {
	n, err := strconv.ParseUint(s[:4], 16, 16)
	if err != nil {
		return 0
	}
	return rune(n)
}

// unquote returns the value of a JSON string. Surrogates without a partner and
// what is not UTF-8 become U+FFFD.
func unquote(text string) string {
	s := text[1 : len(text)-1]
	if plainEnd(s, 0) == len(s) {
		return s
	}
	i := strings.IndexByte(s, '\\')
	if i < 0 {
		return validUTF8(s)
	}
	var b strings.Builder
	b.Grow(len(s))
	b.WriteString(s[:i])
	for i < len(s) {
		if s[i] != '\\' {
			end := strings.IndexByte(s[i:], '\\')
			if end < 0 {
				end = len(s) - i
			}
			b.WriteString(s[i : i+end])
			i += end
			continue
		}
		switch e := s[i+1]; e {
		case 'u':
			r, size := unicodeEscape(s[i:])
			b.WriteRune(r)
			i += size
			continue
		case 'b':
			b.WriteByte('\b')
		case 'f':
			b.WriteByte('\f')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 't':
			b.WriteByte('\t')
		default: // a quote, backslash or slash
			b.WriteByte(e)
		}
		i += 2
	}
	return validUTF8(b.String())
}

// validUTF8 returns s with U+FFFD for what is not UTF-8.
func validUTF8(s string) string {
	if utf8.ValidString(s) { // by eight bytes at a time, where it is ASCII
		return s
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// unicodeEscape reads \uXXXX, or two of them that are a pair of surrogates,
// and returns how long they are.
func unicodeEscape(s string) (rune, int) {
	r := hex4(s[2:])
	if !utf16.IsSurrogate(r) {
		return r, 6
	}
	if len(s) >= 12 && s[6] == '\\' && s[7] == 'u' {
		second := hex4(s[8:])
		if pair := utf16.DecodeRune(r, second); pair != utf8.RuneError {
			return pair, 12
		}
	}
	return utf8.RuneError, 6
}

// An Int is an integer that may be missing.
type Int struct {
	Value int64
	Valid bool
}

// intOf reads an integer, also one in quotes. Anything else is missing: a
// fraction, an exponent, and what does not fit 64 bits.
func intOf(text string) Int {
	text = strings.Trim(text, `"`)
	digits := strings.TrimPrefix(text, "-")
	if digits == "" || digits[0] < '0' || digits[0] > '9' || digits[0] == '0' && text != "0" {
		return Int{}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	return Int{n, err == nil}
}

// textOf reads a string. Null is empty; what is no string is its JSON text on
// one line.
func textOf(text string) string {
	switch text[0] {
	case '"':
		return unquote(text)
	case 'n':
		return ""
	case '{', '[':
		b, err := compact(text)
		if err != nil {
			return ""
		}
		return strings.ToValidUTF8(b, "\uFFFD")
	default:
		return text
	}
}

// compact removes the space between tokens; strings and numbers stay as they
// are.
func compact(text string) (string, error) {
	var b bytes.Buffer
	err := json.Compact(&b, []byte(text))
	return b.String(), err
}

// listOf reads a list of strings. A value that is no list is a list of one;
// empty elements and nulls are left out.
func listOf(text string) []string {
	var few [4]string // mostly enough
	list := few[:0]
	add := func(value string) {
		if s := textOf(value); s != "" {
			list = append(list, s)
		}
	}
	if !elements(text, add) {
		add(text)
	}
	if len(list) == 0 {
		return nil
	}
	return slices.Clone(list)
}

// wordsOf reads a command line. A list of scalars is taken as its arguments,
// joined by spaces. Any other structure gives nothing: escapes in its JSON
// text would hide secrets from redaction.
func wordsOf(text string) string {
	switch text[0] {
	case '{':
		return ""
	case '[':
		var words []string
		flat := true
		elements(text, func(value string) {
			flat = flat && value[0] != '{' && value[0] != '['
			words = append(words, textOf(value))
		})
		if !flat {
			return ""
		}
		return strings.Join(words, " ")
	default:
		return textOf(text)
	}
}
