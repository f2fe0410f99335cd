package journal_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
)

func export(t *testing.T, f *journal.File) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := f.Export(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// A snapshot taken while others write is one moment of the journal, and goes on
// where it was taken.
func TestExportedJournalGoesOnElsewhere(t *testing.T) {
	f := open(t, config(t.TempDir()), sinks(journal.SinkRule{Name: "soc"}))
	appendNow(t, f, 1, 200)
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 120}})
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := 1000; ; n++ {
			select {
			case <-stop:
				return
			default:
				_ = fill(t, f, n, 1, 2000)
			}
		}
	}()
	snapshot := export(t, f)
	close(stop)
	<-stopped
	dir := t.TempDir()
	found, aside, err := journal.Import(t.Context(), dir, bytes.NewReader(snapshot), false)
	if err != nil || aside != "" || !found.Sound() || found.Rows < 200+200/32 {
		t.Fatalf("%+v, %q, %v", found, aside, err)
	}
	g := open(t, config(dir), sinks(journal.SinkRule{Name: "soc"}))
	if c, err := g.Cursor(t.Context(), "soc"); err != nil || c.Seq != 120 {
		t.Errorf("cursor %+v, %v", c, err)
	}
	recs, err := g.Read(t.Context(), 0, 200, 0)
	if err != nil || len(recs) != 200 {
		t.Fatalf("%d records, %v", len(recs), err)
	}
	orig, err := f.Read(t.Context(), 0, 200, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range recs {
		if diff := cmp.Diff(string(orig[i].Raw), string(recs[i].Raw)); diff != "" || recs[i].UID != orig[i].UID {
			t.Fatalf("record %d differs: %s", i, diff)
		}
	}
	if err := fill(t, g, 9000, 1, 100); err != nil {
		t.Errorf("the imported journal takes nothing in: %v", err)
	}
}

func TestImportIsRefusedRatherThanDoHarm(t *testing.T) {
	f := open(t, config(t.TempDir()), sinks(journal.SinkRule{Name: "soc"}))
	appendNow(t, f, 1, 50)
	snapshot := export(t, f)

	busy := t.TempDir()
	open(t, config(busy), sinks())
	if _, _, err := journal.Import(t.Context(), busy, bytes.NewReader(snapshot), true); !errors.Is(err, journal.ErrLocked) {
		t.Errorf("into a directory in use: %v", err)
	}

	quiet := t.TempDir()
	if err := open(t, config(quiet), sinks()).Close(); err != nil {
		t.Fatal(err)
	}
	if _, _, err := journal.Import(t.Context(), quiet, bytes.NewReader(snapshot), false); !errors.Is(err, journal.ErrExists) {
		t.Errorf("over a journal: %v", err)
	}
	before, err := os.ReadFile(filepath.Join(quiet, "journal.db"))
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(snapshot)
	i := bytes.LastIndex(flipped, []byte("risk_process")) // within a row
	flipped[i] ^= 1
	for name, bad := range map[string][]byte{"flipped": flipped, "cut": snapshot[:len(snapshot)/2], "empty": nil, "text": []byte(strings.Repeat("not a journal ", 1000))} {
		_, aside, err := journal.Import(t.Context(), quiet, bytes.NewReader(bad), true)
		after, readErr := os.ReadFile(filepath.Join(quiet, "journal.db"))
		if err == nil || aside != "" || readErr != nil || !bytes.Equal(before, after) {
			t.Errorf("%s: %v, set aside %q, the journal that was there changed: %v", name, err, aside, !bytes.Equal(before, after))
		}
	}
	_, aside, err := journal.Import(t.Context(), quiet, bytes.NewReader(snapshot), true)
	if err != nil {
		t.Fatal(err)
	}
	if kept, err := os.ReadFile(aside); err != nil || !bytes.Equal(kept, before) {
		t.Errorf("the former journal is not kept: %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(quiet, "*.tmp")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestCheckFindsWhatIsDamaged(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir), sinks(journal.SinkRule{Name: "soc"}))
	appendNow(t, f, 1, 50)
	rec := journaltest.Record("7", 1)
	rec.Seq = 7
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 50}, Dead: []journal.DeadLetter{{Record: rec, Class: "poison"}}})
	found, err := f.Check(t.Context())
	if err != nil || !found.Sound() || found.Rows < 52+50/32 {
		t.Fatalf("%+v, %v", found, err)
	}
	// The cursor of a sink that is ahead of every record fits nothing.
	settle(t, f, journal.Settlement{Sink: "soc", Cursor: journal.Cursor{Seq: 99}})
	if found, err = f.Check(t.Context()); err != nil || len(found.Mistakes) != 1 || !strings.Contains(found.Mistakes[0], "soc is at 99") {
		t.Errorf("%+v, %v", found, err)
	}
	alter(t, filepath.Join(dir, "journal.db"), "poison", "Poison")
	if found, err = f.Check(t.Context()); err != nil || found.Damaged["dead"] != 1 || found.Sound() {
		t.Errorf("%+v, %v", found, err)
	}
}

func TestCompactGivesSpaceBack(t *testing.T) {
	dir := t.TempDir()
	f := open(t, config(dir), sinks(journal.SinkRule{Name: "soc"}))
	if err := fill(t, f, 1, 400, 20<<10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	cfg := config(dir)
	cfg.MaxBytes = 2 << 20 // what is beyond it goes at the next record
	f = open(t, cfg, sinks(journal.SinkRule{Name: "soc", OnFull: journal.OnFullSkip}))
	if err := fill(t, f, 9000, 1, 10); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	f = open(t, cfg, sinks(journal.SinkRule{Name: "soc", OnFull: journal.OnFullSkip}))
	before, after, err := f.Compact()
	if err != nil || after > before/2 {
		t.Errorf("%d bytes before, %d after, %v", before, after, err)
	}
	if found, err := f.Check(t.Context()); err != nil || !found.Sound() {
		t.Errorf("afterwards %+v, %v", found, err)
	}
	if err := fill(t, f, 9001, 1, 10); err != nil {
		t.Error(err)
	}
}
