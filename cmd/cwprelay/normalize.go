package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// normalizing is what the verb normalize was asked for.
type normalizing struct {
	configPath, sink string
	format           string
	account, dialect string
	zone, action     string
	explain, pretty  bool
	output           outputFlag

	rules  *format.Rules
	encode format.Encoder
	isJSON bool
	stdout io.Writer
	stderr io.Writer
}

func normalizeCommand(p process) *cobra.Command {
	n := &normalizing{output: textOutput, stdout: p.stdout, stderr: p.stderr}
	c := &cobra.Command{
		Use: "normalize [--format NAME | --sink NAME] < FILE", Short: "Show what becomes of the API's events in a format",
		Long: `Reads events as the API gives them from standard input and writes what becomes
of each, one a line, to standard output: whole answers, lists or single events,
in any number. Nothing is asked, kept or sent.

With --config the rules of that configuration hold (severity, redact, transform
of --sink). --explain says on standard error which rule gave severity, category
and techniques, and what could not be read. With --output json each line is an
object that holds the event's id, what becomes of it, and with --explain why.`,
		Example: `  cwprelay normalize --format ecs --explain < answer.json
  cwprelay normalize --config cwprelay.yaml --sink qradar < event.json`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error { return n.run(p) },
	}
	f := c.Flags()
	f.StringVarP(&n.configPath, "config", "c", "", "a configuration whose rules hold")
	f.StringVarP(&n.format, "format", "f", "", "one of "+strings.Join(format.Names(), ", ")+" (default the sink's, or ecs)")
	f.StringVar(&n.sink, "sink", "", "take format and transform of this sink of the configuration")
	f.StringVar(&n.account, "account", event.DefaultAccount, "the account that the events belong to")
	f.StringVar(&n.dialect, "dialect", "record", "reading of the status: record or filter")
	f.StringVar(&n.zone, "timezone", "Asia/Shanghai", "zone of the API's times")
	f.StringVar(&n.action, "action", string(event.Detected), "what happened: detected, redetected, status-changed, closed or reopened")
	f.BoolVar(&n.explain, "explain", false, "say why, on standard error")
	f.BoolVar(&n.pretty, "pretty", false, "JSON over several lines (default on a terminal)")
	f.VarP(&n.output, "output", "o", "text: the event as the format has it; or json")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(format.Names(), cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return c
}

func (n *normalizing) run(p process) error {
	if err := n.prepare(p); err != nil {
		return err
	}
	kind := cwp.KindByName("risk_process")
	items, err := kind.ReadItems(p.stdin)
	if err != nil {
		return fmt.Errorf("standard input: %w", err)
	}
	if len(items) == 0 {
		return errors.New("standard input holds no event: give an answer of the API, a list of events or an event")
	}
	for _, item := range items {
		if err := n.one(kind, item); err != nil {
			return err
		}
	}
	return nil
}

// prepare checks the flags and makes what they ask for.
func (n *normalizing) prepare(p process) error {
	cfg := &config.Config{}
	if n.configPath != "" {
		var err error
		if cfg, err = (&configFlags{path: n.configPath}).load(p); err != nil {
			return err
		}
	}
	var changes []format.Change
	if n.sink != "" {
		sink, ok := cfg.Sinks[n.sink]
		if !ok {
			return exit(exitUsage, fmt.Errorf("--sink: there is no sink %q; give its configuration with --config", n.sink))
		}
		if sink.Delivery.Format == "" {
			return exit(exitUsage, fmt.Errorf("--sink: %s makes its own messages; use --format", n.sink))
		}
		if n.format == "" || n.format == sink.Delivery.Format {
			n.format, changes = sink.Delivery.Format, sink.Delivery.Transform
		}
	}
	n.format = cmp.Or(n.format, format.ECS)
	if !slices.Contains(format.Names(), n.format) {
		return exit(exitUsage, fmt.Errorf("--format: %q is not one of %s", n.format, strings.Join(format.Names(), ", ")))
	}
	if n.dialect != "record" && n.dialect != "filter" {
		return exit(exitUsage, fmt.Errorf("--dialect: %q is not record or filter", n.dialect))
	}
	if _, err := time.LoadLocation(n.zone); err != nil {
		return exit(exitUsage, fmt.Errorf("--timezone: %q is no zone such as Asia/Shanghai", n.zone))
	}
	if !slices.Contains([]event.Action{event.Detected, event.Redetected, event.StatusChanged, event.Closed, event.Reopened}, event.Action(n.action)) {
		return exit(exitUsage, fmt.Errorf("--action: %q is not one of detected, redetected, status-changed, closed, reopened", n.action))
	}
	var err error
	if n.rules, err = format.NewRules(cfg.Format); err != nil {
		return exit(exitConfig, fmt.Errorf("format.%w", err))
	}
	if n.encode, err = format.New(n.format, cfg.Format, changes...); err != nil {
		return exit(exitUsage, fmt.Errorf("--format: %w", err))
	}
	n.isJSON = format.IsJSON(n.format)
	n.pretty = n.pretty || isTerminal(n.stdout)
	return nil
}

func (n *normalizing) one(kind *cwp.Kind, item cwp.Item) error {
	key := event.Key{Account: n.account, Kind: kind.Name, ID: item.ID}
	r := &event.Record{
		Seq: 1, Key: key, Sequence: 1, Revision: kind.Revision(item.Raw), Action: event.Action(n.action),
		Status: kind.Status(n.dialect, item.Status), FirstDetect: item.HeadTime, ObservedAt: time.Now().UTC(),
		Dialect: n.dialect, Zone: n.zone, Source: "normalize", Raw: item.Raw,
	}
	r.UID = key.EventUID(r.Sequence, r.Revision)
	f := n.rules.Read(r)
	out, err := n.encode(nil, r)
	if err != nil {
		return fmt.Errorf("event %s: %w", item.ID, err)
	}
	if n.output == jsonOutput {
		v := normalized{EventID: item.ID, UID: r.UID, Format: n.format}
		if n.isJSON {
			v.Document = out
		} else {
			v.Text = string(out)
		}
		if n.explain {
			v.Why = new(derived(r, f))
		}
		if out, err = json.Marshal(v); err != nil {
			return fmt.Errorf("event %s: %w", item.ID, err)
		}
	} else if n.explain {
		if _, err := io.WriteString(n.stderr, explained(r, f)); err != nil {
			return err
		}
	}
	if n.pretty && (n.isJSON || n.output == jsonOutput) {
		var b bytes.Buffer
		if err := json.Indent(&b, out, "", "  "); err != nil {
			return fmt.Errorf("event %s: %w", item.ID, err)
		}
		out = b.Bytes()
	}
	_, err = n.stdout.Write(append(out, '\n'))
	return err
}

// normalized is what --output json says of an event.
type normalized struct {
	EventID  string          `json:"event_id"`
	UID      string          `json:"event_uid"`
	Format   string          `json:"format"`
	Document json.RawMessage `json:"document,omitzero"` // of a format that is JSON
	Text     string          `json:"text,omitzero"`     // of another
	Why      *derivation     `json:"why,omitzero"`
}

// A derivation says what was derived of an event, and from what.
type derivation struct {
	Severity           string            `json:"severity"`
	SeverityRule       string            `json:"severity_rule"`
	ThreatSeverity     string            `json:"threat_severity"`
	ThreatSeverityRule string            `json:"threat_severity_rule"`
	Category           string            `json:"category"`
	ThreatMatch        string            `json:"threat_match,omitzero"` // what led to the category
	Techniques         []string          `json:"techniques"`
	Status             string            `json:"status"`
	Closed             bool              `json:"closed"`
	Alert              bool              `json:"alert"`
	Time               time.Time         `json:"time"`
	Host               string            `json:"host"`
	Unread             map[string]string `json:"unread,omitempty"` // times that are none
	Redacted           bool              `json:"redacted"`
	Truncated          []string          `json:"truncated,omitzero"`
}

func derived(r *event.Record, f *format.Finding) derivation {
	d := derivation{
		Severity: f.Severity.String(), SeverityRule: f.SeverityRule,
		ThreatSeverity: f.ThreatSeverity.String(), ThreatSeverityRule: f.ThreatSeverityRule,
		Category: f.Category, ThreatMatch: f.ThreatMatch, Techniques: []string{},
		Status: r.Status.Symbol, Closed: f.Closed, Alert: f.Alert, Time: f.EventTime, Host: f.Host,
		Unread: unread(f), Redacted: f.Redacted, Truncated: f.Truncated,
	}
	for _, t := range f.Techniques {
		d.Techniques = append(d.Techniques, t.MostExact())
	}
	return d
}

// unread are the times of an event that cannot be read, by field.
func unread(f *format.Finding) map[string]string {
	out := map[string]string{}
	if f.DetectTime.IsZero() && f.DetectTimeText != "" {
		out["DetectTime"] = f.DetectTimeText
	}
	if f.StartTime.IsZero() && f.StartTimeText != "" {
		out["StartTime"] = f.StartTimeText
	}
	return out
}

// explained says in words what was derived, and from what. Untrusted text in
// it is cleaned.
func explained(r *event.Record, f *format.Finding) string {
	var b strings.Builder
	line := func(name, text string, args ...any) {
		fmt.Fprintf(&b, "  %-11s %s\n", name, format.CleanLine(fmt.Sprintf(text, args...), 300))
	}
	fmt.Fprintf(&b, "event %s: %s\n", format.CleanLine(r.Key.ID, 100), f.ActionName)
	line("severity", "%s, by %s", f.Severity, explainedRule(f.SeverityRule, f))
	if f.Severity != f.ThreatSeverity {
		line("", "the threat itself is %s, by %s", f.ThreatSeverity, explainedRule(f.ThreatSeverityRule, f))
	}
	if f.ThreatMatch != "" {
		line("category", "%s, because of %q in the virus name or tags", f.Category, f.ThreatMatch)
	} else {
		line("category", "%s: no word of the virus name %q and no tag is known", f.Category, f.VirusName)
	}
	if len(f.Techniques) == 0 {
		line("technique", "none is known for it")
	}
	for _, t := range f.Techniques {
		tactics := "no tactic"
		for i, tactic := range t.Tactics {
			if i == 0 {
				tactics = ""
			}
			tactics = strings.TrimPrefix(tactics+", "+tactic.ID+" "+tactic.Name, ", ")
		}
		line("technique", "%s %s (%s)", t.MostExact(), cmp.Or(t.SubName, t.Name), tactics)
	}
	line("status", "%s is %s in the dialect %s; the event is %s", r.Status.Code, r.Status.Symbol, r.Dialect,
		map[bool]string{true: "closed", false: "open"}[f.Closed])
	line("alert", "%v: %s", f.Alert, map[bool]string{true: "detected, detected again or reopened, and open", false: "only open events that were detected or reopened are"}[f.Alert])
	line("time", "%s", f.EventTime.Format(time.RFC3339Nano))
	line("host", "%s", f.Host)
	times := unread(f)
	for _, name := range slices.Sorted(maps.Keys(times)) {
		line("unread", "%s %q is no time in %s", name, times[name], r.Zone)
	}
	if f.Redacted {
		line("redacted", "a secret in the command line was masked")
	}
	if len(f.Truncated) > 0 {
		line("cut", "%s", strings.Join(f.Truncated, ", "))
	}
	return b.String()
}

func explainedRule(rule string, f *format.Finding) string {
	switch {
	case rule == "default":
		return "default: nothing is known of the threat"
	case strings.HasPrefix(rule, "category:"):
		return fmt.Sprintf("%s, which %q points at", rule, f.ThreatMatch)
	default:
		return rule
	}
}
