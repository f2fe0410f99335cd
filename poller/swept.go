package poller

import (
	"errors"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/journal"
)

// A Sweep is what Options.Swept is told of a sweep.
type Sweep struct {
	journal.Certificate
	// Faults are the failed requests since the sweep before ended, those of head
	// scans among them; at most 50, the oldest.
	Faults []Fault
}

// A Fault is a request that failed.
type Fault struct {
	At        time.Time
	Class     string
	Code      string // the API's; empty when there was no answer of it
	RequestID string // the API's id of the answer; empty when there was none
}

const maxFaults = 50

// faulted notes a failed request.
func (p *Poller) faulted(err error) {
	if p.opt.Swept == nil {
		return
	}
	f := Fault{At: time.Now(), Class: classOf(err).String()}
	if e, ok := errors.AsType[*cwp.Error](err); ok {
		f.Code, f.RequestID = e.Code, e.RequestID
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.faults) < maxFaults {
		p.faults = append(p.faults, f)
	}
}

// swept tells of a sweep.
func (p *Poller) swept(c journal.Certificate) {
	if p.opt.Swept == nil {
		return
	}
	p.mu.Lock()
	faults := p.faults
	p.faults = nil
	p.mu.Unlock()
	p.opt.Swept(Sweep{Certificate: c, Faults: faults})
}
