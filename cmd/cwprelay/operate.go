package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/format"
)

// An asking is a verb that asks the running daemon, or the journal where none
// runs.
type asking struct {
	p      process
	flags  configFlags
	output outputFlag
	polls  bool // where no daemon runs, the verb needs the sources
}

// command makes a verb of what it does.
func (a *asking) command(c *cobra.Command, do func(ctx context.Context, o *operator, args []string) error) *cobra.Command {
	a.output = textOutput
	a.flags.add(c)
	c.Flags().VarP(&a.output, "output", "o", "text or json")
	if strings.Contains(c.Use, " SINK") || strings.Contains(c.Use, " NAME") {
		c.ValidArgsFunction = a.flags.sinkNames(a.p)
	}
	c.RunE = func(cmd *cobra.Command, args []string) error {
		cfg, err := a.flags.load(a.p)
		if err != nil {
			// A running daemon has one in force, and says what is wrong with this.
			cfg = &config.Config{}
			if cfg.State.Dir = config.StateDir(a.flags.options(a.p)); cfg.State.Dir == "" || !answers(cmd.Context(), cfg.State.Dir) {
				return err
			}
		}
		otherwise := offline
		if a.polls {
			otherwise = func(cfg *config.Config) (*operator, error) { return polling(cmd.Context(), a.p, cfg) }
		}
		o, err := newOperator(cmd.Context(), cfg, otherwise)
		if err != nil {
			return err
		}
		return errors.Join(do(cmd.Context(), o, args), o.close())
	}
	return c
}

// show prints v as JSON, or as text what write makes of it.
func (a *asking) show(v any, write func(w io.Writer)) error {
	if a.output == jsonOutput {
		return json.NewEncoder(a.p.stdout).Encode(v)
	}
	var b bytes.Buffer
	write(&b)
	_, err := a.p.stdout.Write(b.Bytes())
	return err
}

// table writes rows in columns. Cells are cleaned: they may hold what a
// destination said.
func table(w io.Writer, rows ...[]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range rows {
		for i, cell := range row {
			row[i] = format.CleanLine(cell, 160)
		}
		_, _ = fmt.Fprintln(t, strings.Join(row, "\t")) // Flush tells
	}
	_ = t.Flush() // w is memory
}

func statusCommand(p process) *cobra.Command {
	a := &asking{p: p}
	watch := false
	c := a.command(&cobra.Command{
		Use: "status", Short: "Show how sources, sinks and journal stand", Args: cobra.NoArgs,
		Long: `Shows how sources, sinks and journal stand, as the running daemon says; where
none runs, what the journal says. Exits with 3 if something is not as it should
be.`,
	}, func(ctx context.Context, o *operator, _ []string) error {
		for {
			var v console.Overview
			if err := o.get(ctx, "/v1/status", nil, &v); err != nil {
				return err
			}
			err := a.show(v, func(w io.Writer) {
				if !isTerminal(p.stdout) {
					writeStatus(w, v)
					return
				}
				var text bytes.Buffer
				writeStatus(&text, v)
				_, _ = io.WriteString(w, onScreen(text.String(), v, watch, width(p.stdout))) // w is memory
			})
			if err != nil {
				return err
			}
			if !watch {
				if v.Running && !v.Ready.Ready {
					return exit(exitFound, nil)
				}
				return nil
			}
			select {
			case <-ctx.Done():
				if isTerminal(p.stdout) {
					_, _ = fmt.Fprintln(p.stdout) // the shell's prompt begins a line
				}
				return nil
			case <-time.After(2 * time.Second):
			}
		}
	})
	c.Flags().BoolVarP(&watch, "watch", "w", false, "again every 2 s, until interrupted")
	return c
}

// onScreen is what status says on a terminal: how it stands in colour, and, to
// be drawn over what was there before, each line cut to columns.
func onScreen(text string, v console.Overview, over bool, columns int) string {
	head, rest, _ := strings.Cut(text, "\n")
	switch {
	case !v.Running:
	case v.Ready.Ready:
		head = "\x1b[1;32m" + head + "\x1b[0m"
	default:
		head = "\x1b[1;31m" + head + "\x1b[0m"
	}
	if !over {
		return head + "\n" + rest
	}
	var b strings.Builder
	b.WriteString("\x1b[H" + head + "\x1b[K\n") // home; what is left of a longer line goes
	for line := range strings.Lines(rest) {
		line = strings.TrimSuffix(line, "\n")
		if long := []rune(line); columns > 0 && len(long) > columns {
			line = string(long[:columns-1]) + "…"
		}
		b.WriteString(line + "\x1b[K\n")
	}
	fmt.Fprintf(&b, "\x1b[2m%s, again every 2 s; Ctrl-C ends\x1b[0m\x1b[K\x1b[J", v.At.Local().Format(time.TimeOnly))
	return b.String()
}

// width is how many columns a terminal has; 0 where it does not say.
func width(w any) int {
	f, ok := w.(*os.File)
	if !ok {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}

func writeStatus(w io.Writer, v console.Overview) {
	switch {
	case !v.Running:
		_, _ = fmt.Fprintln(w, "No daemon runs; this is what the journal says.")
	case v.Ready.Ready:
		_, _ = fmt.Fprintf(w, "Ready. cwprelay %s\n", v.Version)
	default:
		_, _ = fmt.Fprintln(w, "NOT READY")
		for _, r := range v.Ready.Reasons {
			_, _ = fmt.Fprintf(w, "  %s (%s) %s\n", r.Code, r.About, format.CleanLine(r.Detail, 300))
		}
	}
	if c := v.Config; c != nil && c.State != console.ConfigurationCurrent {
		writeConfiguration(w, *c)
	}
	if len(v.Sources) > 0 {
		rows := [][]string{{"SOURCE", "KNOWN", "CERTIFIED", "LAST SWEEP", "ERROR"}}
		for _, s := range v.Sources {
			result := s.LastResult
			if s.Error != "" { // it says the same, and more
				result, _, _ = strings.Cut(result, ":")
			}
			rows = append(rows, []string{s.Source + "/" + s.Kind, strconv.Itoa(s.Known), since(s.Certified), result, s.Error})
		}
		_, _ = fmt.Fprintln(w)
		table(w, rows...)
	}
	rows := [][]string{{"SINK", "STATE", "BEHIND", "OLDEST", "DEAD", "LAST SUCCESS", "LAST ANSWER"}}
	for _, s := range v.Sinks {
		answer := s.LastAnswer
		if s.LastError != "" && s.LastErrorAt.After(s.LastSuccess) || s.State == "halted" {
			answer = s.LastError
		} else if s.HeartbeatError != "" {
			answer = "heartbeat not accepted: " + s.HeartbeatError
		}
		state := s.State
		if s.Replay != nil {
			state += fmt.Sprintf(", replay at %d of %d to %d", s.Replay.After, s.Replay.From, s.Replay.Until)
		}
		oldest := "-"
		if s.Behind > 0 {
			oldest = since(s.Oldest)
		}
		rows = append(rows, []string{s.Name, state, strconv.Itoa(s.Behind), oldest, strconv.Itoa(s.Dead), since(s.LastSuccess), answer})
	}
	_, _ = fmt.Fprintln(w)
	table(w, rows...)
	j := v.Journal
	_, _ = fmt.Fprintf(w, "\nJournal: %d records (%d to %d), %d known events, %s of %s", j.Records, j.First, j.Last, j.Keys, console.Size(j.Bytes), console.Size(j.MaxBytes))
	if j.Gaps > 0 {
		_, _ = fmt.Fprintf(w, ", %d GAPS", j.Gaps)
	}
	if j.Damaged > 0 {
		_, _ = fmt.Fprintf(w, ", %d records DAMAGED", j.Damaged)
	}
	if j.Full != "" {
		_, _ = fmt.Fprintf(w, "\nFULL: %s", j.Full)
	}
	_, _ = fmt.Fprintln(w)
}

// writeConfiguration says that what stands in the file is not in force.
func writeConfiguration(w io.Writer, c console.Configuration) {
	if c.State == console.ConfigurationEdited {
		_, _ = fmt.Fprintf(w, "%s was changed and is not in force yet: SIGHUP puts it in force. What is, was read %s.\n", c.File, since(c.Since))
		return
	}
	_, _ = fmt.Fprintf(w, "%s CANNOT BE USED as it is now. In force is what was read %s.\n", c.File, since(c.Since))
	for _, mistake := range c.Mistakes {
		_, _ = fmt.Fprintf(w, "  %s\n", format.CleanLine(mistake, 300))
	}
}

// since is how long ago a moment was.
func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return time.Since(t).Round(time.Second).String() + " ago"
}

func traceCommand(p process) *cobra.Command {
	a := &asking{p: p}
	return a.command(&cobra.Command{
		Use: "trace ID", Short: "Show where an event came from and what became of it at each sink", Args: cobra.ExactArgs(1),
		Long: `Shows each change of an event that the journal has: the sweep, request and time
that showed it, and for each sink whether it waits, is settled or is a dead
letter, with the destination's answer to the batch it was in: HTTP status, HEC
ackId, Kafka partition and offsets. The event_uid is the _id in Elasticsearch. ID is an EventId,
a finding_uid, the event_uid of one change, or # and a sequence in the journal.
Exits with 3 if the journal has none.`,
		Example: "  cwprelay trace 9007199254740993\n  cwprelay trace '#1042'",
	}, func(ctx context.Context, o *operator, args []string) error {
		var list []console.Traced
		if err := o.get(ctx, "/v1/trace", url.Values{"id": args}, &list); err != nil {
			return err
		}
		if err := a.show(list, func(w io.Writer) { writeTrace(w, list) }); err != nil {
			return err
		}
		if len(list) == 0 {
			return exit(exitFound, fmt.Errorf("the journal has no record of %s: it was never shown by the API, or its records are older than state.retention", args[0]))
		}
		return nil
	})
}

func writeTrace(w io.Writer, list []console.Traced) {
	for _, t := range list {
		before := ""
		if t.Previous != "" {
			before = " (was " + t.Previous + ")"
		}
		_, _ = fmt.Fprintf(w, "#%d  %s, %s%s, change %d of %s\n", t.Seq, t.Action, t.Status, before, t.Sequence, format.CleanLine(t.Finding, 200))
		_, _ = fmt.Fprintf(w, "  event_uid %s\n  shown at %s by source %s, sweep %s, request %d, RequestId %s\n",
			t.UID, t.Observed.Format(time.RFC3339), t.Source, t.Sweep, t.Page, format.CleanLine(t.RequestID, 100))
		var rows [][]string
		for _, s := range t.Sinks {
			if s.Reason != "" {
				rows = append(rows, []string{"  " + s.Sink, s.State, s.Class + ": " + s.Reason})
			} else if len(s.Receipts) == 0 {
				rows = append(rows, []string{"  " + s.Sink, s.State, map[bool]string{true: "not sent: refused by when, or its receipt is gone"}[s.State == "settled"]})
			}
			for _, r := range s.Receipts {
				what := "refused"
				if r.Accepted {
					what = "accepted"
				}
				if r.Again {
					what += " when sent again"
				}
				rows = append(rows, []string{"  " + s.Sink, s.State, fmt.Sprintf("%s at %s with #%d to #%d, attempt %d: %s",
					what, r.At.Format(time.RFC3339), r.First, r.Last, r.Attempts, r.Answer)})
			}
		}
		table(w, rows...)
	}
}

func deadLetterCommand(p process) *cobra.Command {
	c := &cobra.Command{Use: "deadletter", Aliases: []string{"deadletters"}, Short: "List, show, retry, export or drop what a sink refused for good"}
	list := &asking{p: p}
	c.AddCommand(list.command(&cobra.Command{Use: "list SINK", Short: "List a sink's dead letters", Args: cobra.ExactArgs(1)},
		func(ctx context.Context, o *operator, args []string) error {
			letters, err := allLetters(ctx, o, args[0], false)
			if err != nil {
				return err
			}
			return list.show(letters, func(w io.Writer) {
				rows := [][]string{{"SEQ", "AT", "CLASS", "ATTEMPTS", "EVENT", "REASON"}}
				for _, l := range letters {
					rows = append(rows, []string{strconv.FormatUint(l.Seq, 10), l.At.Format(time.RFC3339), l.Class, strconv.Itoa(l.Attempts), l.Finding, l.Reason})
				}
				table(w, rows...)
			})
		}))
	show := &asking{p: p}
	raw := false
	one := show.command(&cobra.Command{
		Use: "show SINK SEQ", Short: "Show a dead letter; with --raw the vendor's JSON too, which is not redacted", Args: cobra.ExactArgs(2),
	}, func(ctx context.Context, o *operator, args []string) error {
		seqs, err := sequences(args[1:])
		if err != nil {
			return err
		}
		var letters []console.Letter
		q := url.Values{"sink": {args[0]}, "after": {strconv.FormatUint(seqs[0]-1, 10)}, "limit": {"1"}}
		if raw {
			q.Set("raw", "1")
		}
		if err := o.get(ctx, "/v1/deadletters", q, &letters); err != nil {
			return err
		}
		if len(letters) == 0 || letters[0].Seq != seqs[0] {
			return exit(exitUsage, fmt.Errorf("sink %s has no dead letter %d", args[0], seqs[0]))
		}
		enc := json.NewEncoder(p.stdout)
		enc.SetIndent("", "  ")
		return enc.Encode(letters[0])
	})
	one.Flags().BoolVar(&raw, "raw", false, "with the vendor's JSON, not redacted")
	c.AddCommand(one)

	export := &asking{p: p}
	c.AddCommand(export.command(&cobra.Command{
		Use: "export SINK", Short: "Write all dead letters as JSON lines, with the vendor's JSON, which is not redacted", Args: cobra.ExactArgs(1),
	}, func(ctx context.Context, o *operator, args []string) error {
		letters, err := allLetters(ctx, o, args[0], true)
		if err != nil {
			return err
		}
		enc := json.NewEncoder(p.stdout)
		for _, l := range letters {
			if err := enc.Encode(l); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, verb := range []struct{ name, short, path, done string }{
		{"retry", "Send dead letters again: those of the sequences, or --all", "/v1/deadletters/retry", "are sent again when nothing else waits"},
		{"drop", "Remove dead letters for good: those of the sequences, or --all", "/v1/deadletters/drop", "were removed"},
	} {
		x := &asking{p: p}
		all := false
		v := x.command(&cobra.Command{Use: verb.name + " SINK [SEQ…]", Short: verb.short, Args: cobra.MinimumNArgs(1)},
			func(ctx context.Context, o *operator, args []string) error {
				seqs, err := sequences(args[1:])
				if err != nil {
					return err
				}
				if all == (len(seqs) > 0) {
					return exit(exitUsage, errors.New("name the dead letters by their sequences, or give --all"))
				}
				if all {
					letters, err := allLetters(ctx, o, args[0], false)
					if err != nil {
						return err
					}
					for _, l := range letters {
						seqs = append(seqs, l.Seq)
					}
				}
				var done console.Done
				if len(seqs) > 0 {
					if err := o.post(ctx, verb.path, console.Steering{Sink: args[0], Seqs: seqs}, &done); err != nil {
						return err
					}
				}
				return x.show(done, func(w io.Writer) { _, _ = fmt.Fprintf(w, "%d dead letters %s\n", done.Records, verb.done) })
			})
		v.Flags().BoolVar(&all, "all", false, "all of the sink")
		c.AddCommand(v)
	}
	return c
}

// allLetters asks for all dead letters of a sink, page by page.
func allLetters(ctx context.Context, o *operator, sink string, raw bool) ([]console.Letter, error) {
	all := []console.Letter{}
	q := url.Values{"sink": {sink}}
	if raw {
		q.Set("raw", "1")
	}
	for {
		var page []console.Letter
		if err := o.get(ctx, "/v1/deadletters", q, &page); err != nil {
			return nil, err
		}
		if len(page) == 0 {
			return all, nil
		}
		all = append(all, page...)
		q.Set("after", strconv.FormatUint(page[len(page)-1].Seq, 10))
	}
}

// sequences reads numbers of records.
func sequences(args []string) ([]uint64, error) {
	var out []uint64
	for _, arg := range args {
		n, err := strconv.ParseUint(strings.TrimPrefix(arg, "#"), 10, 64)
		if err != nil || n == 0 {
			return nil, exit(exitUsage, fmt.Errorf("%q is no sequence of a record", arg))
		}
		out = append(out, n)
	}
	return out, nil
}

// pauseCommands pause and resume a sink.
func steeringCommands(p process) []*cobra.Command {
	x := &asking{p: p}
	out := []*cobra.Command{x.command(&cobra.Command{
		Use: "forget NAME", Short: "Remove what is kept of a sink that is no longer configured", Args: cobra.ExactArgs(1),
		Long: `Removes the cursor, the dead letters, the receipts and the gaps of a sink that
is no longer configured, for good. Without it they are kept, and a sink of that
name that returns goes on where it was.`,
	}, func(ctx context.Context, o *operator, args []string) error {
		var done console.Done
		if err := o.post(ctx, "/v1/sinks/forget", console.Steering{Sink: args[0]}, &done); err != nil {
			return err
		}
		return x.show(done, func(w io.Writer) {
			_, _ = fmt.Fprintf(w, "sink %s: forgotten, with %d dead letters\n", args[0], done.Records)
		})
	})}
	out[0].ValidArgsFunction = cobra.NoFileCompletions // the configured ones cannot be forgotten
	for _, verb := range []struct{ name, short, done string }{
		{"pause", "Send nothing to the sink until it is resumed or cwprelay starts again; records wait in the journal", "paused; its records wait in the journal"},
		{"resume", "Send to the sink again", "resumed"},
	} {
		x := &asking{p: p}
		out = append(out, x.command(&cobra.Command{Use: verb.name + " NAME", Short: verb.short, Args: cobra.ExactArgs(1)},
			func(ctx context.Context, o *operator, args []string) error {
				var done console.Done
				if err := o.post(ctx, "/v1/sinks/"+verb.name, console.Steering{Sink: args[0]}, &done); err != nil {
					return err
				}
				return x.show(done, func(w io.Writer) { _, _ = fmt.Fprintf(w, "sink %s: %s\n", args[0], verb.done) })
			}))
	}
	return out
}

func replayCommand(p process) *cobra.Command {
	a := &asking{p: p}
	var sink, since string
	var from uint64
	var end, wait bool
	c := a.command(&cobra.Command{
		Use: "replay --sink NAME --since TIME|--from SEQ", Short: "Send a sink again what the journal still has", Args: cobra.NoArgs,
		Long: `Sends a sink again, in order, every record from a time or a sequence on that its
condition lets pass, marked as replayed. Live records go first. It goes on over
restarts, and --end ends it. What the journal no longer has (state.retention)
cannot be sent again. Into Elasticsearch it changes nothing where the documents
are there.`,
		Example: "  cwprelay replay --sink soc --since 6h --wait\n  cwprelay replay --sink soc --since 2026-09-17T10:00:00Z\n  cwprelay replay --sink soc --from 1042",
	}, func(ctx context.Context, o *operator, _ []string) error {
		if sink == "" {
			return exit(exitUsage, errors.New("--sink is required"))
		}
		var done console.Done
		if end {
			if err := o.post(ctx, "/v1/replay/end", console.Steering{Sink: sink}, &done); err != nil {
				return err
			}
			return a.show(done, func(w io.Writer) { _, _ = fmt.Fprintf(w, "sink %s: the replay has ended\n", sink) })
		}
		question := console.Steering{Sink: sink, From: from}
		if (from == 0) == (since == "") {
			return exit(exitUsage, errors.New("give either --since or --from"))
		}
		if since != "" {
			var err error
			if question.Since, err = sinceWhen(since, time.Now()); err != nil {
				return exit(exitUsage, err)
			}
		}
		if err := o.post(ctx, "/v1/replay", question, &done); err != nil {
			return err
		}
		err := a.show(done, func(w io.Writer) {
			_, _ = fmt.Fprintf(w, "sink %s: replay from #%d, at most %d records\n", sink, done.From, done.Records)
		})
		if err != nil || !wait {
			return err
		}
		return a.follow(ctx, o, sink)
	})
	c.Flags().StringVar(&sink, "sink", "", "the sink")
	a.flags.completeSink(c, p)
	c.Flags().StringVar(&since, "since", "", "a time (RFC 3339) or how long ago (6h): records observed since then")
	c.Flags().Uint64Var(&from, "from", 0, "sequence of the first record")
	c.Flags().BoolVar(&end, "end", false, "end the replay that runs; what was sent stays sent")
	c.Flags().BoolVar(&wait, "wait", false, "show how far it is, until it is done")
	return c
}

// follow shows how far a replay is, until it is done.
func (a *asking) follow(ctx context.Context, o *operator, sink string) error {
	began, first := time.Now(), uint64(0)
	drawn := isTerminal(a.p.stderr)
	end := map[bool]string{true: "\x1b[K\r", false: "\n"}[drawn]
	for {
		var v console.Overview
		if err := o.get(ctx, "/v1/status", nil, &v); err != nil {
			return err
		}
		var at *console.Progress
		for _, s := range v.Sinks {
			if s.Name == sink {
				at = s.Replay
			}
		}
		if at == nil {
			_, err := fmt.Fprintln(a.p.stderr, strings.TrimSuffix(end, "\n")+"done")
			return err
		}
		if at.Until == 0 {
			at.Until = v.Journal.Last // it is about to begin
		}
		done, all := at.After-min(at.From-1, at.After), max(at.Until, at.After)-min(at.From-1, at.After)
		if first == 0 {
			began, first = time.Now(), at.After
		}
		line := progress(done, all, at.After-min(first, at.After), time.Since(began))
		if _, err := fmt.Fprintf(a.p.stderr, "%s  #%d of #%d%s", line, at.After, at.Until, end); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
}

// progress is a bar with what is left: how much of all is done, and how much
// of it in how long.
func progress(done, all, lately uint64, in time.Duration) string {
	const cells = 30
	all = max(all, 1)
	done = min(done, all)
	full := int(cells * done / all) //nolint:gosec // at most cells
	line := fmt.Sprintf("[%s%s] %3d %%", strings.Repeat("#", full), strings.Repeat("-", cells-full), 100*done/all)
	if rate := float64(lately) / max(in.Seconds(), 0.001); lately > 0 {
		left := time.Duration(float64(all-done) / rate * float64(time.Second)).Round(time.Second)
		line += fmt.Sprintf("  %.3g/s, about %s left", rate, left)
	}
	return line
}

// sinceWhen reads a moment, or how long ago it was.
func sinceWhen(text string, now time.Time) (time.Time, error) {
	if d, err := time.ParseDuration(text); err == nil && d > 0 {
		return now.Add(-d), nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return t, fmt.Errorf("--since: %q is neither a time such as 2026-09-17T10:00:00Z nor a duration such as 6h", text)
	}
	return t, nil
}

func logLevelCommand(p process) *cobra.Command {
	a := &asking{p: p}
	return a.command(&cobra.Command{
		Use: "log-level LEVEL", Short: "Set the log's level of the running daemon, until it starts again", Args: cobra.ExactArgs(1),
		ValidArgs: []string{"debug", "info", "warn", "error"},
	}, func(ctx context.Context, o *operator, args []string) error {
		var done console.Done
		if err := o.post(ctx, "/v1/log", map[string]string{"level": args[0]}, &done); err != nil {
			return err
		}
		return a.show(done, func(w io.Writer) { _, _ = fmt.Fprintf(w, "log level %s\n", args[0]) })
	})
}
