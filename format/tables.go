package format

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"regexp"
	"sync"
	"time"
	_ "time/tzdata" // zones are wanted where the system has none

	"github.com/cwprelay/cwprelay/event"
)

//go:embed data/threat-categories.json
var threatCategories []byte

//go:embed data/redaction.json
var redactions []byte

// shared is the built-in rules, parsed at the first use.
//
//nolint:gochecknoglobals // Of has no receiver: a record's reading is shared by sinks that do not know each other
var shared = sync.OnceValue(func() *Rules {
	t := newTables()
	return &Rules{tables: t, redactor: t.redactor}
})

// tables is the parsed data of this package.
type tables struct {
	classifier classifier
	redactor   redactor
	actions    map[string]string // what happens to risky processes, to its name in full: made once, not for each event
	texts      keeper[*keptText]
	lists      keeper[*keptList]
	verdicts   keeper[verdict]
	zones      sync.Map // name of a zone to *time.Location, nil for one that does not exist
}

// newTables panics if the embedded files are wrong, which no input can cause.
func newTables() *tables {
	t := &tables{}
	var threats struct{ Categories []threatClass }
	var secrets struct{ Patterns []redaction }
	mustDecode("threat-categories.json", threatCategories, &threats)
	mustDecode("redaction.json", redactions, &secrets)

	t.classifier = classifier{classes: threats.Categories, words: map[string]uint8{}}
	if len(threats.Categories) > 64 {
		panic("format: data/threat-categories.json: more than 64 rows")
	}
	for i := range threats.Categories {
		c := &threats.Categories[i]
		var ok bool
		if c.severity, ok = ParseSeverity(c.Level); !ok {
			panic(fmt.Sprintf("format: data/threat-categories.json: %s: severity %q", c.Category, c.Level))
		}
		c.rule = "category:" + c.Category
		if c.classification = ocsfMalwareClass(c.Classification); c.classification.name == "" {
			c.classification.name = c.Category
		}
		if c.Attack != nil {
			c.technique = []Technique{*c.Attack}
		}
		for _, alias := range c.Aliases {
			if _, taken := t.classifier.words[alias]; !taken {
				t.classifier.words[alias] = uint8(i)
			}
		}
	}
	t.actions = map[string]string{}
	for _, name := range []string{
		string(event.Detected), string(event.Redetected), string(event.StatusChanged), string(event.Reopened), string(event.Closed),
		"killed", "exited", "processed", "trusted", "ignored",
	} {
		t.actions[name] = "risk-process-" + name
	}
	words := &wordFinder{}
	for i := range secrets.Patterns {
		p := &secrets.Patterns[i]
		p.re = regexp.MustCompile(p.Pattern)
		p.hints, p.also = words.add(p.Hints), words.add(p.Also)
		for _, c := range []byte(p.Then) {
			p.then[c] = true
		}
	}
	t.redactor.words, t.redactor.folds = words, words.add([]string{"\u017F", "\u212A"})
	t.redactor.rules = secrets.Patterns
	return t
}

func mustDecode(name string, data []byte, v any) {
	if err := json.Unmarshal(data, v); err != nil {
		panic(fmt.Sprintf("format: data/%s: %v", name, err))
	}
}

// defaultZone is that of the vendor's wall times where a record names none.
const defaultZone = "Asia/Shanghai"

// zone returns a location by its name, nil if there is none of that name.
func (t *tables) zone(name string) *time.Location {
	if name == "" {
		name = defaultZone
	}
	if loc, ok := t.zones.Load(name); ok {
		return loc.(*time.Location) // only this function stores
	}
	loc, err := time.LoadLocation(name)
	if err != nil {
		loc = nil
	}
	t.zones.Store(name, loc)
	return loc
}
