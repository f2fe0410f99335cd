package journal_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/journal"
)

// A damaging is a journal before it is damaged, and what it holds.
type damaging struct {
	text    []byte // the file
	older   []byte // the file some commits before
	marks   []byte // the file beside it
	records int    // numbers 1 to records
	cursor  map[string]uint64
	dead    []uint64 // of sink a
}

func newDamaging(t *testing.T) *damaging {
	t.Helper()
	dir := t.TempDir()
	d := &damaging{records: 150, cursor: map[string]uint64{"a": 40, "b": 55}, dead: []uint64{7, 30}}
	f := open(t, config(dir), twoSinks(nil))
	read := func(name string) []byte {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	// Some records come alone, some in runs, of which a sink has had a part.
	if err := errors.Join(fill(t, f, 0, 25, 300), fillAtOnce(t, f, 25, 60, 300), fill(t, f, 85, 15, 300)); err != nil {
		t.Fatal(err)
	}
	recs, err := f.Read(t.Context(), 0, 1000, 0)
	if err != nil {
		t.Fatal(err)
	}
	var letters []journal.DeadLetter
	for _, seq := range d.dead {
		letters = append(letters, journal.DeadLetter{Record: recs[seq-1], Class: "poison", Reason: "refused", Attempts: 2})
	}
	settle(t, f, journal.Settlement{Sink: "a", Cursor: journal.Cursor{Seq: d.cursor["a"]}, Dead: letters})
	settle(t, f, journal.Settlement{Sink: "b", Cursor: journal.Cursor{Seq: 20}})
	d.older = read("journal.db")
	if err := errors.Join(fillAtOnce(t, f, 100, 20, 300), fill(t, f, 120, 20, 300), fillAtOnce(t, f, 140, 10, 300)); err != nil {
		t.Fatal(err)
	}
	settle(t, f, journal.Settlement{Sink: "b", Cursor: journal.Cursor{Seq: d.cursor["b"]}})
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	d.text, d.marks = read("journal.db"), read("journal.marks")
	return d
}

func twoSinks(report func(string)) journal.Options {
	opt := sinks(journal.SinkRule{Name: "a"}, journal.SinkRule{Name: "b"})
	opt.Report = report
	return opt
}

// damage returns a damaged copy of the file and what was done to it.
func (d *damaging) damage(random *rand.Rand) ([]byte, string) {
	text := bytes.Clone(d.text)
	size, page := len(text), os.Getpagesize()
	switch random.IntN(6) {
	case 0:
		n := random.IntN(size)
		return text[:n], fmt.Sprintf("cut to %d", n)
	case 1:
		at := random.IntN(size)
		text[at] ^= 1 << random.IntN(8)
		return text, fmt.Sprintf("a bit at %d", at)
	case 2: // in the heads of pages, where most bits matter
		at := random.IntN(size/page)*page + random.IntN(400)
		text[at] ^= 1 << random.IntN(8)
		return text, fmt.Sprintf("a bit at %d", at)
	case 3:
		at := random.IntN(size/512) * 512
		clear(text[at : at+512])
		return text, fmt.Sprintf("zeroes at %d", at)
	case 4:
		at := random.IntN(size/512) * 512
		for i := range 512 {
			text[at+i] = byte(random.Uint32())
		}
		return text, fmt.Sprintf("noise at %d", at)
	default: // a write that never reached the disk
		at := random.IntN(min(len(d.older), size)/page) * page
		copy(text[at:at+page], d.older[at:])
		return text, fmt.Sprintf("a page of before at %d", at)
	}
}

// dir is a state directory with the file in it.
func (d *damaging) dir(t *testing.T, text []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, b := range map[string][]byte{"journal.db": text, "journal.marks": d.marks} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// check opens a damaged file and returns what is wrong then.
func (d *damaging) check(t *testing.T, text []byte) (problems []string, setAside bool) {
	t.Helper()
	complain := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	dir := d.dir(t, text)
	var reports []string
	f, err := journal.Open(config(dir), twoSinks(func(m string) { reports = append(reports, m) }))
	if err != nil {
		complain("start refused: %v", err)
		return problems, false
	}
	defer func() {
		if err := f.Close(); err != nil {
			complain("close: %v", err)
		}
	}()
	recs, err := f.Read(t.Context(), 0, 1000, 0)
	if err != nil {
		complain("read: %v", err)
	}
	there := map[uint64]bool{}
	for _, r := range recs {
		there[r.Seq] = true
		// What is there is right, whatever was lost.
		if id := strconv.FormatUint(r.Seq-1, 10); r.Key.ID != id || !bytes.HasPrefix(r.Raw, fmt.Appendf(nil, `{"EventId":%s,`, id)) {
			complain("record %d is wrong: %.60s", r.Seq, r.Raw)
		}
	}
	st, err := f.Status(t.Context())
	if err != nil {
		complain("status: %v", err)
		return problems, false
	}
	setAside = len(st.SetAside) > 0
	if setAside {
		if kept, err := os.ReadFile(st.SetAside[0]); err != nil || !bytes.Equal(kept, text) {
			complain("the damaged file is not kept as it was: %v", err)
		}
	}
	lost := d.checkSinks(t, f, st, there, complain)
	if lost > st.Damaged {
		complain("%d records are lost, %d are reported", lost, st.Damaged)
	}
	if setAside && lost != st.Damaged {
		complain("%d records are lost, %d are reported", lost, st.Damaged)
	}
	letters := d.checkRest(t, f, there, complain)
	if (lost > 0 || setAside) && len(reports) == 0 {
		complain("nobody was told")
	}
	told := fmt.Sprintf("undelivered records lost: %d, dead letters lost: %d", lost, len(d.dead)-letters)
	if setAside && !slices.ContainsFunc(reports, func(s string) bool { return strings.HasSuffix(s, told) }) {
		complain("want %q; reports: %q", told, reports)
	}
	// Service resumes, and what is new gets a number of its own.
	before := st.Last
	if err := fill(t, f, 100_000, 1, 10); err != nil {
		complain("append: %v", err)
	}
	if fresh, err := f.Read(t.Context(), before, 10, 0); err != nil || len(fresh) != 1 || fresh[0].Key.ID != "100000" || fresh[0].Seq <= uint64(max(d.newest(there), 55)) {
		complain("what came afterwards is %+v, %v", fresh, err)
	}
	if len(problems) > 0 {
		complain("reports %q", reports)
	}
	return problems, setAside
}

func (d *damaging) newest(there map[uint64]bool) int {
	last := 0
	for seq := range there {
		last = max(last, int(seq))
	}
	return last
}

// checkSinks sees that each sink gets each record that it has not had, or has
// a gap there and nowhere else. It returns how many some sink does not get.
func (d *damaging) checkSinks(t *testing.T, f *journal.File, st journal.Status, there map[uint64]bool, complain func(string, ...any)) int {
	t.Helper()
	all := map[uint64]bool{}
	for sink, had := range d.cursor {
		c, err := f.Cursor(t.Context(), sink)
		if err != nil || c.Seq > had {
			complain("cursor of sink %s is %+v, %v, was at %d", sink, c, err, had)
		}
		inGap := map[uint64]bool{}
		for _, g := range st.Gaps {
			for seq := g.Range.First; seq <= g.Range.Last && g.Sink == sink; seq++ {
				inGap[seq] = true
			}
		}
		for seq := had + 1; seq <= uint64(d.records); seq++ {
			switch {
			case there[seq] && inGap[seq]:
				complain("record %d is there, and in a gap of sink %s", seq, sink)
			case !there[seq]:
				all[seq] = true
				if !inGap[seq] {
					complain("record %d is lost, and in no gap of sink %s", seq, sink)
				}
			}
		}
		for seq := range inGap {
			if seq > uint64(d.records) {
				complain("record %d is in a gap of sink %s, and never was", seq, sink)
			}
		}
	}
	return len(all)
}

// checkRest looks at states and dead letters, and returns how many of these
// there are.
func (d *damaging) checkRest(t *testing.T, f *journal.File, there map[uint64]bool, complain func(string, ...any)) int {
	t.Helper()
	states, err := f.States(t.Context(), "1300000001", "risk_process", "", 1000)
	if err != nil {
		complain("states: %v", err)
	}
	for _, s := range states {
		seq, err := strconv.ParseUint(s.Key.ID, 10, 64)
		if err != nil || s.State.Sequence != 1 || s.State.LastRecord != seq+1 {
			complain("state of %q is %+v", s.Key.ID, s.State)
		}
		_ = there
	}
	letters, err := f.DeadLetters(t.Context(), "a", 0, 1000)
	if err != nil {
		complain("dead letters: %v", err)
	}
	for _, l := range letters {
		if !slices.Contains(d.dead, l.Record.Seq) || l.Attempts != 2 {
			complain("dead letter %+v", l)
		}
	}
	return len(letters)
}

// TestDamageIsFoundSetAsideAndReportedExactly cuts and alters files everywhere.
func TestDamageIsFoundSetAsideAndReportedExactly(t *testing.T) {
	d := newDamaging(t)
	n, seed := long(t, 120, 5000), uint64(1)
	aside, kinds := 0, map[string]int{}
	for i := range n {
		text, what := d.damage(rand.New(rand.NewPCG(seed, uint64(i))))
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			problems, setAside := d.check(t, text)
			for _, p := range problems {
				t.Errorf("%s: %s", what, p)
			}
			if setAside {
				aside++
			}
		})
		kinds[strings.Join(strings.Fields(what)[:2], " ")]++
	}
	if aside < n/5 || len(kinds) < 5 {
		t.Errorf("%d of %d files were set aside, of %v: too few to prove anything", aside, n, slices.Sorted(maps.Keys(kinds)))
	}
	t.Logf("%d of %d files set aside", aside, n)
}

// TestAllOfAFileWithoutHeadsIsCarriedOver spoils what the engine needs and
// nothing that we wrote.
func TestAllOfAFileWithoutHeadsIsCarriedOver(t *testing.T) {
	d := newDamaging(t)
	text := bytes.Clone(d.text)
	clear(text[16:80])
	clear(text[os.Getpagesize()+16 : os.Getpagesize()+80])
	f := open(t, config(d.dir(t, text)), twoSinks(nil))
	recs, err := f.Read(t.Context(), 0, 1000, 0)
	if err != nil || len(recs) != d.records {
		t.Errorf("%d records, %v, want %d", len(recs), err, d.records)
	}
	states, err := f.States(t.Context(), "1300000001", "risk_process", "", 1000)
	if err != nil || len(states) != d.records {
		t.Errorf("%d states, %v, want %d", len(states), err, d.records)
	}
	letters, err := f.DeadLetters(t.Context(), "a", 0, 1000)
	if err != nil || len(letters) != len(d.dead) {
		t.Errorf("%d dead letters, %v, want %d", len(letters), err, len(d.dead))
	}
	for sink, seq := range d.cursor {
		if c, err := f.Cursor(t.Context(), sink); err != nil || c.Seq != seq {
			t.Errorf("cursor of sink %s is %+v, %v, want %d", sink, c, err, seq)
		}
	}
	if st := status(t, f); st.Damaged != 0 || len(st.Gaps) != 0 || len(st.SetAside) != 1 {
		t.Errorf("status %+v", st)
	}
	if found, err := f.Check(t.Context()); err != nil || len(found.Damaged)+len(found.Mistakes) > 0 || len(found.SetAside) != 1 || found.Sound() {
		t.Errorf("%+v, %v", found, err)
	}
}

// TestTreeThatLeadsBackIsLeft turns the tree of the log into one without an
// end.
func TestTreeThatLeadsBackIsLeft(t *testing.T) {
	d := newDamaging(t)
	le, page := binary.LittleEndian, os.Getpagesize()
	const branch, head = 1, 16 // of the engine's pages
	turned := 0
	text := bytes.Clone(d.text)
	for at := 2 * page; at < len(text); at += page {
		if id := le.Uint64(text[at:]); le.Uint16(text[at+8:]) == branch && id == uint64(at/page) {
			le.PutUint16(text[at+10:], 1)      // it has one child,
			le.PutUint64(text[at+head+8:], id) // itself
			turned++
		}
	}
	if turned == 0 {
		t.Fatal("no page of the file has children")
	}
	problems, setAside := d.check(t, text)
	for _, p := range problems {
		t.Error(p)
	}
	if !setAside {
		t.Error("nothing is wrong with it")
	}
}

// long is how much is tried: more where CWPRELAY_LONG=1 asks for it.
func long(t *testing.T, short, long int) int {
	t.Helper()
	if os.Getenv("CWPRELAY_LONG") == "1" {
		return long
	}
	return short
}
