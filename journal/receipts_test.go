package journal_test

import (
	"fmt"
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
		"soc": {
			receipt(1, 10, "refused", false), receipt(1, 10, "a", false), receipt(11, 12, "b", false), receipt(5, 5, "again", true),
			receipt(11, 11, "b again", true), receipt(11, 12, "b replayed", true),
		},
		"soc2": {receipt(1, 20, "other", false)},
	} {
		settle(t, f, journal.Settlement{Sink: sink, Cursor: journal.Cursor{Seq: 12}, Receipts: list})
	}
	for seq, want := range map[uint64][]string{1: {"a"}, 4: {"a"}, 5: {"a", "again"}, 10: {"a"}, 11: {"b", "b again", "b replayed"}, 12: {"b", "b replayed"}, 13: nil, 999: nil} {
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

// The first receipt of a batch, and that of its neighbours, are kept however
// often some of it is sent again, until the records are gone.
func TestReceiptsOfWhatIsSentAgain(t *testing.T) {
	f := open(t, config(t.TempDir()), sinks(journal.SinkRule{Name: "soc"}))
	appendNow(t, f, 1, 20)
	put := func(first, last uint64, answer string, again bool) {
		t.Helper()
		settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 20}, Receipts: []journal.Receipt{
			{Range: journal.Range{First: first, Last: last}, At: time.Unix(1, 0).UTC(), Attempts: 1, Answer: answer, Again: again},
		}})
	}
	put(1, 20, "first", false)
	for i := range 30 {
		put(1, 1, fmt.Sprint("again ", i), true)
	}
	for seq, want := range map[uint64][]string{1: {"first", "again 29"}, 20: {"first", "first"}} {
		got, err := f.Receipts(t.Context(), "soc", seq)
		if err != nil || len(got) == 0 || len(got) > 10 || got[0].Answer != want[0] || got[len(got)-1].Answer != want[1] {
			t.Errorf("record %d: %+v, %v, want %v first and last", seq, got, err, want)
		}
	}
}
