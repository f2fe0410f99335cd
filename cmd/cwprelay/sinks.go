package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/all"
)

func sinksCommand(p process) *cobra.Command {
	c := &cobra.Command{Use: "sinks", Short: "List the configured sinks, or try one"}
	var flags configFlags
	output := textOutput

	list := &cobra.Command{
		Use: "list", Short: "List the configured sinks", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			return listSinks(p.stdout, cfg, output)
		},
	}
	test := &cobra.Command{
		Use: "test NAME", Short: "Send one marked test event, and print what the sink answered",
		Long: `Sends one event to the sink, in its format, whatever its condition (when:)
says. The event is marked: its virus is CWPRelay.Test.Event. It makes one
attempt and leaves the journal alone.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			return testSink(cmd.Context(), p.stdout, cfg, args[0], output)
		},
	}
	setup := &cobra.Command{
		Use: "setup NAME", Short: "Make what the sink needs at its destination (index template and lifecycle)",
		Long: `Makes what the sink needs at its destination, where its kind has something to
make: the index template and, with keep_days, the lifecycle of Elasticsearch
and OpenSearch. What is there and not its own stays as it is. No other verb
makes anything.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			return setupSink(cmd.Context(), p.stdout, cfg, args[0], output)
		},
	}
	for _, verb := range []*cobra.Command{list, test, setup} {
		flags.add(verb)
		verb.Flags().VarP(&output, "output", "o", "text or json")
		c.AddCommand(verb)
	}
	names := flags.sinkNames(p)
	test.ValidArgsFunction, setup.ValidArgsFunction = names, names
	for _, verb := range steeringCommands(p) {
		c.AddCommand(verb)
	}
	return c
}

// An outputFlag is how a verb prints what it found.
type outputFlag string

const (
	textOutput outputFlag = "text"
	jsonOutput outputFlag = "json"
)

func (o *outputFlag) String() string { return string(*o) }
func (*outputFlag) Type() string     { return "format" }
func (o *outputFlag) Set(s string) error {
	if *o = outputFlag(s); *o != textOutput && *o != jsonOutput {
		return errors.New("must be text or json")
	}
	return nil
}

func listSinks(out io.Writer, cfg *config.Config, output outputFlag) error {
	type row struct {
		Name     string `json:"name"`
		Kind     string `json:"kind"`
		Format   string `json:"format"`
		When     string `json:"when,omitempty"`
		Promises string `json:"promises"`
	}
	rows := []row{}
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		s := cfg.Sinks[name]
		rows = append(rows, row{name, s.Kind.Kind(), s.Delivery.Format, s.Delivery.When, s.Kind.Promise()})
	}
	if output == jsonOutput {
		return json.NewEncoder(out).Encode(rows)
	}
	table := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	_, _ = fmt.Fprintln(table, "NAME\tKIND\tFORMAT\tWHEN\tACCEPTED MEANS") // Flush tells
	for _, r := range rows {
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", r.Name, r.Kind, cmp.Or(r.Format, "-"), cmp.Or(r.When, "-"), r.Promises)
	}
	return table.Flush()
}

// openSink makes the sink of a name, and its encoder.
func openSink(cfg *config.Config, name string, stdout io.Writer) (sinks.Sink, format.Encoder, error) {
	s, ok := cfg.Sinks[name]
	if !ok {
		return nil, nil, exit(exitUsage, fmt.Errorf("there is no sink %q; there are %s", name, strings.Join(slices.Sorted(maps.Keys(cfg.Sinks)), ", ")))
	}
	encode, err := encoder(cfg, name)
	if err != nil {
		return nil, nil, err
	}
	sink, err := all.New(s.Kind, all.Options{Name: name, Format: s.Delivery.Format, Namespace: cfg.Format.Namespace, Stdout: stdout})
	if err != nil {
		return nil, nil, exit(exitConfig, err)
	}
	return sink, encode, nil
}

// encoder makes the encoder of a sink; nil where the sink makes its own
// messages.
func encoder(cfg *config.Config, name string) (format.Encoder, error) {
	f := cfg.Sinks[name].Delivery.Format
	if f == "" {
		return nil, nil //nolint:nilnil // documented
	}
	encode, err := format.New(f, cfg.Format, cfg.Sinks[name].Delivery.Transform...)
	if err != nil {
		return nil, exit(exitConfig, fmt.Errorf("sinks.%s.format: %w", name, err))
	}
	return encode, nil
}

// sinkError gives an error of a sink its exit code.
func sinkError(name string, err error) error {
	if err == nil {
		return nil
	}
	code := exitUnreachable
	switch sinks.ClassOf(err) {
	case sinks.ClassHalt:
		code = exitRefused
	case sinks.ClassPoison, sinks.ClassTooLarge:
		code = exitFailed
	case sinks.ClassRetry:
		if partial, ok := errors.AsType[*sinks.PartialError](err); ok && len(partial.Failed) == 1 {
			return sinkError(name, partial.Failed[0])
		}
	}
	return exit(code, fmt.Errorf("sink %s: %w", name, err))
}

// testSink sends one test event.
func testSink(ctx context.Context, out io.Writer, cfg *config.Config, name string, output outputFlag) error {
	sink, encode, err := openSink(cfg, name, out)
	if err != nil {
		return err
	}
	message := sinks.Message{Record: testRecord(time.Now())}
	if encode != nil {
		if message.Body, err = encode(nil, message.Record); err != nil {
			return errors.Join(fmt.Errorf("encode the test event: %w", err), sink.Close())
		}
	}
	ctx, cancel := context.WithTimeout(ctx, delivery.Deadline(sink, cfg.Sinks[name].Delivery))
	defer cancel()
	began := time.Now()
	receipt, err := sink.Send(ctx, []sinks.Message{message})
	took := time.Since(began).Round(time.Millisecond)
	if err = errors.Join(sinkError(name, err), sink.Close()); err != nil {
		return err
	}
	if output == jsonOutput {
		return json.NewEncoder(out).Encode(map[string]any{
			"sink": name, "accepted": true, "answer": receipt.Answer, "seconds": took.Seconds(), "event_uid": message.Record.UID,
		})
	}
	_, err = fmt.Fprintf(out, "sink %s: accepted the test event in %s: %s\nevent_uid %s\n", name, took, receipt.Answer, message.Record.UID)
	return err
}

// A setter is a sink that can make what it needs at its destination.
type setter interface {
	Setup(ctx context.Context) (done []string, err error)
}

func setupSink(ctx context.Context, out io.Writer, cfg *config.Config, name string, output outputFlag) error {
	sink, _, err := openSink(cfg, name, io.Discard)
	if err != nil {
		return err
	}
	s, ok := sink.(setter)
	if !ok {
		return errors.Join(sink.Close(), exit(exitUsage, fmt.Errorf("sink %s: there is nothing to set up for %s", name, cfg.Sinks[name].Kind.Kind())))
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	done, err := s.Setup(ctx)
	if output == jsonOutput {
		err = errors.Join(sinkError(name, err), json.NewEncoder(out).Encode(map[string]any{"sink": name, "done": done}))
	} else {
		for _, line := range done {
			_, _ = fmt.Fprintf(out, "sink %s: %s\n", name, line) // Close and err tell the rest
		}
		err = sinkError(name, err)
	}
	return errors.Join(err, sink.Close())
}

// testRecord is a detection that nobody can take for a real one.
func testRecord(now time.Time) *event.Record {
	wall := now.UTC().Format(event.WallLayout)
	key := event.Key{Account: event.DefaultAccount, Kind: "risk_process", ID: fmt.Sprint(now.UnixNano())}
	r := &event.Record{
		Seq: 1, Key: key, Sequence: 1, Revision: strings.Repeat("0", 64), Action: event.Detected,
		Status: event.Status{Code: "0", Symbol: "pending"}, FirstDetect: wall, ObservedAt: now.UTC(),
		Dialect: "record", Zone: "UTC", Source: "test", Sweep: "test", Page: 1, RequestID: "test",
		Raw: fmt.Appendf(nil, `{"EventId":%s,"HandleStatus":0,"DetectTime":%q,"StartTime":%q,"VirusName":"CWPRelay.Test.Event",`+
			`"VirusTags":["test"],"ThreatDesc":"A test event of cwprelay. Nothing was detected.","FilePath":"/nowhere/cwprelay-test",`+
			`"CmdLine":"cwprelay sinks test","ProcessId":1,"HostIp":"192.0.2.1","HostName":"cwprelay-test",`+
			`"MachineExtraInfo":{"HostName":"cwprelay-test","PrivateIP":"192.0.2.1"}}`, key.ID, wall, wall),
	}
	r.UID = key.EventUID(r.Sequence, r.Revision)
	return r
}

// sinkNames completes the first word with the names of the configured sinks.
func (f *configFlags) sinkNames(p process) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		cfg, err := f.load(p)
		if err != nil {
			return nil, cobra.ShellCompDirectiveError
		}
		return slices.Sorted(maps.Keys(cfg.Sinks)), cobra.ShellCompDirectiveNoFileComp
	}
}

// completeSink completes the flag --sink.
func (f *configFlags) completeSink(c *cobra.Command, p process) {
	names := f.sinkNames(p)
	err := c.RegisterFlagCompletionFunc("sink", func(c *cobra.Command, _ []string, word string) ([]string, cobra.ShellCompDirective) {
		return names(c, nil, word)
	})
	if err != nil {
		panic(err) // the flag is there
	}
}
