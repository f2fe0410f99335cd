package format

import (
	"strings"
	"sync"
)

// Some of the vendor's texts are the same for every finding of a kind of
// threat, and long: what a threat is, and what to do about it. They are read,
// cut and written as JSON once while they are kept.

// Bounds on the texts that are kept.
const (
	leastKept = 64       // bytes of a text as it stands in the vendor's JSON; shorter ones are read as fast
	mostKept  = 16 << 10 // likewise
	allKept   = 1 << 20  // bytes of all of them
)

// A keptText is what is made of a text.
type keptText struct {
	text string // as textOf reads it, cut
	long bool   // it was cut
	json string // as appendString writes it
}

// A keeper keeps texts. When it is full it begins anew; where that comes of
// texts that are all different it rests for a while.
type keeper struct {
	mu    sync.Mutex // guards the rest
	texts map[string]*keptText
	size  int
	hits  int // since it began anew
	rest  int // texts that pass before it keeps any
}

// of returns what is kept of a text, made when it is not there; nil where it is
// none to be kept. raw is the text as it stands in JSON.
func (k *keeper) of(raw string) *keptText {
	if len(raw) < leastKept || len(raw) > mostKept {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if t := k.texts[raw]; t != nil {
		k.hits++
		return t
	}
	if k.rest > 0 {
		k.rest--
		return nil
	}
	raw = strings.Clone(raw) // not to hold the whole record
	t := &keptText{}
	t.text, t.long = cut(textOf(raw), maxText)
	t.json = string(appendString(nil, t.text))
	size := len(raw) + len(t.text) + len(t.json)
	if k.size += size; k.texts == nil || k.size > allKept {
		if k.hits < len(k.texts) {
			k.rest = 100 * len(k.texts)
		}
		k.texts, k.size, k.hits = map[string]*keptText{}, size, 0
	}
	k.texts[raw] = t
	return t
}
