package config

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// readFile takes the values of a YAML file with the lines they stand in.
func (l *loader) readFile(path string) error {
	if l.text == nil {
		text, err := os.ReadFile(path)
		if err != nil {
			if p, ok := errors.AsType[*os.PathError](err); ok {
				err = p.Err
			}
			return fmt.Errorf("%s: %w", path, err)
		}
		l.text = text
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(l.text, &doc); err != nil {
		return fmt.Errorf("%s: %s", path, strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(doc.Content) == 0 {
		return nil // empty: everything at its default
	}
	l.walk(doc.Content[0], "")
	return nil
}

func (l *loader) at(n *yaml.Node) place {
	return place{text: fmt.Sprintf("%s:%d", filepath.Base(l.path), n.Line), line: n.Line}
}

// The most blocks in each other, and keys in all: aliases of a file may repeat
// what they stand in without end.
const (
	maxDepth = 16
	maxKeys  = 10_000
)

// walk takes what stands under a path.
func (l *loader) walk(n *yaml.Node, path string) {
	if strings.Count(path, ".") >= maxDepth || len(l.places) >= maxKeys {
		if !l.endless {
			l.fail(l.at(n), "%s: too many keys, or blocks in each other: does an alias (*name) stand in what it repeats?", path)
		}
		l.endless = true
		return
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	switch n.Kind {
	case yaml.MappingNode:
		l.mapping(n, path)
	case yaml.SequenceNode:
		if isBlockList(l.typeOf(path)) {
			l.blocks(n, path)
			return
		}
		list := []string{}
		for _, e := range n.Content {
			if e.Kind != yaml.ScalarNode {
				l.fail(l.at(e), "%s: the elements must be plain values", path)
				return
			}
			if text, ok := l.expand(e, path); ok {
				list = append(list, text)
			}
		}
		l.set(path, list, l.at(n))
	case yaml.ScalarNode:
		if path == "" {
			l.fail(l.at(n), "the file must be a block of options")
			return
		}
		if n.Tag == "!!null" {
			l.set(path, nil, l.at(n))
			return
		}
		if text, ok := l.expand(n, path); ok {
			l.set(path, text, l.from(n))
		} else {
			l.set(path, "", l.at(n))
			l.failed[path] = true
		}
	case yaml.DocumentNode, yaml.AliasNode:
	}
}

// blocks takes a list of blocks. Their paths have the number of the block
// behind the name of the list: format.severity[0].tag.
func (l *loader) blocks(n *yaml.Node, path string) {
	l.places[path] = l.at(n)
	for i, e := range n.Content {
		item := fmt.Sprintf("%s[%d]", path, i)
		if e.Kind == yaml.AliasNode {
			e = e.Alias
		}
		if e.Kind != yaml.MappingNode {
			l.fail(l.at(e), "%s: must be a block of options", item)
			continue
		}
		l.mapping(e, item)
	}
}

func (l *loader) mapping(n *yaml.Node, path string) {
	if path != "" {
		l.places[path] = l.at(n)
		if len(n.Content) == 0 {
			l.values[path] = nil
		}
	}
	first := map[string]int{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		full := strings.TrimPrefix(path+"."+key.Value, ".")
		if line, twice := first[key.Value]; twice {
			l.fail(l.at(key), "%s: stands here a second time; the first is in line %d", full, line)
			continue
		}
		first[key.Value] = key.Line
		if strings.ContainsAny(key.Value, ".[]") {
			l.fail(l.at(key), "%s: a key must not hold a dot or a bracket", full)
			continue
		}
		l.walk(value, full)
		if p, ok := l.places[full]; ok {
			p.line, p.text = key.Line, fmt.Sprintf("%s:%d", filepath.Base(l.path), key.Line)
			l.places[full] = p
		}
	}
}

// from is the place of a value, with what it refers to.
func (l *loader) from(n *yaml.Node) place {
	p := l.at(n)
	for _, m := range reference().FindAllString(n.Value, -1) {
		if name, ok := strings.CutPrefix(m, "${"); ok {
			name, _, _ = strings.Cut(strings.TrimSuffix(name, "}"), ":-")
			if file, isFile := strings.CutPrefix(name, "file:"); isFile {
				p.refs = append(p.refs, file)
			} else {
				p.refs = append(p.refs, "$"+name)
			}
		}
	}
	return p
}

// reference finds ${…}, and the $${…} that stands for one.
func reference() *regexp.Regexp { return regexp.MustCompile(`\$?\$\{[^}]*\}`) }

// expand replaces ${VAR}, ${VAR:-default} and ${file:/path} in a value. $${
// stands for ${ itself.
func (l *loader) expand(n *yaml.Node, path string) (string, bool) {
	ok := true
	text := reference().ReplaceAllStringFunc(n.Value, func(m string) string {
		if strings.HasPrefix(m, "$$") {
			return m[1:]
		}
		name := m[2 : len(m)-1]
		if file, isFile := strings.CutPrefix(name, "file:"); isFile {
			l.files = append(l.files, file)
			content, err := readText(file)
			if err != nil {
				l.fail(l.at(n), "%s: %v", path, err)
				ok = false
			}
			return content
		}
		name, fallback, hasFallback := strings.Cut(name, ":-")
		if value, set := l.env[name]; set && (value != "" || !hasFallback) {
			return value
		}
		if !hasFallback {
			l.fail(l.at(n), "%s: the variable %s is not set; set it, or give a default: ${%s:-value}", path, name, name)
			ok = false
		}
		return fallback
	})
	return text, ok
}
