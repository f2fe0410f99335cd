package poller

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// ErrNotRunning is what Show returns while Run does not run.
var ErrNotRunning = errors.New("the source is not being polled")

// maxKept bounds what of the vendor's JSON one Shown holds, in bytes.
const maxKept = 64 << 20

// Shown is what the API showed during one sweep: the comparison for what the
// journal and the sinks have. What is new in it has been taken in.
type Shown struct {
	Source, Kind string
	Account      string
	Zone         string // IANA name of the zone of the API's wall times
	Certificate  journal.Certificate
	Events       map[string]ShownEvent // by id
	// Kept are the events that were asked for, as a record of what they are
	// now: sequence and uid are those of their last record in the journal.
	Kept []*event.Record
	// More says that not all that was asked for is in Kept: it is bounded.
	More bool
}

// A ShownEvent is an event as the API showed it last during the sweep.
type ShownEvent struct {
	Status event.Status
	At     time.Time // when the answer was received
}

// A showing is a Shown in the making; nil: nobody asked.
type showing struct {
	keep func(event.Key) bool
	done chan error // buffered

	mu    sync.Mutex // guards the rest
	shown Shown
	sent  map[string]time.Time // when the request was sent that an event is known from
	kept  map[string]*event.Record
	bytes int
}

// Show makes a sweep at once, or after the one that runs, and returns what it
// showed. Of events that keep says true for, their record is kept too; keep is
// not called by two goroutines at once. The error is that of the sweep; a sweep that
// read everything and is not certified is none: its certificate says why.
func (p *Poller) Show(ctx context.Context, keep func(event.Key) bool) (*Shown, error) {
	s := newShowing(p, keep)
	if err := p.request(ctx, s); err != nil {
		return nil, err
	}
	select {
	case err := <-s.done:
		return &s.shown, err
	case <-p.over:
		return nil, ErrNotRunning
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func newShowing(p *Poller, keep func(event.Key) bool) *showing {
	return &showing{
		keep: keep, done: make(chan error, 1), sent: map[string]time.Time{}, kept: map[string]*event.Record{},
		shown: Shown{Source: p.opt.Source, Kind: p.kind.Name, Zone: p.cfg.Timezone, Events: map[string]ShownEvent{}},
	}
}

// request hands s to the goroutine that sweeps. While the API has not said whose
// account it is, nothing sweeps: then the error says why.
func (p *Poller) request(ctx context.Context, s *showing) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case p.asked <- s:
			return nil
		case <-tick.C:
			if st := p.Status(); st.Account == "" && st.Error != "" {
				return fmt.Errorf("it is not known yet whose account this is: %s", st.Error)
			}
		case <-p.over:
			return ErrNotRunning
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// see notes what an answer shows. The later request is right about an event
// that two answers show.
func (s *showing) see(p *Poller, a *answer, by origin) {
	if s == nil {
		return
	}
	account := p.Status().Account
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range a.rows {
		id := r.item.ID
		if s.sent[id].After(a.page.SentAt) {
			continue
		}
		s.sent[id] = a.page.SentAt
		status := p.kind.Status(p.cfg.Dialect, r.item.Status)
		s.shown.Events[id] = ShownEvent{Status: status, At: a.page.ReceivedAt}
		if !s.keep(event.Key{Account: account, Kind: p.kind.Name, ID: id}) {
			continue
		}
		if old := s.kept[id]; old != nil {
			s.bytes -= len(old.Raw)
			delete(s.kept, id)
		}
		if s.bytes += len(r.item.Raw); s.bytes > maxKept {
			s.bytes -= len(r.item.Raw)
			s.shown.More = true
			continue
		}
		s.kept[id] = &event.Record{
			Status: status, ObservedAt: a.page.ReceivedAt.UTC(), Dialect: p.cfg.Dialect, Zone: p.cfg.Timezone,
			Source: p.opt.Source, Sweep: by.id, Page: by.number, RequestID: a.page.RequestID,
			Raw: append([]byte(nil), r.item.Raw...), // not to hold the whole answer
		}
	}
}

// finish completes what was kept by what the journal knows of it, and hands it
// over. It is called where the set may be asked.
func (s *showing) finish(in *intake, cert journal.Certificate) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.shown.Account, s.shown.Certificate = in.source.Account, cert
	for id, rec := range s.kept {
		st, known := in.set.State(id)
		if !known || st.LastRecord == 0 || st.Status.Code != rec.Status.Code {
			continue // a newer record of it is on its way
		}
		rec.Key = event.Key{Account: in.source.Account, Kind: in.p.kind.Name, ID: id}
		rec.Seq, rec.Sequence, rec.FirstDetect = st.LastRecord, st.Sequence, st.FirstDetect
		rec.Revision = in.p.kind.Revision(rec.Raw)
		rec.UID = rec.Key.EventUID(rec.Sequence, rec.Revision)
		switch {
		case st.Sequence == 1:
			rec.Action = event.Detected
		case st.Status.Closed:
			rec.Action = event.Closed
		default:
			rec.Action = event.StatusChanged
		}
		s.shown.Kept = append(s.shown.Kept, rec)
	}
	s.kept = nil
}
