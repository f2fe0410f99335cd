package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

// checked is what check found.
type checked struct {
	Valid    bool            `json:"valid"`              // the configuration
	Mistakes string          `json:"mistakes,omitempty"` // of it, a line each
	Notes    []string        `json:"notes,omitempty"`
	Sources  []checkedSource `json:"sources"`
	Sinks    []checkedSink   `json:"sinks"`
}

type checkedSource struct {
	Source    string `json:"source"`
	Kind      string `json:"kind"`
	Events    int64  `json:"events"`
	Account   string `json:"account,omitempty"`
	RequestID string `json:"request_id,omitempty"`
	Error     string `json:"error,omitempty"`
}

type checkedSink struct {
	Sink   string `json:"sink"`
	Answer string `json:"answer,omitempty"`
	Error  string `json:"error,omitempty"`
}

func checkCommand(p process) *cobra.Command {
	var flags configFlags
	var offline bool
	output := textOutput
	c := &cobra.Command{
		Use: "check", Short: "Validate the configuration, and ask the API and each sink", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			found, out := checked{Sources: []checkedSource{}, Sinks: []checkedSink{}}, p.stdout
			if output == jsonOutput {
				out = io.Discard
				defer func() { err = errors.Join(err, json.NewEncoder(p.stdout).Encode(found)) }()
			}
			cfg, err := flags.load(p)
			if err != nil {
				found.Mistakes = err.Error()
				return err
			}
			found.Valid = true
			for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
				if cfg.Sinks[name].Delivery.Format == format.Raw {
					note := "sink " + name + ": the format raw is the vendor's JSON, with secrets in command lines as they are"
					found.Notes = append(found.Notes, note)
					_, _ = fmt.Fprintln(out, "note: "+note)
				}
			}
			_, _ = fmt.Fprintln(out, "configuration: valid")
			if offline {
				return nil
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			return worst(checkSources(ctx, cfg, p, out, &found), checkSinks(ctx, cfg, out, &found))
		},
	}
	flags.add(c)
	c.Flags().BoolVar(&offline, "offline", false, "only validate")
	c.Flags().VarP(&output, "output", "o", "text or json")
	return c
}

func checkSources(ctx context.Context, cfg *config.Config, p process, out io.Writer, found *checked) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Sources)) {
		src := cfg.Sources[name]
		for _, kind := range src.Poll.Kinds {
			page, account, err := askOne(ctx, src, kind, p.environ)
			if err != nil {
				errs = append(errs, exit(apiCode(err), fmt.Errorf("source %s, %s: %w", name, kind, err)))
				found.Sources = append(found.Sources, checkedSource{Source: name, Kind: kind, Error: err.Error()})
				continue
			}
			found.Sources = append(found.Sources, checkedSource{Source: name, Kind: kind, Events: page.Total, Account: account, RequestID: page.RequestID})
			_, _ = fmt.Fprintf(out, "source %s, %s: reached, %d events, account %s, request id %s\n", name, kind, page.Total, account, page.RequestID)
		}
	}
	return worst(errs...)
}

func askOne(ctx context.Context, src config.Source, kind string, environ []string) (*cwp.Page, string, error) {
	client, err := newClient(src.API, cwp.KindByName(kind), environ, cwp.Options{Limits: cwp.NewLimits()})
	if err != nil {
		return nil, "", err
	}
	defer client.Close()
	page, err := client.List(ctx, cwp.Query{Sort: cwp.ByHeadTimeDesc, Limit: 1})
	if err != nil {
		return nil, "", err
	}
	account := src.Poll.AccountID
	if account == "" && src.API.Vendor() {
		account, err = client.AccountID(ctx)
	}
	if account == "" {
		account = "default"
	}
	return page, account, err
}

func checkSinks(ctx context.Context, cfg *config.Config, out io.Writer, found *checked) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(cfg.Sinks)) {
		sink, _, err := openSink(cfg, name, io.Discard)
		if err != nil {
			return err
		}
		answer := "cannot be asked without sending a record: try cwprelay sinks test " + name
		if prober, ok := sink.(sinks.Prober); ok {
			answer, err = prober.Probe(ctx)
		}
		if err := errors.Join(sinkError(name, err), sink.Close()); err != nil {
			errs = append(errs, err)
			found.Sinks = append(found.Sinks, checkedSink{Sink: name, Error: err.Error()})
			continue
		}
		found.Sinks = append(found.Sinks, checkedSink{Sink: name, Answer: answer})
		_, _ = fmt.Fprintf(out, "sink %s: %s\n", name, answer)
	}
	return worst(errs...)
}

func configCommand(p process) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Show the configuration"}
	var flags configFlags
	output := textOutput
	show := &cobra.Command{
		Use: "print", Short: "Print the values in force, secrets masked", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			if output == jsonOutput {
				return cfg.PrintJSON(p.stdout)
			}
			return cfg.Print(p.stdout)
		},
	}
	flags.add(show)
	show.Flags().VarP(&output, "output", "o", "text (YAML) or json")
	schema := &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of the file, for editors", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			_, err := io.WriteString(p.stdout, config.Schema())
			return err
		},
	}
	schema.Flags().VarP(&output, "output", "o", "text or json: the same")
	example := &cobra.Command{
		Use: "example", Short: "Print a commented sample", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if output == jsonOutput {
				return config.ExampleJSON(p.stdout)
			}
			_, err := io.WriteString(p.stdout, config.Example())
			return err
		},
	}
	example.Flags().VarP(&output, "output", "o", "text (YAML with comments) or json")
	c.AddCommand(show, explainCommand(p), schema, example)
	return c
}

func explainCommand(p process) *cobra.Command {
	a := &asking{p: p, output: textOutput}
	c := &cobra.Command{
		Use: "explain [KEY...]", Short: "Print each value in force and where it came from, secrets masked",
		Long: `Prints each value in force, and whether a flag, a variable, a line of the file or
a default gave it, with what ${...} took it from. With keys: only what is below
them.`,
		Example: "  cwprelay config explain sinks.soc state",
		RunE: func(_ *cobra.Command, keys []string) error {
			opt := a.flags.options(p)
			values, err := config.Explain(opt)
			if err != nil {
				return badConfig(opt.Path, err)
			}
			below := func(v config.Value) bool {
				return len(keys) == 0 || slices.ContainsFunc(keys, func(k string) bool { return v.Path == k || strings.HasPrefix(v.Path, k+".") })
			}
			values = slices.DeleteFunc(values, func(v config.Value) bool { return !below(v) })
			if len(values) == 0 {
				return exit(exitUsage, fmt.Errorf("nothing is set below %s", strings.Join(keys, ", ")))
			}
			return a.show(values, func(w io.Writer) {
				rows := [][]string{{"KEY", "VALUE", "FROM"}}
				for _, v := range values {
					from := v.Origin
					if len(v.From) > 0 {
						from += ", " + strings.Join(v.From, ", ")
					}
					rows = append(rows, []string{v.Path, v.Value, from})
				}
				table(w, rows...)
			})
		},
	}
	a.flags.add(c)
	c.Flags().VarP(&a.output, "output", "o", "text or json")
	return c
}

// healthCommand asks a running daemon; the image has no other program to. The
// socket answers however the console is guarded.
func healthCommand(p process) *cobra.Command {
	var flags configFlags
	var address string
	c := &cobra.Command{
		Use: "health", Short: "Ask a running cwprelay whether it is alive", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), 5*time.Second)
			defer cancel()
			var err error
			if address != "" {
				err = healthAt(ctx, address)
			} else {
				err = healthBySocket(ctx, &flags, p)
			}
			if err != nil {
				return exit(exitFailed, fmt.Errorf("not alive: %w", err))
			}
			_, err = fmt.Fprintln(p.stdout, "alive")
			return err
		},
	}
	flags.add(c)
	c.Flags().StringVar(&address, "address", "", "of its console, host:port; default: ask over the socket in the state directory")
	return c
}

func healthBySocket(ctx context.Context, flags *configFlags, p process) error {
	cfg, err := flags.load(p)
	if err != nil {
		return err
	}
	o, err := newOperator(ctx, cfg, func(*config.Config) (*operator, error) { return nil, errors.New("no daemon runs") })
	if err != nil {
		return err
	}
	var answer map[string]bool
	return errors.Join(o.get(ctx, "/v1/health", nil, &answer), o.close())
}

func healthAt(ctx context.Context, address string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+"/healthz", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := (&http.Client{}).Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }() // only the status matters
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}
