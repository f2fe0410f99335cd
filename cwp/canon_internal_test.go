package cwp

import (
	"bytes"
	"encoding/json"
	"slices"
	"testing"
)

// canonicalPlainly is the canonical form by encoding/json alone.
func canonicalPlainly(value []byte) []byte {
	switch value[0] {
	case '"':
		var s string
		if json.Unmarshal(value, &s) != nil {
			return []byte(`""`)
		}
		var b bytes.Buffer
		enc := json.NewEncoder(&b)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(s)
		return bytes.TrimSuffix(b.Bytes(), []byte{'\n'})
	case '[':
		var list []json.RawMessage
		_ = json.Unmarshal(value, &list)
		elements := make([][]byte, len(list))
		for i, e := range list {
			elements[i] = canonicalPlainly(e)
		}
		slices.SortFunc(elements, bytes.Compare)
		return append(append([]byte{'['}, bytes.Join(elements, []byte{','})...), ']')
	default:
		var b bytes.Buffer
		_ = json.Compact(&b, value)
		return b.Bytes()
	}
}

// The short ways to the canonical form change nothing of it: uids are made of
// it, and a changed one is an event twice.
func FuzzCanonical(f *testing.F) {
	for _, text := range []string{
		`"a"`, `""`, `"\u00e9\n\"\\/<>&"`, "\"\u2028\u2029\u2026\x7f\"", "\"\xff\"", `"下载器"`, `12.50e3`, `-0`, `null`, `true`,
		`["b","a",["d","c"],{"x" : [2, 1]},"\u0061"]`, `[]`, `[ ]`, `{"b": 1, "a":"\u003c"}`, `[1,"1",null]`,
	} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		text = bytes.TrimSpace(text)
		if !json.Valid(text) || bytes.Count(text, []byte{'['}) > 100 {
			return
		}
		if got, want := appendCanonicalValue(nil, text), canonicalPlainly(text); !bytes.Equal(got, want) {
			t.Errorf("%s gives %s, want %s", text, got, want)
		}
	})
}
