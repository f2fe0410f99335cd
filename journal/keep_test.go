package journal_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
)

// appendNow appends n records that were observed now.
func appendNow(t *testing.T, f *journal.File, from, n int) {
	t.Helper()
	var batch journal.Batch
	for i := from; i < from+n; i++ {
		rec := journaltest.Record(fmt.Sprint(i), 1)
		rec.ObservedAt = time.Now()
		batch.Changes = append(batch.Changes, journaltest.Change(rec))
	}
	if _, err := f.Append(t.Context(), lease(t, f, "source/prod/risk_process"), batch); err != nil {
		t.Fatal(err)
	}
}

func settle(t *testing.T, f *journal.File, s journal.Settlement) {
	t.Helper()
	if err := f.Settle(t.Context(), lease(t, f, "sink/"+s.Sink), s); err != nil {
		t.Fatal(err)
	}
}

func status(t *testing.T, f *journal.File) journal.Status {
	t.Helper()
	st, err := f.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestOldRecordsAreTrimmedOnceEverySinkAndReplayHasPassedThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := open(t, config(t.TempDir()), sinks(journal.SinkRule{Name: "a"}, journal.SinkRule{Name: "b"}))
		for from := 0; from < 100; from += 10 {
			appendNow(t, f, from, 10)
		}
		settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: 100}})
		settle(t, f, journal.Settlement{Sink: "b", Cursor: journal.Cursor{Seq: 60}})
		if _, err := f.Read(t.Context(), 0, 100, 0); err != nil {
			t.Fatal(err)
		}
		first := func(wait time.Duration) uint64 {
			time.Sleep(wait)
			synctest.Wait()
			return status(t, f).First
		}
		if got := first(23 * time.Hour); got != 1 {
			t.Errorf("first record kept is %d before the retention has passed", got)
		}
		replay := journal.Replay{From: 31, After: 30, Begun: time.Now()}
		settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: 100}, Replay: &replay})
		if got := first(2 * time.Hour); got != 31 {
			t.Errorf("first record kept is %d, want 31, where the replay is", got)
		}
		if rec, err := f.Get(t.Context(), 30); err != nil || rec != nil {
			t.Errorf("a record that was trimmed is still given: %v, %v", rec, err)
		}
		replay.Ended = true
		settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: 100}, Replay: &replay})
		if got := first(2 * time.Minute); got != 61 {
			t.Errorf("first record kept is %d, want 61, where the slower sink is", got)
		}
		if st := status(t, f); len(st.Gaps) > 0 {
			t.Errorf("gaps %+v", st.Gaps)
		}
		begun := journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: 100}, Replay: &journal.Replay{From: 5, After: 4, Begun: time.Now()}}
		err := f.Settle(t.Context(), lease(t, f, "sink/a"), begun)
		if e, ok := errors.AsType[*journal.ReplayError](err); !ok || e.Oldest != 61 {
			t.Errorf("replay of records that are gone: %v", err)
		}
	})
}

// Records that one commit stored are trimmed together, once all of them are
// passed, and each can be read from anywhere among them.
func TestRecordsOfOneCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := open(t, config(dir), sinks(journal.SinkRule{Name: "a"}))
		const n = 100
		appendNow(t, f, 0, n)
		for range 2 { // as they were appended, and as they are read back
			for after := range uint64(n) {
				recs, err := f.Read(t.Context(), after, 5, 0)
				if err != nil || len(recs) != min(5, n-int(after)) {
					t.Fatalf("%d records after %d, %v", len(recs), after, err)
				}
				for i, rec := range recs {
					if want := after + uint64(i) + 1; rec.Seq != want || rec.Key.ID != strconv.FormatUint(want-1, 10) {
						t.Fatalf("after %d: record %d of event %s, want %d", after, rec.Seq, rec.Key.ID, want)
					}
				}
				one, err := f.Get(t.Context(), after+1)
				if err != nil || one == nil || one.Seq != after+1 || !bytes.Contains(one.Raw, []byte(`"EventId":`+one.Key.ID+`,`)) {
					t.Fatalf("record %d: %+v, %v", after+1, one, err)
				}
			}
			if rec, err := f.Get(t.Context(), n+1); err != nil || rec != nil {
				t.Fatalf("record %d: %v, %v", n+1, rec, err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			f = open(t, config(dir), sinks(journal.SinkRule{Name: "a"}))
		}
		first := uint64(1)
		for _, passed := range []uint64{1, 31, 40, 99, 100} {
			settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: passed}})
			time.Sleep(25 * time.Hour)
			synctest.Wait()
			st := status(t, f)
			if passed < n && (st.First < first || st.First > passed+1 || st.Records != n-int(st.First)+1) {
				t.Errorf("after record %d was passed %d records are kept from %d on", passed, st.Records, st.First)
			}
			if rec, err := f.Get(t.Context(), st.First); passed < n && (err != nil || rec == nil) {
				t.Errorf("the first record kept, %d, is %v, %v", st.First, rec, err)
			}
			if passed == n && st.Records != 0 {
				t.Errorf("%d records are kept though all were passed", st.Records)
			}
			first = st.First
		}
		if len(status(t, f).Gaps) > 0 {
			t.Errorf("gaps %+v", status(t, f).Gaps)
		}
	})
}

// A full journal takes nothing from a sink that may not lose records, also
// where one that may stands among records of the same commit.
func TestSkippingGoesByTheCommit(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	f := open(t, cfg, sinks(journal.SinkRule{Name: "may", OnFull: journal.OnFullSkip}, journal.SinkRule{Name: "never"}))
	if err := fillAtOnce(t, f, 0, 20, 3000); err != nil { // one row
		t.Fatal(err)
	}
	settle(t, f, journal.Settlement{Sink: "may", Cursor: journal.Cursor{Seq: 3}})
	settle(t, f, journal.Settlement{Sink: "never", Cursor: journal.Cursor{Seq: 11}})
	var full *journal.FullError
	if err := fill(t, f, 20, 400, 3000); !errors.As(err, &full) || full.Sink != "never" {
		t.Fatalf("error %v, want a journal that sink never fills", err)
	}
	st := status(t, f)
	if st.First != 1 || len(st.Gaps) != 0 {
		t.Errorf("the first record kept is %d, gaps %+v", st.First, st.Gaps)
	}
	settle(t, f, journal.Settlement{Sink: "never", Cursor: journal.Cursor{Seq: st.Last}})
	if err := fill(t, f, 1000, 20, 3000); err != nil {
		t.Fatal(err)
	}
	st = status(t, f)
	cursor, err := f.Cursor(t.Context(), "may")
	if err != nil || len(st.Gaps) != 1 || st.Gaps[0].Sink != "may" || st.Gaps[0].Range != (journal.Range{First: 4, Last: cursor.Seq}) ||
		st.Gaps[0].Records != int(cursor.Seq)-3 || st.First != cursor.Seq+1 {
		t.Errorf("cursor %+v, %v, first record kept %d, gaps %+v", cursor, err, st.First, st.Gaps)
	}
}

// However many come, what is older than the retention goes as fast.
func TestTrimmingKeepsUpWithWhatComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cfg := config(t.TempDir())
		cfg.Retention = time.Minute
		f := open(t, cfg, sinks(journal.SinkRule{Name: "a"}))
		const n, batches = 2000, 10
		for i := range batches {
			appendNow(t, f, i*n, n)
		}
		settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: n * batches}})
		time.Sleep(3 * time.Minute)
		synctest.Wait()
		if st := status(t, f); st.Records > 0 {
			t.Errorf("%d of %d records are kept two minutes after their retention", st.Records, n*batches)
		}
	})
}

func TestSinkThatIsNotConfiguredHoldsNothingAndHasAGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		f := open(t, config(dir), sinks(journal.SinkRule{Name: "a"}, journal.SinkRule{Name: "gone"}))
		for from := 0; from < 50; from += 10 {
			appendNow(t, f, from, 10)
		}
		settle(t, f, journal.Settlement{Sink: "gone", Cursor: journal.Cursor{Seq: 10}})
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = open(t, config(dir), sinks(journal.SinkRule{Name: "a"}))
		settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: 40}})
		time.Sleep(25 * time.Hour)
		synctest.Wait()
		st := status(t, f)
		if st.First != 41 || len(st.Gaps) != 1 {
			t.Fatalf("first record kept is %d, gaps %+v", st.First, st.Gaps)
		}
		want := journal.Gap{Sink: "gone", Range: journal.Range{First: 11, Last: 40}, Records: 30, Reason: "trimmed", At: st.Gaps[0].At}
		if st.Gaps[0] != want {
			t.Errorf("gap %+v, want %+v", st.Gaps[0], want)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = open(t, config(dir), sinks(journal.SinkRule{Name: "a"}, journal.SinkRule{Name: "gone"}))
		if c, err := f.Cursor(t.Context(), "gone"); err != nil || c.Seq != 40 {
			t.Errorf("cursor of the sink that returned: %+v, %v", c, err)
		}
	})
}

func TestReplayDoesNotHoldSpace(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	f := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	if err := fill(t, f, 0, 500, 1000); err != nil {
		t.Fatal(err)
	}
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 500}, Replay: &journal.Replay{From: 1, Begun: time.Now()}})
	if err := fill(t, f, 500, 800, 1000); err == nil {
		t.Fatal("more than fits was stored")
	}
	st := status(t, f)
	if len(st.Gaps) != 1 || st.Gaps[0].Reason != "replay" || st.Sinks[0].Replay.After != st.First-1 {
		t.Errorf("gaps %+v, replay %+v, first record %d", st.Gaps, st.Sinks[0].Replay, st.First)
	}
}

func TestTooLittleFreeDiskRefusesAppends(t *testing.T) {
	cfg := config(t.TempDir())
	f := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	if err := fill(t, f, 0, 600, 5000); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cfg.MinFreeDisk = 1 << 60
	f = open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	err := fill(t, f, 600, 200, 5000) // the file may have some room of its own
	if full, ok := errors.AsType[*journal.FullError](err); !ok || full.Limit != "state.min_free_disk" || full.Sink != "soc" {
		t.Errorf("error %v", err)
	}
	// Settling goes on, and what every sink has makes room.
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: status(t, f).Last}})
	if err := fill(t, f, 1000, 1, 100); err != nil {
		t.Errorf("append after settling: %v", err)
	}
}

func TestGapsAreFilledExactly(t *testing.T) {
	cfg := config(t.TempDir())
	f := open(t, cfg, sinks(journal.SinkRule{Name: "a"}))
	appendNow(t, f, 1, 30)
	settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: 30}})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// A sink that begins with what comes from now on was never to get the rest.
	f = open(t, cfg, sinks(journal.SinkRule{Name: "a"}, journal.SinkRule{Name: "late", StartFrom: journal.StartNow}))
	begin := func(sink string) uint64 {
		c, err := f.Cursor(t.Context(), sink)
		if err != nil {
			t.Fatal(err)
		}
		return c.Begin
	}
	if a, late := begin("a"), begin("late"); a != 0 || late != 30 {
		t.Fatalf("the sinks begin behind %d and %d, want 0 and 30", a, late)
	}
	settle(t, f, journal.Settlement{Sink: "late", Cursor: journal.Cursor{Seq: 30, Begin: 5}})
	if got := begin("late"); got != 30 {
		t.Errorf("a settlement that fills nothing moves the beginning to %d", got)
	}
	settle(t, f, journal.Settlement{Sink: "late", Cursor: journal.Cursor{Seq: 30}, Filled: []journal.Range{{First: 1, Last: 12}, {First: 14, Last: 30}}})
	if got := begin("late"); got != 13 {
		t.Errorf("record 13 is still owed, and the sink begins behind %d", got)
	}
	settle(t, f, journal.Settlement{Sink: "late", Cursor: journal.Cursor{Seq: 30, Begin: 99}, Filled: []journal.Range{{First: 1, Last: 30}}})
	if got := begin("late"); got != 0 {
		t.Errorf("the sink begins behind %d although all is accounted for", got)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	// A full journal makes a gap of a sink that may skip.
	cfg = config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	f = open(t, cfg, sinks(journal.SinkRule{Name: "slow", OnFull: journal.OnFullSkip}))
	for from := 0; len(status(t, f).Gaps) == 0; from += 100 {
		if err := fill(t, f, from, 100, 4<<10); err != nil {
			t.Fatal(err)
		}
	}
	gap := status(t, f).Gaps[0]
	cursor, err := f.Cursor(t.Context(), "slow")
	if err != nil {
		t.Fatal(err)
	}
	lost := gap.Range.First + 3
	settle(t, f, journal.Settlement{Sink: "slow", Cursor: cursor, Filled: []journal.Range{
		{First: gap.Range.First, Last: lost - 1}, {First: lost + 1, Last: gap.Range.Last},
	}})
	gaps := status(t, f).Gaps
	if len(gaps) != 1 || gaps[0].Range != (journal.Range{First: lost, Last: lost}) || gaps[0].Records != 1 || gaps[0].Reason != gap.Reason {
		t.Errorf("what is left of %+v is %+v, want record %d alone", gap, gaps, lost)
	}
}

// A refused append may have made some room, if not enough: the figures must
// say so, or the journal fills up with what is not there.
func TestRoomMadeInVainIsCounted(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	f := open(t, cfg, sinks(journal.SinkRule{Name: "soc"}))
	if err := fill(t, f, 0, 5000, 1000); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("error %v, want a full journal", err)
	}
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 5}})
	if err := fill(t, f, 5000, 1, 200_000); !errors.Is(err, journal.ErrFull) {
		t.Fatalf("error %v, want a full journal", err)
	}
	if st := status(t, f); st.First != 6 {
		t.Fatalf("the oldest record is %d, want 6: nothing was dropped, the test proves nothing", st.First)
	}
	if found, err := f.Check(t.Context()); err != nil || !found.Sound() {
		t.Errorf("%+v, %v", found, err)
	}
}

// Other sinks and limits count from then on, for writing and for what is told.
func TestReconfigure(t *testing.T) {
	cfg := config(t.TempDir())
	cfg.MaxBytes = 1 << 20
	registry := prometheus.NewRegistry()
	var reported []string
	opt := sinks(journal.SinkRule{Name: "soc"}, journal.SinkRule{Name: "gone"})
	opt.Registerer, opt.Report = registry, func(m string) { reported = append(reported, m) }
	f := open(t, cfg, opt)
	if err := fill(t, f, 0, 40, 60_000); !errors.Is(err, journal.ErrFull) {
		t.Fatal(err)
	}
	cfg.MaxBytes = 8 << 20
	rules := []journal.SinkRule{{Name: "soc"}, {Name: "late", StartFrom: journal.StartNow}, {Name: "old"}}
	if err := f.Reconfigure(t.Context(), cfg, rules); err != nil {
		t.Fatal(err)
	}
	st, err := f.Status(t.Context())
	if err != nil || st.Full != nil || st.MaxBytes != 8<<20 {
		t.Errorf("%+v, %v", st, err)
	}
	configured := map[string]bool{}
	for _, s := range st.Sinks {
		configured[s.Sink] = s.Configured
		if want := map[string]uint64{"late": st.Last}[s.Sink]; s.Cursor.Seq != want {
			t.Errorf("the cursor of %s is %d, want %d", s.Sink, s.Cursor.Seq, want)
		}
	}
	if want := map[string]bool{"soc": true, "late": true, "old": true, "gone": false}; !maps.Equal(configured, want) {
		t.Errorf("sinks %v, want %v", configured, want)
	}
	if len(reported) != 1 || !strings.Contains(reported[0], "sink gone is no longer configured") {
		t.Errorf("reported %q", reported)
	}
	if err := fill(t, f, 40, 20, 60_000); err != nil {
		t.Errorf("with a higher limit: %v", err)
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		for _, m := range family.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetValue() == "gone" {
					t.Errorf("%s has a figure of a sink that is not configured", family.GetName())
				}
			}
		}
	}
	if n, err := f.Forget(t.Context(), lease(t, f, "sink/gone"), "gone"); err != nil || n != 0 {
		t.Errorf("forgetting what is no longer configured: %d, %v", n, err)
	}
}
