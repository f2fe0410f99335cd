package config_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/format"
)

const module = "github.com/cwprelay/cwprelay/"

// A described option: what its comment says.
type comments map[string]string // by package folder, type and key

// readComments reads the comments of every option of a package's structs.
func (c comments) read(t *testing.T, folder string) {
	t.Helper()
	if _, ok := c[folder]; ok {
		return
	}
	c[folder] = ""
	files, err := filepath.Glob(filepath.Join("..", folder, "*.go"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no files in %s: %v", folder, err)
	}
	for _, file := range files {
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			spec, ok := n.(*ast.TypeSpec)
			if !ok {
				return true
			}
			c[folder+"."+spec.Name.Name] = strings.Join(strings.Fields(spec.Doc.Text()), " ")
			st, ok := spec.Type.(*ast.StructType)
			if !ok {
				return true
			}
			for _, f := range st.Fields.List {
				if f.Tag == nil {
					continue
				}
				key := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("koanf")
				text := strings.TrimSpace(f.Comment.Text())
				if text == "" {
					text = strings.TrimSpace(f.Doc.Text())
				}
				c[folder+"."+spec.Name.Name+"."+key] = strings.Join(strings.Fields(text), " ")
			}
			return true
		})
	}
}

// An option is one key of the configuration.
type option struct {
	path, env, kind, text string
}

// A generator makes the schema and the reference of the types.
type generator struct {
	t       *testing.T
	doc     comments
	options []option
}

var unmarshaler = reflect.TypeFor[interface{ UnmarshalText([]byte) error }]() //nolint:gochecknoglobals // a type

// choices are the options with a fixed set of values.
func choices(path string) []string {
	_, key, _ := strings.Cut(path, ".NAME.")
	switch {
	case path == "log.level":
		return []string{"debug", "info", "warn", "error"}
	case path == "log.format":
		return []string{"auto", "json", "console"}
	case strings.HasPrefix(path, "sinks.NAME.") && key == "format":
		return format.Names()
	case key == "on_full":
		return []string{"pause", "skip"}
	case key == "start_from":
		return []string{"oldest", "now"}
	case key == "site":
		return []string{"intl", "cn"}
	case key == "backfill":
		return []string{"emit", "silent"}
	case key == "handle_status_dialect":
		return []string{"record", "filter"}
	case key == "credentials.provider":
		return []string{"env", "static", "file", "profile", "cvm_role", "tke_oidc", "assume_role"}
	}
	return nil
}

const reference = `\$\{[^}]+\}` // a value that is taken from elsewhere

func (g *generator) of(typ reflect.Type, path, text string) map[string]any {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	kind := ""
	s := map[string]any{}
	if text != "" {
		s["description"] = text
	}
	scalar := []any{"string", "number", "boolean"}
	switch {
	case reflect.PointerTo(typ).Implements(unmarshaler):
		kind = "text"
		s["type"] = scalar
		if typ.Kind() == reflect.Slice {
			kind = "text or list"
			s["type"] = append(scalar, "array")
			s["items"] = map[string]any{"type": scalar}
		}
	case typ == reflect.TypeFor[time.Duration]():
		kind = "duration"
		s["type"], s["pattern"] = "string", `^(0|-?([0-9.]+(ns|us|µs|ms|s|m|h))+|.*`+reference+`.*)$`
	case typ.Kind() == reflect.Struct:
		return g.block(typ, path, s)
	case typ.Kind() == reflect.Map && typ.Elem().Kind() != reflect.String:
		s["type"] = []any{"object", "null"}
		if path != "sources" && path != "sinks" {
			s["additionalProperties"] = g.of(typ.Elem(), path+".NAME", text)
			return s
		}
		s["additionalProperties"] = g.of(typ.Elem(), path+".NAME", "")
		s["propertyNames"] = map[string]any{"pattern": "^[a-z0-9]([a-z0-9-]|_[a-z0-9-])*_?$"}
		return s
	case typ.Kind() == reflect.Map:
		kind = "block of texts"
		s["type"], s["additionalProperties"] = []any{"object", "null"}, map[string]any{"type": scalar}
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct && !reflect.PointerTo(typ.Elem()).Implements(unmarshaler):
		s["type"], s["items"] = "array", g.of(typ.Elem(), path+"[]", "")
		return s
	case typ.Kind() == reflect.Slice:
		kind = "list of texts"
		s["type"], s["items"] = append(scalar, "array"), map[string]any{"type": scalar}
	case typ.Kind() == reflect.Int64:
		kind = "size"
		s["type"], s["pattern"] = []any{"integer", "string"}, `^([0-9.]+ *([KMGTkmgt]i?)?[Bb]?|.*`+reference+`.*)$`
	case typ.Kind() == reflect.Bool:
		kind = "true or false"
		s["type"], s["pattern"] = []any{"boolean", "string"}, `^(true|false|.*`+reference+`.*)$`
	case typ.Kind() == reflect.Int:
		kind = "whole number"
		s["type"], s["pattern"] = []any{"integer", "string"}, `^(-?[0-9]+|.*`+reference+`.*)$`
	case typ.Kind() == reflect.Float64:
		kind = "number"
		s["type"], s["pattern"] = []any{"number", "string"}, `^(-?[0-9.]+|.*`+reference+`.*)$`
	case typ.Kind() == reflect.String:
		kind = "text"
		s["type"] = scalar
		if list := choices(path); list != nil {
			kind = "`" + strings.Join(list, "`, `") + "`"
			delete(s, "type")
			s["anyOf"] = []any{map[string]any{"enum": list}, map[string]any{"type": "string", "pattern": reference}}
		}
	default:
		g.t.Fatalf("%s: what is a %s?", path, typ)
	}
	env := "CWPRELAY_" + strings.ToUpper(strings.NewReplacer(".", "__", "[]", "").Replace(path))
	if strings.Contains(path, "[]") {
		env = ""
	}
	g.options = append(g.options, option{path, env, kind, text})
	return s
}

func (g *generator) block(typ reflect.Type, path string, s map[string]any) map[string]any {
	s["type"], s["additionalProperties"] = []any{"object", "null"}, false
	props := map[string]any{}
	g.fields(typ, path, props)
	s["properties"] = props
	if path == "sinks.NAME" {
		var one []any
		for _, kind := range kinds() {
			one = append(one, map[string]any{"required": []string{kind}})
		}
		s["oneOf"], s["type"] = one, "object"
	}
	return s
}

// kinds are those of sinks.
func kinds() []string {
	var out []string
	for kind := range structsOfKinds() {
		out = append(out, kind)
	}
	out = append(out, "stdout")
	slices.Sort(out)
	return out
}

func (g *generator) fields(typ reflect.Type, path string, props map[string]any) {
	for typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	folder := strings.TrimPrefix(typ.PkgPath(), module)
	g.doc.read(g.t, folder)
	for f := range typ.Fields() {
		tag := f.Tag.Get("koanf")
		switch {
		case strings.Contains(tag, ",squash"):
			g.fields(f.Type, path, props)
		case tag != "":
			key := strings.TrimPrefix(path+"."+tag, ".")
			text := g.doc[folder+"."+typ.Name()+"."+tag]
			inner := f.Type
			for inner.Kind() == reflect.Pointer || inner.Kind() == reflect.Map || inner.Kind() == reflect.Slice {
				inner = inner.Elem()
			}
			if text == "" && inner.PkgPath() != "" && strings.HasPrefix(inner.PkgPath(), module) {
				g.doc.read(g.t, strings.TrimPrefix(inner.PkgPath(), module))
				text = g.doc[strings.TrimPrefix(inner.PkgPath(), module)+"."+inner.Name()]
			}
			if text == "" && inner.Kind() != reflect.Struct {
				g.t.Errorf("%s.%s: the option %s has no comment", typ.PkgPath(), typ.Name(), key)
			}
			props[tag] = g.of(f.Type, key, text)
		}
	}
}

func generate(t *testing.T) (schema []byte, options []option) {
	t.Helper()
	g := &generator{t: t, doc: comments{}}
	root := g.of(reflect.TypeFor[config.Config](), "", "The configuration of cwprelay.")
	root["$schema"], root["title"] = "https://json-schema.org/draft/2020-12/schema", "cwprelay"
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(root); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), g.options
}

// The schema in the program, and the reference in the documentation, are made
// of the types that the configuration is read into.
func TestPagesOfTheConfiguration(t *testing.T) {
	schema, options := generate(t)
	if *update {
		if err := os.WriteFile("schema.json", schema, 0o600); err != nil {
			t.Fatal(err)
		}
	} else if string(schema) != config.Schema() {
		t.Error("schema.json is not that of the types: go test ./config -run Pages -update")
	}
	var table strings.Builder
	section := ""
	sections := strings.NewReplacer("[]", "")
	for _, o := range options {
		parts := strings.Split(sections.Replace(o.path), ".")
		name := parts[0]
		if len(parts) > 2 && parts[0] == "sinks" && slices.Contains(kinds(), parts[2]) {
			continue // on the page of its kind
		}
		if name != section {
			section = name
			fmt.Fprintf(&table, "\n### %s\n\n| key | variable | value | meaning |\n| --- | --- | --- | --- |\n", section)
		}
		env := "–"
		if o.env != "" {
			env = "`" + o.env + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", o.path, env, o.kind, strings.ReplaceAll(o.text, "|", "\\|"))
	}
	page := filepath.Join("..", "docs", "configuration.md")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	start, end := "<!-- options -->\n", "\n<!-- end of options -->"
	before, rest, found := strings.Cut(string(text), start)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s lacks its marks", page)
	}
	switch want := before + start + table.String() + end + after; {
	case *update:
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	case want != string(text):
		t.Errorf("%s does not show the options as they are: go test ./config -run Pages -update", page)
	}
}

func compiled(t *testing.T) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(strings.NewReader(config.Schema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("cwprelay.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("cwprelay.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// against validates YAML as an editor does.
func against(s *jsonschema.Schema, text string) error {
	var v any
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		return err
	}
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		return err
	}
	return s.Validate(doc)
}

// The sample, all of it, and every configuration in the documentation is valid
// by the schema.
func TestSamplesAreValidByTheSchema(t *testing.T) {
	s := compiled(t)
	if err := against(s, config.Example()); err != nil {
		t.Errorf("the sample: %v", err)
	}
	var pages []string
	for _, pattern := range []string{"../README.md", "../docs/*.md", "../docs/*/*.md"} {
		list, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, list...)
	}
	block := regexp.MustCompile("(?s)```yaml\n(.*?)```")
	checked := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range block.FindAllStringSubmatch(string(text), -1) {
			var v map[string]any
			if yaml.Unmarshal([]byte(m[1]), &v) != nil || v["sinks"] == nil && v["sources"] == nil && v["format"] == nil {
				continue // a piece of one
			}
			checked++
			if err := against(s, m[1]); err != nil {
				t.Errorf("%s:\n%s\n%v", page, m[1], err)
			}
		}
	}
	if checked < 8 {
		t.Errorf("only %d configurations found in the documentation", checked)
	}
}

// Where the structure is wrong, editor and program agree.
func TestSchemaRefusesWhatTheLoaderRefuses(t *testing.T) {
	s := compiled(t)
	const source = "sources: {prod: {endpoint: 'http://127.0.0.1:1', credentials: {provider: env}}}\n"
	for name, tt := range map[string]struct {
		text string
		ok   bool
	}{
		"good":                      {source + "sinks: {a: {stdout: }, b: {file: {path: x}, format: cef, batch_records: 7}}", true},
		"taken from elsewhere":      {source + "sinks: {a: {stdout: , batch_records: '${N:-7}', start_from: '${FROM:-now}'}}\nstate: {max_bytes: '${SIZE:-1GiB}', retention: '${KEEP:-24h}'}", true},
		"unknown key":               {source + "sinks: {a: {stdout: , formt: ecs}}", false},
		"unknown block":             {source + "sinks: {a: {stdout: }}\nstat: {dir: x}", false},
		"two kinds":                 {source + "sinks: {a: {stdout: , file: {path: x}}}", false},
		"no kind":                   {source + "sinks: {a: {format: ecs}}", false},
		"list for one value":        {source + "sinks: {a: {stdout: , format: [ecs, cef]}}", false},
		"no duration":               {source + "sinks: {a: {stdout: }}\nstate: {retention: often}", false},
		"no size":                   {source + "sinks: {a: {stdout: }}\nstate: {max_bytes: large}", false},
		"no number":                 {source + "sinks: {a: {stdout: , batch_records: many}}", false},
		"wrong choice":              {source + "sinks: {a: {stdout: }}\nlog: {level: loud}", false},
		"name that cannot be":       {source + "sinks: {A B: {stdout: }}", false},
		"value in place of a block": {source + "sinks: {a: {file: out.jsonl}}", false},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "c.yaml")
			if err := os.WriteFile(path, []byte(tt.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, loadErr := config.Load(config.Options{Path: path})
			schemaErr := against(s, tt.text)
			if (loadErr == nil) != tt.ok || (schemaErr == nil) != tt.ok {
				t.Errorf("want ok %v\nloader: %v\nschema: %v", tt.ok, loadErr, schemaErr)
			}
		})
	}
}

// Each value is told with its origin, and no secret is.
func TestExplainSaysWhereValuesComeFrom(t *testing.T) {
	dir := t.TempDir()
	secretFile := filepath.Join(dir, "token")
	if err := os.WriteFile(secretFile, []byte("s3cret-of-file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "c.yaml")
	text := "sources:\n  prod:\n    endpoint: http://127.0.0.1:1\nsinks:\n  soc:\n    splunk_hec:\n      url: https://splunk:8088\n      proxy: http://u:s3cret-of-url@proxy:3128\n      token: ${file:" + secretFile + "}\n    when: ${WHEN:-open}\n  out:\n    stdout:\n    format: ecs\nstate:\n  retention: 1h\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	values, err := config.Explain(config.Options{
		Path: path, Environ: []string{"CWPRELAY_SINKS__OUT__FORMAT=raw", "CWPRELAY_STATE__RETENTION=2h"}, Flags: map[string]string{"state.retention": "3h"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, v := range values {
		got[v.Path] = v.Value + " | " + v.Origin + " | " + strings.Join(v.From, ",")
	}
	for path, want := range map[string]string{
		"sinks.soc.splunk_hec.token": secret.Mask + " | c.yaml:9 | " + secretFile,
		"sinks.soc.when":             "open | c.yaml:10 | $WHEN",
		"sinks.out.format":           "raw | CWPRELAY_SINKS__OUT__FORMAT | ",
		"state.retention":            "3h0m0s | --state-retention | ",
		"log.level":                  "info | default | ",
		"sinks.soc.format":           "splunk | default | ",
		"sources.prod.endpoint":      "http://127.0.0.1:1 | c.yaml:3 | ",
	} {
		if got[path] != want {
			t.Errorf("%s: %q, want %q", path, got[path], want)
		}
	}
	if all := fmt.Sprint(slices.Collect(maps.Values(got))); strings.Contains(all, "s3cret") {
		t.Errorf("a secret is told: %s", all)
	}
}
