package sinktest

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
)

// HTTP tests a sink behind HTTP as HTTPSpec does, with nothing that differs.
func HTTP(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	HTTPSpec{}.Run(t, open)
}

// An HTTPSpec says in what a sink behind HTTP differs from the others.
type HTTPSpec struct {
	// Classes are the classes of statuses that the destination means
	// otherwise than a webhook does.
	Classes map[int]sinks.Class
	// Accept answers a request as the destination does that takes all of it;
	// nil is an empty 200.
	Accept http.HandlerFunc
}

// classes is how a sink reads a status that comes without a body it knows.
func (s HTTPSpec) classes() map[int]sinks.Class {
	all := map[int]sinks.Class{413: sinks.ClassTooLarge}
	for class, statuses := range map[sinks.Class][]int{
		sinks.ClassRetry:  {408, 418, 425, 429, 500, 502, 503, 504, 507, 520, 521, 522, 523, 524, 525, 526, 527, 529, 530, 599},
		sinks.ClassPoison: {400, 422},
		sinks.ClassHalt:   {300, 301, 302, 303, 304, 307, 308, 401, 403, 404, 405, 406, 407, 410, 415, 501},
	} {
		for _, status := range statuses {
			all[status] = class
		}
	}
	maps.Copy(all, s.Classes)
	return all
}

// Run tests the sink that open makes for an address: each status, Retry-After,
// redirects, peers that are not there, silent, slow, endless or broken, and
// that nothing shows Secret, which open configures as the credential.
func (s HTTPSpec) Run(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	if s.Accept == nil {
		s.Accept = func(http.ResponseWriter, *http.Request) {}
	}
	Working(t, func(t *testing.T) sinks.Sink {
		t.Helper()
		return open(serve(t, s.Accept))
	})
	s.statuses(t, open)
	retryAfter(t, open)
	redirects(t, open)
	brokenAnswers(t, open)
	brokenPeers(t, open)
}

// serve runs a server until the test ends. By then the sink was closed, and
// must have left no connection.
func serve(t *testing.T, handler http.HandlerFunc) string {
	t.Helper()
	var open atomic.Int64
	srv := httptest.NewUnstartedServer(handler)
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			open.Add(1)
		case http.StateClosed, http.StateHijacked:
			open.Add(-1)
		case http.StateActive, http.StateIdle:
		}
	}
	srv.Start()
	t.Cleanup(func() {
		for deadline := time.Now().Add(prompt); open.Load() > 0 && time.Now().Before(deadline); {
			time.Sleep(time.Millisecond)
		}
		if n := open.Load(); n > 0 {
			t.Errorf("%d connections are open after Close", n)
		}
		srv.Close()
	})
	return srv.URL
}

// echo answers a status with everything the request held.
func echo(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(status)
		_, _ = fmt.Fprintf(w, "%s %s\r\n", r.Method, r.URL) //nolint:gosec // an answer that repeats the request is the point
		_ = r.Header.Write(w)
		_, _ = io.Copy(w, r.Body)
	}
}

func (s HTTPSpec) statuses(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	run(t, "status", func(t *testing.T) {
		t.Helper()
		for status, class := range s.classes() {
			t.Run(fmt.Sprint(status), func(t *testing.T) {
				sink := use(t, open(serve(t, echo(status))))
				receipt, err := sink.Send(t.Context(), Messages(1))
				safe(t, receipt, err)
				wantClass(t, err, class)
			})
		}
	})
}

func retryAfter(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	in := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(http.TimeFormat) }
	run(t, "Retry-After", func(t *testing.T) {
		t.Helper()
		for name, c := range map[string]struct {
			status int
			value  string
			want   time.Duration
		}{
			"seconds":         {429, "7", 7 * time.Second},
			"seconds of 503":  {503, "120", 2 * time.Minute},
			"date":            {503, in(10 * time.Minute), 10 * time.Minute},
			"too long":        {429, "86400", time.Hour},
			"date too far":    {429, in(48 * time.Hour), time.Hour},
			"none":            {429, "", 0},
			"negative":        {429, "-5", 0},
			"past":            {503, in(-time.Hour), 0},
			"unreadable":      {503, "soon", 0},
			"not whole":       {503, "1.5", 0},
			"beyond integers": {429, "99999999999999999999", 0},
		} {
			t.Run(name, func(t *testing.T) {
				sink := use(t, open(serve(t, func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Retry-After", c.value)
					w.WriteHeader(c.status)
				})))
				receipt, err := sink.Send(t.Context(), Messages(1))
				safe(t, receipt, err)
				wantClass(t, err, sinks.ClassRetry)
				if got := sinks.RetryAfter(only(err)); !near(got, c.want) {
					t.Errorf("Retry-After %q: waits %s, want %s", c.value, got, c.want)
				}
			})
		}
	})
}

func redirects(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	run(t, "redirects are not followed", func(t *testing.T) {
		t.Helper()
		var followed atomic.Int64
		target := serve(t, func(http.ResponseWriter, *http.Request) { followed.Add(1) })
		for _, status := range []int{301, 302, 303, 307, 308} {
			sink := use(t, open(serve(t, func(w http.ResponseWriter, r *http.Request) {
				http.Redirect(w, r, target, status)
			})))
			receipt, err := sink.Send(t.Context(), Messages(1))
			safe(t, receipt, err)
			wantClass(t, err, sinks.ClassHalt)
		}
		if n := followed.Load(); n > 0 {
			t.Errorf("%d redirects were followed", n)
		}
	})
}

func brokenAnswers(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	for name, handler := range map[string]http.HandlerFunc{
		"truncated answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"text":`)
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		},
		"no answer": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
	} {
		run(t, name, func(t *testing.T) {
			t.Helper()
			sink := use(t, open(serve(t, handler)))
			receipt, err := sink.Send(t.Context(), Messages(2))
			safe(t, receipt, err)
			wantClass(t, err, sinks.ClassRetry)
		})
	}
	run(t, "slow answer", func(t *testing.T) {
		t.Helper()
		deadline(t, open(serve(t, func(w http.ResponseWriter, r *http.Request) {
			for r.Context().Err() == nil {
				_, _ = io.WriteString(w, " ")
				_ = http.NewResponseController(w).Flush()
				time.Sleep(5 * time.Millisecond)
			}
		})))
	})
	run(t, "endless answer", func(t *testing.T) {
		t.Helper()
		const enough = 512 << 20 // far more than any answer is worth
		var sent atomic.Int64
		sink := use(t, open(serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusServiceUnavailable)
			for junk := make([]byte, 32<<10); r.Context().Err() == nil && sent.Load() < enough; sent.Add(int64(len(junk))) {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
		})))
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		receipt, err := sink.Send(ctx, Messages(1))
		safe(t, receipt, err)
		wantClass(t, err, sinks.ClassRetry)
		if ctx.Err() != nil || sent.Load() >= enough {
			t.Error("Send reads an answer without end")
		}
	})
}

func brokenPeers(t *testing.T, open func(url string) sinks.Sink) {
	t.Helper()
	at := func(address string) sinks.Sink { return open("http://" + address) }
	run(t, "unreachable", func(t *testing.T) {
		t.Helper()
		unreachable(t, at(closedAddress(t)))
	})
	run(t, "silent peer", func(t *testing.T) {
		t.Helper()
		deadline(t, at(listen(t, silent)))
	})
	run(t, "slow peer", func(t *testing.T) {
		t.Helper()
		deadline(t, at(listen(t, slowly)))
	})
	run(t, "cancelled", func(t *testing.T) {
		t.Helper()
		arrived := make(chan struct{}, 16)
		cancelled(t, at(listen(t, func(c net.Conn) {
			arrived <- struct{}{}
			silent(c)
		})), arrived)
	})
	run(t, "cancelled while writing", func(t *testing.T) {
		t.Helper()
		arrived := make(chan struct{}, 16)
		cancelled(t, at(listen(t, func(c net.Conn) {
			arrived <- struct{}{}
			slowly(c)
		})), arrived)
	})
	for name, peer := range map[string]func(net.Conn){
		"peer that hangs up":   func(net.Conn) {},
		"peer that resets":     reset,
		"peer without HTTP":    afterReading("220 mail ESMTP\r\n"),
		"peer that echoes":     func(c net.Conn) { _, _ = io.Copy(c, c) },
		"endless answer head":  endlessHead,
		"answer of a new kind": afterReading("HTTP/1.1 999 \r\nContent-Length: 0\r\n\r\n"),
	} {
		run(t, name, func(t *testing.T) {
			t.Helper()
			sink := use(t, at(listen(t, peer)))
			ctx, cancel := context.WithTimeout(t.Context(), prompt)
			defer cancel()
			receipt, err := sink.Send(ctx, Messages(2))
			safe(t, receipt, err)
			wantClass(t, err, sinks.ClassRetry)
			if ctx.Err() != nil {
				t.Error("Send waits for what can never come")
			}
		})
	}
}

// afterReading says text once something has come.
func afterReading(text string) func(net.Conn) {
	return func(c net.Conn) {
		_, _ = c.Read(make([]byte, 64))
		_, _ = io.WriteString(c, text)
	}
}

// endlessHead answers with headers without end.
func endlessHead(c net.Conn) {
	_, _ = c.Read(make([]byte, 64))
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n"); err != nil {
		return
	}
	for {
		if _, err := io.WriteString(c, "X-More: and more and more and more\r\n"); err != nil {
			return
		}
	}
}
