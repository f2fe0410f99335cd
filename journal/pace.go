package journal

import (
	"sync"
	"time"
)

// Bounds of what an Append waits for readers.
const (
	paceRecords = 500  // that may be unread: with a commit behind them, fewer than recent holds
	paceMost    = 8000 // beyond so many the reader is too slow for it, or reads old records
	paceWait    = 100 * time.Millisecond
)

// A pace lets appends wait a moment for the reader that is furthest, while that
// is close behind: what was just appended is in memory still, and need not be
// unpacked, which is a tenth of what a record costs. It matters where a list is
// read faster than the vendor's API gives it.
//
// A reader that does not move within paceWait is not waited for again until it
// does, so that a destination that is down holds up nothing.
type pace struct {
	mu      sync.Mutex // guards the rest
	written uint64     // number of the last record that was appended
	read    uint64     // number of the last one that was read
	moved   chan struct{}
	stands  bool // the reader did not move when it was waited for
}

// wrote notes that records up to seq were appended.
func (p *pace) wrote(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.written = max(p.written, seq)
}

// readTo notes that a reader has come to seq.
func (p *pace) readTo(seq uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if seq <= p.read {
		return
	}
	p.read, p.stands = seq, false
	if p.moved != nil {
		close(p.moved)
		p.moved = nil
	}
}

// ahead returns what is closed when the reader moves, nil where it is not to be
// waited for.
func (p *pace) ahead() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stands || p.written <= p.read+paceRecords || p.written > p.read+paceMost {
		return nil
	}
	if p.moved == nil {
		p.moved = make(chan struct{})
	}
	return p.moved
}

// wait waits for the reader, until closed at most.
func (p *pace) wait(closed <-chan struct{}) {
	moved := p.ahead()
	if moved == nil {
		return
	}
	timer := time.NewTimer(paceWait)
	defer timer.Stop()
	for first := true; moved != nil; first = false {
		select {
		case <-moved:
			moved = p.ahead()
		case <-timer.C:
			p.mu.Lock()
			p.stands = p.stands || first
			p.mu.Unlock()
			return
		case <-closed:
			return
		}
	}
}
