package cwp

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
)

// canonical is the compact JSON of fields in order of their names, lists
// sorted, without HTML escaping. A missing value is null.
func canonical(names []string, values [][]byte) []byte {
	order := make([]int, len(names))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return strings.Compare(names[a], names[b]) })
	out := []byte{'{'}
	for n, i := range order {
		if n > 0 {
			out = append(out, ',')
		}
		out = append(out, plain(names[i])...)
		out = append(out, ':')
		out = append(out, canonicalValue(values[i])...)
	}
	return append(out, '}')
}

func canonicalValue(value []byte) []byte {
	switch {
	case len(value) == 0:
		return []byte("null")
	case value[0] == '"':
		return plain(stringOf(value))
	case value[0] != '[':
		var out bytes.Buffer
		if json.Compact(&out, value) != nil {
			return []byte("null") // cannot be: the value was walked over
		}
		return out.Bytes()
	}
	var elements [][]byte
	walkArray(value, 0, 0, func(_ []byte, at, depth int) int {
		end := skipValue(value, at, depth)
		if end >= 0 {
			elements = append(elements, canonicalValue(value[at:end]))
		}
		return end
	})
	slices.SortFunc(elements, bytes.Compare)
	return append(append([]byte{'['}, bytes.Join(elements, []byte{','})...), ']')
}

// plain is a text as JSON without HTML escaping.
func plain(s string) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
}
