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
	folds uint64      // of words: what case folding of patterns takes in and is not ASCII
}

// A redaction is a pattern of data/redaction.json.
type redaction struct {
	Name    string   `json:"name"`
	Pattern string   `json:"pattern"`
	Replace string   `json:"replace"`
	Hints   []string `json:"hints"` // in lower case; without one of them in the text the pattern cannot match
	Also    []string `json:"also"`  // likewise: one of these too
	Names   []string `json:"names"` // in lower case; without one of them before a character of Then it cannot match
	Then    string   `json:"then"`
	re      *regexp.Regexp
	hints   uint64 // of redactor.words; 0: none are needed
	also    uint64
	then    [256]bool // the bytes of Then
}

// apply masks what looks like a secret and reports whether it did. Indicators
// such as wallets and ports stay.
func (x *redactor) apply(s string) (string, bool) {
	if s == "" {
		return s, false
	}
	before := s
	var found uint64
	if x.words != nil {
		found = x.words.find(s)
	}
	all := found&x.folds != 0
	for i := range x.rules {
		rule := &x.rules[i]
		if all || rule.mayMatch(found) && rule.isNamed(s) {
			s = rule.re.ReplaceAllString(s, rule.Replace)
		}
	}
	return s, s != before
}

func (r *redaction) mayMatch(found uint64) bool {
	return (r.hints == 0 || r.hints&found != 0) && (r.also == 0 || r.also&found != 0)
}

// isNamed reports whether one of the names stands where it must for a match.
// It looks at characters of Then, of which there are few.
func (r *redaction) isNamed(s string) bool {
	if len(r.Names) == 0 {
		return true
	}
	for i := range len(s) {
		if r.then[s[i]] && r.endsInName(s[:i]) {
			return true
		}
	}
	return false
}

// endsInName reports whether s ends in a name, but for backslashes, a quote and
// a space.
func (r *redaction) endsInName(s string) bool {
	for _, between := range [...]string{" \t\n\f\r", `"'`} {
		if n := len(s); n > 0 && strings.IndexByte(between, s[n-1]) >= 0 {
			s = s[:n-1]
		}
	}
	s = strings.TrimRight(s, `\`)
	for _, name := range r.Names {
		if len(s) >= len(name) && hasPrefixFold(s[len(s)-len(name):], name) {
			return true
		}
	}
	return false
}

// A wordFinder says which of at most 64 words a text holds, in any case, in
// one walk over it.
type wordFinder struct {
	words []string    // in lower case
	heads [256]uint64 // the words that begin with a byte
	nexts [256]uint64 // those whose second byte it is, and those of one byte
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
			mark(&w.heads, word[0], 1<<at)
			if len(word) > 1 {
				mark(&w.nexts, word[1], 1<<at)
			} else {
				for c := range w.nexts {
					w.nexts[c] |= 1 << at
				}
			}
		}
		set |= 1 << at
	}
	return set
}

// mark adds words to the set of a byte in both cases.
func mark(sets *[256]uint64, c byte, words uint64) {
	sets[c] |= words
	if c >= 'a' && c <= 'z' {
		sets[c-'a'+'A'] |= words
	}
}

func (w *wordFinder) find(s string) (found uint64) {
	for i := range len(s) {
		set := w.heads[s[i]] &^ found
		if set == 0 {
			continue
		}
		next := byte(0) // no word has it
		if i+1 < len(s) {
			next = s[i+1]
		}
		for set &= w.nexts[next]; set != 0; set &= set - 1 {
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
