package poller

import (
	"context"
	"maps"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

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

// collect reads a second that holds more events than one answer, until two
// readings in a row give the same ids and the count asked between them equals
// their number. Ids do not come back, so that the list was exactly that set when
// it was counted; adding up ids over passes until they reach a count would prove
// nothing, as one deletion hides one miss.
func (s *sweep) collect(ctx context.Context, second int64) error {
	s.mu.Lock()
	s.collects++
	s.mu.Unlock()
	c := &collecting{
		s: s, owns: func(at int64) bool { return at == second },
		ask: func(ctx context.Context, q cwp.Query) (*answer, error) { return s.askSecond(ctx, second, q) },
	}
	return c.repeat(ctx, c.second)
}

// repeat reads until two readings in a row agree. A reading returns how many
// events there were after the reading before and before the rest of it; complete
// reports that one answer held them all.
func (c *collecting) repeat(ctx context.Context, read func(context.Context) (counted int64, complete bool, err error)) error {
	var before map[string]bool
	for range maxCollects {
		c.ids, c.stale = map[string]bool{}, false
		counted, complete, err := read(ctx)
		if err != nil || complete {
			return err
		}
		if before != nil && counted == int64(len(before)) && maps.Equal(c.ids, before) {
			return nil
		}
		before = c.ids
	}
	c.s.doubt("crowded-second", "more events share one second than one answer holds, and they could not be told apart from their count")
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

// A collecting reads events that no order tells apart, again and again.
type collecting struct {
	s    *sweep
	owns func(second int64) bool
	ask  func(context.Context, cwp.Query) (*answer, error) // asks for a part of them
	none map[string]bool                                   // statuses that none had in an earlier reading: the count would tell of one

	mu    sync.Mutex // guards the rest: a reading asks for several parts at once
	ids   map[string]bool
	stale bool // an item was not judged
}

// second reads a second once: whole if it fits one answer, else split by status,
// and by offset and further filters where a split still does not fit.
func (c *collecting) second(ctx context.Context) (counted int64, complete bool, err error) {
	all, err := c.take(ctx, cwp.Query{})
	if err != nil {
		return -1, false, err
	}
	if all.whole() && !c.stale {
		return all.total(), true, nil
	}
	var statuses []string
	for _, status := range c.s.p.kind.StatusFilterValues {
		if !c.none[status] {
			statuses = append(statuses, status)
		}
	}
	totals := make([]int64, len(statuses))
	err = sideBySide(ctx, len(statuses), func(ctx context.Context, i int) error {
		q := cwp.Query{Status: statuses[i]}
		a, err := c.take(ctx, q)
		if err != nil {
			return err
		}
		if totals[i] = max(a.total(), 0); a.whole() {
			return nil
		}
		return c.rest(ctx, q, a)
	})
	if err != nil {
		return -1, false, err
	}
	none, sum := map[string]bool{}, int64(0)
	maps.Copy(none, c.none)
	for i, n := range totals {
		none[statuses[i]] = n == 0
		sum += n
	}
	c.none = none
	if sum < all.total() {
		// Some bear a status that the filter does not know.
		err = c.rest(ctx, cwp.Query{}, all)
	}
	return all.total(), false, err
}

// take asks for a part and takes it in.
func (c *collecting) take(ctx context.Context, q cwp.Query) (*answer, error) {
	q.Limit = c.s.p.kind.MaxLimit
	a, err := c.ask(ctx, q)
	if err != nil {
		return nil, err
	}
	ch, err := c.s.take(ctx, a, c.owns)
	if err != nil {
		return nil, err
	}
	unjudged := map[int64]bool{}
	if err := c.s.settle(ctx, ch, unjudged); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stale = c.stale || len(unjudged) > 0
	for _, r := range a.rows {
		if c.owns(r.at) && !unjudged[r.at] {
			c.ids[r.item.ID] = true
		}
	}
	return a, nil
}

// rest reads what does not fit one answer: by offset, which misses some where
// the order inside a second changes between answers, and then by the values
// that were seen, which does not.
func (c *collecting) rest(ctx context.Context, q cwp.Query, first *answer) error {
	total := first.total()
	if total < 0 {
		return nil // nothing can be proved without a count
	}
	rows, err := c.offsets(ctx, q, first.rows, c.s.p.kind.MaxLimit, total)
	if err != nil {
		return err
	}
	return c.byValues(ctx, q, rows, total)
}

// The most pages of one reading by offset. A server that counts more events in
// one second has lost its count.
const maxOffsetPages = 1000

// offsets pages by offset from one on, as far as total or to the end of the
// list, and returns rows and what that shows.
func (c *collecting) offsets(ctx context.Context, q cwp.Query, rows []row, from int, total int64) ([]row, error) {
	limit := int64(c.s.p.kind.MaxLimit)
	pages := int(min(max((total-int64(from)+limit-1)/limit, 0), maxOffsetPages))
	for page := 0; page < pages; page += maxSideBySide {
		before := len(rows)
		n := min(maxSideBySide, pages-page)
		var err error
		rows, err = c.each(ctx, rows, n, func(i int) cwp.Query {
			q := q
			q.Offset = from + (page+i)*int(limit)
			return q
		})
		if err != nil || len(rows) == before { // there is nothing that far
			return rows, err
		}
	}
	return rows, nil
}

// byValues asks by the values of fields until there are total rows.
func (c *collecting) byValues(ctx context.Context, q cwp.Query, rows []row, total int64) (err error) {
	for _, split := range c.s.splits(rows) {
		if int64(len(distinct(rows))) >= total {
			return nil
		}
		if rows, err = c.split(ctx, q, split, rows); err != nil {
			return err
		}
	}
	return nil
}

// each asks n questions side by side, and returns rows and what they show.
func (c *collecting) each(ctx context.Context, rows []row, n int, question func(i int) cwp.Query) ([]row, error) {
	answers := make([]*answer, n)
	err := sideBySide(ctx, n, func(ctx context.Context, i int) (err error) {
		answers[i], err = c.take(ctx, question(i))
		return err
	})
	if err != nil {
		return nil, err
	}
	rows = slices.Clip(rows)
	for _, a := range answers {
		rows = append(rows, c.own(a.rows)...)
	}
	return rows, nil
}

func (c *collecting) own(rows []row) []row {
	return slices.DeleteFunc(slices.Clone(rows), func(r row) bool { return !c.owns(r.at) })
}

// split asks by each value that a field of the rows has, those of rows that
// this shows included, and returns all rows.
func (c *collecting) split(ctx context.Context, q cwp.Query, split cwp.Split, rows []row) (_ []row, err error) {
	asked := map[string]bool{"": true}
	for seen := 0; seen < len(rows); {
		var values []string
		for ; seen < len(rows); seen++ {
			if v := c.s.p.kind.Field(rows[seen].item.Raw, split.Field); !asked[v] {
				asked[v] = true
				values = append(values, v)
			}
		}
		rows, err = c.each(ctx, rows, len(values), func(i int) cwp.Query {
			q := q
			q.Where = cwp.Where{Name: split.Filter, Value: values[i]}
			return q
		})
		if err != nil {
			return nil, err
		}
	}
	return rows, nil
}

// The most requests of one reading that are made at the same time.
const maxSideBySide = 8

// sideBySide calls f with 0 to n-1, several at a time.
func sideBySide(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxSideBySide)
	for i := range n {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
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

// collectTimeless reads the items without a sweep time when they fill the
// first answer. No filter asks for them, so that they are paged by offset; how
// many there are is where the times begin.
func (s *sweep) collectTimeless(ctx context.Context) error {
	c := &collecting{
		s: s, owns: func(at int64) bool { return at == noTime },
		ask: func(ctx context.Context, q cwp.Query) (*answer, error) {
			a, _, err := s.checked(ctx, q)
			return a, err
		},
	}
	timed, err := s.ask(ctx, cwp.Query{Sort: cwp.BySweepTime, Limit: 1, Begin: wallText(firstSecond)})
	if err != nil {
		return err
	}
	about := int(max(s.cert.TotalBefore-timed.total(), 0))
	return c.repeat(ctx, func(ctx context.Context) (int64, bool, error) {
		counted, rows, err := c.timesBegin(ctx, &about)
		if err != nil || counted < 0 {
			return counted, false, err
		}
		if rows, err = c.offsets(ctx, cwp.Query{}, rows, 0, counted); err != nil {
			return -1, false, err
		}
		return counted, false, c.byValues(ctx, cwp.Query{}, rows, counted)
	})
}

// timesBegin asks for the answer in which items with a sweep time follow those
// without one: where they begin is how many have none. about is where that may
// be. It is -1 where no such answer could be had.
func (c *collecting) timesBegin(ctx context.Context, about *int) (int64, []row, error) {
	limit := c.s.p.kind.MaxLimit
	for range maxCollects {
		q := cwp.Query{Offset: max(*about-limit/2, 0)}
		a, err := c.take(ctx, q)
		if err != nil {
			return -1, nil, err
		}
		rows := c.own(a.rows)
		switch n := len(rows); {
		case n == 0 && q.Offset > 0:
			*about = q.Offset
		case n == len(a.rows) && !a.short:
			*about = q.Offset + limit
		default:
			*about = q.Offset + n
			return int64(*about), rows, nil
		}
	}
	return -1, nil, nil
}
