package format

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What is kept of a text is what is made of it each time, whatever came before,
// and never more than the bound.
func TestKeptTexts(t *testing.T) {
	var k tables
	kept := 0
	for i := range 6000 {
		raw := fmt.Sprintf(`"%d \u2028\n 发现木马 \u0000%s"`, i%3000, strings.Repeat("x", 1000+i%3*maxText))
		for range 2 {
			got := k.textOf(raw)
			if got == nil {
				continue
			}
			kept++
			text, long := cut(textOf(raw), maxText)
			if got.text != text || got.long != long || got.json != string(appendString(nil, text)) {
				t.Fatalf("of %.40s… %+.80v", raw, got)
			}
		}
		if k.texts.size > allKept+3*mostKept {
			t.Fatalf("%d bytes are kept", k.texts.size)
		}
	}
	if kept == 0 {
		t.Error("nothing was kept")
	}
	for _, raw := range []string{`""`, `null`, `"short"`, `"` + strings.Repeat("x", mostKept) + `"`} {
		if k.textOf(raw) != nil {
			t.Errorf("%.20s is kept", raw)
		}
	}
}

// Texts that are all different are not kept at all after a while.
func TestTextsThatDifferAreNotKept(t *testing.T) {
	var k tables
	made := 0
	const texts = 20_000
	for i := range texts {
		if k.textOf(fmt.Sprintf(`"%d%s"`, i, strings.Repeat("x", 4000))) != nil {
			made++
		}
	}
	if made > texts/20 {
		t.Errorf("%d of %d texts were kept though none came twice", made, texts)
	}
	same := `"` + strings.Repeat("y", 100) + `"`
	for range 200_000 {
		k.textOf(same)
	}
	if k.textOf(same) == nil {
		t.Error("a text that comes often is never kept")
	}
}

// What is kept of a list is what is made of it each time, and so is what names
// and tags say of a threat, however they are parted.
func TestKeptListsAndVerdicts(t *testing.T) {
	tables := newTables()
	random := rand.New(rand.NewPCG(1, 2))
	parts := []string{"", "miner", "scan", "ner", "scanner", "Linux.", "Miner", ".Scanner", "1", "7", "x\x0cy"}
	text := func() string {
		b := &strings.Builder{}
		for range random.IntN(3) {
			b.WriteString(parts[random.IntN(len(parts))])
		}
		return b.String()
	}
	kept := 0
	for range 20_000 {
		name, tags := text(), make([]string, random.IntN(3))
		for i := range tags {
			tags[i] = text()
		}
		raw, err := json.Marshal(tags)
		if err != nil {
			t.Fatal(err)
		}
		list := tables.listOf(string(raw))
		want := listOf(string(raw))
		if !slices.Equal(list.texts, want) || !slices.Equal(list.names, engineNames(want)) || list.long {
			t.Fatalf("of %s: %+v", raw, *list)
		}
		if tables.listOf(string(raw)) == list {
			kept++
		}
		got, verdict := tables.classify(name, want), tables.classifier.classify(name, want)
		if got.threat != "" {
			verdict.threat = string(appendThreat(nil, verdict.techniques))
		}
		if !reflect.DeepEqual(got, verdict) {
			t.Fatalf("%q with %q: %+v, want %+v", name, tags, got, verdict)
		}
	}
	if kept < 1000 || tables.verdicts.hits < 1000 {
		t.Errorf("%d lists were kept, and %d verdicts of the last", kept, tables.verdicts.hits)
	}
	for range 3 {
		if list := tables.listOf(`["` + strings.Repeat("y", maxText+1) + `"]`); !list.long || len(list.texts[0]) != maxText {
			t.Errorf("a long text is not cut: %d bytes", len(list.texts[0]))
		}
	}
}
