// Command cwprelay carries the findings of Tencent Cloud Workload Protection
// into a SIEM: it polls the API, notices what is new or changed, keeps it
// durably, and delivers it to every configured destination.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cwprelay/cwprelay/journal"
)

// Exit codes, as the README documents them.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitFound       = 3  // a check found something: not certified, dead letters
	exitUnreachable = 69 // the API could not be reached
	exitRefused     = 77 // the API refused us
	exitConfig      = 78
)

// version and commit are set when a release is built.
var (
	version = "0.0.0-dev"
	commit  string //nolint:gochecknoglobals // the linker sets it, as version; else the build information names one
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	tuneMemory(os.Environ())
	os.Exit(run(ctx, process{
		args: os.Args[1:], environ: os.Environ(), stdin: os.Stdin, stdout: os.Stdout, stderr: standardError(os.Stderr),
	}))
}

// A process is what a program gets from the system.
type process struct {
	args    []string
	environ []string
	stdin   io.Reader
	stdout  io.Writer
	stderr  io.Writer
}

// An exitError ends the program with a code. Its text may be empty.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string {
	if e.err == nil {
		return ""
	}
	return e.err.Error()
}
func (e *exitError) Unwrap() error { return e.err }

func exit(code int, err error) error { return &exitError{code, err} }

// run is the program: it returns the exit code.
func run(ctx context.Context, p process) int {
	root := &cobra.Command{
		Use:           "cwprelay",
		Short:         "Carries findings of Tencent Cloud Workload Protection to Splunk, Kafka, files and more",
		SilenceErrors: true, SilenceUsage: true,
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetArgs(p.args)
	root.SetIn(p.stdin)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return exit(exitUsage, err) })
	root.AddCommand(
		runCommand(p), demoCommand(p), emulateCommand(p), checkCommand(p), sinksCommand(p), statusCommand(p), traceCommand(p), deadLetterCommand(p), replayCommand(p), reconcileCommand(p), stateCommand(p), logLevelCommand(p), normalizeCommand(p), configCommand(p), healthCommand(p), versionCommand(p), //nolint:contextcheck // a verb gets its context when it runs
	)
	root.AddCommand(extraCommands()...)
	for _, group := range root.Commands() {
		if group.HasSubCommands() {
			group.SuggestionsMinimumDistance = 2
			group.RunE = groupAlone
		}
	}
	verb, err := root.ExecuteContextC(ctx)
	if err == nil {
		return exitDone
	}
	code := exitFailed
	var coded *exitError
	switch {
	case errors.As(err, &coded):
		code = coded.code
	case isUsage(err):
		code = exitUsage
	case errors.Is(err, journal.ErrLocked):
		code = exitFailed
	}
	if text := err.Error(); text != "" {
		_, _ = fmt.Fprintln(p.stderr, "cwprelay:", text) // nobody is left to tell
	}
	if isUsage(err) {
		line := verb.UseLine()
		if verb.HasSubCommands() {
			line = verb.CommandPath() + " COMMAND"
		}
		_, _ = fmt.Fprintf(p.stderr, "usage: %s\n%s --help says more\n", line, verb.CommandPath())
	}
	return code
}

// groupAlone is what a verb does that has others below it and got none that it
// knows.
func groupAlone(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	text := fmt.Sprintf("unknown command %q for %q", args[0], c.CommandPath())
	if near := c.SuggestionsFor(args[0]); len(near) > 0 {
		text += "; did you mean " + strings.Join(near, " or ") + "?"
	}
	return errors.New(text)
}

// isUsage recognizes what cobra says of wrong words on the command line: it
// has no type of its own for it.
func isUsage(err error) bool {
	text := err.Error()
	for _, start := range []string{"unknown command", "unknown flag", "accepts ", "requires ", "invalid argument"} {
		if len(text) >= len(start) && text[:len(start)] == start {
			return true
		}
	}
	return false
}

// builtOf says what this program was built of.
func builtOf() build {
	info, _ := debug.ReadBuildInfo()
	of := commit
	if info != nil && of == "" {
		for _, s := range info.Settings {
			if s.Key == "vcs.revision" {
				of = s.Value
			}
		}
	}
	return build{version, cmp.Or(of, "unknown"), runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
}

// A build is what this program is.
type build struct {
	Version  string `json:"version"`
	Commit   string `json:"commit"`
	Go       string `json:"go"`
	Platform string `json:"platform"`
}

func (b build) String() string {
	return fmt.Sprintf("cwprelay %s\ncommit %s\nbuilt with %s for %s", b.Version, b.Commit, b.Go, b.Platform)
}

func versionCommand(p process) *cobra.Command {
	a := &asking{p: p, output: textOutput}
	c := &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			b := builtOf()
			return a.show(b, func(w io.Writer) { _, _ = fmt.Fprintln(w, b) })
		},
	}
	c.Flags().VarP(&a.output, "output", "o", "text or json")
	return c
}
