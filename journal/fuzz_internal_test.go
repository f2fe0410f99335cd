package journal

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

func fuzzed() *event.Record {
	return &event.Record{
		Key: event.Key{Account: "1", Kind: "risk_process", ID: "7"}, UID: "u", Sequence: 2, Revision: "r", Action: event.Closed,
		Status: event.Status{Code: "3", Symbol: "scanned", Closed: true}, Previous: event.Status{Code: "0", Symbol: "pending"},
		FirstDetect: "2026-11-01 10:00:00", ObservedAt: time.Unix(1_793_500_000, 5), Backfill: true, Dialect: "record", Zone: "Asia/Shanghai",
		Source: "prod", Sweep: "s", Page: 3, RequestID: "q", Raw: []byte(`{"EventId":7}`),
	}
}

// FuzzRows decodes payloads of every kind of row, as they would stand behind a
// right checksum: what can be read is what can be written.
func FuzzRows(f *testing.F) {
	names := buckets()
	for i, name := range names {
		f.Add(i, []byte(`{"Seq":5,"Ahead":[{"First":7,"Last":9}]}`))
		if name == "log" {
			f.Add(i, encodeRecord(fuzzed()))
			f.Add(i, new(rowCodec).appendRun(nil, []*event.Record{fuzzed(), fuzzed(), fuzzed()}))
		}
	}
	f.Add(slices.Index(names, "state"), encodeState(event.State{Status: event.Status{Code: "0"}, Sequence: 3, Tracked: []string{"a", "b"}, AbsentSince: time.Unix(5, 0)}))
	f.Add(slices.Index(names, "dead"), encodeDead(DeadLetter{Record: fuzzed(), Reason: "no", Class: "poison", Attempts: 3, At: time.Unix(9, 0)}))
	f.Add(slices.Index(names, "state"), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01})
	key := []byte("soc\x00\x00\x00\x00\x00\x00\x00\x00\x07")
	f.Fuzz(func(t *testing.T, which int, payload []byte) {
		name := names[((which%len(names))+len(names))%len(names)]
		check := rowChecks()[name]
		for _, kind := range []byte{check.kind, check.also} {
			if kind == 0 {
				continue
			}
			row := seal(kind, key, payload)
			_ = check.read(key, row)
			if first := firstSeq(key, row); first > lastSeq(key) || first == 0 {
				t.Errorf("the first record of a row that ends with %d is %d", lastSeq(key), first)
			}
			if len(row) > rowHead {
				row[len(row)-1] ^= 1
				if check.read(key, row) == nil {
					t.Errorf("a changed row of %s passes its checksum", name)
				}
			}
		}
		switch name {
		case "log":
			if rec, err := decodeRecord(7, payload); err == nil {
				again, err := decodeRecord(7, encodeRecord(rec))
				if err != nil || again.UID != rec.UID || !bytes.Equal(again.Raw, rec.Raw) || !again.ObservedAt.Equal(rec.ObservedAt) {
					t.Errorf("%+v becomes %+v, %v", rec, again, err)
				}
			}
			if records, err := decodeRun(300, payload); err == nil {
				again, err := decodeRun(300, new(rowCodec).appendRun(nil, records))
				if err != nil || len(again) != len(records) || again[0].Seq != records[0].Seq || again[0].UID != records[0].UID || !bytes.Equal(again[0].Raw, records[0].Raw) {
					t.Errorf("%+v becomes %+v, %v", records, again, err)
				}
			}
		case "state":
			if st, err := decodeState(payload); err == nil {
				if again, err := decodeState(encodeState(st)); err != nil || again.Sequence != st.Sequence || !slices.Equal(again.Tracked, st.Tracked) {
					t.Errorf("%+v becomes %+v, %v", st, again, err)
				}
			}
		}
	})
}

// FuzzFile opens files that were a journal: a start is never refused, whatever
// the file holds, and service goes on.
func FuzzFile(f *testing.F) {
	dir := f.TempDir()
	j, err := Open(Config{Dir: dir, MinFreeDisk: 1}.WithDefaults(), Options{Sinks: []SinkRule{{Name: "soc"}}})
	if err != nil {
		f.Fatal(err)
	}
	lease, err := j.Lease(f.Context(), "source/prod/risk_process")
	if err != nil {
		f.Fatal(err)
	}
	for i := range uint64(20) {
		rec := fuzzed()
		rec.Key.ID, rec.Sequence = string(rune('a'+i)), 1
		if _, err := j.Append(f.Context(), lease, Batch{Changes: []Change{{Key: rec.Key, State: event.State{Sequence: 1}, Record: rec}}}); err != nil {
			f.Fatal(err)
		}
	}
	if err := j.Close(); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, fileName))
	if err != nil {
		f.Fatal(err)
	}
	// A change is where, and what is put there.
	f.Add(uint32(16), []byte{1}, uint32(0))
	f.Add(uint32(4096+16+40), []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}, uint32(0))
	f.Add(uint32(3*4096+8), []byte{2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, uint32(0))
	f.Add(uint32(0), []byte{}, uint32(5000))
	f.Fuzz(func(t *testing.T, at uint32, what []byte, cut uint32) {
		text := bytes.Clone(whole)
		copy(text[at%uint32(len(text)):], what)
		if cut > 0 {
			text = text[:cut%uint32(len(text))]
		}
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, fileName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		j, err := Open(Config{Dir: dir, MinFreeDisk: 1}.WithDefaults(), Options{Sinks: []SinkRule{{Name: "soc"}}})
		if err != nil {
			t.Fatalf("start refused: %v", err)
		}
		lease, err := j.Lease(t.Context(), "source/prod/risk_process")
		if err != nil {
			t.Fatal(err)
		}
		rec := fuzzed()
		rec.Key.ID, rec.Sequence = "fresh", 1
		if _, err := j.Append(t.Context(), lease, Batch{Changes: []Change{{Key: rec.Key, State: event.State{Sequence: 1}, Record: rec}}}); err != nil {
			t.Errorf("append: %v", err)
		}
		if recs, err := j.Read(t.Context(), 0, 100, 0); err != nil || len(recs) == 0 {
			t.Errorf("%d records, %v", len(recs), err)
		}
		if err := j.Close(); err != nil {
			t.Error(err)
		}
	})
}

// FuzzImport imports files: one that is no sound journal is refused, and
// leaves nothing.
func FuzzImport(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("no journal"))
	f.Add(bytes.Repeat([]byte{0xED, 0x0C, 0xDA, 0xED}, 3000))
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		_, _, err := Import(t.Context(), dir, bytes.NewReader(text), false)
		if err == nil {
			t.Fatalf("%d bytes are taken for a journal", len(text))
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("left behind: %v, %v", left, err)
		}
	})
}

// FuzzMarks reads the file of the marks.
func FuzzMarks(f *testing.F) {
	row := seal(rowMarks, []byte(marksKey), []byte(`{"Last":7,"Cursors":{"soc":{"Seq":3}}}`))
	f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(row))), row...))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, text []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, marksName), text, 0o600); err != nil {
			t.Fatal(err)
		}
		if m := readMarks(dir); m.Last > 0 && len(text) < 9 {
			t.Errorf("%q gives %+v", text, m)
		}
	})
}
