package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"github.com/cwprelay/cwprelay/poller"
)

// A screen is a terminal with a line at its end that is rewritten in place.
// What else is written goes above it.
type screen struct {
	*os.File

	mu    sync.Mutex // guards shown, and keeps writes apart
	shown bool
}

const eraseLine = "\r\x1b[K"

func (s *screen) Write(text []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shown {
		s.shown = false
		if _, err := s.WriteString(eraseLine); err != nil {
			return 0, err
		}
	}
	return s.File.Write(text)
}

// show rewrites the line; an empty one goes away.
func (s *screen) show(line string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if line == "" && !s.shown {
		return
	}
	s.shown = line != ""
	_, _ = s.WriteString(eraseLine + line) // the terminal may have gone
}

// standardError is f, as a screen if it is one.
func standardError(f *os.File) io.Writer {
	if isTerminal(f) {
		return &screen{File: f}
	}
	return f
}

func isTerminal(w any) bool {
	f, ok := w.(interface{ Fd() uintptr })
	return ok && term.IsTerminal(int(f.Fd()))
}

// showProgress shows a line during the first sweep of a source, if stderr is a
// screen, until the function it returns is called.
func (a *app) showProgress(ctx context.Context, stderr io.Writer) (stop func()) {
	s, ok := stderr.(*screen)
	if !ok {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var showing sync.WaitGroup
	showing.Go(func() {
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		defer s.show("")
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				s.show(progressLine(a.sourceStatus(), time.Now()))
			}
		}
	})
	return func() {
		cancel()
		showing.Wait()
	}
}

// progressLine says how far the first sweeps are; empty when none runs.
func progressLine(sources []poller.Status, now time.Time) string {
	var parts []string
	for _, s := range sources {
		p := s.Progress
		if !p.Running || !p.First {
			continue
		}
		part := fmt.Sprintf("first sweep of %s: %d pages, ", s.Source, p.Requests)
		if p.Total > 0 {
			part += fmt.Sprintf("%d of about %d events", min(int64(p.IDs), p.Total), p.Total)
		} else {
			part += fmt.Sprintf("%d events", p.IDs)
		}
		if p.IDs > 0 && int64(p.IDs) < p.Total {
			left := time.Duration(float64(now.Sub(p.Started)) * float64(p.Total-int64(p.IDs)) / float64(p.IDs))
			if left = left.Round(time.Second); left > 0 {
				part += ", about " + left.String() + " left"
			}
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, "; ")
}
