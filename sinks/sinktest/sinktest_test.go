package sinktest_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"testing"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// plain is the least sink behind HTTP: a POST of the bodies, judged by status.
type plain struct {
	url    string
	client *httpx.Client
}

func (p plain) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	body, w := io.Pipe()
	copied := make([][]byte, 0, len(batch))
	for _, m := range batch {
		copied = append(copied, append([]byte(nil), m.Body...))
	}
	go func() {
		for _, b := range copied {
			if _, err := w.Write(b); err != nil {
				return
			}
		}
		_ = w.Close()
	}()
	defer body.Close()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/"+sinktest.Secret, body)
	if err != nil {
		return sinks.Receipt{}, errors.New("bad address")
	}
	req.Header.Set("Authorization", "Bearer "+sinktest.Secret)
	r, err := p.client.Do(req)
	if err != nil {
		return sinks.Receipt{}, err
	}
	return sinks.Receipt{Answer: fmt.Sprint(r.Status)}, r.Class()
}

func (p plain) Close() error {
	p.client.Close()
	return nil
}

func TestHTTPFitsThePlainSink(t *testing.T) {
	sinktest.HTTP(t, func(url string) sinks.Sink {
		return plain{url: url, client: httpx.New(httpx.HTTP{}, secret.New(sinktest.Secret))}
	})
}

// lines is the least sink with a connection: it waits for a line that says ok.
type lines struct{ address string }

func (l lines) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", l.address)
	if err != nil {
		return sinks.Receipt{}, err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { _ = c.Close() })()
	for _, m := range batch {
		if _, err := c.Write(append(slices.Clip(m.Body), '\n')); err != nil {
			return sinks.Receipt{}, errors.Join(err, context.Cause(ctx))
		}
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return sinks.Receipt{}, errors.Join(err, context.Cause(ctx))
	}
	return sinks.Receipt{Answer: answer[:len(answer)-1]}, nil
}

func (lines) Close() error { return nil }

func TestNetworkFitsThePlainSink(t *testing.T) {
	sinktest.Network(t, func(address string) sinks.Sink { return lines{address} })
}

func TestMessages(t *testing.T) {
	seen := map[string]bool{}
	for i, m := range sinktest.Messages(600) {
		r := m.Record
		if r.Key.Kind != "risk_process" || r.UID != r.Key.EventUID(r.Sequence, r.Revision) || len(r.UID) != 40 || seen[r.UID] {
			t.Errorf("record %d: %+v", i, r.Key)
		}
		seen[r.UID] = true
		if len(m.Body) == 0 || len(r.Raw) == 0 || r.Seq != uint64(i+1) {
			t.Errorf("record %d: body %q, raw %q, seq %d", i, m.Body, r.Raw, r.Seq)
		}
	}
}
