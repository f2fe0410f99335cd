package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

func hostileProof() proof {
	return proof{
		name: "hostile",
		promise: "answers of an API or a destination that are none move no cursor, certify no sweep, confirm no record and bury none; " +
			"no input of any parser crashes the program",
		apart: true, // the gate runs its parts by themselves
		run:   hostile,
	}
}

// hostile is the siege, spoiled answers of each kind by themselves, and every
// parser fuzzed.
func hostile(ctx context.Context, e *evidence) error {
	if err := siege(ctx, e); err != nil {
		return err
	}
	if err := e.goTest(ctx, "./poller", "HostileAnswers|HidesRows"); err != nil {
		return err
	}
	e.did("let a real client ask an API whose answers are spoiled, a sweep in each of 22 ways")
	if err := e.goTest(ctx, "./sinks/all", "GarbageConfirmsNothing"); err != nil {
		return err
	}
	e.did("sent to destinations of six kinds that answer by 16 kinds of garbage on the wire")
	each := either(e, "2s", "10m")
	cmd := exec.CommandContext(ctx, filepath.Join(e.root, ".ci", "fuzz"), each)
	cmd.Dir = e.root
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	log := filepath.Join(e.dir, "fuzz.log")
	if err := os.WriteFile(log, out, 0o600); err != nil {
		return err
	}
	if err != nil {
		e.broke(".ci/fuzz %s: %v; see %s", each, err, log)
	}
	e.did("fuzzed every decoder and parser of input, %s each", each)
	return nil
}

func modelProof() proof {
	return proof{
		name: "model",
		promise: "journal, delivery and sweeps, each by itself and all together, do what models of them say, over random histories: kills, refusals, " +
			"what operators do, lists that change while they are read, ties in no fixed order, crowded seconds",
		apart: true, // the gate runs its tests with few histories
		run:   model,
	}
}

// model runs the state machines.
func model(ctx context.Context, e *evidence) error {
	for _, m := range []struct {
		pkg, test, what string
		short, long     int
	}{
		{"./proof/whole", "WholeKeepsItsPromises", "poller, dedupe, journal and three sinks together, killed at commits, steered, forgotten, trimmed, full", 15, 2000},
		{"./journal", "HoldsWhatItsModelHolds", "a journal, its restarts and crashes against a model in memory", 25, 3000},
		{"./delivery", "EveryRecordIsAcceptedOrBuriedByTheRules", "a sink's worker against destinations that refuse, lose and are restarted", 20, 10_000},
		{"./poller", "CertifiedSweepsMissNothing", "sweeps against the truth of a list that changes before every answer, three to a history", 20, 20_000},
	} {
		checks := either(e, m.short, m.long)
		if err := e.goTest(ctx, m.pkg, m.test, fmt.Sprint("-rapid.checks=", checks), fmt.Sprint("-rapid.seed=", e.Seed)); err != nil {
			return err
		}
		e.did("%d random histories: %s", checks, m.what)
	}
	return nil
}
