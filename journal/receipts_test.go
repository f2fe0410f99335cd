package journal_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/journal"
)

// A record's receipts are those of the batches that it was in, also where one
// record was sent again alone, and never another sink's.
func TestReceiptsOfARecord(t *testing.T) {
	f := open(t, config(t.TempDir()), sinks(journal.SinkRule{Name: "soc"}, journal.SinkRule{Name: "soc2"}))
	appendNow(t, f, 1, 20)
	receipt := func(first, last uint64, answer string, again bool) journal.Receipt {
		return journal.Receipt{Range: journal.Range{First: first, Last: last}, At: time.Unix(int64(first), 0).UTC(), Attempts: 1, Answer: answer, Again: again}
	}
	for sink, list := range map[string][]journal.Receipt{
		"soc":  {receipt(1, 10, "a", false), receipt(11, 12, "b", false), receipt(5, 5, "again", true)},
		"soc2": {receipt(1, 20, "other", false)},
	} {
		settle(t, f, journal.Settlement{Sink: sink, Cursor: journal.Cursor{Seq: 12}, Receipts: list})
	}
	for seq, want := range map[uint64][]string{1: {"a"}, 4: {"a"}, 5: {"a", "again"}, 10: {"a"}, 11: {"b"}, 12: {"b"}, 13: nil, 999: nil} {
		got, err := f.Receipts(t.Context(), "soc", seq)
		if err != nil {
			t.Fatal(err)
		}
		var answers []string
		for _, r := range got {
			answers = append(answers, r.Answer)
		}
		if diff := cmp.Diff(want, answers); diff != "" {
			t.Errorf("record %d (-want +got):\n%s", seq, diff)
		}
	}
}
