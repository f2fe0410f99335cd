package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// runPeer runs another program until everything has arrived.
func (h *harness) runPeer(ctx context.Context) (f Figures, err error) {
	host, port, err := net.SplitHostPort(h.dstAddr)
	if err != nil {
		return f, err
	}
	h.api.begin()
	h.dest.begin()
	p, err := h.start(ctx, []string{"/bin/sh", "-c", "exec " + h.peer},
		"BENCH_API=http://"+h.apiAddr+"/", "BENCH_DEST="+h.dstAddr, "BENCH_DEST_HOST="+host, "BENCH_DEST_PORT="+port)
	if err != nil {
		return f, err
	}
	ctx, cancel := context.WithTimeout(ctx, h.timeout)
	defer cancel()
	first, pages, err := h.feed(ctx)
	if err != nil {
		return f, errors.Join(err, p.end())
	}
	events, last, err := h.arrived(ctx)
	if err = errors.Join(err, p.end()); err != nil {
		return f, err
	}
	f = p.figures()
	if h.push == "" {
		first, pages = time.Unix(0, h.api.first.Load()), h.api.requests.Load()
	}
	f.Events, f.Seconds, f.Requests, f.SentMiB = events, last.Sub(first).Seconds(), pages, mib(h.dest.bytes())
	f.rate()
	return f, nil
}

// quiet is how long nothing comes before what came is counted.
const quiet = 300 * time.Millisecond

// arrived waits until everything has arrived. It counts only when nothing
// comes: counting takes time from what is measured.
func (h *harness) arrived(ctx context.Context) (events int, last time.Time, err error) {
	seen, since := h.dest.seen(), time.Now()
	for {
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return events, last, fmt.Errorf("%d of %d events arrived: %w", events, h.events, err)
		}
		if now := h.dest.seen(); now != seen {
			seen, since = now, time.Now()
			continue
		}
		if time.Since(since) < quiet {
			continue
		}
		if events, last = h.dest.count(); events >= h.events {
			return events, last, nil
		}
		since = time.Now()
	}
}

// feed pushes the pages, if the peer is one that is pushed to.
func (h *harness) feed(ctx context.Context) (first time.Time, pages int64, err error) {
	if h.push == "" {
		return first, 0, nil
	}
	to, err := url.Parse(h.push)
	if err != nil {
		return first, 0, fmt.Errorf("-push: %w", err)
	}
	if err := reachable(ctx, to.Host); err != nil {
		return first, 0, err
	}
	const perPage = 100
	var next, sent atomic.Int64
	first = time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for range h.feeders {
		g.Go(func() error {
			push, done, err := newPusher(ctx, to)
			if err != nil {
				return err
			}
			defer done()
			var page []byte
			for {
				from := int(next.Add(perPage)) - perPage
				if from >= h.events {
					return nil
				}
				page = page[:0]
				for i := from; i < min(from+perPage, h.events); i++ {
					page = append(page, ",\n"[btoi(to.Scheme == "tcp")])
					page = h.api.list.append(page, i, 0)
				}
				if err := push(page); err != nil {
					return fmt.Errorf("push to %s: %w", h.push, err)
				}
				sent.Add(1)
			}
		})
	}
	err = g.Wait()
	return first, sent.Load(), err
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// reachable waits until something listens.
func reachable(ctx context.Context, addr string) error {
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		if err := sleep(ctx, 20*time.Millisecond); err != nil {
			return fmt.Errorf("nothing listens on %s: %w", addr, err)
		}
	}
}

// newPusher returns what pushes a page whose records each have one byte of
// separator before them.
func newPusher(ctx context.Context, to *url.URL) (push func([]byte) error, done func(), err error) {
	if to.Scheme == "tcp" {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", to.Host)
		if err != nil {
			return nil, nil, err
		}
		return func(page []byte) error {
			_, err := conn.Write(append(page[1:], '\n'))
			return err
		}, func() { _ = conn.Close() }, nil // everything was written
	}
	client := &http.Client{Transport: &http.Transport{}}
	return func(page []byte) error {
		page[0] = '['
		page = append(page, ']')
		for {
			req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.String(), bytes.NewReader(page))
			if err != nil {
				return err
			}
			req.Header.Set("Content-Type", "application/json")
			resp, err := client.Do(req)
			if err != nil {
				return err
			}
			_, err = io.Copy(io.Discard, resp.Body)
			if err = errors.Join(err, resp.Body.Close()); err != nil || resp.StatusCode/100 == 2 {
				return err
			}
			if err := sleep(ctx, 10*time.Millisecond); err != nil { // it is full: again
				return err
			}
		}
	}, client.CloseIdleConnections, nil
}
