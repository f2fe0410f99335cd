package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// A mutation is a mistake that somebody could make in the program, and the
// proof that must notice it.
type mutation struct {
	name  string // what is wrong then
	proof string // that must be broken by it, or "./package TestName": the test that must fail
	edits []edit
}

// An edit replaces a text that stands in a file exactly once.
type edit struct{ file, from, to string }

func mutationsProof() proof {
	return proof{
		name:    "mutations",
		promise: "the proofs prove something: each of a list of deliberate mistakes, made in a copy of the program, is noticed by the proof that is named for it",
		apart:   true,
		run:     mutate,
	}
}

// mutate makes each mistake in a copy of the checkout and runs its proof on
// what is built of that.
func mutate(ctx context.Context, e *evidence) error {
	caught := 0
	var errs []error
	made := slices.DeleteFunc(mutations(), func(m mutation) bool { return !strings.Contains(m.name+" "+m.proof, e.mutation) })
	for i, m := range made {
		p, err := proofOf(m.proof)
		if err != nil {
			return fmt.Errorf("mutation %q: %w", m.name, err)
		}
		tree := filepath.Join(e.dir, fmt.Sprintf("tree-%02d", i+1))
		if err := m.apply(ctx, e.root, tree); err != nil {
			errs = append(errs, fmt.Errorf("mutation %q: %w", m.name, err), os.RemoveAll(tree))
			continue
		}
		began := time.Now()
		r := &result{}
		// Chance decides whether a moment is hit at which the mistake shows.
		tries := 0
		for tries < m.tries() && r.Verdict != verdictBroken && ctx.Err() == nil {
			r = p.carryOut(ctx, options{seed: e.Seed + uint64(tries)}, tree, e.progress)
			tries++
			if r.Files != "" {
				if err := os.RemoveAll(r.Files); err != nil {
					return err
				}
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		told := strings.Join(append(slices.Clone(r.Broken), r.Error), "; ")
		if r.Verdict == verdictBroken {
			caught++
			e.count(m.name, fmt.Sprintf("caught by %s, seed %d, after %s: %.160s", m.proof, r.Seed, time.Since(began).Round(time.Second), told))
			e.tell("%s: caught by %s: %.160s", m.name, m.proof, told)
		} else {
			e.broke("%s: survived %s %d times: %.300s", m.name, m.proof, tries, told)
			e.tell("%s: SURVIVED %s: %.300s", m.name, m.proof, told)
		}
		if err := os.RemoveAll(tree); err != nil {
			return err
		}
	}
	e.did("made %d mistakes, one at a time, in a copy of the checkout, built it, and ran the proof that is named for it", len(made))
	e.count("caught", fmt.Sprintf("%d of %d", caught, len(made)))
	return errors.Join(errs...)
}

// tries is how often a mistake is looked for. A test needs no luck.
func (m mutation) tries() int {
	if strings.HasPrefix(m.proof, "./") {
		return 1
	}
	return 3
}

func proofOf(name string) (proof, error) {
	if pkg, test, ok := strings.Cut(name, " "); ok && strings.HasPrefix(pkg, "./") {
		return proof{name: name, run: func(ctx context.Context, e *evidence) error { return e.goTest(ctx, pkg, "^"+test+"$") }}, nil
	}
	for _, p := range proofs() {
		if p.name == name {
			return p, nil
		}
	}
	return proof{}, fmt.Errorf("there is no proof %q", name)
}

// apply copies the checkout and makes the mistake in it. A text that does not
// stand there exactly once is an error: the list is out of date then.
func (m mutation) apply(ctx context.Context, root, tree string) error {
	if err := copyTree(ctx, root, tree); err != nil {
		return err
	}
	for _, edit := range m.edits {
		path := filepath.Join(tree, edit.file)
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if n := bytes.Count(text, []byte(edit.from)); n != 1 {
			return fmt.Errorf("%s: the text to replace stands there %d times: %q", edit.file, n, edit.from)
		}
		if err := os.WriteFile(path, bytes.Replace(text, []byte(edit.from), []byte(edit.to), 1), 0o600); err != nil {
			return err
		}
	}
	build := exec.CommandContext(ctx, "go", "build", "-o", os.DevNull, "./cmd/cwprelay")
	build.Dir = tree
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("it does not build: %w\n%s", err, out)
	}
	return nil
}

// copyTree copies the files of a checkout that git knows or would add.
func copyTree(ctx context.Context, root, tree string) error {
	list := exec.CommandContext(ctx, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
	list.Dir = root
	names, err := list.Output()
	if err != nil {
		return fmt.Errorf("git ls-files: %w", err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(names), "\x00"), "\x00") {
		text, err := os.ReadFile(filepath.Join(root, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted and not yet committed
		}
		if err != nil {
			return err
		}
		to := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, text, 0o600)); err != nil {
			return err
		}
	}
	return nil
}
