package poller

import (
	"context"
	"maps"
	"slices"

	"github.com/cwprelay/cwprelay/cwp"
)

// The most collects of one second.
const maxCollects = 5

// bounds are BeginTime and EndTime that ask for exactly one second.
func (s *sweep) bounds(second int64, endExcludes bool) (begin, end string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, e := second, second
	if s.excl {
		b--
	}
	if endExcludes {
		e++
	}
	return wallText(b), wallText(e)
}

// collect reads a second that holds more events than one answer. Ids do not
// come back, so between two collects that give the same ids the list was
// exactly that set; adding up ids over passes until they reach a count would
// prove nothing, as one deletion hides one miss.
func (s *sweep) collect(ctx context.Context, second int64) error {
	s.mu.Lock()
	s.collects++
	s.mu.Unlock()
	only := func(at int64) bool { return at == second }
	return s.repeat(ctx, func(ctx context.Context) (map[string]bool, bool, error) {
		return s.collectOnce(ctx, second, only)
	}, func(ctx context.Context) (int64, error) {
		a, err := s.askSecond(ctx, second, cwp.Query{Limit: 1})
		if err != nil {
			return -1, err
		}
		return a.total(), nil
	})
}

// repeat collects until two in a row give the same ids and the count asked
// between them equals their number, or one was complete by itself.
func (s *sweep) repeat(ctx context.Context, once func(context.Context) (map[string]bool, bool, error), count func(context.Context) (int64, error)) error {
	var before map[string]bool
	counted := int64(-1)
	for n := range maxCollects {
		ids, complete, err := once(ctx)
		if err != nil || complete {
			return err
		}
		if n > 0 && counted == int64(len(ids)) && maps.Equal(ids, before) {
			return nil
		}
		before = ids
		if n+1 < maxCollects {
			if counted, err = count(ctx); err != nil {
				return err
			}
		}
	}
	s.doubt("crowded-second", "more events share one second than one answer holds, and they could not be told apart from their count")
	return nil
}

// askSecond asks for one second. An EndTime that turns out to exclude the
// second it names is remembered.
func (s *sweep) askSecond(ctx context.Context, second int64, q cwp.Query) (*answer, error) {
	q.Sort = cwp.BySweepTime
	excludes := s.endExcludes() // what this request goes by; other parts may find out meanwhile
	q.Begin, q.End = s.bounds(second, excludes)
	a, f, err := s.checked(ctx, q)
	if err != nil {
		return nil, err
	}
	if f == faultFilter {
		return nil, errFilter
	}
	if len(a.rows) > 0 || excludes {
		return a, nil
	}
	if q.Status != "" || q.Where.Name != "" || q.Offset > 0 {
		if s.endExcludes() { // another part has found out since: this answer proves nothing
			return s.askSecond(ctx, second, q)
		}
		return a, nil
	}
	// Nothing where a whole answer was a moment ago: ask with the bound one
	// second later, and believe it only if that shows the second alone.
	q.Begin, q.End = s.bounds(second, true)
	b, f, err := s.checked(ctx, q)
	if err != nil || f != faultNone || !b.has(second) || b.last() > second {
		return a, err
	}
	s.setEndExcludes()
	return b, nil
}

func (s *sweep) endExcludes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.endExcl
}

func (s *sweep) setEndExcludes() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.endExcl = true
}

// collectOnce reads a second once: whole if it fits one answer, else split by
// status, and by offset and further filters where a split still does not fit.
// complete reports that one answer held it all.
func (s *sweep) collectOnce(ctx context.Context, second int64, owns func(int64) bool) (ids map[string]bool, complete bool, err error) {
	c := &collecting{s: s, second: second, owns: owns, ids: map[string]bool{}}
	all, err := c.ask(ctx, cwp.Query{})
	if err != nil {
		return nil, false, err
	}
	if all.whole() && !c.stale {
		return c.ids, true, nil
	}
	var counted int64
	for _, status := range s.p.kind.StatusFilterValues {
		a, err := c.ask(ctx, cwp.Query{Status: status})
		if err != nil {
			return nil, false, err
		}
		counted += max(a.total(), 0)
		if !a.whole() {
			if err := c.rest(ctx, cwp.Query{Status: status}, a); err != nil {
				return nil, false, err
			}
		}
	}
	if counted < all.total() {
		// Some bear a status that the filter does not know.
		if err := c.rest(ctx, cwp.Query{}, all); err != nil {
			return nil, false, err
		}
	}
	return c.ids, false, nil
}

// A collecting is one reading of one second.
type collecting struct {
	s      *sweep
	second int64
	owns   func(int64) bool
	ids    map[string]bool
	stale  bool // an item was not judged
}

// ask asks for a part of the second and takes it in.
func (c *collecting) ask(ctx context.Context, q cwp.Query) (*answer, error) {
	q.Limit = c.s.p.kind.MaxLimit
	a, err := c.s.askSecond(ctx, c.second, q)
	if err != nil {
		return nil, err
	}
	stale, err := c.s.collected(ctx, a, c.ids, c.owns)
	c.stale = c.stale || stale
	return a, err
}

// rest reads what does not fit one answer: by offset, which misses some where
// the order inside a second changes between answers, and then by the values
// that were seen, which does not.
func (c *collecting) rest(ctx context.Context, q cwp.Query, first *answer) error {
	rows := first.rows
	limit := c.s.p.kind.MaxLimit
	for q.Offset = limit; int64(q.Offset) < first.total() || !first.page.HasTotal; q.Offset += limit {
		a, err := c.ask(ctx, q)
		if err != nil {
			return err
		}
		rows = append(rows, a.rows...)
		if a.short {
			break
		}
	}
	q.Offset = 0
	for _, split := range c.s.splits(rows) {
		if int64(len(distinct(rows))) >= first.total() {
			return nil
		}
		var err error
		if rows, err = c.split(ctx, q, split, rows); err != nil {
			return err
		}
	}
	return nil
}

// split asks by each value that a field of the rows has, those of rows that
// this shows included, and returns all rows.
func (c *collecting) split(ctx context.Context, q cwp.Query, split cwp.Split, rows []row) ([]row, error) {
	asked := map[string]bool{}
	for i := 0; i < len(rows); i++ { // rows grows
		value := c.s.p.kind.Field(rows[i].item.Raw, split.Field)
		if value == "" || asked[value] {
			continue
		}
		asked[value] = true
		q.Where = cwp.Where{Name: split.Filter, Value: value}
		a, err := c.ask(ctx, q)
		if err != nil {
			return nil, err
		}
		rows = append(rows, a.rows...)
	}
	return rows, nil
}

// splits are the filters that part rows into parts that fit one answer each,
// those with the fewest parts first.
func (s *sweep) splits(rows []row) []cwp.Split {
	if len(s.p.opt.Filters)+4 > cwp.MaxFilters { // two bounds, status, and this one
		return nil
	}
	parts := map[cwp.Split]int{}
	var out []cwp.Split
	for _, split := range s.p.kind.Splits {
		if _, taken := s.p.opt.Filters[split.Filter]; taken {
			continue
		}
		count, largest := map[string]int{}, 0
		seen := map[string]bool{}
		for _, r := range rows {
			if seen[r.item.ID] {
				continue
			}
			seen[r.item.ID] = true
			v := s.p.kind.Field(r.item.Raw, split.Field)
			count[v]++
			largest = max(largest, count[v])
		}
		if largest <= s.p.kind.MaxLimit*3/4 {
			parts[split] = len(count)
			out = append(out, split)
		}
	}
	slices.SortStableFunc(out, func(a, b cwp.Split) int { return parts[a] - parts[b] })
	return out
}

// collected takes in an answer, waits for it, and adds its ids. stale reports
// that an item was not judged.
func (s *sweep) collected(ctx context.Context, a *answer, ids map[string]bool, owns func(int64) bool) (stale bool, err error) {
	ch, err := s.take(ctx, a, owns)
	if err != nil {
		return false, err
	}
	unjudged := map[int64]bool{}
	if err := s.settle(ctx, ch, unjudged); err != nil {
		return false, err
	}
	for _, r := range a.rows {
		if owns(r.at) && !unjudged[r.at] {
			ids[r.item.ID] = true
		}
	}
	return len(unjudged) > 0, nil
}

// collectTimeless reads the items without a sweep time when they fill the
// first answer. No filter asks for them, so that they are paged by offset; how
// many there are is what the list counts more than the times in it do.
func (s *sweep) collectTimeless(ctx context.Context) error {
	limit := s.p.kind.MaxLimit
	timeless := func(at int64) bool { return at == noTime }
	due := int64(-1) // how many there are, once it was counted
	return s.repeat(ctx, func(ctx context.Context) (map[string]bool, bool, error) {
		ids := map[string]bool{}
		var rows []row
		ask := func(q cwp.Query) (*answer, error) {
			q.Limit = limit
			a, _, err := s.checked(ctx, q)
			if err != nil {
				return nil, err
			}
			for _, r := range a.rows {
				if timeless(r.at) {
					rows = append(rows, r)
				}
			}
			_, err = s.collected(ctx, a, ids, timeless)
			return a, err
		}
		for offset := 0; ; offset += limit {
			a, err := ask(cwp.Query{Offset: offset})
			if err != nil {
				return nil, false, err
			}
			if a.short || a.last() != noTime {
				break
			}
		}
		for _, split := range s.splits(rows) {
			asked := map[string]bool{}
			for i := 0; i < len(rows) && int64(len(ids)) < due; i++ { // rows grows
				value := s.p.kind.Field(rows[i].item.Raw, split.Field)
				if value == "" || asked[value] {
					continue
				}
				asked[value] = true
				if _, err := ask(cwp.Query{Where: cwp.Where{Name: split.Filter, Value: value}}); err != nil {
					return nil, false, err
				}
			}
		}
		return ids, false, nil
	}, func(ctx context.Context) (int64, error) {
		all, err := s.ask(ctx, cwp.Query{Sort: cwp.BySweepTime, Limit: 1})
		if err != nil {
			return -1, err
		}
		timed, err := s.ask(ctx, cwp.Query{Sort: cwp.BySweepTime, Limit: 1, Begin: wallText(firstSecond)})
		if err != nil || all.total() < 0 || timed.total() < 0 {
			return -1, err
		}
		due = all.total() - timed.total()
		return due, nil
	})
}
