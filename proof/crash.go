package main

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

func crashProof() proof {
	return proof{
		name: "crash",
		promise: "cwprelay killed with -9 at any moment loses nothing: every event status that was visible through a certified sweep is at every sink or in " +
			"its dead letters, every record at a sink was once true, and what comes twice is no more than what was in flight",
		run: crash,
	}
}

// crash kills the daemon again and again while the list changes and all
// destinations, most of them faulty, are fed.
func crash(ctx context.Context, e *evidence) error {
	kills := either(e, 40, 200)
	random := rand.New(rand.NewPCG(e.Seed, 10))
	r, err := newRig(ctx, e, rigConfig{apis: []emulator.Config{{Events: 900, Rate: 40, Seed: e.Seed}}})
	if err != nil {
		return err
	}
	defer r.close()
	for n := range kills {
		if err := r.misbehave(random); err != nil {
			return err
		}
		d, err := r.start(ctx, "run")
		if err != nil {
			return err
		}
		if err := r.live(ctx, random); err != nil {
			return err
		}
		if err := r.kill(d); err != nil {
			return err
		}
		if _, err := r.certificates(); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if e.failed() {
			return nil // the rest would tell no more
		}
		if (n+1)%20 == 0 {
			e.tell("%d of %d kills, %d records", n+1, kills, r.ledger.records())
		}
	}
	e.did("killed the built binary %d times with SIGKILL: after a random time, or a random moment after a request of the API or of a destination", kills)
	e.did("meanwhile the list changed 40 times a second, and API and destinations failed at random: errors, resets, cut and lost answers, slow ones, events refused for good")
	killed := len(r.sweeps)
	r.behave()
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.judge(ctx); err != nil {
		return err
	}
	e.did("compared what %d destinations hold with the emulated API's own history, for each of the certified sweeps, and record by record with each other", len(r.dests))
	e.count("kills", kills)
	e.count("changes of the list", r.sources[0].api.World().Tick())
	e.count("certified sweeps of killed processes", killed)
	return nil
}

// live lets the daemon live for a while: for a random time, until a sweep was
// certified, or until a request to the API or to a destination; and a random
// moment more, when something is half done.
func (r *rig) live(ctx context.Context, random *rand.Rand) error {
	var reached func() (bool, error)
	most := 3 * time.Second
	switch n := random.IntN(6); {
	case n < 2:
		sleep(ctx, time.Duration(30+random.IntN(600))*time.Millisecond)
		return nil
	case n == 2:
		most = 6 * time.Second // under faults a sweep takes its time
		reached = func() (bool, error) {
			n, err := r.certificates()
			return n > 0, err
		}
	case n == 3:
		goal := r.requests() + 1 + random.IntN(12)
		reached = func() (bool, error) { return r.requests() >= goal, nil }
	default:
		d := r.dests[random.IntN(len(r.dests)-1)] // the last is a file, which tells nothing
		goal := d.count() + 1 + random.IntN(5)
		reached = func() (bool, error) { return d.count() >= goal, nil }
	}
	for end := time.Now().Add(most); time.Now().Before(end) && ctx.Err() == nil; sleep(ctx, 200*time.Microsecond) {
		if is, err := reached(); is || err != nil {
			sleep(ctx, time.Duration(random.IntN(8000))*time.Microsecond)
			return err
		}
	}
	return nil
}

// requests is how many requests the emulated APIs have had.
func (r *rig) requests() int {
	n := 0
	for _, s := range r.sources {
		for _, c := range s.api.Stats().Requests {
			n += c
		}
	}
	return n
}

// misbehave draws how the API and each destination behave from now on: each is
// faulty half of the time.
func (r *rig) misbehave(random *rand.Rand) error {
	var faults emulator.Faults
	if random.IntN(2) == 0 {
		if err := faults.UnmarshalText([]byte("latency=2ms,jitter=20ms,reset=0.03,truncate=0.03,not_json=0.02,server_error=0.03,InternalError=0.03")); err != nil {
			return err
		}
	}
	for _, s := range r.sources {
		s.api.SetFaults(faults)
	}
	for _, d := range r.dests {
		m := manners{poison: 60}
		if random.IntN(2) == 0 {
			m.refuse, m.reset, m.lose, m.slow = 0.05*random.Float64(), 0.05*random.Float64(), 0.1*random.Float64(), 0.3*random.Float64()
			m.restart, m.large = 0.05*random.Float64(), 0.3*random.Float64()
		}
		d.setManners(m)
	}
	return nil
}

// behave ends all faults, but not that some events are refused for good, nor
// that a collector loses what it has not confirmed: that takes a life as long
// as the last one to show.
func (r *rig) behave() {
	for _, s := range r.sources {
		s.api.SetFaults(emulator.Faults{})
	}
	for _, d := range r.dests {
		d.setManners(manners{poison: 60, restart: 0.1})
	}
}

// sleep lets time pass, or less when ctx ends. Proofs are about when things
// happen; none waits by it for something that it can see.
func sleep(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}
