package format

import (
	"math/bits"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// A Technique is an entry of MITRE ATT&CK that a virus name or tag points at.
type Technique struct {
	ID      string   `json:"id"` // "T1496"
	Name    string   `json:"name"`
	SubID   string   `json:"sub_id"` // "T1496.001"; empty where the technique itself is meant
	SubName string   `json:"sub_name"`
	Tactics []Tactic `json:"tactics"` // may be empty
}

// A Tactic is the purpose of a Technique.
type Tactic struct {
	ID   string `json:"id"` // "TA0040"
	Name string `json:"name"`
}

// MostExact returns the id of the sub-technique, or of the technique where
// there is none.
func (t Technique) MostExact() string {
	if t.SubID != "" {
		return t.SubID
	}
	return t.ID
}

// Reference returns the page of the technique at attack.mitre.org.
func (t Technique) Reference() string {
	return "https://attack.mitre.org/techniques/" + t.ID + "/"
}

// SubReference returns the page of the sub-technique; empty if there is none.
func (t Technique) SubReference() string {
	if t.SubID == "" {
		return ""
	}
	return "https://attack.mitre.org/techniques/" + strings.Replace(t.SubID, ".", "/", 1) + "/"
}

// Reference returns the page of the tactic at attack.mitre.org.
func (t Tactic) Reference() string {
	return "https://attack.mitre.org/tactics/" + t.ID + "/"
}

// A threatClass is a row of data/threat-categories.json.
type threatClass struct {
	Category string     `json:"category"`
	Level    string     `json:"severity"`
	Aliases  []string   `json:"aliases"`
	Attack   *Technique `json:"attack"`
	// Classification is an id of OCSF's malware classifications.
	Classification int64 `json:"ocsf_malware_classification_id"`

	classification caption
	rule           string      // "category:miner"
	severity       Severity    // of Level
	technique      []Technique // Attack as a list
}

// A classifier finds the rows that words of tags and virus names belong to.
// There are at most 64 rows: a set of them is a word.
type classifier struct {
	classes []threatClass    // in order of precedence
	words   map[string]uint8 // alias to index
}

// A verdict is what a classifier says of a finding.
type verdict struct {
	category   string
	severity   Severity
	rule       string // which row decided: "category:miner", or "default"
	match      string // the tag or part of the virus name that led to it
	techniques []Technique
	threat     string // techniques as ECS wants them; empty where that was not kept

	classification caption
}

// classify looks for tags, whole, and for the parts of the virus name between
// dots, whole and split at what is neither letter nor digit. The first row
// with a match decides category and severity; every row with a match adds its
// technique.
func (c *classifier) classify(virusName string, tags []string) verdict {
	var m matches
	var buf [64]byte
	for _, tag := range tags {
		m.add(c, normalize(buf[:0], tag), tag)
	}
	for segment := range strings.SplitSeq(virusName, ".") {
		m.add(c, normalize(buf[:0], segment), segment)
		splitWords(segment, func(word string) { m.add(c, normalize(buf[:0], word), word) })
	}
	if m.set == 0 {
		return verdict{category: unknown, severity: Medium, rule: "default", classification: caption{0, "Unknown"}}
	}
	first := &c.classes[bits.TrailingZeros64(m.set)]
	return verdict{
		category: first.Category, severity: first.severity, rule: first.rule, match: m.by,
		techniques: c.techniques(m.set), classification: first.classification,
	}
}

// matches are the rows that were found.
type matches struct {
	set uint64
	by  string // what led to the first of them
}

func (m *matches) add(c *classifier, word []byte, by string) {
	row, ok := c.words[string(word)]
	if !ok {
		return
	}
	if m.set == 0 || int(row) < bits.TrailingZeros64(m.set) {
		m.by = by
	}
	m.set |= 1 << row
}

// techniques collects those of a set of rows. The result is shared where one
// row has it, so nobody may change it.
func (c *classifier) techniques(set uint64) []Technique {
	var found []Technique
	for ; set != 0; set &= set - 1 {
		class := &c.classes[bits.TrailingZeros64(set)]
		switch {
		case class.technique == nil:
		case found == nil:
			found = class.technique
		default:
			found = append(slices.Clip(found), class.technique...)
		}
	}
	return found
}

// normalize appends s in lower case, with underscores for spaces and hyphens.
func normalize(dst []byte, s string) []byte {
	for _, r := range s {
		switch r {
		case ' ', '-':
			dst = append(dst, '_')
		default:
			dst = utf8.AppendRune(dst, unicode.ToLower(r))
		}
	}
	return dst
}

// splitWords calls f for each run of letters and digits, if there are several
// or s is more than one.
func splitWords(s string, f func(word string)) {
	start := -1
	for i, r := range s {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 {
			f(s[start:i])
		}
		start = -1
	}
	if start > 0 {
		f(s[start:])
	}
}
