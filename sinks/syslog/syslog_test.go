package syslog_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	gosyslog "github.com/leodido/go-syslog/v4"
	"github.com/leodido/go-syslog/v4/octetcounting"
	"github.com/leodido/go-syslog/v4/rfc5424"
	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/syslog"
	"github.com/cwprelay/cwprelay/sinks/syslog/syslogtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listen runs a receiver until the test ends.
func listen(t *testing.T, cfg syslogtest.Config) *syslogtest.Receiver {
	t.Helper()
	r, err := syslogtest.Listen(nil, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		r.Close()
		if v := r.Violations(); len(v) > 0 {
			t.Errorf("the receiver would not like %v", v)
		}
	})
	return r
}

func open(t *testing.T, cfg syslog.Config) *syslog.Sink {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := syslog.New(cfg)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestContract(t *testing.T) {
	for name, tc := range map[string]struct {
		scheme, ack string
	}{
		"session":     {"tcp", syslog.AckSession},
		"best effort": {"tcp", syslog.AckNone},
		"relp":        {"relp", syslog.AckRELP},
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.Working(t, func(t *testing.T) sinks.Sink {
				t.Helper()
				return syslog.New(syslog.Config{Address: tc.scheme + "://" + listen(t, syslogtest.Config{RELP: tc.scheme == "relp"}).Addr(), Ack: tc.ack})
			})
			if tc.ack == syslog.AckRELP { // a stream has no answers
				sinktest.Network(t, func(address string) sinks.Sink {
					return syslog.New(syslog.Config{Address: tc.scheme + "://" + address, Ack: tc.ack})
				})
			}
		})
	}
}

// golden reads a record of the format examples.
func golden(t *testing.T, name string) *event.Record {
	t.Helper()
	var c struct {
		Account  string `json:"account_id"`
		Sequence uint64 `json:"sequence"`
		PollTime string `json:"poll_time"`
		EventUID string `json:"event_uid"`
	}
	raw, err := os.ReadFile("../../format/testdata/" + name + ".input.json")
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile("../../format/testdata/" + name + ".context.json")
	if err := errors.Join(err, json.Unmarshal(text, &c)); err != nil {
		t.Fatal(err)
	}
	r := sinktest.Record(1).Again()
	r.Replayed, r.Raw, r.Sequence = false, raw, max(c.Sequence, 1)
	var id struct{ EventId json.Number } //nolint:revive // the API's own name
	if err := json.Unmarshal(raw, &id); err != nil {
		t.Fatal(err)
	}
	if r.Key.ID, r.Key.Account = id.EventId.String(), c.Account; c.Account == "" {
		r.Key.Account = event.DefaultAccount
	}
	if name == "02-killed-masked" {
		r.Action, r.Status = event.Closed, event.Status{Code: "3", Symbol: "scanned", Closed: true}
		r.ObservedAt = time.Date(2023, 9, 16, 12, 0, 0, 0, time.UTC)
	}
	return r
}

func TestMessagesAreThoseOfTheExamples(t *testing.T) {
	for _, name := range []string{"01-detected", "02-killed-masked", "03-hostile"} {
		text, err := os.ReadFile("testdata/" + name + ".rfc5424.txt")
		if err != nil {
			t.Fatal(err)
		}
		// The examples stand for the program's own name, and for the number of
		// an organisation, which must not be the one of the examples.
		want := strings.TrimSuffix(string(text), "\n")
		want = strings.ReplaceAll(want, `software="cwp-forwarder" swVersion="0.0.0"`, `software="cwprelay"`)
		want = strings.ReplaceAll(want, "cwp@32473", "cwp@99999")
		r := golden(t, name)
		_, rest, _ := strings.Cut(want, `eventUid="`)
		r.UID, _, _ = strings.Cut(rest, `"`)
		_, msg, _ := strings.Cut(want, "] Tencent")
		got := syslog.Message(syslog.Config{Address: "tcp://x", Hostname: "cwp-forwarder-1", EnterpriseNumber: 99999}, sinks.Message{Record: r, Body: []byte("Tencent" + msg)})
		if string(got) != want {
			t.Errorf("%s:\n got %s\nwant %s", name, got, want)
		}
	}
}

func parsed(t *testing.T, message []byte) *rfc5424.SyslogMessage {
	t.Helper()
	m, err := rfc5424.NewParser().Parse(message)
	if err != nil {
		t.Fatalf("another parser: %v\n%s", err, message)
	}
	return m.(*rfc5424.SyslogMessage)
}

// TestNothingIsLongerThanTheCap shortens a large record to every cap, and has
// another parser read it back.
func TestNothingIsLongerThanTheCap(t *testing.T) {
	r := sinktest.Record(1)
	r.Raw = bytes.Replace(r.Raw, []byte("./dev -h"), bytes.Repeat([]byte(`日本\"]`), 2000), 1)
	body, err := json.Marshal(map[string]any{"message": "m", "process": map[string]any{"command_line": strings.Repeat("日本\"]", 2000)}, "tags": []string{strings.Repeat("x", 5000)}, "n": 9007199254740993})
	if err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{480, 500, 700, 1024, 2048, 8192, 65536} {
		for name, body := range map[string][]byte{"json": body, "text": bytes.Repeat([]byte("日本 text "), 3000)} {
			for _, number := range []int{0, 99999} {
				got := syslog.Message(syslog.Config{Address: "tcp://x", Hostname: "h", MaxMessageBytes: size, EnterpriseNumber: number}, sinks.Message{Record: r, Body: body})
				if len(got) > size {
					t.Errorf("%s, cap %d: %d bytes", name, size, len(got))
				}
				m := parsed(t, got)
				if name == "json" && (m.Message == nil || !json.Valid([]byte(*m.Message))) {
					t.Errorf("cap %d: MSG is no JSON any more: %s", size, got)
				}
				if number != 0 && len(got) < len(body) && (*m.StructuredData)["cwp@99999"]["truncated"] != "true" {
					t.Errorf("%s, cap %d: not marked as truncated: %.300s", name, size, got)
				}
			}
		}
	}
}

// CEF and LEEF stay what they are however much of them has to go.
func TestShortenedCEFAndLEEFCanBeRead(t *testing.T) {
	for _, unit := range []string{`\`, "=", "日本", "x ", "a=b ", "\n"} {
		raw, err := json.Marshal(map[string]any{
			"EventId": 7, "CmdLine": strings.Repeat(unit, 3000) + ".", "FilePath": "/" + strings.Repeat(unit, 300), "ThreatDesc": strings.Repeat(unit, 300),
			"VirusName": "Linux.Miner.X", "VirusTags": []string{strings.Repeat(unit, 200)}, "Uuid": "u", "MachineExtraInfo": map[string]string{"HostName": "h1"},
		})
		if err != nil {
			t.Fatal(err)
		}
		r := sinktest.Record(7)
		r.Raw = raw
		for _, name := range []string{format.CEF, format.LEEF} {
			encode, err := format.New(name, format.Config{})
			if err != nil {
				t.Fatal(err)
			}
			body, err := encode(nil, r)
			if err != nil {
				t.Fatal(err)
			}
			for _, size := range []int{480, 600, 700, 1024, 2048, 4096, 8192} {
				got := syslog.Message(syslog.Config{Address: "tcp://x", Hostname: "h", MaxMessageBytes: size}, sinks.Message{Record: r, Body: body})
				if len(got) > size {
					t.Errorf("%s, cap %d: %d bytes", name, size, len(got))
				}
				text := *parsed(t, got).Message
				if !strings.Contains(text, "xternalId=7 ") && !strings.Contains(text, "eventId=7\t") || !strings.Contains(text, "risk_process:7") {
					t.Errorf("%s of %q, cap %d: nothing tells which event: %s", name, unit, size, text)
				}
				if len(body) > size && size >= 1024 && size <= 4096 && !strings.Contains(text, "...(truncated)") {
					t.Errorf("%s of %q, cap %d: nothing is marked as cut: %s", name, unit, size, text)
				}
				wrong := ""
				if name == format.CEF {
					for _, part := range regexp.MustCompile(`(?:^| )[A-Za-z0-9]+=`).Split(strings.SplitN(text, "|", 8)[7], -1) {
						part = strings.NewReplacer(`\\`, "", `\=`, "", `\n`, "", `\r`, "").Replace(part)
						if strings.ContainsAny(part, `\=`) {
							wrong = part
						}
					}
				} else {
					for part := range strings.SplitSeq(strings.SplitN(text, "|", 7)[6], "\t") {
						if !regexp.MustCompile(`^[A-Za-z0-9]+=.`).MatchString(part) {
							wrong = part
						}
					}
				}
				if wrong != "" {
					t.Errorf("%s of %q, cap %d: cannot be read at %q: %s", name, unit, size, wrong, text)
				}
			}
		}
	}
}

func FuzzMessage(f *testing.F) {
	f.Add("a\"]\\b", "x\n<134>1 forged", "{\"a\":\"\\n\"}")
	f.Add("\xff\x00", "\u2028\u202e", "text\r\nmore")
	f.Fuzz(func(t *testing.T, virus, command, body string) {
		raw, err := json.Marshal(map[string]any{"EventId": 1, "VirusName": virus, "CmdLine": command, "FilePath": command, "VirusTags": []string{virus}})
		if err != nil {
			return
		}
		r := sinktest.Record(1)
		r.Raw = raw
		got := syslog.Message(syslog.Config{Address: "tcp://x", Hostname: "h", EnterpriseNumber: 99999}, sinks.Message{Record: r, Body: []byte(strings.ToValidUTF8(body, "?"))})
		if bytes.ContainsAny(got, "\n\r") {
			t.Errorf("more than one line: %q", got)
		}
		m := parsed(t, got)
		sd := *m.StructuredData
		if len(sd) != 2 || sd["cwp@99999"]["eventUid"] != r.UID || sd["cwp@99999"]["pid"] != "" {
			t.Errorf("structured data %v", sd)
		}
	})
}

func TestFramesAreReadByAnotherParser(t *testing.T) {
	var stream bytes.Buffer
	p := listen(t, syslogtest.Config{Answer: func(received []byte) string {
		stream.Write(received)
		return syslogtest.OK
	}})
	s := open(t, syslog.Config{Address: "tcp://" + p.Addr()})
	if _, err := s.Send(t.Context(), sinktest.Messages(300)); err != nil {
		t.Fatal(err)
	}
	p.Close()
	n := 0
	octetcounting.NewParser(gosyslog.WithListener(func(r *gosyslog.Result) {
		if r.Error != nil {
			t.Error(r.Error)
		}
		n++
	})).Parse(&stream)
	if n != 300 {
		t.Errorf("%d messages were read", n)
	}
}

func TestReceiverThatDiesAfterReadingIsNotBelieved(t *testing.T) {
	p := listen(t, syslogtest.Config{})
	s := open(t, syslog.Config{Address: "tcp://" + p.Addr()})
	if _, err := s.Send(t.Context(), sinktest.Messages(2)); err != nil {
		t.Fatal(err)
	}
	// It reads all there is, and dies as our side closes: all its connections
	// end, the one of the batch cleanly.
	p2 := listen(t, syslogtest.Config{})
	s2 := open(t, syslog.Config{Address: "tcp://" + p2.Addr()})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			if p2.Connections() == 2 { // the witness is there
				break
			}
		}
		p2.Close()
	}()
	_, err := s2.Send(t.Context(), sinktest.Messages(2))
	<-ended
	if err == nil {
		t.Error("a dead receiver was believed")
	} else if sinks.ClassOf(err) != sinks.ClassRetry {
		t.Errorf("class %v of %v", sinks.ClassOf(err), err)
	}
}

func TestSessionThatIsNotReadToItsEndIsNoSuccess(t *testing.T) {
	for name, behave := range map[string]func(net.Conn){
		"reads nothing":   func(net.Conn) { <-time.After(300 * time.Millisecond) },
		"resets":          func(c net.Conn) { _ = c.(*net.TCPConn).SetLinger(0) },
		"reads a little":  func(c net.Conn) { _, _ = c.Read(make([]byte, 100)); _ = c.(*net.TCPConn).SetLinger(0) },
		"never closes":    func(c net.Conn) { _, _ = io.Copy(io.Discard, c); <-time.After(300 * time.Millisecond) },
		"closes at first": func(net.Conn) {},
	} {
		t.Run(name, func(t *testing.T) {
			ln, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					wg.Go(func() { behave(c); c.Close() })
				}
			})
			s := open(t, syslog.Config{Address: "tcp://" + ln.Addr().String()})
			ctx, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
			_, err = s.Send(ctx, sinktest.Messages(1000))
			cancel()
			if err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
				t.Errorf("error %v", err)
			}
			ln.Close()
			wg.Wait()
		})
	}
	s := open(t, syslog.Config{Address: "tcp://127.0.0.1:1"})
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
		t.Errorf("unreachable: %v", err)
	}
}

func TestEachRELPMessageIsAnswered(t *testing.T) {
	p := listen(t, syslogtest.Config{RELP: true})
	s := open(t, syslog.Config{Address: "relp://" + p.Addr(), Window: 7})
	for range 2 { // one session
		receipt, err := s.Send(t.Context(), sinktest.Messages(100))
		if err != nil || receipt.Answer != "rsp 200 for 100 of 100" {
			t.Fatalf("receipt %+v, %v", receipt, err)
		}
	}
	if len(p.Messages()) != 200 || p.Connections() != 1 {
		t.Errorf("%d messages by %d connections", len(p.Messages()), p.Connections())
	}
	p.SetAnswer(func(m []byte) string {
		if bytes.Contains(m, []byte(`"event_id":3,`)) {
			return "500 no"
		}
		return syslogtest.OK
	})
	_, err := s.Send(t.Context(), sinktest.Messages(5))
	partial, ok := errors.AsType[*sinks.PartialError](err)
	if !ok || len(partial.Failed) != 1 || sinks.ClassOf(partial.Failed[2]) != sinks.ClassRetry || !sinks.IsAnswer(partial.Failed[2]) {
		t.Errorf("error %v", err)
	}
}

func TestMessageThatClosesTheConnectionIsFound(t *testing.T) {
	p := listen(t, syslogtest.Config{RELP: true, Answer: func(m []byte) string {
		if bytes.Contains(m, []byte(`"event_id":3,`)) {
			return ""
		}
		return syslogtest.OK
	}})
	s := open(t, syslog.Config{Address: "relp://" + p.Addr(), Window: 1})
	batch := sinktest.Messages(5)
	for try := 1; try <= 3; try++ {
		_, err := s.Send(t.Context(), batch)
		failed := map[int]error{}
		if partial, ok := errors.AsType[*sinks.PartialError](err); ok {
			failed = partial.Failed
		} else if err != nil {
			for i := range batch {
				failed[i] = err
			}
		}
		want := sinks.ClassRetry
		if try == 3 {
			want = sinks.ClassPoison
		}
		first := 0
		for failed[first] == nil && first < len(batch) {
			first++
		}
		if first == len(batch) || batch[first].Record.Seq != 3 || sinks.ClassOf(failed[first]) != want || (len(failed) > 1 && sinks.ClassOf(failed[first+1]) != sinks.ClassRetry) {
			t.Fatalf("try %d: %v", try, failed)
		}
		batch = batch[first:] // what delivery does
	}
}

func TestDeadConnectionIsNoticedBeforeWriting(t *testing.T) {
	p := listen(t, syslogtest.Config{})
	s := open(t, syslog.Config{Address: "tcp://" + p.Addr(), Ack: syslog.AckNone})
	if _, err := s.Send(t.Context(), sinktest.Messages(1)); err != nil {
		t.Fatal(err)
	}
	p.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for ctx.Err() == nil {
		if _, err := s.Send(ctx, sinktest.Messages(1)); err != nil {
			return
		}
	}
	t.Error("a closed connection was written to without an error")
}

func TestDatagramsHoldOneMessageEach(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	s := open(t, syslog.Config{Address: "udp://" + pc.LocalAddr().String()})
	if receipt, err := s.Send(t.Context(), sinktest.Messages(3)); err != nil || !strings.Contains(receipt.Answer, "unconfirmed") {
		t.Fatalf("receipt %+v, %v", receipt, err)
	}
	buf := make([]byte, 65536)
	for i := range 3 {
		if err := pc.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		n, _, err := pc.ReadFrom(buf)
		if err != nil {
			t.Fatal(err)
		}
		if m := parsed(t, buf[:n]); n > 2048 || !strings.Contains(*m.Message, `"event_id":`+strconv.Itoa(i+1)) {
			t.Errorf("datagram %d: %s", i, buf[:n])
		}
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	for name, tc := range map[string]struct {
		cfg  syslog.Config
		want []string
	}{
		"nothing": {syslog.Config{}, []string{"address: required"}},
		"much": {
			syslog.Config{Address: "tls://x", Ack: "relp", Framing: "newline", Protocol: "x", MaxMessageBytes: 100, Facility: "local9", AppName: "a b", Hostname: "é", EnterpriseNumber: 32473, Window: -1},
			[]string{"ack: ", "framing: ", "protocol: ", "max_message_bytes: ", "facility: ", "app_name: ", "hostname: ", "enterprise_number: ", "window: "},
		},
		"path": {syslog.Config{Address: "tcp://x/y"}, []string{"address: must hold host and port only"}},
		"udp":  {syslog.Config{Address: "udp://x", Ack: "session", MaxMessageBytes: 70_000}, []string{"ack: ", "max_message_bytes: "}},
	} {
		err := tc.cfg.Validate()
		for _, want := range tc.want {
			if err == nil || !strings.Contains("\n"+err.Error(), "\n"+want) {
				t.Errorf("%s: no %q in %v", name, want, err)
			}
		}
	}
}
