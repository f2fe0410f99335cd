// Package syslogtest is a receiver of syslog over TCP, for tests: of RELP, or
// of streams with octet counting. It answers and misbehaves as it is told, and
// notes what a client must not do.
package syslogtest

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// OK is the usual answer to a RELP message. Lost is that of a stream's receiver
// which dies with what it has not read.
const (
	OK   = "200 OK"
	Lost = "lost"
)

// Config says how a receiver behaves.
type Config struct {
	// RELP says what is spoken: RELP, else a stream that is read to its end.
	RELP bool
	// Answer says what a RELP message is answered by: OK if it is nil, "" closes
	// the connection. It is called by one goroutine at a time, also for a stream,
	// once for each connection and with all that came: there "" resets the
	// connection, Lost resets it and takes nothing, and anything else ends it in
	// good order.
	Answer func(received []byte) string
	// Take is given each message that was taken, in place of keeping it. It is
	// called by one goroutine at a time. What it is given is its own.
	Take func(message []byte)
}

// A Receiver listens on a loopback address.
type Receiver struct {
	cfg Config
	ln  net.Listener
	wg  sync.WaitGroup

	mu       sync.Mutex // guards the rest
	got      [][]byte
	open     map[net.Conn]bool
	accepted int // connections
	wrong    []string
}

// Listen begins to listen on ln, or on a port of its own where that is nil.
func Listen(ln net.Listener, cfg Config) (*Receiver, error) {
	if ln == nil {
		var err error
		if ln, err = net.Listen("tcp", "127.0.0.1:0"); err != nil { //nolint:noctx // it does not wait
			return nil, err
		}
	}
	r := &Receiver{cfg: cfg, ln: ln, open: map[net.Conn]bool{}}
	r.wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.open[c] = true
			r.accepted++
			r.mu.Unlock()
			r.wg.Go(func() {
				defer r.ended(c)
				if cfg.RELP {
					r.relp(c)
				} else {
					r.stream(c)
				}
			})
		}
	})
	return r, nil
}

// Addr is host and port.
func (r *Receiver) Addr() string { return r.ln.Addr().String() }

// SetAnswer replaces Config.Answer.
func (r *Receiver) SetAnswer(answer func(received []byte) string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cfg.Answer = answer
}

// Messages returns what was taken, in order.
func (r *Receiver) Messages() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

// Connections is how many there were so far.
func (r *Receiver) Connections() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.accepted
}

// Open is how many connections there are.
func (r *Receiver) Open() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.open)
}

// Violations returns what clients did that the protocol does not allow.
func (r *Receiver) Violations() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.wrong)
}

// Close is what happens to all connections of a process that dies.
func (r *Receiver) Close() {
	_ = r.ln.Close()
	r.mu.Lock()
	for c := range r.open {
		_ = c.Close()
	}
	r.mu.Unlock()
	r.wg.Wait()
}

func (r *Receiver) ended(c net.Conn) {
	_ = c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

func (r *Receiver) violation(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// answer asks what to answer, and takes the messages where that is good.
func (r *Receiver) answer(received []byte, good func(string) bool, messages ...[]byte) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	answer := OK
	if r.cfg.Answer != nil {
		answer = r.cfg.Answer(received)
	}
	if !good(answer) {
		return answer
	}
	for _, m := range messages {
		if r.cfg.Take != nil {
			r.cfg.Take(m)
		} else {
			r.got = append(r.got, m)
		}
	}
	return answer
}

// stream reads a connection to its end. What was read of one that broke is
// taken all the same: the sender cannot know, and a receiver does not forget.
func (r *Receiver) stream(c net.Conn) {
	all, _ := io.ReadAll(c)
	answer := r.answer(all, func(answer string) bool { return answer != Lost }, r.frames(all)...)
	if tcp, ok := c.(*net.TCPConn); ok && (answer == "" || answer == Lost) {
		_ = tcp.SetLinger(0) // a reset
	}
}

// frames cuts a stream into its messages; the last may be a beginning.
func (r *Receiver) frames(all []byte) [][]byte {
	var messages [][]byte
	for len(all) > 0 {
		length, rest, found := bytes.Cut(all, []byte(" "))
		n, err := strconv.Atoi(string(length))
		if !found || err != nil && len(length) < 12 {
			break // broken off within the length
		}
		if err != nil || n < 1 {
			r.violation("frame of length %q", length)
			break
		}
		if n > len(rest) {
			break
		}
		messages, all = append(messages, rest[:n]), rest[n:]
	}
	return messages
}

func (r *Receiver) relp(c net.Conn) {
	in := bufio.NewReader(c)
	for {
		number, err := in.ReadString(' ')
		if err != nil {
			return
		}
		command, _ := in.ReadString(' ')
		var size int
		if _, err := fmt.Fscanf(in, "%d", &size); err != nil {
			return
		}
		data := make([]byte, size)
		if size > 0 {
			_, _ = in.Discard(1)
			if _, err := io.ReadFull(in, data); err != nil {
				return // broken off
			}
		}
		if b, err := in.ReadByte(); err != nil {
			return
		} else if b != '\n' {
			r.violation("a frame does not end with LF: %q", b)
			return
		}
		answer := ""
		switch strings.TrimSpace(command) {
		case "open":
			answer = OK + "\nrelp_version=0\ncommands=syslog"
		case "syslog":
			taken := func(answer string) bool { return strings.HasPrefix(answer, "200") }
			if answer = r.answer(data, taken, data); answer == "" {
				return
			}
		case "close":
			_, _ = fmt.Fprintf(c, "%srsp 0\n0 serverclose 0\n", number)
			return
		default:
			r.violation("command %q", command)
			return
		}
		if _, err := fmt.Fprintf(c, "%srsp %d %s\n", number, len(answer), answer); err != nil {
			return
		}
	}
}
