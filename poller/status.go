package poller

import (
	"time"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/journal"
)

// A Status is what a poller says of itself.
type Status struct {
	Source, Kind  string
	Account       string // "" until it is known
	SweepInterval time.Duration

	Last      journal.Certificate // of the last sweep that ended; zero before the first
	Certified journal.Certificate // of the last sweep that was certified; zero before the first

	Progress Progress
	Known    int       // events in the set
	Newest   time.Time // latest detection time seen; zero: none

	Error      string    // why the API cannot be polled now; empty while it can
	ErrorClass string    // class of that error
	Since      time.Time // when that began
	Full       string    // why the journal takes nothing in; empty while it does

	// Ahead is by how much the API's clock is ahead of ours, where that is more
	// than cwp.MaxClockSkew; else 0.
	Ahead time.Duration
}

// Progress is how far the running sweep has come.
type Progress struct {
	Running  bool
	First    bool // no sweep of the source was certified before
	Requests int
	IDs      int   // distinct events read
	Total    int64 // TotalCount at its start; -1: none
	Started  time.Time
}

// Status returns the present state. It is safe for concurrent use.
func (p *Poller) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.status
}

func (p *Poller) update(f func(*Status)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.status)
}

// classAccount is the ErrorClass of an ErrAccount.
const classAccount = "account"

// NotReady names why the source cannot be relied on at a moment, "" when it
// can: one of NotReadyCodes. No certified sweep ended within three times the
// longer of the sweep interval and the last sweep, the API refuses or fails, it
// counts events that it does not give, or our clock is off.
func (s Status) NotReady(now time.Time) string {
	switch {
	case s.Full != "":
		return "journal_full"
	case s.ErrorClass == classAccount:
		return "account_changed"
	case s.Error != "":
		return "api_" + s.ErrorClass
	case s.Ahead != 0:
		return "api_" + cwp.ClassClock.String()
	case !s.Last.Certified && s.Last.Reason == "withheld":
		return "events_withheld"
	case s.Certified.Ended.IsZero():
		return "no_certified_sweep_yet"
	}
	longest := max(s.SweepInterval, s.Last.Ended.Sub(s.Last.Started), s.Certified.Ended.Sub(s.Certified.Started))
	if now.Sub(s.Certified.Ended) > 3*longest {
		return "no_certified_sweep"
	}
	return ""
}

// NotReadyCodes are all that NotReady can say.
func NotReadyCodes() []string {
	codes := []string{"account_changed", "journal_full", "events_withheld", "no_certified_sweep_yet", "no_certified_sweep"}
	for _, class := range cwp.Classes() {
		codes = append(codes, "api_"+class.String())
	}
	return codes
}
