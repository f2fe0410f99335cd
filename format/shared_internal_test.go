package format

import (
	"fmt"
	"strings"
	"testing"
)

// What is kept of a text is what is made of it each time, whatever came before,
// and never more than the bound.
func TestKeptTexts(t *testing.T) {
	var k keeper
	kept := 0
	for i := range 6000 {
		raw := fmt.Sprintf(`"%d \u2028\n 发现木马 \u0000%s"`, i%3000, strings.Repeat("x", 1000+i%3*maxText))
		for range 2 {
			got := k.of(raw)
			if got == nil {
				continue
			}
			kept++
			text, long := cut(textOf(raw), maxText)
			if got.text != text || got.long != long || got.json != string(appendString(nil, text)) {
				t.Fatalf("of %.40s… %+.80v", raw, got)
			}
		}
		if k.size > allKept+3*mostKept {
			t.Fatalf("%d bytes are kept", k.size)
		}
	}
	if kept == 0 {
		t.Error("nothing was kept")
	}
	for _, raw := range []string{`""`, `null`, `"short"`, `"` + strings.Repeat("x", mostKept) + `"`} {
		if k.of(raw) != nil {
			t.Errorf("%.20s is kept", raw)
		}
	}
}

// Texts that are all different are not kept at all after a while.
func TestTextsThatDifferAreNotKept(t *testing.T) {
	var k keeper
	made := 0
	const texts = 20_000
	for i := range texts {
		if k.of(fmt.Sprintf(`"%d%s"`, i, strings.Repeat("x", 4000))) != nil {
			made++
		}
	}
	if made > texts/20 {
		t.Errorf("%d of %d texts were kept though none came twice", made, texts)
	}
	same := `"` + strings.Repeat("y", 100) + `"`
	for range 200_000 {
		k.of(same)
	}
	if k.of(same) == nil {
		t.Error("a text that comes often is never kept")
	}
}
