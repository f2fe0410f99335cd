package poller

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
)

// The most pages of one head scan; as many more when earlier ones left gaps.
const headPages = 5

// headAtOnce is how many pages a head scan asks for side by side.
const headAtOnce = 4

// maxGaps is how many gaps head scans come back to. The oldest of more are left
// to the next sweep.
const maxGaps = 8

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
	pause, seen := p.cfg.PollInterval, headSeen{newest: endOfTime}
	for ctx.Err() == nil {
		began := time.Now()
		status := p.Status()
		pages := headPages
		if len(seen.gaps) > 0 {
			pages *= 2
		}
		if first && status.Last.Ended.IsZero() {
			pages = 1
			if started {
				pages = 0
			}
			started = true
		}
		if pages > 0 && status.Full == "" {
			// An error was told where it happened; the next scan tries again.
			arrived, err := p.head(ctx, in, pages, &seen)
			pause = p.headPause(pause, arrived, err == nil && len(seen.gaps) > 0)
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
// page of them comes; the shortest while there is something to come back to.
func (p *Poller) headPause(before time.Duration, arrived int, gaps bool) time.Duration {
	least := min(leastPause, p.cfg.PollInterval)
	if gaps {
		return least
	}
	pause := time.Duration(float64(before) * float64(p.kind.MaxLimit) / float64(max(arrived, 1)))
	return max(min(pause, p.cfg.PollInterval), least)
}

// headSeen is what the head scans so far have seen.
type headSeen struct {
	newest int64 // latest wall second of a detection; endOfTime: none is known
	gaps   []gap // what they have not read yet, newest first
	span   int64 // seconds from the first to the last detection of the last answer
}

// A gap is a part of the list, by descending detection time, that head scans
// have not read.
type gap struct {
	next int   // the offset at which it begins, as far as is known
	from int64 // the wall second of detection before it; endOfTime: it begins the list
	back int64 // the last wall second of it; endOfTime: not known, it ends where nothing is new
	jump bool  // what lies before it was not read just now: next may be off
}

// Detections of the last seconds before the newest that was seen are looked at
// again: the order inside a second changes from answer to answer, and hides some.
const headOverlap = 3

// head reads pages by descending detection time until one has nothing new and
// reaches back to what was seen before, or is short; then the gaps that earlier
// scans left, newest first. It returns how much is new before the first gap,
// and leaves in seen what it did not come to. An answer that is the whole list
// is a certified sweep.
func (p *Poller) head(ctx context.Context, in *intake, pages int, seen *headSeen) (arrived int, err error) {
	began := time.Now()
	by := origin{id: newID("h", began), start: wallNow(began, p.loc)}
	seen.begin()
	gaps := len(seen.gaps)
	for by.number < pages && len(seen.gaps) > 0 {
		answers, err := p.headAsk(ctx, seen.offset(p.kind.MaxLimit), min(seen.pages(), pages-by.number))
		if by.number == 0 && len(answers) > 0 && answers[0].whole() && p.sweeping.TryLock() {
			defer p.sweeping.Unlock()
			*seen = headSeen{newest: endOfTime}
			by.number++
			return 0, p.wholeHead(ctx, answers[0], by)
		}
		left := len(seen.gaps)
		for _, a := range answers {
			by.number++
			by.mark = p.mark.Load() // a running sweep need not be shown it again
			t, err := in.takeNow(ctx, a, by)
			if err != nil {
				return arrived, err
			}
			if len(seen.gaps) == gaps {
				arrived += t.news
			}
			if len(seen.gaps) == left { // the others were asked for in vain
				newest, oldest, step := p.detections(a)
				seen.read(a, t.news, newest, oldest, step)
			}
		}
		if err != nil {
			return arrived, err
		}
	}
	return arrived, nil
}

// headAsk asks for n pages from an offset on, side by side. Each begins in the
// one before it: what arrives moves all of them down, and the order inside a
// second changes. It returns those before the first that failed, and its error.
func (p *Poller) headAsk(ctx context.Context, offset, n int) ([]*answer, error) {
	answers, errs := make([]*answer, n), make([]error, n)
	var requests sync.WaitGroup
	for i := range n {
		p.beat(loopHeads, 0) // the sweep says when
		if errs[i] = p.turns.head(ctx); errs[i] != nil {
			break
		}
		p.beat(loopHeads, asking)
		requests.Go(func() {
			answers[i], errs[i] = p.ask(ctx, cwp.Query{
				Sort: cwp.ByHeadTimeDesc, Offset: offset + i*p.kind.MaxLimit*3/4, Limit: p.kind.MaxLimit, Urgent: true,
			})
		})
	}
	requests.Wait()
	p.beat(loopHeads, working)
	for i, err := range errs {
		if err != nil {
			return answers[:i], err
		}
	}
	return answers, nil
}

// begin notes that the newest detections are to be read down to what was seen.
func (h *headSeen) begin() {
	if len(h.gaps) > 0 && h.gaps[0].from == endOfTime { // the scan before has read nothing
		h.gaps = h.gaps[1:]
	}
	top := gap{from: endOfTime, back: h.newest}
	switch {
	case h.newest == endOfTime:
	case h.newest == noTime: // the list held nothing that says when
		top.back = endOfTime
	case len(h.gaps) > 0: // what was not read at all goes before what is read again
		top.back--
	default:
		top.back -= headOverlap
	}
	for i := range h.gaps {
		h.gaps[i].jump = true
	}
	h.gaps = slices.Insert(h.gaps, 0, top)
	h.gaps = h.gaps[:min(len(h.gaps), maxGaps)]
}

// offset is where to ask next: a little before a gap whose place is not sure.
func (h *headSeen) offset(limit int) int {
	g := &h.gaps[0]
	if g.jump {
		return max(g.next-limit/4, 0)
	}
	return g.next
}

// pages is how many pages the first gap seems to have, at most headAtOnce.
func (h *headSeen) pages() int {
	g := &h.gaps[0]
	if g.jump || g.from == endOfTime || g.back == endOfTime {
		return 1
	}
	return int(max(1, min(1+(g.from-g.back)/max(h.span, 1), headAtOnce)))
}

// read notes what an answer has shown of the first gap.
func (h *headSeen) read(a *answer, news int, newest, oldest int64, step int) {
	for i := range h.gaps[1:] { // what is new has moved them down
		h.gaps[1+i].next += news
	}
	g := &h.gaps[0]
	if g.from == endOfTime {
		h.newest = newest
	}
	h.span = newest - oldest
	most := a.q.Limit / 4 // below its end: left over from what was read before
	if g.back == endOfTime {
		most = 0
	}
	switch {
	case g.jump && newest < g.from && a.q.Offset > 0: // not so far down
		g.next = max(a.q.Offset-a.q.Limit/2, 0)
	case a.short:
		h.gaps = nil
	case g.jump && oldest > g.from: // farther down
		g.next = a.q.Offset + step + a.q.Limit/4
	case oldest >= g.back, news > most:
		g.next, g.from, g.jump = a.q.Offset+step, oldest, false
		if len(h.gaps) > 1 && oldest <= h.gaps[1].from { // and into the next one
			g.back = h.gaps[1].back
			h.gaps = slices.Delete(h.gaps, 1, 2)
		}
	default:
		h.gaps = h.gaps[1:]
	}
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
