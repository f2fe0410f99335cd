package format_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/format"
)

var update = flag.Bool("update", false, "rewrite the golden files") //nolint:gochecknoglobals // flags of tests are

func TestGolden(t *testing.T) {
	for _, name := range examples() {
		r := example(t, name)
		t.Run(name+"/ecs", func(t *testing.T) {
			golden(t, name+".ecs.json", encode(t, format.ECS, r))
		})
		t.Run(name+"/hec", func(t *testing.T) {
			b, err := format.AppendHEC(nil, r, encode(t, format.Splunk, r), format.HECOptions{Index: "security"})
			if err != nil {
				t.Fatal(err)
			}
			golden(t, name+".hec.json", b)
		})
		t.Run(name+"/ocsf", func(t *testing.T) {
			golden(t, name+".ocsf.json", encode(t, format.OCSF, r))
		})
		for _, f := range []string{format.CEF, format.LEEF} {
			t.Run(name+"/"+f, func(t *testing.T) {
				goldenText(t, name+"."+f+".txt", encode(t, f, r))
			})
		}
	}
}

// golden compares JSON by value.
func golden(t *testing.T, file string, got []byte) {
	t.Helper()
	if *update {
		var b bytes.Buffer
		if err := json.Indent(&b, got, "", "  "); err != nil {
			t.Fatal(err)
		}
		b.WriteByte('\n')
		if err := os.WriteFile(filepath.Join("testdata", file), b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(value(t, read(t, file)), value(t, got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}

// goldenText compares text byte for byte.
func goldenText(t *testing.T, file string, got []byte) {
	t.Helper()
	got = append(got, '\n')
	if *update {
		if err := os.WriteFile(filepath.Join("testdata", file), got, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(string(read(t, file)), string(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", file, diff)
	}
}
