package journal_test

import (
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// Sinks that read side by side share the records, so whatever is made of one,
// the reading of the vendor's JSON above all, is made once for all of them.
func TestReadersShareRecords(t *testing.T) {
	f := open(t, config(t.TempDir()), sinks())
	const records, readers = 300, 6
	appendNow(t, f, 1, records)
	var read atomic.Int32
	var wg sync.WaitGroup
	for range readers {
		wg.Go(func() {
			for after := uint64(0); after < records; {
				batch, err := f.Read(t.Context(), after, 50, 0)
				if err != nil || len(batch) == 0 {
					t.Errorf("after %d: %d records, %v", after, len(batch), err)
					return
				}
				for _, r := range batch {
					r.Derived(func(*event.Record) any { read.Add(1); return nil })
				}
				after = batch[len(batch)-1].Seq
			}
		})
	}
	wg.Wait()
	if n := read.Load(); n != records {
		t.Errorf("%d records were read %d times by %d readers", records, n, readers)
	}
	byRead, err := f.Read(t.Context(), 6, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if one, err := f.Get(t.Context(), 7); err != nil || one != byRead[0] {
		t.Errorf("Get and Read give two records for one, %v", err)
	}
}

// A run that is damaged while it is used is lost as a whole, and each sink is
// told what of it it did not have.
func TestDamagedRunIsLostAsAWhole(t *testing.T) {
	dir := t.TempDir()
	opt := sinks(journal.SinkRule{Name: "part"}, journal.SinkRule{Name: "all"}, journal.SinkRule{Name: "none"})
	f := open(t, config(dir), opt)
	if err := fill(t, f, 0, 5, 300); err != nil {
		t.Fatal(err)
	}
	appendNow(t, f, 5, 20) // 6 to 25
	if err := fill(t, f, 25, 5, 300); err != nil {
		t.Fatal(err)
	}
	settle(t, f, journal.Settlement{Sink: "part", Cursor: journal.Cursor{Seq: 10}})
	settle(t, f, journal.Settlement{Sink: "all", Cursor: journal.Cursor{Seq: 25}})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, config(dir), opt) // nothing is in memory
	alter(t, filepath.Join(dir, "journal.db"), "日本 1", "日本 2")
	recs, err := f.Read(t.Context(), 0, 100, 0)
	if err != nil || len(recs) != 10 || recs[4].Seq != 5 || recs[5].Seq != 26 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	if rec, err := f.Get(t.Context(), 7); err != nil || rec != nil {
		t.Errorf("a lost record is given: %v, %v", rec, err)
	}
	st := status(t, f)
	want := map[string]journal.Range{"part": {First: 11, Last: 25}, "none": {First: 6, Last: 25}}
	if st.Damaged != 20 || len(st.Gaps) != len(want) {
		t.Errorf("%d records are damaged, gaps %+v", st.Damaged, st.Gaps)
	}
	for _, g := range st.Gaps {
		if r := want[g.Sink]; g.Range != r || g.Records != int(r.Last-r.First+1) || g.Reason != "damage" {
			t.Errorf("gap %+v, want %+v", g, r)
		}
	}
	if found, err := f.Check(t.Context()); err != nil || len(found.Damaged)+len(found.Mistakes) > 0 {
		t.Errorf("afterwards %+v, %v", found, err)
	}
}

// What is shared is bounded: reading a long journal does not keep it in memory.
func TestSharedRecordsAreBounded(t *testing.T) {
	f := open(t, config(t.TempDir()), sinks())
	const records, size = 800, 40 << 10
	if err := fill(t, f, 1, records, size); err != nil {
		t.Fatal(err)
	}
	before := heap()
	for after := uint64(0); after < records; {
		batch, err := f.Read(t.Context(), after, 100, 0)
		if err != nil || len(batch) == 0 {
			t.Fatalf("after %d: %d records, %v", after, len(batch), err)
		}
		after = batch[len(batch)-1].Seq
	}
	if grown := int64(heap()) - int64(before); grown > 12<<20 {
		t.Errorf("reading %d MiB of records keeps %d MiB", records*size>>20, grown>>20)
	}
	runtime.KeepAlive(f)
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}
