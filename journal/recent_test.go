package journal_test

import (
	"runtime"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/cwprelay/cwprelay/event"
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
