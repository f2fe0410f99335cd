package poller

import (
	"context"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
)

// The most pages of one head scan.
const headPages = 5

// heads looks at the newest detections every poll interval. It is for latency
// only: what it misses, the next sweep shows.
func (p *Poller) heads(ctx context.Context, in *intake) error {
	started := false // before the first sweep has ended there is one page, once
	for ctx.Err() == nil {
		status := p.Status()
		pages := headPages
		if status.Last.Ended.IsZero() {
			pages = 1
			if started {
				pages = 0
			}
			started = true
		}
		if pages > 0 && status.Full == "" {
			// An error was told where it happened; the next scan tries again.
			_ = p.head(ctx, in, pages)
		}
		p.beat(loopHeads, p.cfg.PollInterval+working)
		if err := sleep(ctx, p.cfg.PollInterval); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// head reads pages by descending detection time until one has nothing new or
// is short. An answer that is the whole list is a certified sweep.
func (p *Poller) head(ctx context.Context, in *intake, pages int) error {
	began := time.Now()
	by := origin{id: newID("h", began), start: wallNow(began, p.loc)}
	for by.number = 1; by.number <= pages; by.number++ {
		p.beat(loopHeads, 0) // the sweep says when
		if err := p.turns.head(ctx); err != nil {
			return err
		}
		p.beat(loopHeads, asking)
		a, err := p.ask(ctx, cwp.Query{
			Sort: cwp.ByHeadTimeDesc, Offset: (by.number - 1) * p.kind.MaxLimit, Limit: p.kind.MaxLimit,
		})
		if err != nil {
			return err
		}
		p.beat(loopHeads, working)
		if by.number == 1 && a.whole() && p.sweeping.TryLock() {
			defer p.sweeping.Unlock()
			return p.wholeHead(ctx, a, by)
		}
		by.mark = p.mark.Load() // a running sweep need not be shown it again
		ch, err := in.take(ctx, a, by, nil)
		if err != nil {
			return err
		}
		var t taken
		select {
		case t = <-ch:
		case <-ctx.Done():
			return ctx.Err()
		}
		if t.err != nil {
			return t.err
		}
		if t.news == 0 || a.short {
			return nil
		}
	}
	return nil
}

// wholeHead certifies a head scan whose one answer is the whole list. Whoever
// calls it holds p.sweeping: a running sweep says so itself.
func (p *Poller) wholeHead(ctx context.Context, a *answer, by origin) error {
	s := p.newSweep(by.id, a.page.SentAt)
	s.loop = loopHeads
	s.cert.Method, s.cert.TotalBefore, s.cert.TotalAfter = "whole", a.total(), a.total()
	s.requests.Store(1)
	ch, err := s.take(ctx, a, nil)
	if err != nil {
		return err
	}
	if err := s.wait(ctx, []<-chan taken{ch}); err != nil {
		return err
	}
	return s.end(ctx)
}
