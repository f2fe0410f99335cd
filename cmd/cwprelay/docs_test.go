package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"

	"go.yaml.in/yaml/v3"

	"github.com/cwprelay/cwprelay/config"
)

// The pages are checked as a reader would use them: commands are run, in order
// and in one shell per page (docs_run_test.go), configurations are loaded, JSON
// is parsed, links are followed. Comments before a block say what a reader
// need not see:
//
//	<!-- setup: COMMANDS -->             run at this place; several lines are fine
//	<!-- background: CONDITION -->       the block runs on; the page goes on when the condition holds
//	<!-- exit: 3 -->                     the exit code of the block's last command
//	<!-- file: NAME -->                  the block is also written to this file
//	<!-- not run: REASON -->             the block cannot be run; see reasons
//	<!-- part of: sinks.hook.webhook --> the YAML stands at this place of a configuration
//	<!-- not cwprelay's: WHOSE -->       the YAML is only parsed
//
// In a console block lines that begin with "$ " are run and the others are
// what they print; … stands for any text, and on a line of its own for lines.

// reasons are all that a block may not be run for.
var reasons = []string{ //nolint:gochecknoglobals // a table
	"needs a container engine",
	"needs a package registry",
	"needs a release",
	"needs another product",
	"needs Kubernetes",
	"needs root",
	"needs systemd",
	"needs the vendor's account",
	"takes minutes",
}

// languages are those that blocks may have. What is neither run nor loaded nor
// parsed is somebody else's, and only shown.
var languages = []string{"sh", "console", "yaml", "json", "text", "ini", "toml", "spl", "go", "python", "http"} //nolint:gochecknoglobals // a table

// A page is a Markdown file.
type page struct {
	name     string // from the root, slashes
	steps    []step
	links    []link
	headings map[string]bool // their anchors
}

// A step is a block, or hidden commands ("setup").
type step struct {
	line  int
	lang  string
	text  string
	marks map[string]string
}

type link struct {
	line   int
	target string
}

func (s step) runs() bool {
	return (s.lang == "sh" || s.lang == "console" || s.lang == "setup") && s.marks["not run"] == ""
}

const root = "../.."

// pages reads every page that people read.
func pages(t *testing.T) []page {
	t.Helper()
	var out []page
	err := filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		base := d.Name()
		if d.IsDir() && name != root && (strings.HasPrefix(base, ".") || base == "testdata" || base == "node_modules") {
			return filepath.SkipDir
		}
		if d.IsDir() || filepath.Ext(base) != ".md" {
			return nil
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		p, err := readPage(filepath.ToSlash(rel), string(text))
		out = append(out, p)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var (
	directive = regexp.MustCompile(`(?s)^(setup|background|exit|file|not run|part of|not cwprelay's):\s*(.*)$`)
	generated = regexp.MustCompile(`^(settings:\w+|options|fields|metrics|end of \w+)$`)
	inline    = regexp.MustCompile("`[^`]*`")
	reference = regexp.MustCompile(`!?\[[^\]]*\]\(([^)\s]+)\)|(?:href|src|srcset)="([^"]+)"`)
	linkText  = regexp.MustCompile(`!?\[([^\]]*)\]\([^)]*\)`)
)

// readPage finds the blocks, links and headings of a page.
func readPage(name, text string) (page, error) {
	p := page{name: name, headings: map[string]bool{}}
	var errs []error
	marks := map[string]string{}
	lines := strings.Split(text, "\n")
	for i := 0; i < len(lines); i++ {
		line, at := strings.TrimSpace(lines[i]), i+1
		fail := func(format string, args ...any) {
			errs = append(errs, fmt.Errorf("%s:%d: %s", name, at, fmt.Sprintf(format, args...)))
		}
		switch {
		case strings.HasPrefix(line, "<!--"):
			comment := line
			for !strings.Contains(comment, "-->") && i+1 < len(lines) {
				i++
				comment += "\n" + lines[i]
			}
			comment = strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(comment, "<!--")), "-->"))
			switch m := directive.FindStringSubmatch(comment); {
			case m == nil && !generated.MatchString(comment):
				fail("a comment that is no directive: %q", comment)
			case m == nil:
			case m[1] == "setup":
				p.steps = append(p.steps, step{line: at, lang: "setup", text: m[2] + "\n"})
			default:
				marks[m[1]] = strings.TrimSpace(m[2])
			}
		case strings.HasPrefix(line, "```"):
			indent := lines[i][:strings.Index(lines[i], "```")]
			s := step{line: at, lang: strings.TrimPrefix(line, "```"), marks: marks}
			for i++; i < len(lines) && strings.TrimSpace(lines[i]) != "```"; i++ {
				s.text += strings.TrimPrefix(lines[i], indent) + "\n"
			}
			if s.lang = strings.TrimSpace(s.lang); s.lang != "" && !slices.Contains(languages, s.lang) {
				fail("a block of the language %q, which is not among %q", s.lang, languages)
			}
			if why := s.marks["not run"]; why != "" && !slices.ContainsFunc(reasons, func(r string) bool { return strings.HasPrefix(why, r) }) {
				fail("%q is no reason not to run a block; there are %q", why, reasons)
			}
			p.steps, marks = append(p.steps, s), map[string]string{}
		case line == "":
		default:
			if len(marks) > 0 {
				fail("directives without a block: %q", slices.Sorted(maps.Keys(marks)))
				marks = map[string]string{}
			}
			if strings.HasPrefix(line, "#") {
				p.headings[p.anchor(strings.TrimLeft(line, "# "))] = true
			}
			for _, m := range reference.FindAllStringSubmatch(inline.ReplaceAllString(line, ""), -1) {
				p.links = append(p.links, link{at, m[1] + m[2]})
			}
		}
	}
	return p, errors.Join(errs...)
}

// anchor is what a code host makes of a heading.
func (p page) anchor(heading string) string {
	heading = linkText.ReplaceAllString(heading, "$1")
	slug := strings.Map(func(r rune) rune {
		switch {
		case r == ' ':
			return '-'
		case unicode.IsLetter(r) || unicode.IsDigit(r) || r == '-' || r == '_':
			return unicode.ToLower(r)
		default:
			return -1
		}
	}, heading)
	unique := slug
	for n := 1; p.headings[unique]; n++ {
		unique = fmt.Sprintf("%s-%d", slug, n)
	}
	return unique
}

// TestDocsLinksLeadSomewhere follows the links from page to page and to files
// of the repository.
func TestDocsLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	all := map[string]page{}
	for _, p := range pages(t) {
		all[p.name] = p
	}
	checked := 0
	for _, p := range all {
		for _, l := range p.links {
			if strings.Contains(l.target, "://") || strings.HasPrefix(l.target, "mailto:") {
				continue
			}
			checked++
			file, anchor, _ := strings.Cut(l.target, "#")
			name := p.name
			if file != "" {
				name = path.Join(path.Dir(p.name), file)
			}
			if _, err := os.Stat(filepath.Join(root, filepath.FromSlash(name))); err != nil {
				t.Errorf("%s:%d: %s leads nowhere", p.name, l.line, l.target)
				continue
			}
			if to, ok := all[name]; anchor != "" && (!ok || !to.headings[anchor]) {
				t.Errorf("%s:%d: %s has no heading #%s", p.name, l.line, name, anchor)
			}
		}
	}
	if checked < 50 {
		t.Errorf("only %d links were found", checked)
	}
}

// TestDocsExamplesAreValid loads what is shown as a configuration, and parses
// what is shown as YAML or JSON of others.
func TestDocsExamplesAreValid(t *testing.T) {
	t.Parallel()
	loaded, parsed := 0, 0
	for _, p := range pages(t) {
		place := newPlaces(t, p)
		for _, s := range p.steps {
			var err error
			switch {
			case s.lang == "yaml" && s.marks["not cwprelay's"] != "":
				parsed++
				err = parse(yaml.NewDecoder(strings.NewReader(s.text)))
			case s.lang == "yaml":
				loaded++
				err = loadExample(t, place, s)
			case s.lang == "json":
				parsed++
				err = parse(json.NewDecoder(strings.NewReader(s.text)))
			}
			if err != nil {
				t.Errorf("%s:%d: %v\n%s", p.name, s.line, err, s.text)
			}
		}
	}
	t.Logf("%d configurations loaded, %d other examples parsed", loaded, parsed)
	if loaded < 20 {
		t.Errorf("only %d configurations were found", loaded)
	}
}

// parse reads all documents of a text.
func parse(d interface{ Decode(v any) error }) error {
	for {
		var doc any
		if err := d.Decode(&doc); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// loadExample loads a configuration, of which only a part may be shown: what is
// required and missing is added.
func loadExample(t *testing.T, place places, s step) error {
	t.Helper()
	var shown any
	if err := yaml.Unmarshal([]byte(place.here(s.text)), &shown); err != nil {
		return err
	}
	if at := s.marks["part of"]; at != "" {
		for _, key := range slices.Backward(strings.Split(at, ".")) {
			shown = map[string]any{key: shown}
		}
	}
	base := map[string]any{
		"sources": map[string]any{"prod": map[string]any{"site": "intl"}},
		"sinks":   map[string]any{"screen": map[string]any{"stdout": map[string]any{}}},
	}
	doc, ok := shown.(map[string]any)
	if !ok && shown != nil {
		return fmt.Errorf("a list or a text is no configuration")
	}
	for key, value := range base {
		if doc == nil {
			doc = map[string]any{}
		}
		if doc[key] == nil {
			doc[key] = value
		}
	}
	if s.marks["part of"] == "sinks.hook.webhook" {
		doc["sinks"].(map[string]any)["hook"].(map[string]any)["webhook"].(map[string]any)["url"] = "https://receiver.example/"
	}
	text, err := yaml.Marshal(doc)
	if err != nil {
		return err
	}
	file := filepath.Join(t.TempDir(), "cwprelay.yaml")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	_, err = config.Load(config.Options{Path: file, Environ: place.variables()})
	return err
}

// spans are the commands inside of sentences and tables.
var spans = regexp.MustCompile("`((?:cwprelay|config|deadletter|log-level|normalize|reconcile|replay|sinks|state|status|trace) [^`]+)`")

// TestDocsNameVerbsThatExist asks the program for help on each command that a
// sentence or table names, and looks for its flags there.
func TestDocsNameVerbsThatExist(t *testing.T) {
	t.Parallel()
	found := 0
	for _, p := range pages(t) {
		text, err := os.ReadFile(filepath.Join(root, filepath.FromSlash(p.name)))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range spans.FindAllStringSubmatch(string(text), -1) {
			found++
			if err := verbExists(t, strings.TrimPrefix(m[1], "cwprelay ")); err != nil {
				t.Errorf("%s: `%s`: %v", p.name, m[1], err)
			}
		}
	}
	if found < 50 {
		t.Errorf("only %d commands were found", found)
	}
}

var (
	flagName = regexp.MustCompile(`^--?[a-z]`)
	verbName = regexp.MustCompile(`^[a-z][a-z|-]*$`)
)

// verbExists looks for the verbs and flags of a command; verbs with a bar
// between them are several.
func verbExists(t *testing.T, command string) error {
	t.Helper()
	var verbs, flags []string
	for i, word := range strings.Fields(command) {
		switch {
		case flagName.MatchString(word):
			name, _, _ := strings.Cut(word, "=")
			flags = append(flags, name)
		case verbName.MatchString(word) && len(verbs) == i && i < 2:
			verbs = append(verbs, word)
		}
	}
	if len(verbs) == 0 {
		return nil // a text, such as the start of a line of the log
	}
	alternatives := []string{""}
	if len(verbs) == 2 {
		alternatives = strings.Split(verbs[1], "|")
	}
	for _, last := range alternatives {
		help := helpOn(t, verbs[0], last)
		_, usage, _ := strings.Cut(help, "Usage:\n  ")
		usage, _, _ = strings.Cut(usage, "\n")
		switch {
		case !strings.HasPrefix(usage, "cwprelay "+verbs[0]):
			return fmt.Errorf("there is no verb %s", verbs[0])
		case last != "" && strings.Contains(usage, "[command]"):
			return fmt.Errorf("%s has no verb %s", verbs[0], last)
		}
		for _, f := range flags {
			if !regexp.MustCompile(`(?m)^ .*` + f + `\b`).MatchString(help) {
				return fmt.Errorf("there is no flag %s", f)
			}
		}
	}
	return nil
}

// helpOn is what the program prints of a command.
func helpOn(t *testing.T, verbs ...string) string {
	t.Helper()
	var out strings.Builder
	args := append(slices.DeleteFunc(verbs, func(v string) bool { return v == "" }), "--help")
	if code := run(t.Context(), process{args: args, stdin: strings.NewReader(""), stdout: &out, stderr: &out}); code != exitDone {
		t.Errorf("help on %q ends with %d:\n%s", args, code, out.String())
	}
	return out.String()
}
