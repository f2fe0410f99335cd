package poller

import (
	"context"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
)

// The most pages of one head scan.
const headPages = 5

// leastPause is the shortest time between the starts of two head scans.
const leastPause = time.Second

// heads looks at the newest detections every poll interval, and sooner when
// more of them come in it than one page shows. It is for latency only: what it
// misses, the next sweep shows.
func (p *Poller) heads(ctx context.Context, in *intake) error {
	var first bool // no sweep of the source was certified before
	if err := in.do(ctx, func() error { first = in.source.FirstCertAt.IsZero(); return nil }); err != nil {
		return err
	}
	started := false // before the source's first sweep has ended there is one page, once
	pause, scan := p.cfg.PollInterval, headScan{newest: endOfTime}
	for ctx.Err() == nil {
		began := time.Now()
		status := p.Status()
		pages := headPages
		if first && status.Last.Ended.IsZero() {
			pages = 1
			if started {
				pages = 0
			}
			started = true
		}
		if pages > 0 && status.Full == "" {
			// An error was told where it happened; the next scan tries again.
			scan, _ = p.head(ctx, in, pages, scan)
			pause = p.headPause(pause, scan.news)
		}
		p.beat(loopHeads, pause+working)
		if err := sleep(ctx, pause-time.Since(began)); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// headPause is the time from the start of a head scan to that of the next: so
// long that, at the pace at which news came since the one before, about one
// page of them comes.
func (p *Poller) headPause(before time.Duration, news int) time.Duration {
	pause := time.Duration(float64(before) * float64(p.kind.MaxLimit) / float64(max(news, 1)))
	return max(min(pause, p.cfg.PollInterval), min(leastPause, p.cfg.PollInterval))
}

// A headScan is what a head scan showed.
type headScan struct {
	news   int   // changes
	newest int64 // latest wall second of a detection; endOfTime: none is known
	next   int   // the offset to go on at, where the scan had to end; 0: it saw all it looked for
	back   int64 // and the wall second to reach back to from there
}

// Detections of the last seconds before the scan before this one are looked at
// again: the order inside a second changes from answer to answer, and hides some.
const headOverlap = 3

// head reads pages by descending detection time until one has nothing new and
// reaches back to what the scan before has seen, or is short. Then it goes on
// where that one had to end. An answer that is the whole list is a certified
// sweep.
func (p *Poller) head(ctx context.Context, in *intake, pages int, before headScan) (headScan, error) {
	began := time.Now()
	by := origin{id: newID("h", began), start: wallNow(began, p.loc)}
	scan := headScan{newest: endOfTime, back: before.newest}
	offset := 0
	for by.number = 1; by.number <= pages; by.number++ {
		p.beat(loopHeads, 0) // the sweep says when
		if err := p.turns.head(ctx); err != nil {
			return scan, err
		}
		p.beat(loopHeads, asking)
		a, err := p.ask(ctx, cwp.Query{Sort: cwp.ByHeadTimeDesc, Offset: offset, Limit: p.kind.MaxLimit, Urgent: true})
		if err != nil {
			return scan, err
		}
		p.beat(loopHeads, working)
		if by.number == 1 && a.whole() && p.sweeping.TryLock() {
			defer p.sweeping.Unlock()
			return headScan{newest: endOfTime}, p.wholeHead(ctx, a, by)
		}
		by.mark = p.mark.Load() // a running sweep need not be shown it again
		ch, err := in.take(ctx, a, by, nil)
		if err != nil {
			return scan, err
		}
		newest, oldest, step := p.detections(a)
		if by.number == 1 {
			scan.newest = newest
		}
		var t taken
		select {
		case t = <-ch:
		case <-ctx.Done():
			return scan, ctx.Err()
		}
		if t.err != nil {
			return scan, t.err
		}
		scan.news += t.news
		offset += step
		switch {
		case a.short:
			return scan, nil
		case t.news > 0 || oldest >= scan.back-headOverlap:
		case before.next == 0:
			return scan, nil
		default: // what is new has moved down what the scan before did not reach
			offset, scan.back, before.next = before.next+scan.news-p.kind.MaxLimit/4, before.back, 0
		}
	}
	scan.next = offset
	if before.next > 0 {
		scan.back = before.back
	}
	return scan, nil
}

// detections are the first and the last second of detection of an answer of a
// head scan, and by how much to go on: to where the last second begins, so that
// the next answer shows it whole, unless it takes up most of this one.
func (p *Poller) detections(a *answer) (newest, oldest int64, step int) {
	at := func(i int) int64 { return wallSecond(a.rows[i].item.HeadTime, p.loc) }
	if len(a.rows) == 0 {
		return endOfTime, noTime, 0
	}
	last := len(a.rows) - 1
	newest, oldest, step = at(0), at(last), last
	for step > 0 && at(step-1) == oldest {
		step--
	}
	if step < len(a.rows)/2 {
		step = len(a.rows)
	}
	return newest, oldest, step
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
