package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A mistake whose place has changed must be brought up to date with it.
func TestMutationsFitTheProgram(t *testing.T) {
	for _, m := range mutations() {
		if _, err := proofOf(m.proof); err != nil {
			t.Errorf("%s: %v", m.name, err)
		}
		for _, e := range m.edits {
			text, err := os.ReadFile(filepath.Join("..", e.file))
			if err != nil {
				t.Fatal(err)
			}
			if n := strings.Count(string(text), e.from); n != 1 {
				t.Errorf("%s: %s: the text stands there %d times: %q", m.name, e.file, n, e.from)
			}
		}
	}
}
