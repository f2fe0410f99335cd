package format

import (
	"bytes"
	"regexp"
	"strings"
)

// maxRedacted bounds the text that redaction looks at, twice what is kept of
// it, so that a secret that ends behind the cut is still seen whole.
// redactedMask stands for what was masked.
const redactedMask = "********"

const maxRedacted = 2 * maxCmdLine

// A redactor masks secrets in command lines.
type redactor struct{ rules []redaction }

// A redaction is a pattern of data/redaction.json.
type redaction struct {
	Name    string   `json:"name"`
	Pattern string   `json:"pattern"`
	Replace string   `json:"replace"`
	Hints   []string `json:"hints"` // in lower case; without one of them in the text the pattern cannot match
	Also    []string `json:"also"`  // likewise: one of these too
	re      *regexp.Regexp
	hints   [][]byte
	also    [][]byte
}

// apply masks what looks like a secret and reports whether it did. Indicators
// such as wallets and ports stay.
func (x *redactor) apply(s string) (string, bool) {
	if s == "" {
		return s, false
	}
	before := s
	// Case folding of patterns takes in two characters that are not ASCII.
	all := strings.ContainsAny(s, "\u017F\u212A")
	var buf [512]byte
	lower := lowerASCII(buf[:0], s)
	for i := range x.rules {
		rule := &x.rules[i]
		if all || rule.mayMatch(lower) {
			s = rule.re.ReplaceAllString(s, rule.Replace)
		}
	}
	return s, s != before
}

func (r *redaction) mayMatch(lower []byte) bool {
	return holdsOne(lower, r.hints) && holdsOne(lower, r.also)
}

// holdsOne reports whether text holds one of the words, or there are none.
func holdsOne(text []byte, words [][]byte) bool {
	for _, w := range words {
		if bytes.Contains(text, w) {
			return true
		}
	}
	return len(words) == 0
}

func lowerASCII(dst []byte, s string) []byte {
	dst = append(dst, s...)
	for i, c := range dst {
		if c >= 'A' && c <= 'Z' {
			dst[i] = c | 0x20
		}
	}
	return dst
}
