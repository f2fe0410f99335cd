package console

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// Bounds of one reconciliation.
const (
	maxDifferences = 1000   // that are named
	maxWanted      = 40_000 // events of one source that the API is asked for again
)

// A Comparing says what is to be compared.
type Comparing struct {
	Sink   string    `json:"sink,omitzero"`  // only this one; empty: every sink
	Since  time.Time `json:"since,omitzero"` // only events first detected since then; zero: all
	Resend bool      `json:"resend,omitzero"`
	Accept bool      `json:"accept_lost,omitzero"` // with Resend: what nobody has any more leaves the gaps
}

// A Reconciliation compares what the API shows now with what the journal holds
// and what became of it at each sink.
type Reconciliation struct {
	At      time.Time              `json:"at"`
	Since   time.Time              `json:"since,omitzero"`
	Agrees  bool                   `json:"agrees"` // the API was read whole, and nothing is missing anywhere
	Sources []SourceReconciliation `json:"sources"`
	Sinks   []SinkReconciliation   `json:"sinks"`
	Differ  []Difference           `json:"differences"`
	Omitted int                    `json:"differences_omitted,omitzero"` // beyond those named
}

// A SourceReconciliation compares the API with the journal.
type SourceReconciliation struct {
	Source  string `json:"source"`
	Kind    string `json:"kind"`
	Account string `json:"account,omitzero"`
	Sweep   string `json:"sweep,omitzero"`
	// Verdict is "certified", why the sweep proves nothing, or the error that
	// ended it.
	Verdict   string         `json:"verdict"`
	Certified bool           `json:"certified"`
	Error     bool           `json:"error,omitzero"` // the API could not be asked
	API       map[string]int `json:"api"`            // events shown, by status
	Journal   map[string]int `json:"journal"`        // events of the journal that the API shows, by status
	Missing   int            `json:"missing"`        // shown, and not in the journal with this status or a later one
	Gone      int            `json:"gone"`           // in the journal, and no longer shown
}

// A SinkReconciliation says what became of the last record of each event at a
// sink, by status.
type SinkReconciliation struct {
	Sink    string         `json:"sink"`
	Settled map[string]int `json:"settled"` // accepted, or refused by the sink's when
	Waiting map[string]int `json:"waiting"` // not sent yet
	Dead    map[string]int `json:"dead"`    // in the dead letters
	Missing map[string]int `json:"missing"` // in a gap: never sent, and not waiting
	Before  map[string]int `json:"before"`  // from before the sink began
	// Superseded are records in the sink's gaps whose events have a later
	// record: a change that the sink will not see.
	Superseded int `json:"superseded"`

	Resent  int `json:"resent,omitzero"`  // handed to the sink now; they are dead letters of the class gap until accepted
	Refused int `json:"refused,omitzero"` // by the sink's when, of those that were to be sent again
	Later   int `json:"later,omitzero"`   // not handed over yet: one request carries only so many; ask again
	Lost    int `json:"lost,omitzero"`    // neither the journal nor the API has them any more
}

// A Difference is an event that is not where it should be.
type Difference struct {
	Where   string `json:"where"` // "journal" or the sink
	Finding string `json:"finding_uid"`
	ID      string `json:"id"`
	Seq     uint64 `json:"seq,omitzero"`
	Status  string `json:"status"`
	Why     string `json:"why"`
}

// debts say what became of records at one sink.
type debts struct {
	sink   string
	cursor journal.Cursor
	gaps   []journal.Gap
	dead   map[uint64]journal.DeadLetter
}

func (d *debts) inGap(seq uint64) *journal.Gap {
	for i, g := range d.gaps {
		if g.Range.First <= seq && seq <= g.Range.Last {
			return &d.gaps[i]
		}
	}
	return nil
}

func (d *debts) waits(seq uint64) bool {
	inside := func(r journal.Range) bool { return r.First <= seq && seq <= r.Last }
	return seq > d.cursor.Seq && !slices.ContainsFunc(d.cursor.Ahead, inside)
}

// debts reads what the sinks owe; only names one, or is empty.
func (a *Admin) debts(ctx context.Context, only string) ([]*debts, journal.Status, error) {
	st, err := a.opt.Store.Status(ctx)
	if err != nil {
		return nil, st, err
	}
	var out []*debts
	for _, s := range st.Sinks {
		if only != "" && s.Sink != only || only == "" && !s.Configured {
			continue
		}
		d := &debts{sink: s.Sink, cursor: s.Cursor, dead: map[uint64]journal.DeadLetter{}}
		for _, g := range st.Gaps {
			if g.Sink == s.Sink && g.Reason != "replay" { // those had been sent before
				d.gaps = append(d.gaps, g)
			}
		}
		for after := uint64(0); ; {
			page, err := a.opt.Store.DeadLetters(ctx, s.Sink, after, maxListed)
			if err != nil {
				return nil, st, err
			}
			for _, l := range page {
				after = l.Record.Seq
				l.Record = nil // the reason is enough
				d.dead[after] = l
			}
			if len(page) < maxListed {
				break
			}
		}
		out = append(out, d)
	}
	return out, st, nil
}

// states calls f for the state of every event of an account and kind.
func (a *Admin) states(ctx context.Context, account, kind string, f func(journal.KeyState)) error {
	for after := ""; ; {
		page, err := a.opt.Store.States(ctx, account, kind, after, 10*maxListed)
		if err != nil {
			return err
		}
		for _, ks := range page {
			f(ks)
			after = ks.Key.ID
		}
		if len(page) == 0 {
			return nil
		}
	}
}

// reconcile compares, and with resend hands to each sink what it never got.
func (a *Admin) reconcile(r *http.Request) (any, error) {
	var q Comparing
	if err := decodeInto(r, &q); err != nil {
		return nil, err
	}
	ctx := r.Context()
	if q.Sink != "" {
		if err := a.known(ctx, q.Sink); err != nil {
			return nil, err
		}
	}
	switch {
	case q.Resend && a.opt.Sink == nil:
		return nil, refuse(http.StatusConflict, "no daemon runs on this state directory: start cwprelay run, then ask again")
	case q.Resend && q.Sink != "" && a.opt.Sink(q.Sink) == nil:
		return nil, refuse(http.StatusConflict, "sink %s is not configured any more", q.Sink)
	case a.opt.Show == nil:
		return nil, refuse(http.StatusConflict, "no source is open")
	}
	before, st, err := a.debts(ctx, q.Sink)
	if err != nil {
		return nil, err
	}
	wanted := a.wanted(ctx, q, before, st)
	shown, errs := a.opt.Show(ctx, wanted.has)
	if wanted.err != nil {
		return nil, wanted.err
	}
	return a.compare(ctx, q, wanted, shown, errs)
}

// A wanting is which events are to be kept, account by account as they come.
type wanting struct {
	owed map[string]map[string]bool // by account and kind: ids
	list func(account, kind string) (map[string]bool, error)
	err  error
}

func (w *wanting) has(k event.Key) bool {
	name := k.Account + "\x00" + k.Kind
	ids, ok := w.owed[name]
	if !ok {
		if ids, w.err = w.list(k.Account, k.Kind); w.err != nil {
			ids = nil
		}
		w.owed[name] = ids
	}
	return ids[k.ID]
}

// wanted are the events whose last record a sink never got and the journal no
// longer holds.
func (a *Admin) wanted(ctx context.Context, q Comparing, sinks []*debts, st journal.Status) *wanting {
	w := &wanting{owed: map[string]map[string]bool{}}
	w.list = func(account, kind string) (map[string]bool, error) {
		if !q.Resend {
			return nil, nil
		}
		var owed []journal.KeyState
		err := a.states(ctx, account, kind, func(ks journal.KeyState) {
			seq := ks.State.LastRecord
			for _, d := range sinks {
				if seq > 0 && (d.inGap(seq) != nil || q.Sink != "" && seq <= d.cursor.Begin && seq < max(st.First, 1)) {
					owed = append(owed, ks)
					break
				}
			}
		})
		newestFirst(owed)
		ids := map[string]bool{}
		for _, ks := range owed[:min(len(owed), maxWanted)] {
			ids[ks.Key.ID] = true
		}
		return ids, err
	}
	return w
}

func newestFirst(list []journal.KeyState) {
	slices.SortFunc(list, func(x, y journal.KeyState) int { return cmp.Compare(y.State.LastRecord, x.State.LastRecord) })
}

// compare makes the comparison, and sends again where that was asked for.
func (a *Admin) compare(ctx context.Context, q Comparing, w *wanting, shown []*poller.Shown, errs []error) (any, error) {
	sinks, _, err := a.debts(ctx, q.Sink) // as they are after the sweep
	if err != nil {
		return nil, err
	}
	c := &comparison{a: a, q: q, wanted: w, sinks: sinks, kept: map[uint64]*event.Record{}}
	c.out = Reconciliation{At: time.Now().UTC(), Since: q.Since, Agrees: true, Differ: []Difference{}}
	for _, d := range sinks {
		c.out.Sinks = append(c.out.Sinks, SinkReconciliation{
			Sink: d.sink, Settled: map[string]int{}, Waiting: map[string]int{}, Dead: map[string]int{}, Missing: map[string]int{}, Before: map[string]int{},
		})
	}
	c.owed = make([][]journal.KeyState, len(sinks))
	for i, s := range shown {
		if err := c.source(ctx, s, errs[i]); err != nil {
			return nil, err
		}
	}
	for i, d := range sinks {
		if err := c.settle(ctx, &c.out.Sinks[i], d, c.owed[i]); err != nil {
			return nil, err
		}
	}
	return c.out, nil
}

// A comparison is a Reconciliation in the making.
type comparison struct {
	a      *Admin
	q      Comparing
	wanted *wanting
	more   bool // the API showed more of what is wanted than could be kept
	sinks  []*debts
	owed   [][]journal.KeyState     // beside sinks: whose last record it never got
	kept   map[uint64]*event.Record // by sequence: what the API showed of them
	out    Reconciliation
}

func (c *comparison) differ(where string, key event.Key, seq uint64, status, why string) {
	c.out.Agrees = false
	if len(c.out.Differ) == maxDifferences {
		c.out.Omitted++
		return
	}
	c.out.Differ = append(c.out.Differ, Difference{Where: where, Finding: key.FindingUID(), ID: key.ID, Seq: seq, Status: status, Why: why})
}

// source compares what the API showed of one source with the journal, and looks
// for each event at every sink.
func (c *comparison) source(ctx context.Context, s *poller.Shown, failed error) error {
	v := SourceReconciliation{
		Source: s.Source, Kind: s.Kind, Account: s.Account, Sweep: s.Certificate.Sweep, Verdict: "certified",
		Certified: s.Certificate.Certified, API: map[string]int{}, Journal: map[string]int{},
	}
	switch {
	case failed != nil:
		v.Verdict, v.Error, v.Certified = failed.Error(), true, false
	case !s.Certificate.Certified:
		v.Verdict = strings.TrimSuffix(s.Certificate.Reason+": "+s.Certificate.Detail, ": ")
	}
	c.out.Agrees = c.out.Agrees && v.Certified
	c.more = c.more || s.More
	for _, rec := range s.Kept {
		c.kept[rec.Seq] = rec
	}
	zone, err := time.LoadLocation(s.Zone)
	if err != nil {
		zone = time.UTC
	}
	left := s.Events // what the journal does not know
	err = c.a.states(ctx, s.Account, s.Kind, func(ks journal.KeyState) {
		now, there := left[ks.Key.ID]
		delete(left, ks.Key.ID)
		if !c.meant(ks.State, zone) {
			return
		}
		switch {
		case !there:
			v.Gone++
		default:
			v.API[now.Status.Symbol]++
			v.Journal[ks.State.Status.Symbol]++
			if now.Status.Code != ks.State.Status.Code && !c.later(ctx, ks.State, now) {
				v.Missing++
				c.differ("journal", ks.Key, ks.State.LastRecord, now.Status.Symbol, "the journal has it as "+ks.State.Status.Symbol)
			}
		}
		for i, d := range c.sinks {
			c.at(i, d, ks)
		}
	})
	for id, now := range left {
		v.API[now.Status.Symbol]++
		v.Missing++
		c.differ("journal", event.Key{Account: s.Account, Kind: s.Kind, ID: id}, 0, now.Status.Symbol, "the API shows it, the journal does not know it")
	}
	c.out.Sources = append(c.out.Sources, v)
	return err
}

// meant reports whether an event is within the time asked for. One whose time
// cannot be read is.
func (c *comparison) meant(st event.State, zone *time.Location) bool {
	if c.q.Since.IsZero() {
		return true
	}
	t, ok := event.ParseTime(st.FirstDetect, zone)
	return !ok || !t.Before(c.q.Since)
}

// later reports whether the journal's last record of an event is newer than
// what the sweep showed.
func (c *comparison) later(ctx context.Context, st event.State, now poller.ShownEvent) bool {
	rec, err := c.a.opt.Store.Get(ctx, st.LastRecord)
	return err == nil && rec != nil && rec.ObservedAt.After(now.At)
}

// at says what became of an event's last record at a sink.
func (c *comparison) at(i int, d *debts, ks journal.KeyState) {
	v, seq, status := &c.out.Sinks[i], ks.State.LastRecord, ks.State.Status.Symbol
	letter, dead := d.dead[seq]
	gap := d.inGap(seq)
	switch {
	case seq == 0: // backfill: silent
	case dead:
		v.Dead[status]++
		if letter.Class != "gap" || !c.q.Resend {
			c.differ(d.sink, ks.Key, seq, status, "dead letter: "+letter.Class+": "+letter.Reason)
		}
	case gap != nil:
		v.Missing[status]++
		c.differ(d.sink, ks.Key, seq, status, "never sent: "+gap.Reason)
		c.owed[i] = append(c.owed[i], ks)
	case seq <= d.cursor.Begin:
		v.Before[status]++
		c.owed[i] = append(c.owed[i], ks)
	case d.waits(seq):
		v.Waiting[status]++
	default:
		v.Settled[status]++
	}
}

// settle counts what is left in a sink's gaps, and hands over what it never
// got.
func (c *comparison) settle(ctx context.Context, v *SinkReconciliation, d *debts, owed []journal.KeyState) error {
	owing := map[uint64]bool{}
	for _, ks := range owed {
		owing[ks.State.LastRecord] = true
	}
	for _, g := range d.gaps {
		v.Superseded += g.Records
	}
	for seq := range owing {
		if d.inGap(seq) != nil {
			v.Superseded--
		}
	}
	v.Superseded = max(v.Superseded, 0)
	c.out.Agrees = c.out.Agrees && len(d.gaps) == 0
	if !c.q.Resend || len(d.gaps) == 0 && (c.q.Sink == "" || len(owed) == 0) {
		return nil
	}
	return c.resend(ctx, v, d, owed)
}

// resend hands to a sink what it never got, the newest first: what one request
// cannot carry is left where the next will find it.
func (c *comparison) resend(ctx context.Context, v *SinkReconciliation, d *debts, owed []journal.KeyState) error {
	newestFirst(owed)
	var records []*event.Record
	left := map[uint64]bool{} // in gaps, and stays there
	floor := uint64(0)        // newest record from before the sink began that is left for the next request
	for _, ks := range owed {
		seq, gap := ks.State.LastRecord, d.inGap(ks.State.LastRecord) != nil
		if !gap && (c.q.Sink == "" || floor > 0) {
			v.Later += map[bool]int{true: 1}[floor > 0]
			continue // where the sink began was its owner's choice
		}
		rec, err := c.a.opt.Store.Get(ctx, seq)
		if err != nil {
			return err
		}
		if rec == nil {
			rec = c.kept[seq]
		}
		switch {
		case rec != nil:
			records = append(records, rec)
		case !c.more && c.wanted.has(ks.Key):
			v.Lost++
			left[seq] = gap && !c.q.Accept
		default:
			v.Later++
			if left[seq] = gap; !gap {
				floor = seq
			}
		}
	}
	slices.Reverse(records)
	var filled []journal.Range
	switch {
	case !c.q.Since.IsZero(): // older ones were not looked at
		for _, rec := range records {
			filled = append(filled, journal.Range{First: rec.Seq, Last: rec.Seq})
		}
	default:
		for _, g := range d.gaps {
			filled = append(filled, without(g.Range, left)...)
		}
		if c.q.Sink != "" && d.cursor.Begin > floor {
			filled = append(filled, journal.Range{First: floor + 1, Last: d.cursor.Begin})
		}
	}
	refused, err := c.a.opt.Sink(d.sink).Resend(ctx, records, filled)
	if err != nil {
		return fmt.Errorf("hand the records to sink %s: %w", d.sink, err)
	}
	v.Resent, v.Refused = len(records)-refused, refused
	return nil
}

// without is a range in pieces, around the records that are left out.
func without(r journal.Range, out map[uint64]bool) []journal.Range {
	var list []journal.Range
	from := r.First
	for _, seq := range slices.Sorted(func(yield func(uint64) bool) {
		for seq, yes := range out {
			if yes && r.First <= seq && seq <= r.Last && !yield(seq) {
				return
			}
		}
	}) {
		if seq > from {
			list = append(list, journal.Range{First: from, Last: seq - 1})
		}
		from = seq + 1
	}
	if from <= r.Last {
		list = append(list, journal.Range{First: from, Last: r.Last})
	}
	return list
}
