package poller

import (
	"context"
	"errors"

	"github.com/cwprelay/cwprelay/cwp"
)

// Errors that end a way of reading the list: the server does not do what the
// way relies on.
var (
	errOrder  = errors.New("the API does not honour the order")
	errFilter = errors.New("the API does not honour the time filter")
)

// A fault is what is wrong with an answer.
type fault int

const (
	faultNone   fault = iota
	faultCount        // not as many items as Limit and its own TotalCount say
	faultTwice        // one id stands at two sweep times
	faultFilter       // items outside of the range that was asked for
	faultOrder        // items not in order of their sweep time
)

func (f fault) String() string {
	return [...]string{"none", "count", "start_time", "filter", "order"}[f]
}

// check looks at an answer as it stands. Items without a time are left out of
// what concerns time.
func (a *answer) check(loc func(string) int64) fault {
	begin, end := int64(noTime), int64(endOfTime)
	if a.q.Begin != "" {
		begin = loc(a.q.Begin)
	}
	if a.q.End != "" {
		end = loc(a.q.End)
	}
	at := make(map[string]int64, len(a.rows))
	found, before := faultNone, int64(noTime)
	if a.q.Sort == cwp.BySweepTimeDesc {
		before = endOfTime
	}
	for _, r := range a.rows {
		if earlier, ok := at[r.item.ID]; ok && earlier != r.at {
			found = max(found, faultTwice)
		}
		at[r.item.ID] = r.at
		if r.at == noTime {
			continue
		}
		if r.at < begin || r.at > end {
			found = max(found, faultFilter)
		}
		if (a.q.Sort == cwp.BySweepTime && r.at < before) || (a.q.Sort == cwp.BySweepTimeDesc && r.at > before) {
			found = max(found, faultOrder)
		}
		before = r.at
	}
	if a.page.HasTotal {
		due := min(int64(a.q.Limit), max(a.page.Total-int64(a.q.Offset), 0))
		if int64(len(a.rows)) != due {
			found = max(found, faultCount)
		}
	}
	return found
}

// checked asks, and asks once more if the answer fails a check. The answer is
// the second one then, with what is still wrong with it. The error is an
// errFilter too where the API refuses questions with an upper bound.
func (s *sweep) checked(ctx context.Context, q cwp.Query) (*answer, fault, error) {
	for try := 1; ; try++ {
		a, err := s.ask(ctx, q)
		if err != nil && q.End != "" && ctx.Err() == nil && classOf(err) == cwp.ClassRequest {
			err = errors.Join(errFilter, err) // the same without it was answered
		}
		if err != nil {
			return nil, faultNone, err
		}
		f := a.check(func(text string) int64 { return wallSecond(text, s.p.loc) })
		if f == faultNone || try == 2 {
			return a, f, nil
		}
		s.p.count(func(m *Metrics) { m.rejected.WithLabelValues(s.p.opt.Source, s.p.kind.Name, f.String()).Inc() })
	}
}

// sound is checked for those who rely on order and filter: it fails with
// errOrder or errFilter (or both) where the server honours them not. What else
// is wrong costs the certificate and not the answer.
func (s *sweep) sound(ctx context.Context, q cwp.Query) (*answer, error) {
	a, f, err := s.checked(ctx, q)
	if err != nil {
		return nil, err
	}
	switch f {
	case faultCount:
		s.doubt("withheld", "an answer holds fewer items than it counts")
		a.short = a.short && a.total() <= int64(len(a.rows))
	case faultTwice:
		s.doubt("start-time", "an event stands at two sweep times")
	case faultFilter:
		return nil, errFilter
	case faultOrder:
		if q.Begin != "" && s.outside(a) {
			return nil, errors.Join(errOrder, errFilter)
		}
		return nil, errOrder
	case faultNone:
	}
	return a, nil
}

// outside reports that an answer has items before its lower bound.
func (s *sweep) outside(a *answer) bool {
	begin := wallSecond(a.q.Begin, s.p.loc)
	for _, r := range a.rows {
		if r.at != noTime && r.at < begin {
			return true
		}
	}
	return false
}
