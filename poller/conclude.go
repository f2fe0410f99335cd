package poller

import (
	"context"
	"time"

	"github.com/cwprelay/cwprelay/journal"
)

// The most keys that one commit restates.
const maxRestated = 5000

// Time between two certified sweeps beyond this many sweep intervals is time
// that nobody looked: it does not count as absence.
const lookedIntervals = 5

// conclude stores the certificate of a sweep. A certified one marks the keys
// that it did not show as absent, clears the mark of those it did, and forgets
// what was absent for long enough.
func (in *intake) conclude(ctx context.Context, s *sweep) error {
	source := &in.source
	previous := *source
	source.Exclusive = s.excl
	var changes []journal.Change
	if s.cert.Certified {
		s.cert.First = source.FirstCertAt.IsZero()
		if s.cert.First {
			source.FirstCertAt = s.cert.Ended
		}
		changes = in.absences(s, source.LastCertAt)
		source.LastCertAt, source.Requests = s.cert.Ended, s.cert.Requests
		if b := s.boundaries(); len(b) > 0 {
			source.Boundaries = b
		}
	}
	for len(changes) > maxRestated {
		// The source, and with it the verdict, is stored with the last of them.
		now := *source
		*source = previous
		err := in.restateAll(ctx, changes[:maxRestated], nil)
		*source = now
		if err != nil {
			*source = previous
			return err
		}
		changes = changes[maxRestated:]
	}
	if err := in.restateAll(ctx, changes, &s.cert); err != nil {
		*source = previous
		return err
	}
	return nil
}

func (in *intake) restateAll(ctx context.Context, changes []journal.Change, cert *journal.Certificate) error {
	if err := in.store(ctx, changes, cert); err != nil {
		return err
	}
	for _, c := range changes {
		if c.Forget {
			in.set.Forget(c.Key.ID)
		} else {
			in.set.SetState(c.Key.ID, c.State)
		}
	}
	return nil
}

// absences are the changes of state that a certified sweep makes by what it
// showed and what it did not. lastCert is the end of the one before it.
func (in *intake) absences(s *sweep, lastCert time.Time) []journal.Change {
	var unseen time.Duration // time since lastCert that nobody looked
	if gap := s.cert.Started.Sub(lastCert); !lastCert.IsZero() && gap > lookedIntervals*in.p.cfg.SweepInterval {
		unseen = gap
	}
	var changes []journal.Change
	for _, a := range in.set.Absences(s.mark) {
		st := a.State
		switch {
		case a.Shown:
			st.AbsentSince, st.Unwatched = time.Time{}, false
		case st.Unwatched:
			continue
		case st.AbsentSince.IsZero():
			st.AbsentSince = s.cert.Ended
		case unseen > 0:
			st.AbsentSince = st.AbsentSince.Add(unseen)
		case s.cert.Ended.Sub(st.AbsentSince) >= in.p.cfg.ForgetAfter:
			c := in.restate(a.ID, st)
			c.Forget = true
			changes = append(changes, c)
			continue
		default:
			continue
		}
		changes = append(changes, in.restate(a.ID, st))
	}
	return changes
}
