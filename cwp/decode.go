package cwp

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"unicode"
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
		end = walkArray(body, at, depth, func(_ []byte, at, depth int) int {
			item, end := readItem(body, at, depth, kind)
			if end >= 0 {
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

// readItem reads one element of a list. Whatever it is, it becomes an item:
// one bad element never fails its page.
func readItem(body []byte, at, depth int, kind *Kind) (Item, int) {
	var id, status, sweep, head []byte
	var end int
	if at < len(body) && body[at] == '{' {
		end = walkObject(body, at, depth, func(key []byte, at, depth int) int {
			end := skipValue(body, at, depth)
			if end < 0 {
				return end
			}
			name, value := keyName(key), body[at:end]
			// Not a switch: two roles may be played by one field.
			if string(name) == kind.IDField {
				id = value
			}
			if string(name) == kind.StatusField {
				status = value
			}
			if string(name) == kind.SweepTime {
				sweep = value
			}
			if string(name) == kind.HeadTime {
				head = value
			}
			return end
		})
	} else {
		end = skipValue(body, at, depth)
	}
	if end < 0 {
		return Item{}, -1
	}
	item := Item{
		Status:    statusText(status),
		SweepTime: timeText(sweep),
		HeadTime:  timeText(head),
		Raw:       body[at:end:end],
	}
	var ok bool
	if item.ID, ok = idText(id); !ok {
		sum := sha256.Sum256(item.Raw)
		item.ID, item.NoID = "sha256:"+hex.EncodeToString(sum[:]), true
	}
	return item, end
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
	var few [8][]byte
	values := append(few[:0], make([][]byte, len(k.RevisionFields))...)
	members(raw, func(key, value []byte) {
		name := keyName(key)
		for i := range k.RevisionFields {
			if string(name) == k.RevisionFields[i] {
				values[i] = value
			}
		}
	})
	var short [512]byte
	return hexSum(appendCanonical(short[:0], k.RevisionFields, values))
}

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
