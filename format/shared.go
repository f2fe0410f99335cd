package format

import (
	"encoding/binary"
	"strings"
	"sync"
)

// Some of what findings say is the same for many of them: the vendor's texts of
// what a threat is and what to do about it, the names and tags of threats, the
// engines. What is made of it is made once while it is kept.

// Bounds on what is kept.
const (
	leastKept = 64       // bytes of a text as it stands in the vendor's JSON; shorter ones are read as fast
	mostKept  = 16 << 10 // likewise
	mostWords = 512      // bytes of a list, or of a virus name with its tags
	allKept   = 1 << 20  // bytes of all that one keeper keeps
)

// A keptText is what is made of a text.
type keptText struct {
	text string // as textOf reads it, cut
	long bool   // it was cut
	json string // as appendString writes it
}

// A keptList is what is made of a list of texts. Nobody changes it.
type keptList struct {
	texts []string // as listOf reads them, cut
	names []string // of the engines whose codes they are
	long  bool     // one was cut
}

// A keeper keeps what is made of texts. When it is full it begins anew; where
// that comes of texts that are all different it rests for a while.
type keeper[V any] struct {
	mu   sync.Mutex // guards the rest
	made map[string]V
	size int
	hits int // since it began anew
	rest int // texts that pass before it keeps any
}

// find returns what is kept of a text; where there is nothing, whether what is
// made of it is to be kept.
func find[K text, V any](k *keeper[V], raw K) (made V, ok, keep bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if made, ok = k.made[string(raw)]; ok {
		k.hits++
		return made, true, false
	}
	if k.rest > 0 {
		k.rest--
		return made, false, false
	}
	return made, false, true
}

// keep keeps what was made of a text, so many bytes.
func (k *keeper[V]) keep(raw string, made V, size int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, ok := k.made[raw]; ok {
		return
	}
	if k.size += size; k.made == nil || k.size > allKept {
		if k.hits < len(k.made) {
			k.rest = 100 * len(k.made)
		}
		k.made, k.size, k.hits = map[string]V{}, size, 0
	}
	k.made[raw] = made
}

// textOf returns what is made of a text, which stands in JSON as raw; nil where
// it is not kept.
func (t *tables) textOf(raw string) *keptText {
	if len(raw) < leastKept || len(raw) > mostKept {
		return nil
	}
	made, ok, keep := find(&t.texts, raw)
	if ok || !keep {
		return made
	}
	raw = strings.Clone(raw) // not to hold the whole record
	made = &keptText{}
	made.text, made.long = cut(textOf(raw), maxText)
	made.json = string(appendString(nil, made.text))
	t.texts.keep(raw, made, len(raw)+len(made.text)+len(made.json))
	return made
}

// listOf returns what is made of a list, which stands in JSON as raw.
func (t *tables) listOf(raw string) *keptList {
	keep := false
	if len(raw) <= mostWords {
		var made *keptList
		var ok bool
		if made, ok, keep = find(&t.lists, raw); ok {
			return made
		}
	}
	if keep {
		raw = strings.Clone(raw) // not to hold the whole record
	}
	made := &keptList{texts: listOf(raw)}
	for i, s := range made.texts {
		var long bool
		made.texts[i], long = cut(s, maxText)
		made.long = made.long || long
	}
	made.names = engineNames(made.texts)
	if keep {
		t.lists.keep(raw, made, 16*len(raw)+256) // an element takes 32 bytes more than its text, or less
	}
	return made
}

// classify is the classifier's, with the techniques in ECS where the verdict is
// kept.
func (t *tables) classify(virusName string, tags []string) verdict {
	size := len(virusName)
	for _, tag := range tags {
		size += len(tag)
	}
	if size > mostWords {
		return t.classifier.classify(virusName, tags)
	}
	var few [mostWords + 64]byte
	words := appendWord(few[:0], virusName)
	for _, tag := range tags {
		words = appendWord(words, tag)
	}
	made, ok, keep := find(&t.verdicts, words)
	if ok {
		return made
	}
	made = t.classifier.classify(virusName, tags)
	if keep {
		made.match = strings.Clone(made.match) // not to hold the whole record
		made.threat = string(appendThreat(nil, made.techniques))
		t.verdicts.keep(string(words), made, 2*len(words)+len(made.threat)+256)
	}
	return made
}

// appendWord appends a word so that no two lists of words look alike.
func appendWord(dst []byte, word string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(word))), word...)
}
