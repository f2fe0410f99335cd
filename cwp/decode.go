package cwp

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/bits"
	"strconv"
	"strings"
	"sync"
	"unicode"

	"github.com/cwprelay/cwprelay/event"
)

// An envelope is what every answer of the vendor's API has around its
// contents. Its slices point into the body.
//
// Of a key that occurs twice the last one counts, as in encoding/json and most
// readers of what is sent on.
type envelope struct {
	response  []byte // the value of Response; nil when it is missing
	errorPart []byte // Response.Error; nil when missing or null
	requestID string
	total     []byte // Response.TotalCount
	list      []byte // the value of the list key; nil when missing
	items     []Item

	// The older shape, which gateways of the vendor still send.
	legacyCode, legacyDesc, legacyMessage []byte
}

// openEnvelope reads an answer in one pass, the items of the kind's list
// included. kind is nil where there is no list. It reports whether body is
// JSON.
func openEnvelope(body []byte, kind *Kind) (envelope, bool) {
	var e envelope
	i := skipSpace(body, 0)
	if i == len(body) {
		return e, false
	}
	if body[i] != '{' {
		end := skipValue(body, i, 0)
		return e, end >= 0 && skipSpace(body, end) == len(body)
	}
	end := walkObject(body, i, 0, func(key []byte, at, depth int) int {
		switch {
		case keyIs(key, "Response"):
			return e.readResponse(body, at, depth, kind)
		case keyIs(key, "code"):
			return keep(&e.legacyCode, body, at, depth)
		case keyIs(key, "codeDesc"):
			return keep(&e.legacyDesc, body, at, depth)
		case keyIs(key, "message"):
			return keep(&e.legacyMessage, body, at, depth)
		default:
			return skipValue(body, at, depth)
		}
	})
	return e, end >= 0 && skipSpace(body, end) == len(body)
}

// keep stores the value at an index and returns the index after it.
func keep(to *[]byte, body []byte, at, depth int) int {
	end := skipValue(body, at, depth)
	if end >= 0 {
		*to = body[at:end]
	}
	return end
}

func (e *envelope) readResponse(body []byte, at, depth int, kind *Kind) int {
	*e = envelope{legacyCode: e.legacyCode, legacyDesc: e.legacyDesc, legacyMessage: e.legacyMessage}
	if at >= len(body) || body[at] != '{' {
		return skipValue(body, at, depth)
	}
	end := walkObject(body, at, depth, func(key []byte, at, depth int) int {
		switch {
		case kind != nil && keyIs(key, kind.ListKey):
			return e.readList(body, at, depth, kind)
		case keyIs(key, "Error"):
			end := keep(&e.errorPart, body, at, depth)
			if string(e.errorPart) == "null" {
				e.errorPart = nil
			}
			return end
		case keyIs(key, "RequestId"):
			var id []byte
			end := keep(&id, body, at, depth)
			e.requestID = clean(stringOf(id), 128)
			return end
		case keyIs(key, "TotalCount"):
			return keep(&e.total, body, at, depth)
		default:
			return skipValue(body, at, depth)
		}
	})
	if end >= 0 {
		e.response = body[at:end]
	}
	return end
}

func (e *envelope) readList(body []byte, at, depth int, kind *Kind) int {
	e.items = nil
	var end int
	if at < len(body) && body[at] == '[' {
		r := itemReader{kind: kind}
		end = walkArray(body, at, depth, func(_ []byte, at, depth int) int {
			item, end := r.read(body, at, depth)
			if end >= 0 {
				if e.items == nil {
					e.items = make([]Item, 0, min((len(body)-at)/(end-at+1)+2, kind.MaxLimit))
				}
				e.items = append(e.items, item)
			}
			return end
		})
	} else {
		end = skipValue(body, at, depth)
	}
	if end >= 0 {
		e.list = body[at:end]
	}
	return end
}

// What is read of an item while it is walked over: the fields that its kind
// names, and those that make a revision.
const (
	placeID = iota
	placeStatus
	placeSweep
	placeHead
	placeRevision // and those behind it
)

// maxRevision bounds the fields of a revision that are found on the way; of a
// kind with more of them the item is walked over again.
const maxRevision = 8

// places are bits: one field may play several roles.
type places uint16

func (k *Kind) placesOf(name []byte) (found places) {
	for i, field := range [...]string{placeID: k.IDField, placeStatus: k.StatusField, placeSweep: k.SweepTime, placeHead: k.HeadTime} {
		if string(name) == field {
			found |= 1 << i
		}
	}
	if len(k.RevisionFields) <= maxRevision {
		for i, field := range k.RevisionFields {
			if string(name) == field {
				found |= 1 << (placeRevision + i)
			}
		}
	}
	return found
}

// An itemReader reads the elements of one list. They mostly have the same
// members in the same order: what the keys of the last one were is tried first,
// and saves looking into them.
type itemReader struct {
	kind *Kind
	keys []knownKey
}

// A knownKey is a key with its quotes and colon, as it stood in the text.
type knownKey struct {
	text   []byte
	places places
}

// maxKeys bounds the keys that are remembered.
const maxKeys = 64

// key reads the key of member n, which begins at i, and returns the index
// behind its colon, -1 when there is none.
func (r *itemReader) key(body []byte, i, n int) (places, int) {
	if n < len(r.keys) && bytes.HasPrefix(body[i:], r.keys[n].text) {
		return r.keys[n].places, i + len(r.keys[n].text)
	}
	end := skipString(body, i)
	if end < 0 {
		return 0, -1
	}
	found := r.kind.placesOf(keyName(body[i:end]))
	colon := skipSpace(body, end)
	if colon == len(body) || body[colon] != ':' {
		return 0, -1
	}
	known := knownKey{text: body[i : colon+1], places: found}
	switch {
	case n < len(r.keys):
		r.keys[n] = known
	case n < maxKeys:
		r.keys = append(r.keys, known)
	}
	return found, colon + 1
}

// object walks over the object that begins at i as walkObject does, and notes
// where the values of its places are.
func (r *itemReader) object(body []byte, i, depth int, values *[placeRevision + maxRevision]span) int {
	if depth++; depth > maxDepth {
		return -1
	}
	start := i
	i = skipSpace(body, i+1)
	if i < len(body) && body[i] == '}' {
		return i + 1
	}
	for n := 0; i < len(body) && body[i] == '"'; n++ {
		found, at := r.key(body, i, n)
		if at < 0 {
			return -1
		}
		at = skipSpace(body, at)
		if i = skipValue(body, at, depth); i < 0 {
			return -1
		}
		for ; found != 0; found &= found - 1 {
			values[bits.TrailingZeros16(uint16(found))] = span{at - start, i - start}
		}
		i = skipSpace(body, i)
		switch {
		case i < len(body) && body[i] == '}':
			return i + 1
		case i == len(body) || body[i] != ',':
			return -1
		}
		i = skipSpace(body, i+1)
	}
	return -1
}

// read reads one element of a list. Whatever it is, it becomes an item: one bad
// element never fails its page.
func (r *itemReader) read(body []byte, at, depth int) (Item, int) {
	var values [placeRevision + maxRevision]span
	var end int
	if at < len(body) && body[at] == '{' {
		end = r.object(body, at, depth, &values)
	} else {
		end = skipValue(body, at, depth)
	}
	if end < 0 {
		return Item{}, -1
	}
	item := Item{Raw: body[at:end:end], walked: len(r.kind.RevisionFields) <= maxRevision}
	copy(item.revision[:], values[placeRevision:])
	value := func(place int) []byte { return item.Raw[values[place].from:values[place].to] }
	item.Status = statusText(value(placeStatus))
	if item.plainTexts(value(placeID), value(placeSweep), value(placeHead)) {
		return item, end
	}
	item.SweepTime, item.HeadTime = timeText(value(placeSweep)), timeText(value(placeHead))
	var ok bool
	if item.ID, ok = idText(value(placeID)); !ok {
		sum := sha256.Sum256(item.Raw)
		item.ID, item.NoID = "sha256:"+hex.EncodeToString(sum[:]), true
	}
	return item, end
}

// plainTexts takes the texts of an ordinary item, a decimal number and two times
// of the usual length, as one piece of memory. It reports whether they are ones.
func (item *Item) plainTexts(id, sweep, head []byte) bool {
	const most = 18 // digits: no leading zero, nothing to be looked at closely
	if len(id) == 0 || len(id) > most || id[0] == '0' || skipDigits(id, 0) != len(id) || !isPlainTime(sweep) || !isPlainTime(head) {
		return false
	}
	var few [most + 2*len(event.WallLayout)]byte
	texts := append(append(append(few[:0], id...), sweep[1:len(sweep)-1]...), head[1:len(head)-1]...)
	all := string(texts)
	item.ID, all = all[:len(id)], all[len(id):]
	item.SweepTime, item.HeadTime = all[:len(event.WallLayout)], all[len(event.WallLayout):]
	return true
}

// isPlainTime reports whether a JSON value is a text as long as a wall time that
// is its own value, with nothing to be trimmed.
func isPlainTime(value []byte) bool {
	const last = len(event.WallLayout)
	return len(value) == last+2 && value[0] == '"' && value[1] > ' ' && value[last] > ' ' && isPlain(value[1:last+1])
}

// maxText bounds ids, statuses and times in bytes: they are kept in memory and
// are keys of the journal.
const maxText = 128

// idText is an id as text: a whole number in decimal, however it was written,
// or a short plain text. It is false for everything else.
func idText(value []byte) (string, bool) {
	if n, ok := integerOf(value); ok {
		return n, true
	}
	s := strings.TrimSpace(stringOf(value))
	return s, s != "" && len(s) <= maxText && !strings.ContainsFunc(s, unicode.IsControl)
}

// statusText is a status as text; "null" when there is none. Odd ones keep
// their JSON, or its hash where that is long, so that a change of them shows.
func statusText(value []byte) string {
	if n, ok := integerOf(value); ok {
		return n
	}
	if len(value) == 0 {
		return "null"
	}
	text := string(value)
	if value[0] == '"' {
		text = strings.TrimSpace(stringOf(value))
	}
	switch {
	case text == "":
		return "null"
	case len(text) > maxText:
		return "sha256:" + hexSum([]byte(text))
	default:
		return text
	}
}

// timeText is a time's own text; empty where it is no text or far too long for
// a time.
func timeText(value []byte) string {
	s := strings.TrimSpace(stringOf(value))
	if len(s) > maxText {
		return ""
	}
	return s
}

// failure returns the error that an answer is, nil when it is none. status is
// the HTTP status.
func (e *envelope) failure(status int) *Error {
	var code, message string
	switch {
	case e.errorPart != nil:
		members(e.errorPart, func(key, value []byte) {
			switch {
			case keyIs(key, "Code"):
				code = clean(stringOf(value), 128)
			case keyIs(key, "Message"):
				message = stringOf(value)
			}
		})
		if code == "" {
			return &Error{Class: ClassAnswer, Message: "the answer bears an Error without a Code", RequestID: e.requestID, HTTPStatus: status}
		}
	case e.response == nil && e.legacyCode != nil && string(e.legacyCode) != "0":
		code, message = clean(stringOf(e.legacyDesc), 128), stringOf(e.legacyMessage)
		if code == "" {
			code = clean(strings.Trim(string(e.legacyCode), `"`), 128)
		}
	default:
		return nil
	}
	return &Error{Class: classOf(code), Code: code, Message: clean(message, maxMessage), RequestID: e.requestID, HTTPStatus: status}
}

// page is the page that a successful answer holds.
func (e *envelope) page(kind *Kind) (*Page, *Error) {
	p := &Page{Items: e.items, RequestID: e.requestID}
	switch {
	case e.list == nil:
		return nil, &Error{Class: ClassAnswer, Message: "the answer has no " + kind.ListKey, RequestID: e.requestID, HTTPStatus: 200}
	case e.list[0] != '[' && string(e.list) != "null":
		return nil, &Error{Class: ClassAnswer, Message: kind.ListKey + " is not a list", RequestID: e.requestID, HTTPStatus: 200}
	}
	// Only a plain count is believed: a sweep is certified by it.
	if n, err := strconv.ParseInt(string(e.total), 10, 64); err == nil && n >= 0 {
		p.Total, p.HasTotal = n, true
	}
	return p, nil
}

// Revision names the content of an item: the SHA-256, in hex, of the compact
// JSON of the kind's RevisionFields with sorted keys, sorted lists and no HTML
// escaping. A field that is missing counts as null, so that the vendor's habit
// of leaving out what is empty is no change; an item that is not an object has
// no fields, nor has what is not JSON. Numbers keep their text, exact at any
// size.
func (k *Kind) Revision(raw []byte) string {
	var few [maxRevision][]byte
	values := append(few[:0], make([][]byte, len(k.RevisionFields))...)
	members(raw, func(key, value []byte) {
		name := keyName(key)
		for i := range k.RevisionFields {
			if string(name) == k.RevisionFields[i] {
				values[i] = value
			}
		}
	})
	return k.revisionOf(values)
}

// RevisionOf is the Revision of an item. One that was read out of an answer is
// not walked over again.
func (k *Kind) RevisionOf(item *Item) string {
	if !item.walked {
		return k.Revision(item.Raw)
	}
	var values [maxRevision][]byte
	for i := range k.RevisionFields {
		values[i] = item.Raw[item.revision[i].from:item.revision[i].to]
	}
	return k.revisionOf(values[:len(k.RevisionFields)])
}

func (k *Kind) revisionOf(values [][]byte) string {
	text, _ := canonicals.Get().(*[]byte)
	defer canonicals.Put(text)
	*text = appendCanonical((*text)[:0], k.RevisionFields, values)
	return hexSum(*text)
}

// canonicals are buffers for what a revision is made of.
//
//nolint:gochecknoglobals // a pool is shared by its nature
var canonicals = sync.Pool{New: func() any { return new([]byte) }}

// Field is a top-level field of an item as trimmed text: a text itself, a
// whole number in decimal, other values as their JSON. It is empty for null, a
// missing field, and what is not JSON.
func (k *Kind) Field(raw []byte, name string) string {
	var found []byte
	if !members(raw, func(key, value []byte) {
		if keyIs(key, name) {
			found = value
		}
	}) {
		return ""
	}
	if n, ok := integerOf(found); ok {
		return n
	}
	switch {
	case len(found) == 0 || string(found) == "null":
		return ""
	case found[0] == '"':
		return strings.TrimSpace(stringOf(found))
	default:
		return string(found)
	}
}
