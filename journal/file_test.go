package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func config(dir string) journal.Config {
	return journal.Config{Dir: dir, MinFreeDisk: 1}.WithDefaults()
}

func open(tb testing.TB, cfg journal.Config, opt journal.Options) *journal.File {
	tb.Helper()
	f, err := journal.Open(cfg, opt)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := f.Close(); err != nil {
			tb.Error(err)
		}
	})
	return f
}

func sinks(rules ...journal.SinkRule) journal.Options { return journal.Options{Sinks: rules} }

func lease(tb testing.TB, f *journal.File, owner string) journal.Lease {
	tb.Helper()
	l, err := f.Lease(tb.Context(), owner)
	if err != nil {
		tb.Fatal(err)
	}
	return l
}

// fill appends records with bodies of a size until an error.
func fill(tb testing.TB, f *journal.File, from, n, size int) error {
	tb.Helper()
	for i := from; i < from+n; i++ {
		if err := fillAtOnce(tb, f, i, 1, size); err != nil {
			return err
		}
	}
	return nil
}

// fillAtOnce appends by one commit.
func fillAtOnce(tb testing.TB, f *journal.File, from, n, size int) error {
	tb.Helper()
	var batch journal.Batch
	for i := from; i < from+n; i++ {
		rec := journaltest.Record(fmt.Sprint(i), 1)
		body := make([]byte, size)
		for j := range body {
			body[j] = byte('!' + rand.IntN(90)) // nothing that compresses well
		}
		rec.Raw = fmt.Appendf(nil, `{"EventId":%d,"x":%q}`, i, body)
		batch.Changes = append(batch.Changes, journaltest.Change(rec))
	}
	_, err := f.Append(tb.Context(), lease(tb, f, "source/prod/risk_process"), batch)
	return err
}

func TestConformance(t *testing.T) {
	dirs := map[journal.Journal]string{}
	opt := sinks(journal.SinkRule{Name: journaltest.Sink})
	journaltest.Run(t, journaltest.Engine{
		Open: func(t *testing.T) journal.Journal {
			t.Helper()
			dir := t.TempDir()
			f := open(t, config(dir), opt)
			dirs[f] = dir
			return f
		},
		Reopen: func(t *testing.T, j journal.Journal) journal.Journal {
			t.Helper()
			if err := j.(*journal.File).Close(); err != nil {
				t.Fatal(err)
			}
			return open(t, config(dirs[j]), opt)
		},
	})
}

func TestSecondProcessIsRefusedQuickly(t *testing.T) {
	dir := t.TempDir()
	open(t, config(dir), journal.Options{})
	began := time.Now()
	_, err := journal.Open(config(dir), journal.Options{})
	if !errors.Is(err, journal.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("error %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("took %s", took)
	}
}

func TestFilesArePrivate(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	open(t, config(dir), journal.Options{})
	for path, want := range map[string]os.FileMode{dir: 0o700 | os.ModeDir, filepath.Join(dir, "journal.db"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: mode %v, %v, want %v", path, info.Mode(), err, want)
		}
	}
}

func TestClosedJournalSaysSo(t *testing.T) {
	f := open(t, config(t.TempDir()), journal.Options{})
	l := lease(t, f, "source/prod/risk_process")
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Append(t.Context(), l, journal.Batch{}); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("append: %v", err)
	}
	if _, err := f.Read(t.Context(), 0, 1, 0); !errors.Is(err, journal.ErrClosed) {
		t.Errorf("read: %v", err)
	}
}

func TestWhatAppendReturnedSurvivesACrash(t *testing.T) {
	dir, copied := t.TempDir(), t.TempDir()
	f := open(t, config(dir), journal.Options{})
	if err := fill(t, f, 0, 50, 200); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(dir, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(copied, "journal.db"), text, 0o600); err != nil {
		t.Fatal(err)
	}
	g := open(t, config(copied), journal.Options{})
	if recs, err := g.Read(t.Context(), 0, 100, 0); err != nil || len(recs) != 50 {
		t.Errorf("%d records, %v", len(recs), err)
	}
}

func TestFullJournalPausesAndGoesOn(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	f := open(t, cfg, sinks(journal.SinkRule{Name: "slow"}, journal.SinkRule{Name: "fast"}))
	err := fill(t, f, 0, 5000, 1000)
	full, ok := errors.AsType[*journal.FullError](err)
	if !ok || !errors.Is(err, journal.ErrFull) || full.Limit != "state.max_bytes" {
		t.Fatalf("error %v", err)
	}
	st, err := f.Status(t.Context())
	if err != nil || st.Full == nil || st.Bytes > cfg.MaxBytes {
		t.Fatalf("status %+v, %v", st, err)
	}
	for _, sink := range []string{"slow", "fast"} {
		if err := f.Settle(t.Context(), lease(t, f, "sink/"+sink), journal.Settlement{Sink: sink, Cursor: journal.Cursor{Seq: st.Last}}); err != nil {
			t.Fatalf("settling a full journal: %v", err)
		}
	}
	if err := fill(t, f, 10_000, 10, 1000); err != nil {
		t.Errorf("after settling: %v", err)
	}
	if st, err := f.Status(t.Context()); err != nil || st.Full != nil || len(st.Gaps) > 0 {
		t.Errorf("status %+v, %v", st, err)
	}
}

func TestSinkThatMaySkipLosesItsOldestAndAGapSaysSo(t *testing.T) {
	const n = 3000
	for _, row := range []int{1, 30} { // records in a row of the file: they go together
		t.Run(fmt.Sprintf("rows of %d", row), func(t *testing.T) {
			cfg := config(t.TempDir())
			cfg.MaxBytes = 1 << 20
			f := open(t, cfg, sinks(journal.SinkRule{Name: "lossy", OnFull: journal.OnFullSkip}))
			for from := 0; from < n; from += row {
				if err := fillAtOnce(t, f, from, row, 1000); err != nil {
					t.Fatal(err)
				}
			}
			st, err := f.Status(t.Context())
			if err != nil || len(st.Gaps) == 0 {
				t.Fatalf("status %+v, %v", st, err)
			}
			lost := 0
			for _, g := range st.Gaps {
				lost += g.Records
			}
			cursor, err := f.Cursor(t.Context(), "lossy")
			if err != nil || int(cursor.Seq) != lost || st.First != cursor.Seq+1 {
				t.Errorf("cursor %+v, %d lost, first kept %d, %v", cursor, lost, st.First, err)
			}
			if lost+st.Records != n {
				t.Errorf("%d lost and %d kept of %d", lost, st.Records, n)
			}
			recs, err := f.Read(t.Context(), 0, n, 0)
			if err != nil || len(recs) != st.Records {
				t.Errorf("%d records can be read, %v, want %d", len(recs), err, st.Records)
			}
		})
	}
}

// Of a row that one sink has in part and that another may skip nothing goes.
func TestSkippingStopsAtARowThatASinkHasInPart(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	f := open(t, cfg, sinks(journal.SinkRule{Name: "careful"}, journal.SinkRule{Name: "lossy", OnFull: journal.OnFullSkip}))
	err := fillAtOnce(t, f, 0, 30, 1000)
	if err != nil {
		t.Fatal(err)
	}
	settle(t, f, journal.Settlement{Sink: "careful", Cursor: journal.Cursor{Seq: 15}})
	for from := 30; err == nil && from < 3000; from += 30 {
		err = fillAtOnce(t, f, from, 30, 1000)
	}
	if full, ok := errors.AsType[*journal.FullError](err); !ok || full.Sink != "careful" {
		t.Errorf("error %v, want that careful holds the oldest records", err)
	}
	recs, err := f.Read(t.Context(), 15, 1, 0)
	if err != nil || len(recs) != 1 || recs[0].Seq != 16 {
		t.Errorf("records %v, %v, want number 16", recs, err)
	}
	for _, g := range status(t, f).Gaps {
		if g.Sink == "careful" {
			t.Errorf("gap %+v", g)
		}
	}
}

func TestNewSinkStartsWhereItsRuleSays(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir), journal.Options{})
	if err := fill(t, f, 0, 5, 10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, config(dir), sinks(journal.SinkRule{Name: "a", StartFrom: journal.StartOldest}, journal.SinkRule{Name: "b", StartFrom: journal.StartNow}))
	for sink, want := range map[string]uint64{"a": 0, "b": 5} {
		if c, err := f.Cursor(t.Context(), sink); err != nil || c.Seq != want {
			t.Errorf("cursor of %s %+v, %v, want %d", sink, c, err, want)
		}
	}
}

// alter changes a text in a file that may be in use, in every copy that stands
// in it.
func alter(t *testing.T, path, from, to string) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; ; at++ {
		next := bytes.Index(text[at:], []byte(from))
		if next < 0 {
			break
		}
		at += next
		if _, err := file.WriteAt([]byte(to), int64(at)); err != nil {
			t.Fatal(err)
		}
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
}

// What is damaged while the journal is in use is found when it is read. (What
// was stored just now is given from memory, and was sound then.)
func TestDamagedRecordIsLeftOutAndCounted(t *testing.T) {
	dir := t.TempDir()
	var reports []string
	opt := sinks(journal.SinkRule{Name: "soc"})
	opt.Report = func(m string) { reports = append(reports, m) }
	f := open(t, config(dir), opt)
	if err := errors.Join(fill(t, f, 0, 20, 3000), fill(t, f, 20, 20, 300_000)); err != nil {
		t.Fatal(err)
	}
	alter(t, filepath.Join(dir, "journal.db"), `"EventId":7,"x":`, `"EventId":6,"x":`)
	recs, err := f.Read(t.Context(), 0, 19, 0)
	if err != nil || len(recs) != 19 || recs[18].Seq != 20 {
		t.Fatalf("%d records to %d, %v, want 19 to 20", len(recs), recs[len(recs)-1].Seq, err)
	}
	st, err := f.Status(t.Context())
	if err != nil || st.Damaged != 1 || len(st.Gaps) != 1 || st.Gaps[0].Range != (journal.Range{First: 8, Last: 8}) || len(reports) != 1 {
		t.Errorf("status %+v, %v, reports %q", st, err, reports)
	}
}

// A row that holds many records and says that it holds one is found by its
// checksum, and every one of them is counted.
func TestDamagedCountOfARowIsCountedRight(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir), sinks(journal.SinkRule{Name: "soc"}))
	if err := errors.Join(fill(t, f, 0, 3, 3000), fillAtOnce(t, f, 3, 20, 3000), fill(t, f, 23, 150, 300_000)); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "journal.db")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	// The mark of such a row, a checksum (4), a time in ms (8), the count.
	rows := 0
	for i := range len(text) - 14 {
		if row := text[i : i+14]; row[0] == 0x1d && bytes.HasPrefix(row[5:], []byte{0, 0, 1}) && row[13] == 20 {
			alter(t, path, string(row), string(row[:13])+"\x01")
			rows++
		}
	}
	if rows == 0 {
		t.Fatal("no row of 20 records was found")
	}
	recs, err := f.Read(t.Context(), 0, 5, 0)
	if err != nil || len(recs) != 5 || recs[2].Seq != 3 || recs[3].Seq != 24 {
		t.Fatalf("%d records, %v, want 1 to 3, and on from 24", len(recs), err)
	}
	st, err := f.Status(t.Context())
	if err != nil || st.Damaged != 20 || len(st.Gaps) != 1 || st.Gaps[0].Range != (journal.Range{First: 4, Last: 23}) || st.Gaps[0].Records != 20 {
		t.Errorf("status %+v, %v", st, err)
	}
}

func BenchmarkAppend(b *testing.B) {
	f := open(b, config(b.TempDir()), journal.Options{})
	l := lease(b, f, "source/prod/risk_process")
	body := bytes.Repeat([]byte("abcdefghij klmnop "), 85)
	n := 0
	for b.Loop() {
		var batch journal.Batch
		for range 100 {
			rec := journaltest.Record(fmt.Sprint(n), 1)
			rec.Raw = fmt.Appendf(nil, `{"EventId":%d,"x":%q}`, n, body)
			batch.Changes = append(batch.Changes, journaltest.Change(rec))
			n++
		}
		if _, err := f.Append(b.Context(), l, batch); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "records/s")
}
