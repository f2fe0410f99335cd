package cwp

import (
	"bytes"
	"encoding/json"
	"slices"
)

// appendCanonical appends the compact JSON of fields in order of their names,
// lists sorted, without HTML escaping. A missing value is null.
func appendCanonical(dst []byte, names []string, values [][]byte) []byte {
	dst = append(dst, '{')
	sorted := slices.IsSorted(names)
	written := ""
	for n := range names {
		next := n
		if !sorted { // the least name that is not written yet: there are few
			next = -1
			for i, name := range names {
				if (n == 0 || name > written) && (next < 0 || name < names[next]) {
					next = i
				}
			}
		}
		if n > 0 {
			dst = append(dst, ',')
		}
		written = names[next]
		dst = appendPlain(dst, written)
		dst = append(dst, ':')
		dst = appendCanonicalValue(dst, values[next])
	}
	return append(dst, '}')
}

// appendCanonicalValue appends the canonical form of a value, which is JSON.
func appendCanonicalValue(dst, value []byte) []byte {
	switch {
	case len(value) == 0:
		return append(dst, "null"...)
	case value[0] == '"':
		if isCanonical(value) {
			return append(dst, value...)
		}
		return appendPlain(dst, stringOf(value))
	case value[0] == '{':
		var out bytes.Buffer
		if json.Compact(&out, value) != nil {
			return append(dst, "null"...) // cannot be: the value was walked over
		}
		return append(dst, out.Bytes()...)
	case value[0] != '[':
		return append(dst, value...)
	}
	var few [8][]byte
	elements := few[:0]
	walkArray(value, 0, 0, func(_ []byte, at, depth int) int {
		end := skipValue(value, at, depth)
		if end >= 0 {
			element := value[at:end]
			if !isCanonical(element) {
				element = appendCanonicalValue(nil, element)
			}
			elements = append(elements, element)
		}
		return end
	})
	slices.SortFunc(elements, bytes.Compare)
	dst = append(dst, '[')
	for i, e := range elements {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, e...)
	}
	return append(dst, ']')
}

// isCanonical reports whether a value is a text that is its own canonical form.
func isCanonical(value []byte) bool {
	if value[0] != '"' {
		return false
	}
	inner := value[1 : len(value)-1]
	return isPlain(inner) || isText(inner) && !hasSeparator(inner)
}

// hasSeparator reports whether a text may hold U+2028 or U+2029, which
// encoding/json escapes.
func hasSeparator(text []byte) bool { return bytes.Contains(text, []byte("\u2028"[:2])) }

// appendPlain appends a text as JSON without HTML escaping.
func appendPlain(dst []byte, s string) []byte {
	if isPlain(s) {
		return append(append(append(dst, '"'), s...), '"')
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(s) // a string always encodes
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte{'\n'})...)
}
