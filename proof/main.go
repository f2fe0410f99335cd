// Command proof runs the evidence for what cwprelay promises, and reports it
// so that a stranger can judge: what was promised, what was done, with which
// seeds, what was counted, and the verdict. It ends with 1 when a promise was
// broken or a proof could not be carried out.
//
//	go run ./proof [--long] [--seed N] [--output text|json] [NAME...]
//
// Without names it runs the proofs of the short form. It needs Go and the
// checkout; what a proof needs beside that it says when it is missing. Nothing
// leaves the loopback interface.
//
// A proof is a file of this package with one entry in the list below.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A proof is one promise and the way to put it to the test.
type proof struct {
	name    string
	promise string // what is shown, for who does not know the program
	apart   bool   // runs only when it is named: too long for every day
	run     func(context.Context, *evidence) error
}

func proofs() []proof {
	return []proof{
		crashProof(),
		powerProof(),
		diskProof(),
		siegeProof(),
		hostileProof(),
		modelProof(),
		networkProof(),
		soakProof(),
		mutationsProof(),
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// The exit codes.
const (
	held   = 0
	broken = 1 // a promise was broken, or a proof could not be carried out, or was cut short
	usage  = 2
)

type options struct {
	long   bool
	seed   uint64
	output string
	keep   bool

	duration time.Duration // of the soak; 0: as the form says
	rate     int           // of the soak; 0: as documented
	mutation string        // a part of the names or proofs of the mutations; empty: all
	names    []string
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("proof", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		_, _ = fmt.Fprintln(stderr, "Usage: go run ./proof [flags] [NAME...]")
		flags.PrintDefaults()
		_, _ = fmt.Fprintln(stderr, "\nThe proofs:")
		for _, p := range proofs() {
			_, _ = fmt.Fprintf(stderr, "  %-12s%s\n", p.name, p.promise)
		}
	}
	flags.BoolVar(&o.long, "long", false, "the long form: hours, not minutes")
	flags.Uint64Var(&o.seed, "seed", 0, "of everything random; 0: a new one, which is reported")
	flags.DurationVar(&o.duration, "for", 0, "how long the soak runs; 0: as its form says")
	flags.IntVar(&o.rate, "rate", 0, "changes a second of the soak; 0: 2,000")
	flags.StringVar(&o.mutation, "mutation", "", "only the mutations whose name or proof holds this text")
	flags.StringVar(&o.output, "output", "text", "text or json")
	flags.BoolVar(&o.keep, "keep", false, "keep the working files of proofs that held too")
	for len(args) > 0 { // flags may stand behind names
		if err := flags.Parse(args); err != nil {
			return o, err
		}
		if args = flags.Args(); len(args) > 0 {
			o.names, args = append(o.names, args[0]), args[1:]
		}
	}
	if o.output != "text" && o.output != "json" {
		return o, fmt.Errorf("--output: %q is not one of text, json", o.output)
	}
	for _, name := range o.names {
		if !slices.ContainsFunc(proofs(), func(p proof) bool { return p.name == name }) {
			return o, fmt.Errorf("there is no proof %q; --help lists them", name)
		}
	}
	if o.seed == 0 {
		o.seed = rand.Uint64N(1 << 32)
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	o, err := parse(args, stderr)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return held
	case err != nil:
		_, _ = fmt.Fprintln(stderr, "proof:", err)
		return usage
	}
	root, err := checkout(ctx)
	if err != nil {
		_, _ = fmt.Fprintln(stderr, "proof:", err)
		return broken
	}
	all := report{Began: time.Now().UTC().Truncate(time.Second), Seed: o.seed, Long: o.long, Verdict: verdictHeld}
	for _, p := range proofs() {
		if len(o.names) > 0 && !slices.Contains(o.names, p.name) || len(o.names) == 0 && p.apart {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		result := p.carryOut(ctx, o, root, stderr)
		all.Proofs = append(all.Proofs, result)
		if result.Verdict != verdictHeld && result.Verdict != verdictCut {
			all.Verdict = verdictBroken
		}
		if o.output == "text" {
			result.print(stdout)
		}
	}
	if ctx.Err() != nil && all.Verdict == verdictHeld {
		all.Verdict = verdictCut
	}
	if o.output == "json" {
		out := json.NewEncoder(stdout)
		out.SetIndent("", "  ")
		out.SetEscapeHTML(false)
		if err := out.Encode(all); err != nil {
			_, _ = fmt.Fprintln(stderr, "proof:", err)
			return broken
		}
	} else {
		_, _ = fmt.Fprintf(stdout, "\nverdict: %s\n", all.Verdict)
	}
	if all.Verdict != verdictHeld {
		return broken
	}
	return held
}

// carryOut runs one proof in a directory of its own.
func (p proof) carryOut(ctx context.Context, o options, root string, progress io.Writer) *result {
	e := &evidence{
		result: result{Name: p.name, Promise: p.promise, Seed: o.seed, Long: o.long},
		root:   root, progress: progress, duration: o.duration, rate: o.rate, mutation: o.mutation, cut: ctx,
	}
	began := time.Now()
	err := func() (err error) {
		if e.dir, err = os.MkdirTemp("", "cwprelay-proof-"+strings.NewReplacer("/", "", ".", "", " ", "-").Replace(p.name)+"-"); err != nil {
			return err
		}
		return p.run(ctx, e)
	}()
	e.mu.Lock() // for good: what still runs must not change what is reported
	e.Took = time.Since(began).Round(time.Second / 10)
	e.Seconds = e.Took.Seconds()
	e.Verdict = verdictHeld
	switch {
	case len(e.Broken) > 0:
		e.Verdict = verdictBroken
	case ctx.Err() != nil:
		e.Verdict, err = verdictCut, nil
	case err != nil:
		e.Verdict = verdictUndone
	}
	if err != nil {
		e.Error = err.Error()
	}
	if e.Verdict == verdictHeld && !o.keep {
		if err := os.RemoveAll(e.dir); err != nil {
			_, _ = fmt.Fprintln(progress, "proof:", err)
		}
	} else {
		e.Files = e.dir
	}
	return &e.result
}

// checkout finds the module that this program belongs to.
func checkout(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("go env GOMOD: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	if _, err := os.Stat(filepath.Join(root, "cmd", "cwprelay")); err != nil {
		return "", errors.New("run it inside the checkout of cwprelay")
	}
	return root, nil
}
