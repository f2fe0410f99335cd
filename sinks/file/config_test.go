package file_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/sinks/file"
)

func TestMistakes(t *testing.T) {
	for name, x := range map[string]struct {
		cfg  file.Config
		want []string
	}{
		"least":          {file.Config{Path: "a.jsonl"}, nil},
		"all":            {file.Config{Path: "/var/log/a.jsonl", Rotate: file.Rotate{MaxBytes: 1 << 30, Keep: 3}, Fsync: "none", Mode: "0600"}, nil},
		"nothing":        {file.Config{}, []string{"path"}},
		"directory":      {file.Config{Path: "/var/log/"}, []string{"path"}},
		"zero byte":      {file.Config{Path: "a\x00b"}, []string{"path"}},
		"unquoted mode":  {file.Config{Path: "a", Mode: "416"}, []string{"mode"}},
		"no mode":        {file.Config{Path: "a", Mode: "0999"}, []string{"mode"}},
		"useless mode":   {file.Config{Path: "a", Mode: "0444"}, []string{"mode"}},
		"by age":         {file.Config{Path: "a", Rotate: file.Rotate{After: time.Hour, Compress: "gzip", Keep: 3, KeepDays: 30}}, nil},
		"useless rotate": {file.Config{Path: "a", Rotate: file.Rotate{Compress: "gzip", KeepDays: 3}}, []string{"rotate.keep_days", "rotate.compress"}},
		"odd rotate": {
			file.Config{Path: "a", Rotate: file.Rotate{After: time.Second, Compress: "zip", KeepDays: -1}},
			[]string{"rotate.after", "rotate.compress", "rotate.keep_days"},
		},
		"useless keep":    {file.Config{Path: "a", Rotate: file.Rotate{Keep: 3}}, []string{"rotate.keep"}},
		"everything else": {file.Config{Fsync: "often", Mode: "x", Rotate: file.Rotate{MaxBytes: 1, Keep: -1}}, []string{"path", "fsync", "mode", "rotate.max_bytes", "rotate.keep"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			if err := x.cfg.Validate(); err != nil {
				for line := range strings.SplitSeq(err.Error(), "\n") {
					key, _, _ := strings.Cut(line, ": ")
					got = append(got, key)
				}
			}
			if diff := cmp.Diff(x.want, got); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
		})
	}
}
