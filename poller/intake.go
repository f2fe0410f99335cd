package poller

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/dedupe"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// errFatal marks an error of the journal after which the program cannot go on.
var errFatal = errors.New("the journal cannot be used any more")

// The most answers, and items, that one commit takes in.
const (
	maxGroupAnswers = 16
	maxGroupItems   = 2000
)

// An intake judges items and stores what is news: one goroutine asks the set
// and appends, so that judging and storing are one step.
type intake struct {
	p     *Poller
	lease journal.Lease
	jobs  chan job

	// The rest belongs to the goroutine of run.
	set     *dedupe.Set
	source  journal.Source
	loaded  bool // the set holds what the journal holds
	tracked []string
}

// A job is one answer, or a function that needs the set.
type job struct {
	answer *answer
	by     origin
	owns   func(second int64) bool // which items to judge; nil: all
	do     func() error
	done   chan taken // buffered: the intake never waits for whoever asked
}

// An origin says what showed an answer.
type origin struct {
	id     string // of the sweep or head scan
	number int    // of the request within it
	mark   uint32 // of the running sweep; items count as seen by it
	start  int64  // wall second at which the first sweep of the source began, for backfill
}

// taken is what became of an answer.
type taken struct {
	news    int     // records and states that were written because something happened
	records int     // records written
	stale   []int64 // sweep times of items that were not judged; noTime among them
	moved   int     // events that stand at two sweep times
	err     error
}

func newIntake(ctx context.Context, p *Poller, lease journal.Lease, source journal.Source) (*intake, error) {
	in := &intake{p: p, lease: lease, jobs: make(chan job), source: source}
	for _, field := range p.cfg.ChangedOn {
		if field != p.kind.StatusField {
			in.tracked = append(in.tracked, field)
		}
	}
	if err := in.load(ctx); err != nil {
		return nil, err
	}
	return in, in.adopt(ctx)
}

// loadMost is how many states are read at once.
const loadMost = 2000

// load fills the set from the journal, which is read on meanwhile.
func (in *intake) load(ctx context.Context) error {
	set := dedupe.New()
	read := make(chan []journal.KeyState, 2)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		defer close(read)
		after := ""
		for {
			states, err := in.p.opt.Journal.States(ctx, in.source.Account, in.p.kind.Name, after, loadMost)
			if err != nil || len(states) == 0 {
				return err
			}
			after = states[len(states)-1].Key.ID
			select {
			case read <- states:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	})
	for states := range read {
		for _, ks := range states {
			st := ks.State
			st.Status = in.p.kind.Status(in.p.cfg.Dialect, st.Status.Code) // the dialect may have changed
			st.Tracked = remap(st.Tracked, in.source.ChangedOn, in.tracked)
			set.Load(ks.Key.ID, st)
		}
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("load the known events of source %s: %w", in.source.Source, err)
	}
	in.set, in.loaded = set, true
	in.p.update(func(s *Status) { s.Known = set.Len() })
	return nil
}

// remap brings tracked values from the order of one configuration to another;
// nil when the fields differ, so that the next sight is a baseline.
func remap(values, from, to []string) []string {
	if len(values) != len(from) || len(from) < len(to) {
		return nil
	}
	out := make([]string, len(to))
	for i, field := range to {
		found := false
		for j := range from {
			if from[j] == field {
				out[i], found = values[j], true
			}
		}
		if !found {
			return nil
		}
	}
	return out
}

// adopt stores what the configuration changed about the source: other filters
// make every key unwatched until it is shown again.
func (in *intake) adopt(ctx context.Context) error {
	filters := filterText(in.p.opt.Filters)
	var changes []journal.Change
	if in.source.Filters != filters && in.set.Len() > 0 {
		for _, a := range in.set.Absences(math.MaxUint32) {
			st := a.State
			st.Unwatched, st.AbsentSince = true, time.Time{}
			changes = append(changes, in.restate(a.ID, st))
		}
	}
	in.source.Filters = filters
	in.source.ChangedOn = in.tracked
	return in.store(ctx, changes, nil)
}

// restate is a change of a key's state that nothing happened to.
func (in *intake) restate(id string, st event.State) journal.Change {
	return journal.Change{
		Key:    event.Key{Account: in.source.Account, Kind: in.p.kind.Name, ID: id},
		Expect: st.Sequence, State: st,
	}
}

// run serves jobs until stop is closed or ctx is done.
func (in *intake) run(ctx context.Context, stop <-chan struct{}) error {
	for {
		var j job
		select {
		case j = <-in.jobs:
		case <-stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		group := []job{j}
		for items := j.items(); len(group) < maxGroupAnswers && items < maxGroupItems; {
			select {
			case next := <-in.jobs:
				group = append(group, next)
				items += next.items()
				continue
			default:
			}
			break
		}
		in.p.beat(loopIntake, working)
		if err := in.serve(ctx, group); err != nil {
			return err
		}
		in.p.beat(loopIntake, 0)
	}
}

func (j job) items() int {
	if j.answer == nil {
		return 0
	}
	return len(j.answer.rows)
}

// take hands an answer to the intake. What becomes of it arrives on the
// channel that is returned.
func (in *intake) take(ctx context.Context, a *answer, by origin, owns func(int64) bool) (<-chan taken, error) {
	j := job{answer: a, by: by, owns: owns, done: make(chan taken, 1)}
	return j.done, in.send(ctx, j)
}

// takeNow hands an answer to the intake and waits for what becomes of it.
func (in *intake) takeNow(ctx context.Context, a *answer, by origin) (taken, error) {
	ch, err := in.take(ctx, a, by, nil)
	if err != nil {
		return taken{}, err
	}
	return await(ctx, ch)
}

// await waits for what becomes of a job; its error is the job's, or ctx's.
func await(ctx context.Context, ch <-chan taken) (taken, error) {
	select {
	case t := <-ch:
		return t, t.err
	case <-ctx.Done():
		return taken{}, ctx.Err()
	}
}

// do runs f where the set may be asked and stored. Once it has returned an
// error f may still run: what f writes must not be looked at then.
func (in *intake) do(ctx context.Context, f func() error) error {
	j := job{do: f, done: make(chan taken, 1)}
	if err := in.send(ctx, j); err != nil {
		return err
	}
	_, err := await(ctx, j.done)
	return err
}

func (in *intake) send(ctx context.Context, j job) error {
	select {
	case in.jobs <- j:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// A pending group is what the answers of one commit change.
type pending struct {
	changes []journal.Change
	sights  []dedupe.Sight // beside changes
	at      []time.Time    // beside changes: when the answer was received
	ids     map[string]bool
	jobs    []job
	results []taken
	most    int // changes that there can be
}

// serve takes in a group of answers with as few commits as it can: a key stands
// at most once in a commit, and a function sees all that came before it stored.
func (in *intake) serve(ctx context.Context, group []job) error {
	var p pending
	for _, j := range group {
		p.most += j.items()
	}
	for _, j := range group {
		if !in.loaded {
			if err := in.load(context.WithoutCancel(ctx)); err != nil {
				in.fail(append([]job{j}, p.jobs...), err)
				return fmt.Errorf("%w: %w", errFatal, err)
			}
		}
		if j.do != nil {
			if err := in.flush(ctx, &p); err != nil {
				return err
			}
			j.done <- taken{err: j.do()}
			continue
		}
		t := taken{}
		first := len(p.changes) // of this answer
		for i := range j.answer.rows {
			r := &j.answer.rows[i]
			if j.owns != nil && !j.owns(r.at) {
				continue
			}
			if p.ids[r.item.ID] {
				// Settle what an earlier answer of the group says of it first.
				j.keepApart(p.changes[first:])
				if err := in.flush(ctx, &p); err != nil {
					j.done <- taken{err: err}
					return err
				}
				first = 0
			}
			in.judge(&p, &t, j, r)
		}
		j.keepApart(p.changes[first:])
		p.jobs, p.results = append(p.jobs, j), append(p.results, t)
	}
	return in.flush(ctx, &p)
}

// keepApart copies what the records of an answer hold of it, where they are so
// few that they would keep much of it in memory for nothing.
func (j job) keepApart(changes []journal.Change) {
	held := 0
	for i := range changes {
		if rec := changes[i].Record; rec != nil {
			held += len(rec.Raw)
		}
	}
	if held > j.answer.page.Bytes/2 {
		return
	}
	for i := range changes {
		if rec := changes[i].Record; rec != nil {
			rec.Raw = bytes.Clone(rec.Raw)
		}
	}
}

func (in *intake) fail(jobs []job, err error) {
	for _, j := range jobs {
		j.done <- taken{err: err}
	}
}

// judge adds to p what an item changes.
func (in *intake) judge(p *pending, t *taken, j job, r *row) {
	sight := dedupe.Sight{
		ID: r.item.ID, Status: r.item.Status, Tracked: in.values(r.item),
		At: r.at, Mark: j.by.mark, SentAt: j.answer.page.SentAt,
	}
	verdict, moved := in.set.Judge(sight)
	if moved {
		t.moved++
	}
	if verdict == dedupe.Known {
		return
	}
	if verdict == dedupe.Stale {
		t.stale = append(t.stale, r.at)
		in.p.count(func(m *Metrics) { m.stale.WithLabelValues(in.source.Source, in.p.kind.Name).Inc() })
		return
	}
	before, _ := in.set.State(sight.ID)
	after := before
	after.Status = in.p.kind.Status(in.p.cfg.Dialect, sight.Status)
	after.Tracked = dedupe.MergeTracked(before.Tracked, sight.Tracked)
	after.AbsentSince, after.Unwatched = time.Time{}, false
	change := journal.Change{
		Key:    event.Key{Account: in.source.Account, Kind: in.p.kind.Name, ID: sight.ID},
		Expect: before.Sequence,
	}
	if verdict != dedupe.Baseline {
		after.Sequence++
		action := event.Redetected
		switch verdict { //nolint:exhaustive // the others have returned or keep the action
		case dedupe.Unseen:
			action, after.FirstDetect = event.Detected, r.item.HeadTime
		case dedupe.Changed:
			action = event.ActionFor(before.Status, after.Status)
		}
		t.news++
		if rec := in.record(change.Key, action, before, after, j, r); rec != nil {
			change.Record = rec
			t.records++
		}
	}
	change.State = after
	if p.ids == nil {
		p.ids = make(map[string]bool, p.most)
		p.changes, p.sights, p.at = make([]journal.Change, 0, p.most), make([]dedupe.Sight, 0, p.most), make([]time.Time, 0, p.most)
	}
	p.ids[sight.ID] = true
	p.changes = append(p.changes, change)
	p.sights = append(p.sights, sight)
	p.at = append(p.at, j.answer.page.ReceivedAt)
}

// values are the tracked fields of an item; times as wall time, so that a
// later one is the greater text.
func (in *intake) values(item *cwp.Item) []string {
	if len(in.tracked) == 0 {
		return nil
	}
	out := make([]string, len(in.tracked))
	for i, field := range in.tracked {
		text := item.HeadTime
		if field != in.p.kind.HeadTime {
			text = in.p.kind.Field(item.Raw, field)
		}
		out[i], _ = event.WallTime(text, in.p.loc)
	}
	return out
}

// record tells a change; nil for old news that are not to be emitted.
func (in *intake) record(key event.Key, action event.Action, before, after event.State, j job, r *row) *event.Record {
	backfill := in.source.FirstCertAt.IsZero() && wallSecond(r.item.HeadTime, in.p.loc) <= j.by.start
	if backfill && in.p.cfg.Backfill == backfillSilent {
		return nil
	}
	revision := in.p.kind.RevisionOf(r.item)
	rec := &event.Record{
		Key: key, UID: key.EventUID(after.Sequence, revision),
		Sequence: after.Sequence, Revision: revision,
		Action: action, Status: after.Status,
		FirstDetect: after.FirstDetect, ObservedAt: j.answer.page.ReceivedAt.UTC(),
		Backfill: backfill, Dialect: in.p.cfg.Dialect, Zone: in.p.cfg.Timezone,
		Source: in.source.Source, Sweep: j.by.id, Page: j.by.number,
		RequestID: j.answer.page.RequestID, Raw: r.item.Raw, // see keepApart
	}
	if action != event.Detected {
		rec.Previous = before.Status
	}
	return rec
}

// flush stores p and tells whoever waits for it.
func (in *intake) flush(ctx context.Context, p *pending) error {
	defer func() { *p = pending{most: p.most} }()
	var err error
	if len(p.changes) > 0 {
		err = in.store(ctx, p.changes, nil)
	}
	if err != nil {
		in.fail(p.jobs, err)
		if errors.Is(err, errFatal) || ctx.Err() != nil {
			return err
		}
		return nil
	}
	for i, sight := range p.sights {
		in.set.Put(sight, p.changes[i].State, p.at[i])
		if rec := p.changes[i].Record; rec != nil {
			in.p.count(func(m *Metrics) {
				m.records.WithLabelValues(in.source.Source, in.p.kind.Name, string(rec.Action)).Inc()
			})
		}
	}
	for i, j := range p.jobs {
		j.done <- p.results[i]
	}
	in.p.update(func(s *Status) { s.Known = in.set.Len() })
	return nil
}

// store appends, and waits while the journal is full. After any other error
// the set is loaded again before the next answer is judged.
func (in *intake) store(ctx context.Context, changes []journal.Change, cert *journal.Certificate) error {
	wait := newBackoff()
	for {
		source := in.source
		// What has begun to be stored ends being stored: giving up would leave
		// us in doubt about it.
		_, err := in.p.opt.Journal.Append(context.WithoutCancel(ctx), in.lease,
			journal.Batch{Changes: changes, Source: &source, Certificate: cert})
		switch {
		case err == nil:
			in.p.room()
			return nil
		case errors.Is(err, journal.ErrFull):
			in.p.full(err)
			in.p.rest() // until there is room
			if err := wait.sleep(ctx); err != nil {
				return err
			}
		case errors.Is(err, journal.ErrLeaseLost), errors.Is(err, journal.ErrClosed), errors.Is(err, journal.ErrDead):
			return fmt.Errorf("%w: %w", errFatal, err)
		default:
			in.loaded = false
			return fmt.Errorf("store what source %s showed: %w", in.source.Source, err)
		}
	}
}

func (p *Poller) count(f func(*Metrics)) {
	if p.opt.Metrics != nil {
		f(p.opt.Metrics)
	}
}

// full and room tell when the journal begins and ends to refuse.
func (p *Poller) full(err error) {
	begins := false
	p.update(func(s *Status) { begins, s.Full = s.Full == "", err.Error() })
	if begins {
		p.log.Error("polling paused", zap.Error(err))
	}
}

func (p *Poller) room() {
	ends := false
	p.update(func(s *Status) { ends, s.Full = s.Full != "", "" })
	if ends {
		p.log.Info("polling goes on: the journal has room again")
	}
}
