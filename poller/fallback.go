package poller

import (
	"context"
	"errors"
	"maps"
	"math"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/cwp"
)

// fallback reads the list where the server honours not what keyset paging
// relies on. Each way is certified by its own rules; keyset paging is tried
// again at the next sweep.
func (s *sweep) fallback(ctx context.Context, noOrder, noFilter bool) error {
	read := func() error {
		switch {
		case noOrder && noFilter:
			s.cert.Method = "passes"
			return s.passes(ctx)
		case noFilter:
			s.cert.Method = "anchored"
			return s.anchored(ctx)
		default:
			s.cert.Method = "slices"
			return s.slices(ctx)
		}
	}
	err := read()
	if errors.Is(err, errOrder) {
		noOrder = true
	}
	if errors.Is(err, errFilter) {
		noFilter = true
	}
	if errors.Is(err, errOrder) || errors.Is(err, errFilter) {
		noOrder, noFilter = true, true
		err = read()
	}
	if !s.p.degraded {
		s.p.degraded = true
		s.p.log.Warn("the API does not honour what keyset paging relies on; reading another way",
			zap.String("method", s.cert.Method), zap.Bool("order", !noOrder), zap.Bool("time_filter", !noFilter))
	}
	return err
}

// anchored pages by offset, newest first, where the order is honoured and the
// time filter is not: each new page must show an item of a later second than
// the one it goes on with, so that nothing between the pages can have moved
// past both. A second that fills a whole page cannot be certified this way.
func (s *sweep) anchored(ctx context.Context) error {
	limit := s.p.kind.MaxLimit
	offset, anchor := 0, int64(endOfTime) // the page must show a second later than anchor
	back := 0
	for {
		a, f, err := s.checked(ctx, cwp.Query{Sort: cwp.BySweepTimeDesc, Offset: offset, Limit: limit})
		if err != nil {
			return err
		}
		if f == faultOrder {
			return errOrder
		}
		if f == faultCount {
			s.doubt("withheld", "an answer holds fewer items than it counts")
		}
		ch, err := s.take(ctx, a, nil)
		if err != nil {
			return err
		}
		if err := s.wait(ctx, []<-chan taken{ch}); err != nil {
			return err
		}
		if offset > 0 && a.last() <= anchor && back < maxAgain*limit {
			// Items before it were deleted: what we go on with has moved up.
			back++
			offset = max(offset-limit/2, 0)
			continue
		}
		back = 0
		if a.short {
			return nil
		}
		last, from := a.tail()
		if from <= 1 { // from its first item on, or behind the one that was gone on with
			s.doubt("crowded-second", "more events share one second than one answer holds, and the API honours no filter that asks for them")
			offset += limit - 1
			anchor = noTime
			continue
		}
		offset, anchor = offset+from-1, last
	}
}

// tail is the sweep time of the last item in scan order, and the index of the
// first item of that second. Items without a time belong to the end.
func (a *answer) tail() (second int64, index int) {
	index = len(a.rows) - 1
	second = a.rows[index].at
	for index > 0 && a.rows[index-1].at == second {
		index--
	}
	return second, index
}

// slices halves the time axis until each slice fits one answer, where the time
// filter is honoured and the order is not. Events without a time are in no
// slice: where the list counts more than the slices hold, it is read in passes
// too.
func (s *sweep) slices(ctx context.Context) error {
	if err := s.slice(ctx, firstSecond, lastSecond); err != nil {
		return err
	}
	total, err := s.total(ctx)
	if err != nil {
		return err
	}
	n, err := s.seen(ctx, math.MinInt64, math.MaxInt64)
	if err != nil || total <= int64(n) {
		return err
	}
	s.cert.Method = "passes"
	return s.passes(ctx)
}

func (s *sweep) slice(ctx context.Context, first, last int64) error {
	q := s.query()
	from, to := max(first-1, firstSecond), min(last+1, lastSecond) // either bound may exclude the second it names
	q.Begin, q.End = wallText(from), wallText(to)
	a, f, err := s.checked(ctx, q)
	if err != nil {
		return err
	}
	if s.outsideOf(a, from, to) {
		return errFilter
	}
	ch, err := s.take(ctx, a, nil)
	if err != nil {
		return err
	}
	if err := s.wait(ctx, []<-chan taken{ch}); err != nil {
		return err
	}
	switch {
	case a.whole():
		return nil
	case a.short && (f == faultCount || !a.page.HasTotal):
		s.doubt("withheld", "a slice of the list counts more events than it shows")
		return nil
	case first >= last:
		return s.collect(ctx, first)
	}
	middle := first + (last-first)/2
	if err := s.slice(ctx, first, middle); err != nil {
		return err
	}
	return s.slice(ctx, middle+1, last)
}

func (s *sweep) outsideOf(a *answer, first, last int64) bool {
	for _, r := range a.rows {
		if r.at != noTime && (r.at < first || r.at > last) {
			return true
		}
	}
	return false
}

// passes pages through the whole list by offset until two passes in a row give
// the same ids and their number is the count asked between them. It is all
// that can be done where neither order nor filter is honoured.
func (s *sweep) passes(ctx context.Context) error {
	limit := s.p.kind.MaxLimit
	var before map[string]bool
	counted := int64(-1)
	for n := range maxCollects {
		ids := map[string]bool{}
		for offset := 0; ; offset += limit {
			a, _, err := s.checked(ctx, cwp.Query{Sort: cwp.BySweepTime, Offset: offset, Limit: limit})
			if err != nil {
				return err
			}
			ch, err := s.take(ctx, a, nil)
			if err != nil {
				return err
			}
			if err := s.wait(ctx, []<-chan taken{ch}); err != nil {
				return err
			}
			maps.Copy(ids, distinct(a.rows))
			if len(a.rows) == 0 || a.page.HasTotal && int64(offset+limit) >= a.page.Total {
				break
			}
		}
		if n > 0 && maps.Equal(ids, before) && counted == int64(len(ids)) {
			return nil
		}
		before = ids
		var err error
		if counted, err = s.total(ctx); err != nil {
			return err
		}
	}
	s.doubt("unstable", "the list changed between any two passes through it")
	return nil
}
