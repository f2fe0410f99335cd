package delivery

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"pgregory.net/rapid"

	"github.com/cwprelay/cwprelay/journal"
)

// value reads a counter or gauge.
func value(t *testing.T, m prometheus.Metric) float64 {
	t.Helper()
	var out dto.Metric
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	return out.GetCounter().GetValue() + out.GetGauge().GetValue()
}

// TestLedgerCursorIsExact compares the ledger with the plain meaning of a
// cursor: over restarts, what it says is settled is, and what is settled and
// was sent is said.
func TestLedgerCursorIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		last := uint64(rapid.IntRange(1, 60).Draw(t, "last"))
		kind := map[uint64]string{} // "hole", "refused" or "owed"
		for seq := uint64(1); seq <= last; seq++ {
			kind[seq] = rapid.SampledFrom([]string{"hole", "refused", "owed", "owed", "owed"}).Draw(t, "kind")
		}
		settled := map[uint64]bool{}
		l := newLedger(journal.Cursor{})
		stored := journal.Cursor{}
		pos := uint64(0)
		covered := func(seq uint64) bool {
			return seq <= stored.Seq || slices.ContainsFunc(stored.Ahead, func(r journal.Range) bool { return r.First <= seq && seq <= r.Last })
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"read", "settle", "settle", "restart"}).Draw(t, "step") {
			case "read":
				var items []item
				end := min(last, pos+uint64(rapid.IntRange(1, 8).Draw(t, "n")))
				for pos < end {
					pos++
					if kind[pos] == "owed" && !covered(pos) {
						items = append(items, item{seq: pos})
					}
				}
				for pos > 0 && kind[pos] == "hole" && !covered(pos) {
					pos-- // a stretch ends with a record
				}
				l.add(items, pos)
			case "settle":
				var items []item
				for seq := uint64(1); seq <= pos; seq++ {
					if kind[seq] == "owed" && !settled[seq] && rapid.Bool().Draw(t, "settled") {
						settled[seq] = true
						items = append(items, item{seq: seq})
					}
				}
				l.settle(items)
			case "restart":
				l = newLedger(stored)
				pos = stored.Seq
			}
			stored = l.cursor()
			at := stored.Seq
			for _, r := range stored.Ahead {
				if r.First <= at || r.Last < r.First {
					t.Fatalf("ranges of %+v are not ascending and disjoint", stored)
				}
				at = r.Last
			}
			for seq := uint64(1); seq <= last; seq++ {
				if kind[seq] != "owed" {
					continue
				}
				if covered(seq) != settled[seq] {
					t.Fatalf("record %d: settled %t, covered by %+v %t", seq, settled[seq], stored, covered(seq))
				}
			}
		}
	})
}

func TestRetryAfterIsSpreadByATenth(t *testing.T) {
	longest := time.Duration(0)
	for range 1000 {
		d := spread(10 * time.Second)
		if d < 10*time.Second || d > 11*time.Second {
			t.Fatalf("spread(10s) = %s", d)
		}
		longest = max(longest, d)
	}
	if longest < 10500*time.Millisecond {
		t.Errorf("longest of 1000 is %s: no jitter", longest)
	}
}

func TestCausesDifferByWordsNotByNumbers(t *testing.T) {
	o := &outage{}
	for _, tc := range []struct {
		cause string
		want  bool
	}{
		{"read tcp 10.0.0.1:40001: reset", true},
		{"read tcp 10.0.0.1:40002: reset", false},
		{"503 busy", true},
		{"503 busy", false},
	} {
		if got := o.isNew(tc.cause); got != tc.want {
			t.Errorf("isNew(%q) = %t, want %t", tc.cause, got, tc.want)
		}
	}
}

func TestConfigReportsEveryMistake(t *testing.T) {
	c := Config{
		Format: "xml", When: "nonsense", StartFrom: "yesterday", OnFull: "drop", BatchRecords: -1, BatchBytes: 12,
		Timeout: time.Millisecond, AttemptsPerSecond: -2,
	}
	err := c.WithDefaults().Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	var keys []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, _, _ := strings.Cut(line, ":")
		keys = append(keys, key)
	}
	want := []string{"format", "when", "start_from", "on_full", "batch_records", "batch_bytes", "timeout", "attempts_per_second"}
	if diff := cmp.Diff(want, keys); diff != "" {
		t.Errorf("keys of the mistakes (-want +got):\n%s", diff)
	}
	if err := (Config{}).WithDefaults().Validate(); err != nil {
		t.Errorf("defaults are refused: %v", err)
	}
}

func TestMetricsAreNamedByTheRules(t *testing.T) {
	reg := prometheus.NewPedanticRegistry()
	m := NewMetrics(reg)
	s := m.of("soc")
	s.attempts.WithLabelValues("ok").Inc()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, f := range families {
		names = append(names, f.GetName())
		if total := strings.HasSuffix(f.GetName(), "_total"); total != (f.GetType() == dto.MetricType_COUNTER) {
			t.Errorf("%s is a %s", f.GetName(), f.GetType())
		}
	}
	want := []string{
		"cwprelay_sink_attempt_duration_seconds", "cwprelay_sink_attempts_total", "cwprelay_sink_behind_records",
		"cwprelay_sink_condition_errors_total", "cwprelay_sink_dead_letters_total", "cwprelay_sink_duplicates_total",
		"cwprelay_sink_halted", "cwprelay_sink_heartbeats_total", "cwprelay_sink_last_success_timestamp_seconds", "cwprelay_sink_oldest_seconds",
		"cwprelay_sink_records_total", "cwprelay_sink_suspect_records",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
}
