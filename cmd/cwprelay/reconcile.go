package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/poller"
)

// show makes a sweep of every source at once and returns what the API showed.
func (a *app) show(ctx context.Context, keep func(event.Key) bool) ([]*poller.Shown, []error) {
	sources := a.now.Load().sources
	shown, errs := make([]*poller.Shown, len(sources)), make([]error, len(sources))
	for i, s := range sources { // one after the other: keep is not called by two at once
		if shown[i], errs[i] = s.poller.Show(ctx, keep); shown[i] == nil {
			st := s.poller.Status()
			shown[i] = &poller.Shown{Source: st.Source, Kind: st.Kind, Account: st.Account}
		}
	}
	return shown, errs
}

// polling answers like offline, with the configuration's sources open: they
// poll until it is closed. Nothing is delivered.
func polling(ctx context.Context, p process, cfg *config.Config) (*operator, error) {
	a, err := open(cfg, p, newLogger(cfg.Log, p.stderr))
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	var g errgroup.Group
	for _, s := range a.now.Load().sources {
		g.Go(func() error { return s.poller.Run(ctx) })
	}
	admin := console.NewAdmin(console.AdminOptions{Options: a.consoleOptions(), Store: a.journal, Show: a.show})
	return &operator{client: inProcessClient(admin), close: func() error {
		stop()
		return errors.Join(accountError(g.Wait()), a.close())
	}}, nil
}

func reconcileCommand(p process) *cobra.Command {
	a := &asking{p: p, polls: true}
	var q console.Comparing
	var since string
	c := a.command(&cobra.Command{
		Use: "reconcile", Short: "Compare what the API shows now with the journal and with every sink", Args: cobra.NoArgs,
		Long: `Makes a certified sweep, takes in what is new in it, and compares: each event that
the API shows must be in the journal with its present status, and its last
record must be settled at each sink, or wait for it. What is missing is named.

Exits with 3 if something is missing anywhere, if a dead letter is the last word
on an event, or if the sweep was not certified; with 1 if the API could not be
asked.

With --resend each sink is given what it never got because of a gap: out of the
journal, or, where that no longer has it, as the API shows it now. The records
stand in the sink's dead letters as "gap" until they are accepted. With --sink
NAME a sink also gets what is older than itself.`,
		Example: "  cwprelay reconcile\n  cwprelay reconcile --since 24h --output json\n  cwprelay reconcile --resend --sink search",
	}, func(ctx context.Context, o *operator, _ []string) error {
		if since != "" {
			var err error
			if q.Since, err = sinceWhen(since, time.Now()); err != nil {
				return exit(exitUsage, err)
			}
		}
		if q.Accept && !q.Resend {
			return exit(exitUsage, errors.New("--accept-lost is for use with --resend"))
		}
		for {
			if isTerminal(p.stderr) && a.output != jsonOutput {
				_, _ = fmt.Fprintln(p.stderr, "asking the API for everything that it shows; this takes as long as a sweep")
			}
			var v console.Reconciliation
			if err := o.post(ctx, "/v1/reconcile", q, &v); err != nil {
				return err
			}
			if err := a.show(v, func(w io.Writer) { writeReconciliation(w, v) }); err != nil {
				return err
			}
			if !slices.ContainsFunc(v.Sinks, func(s console.SinkReconciliation) bool { return s.Later > 0 && s.Resent > 0 }) {
				return reconciled(v)
			}
		}
	})
	c.Flags().StringVar(&q.Sink, "sink", "", "look at this sink only")
	a.flags.completeSink(c, p)
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339) or how long ago (6h): events first detected since then")
	c.Flags().BoolVar(&q.Resend, "resend", false, "give each sink what it never got")
	c.Flags().BoolVar(&q.Accept, "accept-lost", false, "with --resend: close gaps also over records that neither journal nor API has any more")
	return c
}

// reconciled is how the verb ends.
func reconciled(v console.Reconciliation) error {
	for _, s := range v.Sources {
		if s.Error {
			return exit(exitFailed, fmt.Errorf("source %s could not be compared: %s", s.Source, s.Verdict))
		}
	}
	if v.Agrees {
		return nil
	}
	for _, s := range v.Sinks { // all that was missing is on its way
		if s.Resent+s.Refused > 0 && s.Lost+s.Later == 0 {
			return nil
		}
	}
	return exit(exitFound, nil)
}

func writeReconciliation(w io.Writer, v console.Reconciliation) {
	verdict := "Nothing is missing."
	switch {
	case slices.ContainsFunc(v.Sources, func(s console.SourceReconciliation) bool { return !s.Certified }):
		verdict = "THE LIST COULD NOT BE READ WHOLE: this proves nothing."
	case !v.Agrees:
		verdict = "NOT EVERYTHING IS WHERE IT SHOULD BE."
	}
	_, _ = fmt.Fprintln(w, verdict)
	if !v.Since.IsZero() {
		_, _ = fmt.Fprintf(w, "Events first detected since %s.\n", v.Since.Format(time.RFC3339))
	}
	columns := map[string]bool{}
	for _, s := range v.Sources {
		for status := range s.API {
			columns[status] = true
		}
		for status := range s.Journal {
			columns[status] = true
		}
	}
	for _, s := range v.Sinks {
		for _, counts := range []map[string]int{s.Settled, s.Waiting, s.Dead, s.Missing, s.Before} {
			for status := range counts {
				columns[status] = true
			}
		}
	}
	statuses := slices.Sorted(maps.Keys(columns))
	row := func(name string, counts map[string]int) []string {
		cells, sum := []string{name}, 0
		for _, status := range statuses {
			cells = append(cells, strconv.Itoa(counts[status]))
			sum += counts[status]
		}
		return append(cells, strconv.Itoa(sum))
	}
	rows := [][]string{append(append([]string{"EVENTS"}, upper(statuses)...), "ALL")}
	for _, s := range v.Sources {
		name := s.Source + "/" + s.Kind
		rows = append(rows, row(name+": shown by the API", s.API), row(name+": of these in the journal", s.Journal))
	}
	for _, s := range v.Sinks {
		rows = append(rows, row(s.Sink+": settled", s.Settled))
		for _, part := range []struct {
			name   string
			counts map[string]int
		}{{"waiting", s.Waiting}, {"dead letters", s.Dead}, {"never sent", s.Missing}, {"older than the sink", s.Before}} {
			if len(part.counts) > 0 {
				rows = append(rows, row(s.Sink+": "+part.name, part.counts))
			}
		}
	}
	_, _ = fmt.Fprintln(w)
	table(w, rows...)
	_, _ = fmt.Fprintln(w)
	for _, s := range v.Sources {
		_, _ = fmt.Fprintf(w, "%s/%s: sweep %s, %s", s.Source, s.Kind, s.Sweep, s.Verdict)
		if s.Missing > 0 {
			_, _ = fmt.Fprintf(w, "; %d MISSING in the journal", s.Missing)
		}
		if s.Gone > 0 {
			_, _ = fmt.Fprintf(w, "; %d known events are no longer shown", s.Gone)
		}
		_, _ = fmt.Fprintln(w)
	}
	for _, s := range v.Sinks {
		writeSinkReconciliation(w, s)
	}
	if len(v.Differ) > 0 {
		rows := [][]string{{"WHERE", "EVENT", "RECORD", "STATUS", "WHY"}}
		for _, d := range v.Differ {
			rows = append(rows, []string{d.Where, d.Finding, "#" + strconv.FormatUint(d.Seq, 10), d.Status, d.Why})
		}
		_, _ = fmt.Fprintln(w)
		table(w, rows...)
	}
	if v.Omitted > 0 {
		_, _ = fmt.Fprintf(w, "and %d more\n", v.Omitted)
	}
}

func writeSinkReconciliation(w io.Writer, s console.SinkReconciliation) {
	var parts []string
	add := func(n int, text string) {
		if n > 0 {
			parts = append(parts, fmt.Sprintf(text, n))
		}
	}
	add(s.Superseded, "%d changes in its gaps were followed by later ones; the sink does not get them")
	add(s.Resent, "%d records are on their way: until they are accepted they are dead letters of the class gap")
	add(s.Refused, "%d of the missing records are refused by its when")
	add(s.Later, "%d records follow")
	add(s.Lost, "%d records are LOST: neither the journal nor the API has them any more (--accept-lost closes the gap over them)")
	if len(parts) > 0 {
		_, _ = fmt.Fprintf(w, "%s: %s\n", s.Sink, strings.Join(parts, "; "))
	}
}

func upper(list []string) []string {
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = strings.ToUpper(s)
	}
	return out
}
