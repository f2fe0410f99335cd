package format

import (
	"strconv"
	"strings"
	"time"
)

// cutMark ends a value that was longer than its key allows.
const cutMark = "...(truncated)"

// A dialect is how a text format of keys and values writes them.
type dialect struct {
	separator byte
	escapes   bool   // a backslash stands before \ and = in values
	lineFeed  string // what stands for LF, and for CR LF
	carriage  string // what stands for a CR alone
	most      int    // bytes of a value, before escaping
}

// pairs appends keys and values in a dialect. Methods that are given an empty
// value leave the pair out, so that optional fields need no condition at the
// caller; they report whether there is a pair.
type pairs struct {
	b       []byte
	d       *dialect
	edits   *edits // what the operator changes; nil for nothing
	at      []int  // where the pairs begin; only where there are changes
	begun   bool
	scratch []byte
}

// key begins a pair.
func (p *pairs) key(k string) {
	if p.begun {
		p.b = append(p.b, p.d.separator)
	}
	p.begun = true
	if p.edits != nil {
		p.at = append(p.at, len(p.b))
	}
	p.b = append(p.b, k...)
	p.b = append(p.b, '=')
}

func (p *pairs) str(k, v string) bool { return p.capped(k, v, p.d.most) }

// capped writes a value of at most limit bytes, before escaping.
func (p *pairs) capped(k, v string, limit int) bool {
	v = strings.TrimSpace(v)
	if v == "" {
		return false
	}
	p.key(k)
	p.value(v, limit)
	return true
}

func (p *pairs) int(k string, v int64) bool {
	p.key(k)
	p.b = strconv.AppendInt(p.b, v, 10)
	return true
}

// millis writes a time in milliseconds since 1970, nothing for an earlier one.
func (p *pairs) millis(k string, t time.Time) bool {
	return t.UnixMilli() >= 0 && p.int(k, t.UnixMilli())
}

// value appends untrusted text: cleaned, cut, then escaped, so that no escape
// is cut in two.
func (p *pairs) value(s string, limit int) {
	if len(s) <= limit && p.d.isPlain(s) {
		p.b = append(p.b, s...)
		return
	}
	p.scratch = appendClean(p.scratch[:0], s, true)
	clean := p.scratch
	if len(clean) > limit {
		short, _ := cut(string(clean), limit-len(cutMark))
		clean = append(append(clean[:0], short...), cutMark...)
		p.scratch = clean
	}
	start := 0
	for i, c := range clean {
		switch {
		case c == '\n':
			p.b = append(append(p.b, clean[start:i]...), p.d.lineFeed...)
		case c == '\r':
			p.b = append(append(p.b, clean[start:i]...), p.d.carriage...)
		case p.d.isEscaped(c):
			p.b = append(append(p.b, clean[start:i]...), '\\', c)
		default:
			continue
		}
		start = i + 1
	}
	p.b = append(p.b, clean[start:]...)
}

// isPlain reports whether s can stand as it is: visible ASCII without what has
// to be escaped.
func (d *dialect) isPlain(s string) bool {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c >= 0x7F || d.isEscaped(c) {
			return false
		}
	}
	return true
}

func (d *dialect) isEscaped(c byte) bool { return d.escapes && (c == '\\' || c == '=') }

// joined returns the items as one text, and the only item as it is.
func joined(items []string, separator string) string {
	if len(items) == 1 {
		return items[0]
	}
	return strings.Join(items, separator)
}
