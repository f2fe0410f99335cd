package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/cwprelay/cwprelay/event"
)

// appendRaw appends the vendor's JSON byte for byte. If it has line breaks,
// which JSON allows between tokens only, the space between tokens is removed,
// because destinations tell records apart by lines; strings and numbers stay
// as they are.
func appendRaw(dst []byte, r *event.Record) ([]byte, error) {
	if !validJSON(r.Raw) {
		return dst, errors.New("encode raw: the stored event is not JSON")
	}
	if !bytes.ContainsAny(r.Raw, "\r\n") {
		return append(dst, r.Raw...), nil
	}
	var b bytes.Buffer
	if err := json.Compact(&b, r.Raw); err != nil {
		return dst, fmt.Errorf("encode raw: %w", err)
	}
	return append(dst, b.Bytes()...), nil
}
