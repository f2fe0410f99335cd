package format

import (
	"math/bits"
	"regexp"
	"slices"
	"strings"
)

// maxRedacted bounds the text that redaction looks at, twice what is kept of
// it, so that a secret that ends behind the cut is still seen whole.
// redactedMask stands for what was masked.
const redactedMask = "********"

const maxRedacted = 2 * maxCmdLine

// A redactor masks secrets in command lines.
type redactor struct {
	rules []redaction
	words *wordFinder // of hints; nil: there are none
}

// A redaction is a pattern of data/redaction.json.
type redaction struct {
	Name    string   `json:"name"`
	Pattern string   `json:"pattern"`
	Replace string   `json:"replace"`
	Hints   []string `json:"hints"` // in lower case; without one of them in the text the pattern cannot match
	Also    []string `json:"also"`  // likewise: one of these too
	re      *regexp.Regexp
	hints   uint64 // of redactor.words; 0: none are needed
	also    uint64
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
	var found uint64
	if x.words != nil && !all {
		found = x.words.find(s)
	}
	for i := range x.rules {
		rule := &x.rules[i]
		if all || rule.mayMatch(found) {
			s = rule.re.ReplaceAllString(s, rule.Replace)
		}
	}
	return s, s != before
}

func (r *redaction) mayMatch(found uint64) bool {
	return (r.hints == 0 || r.hints&found != 0) && (r.also == 0 || r.also&found != 0)
}

// A wordFinder says which of at most 64 words a text holds, in any case, in
// one walk over it.
type wordFinder struct {
	words []string    // in lower case
	first [256]uint64 // the words that begin with a byte
}

// add returns the set that is the words.
func (w *wordFinder) add(words []string) (set uint64) {
	for _, word := range words {
		at := slices.Index(w.words, word)
		if at < 0 {
			if at = len(w.words); at == 64 {
				panic("format: data/redaction.json: more than 64 hints")
			}
			w.words = append(w.words, word)
			w.first[word[0]] |= 1 << at
			if c := word[0]; c >= 'a' && c <= 'z' {
				w.first[c-'a'+'A'] |= 1 << at
			}
		}
		set |= 1 << at
	}
	return set
}

func (w *wordFinder) find(s string) (found uint64) {
	for i := range len(s) {
		for set := w.first[s[i]] &^ found; set != 0; set &= set - 1 {
			at := bits.TrailingZeros64(set)
			if hasPrefixFold(s[i:], w.words[at]) {
				found |= 1 << at
			}
		}
	}
	return found
}

// hasPrefixFold reports whether s begins with a word of lower case ASCII,
// whatever the case of s.
func hasPrefixFold(s, word string) bool {
	if len(s) < len(word) {
		return false
	}
	for i := range len(word) {
		c := s[i]
		if c >= 'A' && c <= 'Z' {
			c |= 0x20
		}
		if c != word[i] {
			return false
		}
	}
	return true
}
