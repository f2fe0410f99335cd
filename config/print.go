package config

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"io"
	"net/url"
	"reflect"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/cwprelay/cwprelay/config/secret"
)

//go:embed example.yaml
var example string

// Example is a commented configuration with every kind of block.
func Example() string { return example }

// ExampleJSON writes the values of Example as one JSON object, which can be read
// as a configuration too.
func ExampleJSON(w io.Writer) error {
	var values map[string]any
	if err := yaml.Unmarshal([]byte(example), &values); err != nil {
		return fmt.Errorf("write the sample: %w", err)
	}
	return json.NewEncoder(w).Encode(values)
}

// Print writes the values in force as YAML that can be read again, secrets
// masked.
func (c *Config) Print(w io.Writer) error {
	enc := yaml.NewEncoder(w)
	enc.SetIndent(2)
	if err := enc.Encode(node(reflect.ValueOf(*c))); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return enc.Close()
}

// PrintJSON writes the same as one JSON object. Durations and sizes are text, as
// in the file.
func (c *Config) PrintJSON(w io.Writer) error {
	var values map[string]any
	if err := node(reflect.ValueOf(*c)).Decode(&values); err != nil {
		return fmt.Errorf("write the configuration: %w", err)
	}
	return json.NewEncoder(w).Encode(values)
}

func scalar(text, tag string) *yaml.Node {
	return &yaml.Node{Kind: yaml.ScalarNode, Value: text, Tag: tag}
}

// node is a value as YAML; nil when there is nothing to show.
func node(v reflect.Value) *yaml.Node {
	for v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return nil
		}
		v = v.Elem()
	}
	switch x := v.Interface().(type) {
	case secret.String:
		if x.IsZero() {
			return nil
		}
		return scalar(x.String(), "!!str")
	case time.Duration:
		return scalar(x.String(), "!!str")
	}
	switch v.Kind() {
	case reflect.Struct:
		m := &yaml.Node{Kind: yaml.MappingNode}
		appendFields(m, v)
		return m
	case reflect.Map:
		m := &yaml.Node{Kind: yaml.MappingNode}
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		for _, k := range keys {
			if n := node(v.MapIndex(k)); n != nil {
				m.Content = append(m.Content, scalar(k.String(), "!!str"), n)
			}
		}
		if len(keys) == 0 {
			return nil
		}
		return m
	case reflect.Slice:
		if v.Len() == 0 {
			return nil
		}
		s := &yaml.Node{Kind: yaml.SequenceNode, Style: yaml.FlowStyle}
		for i := range v.Len() {
			s.Content = append(s.Content, node(v.Index(i)))
		}
		return s
	case reflect.String:
		if v.Len() == 0 {
			return nil
		}
		return scalar(withoutPassword(v.String()), "!!str")
	case reflect.Bool:
		return scalar(fmt.Sprint(v.Bool()), "!!bool")
	case reflect.Float64:
		return scalar(fmt.Sprint(v.Float()), "!!float")
	default:
		return scalar(fmt.Sprint(v.Interface()), "!!int")
	}
}

func appendFields(m *yaml.Node, v reflect.Value) {
	for i := range v.NumField() {
		tag := v.Type().Field(i).Tag.Get("koanf")
		f := v.Field(i)
		switch {
		case strings.Contains(tag, ",squash"):
			appendFields(m, f)
		case tag != "":
			if n := node(f); n != nil {
				m.Content = append(m.Content, scalar(tag, "!!str"), n)
			}
		}
	}
}

// withoutPassword masks the password of an address.
func withoutPassword(text string) string {
	if !strings.Contains(text, "@") {
		return text
	}
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	if _, has := u.User.Password(); !has {
		return text
	}
	name := u.User.Username()
	u.User = nil
	return strings.Replace(u.String(), "://", "://"+url.QueryEscape(name)+":"+secret.Mask+"@", 1)
}
