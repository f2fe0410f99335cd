package poller

import (
	"context"
	"errors"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/event"
)

// A row is one item with its sweep time as a wall second.
type row struct {
	item *cwp.Item
	at   int64
}

// An answer is one page and the question that it answers.
type answer struct {
	page  *cwp.Page
	q     cwp.Query
	rows  []row
	short bool // fewer items than asked for: nothing lies behind them
}

// last is the latest sweep time of the answer, noTime when no item has one.
func (a *answer) last() int64 {
	last := int64(noTime)
	for _, r := range a.rows {
		last = max(last, r.at)
	}
	return last
}

// first is the sweep time of the answer's first item that has one, endOfTime
// when none has.
func (a *answer) first() int64 {
	for _, r := range a.rows {
		if r.at != noTime {
			return r.at
		}
	}
	return endOfTime
}

// after is how many items have a later sweep time.
func (a *answer) after(second int64) int {
	n := 0
	for _, r := range a.rows {
		if r.at > second {
			n++
		}
	}
	return n
}

func (a *answer) has(second int64) bool {
	return slices.ContainsFunc(a.rows, func(r row) bool { return r.at == second })
}

// idsAt are the ids of one second.
func (a *answer) idsAt(second int64) map[string]bool {
	ids := map[string]bool{}
	for _, r := range a.rows {
		if r.at == second {
			ids[r.item.ID] = true
		}
	}
	return ids
}

func (a *answer) hasAny(ids map[string]bool) bool {
	return slices.ContainsFunc(a.rows, func(r row) bool { return ids[r.item.ID] })
}

// total is TotalCount, -1 when there is none.
func (a *answer) total() int64 {
	if !a.page.HasTotal {
		return -1
	}
	return a.page.Total
}

// whole reports that the answer holds everything that its question asks for.
func (a *answer) whole() bool {
	return a.q.Offset == 0 && a.page.HasTotal && a.page.Total == int64(len(a.rows)) && len(distinct(a.rows)) == len(a.rows)
}

func distinct(rows []row) map[string]bool {
	ids := make(map[string]bool, len(rows))
	for _, r := range rows {
		ids[r.item.ID] = true
	}
	return ids
}

// How often a request is tried before the sweep is given up: the sweep begins
// anew later, and what it took in stays.
const (
	triesDown  = 8 // network and server: about a minute
	triesVague = 3
	triesRate  = 30 // the limiter slows down meanwhile
)

// ask asks until there is an answer. Its error is the last *cwp.Error, or
// ctx's.
func (p *Poller) ask(ctx context.Context, q cwp.Query) (*answer, error) {
	wait := newBackoff()
	tries := map[cwp.Class]int{}
	for {
		page, err := p.opt.API.List(ctx, q)
		if err == nil {
			p.answered()
			p.clock(page.Ahead)
			return p.answer(page, q), nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		class := classOf(err)
		p.faulted(err)
		tries[class]++
		limit := triesDown
		switch class {
		case cwp.ClassCredentials, cwp.ClassRequest, cwp.ClassClock:
			limit = 1
		case cwp.ClassVague:
			limit = triesVague
		case cwp.ClassRate:
			limit = triesRate
		case cwp.ClassAnswerSize:
			if q.Limit > 1 {
				q.Limit /= 2
				limit = triesRate
			}
		case cwp.ClassNetwork, cwp.ClassServer, cwp.ClassAnswer:
		}
		if tries[class] >= limit {
			p.failed(err)
			return nil, err
		}
		p.troubled(err)
		if err := wait.sleep(ctx); err != nil {
			return nil, err
		}
	}
}

// tellAfter is how long the API may fail before that is told, though it is
// still being tried: one lost request is no news.
const tellAfter = 10 * time.Second

// troubled notes a failed try.
func (p *Poller) troubled(err error) {
	p.mu.Lock()
	if p.trouble.IsZero() {
		p.trouble = time.Now()
	}
	tell := time.Since(p.trouble) >= tellAfter
	p.mu.Unlock()
	if tell {
		p.failed(err)
	}
}

func classOf(err error) cwp.Class {
	if e, ok := errors.AsType[*cwp.Error](err); ok {
		return e.Class
	}
	return cwp.ClassNetwork
}

// refused reports that asking again soon is useless.
func refused(err error) bool {
	e, ok := errors.AsType[*cwp.Error](err)
	return ok && (e.Class == cwp.ClassCredentials || e.Class == cwp.ClassRequest || e.Class == cwp.ClassClock)
}

// failed and answered tell when the API cannot be polled any more and when it
// can again: the first failure, each new class, and the recovery.
func (p *Poller) failed(err error) {
	class, tell := classOf(err).String(), false
	p.update(func(s *Status) {
		tell = s.ErrorClass != class
		if s.Error == "" {
			s.Since = time.Now()
		}
		s.Error, s.ErrorClass = err.Error(), class
	})
	switch {
	case !tell:
	case refused(err):
		p.log.Error("the API refuses us", zap.Error(err))
	default:
		p.log.Warn("the API cannot be polled", zap.Error(err))
	}
}

func (p *Poller) answered() {
	var since time.Time
	p.update(func(s *Status) {
		p.trouble = time.Time{}
		if s.Error != "" {
			since = s.Since
		}
		s.Error, s.ErrorClass, s.Since = "", "", time.Time{}
	})
	if !since.IsZero() {
		p.log.Info("the API can be polled again", zap.Duration("after", time.Since(since)))
	}
}

// clock tells when our clock begins and ends to differ by more than the API
// takes. Requests are corrected then; what we write ourselves is not.
func (p *Poller) clock(ahead time.Duration) {
	if ahead.Abs() <= cwp.MaxClockSkew {
		ahead = 0
	}
	var before time.Duration
	p.update(func(s *Status) { before, s.Ahead = s.Ahead, ahead.Round(time.Second) })
	switch {
	case before == 0 && ahead != 0:
		p.log.Error("the clock of this machine is off: requests are corrected, the times of records are not", zap.Duration("api_ahead_by", ahead.Round(time.Second)))
	case before != 0 && ahead == 0:
		p.log.Info("the clock of this machine is right again")
	}
}

// answer reads the times of a page.
func (p *Poller) answer(page *cwp.Page, q cwp.Query) *answer {
	a := &answer{page: page, q: q, rows: make([]row, len(page.Items)), short: len(page.Items) < q.Limit}
	var newest time.Time
	for i := range page.Items {
		item := &page.Items[i]
		a.rows[i] = row{item: item, at: wallSecond(item.SweepTime, p.loc)}
		if t, ok := event.ParseTime(item.HeadTime, p.loc); ok && t.After(newest) {
			newest = t
		}
		p.countOdd(item, a.rows[i].at)
	}
	p.update(func(s *Status) {
		if newest.After(s.Newest) {
			s.Newest = newest
		}
	})
	p.count(func(m *Metrics) {
		if newest := p.Status().Newest; !newest.IsZero() {
			m.newest.WithLabelValues(p.opt.Source, p.kind.Name).Set(float64(newest.Unix()))
		}
	})
	return a
}

func (p *Poller) countOdd(item *cwp.Item, at int64) {
	p.count(func(m *Metrics) {
		odd := func(what string) { m.odd.WithLabelValues(p.opt.Source, p.kind.Name, what).Inc() }
		if item.NoID {
			odd(oddID)
		}
		if at == noTime {
			odd(oddTime)
		}
		if p.kind.Status(p.cfg.Dialect, item.Status).Symbol == event.UnknownStatus {
			odd(oddStatus)
		}
	})
}
