package format_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/format"
)

// The pages show every field of the format as it is.
func TestPages(t *testing.T) {
	for _, name := range format.Names() {
		page := filepath.Join("..", "docs", "formats", name+".md")
		list := format.Fields(name, format.Config{})
		if len(list) == 0 {
			continue // shown on the page of all formats
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Error(err)
			continue
		}
		var table strings.Builder
		table.WriteString("| field | made of | example |\n| --- | --- | --- |\n")
		for _, f := range list {
			from := "`" + strings.Join(f.From, "`, `") + "`"
			if len(f.From) == 0 {
				from = "always the same"
			}
			fmt.Fprintf(&table, "| `%s` | %s | %s |\n", f.Name, from, exampleCell(f.Example))
		}
		start, end := "<!-- fields -->\n", "<!-- end of fields -->"
		before, rest, found := strings.Cut(string(text), start)
		_, after, closed := strings.Cut(rest, end)
		if !found || !closed {
			t.Errorf("%s lacks the marks of its fields", page)
			continue
		}
		want := before + start + table.String() + end + after
		if *update {
			if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
		} else if want != string(text) {
			t.Errorf("%s does not show the fields as they are: go test ./format -run Pages -update", page)
		}
	}
}

// exampleCell shows a value in a table.
func exampleCell(text string) string {
	if strings.HasPrefix(text, "[{") {
		return "a list of objects"
	}
	if runes := []rune(text); len(runes) > 60 {
		text = string(runes[:60]) + "…"
	}
	if text == "" {
		return ""
	}
	return "`" + strings.NewReplacer("|", `\|`, "`", "'").Replace(text) + "`"
}

// The add-on for Splunk gives each list its plain name.
func TestAddOnKnowsTheLists(t *testing.T) {
	props, err := os.ReadFile(filepath.Join("..", "deploy", "splunk", "TA-tencent-cwp", "default", "props.conf"))
	if err != nil {
		t.Fatal(err)
	}
	lists := 0
	for _, f := range format.Fields(format.Splunk, format.Config{}) {
		if !strings.HasPrefix(f.Example, "[") {
			continue
		}
		lists++
		if want := fmt.Sprintf("%q AS %s\n", f.Name+"{}", f.Name); !strings.Contains(string(props), want) {
			t.Errorf("props.conf lacks %s", want)
		}
	}
	if lists < 4 {
		t.Errorf("%d lists", lists)
	}
}
