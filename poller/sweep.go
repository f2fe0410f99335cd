package poller

import (
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
		return s.cert, errors.Join(err, endErr)
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
	stale := map[int64]bool{}
	for _, ch := range done {
		if err := s.settle(ctx, ch, stale); err != nil {
			return err
		}
	}
	return s.again(ctx, stale)
}

func (s *sweep) settle(ctx context.Context, ch <-chan taken, stale map[int64]bool) error {
	var t taken
	select {
	case t = <-ch:
	case <-ctx.Done():
		return ctx.Err()
	}
	if t.err != nil {
		return t.err
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

// A part is a piece of the time axis: behind lo, up to and including hi.
type part struct{ lo, hi int64 }

func (p part) owns(second int64) bool { return second > p.lo && second <= p.hi }

// keyset reads the list by ascending sweep time from cursors, offset always 0,
// in parts side by side.
func (s *sweep) keyset(ctx context.Context, first *answer, f fault) error {
	if f == faultCount {
		s.doubt("withheld", "an answer holds fewer items than it counts")
	}
	cuts, err := s.cuts(ctx, first)
	if err != nil {
		return err
	}
	s.cert.Parts = len(cuts) + 1

	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(s.workers() + 1)
	lo := int64(noTime)
	for i := 0; i <= len(cuts); i++ {
		p := part{lo: lo, hi: endOfTime}
		if i < len(cuts) {
			p.hi, lo = cuts[i], cuts[i]
		}
		if i == 0 {
			g.Go(func() error { return s.first(ctx, p, first) })
			continue
		}
		g.Go(func() error { return s.part(ctx, p, p.lo, nil) })
	}
	return g.Wait()
}

// first reads the part that begins with the items without a time.
func (s *sweep) first(ctx context.Context, p part, a *answer) error {
	// noTime sorts before everything: the part owns it.
	p.lo = math.MinInt64
	owns := func(second int64) bool { return second <= p.hi }
	if !a.short && a.last() == noTime {
		if err := s.collectTimeless(ctx); err != nil {
			return err
		}
		return s.walk(ctx, p, owns, firstSecond, nil)
	}
	return s.walk(ctx, p, owns, noTime, a)
}

func (s *sweep) part(ctx context.Context, p part, cursor int64, a *answer) error {
	return s.walk(ctx, p, p.owns, cursor, a)
}

// The most answers of one part that may wait for their commit.
const maxUncommitted = 4

// walk reads from cursor on, beginning with a if there is one, to the end of
// the part.
func (s *sweep) walk(ctx context.Context, p part, owns func(int64) bool, cursor int64, a *answer) error {
	stale := map[int64]bool{}
	var waiting []<-chan taken
	var repeat map[string]bool // ids of the last answer's last second
	for {
		var err error
		if a == nil {
			if a, err = s.next(ctx, cursor, repeat); err != nil {
				return err
			}
		}
		ch, err := s.take(ctx, a, owns)
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
		s.turned(last, len(a.rows))
		if a.short || last > p.hi {
			break
		}
		if last <= cursor {
			// The second fills the whole answer, or (last < cursor) nothing of
			// the answer can be read on from.
			if last < cursor {
				s.doubt("no-progress", "an answer ends before the second it was asked from")
				break
			}
			if owns(cursor) {
				if err := s.collect(ctx, cursor); err != nil {
					return err
				}
			}
			cursor, repeat = cursor+1, nil
			if cursor > p.hi {
				break
			}
		} else {
			cursor, repeat = last, a.idsAt(last)
		}
		a = nil
	}
	for _, ch := range waiting {
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

// next asks for what lies from cursor on. Bounds are not trusted: the answer
// must repeat an id of the last answer's last second. If it does not, either
// BeginTime excludes the second it names, or those items are gone.
func (s *sweep) next(ctx context.Context, cursor int64, repeat map[string]bool) (*answer, error) {
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
	if err != nil || repeat == nil || a.hasAny(repeat) {
		return a, err
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

func (s *sweep) setExclusive(v bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.excl = v
}

// Bounds of the number of parts read side by side, and the least length of one.
const (
	maxWorkers   = 16
	pagesPerPart = 6
)

// workers is how many requests must be under way to use the whole budget.
func (s *sweep) workers() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(int(math.Ceil(s.p.opt.Rate*s.rtt.Seconds()*1.3)), 1), maxWorkers)
}

// cuts are the sweep times at which the list is cut into parts of like size:
// those remembered of the last sweep, or, for a list that was never read,
// those that the API shows at even offsets. They only share out the work;
// nothing depends on their being right.
func (s *sweep) cuts(ctx context.Context, first *answer) ([]int64, error) {
	workers := s.workers()
	pages := int(first.total()) / s.p.kind.MaxLimit
	parts := min(2*workers, pages/pagesPerPart)
	if workers < 2 || parts < 2 {
		return nil, nil
	}
	var known []string
	if err := s.in.do(ctx, func() error { known = s.in.source.Boundaries; return nil }); err != nil {
		return nil, err
	}
	var cuts []int64
	if len(known) >= parts-1 {
		for i := 1; i < parts; i++ {
			cuts = append(cuts, wallSecond(known[i*len(known)/parts], s.p.loc))
		}
	} else {
		var err error
		if cuts, err = s.probe(ctx, parts, first.total()); err != nil {
			return nil, err
		}
	}
	from := first.last()
	slices.Sort(cuts)
	cuts = slices.Compact(cuts)
	return slices.DeleteFunc(cuts, func(c int64) bool { return c <= from }), nil
}

func (s *sweep) probe(ctx context.Context, parts int, total int64) ([]int64, error) {
	cuts := make([]int64, parts-1)
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(maxWorkers)
	for i := range cuts {
		g.Go(func() error {
			a, err := s.ask(ctx, cwp.Query{
				Sort: cwp.BySweepTime, Offset: int(total) * (i + 1) / parts, Limit: 1,
			})
			if err != nil {
				return err
			}
			cuts[i] = a.last()
			return nil
		})
	}
	return cuts, g.Wait()
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
