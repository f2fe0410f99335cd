package sinktest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
)

// Network tests a sink that connects to an address ("127.0.0.1:4711") by TCP
// and whose destination confirms what it took: peers that are not there, that
// are silent and that hang up. open returns a new sink for the address.
func Network(t *testing.T, open func(address string) sinks.Sink) {
	t.Helper()
	run(t, "unreachable", func(t *testing.T) {
		t.Helper()
		unreachable(t, open(closedAddress(t)))
	})
	for name, peer := range map[string]func(net.Conn){
		"silent peer":       silent,
		"peer that is slow": slowly,
	} {
		run(t, name, func(t *testing.T) {
			t.Helper()
			deadline(t, open(listen(t, peer)))
		})
	}
	for name, peer := range map[string]func(net.Conn){
		"peer that hangs up":       func(net.Conn) {},
		"peer that hangs up later": func(c net.Conn) { _, _ = c.Read(make([]byte, 64)) },
		"peer that resets":         reset,
	} {
		run(t, name, func(t *testing.T) {
			t.Helper()
			sink := use(t, open(listen(t, peer)))
			ctx, cancel := context.WithTimeout(t.Context(), prompt)
			defer cancel()
			receipt, err := sink.Send(ctx, Messages(3))
			safe(t, receipt, err)
			wantClass(t, err, sinks.ClassRetry)
		})
	}
	run(t, "cancelled", func(t *testing.T) {
		t.Helper()
		arrived := make(chan struct{}, 16)
		cancelled(t, open(listen(t, func(c net.Conn) {
			arrived <- struct{}{}
			silent(c)
		})), arrived)
	})
}

// unreachable wants a failure of the network, not an answer.
func unreachable(t *testing.T, sink sinks.Sink) {
	t.Helper()
	use(t, sink)
	ctx, cancel := context.WithTimeout(t.Context(), prompt)
	defer cancel()
	receipt, err := sink.Send(ctx, Messages(2))
	safe(t, receipt, err)
	wantClass(t, err, sinks.ClassRetry)
	if sinks.IsAnswer(err) {
		t.Errorf("%q counts as an answer, but nobody answered", err)
	}
	probe(ctx, t, sink, sinks.ClassRetry)
}

// probe wants the class from the sink's probe, if it has one.
func probe(ctx context.Context, t *testing.T, sink sinks.Sink, want sinks.Class) {
	t.Helper()
	p, ok := sink.(sinks.Prober)
	if !ok {
		return
	}
	answer, err := p.Probe(ctx)
	safe(t, sinks.Receipt{Answer: answer}, err)
	if err == nil {
		t.Errorf("Probe answers %q, want an error", answer)
	} else if got := sinks.ClassOf(err); got != want {
		t.Errorf("Probe: class %v of error %q, want %v", got, err, want)
	}
}

// deadline wants Send and Probe to end with their context's deadline.
func deadline(t *testing.T, sink sinks.Sink) {
	t.Helper()
	use(t, sink)
	ctx, cancel := context.WithTimeout(t.Context(), short)
	defer cancel()
	start := time.Now()
	receipt, err := sink.Send(ctx, Messages(2))
	promptly(t, start)
	safe(t, receipt, err)
	wantClass(t, err, sinks.ClassRetry)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %q does not say that the deadline passed", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), short)
	defer cancel()
	start = time.Now()
	probe(ctx, t, sink, sinks.ClassRetry)
	promptly(t, start)
}

// cancelled wants Send to end with its context, after the peer had it, and to
// leave the batch alone from then on: the race detector sees if it does not.
func cancelled(t *testing.T, sink sinks.Sink, arrived <-chan struct{}) {
	t.Helper()
	use(t, sink)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	type outcome struct {
		receipt sinks.Receipt
		err     error
	}
	ended := make(chan outcome, 1)
	batch := large(sink)
	go func() {
		receipt, err := sink.Send(ctx, batch)
		ended <- outcome{receipt, err}
	}()
	select {
	case <-arrived:
	case <-time.After(prompt):
		t.Fatal("Send did not reach the peer")
	}
	cancel()
	select {
	case o := <-ended:
		safe(t, o.receipt, o.err)
		wantClass(t, o.err, sinks.ClassRetry)
		if !errors.Is(o.err, context.Canceled) {
			t.Errorf("error %q does not say that the context was cancelled", o.err)
		}
	case <-time.After(prompt):
		t.Fatalf("Send has not returned %s after its context was cancelled", prompt)
	}
	for i := range batch {
		clear(batch[i].Body)
		clear(batch[i].Record.Raw)
		batch[i] = sinks.Message{}
	}
}

// large returns as many messages of less than 4 KiB as do not fit into the
// buffers of a connection, or as the sink takes in one batch.
func large(sink sinks.Sink) []sinks.Message {
	records, size := 2500, 10<<20
	if l, ok := sink.(sinks.Limiter); ok {
		limits := l.Limits()
		records, size = min(records, cmp.Or(limits.Records, records)), min(size, cmp.Or(limits.Bytes, size))
	}
	noise := rand.New(rand.NewPCG(1, 2)) // so that compression does not make it small
	batch := Messages(min(records, max(size/4096, 1)))
	for i := range batch {
		var text []byte
		for len(text) < 3000 {
			text = strconv.AppendUint(text, noise.Uint64(), 36)
		}
		body := batch[i].Body
		batch[i].Body = fmt.Appendf(body[:len(body)-1], `,"process_arguments":"%s"}`, text)
	}
	return batch
}

// closedAddress returns an address on which nobody listens.
func closedAddress(t *testing.T) string {
	t.Helper()
	l := listener(t)
	defer l.Close() //nolint:errcheck // nothing was accepted
	return l.Addr().String()
}

func listener(t *testing.T) net.Listener {
	t.Helper()
	var config net.ListenConfig
	l, err := config.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// listen lets peer have every connection to the address it returns, until the
// test ends. The connection is closed when peer returns.
func listen(t *testing.T, peer func(net.Conn)) string {
	t.Helper()
	l := listener(t)
	var conns sync.WaitGroup
	var mu sync.Mutex // guards open
	var open []net.Conn
	conns.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			conns.Go(func() {
				defer c.Close() //nolint:errcheck // the peer's manners are its own
				peer(c)
			})
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, c := range open {
			_ = c.Close()
		}
		mu.Unlock()
		conns.Wait()
	})
	return l.Addr().String()
}

// silent reads everything and never answers.
func silent(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// slowly reads a byte at a time and never answers.
func slowly(c net.Conn) {
	for one := make([]byte, 1); ; {
		if _, err := c.Read(one); err != nil {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

// reset makes the connection end with RST.
func reset(c net.Conn) {
	_, _ = c.Read(make([]byte, 64))
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0)
	}
}
