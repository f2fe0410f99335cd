package poller

import (
	"context"
	"errors"
	"math"

	"github.com/cwprelay/cwprelay/cwp"
)

// Bounds of the search for what a count says is missing.
const (
	maxCountRounds   = 3
	maxCountRequests = 200 // of one round
)

// count compares what was read with what the list says it holds. The way of
// reading is the proof; the count is the alarm for a server that hides rows:
// sharp on a quiet list, blunter on a busy one, where n may honestly fall short
// and is looked for first.
func (s *sweep) count(ctx context.Context) error {
	total, err := s.total(ctx)
	if err != nil || s.doubted() {
		return err
	}
	for round := 0; ; round++ {
		if s.cert.TotalBefore < 0 || total < 0 {
			s.doubt("no-count", "the API gives no TotalCount")
			return nil
		}
		n, err := s.seen(ctx, math.MinInt64, math.MaxInt64)
		if err != nil {
			return err
		}
		if int64(n) >= min(s.cert.TotalBefore, total) {
			return nil
		}
		if round == maxCountRounds {
			reason, detail := "unreachable", "the list counts more events than any part of it shows"
			if s.cert.TotalBefore != total {
				reason, detail = "busy", "the list changes faster than what it counts more can be found"
			}
			s.doubt(reason, detail)
			return nil
		}
		budget := maxCountRequests
		withheld, err := s.search(ctx, firstSecond, lastSecond, &budget)
		if err != nil {
			return err
		}
		if withheld && round == maxCountRounds-1 {
			s.doubt("withheld", "a part of the list counts more events than it shows")
			return nil
		}
		if total, err = s.total(ctx); err != nil {
			return err
		}
	}
}

// total is the present TotalCount under the source's own filters.
func (s *sweep) total(ctx context.Context) (int64, error) {
	if s.cert.Method == "whole" {
		return s.cert.TotalAfter, nil
	}
	a, err := s.ask(ctx, cwp.Query{Sort: cwp.BySweepTime, Limit: 1})
	if err != nil {
		return -1, err
	}
	s.cert.TotalAfter = a.total()
	return a.total(), nil
}

// seen counts the distinct ids that were read with a sweep time in a range.
func (s *sweep) seen(ctx context.Context, first, last int64) (int, error) {
	var n int
	if err := s.in.do(ctx, func() error { n = s.in.set.Count(s.mark, first, last); return nil }); err != nil {
		return 0, err
	}
	return n, nil
}

// search halves a range of time until what it counts more than was read is
// taken in. withheld reports that a range counts more than it gives.
func (s *sweep) search(ctx context.Context, first, last int64, budget *int) (withheld bool, err error) {
	if *budget--; *budget < 0 {
		return false, nil
	}
	q := s.query()
	q.Begin, q.End = wallText(first), wallText(last)
	a, f, err := s.checked(ctx, q)
	if f == faultFilter || f == faultOrder || errors.Is(err, errFilter) {
		return false, nil // nothing can be learned this way
	}
	if err != nil {
		return false, err
	}
	ch, err := s.take(ctx, a, nil)
	if err != nil {
		return false, err
	}
	if err := s.wait(ctx, []<-chan taken{ch}); err != nil {
		return false, err
	}
	n, err := s.seen(ctx, first, last)
	switch {
	case err != nil:
		return false, err
	case a.total() <= int64(n):
		return false, nil
	case a.total() <= int64(q.Limit) || first >= last:
		return f == faultCount, nil
	}
	middle := first + (last-first)/2
	early, err := s.search(ctx, first, middle, budget)
	if err != nil {
		return false, err
	}
	late, err := s.search(ctx, middle+1, last, budget)
	return early || late, err
}
