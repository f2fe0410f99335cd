package emulator_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// start is when the Worlds of the tests begin: a time of day in the API's zone
// that is the next day's in UTC's.
func start() time.Time { return time.Date(2026, 9, 18, 17, 30, 0, 0, time.UTC) }

func mustInsert(t *testing.T, w *emulator.World, events ...emulator.Event) []string {
	t.Helper()
	ids, err := w.Insert(events...)
	if err != nil {
		t.Fatal(err)
	}
	return ids
}

func list(t *testing.T, w *emulator.World, req emulator.Request) emulator.Answer {
	t.Helper()
	a, err := w.List(req)
	if err != nil {
		t.Fatalf("%+v: %v", req, err)
	}
	return a
}

func idsOf(a emulator.Answer) []string {
	ids := make([]string, len(a.Rows))
	for i, r := range a.Rows {
		ids[i] = r.ID
	}
	return ids
}

func sorted(ids []string) []string { return slices.Sorted(slices.Values(ids)) }

// hundred is a request for as much as an answer holds.
func hundred(filters ...emulator.Filter) emulator.Request {
	return emulator.Request{Limit: new(100), Filters: filters}
}

func filter(name string, values ...string) emulator.Filter {
	return emulator.Filter{Name: name, Values: values}
}

func small(t *testing.T) *emulator.World {
	t.Helper()
	w := emulator.NewWorld(1, 0, start())
	mustInsert(t, w,
		emulator.Event{ID: 1, Status: 0, Start: "2026-09-18 10:00:00", Detect: "2026-09-18 20:00:05", VirusName: "Linux.Risk.Miner", ProcessID: 11, FilePath: "/tmp/Miner"},
		emulator.Event{ID: 2, Status: 2, Start: "2026-09-18 10:00:01", Detect: "2026-09-18 20:00:04", VirusName: "Linux.Scanner.Fscan", ProcessID: 12, FilePath: "/tmp/fscan"},
		emulator.Event{ID: 3, Status: 3, Start: "2026-09-18 10:00:02", Detect: "2026-09-18 20:00:03", VirusName: "Linux.Risk.Miner", ProcessID: 113, FilePath: "/opt/x"},
		emulator.Event{ID: 4, Status: 5, Start: emulator.Null, Detect: "2026-09-18 20:00:02", VirusName: "Win32.Trojan.A", ProcessID: 14, FilePath: `C:\x.exe`},
		emulator.Event{ID: 5, Status: 1, Start: emulator.Blank, Detect: "2026-09-18 20:00:01", VirusName: "Win32.Trojan.B", ProcessID: 15, FilePath: `C:\y.exe`},
		emulator.Event{ID: 6, Status: 4, Start: "2026-09-18T10:00:03+08:00", Detect: "2026-09-18 20:00:00", VirusName: "Linux.Other", ProcessID: 16, FilePath: "/tmp/z"},
	)
	return w
}

func TestFilters(t *testing.T) {
	for name, c := range map[string]struct {
		filters []emulator.Filter
		quirks  emulator.Quirks
		want    []string
	}{
		"none":                       {nil, emulator.Quirks{}, []string{"1", "2", "3", "4", "5", "6"}},
		"begin is inclusive":         {[]emulator.Filter{filter("BeginTime", "2026-09-18 10:00:01")}, emulator.Quirks{}, []string{"2", "3", "6"}},
		"begin may be exclusive":     {[]emulator.Filter{filter("BeginTime", "2026-09-18 10:00:01")}, emulator.Quirks{ExclusiveBegin: true}, []string{"3", "6"}},
		"end is inclusive":           {[]emulator.Filter{filter("EndTime", "2026-09-18 10:00:01")}, emulator.Quirks{}, []string{"1", "2"}},
		"end may be exclusive":       {[]emulator.Filter{filter("EndTime", "2026-09-18 10:00:01")}, emulator.Quirks{ExclusiveEnd: true}, []string{"1"}},
		"one second":                 {[]emulator.Filter{filter("BeginTime", "2026-09-18 10:00:02"), filter("EndTime", "2026-09-18 10:00:02")}, emulator.Quirks{}, []string{"3"}},
		"end before begin":           {[]emulator.Filter{filter("BeginTime", "2026-09-18 10:00:02"), filter("EndTime", "2026-09-18 10:00:00")}, emulator.Quirks{}, nil},
		"BeginTime twice is no end":  {[]emulator.Filter{filter("BeginTime", "2026-09-18 10:00:00"), filter("BeginTime", "2026-09-18 10:00:02")}, emulator.Quirks{}, []string{"3", "6"}},
		"ignored time":               {[]emulator.Filter{filter("BeginTime", "2026-09-18 10:00:02")}, emulator.Quirks{IgnoreTimeFilter: true}, []string{"1", "2", "3", "4", "5", "6"}},
		"status 0 is pending":        {[]emulator.Filter{filter("Status", "0")}, emulator.Quirks{}, []string{"1"}},
		"status 1 is killing":        {[]emulator.Filter{filter("Status", "1")}, emulator.Quirks{}, []string{"2"}},
		"status 2 is killed":         {[]emulator.Filter{filter("Status", "2")}, emulator.Quirks{}, []string{"3"}},
		"status 3 is exited":         {[]emulator.Filter{filter("Status", "3")}, emulator.Quirks{}, []string{"6"}},
		"status 4 is no record's":    {[]emulator.Filter{filter("Status", "4")}, emulator.Quirks{}, nil},
		"status as records say":      {[]emulator.Filter{filter("Status", "1", "5")}, emulator.Quirks{StatusAsRecord: true}, []string{"4", "5"}},
		"ignored status":             {[]emulator.Filter{filter("Status", "0")}, emulator.Quirks{IgnoreStatus: true}, []string{"1", "2", "3", "4", "5", "6"}},
		"values are joined by or":    {[]emulator.Filter{filter("Status", "0", "1")}, emulator.Quirks{}, []string{"1", "2"}},
		"filters are joined by and":  {[]emulator.Filter{filter("Status", "0", "2"), filter("VirusName", "miner"), filter("ProcessId", "113")}, emulator.Quirks{}, []string{"3"}},
		"virus contains any case":    {[]emulator.Filter{filter("VirusName", "MINER")}, emulator.Quirks{}, []string{"1", "3"}},
		"virus exactly":              {[]emulator.Filter{{Name: "VirusName", Values: []string{"linux.risk"}, ExactMatch: true}}, emulator.Quirks{}, nil},
		"process is exact":           {[]emulator.Filter{filter("ProcessId", "11")}, emulator.Quirks{}, []string{"1"}},
		"path contains":              {[]emulator.Filter{filter("FilePath", "/tmp/")}, emulator.Quirks{}, []string{"1", "2", "6"}},
		"unknown host":               {[]emulator.Filter{filter("HostId", "no-such-host")}, emulator.Quirks{}, nil},
		"withheld but counted":       {nil, emulator.Quirks{CountedOnly: []string{"2"}}, []string{"1", "3", "4", "5", "6"}},
		"withheld and not counted":   {nil, emulator.Quirks{Hidden: []string{"2"}}, []string{"1", "3", "4", "5", "6"}},
		"fewer items than asked for": {nil, emulator.Quirks{MaxItems: 2}, []string{"1", "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := small(t)
			w.SetQuirks(c.quirks)
			got := list(t, w, hundred(c.filters...))
			if diff := cmp.Diff(c.want, sorted(idsOf(got)), cmp.Transformer("", func(s []string) []string { return append([]string{}, s...) })); diff != "" {
				t.Errorf("%+v (-want +got):\n%s", c.filters, diff)
			}
			total := len(c.want) + len(c.quirks.CountedOnly)
			if c.quirks.MaxItems > 0 {
				total = 6
			}
			if got.Total != int64(total) {
				t.Errorf("counts %d, want %d", got.Total, total)
			}
			// The same by the other time, which goes another way.
			other := hundred(c.filters...)
			other.By = "StartTime"
			if c.quirks.MaxItems == 0 {
				if diff := cmp.Diff(sorted(idsOf(got)), sorted(idsOf(list(t, w, other)))); diff != "" {
					t.Errorf("by StartTime otherwise (-DetectTime +StartTime):\n%s", diff)
				}
			}
		})
	}
}

func TestHostFilters(t *testing.T) {
	w := emulator.NewWorld(3, 500, start())
	for _, r := range list(t, w, hundred()).Rows {
		var fields map[string]any
		if err := json.Unmarshal(r.Raw, &fields); err != nil {
			t.Fatalf("%s: %v", r.Raw, err)
		}
		extra, ok := fields["MachineExtraInfo"].(map[string]any)
		if !ok {
			continue // of a record of nulls
		}
		for name, value := range map[string]any{
			"HostId": fields["Uuid"], "IpOrName": extra["PrivateIP"], "IpOrName ": fields["HostName"],
		} {
			found := false
			for offset := 0; ; offset += 100 {
				req := hundred(filter(strings.TrimSpace(name), value.(string)))
				req.Offset = &offset
				req.By, req.Order = "StartTime", "ASC"
				w.SetQuirks(emulator.Quirks{StableTies: true})
				a := list(t, w, req)
				found = found || slices.Contains(idsOf(a), r.ID)
				if len(a.Rows) < 100 {
					break
				}
			}
			if !found {
				t.Errorf("%s=%v does not find %s", name, value, r.ID)
			}
		}
	}
}

func TestRefusals(t *testing.T) {
	w := small(t)
	six := slices.Repeat([]emulator.Filter{filter("HostId", "x")}, 6)
	for name, req := range map[string]emulator.Request{
		"limit above 100":    {Limit: new(101)},
		"negative limit":     {Limit: new(-1)},
		"negative offset":    {Offset: new(-1)},
		"by":                 {By: "EventId"},
		"order":              {Order: "asc"},
		"unknown filter":     {Filters: []emulator.Filter{filter("ProcessPath", "x")}},
		"filter by case":     {Filters: []emulator.Filter{filter("hostid", "x")}},
		"no value":           {Filters: []emulator.Filter{filter("HostId")}},
		"six values":         {Filters: []emulator.Filter{filter("HostId", "1", "2", "3", "4", "5", "6")}},
		"six filters":        {Filters: six},
		"time":               {Filters: []emulator.Filter{filter("BeginTime", "2026-09-18")}},
		"two times":          {Filters: []emulator.Filter{filter("EndTime", "2026-09-18 00:00:00", "2026-09-19 00:00:00")}},
		"status":             {Filters: []emulator.Filter{filter("Status", "5")}},
		"process id no text": {Filters: []emulator.Filter{filter("ProcessId", "eleven")}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := w.List(req)
			if refused, ok := err.(*emulator.APIError); !ok || refused.Code != "InvalidParameter" { //nolint:errorlint // promised to be itself
				t.Errorf("%+v gives %v", req, err)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	w := emulator.NewWorld(1, 250, start())
	for name, c := range map[string]struct {
		limit, offset *int
		want          int
	}{
		"default":          {nil, nil, 10},
		"zero":             {new(0), nil, 10},
		"all that fits":    {new(100), nil, 100},
		"the end":          {new(100), new(200), 50},
		"at the end":       {new(100), new(250), 0},
		"far after":        {new(100), new(math.MaxInt), 0},
		"one in the midst": {new(1), new(17), 1},
	} {
		t.Run(name, func(t *testing.T) {
			a := list(t, w, emulator.Request{Limit: c.limit, Offset: c.offset})
			if len(a.Rows) != c.want || a.Total != 250 {
				t.Errorf("%d rows of %d, want %d of 250", len(a.Rows), a.Total, c.want)
			}
		})
	}
}

// By and Order hold for every page, at any offset, whatever was changed
// before; pages without ties join without gaps.
func TestOrderHoldsWhileTheListChanges(t *testing.T) {
	w := emulator.NewWorld(5, 600, start())
	now := start()
	for range 3000 {
		now = now.Add(time.Second)
		w.Step(now)
	}
	w.SetQuirks(emulator.Quirks{StableTies: true})
	key := func(r emulator.Row, by string) string {
		text := r.Start
		if by == "DetectTime" {
			text = r.Detect
		}
		return text
	}
	for _, by := range []string{"StartTime", "DetectTime"} {
		for _, order := range []string{"ASC", "DESC"} {
			var all []emulator.Row
			for {
				a := list(t, w, emulator.Request{By: by, Order: order, Limit: new(97), Offset: new(len(all))})
				all = append(all, a.Rows...)
				if len(a.Rows) < 97 {
					if int(a.Total) != len(all) || a.Total != int64(w.Len()) {
						t.Errorf("%s %s: %d rows, counts %d, holds %d", by, order, len(all), a.Total, w.Len())
					}
					break
				}
			}
			ids := map[string]bool{}
			for i, r := range all {
				ids[r.ID] = true
				if i == 0 {
					continue
				}
				before, after := key(all[i-1], by), key(r, by)
				if order == "DESC" {
					before, after = after, before
				}
				if before > after {
					t.Fatalf("%s %s: %q before %q", by, order, before, after)
				}
			}
			if len(ids) != len(all) {
				t.Errorf("%s %s: %d ids in %d rows", by, order, len(ids), len(all))
			}
		}
	}
}

// A second larger than a page comes in another order in every request, every
// event can stand anywhere, and no page repeats one.
func TestTiesArePermuted(t *testing.T) {
	w := emulator.NewWorld(1, 0, start())
	mustInsert(t, w, emulator.Event{Start: "2026-09-18 00:00:00"})
	ids := w.Burst(150, start())
	mustInsert(t, w, emulator.Event{Start: "2027-09-18 00:00:00"})
	for _, order := range []string{"ASC", "DESC"} {
		first := map[string]int{}
		for range 3000 {
			a := list(t, w, emulator.Request{By: "StartTime", Order: order, Limit: new(100), Offset: new(1)})
			got := idsOf(a)
			if len(slices.Compact(sorted(got))) != 100 {
				t.Fatalf("repeats an event in a page of %d", len(got))
			}
			first[got[0]]++
		}
		if len(first) != len(ids) {
			t.Errorf("%s: %d of %d events came first in 3000 answers", order, len(first), len(ids))
		}
		for id, n := range first {
			if n > 60 { // 20 are expected, 60 are nine deviations off
				t.Errorf("%s: %s came first %d times of 3000", order, id, n)
			}
		}
	}
	w.SetQuirks(emulator.Quirks{StableTies: true})
	req := emulator.Request{By: "StartTime", Order: "ASC", Limit: new(100)}
	if diff := cmp.Diff(idsOf(list(t, w, req)), idsOf(list(t, w, req))); diff != "" {
		t.Errorf("stable ties differ:\n%s", diff)
	}
}

func TestQuirksOfOrderAndCount(t *testing.T) {
	w := small(t)
	w.SetQuirks(emulator.Quirks{IgnoreOrder: true, TotalOffset: -2})
	for _, order := range []string{"ASC", "DESC"} {
		a := list(t, w, emulator.Request{By: "DetectTime", Order: order, Limit: new(3), Offset: new(1)})
		if diff := cmp.Diff([]string{"2", "3", "4"}, idsOf(a)); diff != "" {
			t.Errorf("not the order of insertion (-want +got):\n%s", diff)
		}
		if a.Total != 4 {
			t.Errorf("counts %d, want 4", a.Total)
		}
	}
	w.SetQuirks(emulator.Quirks{NoTotal: true})
	if a := list(t, w, hundred()); !a.NoTotal {
		t.Error("has a TotalCount")
	}
}

// The same seed and the same changes give the same list, however it was read
// meanwhile; another seed gives another.
func TestSeedDecidesEverything(t *testing.T) {
	content := func(seed uint64, read bool) map[string]string {
		w := emulator.NewWorld(seed, 300, start())
		now := start()
		for range 500 {
			now = now.Add(100 * time.Millisecond)
			w.Step(now)
			if read {
				list(t, w, hundred())
			}
		}
		all := map[string]string{}
		for offset := 0; offset < w.Len(); offset += 100 {
			w.SetQuirks(emulator.Quirks{StableTies: true})
			for _, r := range list(t, w, emulator.Request{Limit: new(100), Offset: &offset}).Rows {
				all[r.ID] = string(r.Raw)
			}
		}
		return all
	}
	one := content(7, false)
	if len(one) < 300 {
		t.Fatalf("only %d events", len(one))
	}
	if diff := cmp.Diff(one, content(7, true)); diff != "" {
		t.Errorf("the same seed gives another list (-unread +read):\n%s", diff)
	}
	if maps.Equal(one, content(8, false)) {
		t.Error("another seed gives the same list")
	}
}

// The order of ties comes from the seed too, so that a failed test can be run
// again.
func TestSeedDecidesTies(t *testing.T) {
	order := func(seed uint64) []string {
		w := emulator.NewWorld(seed, 0, start())
		events := make([]emulator.Event, 50)
		for i := range events {
			events[i].ID = int64(i + 1)
		}
		mustInsert(t, w, events...)
		return idsOf(list(t, w, hundred()))
	}
	if diff := cmp.Diff(order(1), order(1)); diff != "" {
		t.Errorf("the same seed gives another order:\n%s", diff)
	}
	if slices.Equal(order(1), order(2)) {
		t.Error("another seed gives the same order")
	}
}

// Records look as the API's do, the odd ones included.
func TestRecordsAreRealistic(t *testing.T) {
	w := emulator.NewWorld(1, 4000, start())
	w.SetQuirks(emulator.Quirks{StableTies: true})
	size, seen := 0, map[string]bool{}
	for offset := 0; offset < 4000; offset += 100 {
		for _, r := range list(t, w, emulator.Request{Limit: new(100), Offset: &offset, By: "StartTime"}).Rows {
			var fields map[string]json.RawMessage
			if err := json.Unmarshal(r.Raw, &fields); err != nil {
				t.Fatalf("%s: %v", r.Raw, err)
			}
			size += len(r.Raw)
			if got := string(fields["EventId"]); got != r.ID {
				t.Errorf("EventId %s in the record of %s", got, r.ID)
			}
			if got := string(fields["HandleStatus"]); got != r.Status {
				t.Errorf("HandleStatus %s in a record of status %s", got, r.Status)
			}
			seen["beyond 2^53"] = seen["beyond 2^53"] || r.ID > "9007199254740992" && len(r.ID) == 16
			seen["masked"] = seen["masked"] || strings.Contains(string(fields["HostIp"]), "***")
			seen["unknown field"] = seen["unknown field"] || fields["RiskScore"] != nil
			seen["nulls"] = seen["nulls"] || string(fields["CmdLine"]) == "null"
			seen["escaped"] = seen["escaped"] || strings.Contains(string(r.Raw), `\u4e`) || strings.Contains(string(r.Raw), `\u8f`)
			seen["other script"] = seen["other script"] || strings.Contains(string(r.Raw), "进程")
			seen["hostile"] = seen["hostile"] || strings.Contains(string(fields["CmdLine"]), `\u0000tail`)
			seen["null start"] = seen["null start"] || string(fields["StartTime"]) == "null"
			seen["empty start"] = seen["empty start"] || string(fields["StartTime"]) == `""`
			seen["year one"] = seen["year one"] || r.Start == "0001-01-01 00:00:00"
			seen["status that no list has"] = seen["status that no list has"] || r.Status == "9"
		}
	}
	for what, ok := range seen {
		if !ok {
			t.Errorf("no record: %s", what)
		}
	}
	if mean := size / 4000; mean < 1200 || mean > 1900 {
		t.Errorf("a record has %d bytes on average, want about 1500", mean)
	}
}

func TestEveryOperationHappens(t *testing.T) {
	w := emulator.NewWorld(2, 2000, start())
	now := start()
	ops := map[emulator.Op]int{}
	largest := 0
	for range 20000 {
		now = now.Add(10 * time.Millisecond)
		before := w.Len()
		ops[w.Step(now)]++
		largest = max(largest, w.Len()-before)
	}
	for _, op := range emulator.Ops() {
		if ops[op] == 0 {
			t.Errorf("%s never happened", op)
		}
	}
	if largest <= 100 {
		t.Errorf("the largest burst has %d events; some must exceed an answer", largest)
	}
}

func TestIDsAreNeverGivenTwice(t *testing.T) {
	w := small(t)
	w.Delete("3")
	for _, events := range [][]emulator.Event{{{ID: 1}}, {{ID: 3}}, {{ID: 77}, {ID: 77}}} {
		if ids, err := w.Insert(events...); err == nil {
			t.Errorf("%+v were inserted as %v", events, ids)
		}
	}
	if w.Len() != 5 {
		t.Errorf("holds %d events, want 5", w.Len())
	}
}

func TestElementsAsTheyStand(t *testing.T) {
	w := emulator.NewWorld(1, 0, start())
	elements := []string{
		`{"EventId": 9007199254740993, "HandleStatus": 2, "StartTime": " 2026-09-18 10:00:00", "Extra": {"a": [1]}}`,
		`{"EventId":"text-id","HandleStatus":null,"StartTime":null}`,
		`{"HandleStatus":0}`,
		`null`,
		`"junk"`,
		`[1,2]`,
	}
	var raw [][]byte
	for _, e := range elements {
		raw = append(raw, []byte(e))
	}
	ids, err := w.InsertJSON(raw...)
	if err != nil {
		t.Fatal(err)
	}
	if ids[0] != "9007199254740993" || ids[1] != "text-id" || !strings.HasPrefix(ids[2], "sha256:") || !strings.HasPrefix(ids[3], "sha256:") {
		t.Errorf("ids %v", ids)
	}
	got := map[string]emulator.Row{}
	for _, r := range list(t, w, hundred()).Rows {
		got[r.ID] = r
	}
	for i, id := range ids {
		if string(got[id].Raw) != elements[i] {
			t.Errorf("%s is shown as %s, want %s", id, got[id].Raw, elements[i])
		}
	}
	if n := w.SetStatus(3, ids...); n != 3 {
		t.Errorf("%d changed their status, want the three objects", n)
	}
	for _, r := range list(t, w, hundred()).Rows {
		if r.ID == ids[0] {
			if want := `{"EventId":9007199254740993,"Extra":{"a":[1]},"HandleStatus":3,"StartTime":" 2026-09-18 10:00:00"}`; string(r.Raw) != want {
				t.Errorf("changed to %s, want %s", r.Raw, want)
			}
		}
	}
	list(t, w, hundred(filter("VirusName", "x"), filter("HostId", "x"), filter("IpOrName", "x"))) // none has them
	if _, err := w.InsertJSON([]byte("{")); err == nil {
		t.Error("took in what is not JSON")
	}
}

// A list is made, changed and asked at a cost that is no concern of whoever
// measures: what is allocated is counted, which no busy machine changes.
func TestTwoHundredThousandEvents(t *testing.T) {
	var w *emulator.World
	made := allocated(func() { w = emulator.NewWorld(1, 200_000, start()) })
	if w.Len() != 200_000 {
		t.Fatalf("holds %d events", w.Len())
	}
	random := rand.New(rand.NewPCG(1, 1))
	now := start()
	asked := allocated(func() {
		for range 500 {
			now = now.Add(time.Millisecond)
			w.Step(now)
			begin := now.Add(-time.Duration(random.IntN(90*24)) * time.Hour).Format("2006-01-02 15:04:05")
			list(t, w, emulator.Request{By: "StartTime", Order: "ASC", Limit: new(100), Filters: []emulator.Filter{filter("BeginTime", begin)}})
		}
	})
	t.Logf("%d bytes for one event, %d for one change and one answer", made/200_000, asked/500)
	if made/200_000 > 5_000 {
		t.Errorf("%d bytes were allocated for one event", made/200_000)
	}
	if asked/500 > 1_000_000 {
		t.Errorf("%d bytes were allocated for one change and one answer", asked/500)
	}
}

// allocated tells how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func BenchmarkSweep(b *testing.B) {
	w := emulator.NewWorld(1, 200_000, start())
	begin := "2000-01-01 00:00:00"
	for b.Loop() {
		a, err := w.List(emulator.Request{By: "StartTime", Order: "ASC", Limit: new(100), Filters: []emulator.Filter{filter("BeginTime", begin)}})
		if err != nil {
			b.Fatal(err)
		}
		if begin = a.Rows[len(a.Rows)-1].Start; len(a.Rows) < 100 {
			begin = "2000-01-01 00:00:00"
		}
	}
}

func BenchmarkVirusFilter(b *testing.B) {
	w := emulator.NewWorld(1, 200_000, start())
	for b.Loop() {
		if _, err := w.List(hundred(filter("VirusName", "miner"))); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkStep(b *testing.B) {
	w := emulator.NewWorld(1, 200_000, start())
	for i := 0; b.Loop(); i++ {
		w.Step(start().Add(time.Duration(i) * time.Millisecond))
	}
}

func ExampleWorld() {
	w := emulator.NewWorld(1, 0, start())
	ids, _ := w.Insert(emulator.Event{ID: 24, VirusName: "Linux.Risk.Miner"})
	before := w.Tick()
	w.SetStatus(3, ids...)
	fmt.Println(w.VisibleThroughout(before, w.Tick()), w.Visible(w.Tick()))
	// Output: [] [{24 3}]
}
