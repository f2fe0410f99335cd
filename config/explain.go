package config

import (
	_ "embed"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v3"
)

//go:embed schema.json
var schema string

// Schema is the JSON Schema (draft 2020-12) of the configuration file, for
// editors.
func Schema() string { return schema }

// A Value is one value in force and where it came from.
type Value struct {
	Path   string `json:"path"`   // "sinks.soc.splunk_hec.url"
	Value  string `json:"value"`  // as config print shows it: secrets masked
	Origin string `json:"origin"` // "cwprelay.yaml:12", "CWPRELAY_LOG__LEVEL", "--log-level" or "default"
	// From names what ${…} at the origin took the value from: "$TOKEN", or the
	// path of a file.
	From []string `json:"from,omitzero"`
}

// Explain reads the configuration as Load does and returns every value in
// force, in order of the paths as Print shows them.
func Explain(opt Options) ([]Value, error) {
	cfg, places, err := load(opt)
	if err != nil {
		return nil, err
	}
	var out []Value
	var walk func(n *yaml.Node, path string, origin place)
	walk = func(n *yaml.Node, path string, origin place) {
		if p, ok := places[path]; ok {
			origin = p
		}
		switch n.Kind {
		case yaml.MappingNode:
			for i := 0; i < len(n.Content); i += 2 {
				key := strings.TrimPrefix(path+"."+n.Content[i].Value, ".")
				inner := place{text: "default"} // a block's own place says nothing of what it leaves out
				walk(n.Content[i+1], key, inner)
			}
		case yaml.SequenceNode:
			var texts []string
			for i, e := range n.Content {
				if e.Kind == yaml.ScalarNode {
					texts = append(texts, e.Value)
					continue
				}
				walk(e, fmt.Sprintf("%s[%d]", path, i), origin)
			}
			if len(texts) == len(n.Content) {
				out = append(out, Value{path, "[" + strings.Join(texts, ", ") + "]", origin.text, origin.refs})
			}
		default:
			out = append(out, Value{path, n.Value, origin.text, origin.refs})
		}
	}
	walk(node(reflect.ValueOf(*cfg)), "", place{text: "default"})
	return out, nil
}
