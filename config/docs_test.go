package config_test

import (
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/sinks/all"
)

var update = flag.Bool("update", false, "write the tables of settings in docs/sinks anew") //nolint:gochecknoglobals // a flag of the tests

// A structs is the struct types of some packages, by package and name.
type structs map[string]*ast.StructType

func readStructs(t *testing.T, dirs ...string) structs {
	t.Helper()
	out := structs{}
	for _, dir := range dirs {
		files, err := filepath.Glob(filepath.Join("../sinks", dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			ast.Inspect(parsed, func(n ast.Node) bool {
				if spec, ok := n.(*ast.TypeSpec); ok {
					if st, ok := spec.Type.(*ast.StructType); ok {
						out[parsed.Name.Name+"."+spec.Name.Name] = st
					}
				}
				return true
			})
		}
	}
	return out
}

// rows are the settings of a struct, nested ones included.
func (s structs) rows(t *testing.T, pkg, name, path string) [][2]string {
	t.Helper()
	st := s[pkg+"."+name]
	if st == nil {
		t.Fatalf("there is no struct %s.%s", pkg, name)
	}
	var out [][2]string
	for _, f := range st.Fields.List {
		if f.Tag == nil {
			continue
		}
		key := reflect.StructTag(strings.Trim(f.Tag.Value, "`")).Get("koanf")
		if key == "" || key == "-" {
			continue
		}
		if typ, ok := f.Type.(*ast.Ident); ok && s[pkg+"."+typ.Name] != nil {
			out = append(out, s.rows(t, pkg, typ.Name, path+key+".")...)
			continue
		}
		if sel, ok := f.Type.(*ast.SelectorExpr); ok && fmt.Sprint(sel.X) == "httpx" {
			out = append(out, s.rows(t, "httpx", sel.Sel.Name, path+key+".")...)
			continue
		}
		text := strings.TrimSpace(f.Comment.Text())
		if text == "" {
			text = strings.TrimSpace(f.Doc.Text())
		}
		if text == "" {
			t.Errorf("%s.%s%s has no comment that says what it is", pkg, path, key)
		}
		out = append(out, [2]string{path + key, strings.Join(strings.Fields(text), " ")})
	}
	return out
}

// TestPagesShowEverySetting compares the tables in docs/sinks with the Config
// types.
func TestPagesShowEverySetting(t *testing.T) {
	all := structsOfKinds()
	for kind, of := range all {
		page := filepath.Join("../docs/sinks", kind+".md")
		text, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			continue
		}
		s := readStructs(t, of.pkg, "internal/httpx")
		var table strings.Builder
		fmt.Fprintf(&table, "| setting | environment | meaning |\n| --- | --- | --- |\n")
		for _, row := range s.rows(t, of.name, "Config", "") {
			env := "CWPRELAY_SINKS__NAME__" + strings.ToUpper(kind+"__"+strings.ReplaceAll(row[0], ".", "__"))
			fmt.Fprintf(&table, "| `%s` | `%s` | %s |\n", row[0], env, strings.ReplaceAll(row[1], "|", "\\|"))
		}
		start, end := "<!-- settings:"+kind+" -->\n", "<!-- end of settings -->"
		before, rest, found := strings.Cut(string(text), start)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Errorf("%s lacks the marks of its settings", page)
			continue
		}
		want := before + start + table.String() + end + after
		if *update {
			if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if want != string(text) {
			t.Errorf("%s does not show the settings as they are: go test ./config -run Pages -update", page)
		}
	}
}

// structsOfKinds are the packages of the kinds that have settings.
func structsOfKinds() map[string]struct{ pkg, name string } {
	out := map[string]struct{ pkg, name string }{}
	for f := range reflect.TypeFor[all.Config]().Fields() {
		kind := f.Tag.Get("koanf")
		if kind == all.Stdout {
			continue // none
		}
		pkg := filepath.Base(f.Type.Elem().PkgPath())
		out[kind] = struct{ pkg, name string }{pkg, pkg}
	}
	return out
}
