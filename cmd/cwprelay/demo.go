package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/format"
)

func demoCommand(p process) *cobra.Command {
	var events int
	var rate float64
	var duration time.Duration
	var name string
	c := &cobra.Command{
		Use: "demo", Short: "Show events flowing, from an emulated API to standard output; needs nothing", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			switch {
			case name == "" && isTerminal(p.stdout):
				name = format.Text // whole documents are for programs
			case name == "":
				name = format.ECS
			case !slices.Contains(format.Names(), name):
				return exit(exitUsage, fmt.Errorf("--format: %q is not one of %s", name, strings.Join(format.Names(), ", ")))
			}
			ctx := cmd.Context()
			if duration > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, duration)
				defer cancel()
			}
			dir, err := os.MkdirTemp("", "cwprelay-demo-")
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
			api, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
			if err != nil {
				return fmt.Errorf("open a port for the emulated API: %w", err)
			}
			server := emulator.New(emulator.Config{Events: events, Rate: rate, Seed: uint64(time.Now().UnixNano())})
			a, err := openDemo(ctx, p, demoPlaces{dir: dir, endpoint: "http://" + api.Addr().String()}, name)
			if err != nil {
				return errors.Join(err, api.Close())
			}
			defer func() { err = errors.Join(err, a.close()) }()
			ln, err := listen(ctx, a.cfg().HTTP)
			if err != nil {
				return errors.Join(err, api.Close())
			}
			_, _ = fmt.Fprintf(p.stderr, "An emulated API at http://%s, whose list changes; events go to standard output as they come, in the format %s (--format).\nStatus page: http://%s/    Stop with Ctrl+C.\n", api.Addr(), name, ln.Addr())
			g, gctx := errgroup.WithContext(ctx)
			g.Go(func() error { return server.Serve(gctx, api) })
			g.Go(func() error { return a.daemon(gctx, ln, nil) })
			return g.Wait()
		},
	}
	c.Flags().IntVar(&events, "events", 25, "events in the list at the start")
	c.Flags().Float64Var(&rate, "rate", 1, "changes of the list per second")
	c.Flags().DurationVar(&duration, "for", 0, "end by itself after so long (0: never)")
	c.Flags().StringVarP(&name, "format", "f", "", "one of "+strings.Join(format.Names(), ", ")+" (default text on a terminal, else ecs)")
	_ = c.RegisterFlagCompletionFunc("format", cobra.FixedCompletions(format.Names(), cobra.ShellCompDirectiveNoFileComp)) // the flag is there
	return c
}

// demoPlaces are where a demonstration keeps its state, and whom it asks.
type demoPlaces struct{ dir, endpoint string }

// openDemo opens a daemon that polls the emulator often and writes to standard
// output in the format of a name.
func openDemo(ctx context.Context, p process, at demoPlaces, name string) (*app, error) {
	listen := "127.0.0.1:9810"
	if probe, err := (&net.ListenConfig{}).Listen(ctx, "tcp", listen); err != nil {
		listen = "127.0.0.1:0" // another cwprelay has the usual port
	} else if err := probe.Close(); err != nil {
		return nil, err
	}
	cfg, err := config.Load(config.Options{Flags: map[string]string{
		"sources.demo.endpoint":               at.endpoint,
		"sources.demo.credentials.provider":   "static",
		"sources.demo.credentials.secret_id":  emulator.DefaultSecretID,
		"sources.demo.credentials.secret_key": emulator.DefaultSecretKey,
		"sources.demo.poll_interval":          "2s",
		"sources.demo.sweep_interval":         "10s",
		"sinks.screen.stdout":                 "",
		"sinks.screen.format":                 name,
		"state.dir":                           at.dir,
		"http.listen":                         listen,
		"log.level":                           "warn",
	}})
	if err != nil {
		return nil, err
	}
	return open(cfg, p, newLogger(cfg.Log, p.stderr))
}

func emulateCommand(p process) *cobra.Command {
	cfg := emulator.Config{}
	c := &cobra.Command{
		Use: "emulate", Short: "Serve the emulated API alone, for tests", Args: cobra.NoArgs,
		Long: `Serves an emulation of the CWP API over HTTP: signatures, filters, order, limits,
error codes, and a list that changes by a seed. The keys it accepts are printed.
Tests steer it and ask for the truth under /-/ (truth, mutate, faults,
credentials, stats).`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg = cfg.WithDefaults()
			if err := cfg.Validate(); err != nil {
				return exit(exitUsage, err)
			}
			ln, err := (&net.ListenConfig{}).Listen(cmd.Context(), "tcp", cfg.Listen)
			if err != nil {
				return fmt.Errorf("open the emulator's port: %w", err)
			}
			_, _ = fmt.Fprintf(p.stderr, "emulated API at http://%s, secret id %s, secret key %s\n", ln.Addr(), cfg.SecretID, emulatorKey(cfg))
			return emulator.New(cfg).Serve(cmd.Context(), ln)
		},
	}
	f := c.Flags()
	f.StringVar(&cfg.Listen, "listen", "127.0.0.1:9811", "address to listen on")
	f.IntVar(&cfg.Events, "events", 1000, "events in the list at the start")
	f.Uint64Var(&cfg.Seed, "seed", 1, "of everything random")
	f.Float64Var(&cfg.Rate, "rate", 2, "changes of the list per second")
	f.IntVar(&cfg.Limit, "limit", 20, "requests per second, credential and action")
	f.DurationVar(&cfg.ClockSkew, "clock-skew", 0, "by which its clock is ahead")
	f.TextVar(&cfg.Faults, "faults", emulator.Faults{}, "faults and their odds, such as reset=0.05,truncate=0.05,InternalError=0.1")
	return c
}

// emulatorKey is the key to print: only the well-known one.
func emulatorKey(cfg emulator.Config) string {
	if key := cfg.SecretKey.Reveal(); key == emulator.DefaultSecretKey {
		return key
	}
	return cfg.SecretKey.String()
}
