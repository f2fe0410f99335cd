package all_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal/journaltest"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/all"
	"github.com/cwprelay/cwprelay/sinks/elastic"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/slack"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
	"github.com/cwprelay/cwprelay/sinks/syslog"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// garbage are answers on the wire that are none of any protocol's yes.
func garbage(random *rand.Rand) map[string][]byte {
	noise := make([]byte, 4096)
	for i := range noise {
		noise[i] = byte(random.Uint32())
	}
	answer := func(head, body string) []byte {
		return fmt.Appendf(nil, "HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
	}
	return map[string][]byte{
		"nothing":         {},
		"noise":           noise,
		"zeroes":          make([]byte, 4096),
		"ones":            bytes.Repeat([]byte{0xff}, 4096),
		"text":            []byte("220 mail.example ESMTP\r\n"),
		"huge length":     {0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 1, 0xff},
		"negative length": {0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1},
		"cut yes":         []byte("HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{\"ok\":tr"),
		"endless head":    append([]byte("HTTP/1.1 200 OK\r\nX: "), bytes.Repeat([]byte("x"), 1<<20)...),
		"deep":            answer("200 OK", strings.Repeat("[", 50_000)),
		"other JSON":      answer("500 Error", `{"text":"Success","code":0,"ok":true,"errors":false,"items":[]}`),
		"redirect":        []byte("HTTP/1.1 307 Temporary\r\nLocation: /elsewhere\r\nContent-Length: 2\r\n\r\nok"),
		"informational":   bytes.Repeat([]byte("HTTP/1.1 100 Continue\r\n\r\n"), 50),
		"odd status":      answer("999 Odd", "ok"),
		"RELP of another": []byte("7 rsp 6 200 OK\n99 rsp 6 200 OK\n"),
		"RELP no":         []byte("1 rsp 93 200 OK\nrelp_version=0\nrelp_software=x\ncommands=syslog\n2 rsp 5 500 x\n"),
	}
}

// TestGarbageConfirmsNothing sends to destinations that answer by garbage:
// nothing counts as delivered, nothing is buried, nothing crashes.
func TestGarbageConfirmsNothing(t *testing.T) {
	for what, text := range garbage(rand.New(rand.NewPCG(1, 1))) {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			addr := answering(t, text)
			for kind, cfg := range map[string]all.Config{
				"splunk_hec": {SplunkHEC: &splunkhec.Config{URL: "http://" + addr, Token: secret.New("token")}},
				"elastic":    {Elastic: &elastic.Config{URLs: []string{"http://" + addr}}},
				"kafka":      {Kafka: &kafka.Config{Brokers: []string{addr}, Topic: "cwp"}},
				"relp":       {Syslog: &syslog.Config{Address: "relp://" + addr}},
				"slack":      {Slack: &slack.Config{URL: secret.New("http://" + addr + "/services/x"), AllowPrivate: true}},
				"webhook":    {Webhook: &webhook.Config{URL: secret.New("http://" + addr), AllowPrivate: true}},
			} {
				if kind == "webhook" && what == "deep" {
					continue // its word is the status, and that is 200
				}
				confirmsNothing(t, kind, cfg)
			}
		})
	}
}

func confirmsNothing(t *testing.T, kind string, cfg all.Config) {
	t.Helper()
	s, err := all.New(cfg, all.Options{Name: kind})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
	defer cancel()
	rec := journaltest.Record("7", 1)
	rec.Action = event.Detected
	_, err = s.Send(ctx, []sinks.Message{{Record: rec, Body: []byte(`{"event":{"id":"7"}}`)}})
	if err == nil {
		t.Errorf("%s: delivered", kind)
		return
	}
	partial, ok := err.(*sinks.PartialError) //nolint:errorlint // as Send returns it
	if ok && partial.Failed[0] == nil {
		t.Errorf("%s: delivered, by parts", kind)
	}
	class := sinks.ClassOf(err)
	if ok {
		class = sinks.ClassOf(partial.Failed[0])
	}
	if class == sinks.ClassPoison {
		t.Errorf("%s: the record is blamed: %v", kind, err)
	}
}

// answering is a server that answers each connection by the same bytes and
// closes it.
func answering(t *testing.T, text []byte) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() {
				defer func() { _ = c.Close() }()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				_, _ = c.Read(make([]byte, 64<<10))
				_, _ = c.Write(text)
			})
		}
	})
	t.Cleanup(func() { _ = ln.Close(); conns.Wait() })
	return ln.Addr().String()
}
