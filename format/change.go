package format

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cwprelay/cwprelay/event"
)

// A Change is one step of a sink's own mapping. Exactly one of Drop, Rename
// and Set is given. Steps are carried out in their order, each on what those
// before it left; a step whose field a record does not have does nothing.
//
// The steps are three plain ones, not a language: what an output holds can be
// read off the list, and each is checked against the format's fields when the
// configuration is read.
type Change struct {
	Drop   string `koanf:"drop"`   // a field, or an object with all that is in it
	Rename string `koanf:"rename"` // a field
	To     string `koanf:"to"`     // its new name
	Set    string `koanf:"set"`    // a field, new or not
	Value  string `koanf:"value"`  // its text
}

// field returns the field that a change begins with.
func (c Change) field() string { return c.Drop + c.Rename + c.Set }

// edits are the changes of one sink.
type edits struct{ steps []Change }

func newEdits(changes []Change) *edits {
	if len(changes) == 0 {
		return nil
	}
	return &edits{changes}
}

// document makes the encoder of JSON objects that carries out the changes.
func (e *edits) document(encode Encoder) Encoder {
	if e == nil {
		return encode
	}
	return func(dst []byte, r *event.Record) ([]byte, error) {
		body, err := encode(nil, r)
		if err != nil {
			return dst, err
		}
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber() // integers stay exact
		var doc map[string]any
		if err := dec.Decode(&doc); err != nil {
			return dst, fmt.Errorf("transform: %w", err)
		}
		for _, c := range e.steps {
			c.applyTo(doc)
		}
		return appendJSON(dst, doc), nil
	}
}

func (c Change) applyTo(doc map[string]any) {
	switch {
	case c.Drop != "":
		takeField(doc, c.Drop)
	case c.Rename != "":
		if v, ok := takeField(doc, c.Rename); ok {
			putField(doc, c.To, v)
		}
	default:
		putField(doc, c.Set, c.Value)
	}
}

// takeField removes a field, and the objects that are empty without it.
func takeField(doc map[string]any, path string) (any, bool) {
	name, rest, deep := strings.Cut(path, ".")
	if !deep {
		v, ok := doc[name]
		delete(doc, name)
		return v, ok
	}
	inner, ok := doc[name].(map[string]any)
	if !ok {
		return nil, false
	}
	v, ok := takeField(inner, rest)
	if len(inner) == 0 {
		delete(doc, name)
	}
	return v, ok
}

// putField sets a field, in objects that are made where there are none.
func putField(doc map[string]any, path string, v any) {
	name, rest, deep := strings.Cut(path, ".")
	if !deep {
		doc[name] = v
		return
	}
	inner, ok := doc[name].(map[string]any)
	if !ok {
		inner = map[string]any{}
		doc[name] = inner
	}
	putField(inner, rest, v)
}

// appendJSON appends a decoded value, on one line whatever reads it.
func appendJSON(dst []byte, v any) []byte {
	switch v := v.(type) {
	case map[string]any:
		dst = append(dst, '{')
		for i, name := range slices.Sorted(maps.Keys(v)) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, name), ':')
			dst = appendJSON(dst, v[name])
		}
		return append(dst, '}')
	case []any:
		dst = append(dst, '[')
		for i, item := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = appendJSON(dst, item)
		}
		return append(dst, ']')
	case string:
		return appendString(dst, v)
	case json.Number:
		return append(dst, v...)
	case bool:
		if v {
			return append(dst, "true"...)
		}
		return append(dst, "false"...)
	default:
		return append(dst, "null"...)
	}
}

// changed returns what was written, with the changes carried out.
func (p *pairs) changed() []byte {
	if p.edits == nil || len(p.at) == 0 {
		return p.b
	}
	type pair struct{ key, value string }
	var list []pair
	for i, from := range p.at {
		to := len(p.b)
		if i+1 < len(p.at) {
			to = p.at[i+1] - 1 // the separator
		}
		key, value, _ := strings.Cut(string(p.b[from:to]), "=")
		list = append(list, pair{key, value})
	}
	// A custom key goes with its label.
	take := func(key string) (value, label string, ok bool) {
		list = slices.DeleteFunc(list, func(x pair) bool {
			switch x.key {
			case key:
				value, ok = x.value, true
			case key + "Label":
				label = x.value
			default:
				return false
			}
			return true
		})
		return value, label, ok
	}
	for _, c := range p.edits.steps {
		switch {
		case c.Drop != "":
			take(c.Drop)
		case c.Rename != "":
			value, label, ok := take(c.Rename)
			if !ok {
				continue
			}
			take(c.To)
			list = append(list, pair{c.To, value})
			if label != "" {
				list = append(list, pair{c.To + "Label", label})
			}
		default:
			take(c.Set)
			part := pairs{d: p.d}
			part.value(strings.TrimSpace(c.Value), p.d.most)
			list = append(list, pair{c.Set, string(part.b)})
		}
	}
	p.b = p.b[:p.at[0]]
	for i, x := range list {
		if i > 0 {
			p.b = append(p.b, p.d.separator)
		}
		p.b = append(append(append(p.b, x.key...), '='), x.value...)
	}
	return p.b
}

// CheckChanges reports every mistake in the changes of a sink, each beginning
// with its place in the list.
func CheckChanges(name string, cfg Config, changes []Change) error {
	if len(changes) == 0 {
		return nil
	}
	switch name {
	case "":
		return errors.New("the sink makes its own messages; there is nothing to change")
	case Raw, Text:
		return fmt.Errorf("format %s cannot be changed: %s; use another one", name, map[string]string{
			Raw: "it is the vendor's JSON as it came", Text: "it has no fields",
		}[name])
	}
	if len(changes) > mostRules {
		return fmt.Errorf("has %d steps; at most %d", len(changes), mostRules)
	}
	known := map[string]bool{}
	for _, f := range Fields(name, cfg) {
		known[f.Name] = true
	}
	var errs []error
	for i, c := range changes {
		if err := c.check(name, known); err != nil {
			errs = append(errs, fmt.Errorf("[%d]: %w", i, err))
		}
		c.rename(known)
	}
	return errors.Join(errs...)
}

// check reports what is wrong with a step, given the fields before it.
func (c Change) check(format string, known map[string]bool) error {
	given := 0
	for _, field := range []string{c.Drop, c.Rename, c.Set} {
		if field != "" {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("give exactly one of drop, rename, set")
	case (c.Rename != "") != (c.To != ""):
		return errors.New("rename goes with to, and nothing else does")
	case c.Set == "" && c.Value != "":
		return errors.New("value goes with set")
	case c.Set != "" && strings.TrimSpace(c.Value) == "":
		return errors.New("set goes with a value")
	case c.Set == "" && !known[c.field()] && !isObject(known, c.field()):
		return fmt.Errorf("format %s has no field %q; there are: %s", format, c.field(), strings.Join(slices.Sorted(maps.Keys(known)), ", "))
	case c.Rename != "" && !known[c.Rename]:
		return fmt.Errorf("%q is an object; rename its fields", c.Rename)
	case format == ECS && c.field() == "@timestamp", format == ECS && c.To == "@timestamp":
		return errors.New("@timestamp stays as it is: a data stream takes no document without it")
	}
	if c.Drop != "" {
		return nil
	}
	target := c.To + c.Set
	if err := checkField(format, target); err != nil {
		return err
	}
	if isObject(known, target) {
		return fmt.Errorf("%q is an object; a text cannot take its place", target)
	}
	for at, char := range target {
		if char == '.' && known[target[:at]] {
			return fmt.Errorf("%q is a field, so %q cannot be in it", target[:at], target)
		}
	}
	return nil
}

// rename brings the set of fields up to date with a step.
func (c Change) rename(known map[string]bool) {
	maps.DeleteFunc(known, func(name string, _ bool) bool {
		return name == c.Drop || name == c.Rename || c.Drop != "" && strings.HasPrefix(name, c.Drop+".")
	})
	if target := c.To + c.Set; target != "" {
		known[target] = true
	}
}

func isObject(known map[string]bool, name string) bool {
	for k := range known {
		if strings.HasPrefix(k, name+".") {
			return true
		}
	}
	return false
}

// checkField checks the name of a new field.
func checkField(format, name string) error {
	letters := "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
	if IsJSON(format) {
		letters += "_@-"
		for part := range strings.SplitSeq(name, ".") {
			if part == "" || strings.Trim(part, letters) != "" {
				return fmt.Errorf("%q: use letters, digits, _, @ and -, with dots between the names of objects", name)
			}
		}
	} else if strings.Trim(name, letters) != "" {
		return fmt.Errorf("%q: a key is letters and digits", name)
	}
	if len(name) > 200 {
		return fmt.Errorf("%q is longer than 200 characters", name)
	}
	return nil
}
