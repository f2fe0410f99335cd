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
	escaped   string // characters of values that get a backslash; none of them is a letter
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
	p.scratch = appendClean(p.scratch[:0], s, true)
	clean := p.scratch
	if len(clean) > limit {
		short, _ := cut(string(clean), limit-len(cutMark))
		clean = append(append(clean[:0], short...), cutMark...)
		p.scratch = clean
	}
	for _, c := range clean {
		switch {
		case c == '\n':
			p.b = append(p.b, p.d.lineFeed...)
		case c == '\r':
			p.b = append(p.b, p.d.carriage...)
		case strings.IndexByte(p.d.escaped, c) >= 0:
			p.b = append(p.b, '\\', c)
		default:
			p.b = append(p.b, c)
		}
	}
}

// joined returns the items as one text, and the only item as it is.
func joined(items []string, separator string) string {
	if len(items) == 1 {
		return items[0]
	}
	return strings.Join(items, separator)
}
