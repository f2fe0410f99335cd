package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/journal"
)

func stateCommand(p process) *cobra.Command {
	c := &cobra.Command{Use: "state", Short: "Check, save, restore or compact the state directory"}
	c.AddCommand(stateCheckCommand(p), stateExportCommand(p), stateImportCommand(p), stateCompactCommand(p))
	return c
}

func stateCheckCommand(p process) *cobra.Command {
	a := &asking{p: p}
	return a.command(&cobra.Command{
		Use: "check", Short: "Read all of the journal and compare it with its checksums", Args: cobra.NoArgs,
		Long: `Reads every row of the journal, compares it with its checksum, and looks whether
figures, cursors and states fit the records. Changes nothing; may be used while
the daemon runs. Exits with 3 if something is damaged.

Where no daemon runs, opening the journal mends it first: a file that is damaged
anywhere is set aside, and what can be read of it is carried over. That counts
as damage, once.`,
	}, func(ctx context.Context, o *operator, _ []string) error {
		var found journal.Checked
		if err := o.get(ctx, "/v1/state/check", nil, &found); err != nil {
			return err
		}
		if err := a.show(found, func(w io.Writer) { writeChecked(w, found) }); err != nil {
			return err
		}
		if !found.Sound() {
			return exit(exitFound, nil)
		}
		return nil
	})
}

func writeChecked(w io.Writer, found journal.Checked) {
	_, _ = fmt.Fprintf(w, "%d rows, %s\n", found.Rows, console.Size(found.Bytes))
	for _, what := range slices.Sorted(maps.Keys(found.Damaged)) {
		_, _ = fmt.Fprintf(w, "DAMAGED: %d rows of %s\n", found.Damaged[what], what)
	}
	for _, m := range found.Mistakes {
		_, _ = fmt.Fprintf(w, "WRONG: %s\n", format.CleanLine(m, 300))
	}
	for _, name := range found.SetAside {
		_, _ = fmt.Fprintf(w, "DAMAGED: the file was set aside as %s, and what could be read of it was carried over\n", name)
	}
	if found.Sound() {
		_, _ = fmt.Fprintln(w, "sound")
	}
}

func stateExportCommand(p process) *cobra.Command {
	a := &asking{p: p}
	force := false
	c := a.command(&cobra.Command{
		Use: "export FILE", Short: "Write a snapshot of the journal to a file, or to standard output (-)", Args: cobra.ExactArgs(1),
		Long: `Writes the whole journal as it is at one moment: states, records, cursors, dead
letters. May be used while the daemon runs. The file holds the events as the
vendor sent them, not redacted; it is readable by its owner only.`,
		Example: "  cwprelay state export /backup/cwprelay.db\n  cwprelay state export - | zstd > cwprelay.db.zst",
	}, func(ctx context.Context, o *operator, args []string) error {
		if args[0] == "-" {
			return o.export(ctx, p.stdout)
		}
		n, err := exportTo(ctx, o, args[0], force)
		if err != nil {
			return err
		}
		return a.show(map[string]any{"file": args[0], "bytes": n}, func(w io.Writer) { _, _ = fmt.Fprintf(w, "%s: %s\n", args[0], console.Size(n)) })
	})
	c.Flags().BoolVar(&force, "force", false, "replace a file that is there")
	return c
}

// exportTo writes a file that is whole or not there.
func exportTo(ctx context.Context, o *operator, path string, force bool) (n int64, err error) {
	if _, err := os.Lstat(path); err == nil && !force {
		return 0, exit(exitUsage, fmt.Errorf("%s is there already: choose another name, or --force", path))
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*.tmp") // mode 0600
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	err = errors.Join(o.export(ctx, file), file.Sync())
	if info, statErr := file.Stat(); statErr == nil {
		n = info.Size()
	}
	if err = errors.Join(err, file.Close()); err != nil {
		return n, err
	}
	return n, os.Rename(file.Name(), path)
}

func stateImportCommand(p process) *cobra.Command {
	var flags configFlags
	output := textOutput
	force := false
	c := &cobra.Command{
		Use: "import FILE", Short: "Put an exported journal into the state directory", Args: cobra.ExactArgs(1),
		Long: `Puts an exported journal into the state directory, after a check of all of it. No
daemon may run. With --force a journal that is there is set aside, not deleted.

What happened since the export is asked of the API again: events that were
delivered since then are delivered once more.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			from := p.stdin
			if args[0] != "-" {
				file, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer func() { _ = file.Close() }() // only read
				from = file
			}
			found, aside, err := journal.Import(cmd.Context(), cfg.State.Dir, from, force)
			switch {
			case errors.Is(err, journal.ErrExists):
				return exit(exitUsage, fmt.Errorf("%w: --force sets it aside", err))
			case err != nil:
				return err
			}
			a := &asking{p: p, output: output}
			return a.show(map[string]any{"checked": found, "set_aside": aside}, func(w io.Writer) {
				writeChecked(w, found)
				if aside != "" {
					_, _ = fmt.Fprintf(w, "the former journal is %s\n", aside)
				}
			})
		},
	}
	flags.add(c)
	c.Flags().VarP(&output, "output", "o", "text or json")
	c.Flags().BoolVar(&force, "force", false, "set a journal that is there aside")
	return c
}

func stateCompactCommand(p process) *cobra.Command {
	var flags configFlags
	output := textOutput
	c := &cobra.Command{
		Use: "compact", Short: "Give the space that the journal does not use back to the disk", Args: cobra.NoArgs,
		Long: `Writes the journal anew without the space that it does not use. No daemon may
run: a start does the same by itself where more than half of a file of some size
is unused. Needs as much free disk as the journal then has.`,
		RunE: func(*cobra.Command, []string) error {
			cfg, err := flags.load(p)
			if err != nil {
				return err
			}
			before, after, err := compact(cfg)
			if err != nil {
				return err
			}
			a := &asking{p: p, output: output}
			return a.show(map[string]int64{"before": before, "after": after}, func(w io.Writer) {
				_, _ = fmt.Fprintf(w, "%s, before %s\n", console.Size(after), console.Size(before))
			})
		},
	}
	flags.add(c)
	c.Flags().VarP(&output, "output", "o", "text or json")
	return c
}

func compact(cfg *config.Config) (before, after int64, err error) {
	if !journal.IsThere(cfg.State.Dir) {
		return 0, 0, noJournal(cfg)
	}
	file, err := journal.Open(cfg.State, journal.Options{Sinks: sinkRules(cfg)})
	if err != nil {
		return 0, 0, err
	}
	before, after, err = file.Compact()
	return before, after, errors.Join(err, file.Close())
}

// noJournal says that a directory has none.
func noJournal(cfg *config.Config) error {
	return fmt.Errorf("there is no journal in %s: name the right one by --state-dir or --config", cfg.State.Dir)
}
