package cwp

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// ReadItems reads the items that someone has kept of the API: whole answers,
// their Response, lists of items or items, in any number one after the other.
// Numbers stay exact. An answer that tells an error is one.
func (k *Kind) ReadItems(r io.Reader) ([]Item, error) {
	dec := json.NewDecoder(r)
	var items []Item
	for n := 1; ; n++ {
		var value json.RawMessage
		err := dec.Decode(&value)
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return nil, fmt.Errorf("value %d, at byte %d: %w", n, dec.InputOffset(), err)
		}
		more, err := k.itemsOf(value)
		if err != nil {
			return nil, fmt.Errorf("value %d: %w", n, err)
		}
		items = append(items, more...)
	}
}

func (k *Kind) itemsOf(value []byte) ([]Item, error) {
	switch value[0] {
	case '[':
		var e envelope
		e.readList(value, 0, 0, k)
		return e.items, nil
	case '{':
	default:
		return nil, errors.New("is no object and no list")
	}
	whole, _ := openEnvelope(value, k)
	if whole.response == nil { // perhaps the Response alone
		whole = envelope{}
		whole.readResponse(value, 0, 0, k)
		if whole.list == nil && whole.errorPart == nil {
			r := itemReader{kind: k}
			item, _ := r.read(value, 0, 0)
			return []Item{item}, nil
		}
	}
	if whole.errorPart != nil {
		return nil, errors.New("is an answer of the API that tells an error, not events")
	}
	return whole.items, nil
}
