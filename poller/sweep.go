package poller

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/journal"
)

// A sweep reads the whole list once.
type sweep struct {
	p     *Poller
	in    *intake
	id    string
	mark  uint32
	start int64 // wall second at which it began
	cert  journal.Certificate

	requests atomic.Int64
	loop     string       // that it runs in, for Options.Beat
	asking   atomic.Int32 // questions under way
	showing  *showing     // nil: nobody asked what it shows

	mu       sync.Mutex // guards the rest, which the parts share
	turnings []int64    // last sweep times of the answers read: where the list can be cut
	rtt      time.Duration
	excl     bool // BeginTime excludes the second it names
	incl     bool // an answer of this sweep has shown that it includes it
	endExcl  bool // EndTime does
	records  int
	collects int
	reason   string // why there can be no certificate; the first that was found
	detail   string
}

// sweep runs one sweep and leaves its certificate in the journal. The error is
// why it ended early; a sweep that read everything and is not certified is no
// error. show, if not nil, is told what it showed.
func (p *Poller) sweep(ctx context.Context, in *intake, show *showing) (cert journal.Certificate, err error) {
	if show != nil {
		defer func() { show.done <- err }()
	}
	p.sweeping.Lock()
	defer p.sweeping.Unlock()
	now := time.Now()
	s := p.newSweep(newID("s", now), now)
	s.showing = show
	var first bool
	if err := in.do(ctx, func() error { first = in.source.FirstCertAt.IsZero(); return nil }); err != nil {
		return s.cert, err
	}
	p.update(func(st *Status) {
		st.Progress = Progress{Running: true, First: first, Total: -1, Started: now}
	})
	p.turns.sweep(true)
	err = s.read(ctx)
	p.turns.sweep(false)
	if ctx.Err() != nil {
		return s.cert, ctx.Err() // told to stop: this is no verdict about the list
	}
	if err != nil {
		s.doubt("error", err.Error())
	}
	p.rtt, p.exclusive, p.endExcl = s.rtt, s.excl, s.endExcl
	if endErr := s.end(ctx); endErr != nil {
		return journal.Certificate{}, errors.Join(err, endErr) // the intake may be at it still
	}
	return s.cert, err
}

// newSweep begins a sweep; whoever calls it holds p.sweeping.
func (p *Poller) newSweep(id string, now time.Time) *sweep {
	return &sweep{
		p: p, in: p.in, loop: loopSweeps, id: id, mark: p.mark.Add(1), start: wallNow(now, p.loc),
		rtt: p.rtt, excl: p.exclusive, endExcl: p.endExcl,
		cert: journal.Certificate{
			Source: p.opt.Source, Kind: p.kind.Name, Sweep: id, Started: now.UTC(),
			TotalBefore: -1, TotalAfter: -1, Method: "keyset", Parts: 1,
		},
	}
}

// newID makes the id of a sweep or head scan: when it began, and chance.
func newID(prefix string, now time.Time) string {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	return prefix + "-" + now.UTC().Format("20060102T150405.000Z") + "-" + hex.EncodeToString(b[:])
}

func wallNow(now time.Time, loc *time.Location) int64 {
	return wallSecond(now.In(loc).Format("2006-01-02 15:04:05"), loc)
}

// doubt notes why the sweep cannot be certified.
func (s *sweep) doubt(reason, detail string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason == "" {
		s.reason, s.detail = reason, detail
	}
}

func (s *sweep) doubted() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reason != ""
}

// ask is the poller's ask, counted.
func (s *sweep) ask(ctx context.Context, q cwp.Query) (*answer, error) {
	n := s.requests.Add(1)
	s.asking.Add(1)
	s.p.beat(s.loop, asking)
	a, err := s.p.ask(ctx, q)
	if s.asking.Add(-1) == 0 {
		s.p.beat(s.loop, working)
	}
	s.p.turns.sweepAsked()
	if err != nil {
		return nil, err
	}
	took := a.page.ReceivedAt.Sub(a.page.SentAt)
	s.mu.Lock()
	if s.rtt == 0 {
		s.rtt = took
	}
	s.rtt += (took - s.rtt) / 8
	s.mu.Unlock()
	s.p.update(func(st *Status) { st.Progress.Requests = int(n) })
	return a, nil
}

// take hands an answer to the intake and does not wait for it; the list of
// what to wait for is the caller's.
func (s *sweep) take(ctx context.Context, a *answer, owns func(int64) bool) (<-chan taken, error) {
	by := origin{id: s.id, number: int(s.requests.Load()), mark: s.mark, start: s.start}
	s.showing.see(s.p, a, by)
	return s.in.take(ctx, a, by, owns)
}

// wait adds up what became of answers, and asks again for the seconds of items
// that could not be judged.
func (s *sweep) wait(ctx context.Context, done []<-chan taken) error {
	return s.settleAll(ctx, done, map[int64]bool{})
}

func (s *sweep) settle(ctx context.Context, ch <-chan taken, stale map[int64]bool) error {
	t, err := await(ctx, ch)
	if err != nil {
		return err
	}
	for _, second := range t.stale {
		stale[second] = true
	}
	if t.moved > 0 {
		s.doubt("start-time", "an event stands at two sweep times")
	}
	s.mu.Lock()
	s.records += t.records
	s.mu.Unlock()
	return nil
}

// The most rounds of asking again for what a newer answer overtook.
const maxAgain = 5

// again asks for seconds whose items were not judged because a newer answer
// had changed them.
func (s *sweep) again(ctx context.Context, stale map[int64]bool) error {
	for round := 0; len(stale) > 0; round++ {
		if round == maxAgain {
			s.doubt("busy", "an event changed faster than it could be read")
			return nil
		}
		next := map[int64]bool{}
		for second := range stale {
			q := cwp.Query{Sort: cwp.BySweepTime, Limit: s.p.kind.MaxLimit}
			var a *answer
			var err error
			if second == noTime {
				a, _, err = s.checked(ctx, q)
			} else {
				a, err = s.askSecond(ctx, second, q)
			}
			if err != nil {
				return err
			}
			if second != noTime && !a.whole() {
				if err := s.collect(ctx, second); err != nil {
					return err
				}
				continue
			}
			ch, err := s.take(ctx, a, nil)
			if err != nil {
				return err
			}
			if err := s.settle(ctx, ch, next); err != nil {
				return err
			}
		}
		stale = next
	}
	return nil
}

// read reads the list, by the way that the server allows.
func (s *sweep) read(ctx context.Context) error {
	first, f, err := s.checked(ctx, s.query())
	if err != nil {
		return err
	}
	s.cert.TotalBefore = first.total()
	s.p.update(func(st *Status) { st.Progress.Total = first.total() })
	if first.whole() {
		s.cert.Method, s.cert.TotalAfter = "whole", first.total()
		ch, err := s.take(ctx, first, nil)
		if err != nil {
			return err
		}
		return s.wait(ctx, []<-chan taken{ch})
	}
	if f == faultOrder {
		err = errOrder
	} else {
		err = s.keyset(ctx, first, f)
	}
	if errors.Is(err, errOrder) || errors.Is(err, errFilter) {
		err = s.fallback(ctx, errors.Is(err, errOrder), errors.Is(err, errFilter))
	} else if err == nil && s.p.degraded {
		s.p.degraded = false
		s.p.log.Info("the API honours order and time filter again")
	}
	if err != nil {
		return err
	}
	return s.count(ctx)
}

func (s *sweep) query() cwp.Query {
	return cwp.Query{Sort: cwp.BySweepTime, Limit: s.p.kind.MaxLimit}
}

// A part is a piece of the time axis, both ends included.
type part struct {
	from, to int64
	cursor   int64   // where reading begins
	answer   *answer // what reading begins with; nil: nothing was asked yet
}

func (p part) owns(second int64) bool { return second >= p.from && second <= p.to }

// keyset reads the list by ascending sweep time from cursors, offset always 0,
// in parts side by side. Crowded seconds are collected beside them.
func (s *sweep) keyset(ctx context.Context, first *answer, f fault) error {
	if f == faultCount {
		s.doubt("withheld", "an answer holds fewer items than it counts")
	}
	parts, err := s.parts(ctx, first)
	if err != nil {
		return err
	}
	s.cert.Parts = len(parts)

	g, ctx := errgroup.WithContext(ctx)
	collects := make(chan struct{}, maxBeside)
	beside := func(collect func() error) {
		g.Go(func() error {
			select {
			case collects <- struct{}{}:
				defer func() { <-collects }()
				return collect()
			case <-ctx.Done():
				return ctx.Err()
			}
		})
	}
	for _, p := range parts {
		g.Go(func() error { return s.walk(ctx, p, beside) })
	}
	return g.Wait()
}

// The most crowded seconds that are collected at the same time.
const maxBeside = 8

// The most answers of one part that may wait for their commit.
const maxUncommitted = 4

// walk reads a part from its beginning to its end. beside runs what need not be
// waited for to read on.
func (s *sweep) walk(ctx context.Context, p part, beside func(func() error)) error {
	stale := map[int64]bool{}
	var waiting []<-chan taken
	// Bounds are not trusted: each answer must show something of the second that
	// it was asked from.
	proof := func(a *answer) bool { return a.has(p.cursor) }
	for cursor, a := p.cursor, p.answer; ; a = nil {
		var err error
		if a == nil {
			if a, err = s.next(ctx, cursor, proof); err != nil {
				return err
			}
		}
		ch, err := s.take(ctx, a, p.owns)
		if err != nil {
			return err
		}
		waiting = append(waiting, ch)
		if len(waiting) > maxUncommitted {
			if err := s.settle(ctx, waiting[0], stale); err != nil {
				return err
			}
			waiting = waiting[1:]
		}
		last := a.last()
		fresh := len(a.rows)
		if a != p.answer { // it shows the second that it was asked from again
			fresh = a.after(cursor)
		}
		s.turned(last, fresh)
		if a.short || last > p.to {
			break
		}
		switch {
		case last == noTime && cursor == noTime:
			beside(func() error { return s.collectTimeless(ctx) })
			cursor, proof = firstSecond, func(*answer) bool { return true }
		case last > cursor:
			repeat := a.idsAt(last)
			cursor, proof = last, func(a *answer) bool { return a.hasAny(repeat) }
		case last < cursor:
			s.doubt("no-progress", "an answer ends before the second it was asked from")
			return s.settleAll(ctx, waiting, stale)
		default: // the second fills the whole answer
			if crowded := cursor; p.owns(crowded) {
				beside(func() error { return s.collect(ctx, crowded) })
			}
			cursor, proof = cursor+1, func(*answer) bool { return s.inclusive() }
		}
		if cursor > p.to {
			break
		}
	}
	return s.settleAll(ctx, waiting, stale)
}

// settleAll is wait with seconds that are to be asked for again already.
func (s *sweep) settleAll(ctx context.Context, done []<-chan taken, stale map[int64]bool) error {
	for _, ch := range done {
		if err := s.settle(ctx, ch, stale); err != nil {
			return err
		}
	}
	return s.again(ctx, stale)
}

// turned notes where an answer ended: the next sweep is cut at such places.
func (s *sweep) turned(last int64, items int) {
	if last != noTime {
		s.mu.Lock()
		s.turnings = append(s.turnings, last)
		s.mu.Unlock()
	}
	s.p.update(func(st *Status) { st.Progress.IDs += items })
}

// next asks for what lies from cursor on. An answer without proof that it was
// asked from there may have an exclusive bound, or what would prove it is gone.
func (s *sweep) next(ctx context.Context, cursor int64, proof func(*answer) bool) (*answer, error) {
	ask := func(second int64) (*answer, error) {
		q := s.query()
		q.Begin = wallText(second)
		return s.sound(ctx, q)
	}
	if s.exclusive() {
		a, err := ask(cursor - 1)
		if err != nil || !a.has(cursor-1) {
			return a, err
		}
		s.setExclusive(false) // it shows the second it was asked from
	}
	a, err := ask(cursor)
	if err != nil {
		return nil, err
	}
	if a.has(cursor) {
		s.setInclusive()
	}
	if proof(a) {
		return a, nil
	}
	b, err := ask(cursor - 1)
	switch {
	case err != nil:
		return nil, err
	case b.has(cursor - 1):
		return a, nil // the bound includes its second: the items are gone
	case b.has(cursor) && !a.has(cursor):
		s.setExclusive(true)
	}
	return b, nil // complete from cursor on, whatever the bound means
}

func (s *sweep) exclusive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.excl
}

func (s *sweep) inclusive() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.incl
}

func (s *sweep) setInclusive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.incl = true
}

func (s *sweep) setExclusive(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.excl = v
}

// Bounds of the number of parts, and the least length of one.
const (
	minParts     = 4
	maxParts     = maxBoundaries
	pagesPerPart = 3

	// mostAnswers is more answers a second than are taken in, whatever the
	// budget: parts beyond that only keep answers in memory that wait.
	mostAnswers = 2000
)

// width is how many parts are read side by side: twice as many requests as must
// be under way to use the whole budget, so that parts may end at different
// times. Others wait for the budget, not for each other.
func (s *sweep) width(pages int) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	underWay := int(math.Ceil(min(s.p.opt.Rate, mostAnswers) * s.rtt.Seconds()))
	return min(max(2*underWay, minParts), maxParts, pages/pagesPerPart)
}

// parts cuts the list into parts of like size, at places remembered of the last
// sweep, or, for a list that was never read, at what the API shows at even
// offsets. The cuts only share out the work; nothing depends on their being
// right.
func (s *sweep) parts(ctx context.Context, first *answer) ([]part, error) {
	begin := part{from: noTime, to: endOfTime, cursor: noTime, answer: first}
	n := s.width(int(first.total()) / s.p.kind.MaxLimit)
	if n < 2 {
		return []part{begin}, nil
	}
	var known []string
	if err := s.in.do(ctx, func() error { known = s.in.source.Boundaries; return nil }); err != nil {
		return nil, err
	}
	var cuts []part
	if len(known) >= n-1 {
		for i := 1; i < n; i++ {
			// Answers ended there: the part before it ends with such an answer.
			second := wallSecond(known[i*len(known)/n], s.p.loc)
			cuts = append(cuts, part{from: second, cursor: second})
		}
	} else {
		var err error
		if cuts, err = s.probe(ctx, n, first.total()); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(cuts, func(a, b part) int { return cmp.Compare(a.from, b.from) })
	parts := []part{begin}
	for _, p := range cuts {
		before := &parts[len(parts)-1]
		if p.from <= max(before.from, first.last()) {
			continue
		}
		before.to, p.to = p.from-1, endOfTime
		parts = append(parts, p)
	}
	return parts, nil
}

// probe asks for pages at even offsets. Each begins a part: it holds all that
// lies between its first second and its last.
func (s *sweep) probe(ctx context.Context, n int, total int64) ([]part, error) {
	parts := make([]part, n-1) // those without a place to begin at are left at zero: before everything
	g, ctx := errgroup.WithContext(ctx)
	for i := range parts {
		g.Go(func() error {
			q := s.query()
			q.Offset = int(total/int64(n)) * (i + 1) // whatever is counted, it does not overflow
			a, err := s.sound(ctx, q)
			if err != nil {
				return err
			}
			if first := a.first(); first != endOfTime {
				parts[i] = part{from: first + 1, cursor: first, answer: a}
			}
			return nil
		})
	}
	return parts, g.Wait()
}

// The most places that are remembered to cut the next sweep at.
const maxBoundaries = 64

// boundaries are evenly spread places at which answers ended.
func (s *sweep) boundaries() []string {
	slices.Sort(s.turnings)
	seconds := slices.Compact(s.turnings)
	n := min(len(seconds), maxBoundaries)
	out := make([]string, 0, n)
	for i := range n {
		out = append(out, wallText(seconds[i*len(seconds)/n]))
	}
	return out
}

// end gives the verdict, stores it with what the sweep says of absence, and
// tells it in one line.
func (s *sweep) end(ctx context.Context) error {
	c := &s.cert
	c.Requests, c.Records, c.Collected = int(s.requests.Load()), s.records, s.collects
	c.Reason, c.Detail = s.reason, s.detail
	c.Certified = s.reason == ""
	err := s.in.do(ctx, func() error {
		c.IDs = s.in.set.Count(s.mark, math.MinInt64, math.MaxInt64)
		c.Ended = time.Now().UTC()
		if err := s.in.conclude(ctx, s); err != nil {
			return err
		}
		if s.showing != nil {
			s.showing.finish(s.in, *c)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("store the certificate of sweep %s: %w", s.id, err)
	}
	s.p.concluded(*c)
	return nil
}

// concluded tells of a sweep that ended.
func (p *Poller) concluded(c journal.Certificate) {
	again := !c.Certified && p.Status().Last.Reason == c.Reason && !p.Status().Last.Certified && p.Status().Last.Sweep != ""
	p.update(func(st *Status) {
		st.Last = c
		if c.Certified {
			st.Certified = c
		}
		st.Progress.Running = false
	})
	p.swept(c)
	verdict := "certified"
	if !c.Certified {
		verdict = c.Reason
	}
	p.count(func(m *Metrics) {
		m.sweeps.WithLabelValues(p.opt.Source, p.kind.Name, verdict).Inc()
		m.duration.WithLabelValues(p.opt.Source, p.kind.Name).Set(c.Ended.Sub(c.Started).Seconds())
		m.known.WithLabelValues(p.opt.Source, p.kind.Name).Set(float64(p.Status().Known))
		if c.Certified {
			m.certified.WithLabelValues(p.opt.Source, p.kind.Name).Set(float64(c.Ended.UnixMilli()) / 1000)
		}
	})
	fields := []zap.Field{
		zap.String("sweep", c.Sweep), zap.String("verdict", verdict), zap.String("method", c.Method),
		zap.Int("requests", c.Requests), zap.Int("parts", c.Parts), zap.Int("events", c.IDs),
		zap.Int64("total_before", c.TotalBefore), zap.Int64("total_after", c.TotalAfter),
		zap.Int("records", c.Records), zap.Duration("took", c.Ended.Sub(c.Started)),
	}
	switch {
	case c.Certified && c.Records == 0 && c.Method == "whole":
		p.log.Debug("sweep ended", fields...) // every poll of a short list is one
		return
	case c.Certified:
		p.log.Info("sweep ended", fields...)
		return
	case again: // an outage is a few lines
		p.log.Debug("sweep not certified", append(fields, zap.String("detail", c.Detail))...)
		return
	}
	p.log.Warn("sweep not certified", append(fields, zap.String("detail", c.Detail))...)
}
