// Package syslog delivers to syslog receivers: over UDP, TCP, TLS, or RELP.
//
// What "delivered" means is the setting ack. relp: the receiver answered each
// message. session: the receiver has read the connection of the batch to its
// end and closed it, and was alive after that. none: the message was written,
// and nothing came back that says otherwise; that is best effort, and all that
// UDP has. The queue of the receiver itself is outside of each.
//
// Receivers know no duplicates: what is sent again is written again, with the
// same eventUid.
package syslog

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

const (
	dialTimeout = 10 * time.Second
	// settling is how long is waited for what the peer has to say: after a TLS
	// handshake before anything is written without confirmation (with TLS 1.3 a
	// refused client certificate shows only there), and when writing fails.
	settling = 250 * time.Millisecond
	// witness is how long the other connection is watched after the one of a
	// batch was closed: a receiver that died closes all of them at once.
	witness = 25 * time.Millisecond
	// closings is how often the same message may close the connection before
	// it is held to be the cause.
	closings = 3
)

// A Sink sends to one receiver. Send is called by one goroutine.
type Sink struct {
	cfg    Config
	to     target
	writer *writer
	buf    []byte

	link   *link          // the connection in use, or for the next batch
	files  httpx.Stamps   // of the TLS files that it was made with
	relp   *session       // the RELP session on it
	closed map[string]int // event_uid → how often it was the first that a closed connection left unanswered
}

var (
	_ sinks.Sink   = (*Sink)(nil)
	_ sinks.Prober = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It makes no connection.
func New(cfg Config) *Sink {
	cfg = cfg.WithDefaults()
	to, _ := parseAddress(cfg.Address) // the configuration is valid
	return &Sink{cfg: cfg, to: to, writer: newWriter(cfg), closed: map[string]int{}}
}

// Close closes the connection.
func (s *Sink) Close() error {
	if s.relp != nil {
		s.relp.bye()
	}
	if s.link != nil && s.to.tls && s.link.alive() {
		_ = s.link.conn.SetWriteDeadline(time.Now().Add(time.Second))
		_ = s.link.closeWrite() // so that the receiver sees no truncation
	}
	s.drop()
	return nil
}

func (s *Sink) drop() {
	if s.link != nil {
		s.link.close()
	}
	s.link, s.relp = nil, nil
}

// Probe connects, and for RELP opens a session.
func (s *Sink) Probe(ctx context.Context) (string, error) {
	one := New(s.cfg)
	defer one.drop()
	if err := one.connect(ctx); err != nil {
		return "", err
	}
	if s.to.scheme == "udp" {
		return "nothing is known of a UDP receiver", nil
	}
	return "connected to " + s.to.host, nil
}

// Send delivers the batch in order.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if err := s.connect(ctx); err != nil {
		return sinks.Receipt{}, err
	}
	switch s.cfg.Ack {
	case AckRELP:
		return s.sendRELP(ctx, batch)
	case AckSession:
		return s.sendSession(ctx, batch)
	default:
		return s.sendBlind(ctx, batch)
	}
}

// connect makes a connection where there is none that is alive.
func (s *Sink) connect(ctx context.Context) error {
	if s.link != nil && s.link.alive() && !s.rotated() {
		return nil
	}
	s.drop()
	l, err := s.dial(ctx)
	if err != nil {
		return err
	}
	s.link = l
	if s.cfg.Ack != AckRELP {
		return nil
	}
	if s.relp, err = openRELP(ctx, l); err != nil {
		s.drop()
		return classed(err)
	}
	return nil
}

// rotated reports whether the TLS files have changed since the connection was
// made, and can be used.
func (s *Sink) rotated() bool {
	if !s.to.tls || s.cfg.TLS.Stamps() == s.files {
		return false
	}
	_, err := s.cfg.TLS.Config()
	return err == nil
}

func (s *Sink) dial(ctx context.Context) (*link, error) {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 15 * time.Second}}
	raw, err := dialer.DialContext(ctx, s.to.network(), s.to.host)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	conn := raw
	if s.to.tls {
		s.files = s.cfg.TLS.Stamps()
		cfg, err := s.cfg.TLS.Config()
		if err != nil {
			_ = raw.Close()
			return nil, sinks.Halt(fmt.Errorf("tls: %w", err))
		}
		if cfg.ServerName == "" {
			cfg.ServerName = s.to.name
		}
		secure := tls.Client(raw, cfg)
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		if err := secure.HandshakeContext(ctx); err != nil {
			_ = raw.Close()
			return nil, classed(fmt.Errorf("TLS handshake: %w", err))
		}
		conn = secure
	}
	l := newLink(conn, s.cfg.Ack == AckRELP)
	if s.to.tls && s.cfg.Ack == AckNone { // elsewhere the confirmation shows it
		if err := l.settle(ctx, settling); err != nil {
			l.close()
			return nil, classed(fmt.Errorf("after the TLS handshake: %w", err))
		}
	}
	return l, nil
}

// classed halts on certificates, which are our setup or the receiver's.
func classed(err error) error {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return sinks.Halt(err)
	}
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "remote error" && (strings.Contains(op.Err.Error(), "certificate") || strings.Contains(op.Err.Error(), "access denied")) {
		return sinks.Halt(err)
	}
	return err
}

// frame appends a message as it goes over the wire.
func (s *Sink) frame(dst []byte, m *sinks.Message) []byte {
	s.buf = s.writer.append(s.buf[:0], m)
	switch {
	case s.to.scheme == "udp":
		return append(dst, s.buf...)
	case s.cfg.Framing == FramingNewline:
		return append(append(dst, s.buf...), '\n')
	default:
		dst = strconv.AppendInt(dst, int64(len(s.buf)), 10)
		return append(append(dst, ' '), s.buf...)
	}
}

// sendBlind writes, and believes in what was written while the connection
// stays open.
func (s *Sink) sendBlind(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if s.to.scheme == "udp" {
		for i := range batch {
			if err := s.link.write(ctx, s.frame(nil, &batch[i])); err != nil {
				s.drop()
				return sinks.Receipt{}, fmt.Errorf("send a datagram: %w", err)
			}
		}
		return sinks.Receipt{Answer: fmt.Sprintf("sent %d datagrams, unconfirmed", len(batch))}, nil
	}
	n, err := s.writeAll(ctx, batch)
	if err == nil {
		err = s.link.failure()
	}
	if err != nil {
		s.drop()
		return sinks.Receipt{}, classed(fmt.Errorf("write: %w", err))
	}
	return sinks.Receipt{Answer: fmt.Sprintf("wrote %d bytes, unconfirmed", n)}, nil
}

func (s *Sink) writeAll(ctx context.Context, batch []sinks.Message) (n int, err error) {
	var out []byte
	for i := range batch {
		out = s.frame(out, &batch[i])
		if len(out) < 64<<10 && i+1 < len(batch) {
			continue
		}
		if err := s.link.write(ctx, out); err != nil {
			return n, err
		}
		n, out = n+len(out), out[:0]
	}
	return n, nil
}

// sendSession sends the batch on a connection of its own, closes our side, and
// waits until the receiver has closed its. A receiver that is killed closes,
// too: so the connection for the next batch is opened before, and must
// outlive this one.
func (s *Sink) sendSession(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	current := s.link
	defer current.close()
	s.link = nil
	n, err := s.onLink(ctx, current, batch)
	if err != nil {
		return sinks.Receipt{}, classed(fmt.Errorf("write: %w", err))
	}
	next, err := s.dial(ctx)
	if err != nil {
		return sinks.Receipt{}, fmt.Errorf("before the end of the session: %w", err)
	}
	if err := current.closeWrite(); err != nil {
		next.close()
		if cause := current.settle(ctx, settling); cause != nil {
			err = cause
		}
		return sinks.Receipt{}, classed(fmt.Errorf("close our side: %w", err))
	}
	if err := current.end(ctx); err != nil {
		next.close()
		return sinks.Receipt{}, sinks.Answered(classed(fmt.Errorf("the receiver did not read to the end: %w", err)))
	}
	if err := next.settle(ctx, witness); err != nil {
		next.close()
		return sinks.Receipt{}, fmt.Errorf("the receiver ended together with the session: %w", err)
	}
	s.link = next
	return sinks.Receipt{Answer: fmt.Sprintf("session of %d bytes read to its end", n)}, nil
}

func (s *Sink) onLink(ctx context.Context, l *link, batch []sinks.Message) (int, error) {
	s.link = l
	defer func() { s.link = nil }()
	return s.writeAll(ctx, batch)
}

// sendRELP sends the batch and waits for the answer to each message.
func (s *Sink) sendRELP(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	answered, refused, err := s.relp.send(ctx, len(batch), s.cfg.Window, func(i int) []byte {
		s.buf = s.writer.append(s.buf[:0], &batch[i])
		return s.buf
	})
	receipt := sinks.Receipt{Answer: fmt.Sprintf("rsp 200 for %d of %d", len(answered), len(batch))}
	for i := range answered {
		delete(s.closed, batch[i].Record.UID)
	}
	if err == nil && len(refused) == 0 {
		return receipt, nil
	}
	if err != nil {
		s.drop()
		err = classed(fmt.Errorf("relp: %w", err))
	}
	failed := map[int]error{}
	first := true
	for i := range batch {
		switch {
		case answered[i]:
			continue
		case refused[i] != "":
			failed[i] = sinks.Answered(fmt.Errorf("relp: answered %s", refused[i]))
		case first && err != nil && errors.Is(err, errPeerClosed):
			failed[i] = s.suspicion(batch[i].Record.UID, err)
		default:
			failed[i] = err
		}
		first = false
	}
	if len(failed) == len(batch) && len(refused) == 0 && sinks.ClassOf(failed[0]) == sinks.ClassOf(err) {
		return receipt, err
	}
	return receipt, &sinks.PartialError{Failed: failed}
}

// suspicion counts how often a message was the first that a closed connection
// left unanswered.
func (s *Sink) suspicion(uid string, err error) error {
	if len(s.closed) > 1000 {
		clear(s.closed)
	}
	if s.closed[uid]++; s.closed[uid] >= closings {
		return sinks.Poison(fmt.Errorf("the receiver closed the connection %d times at this message: %w", s.closed[uid], err))
	}
	return err
}

// errPeerClosed is the end of a connection from the other side.
var errPeerClosed = errors.New("the receiver closed the connection")

// A link is a connection that is read all the time.
type link struct {
	conn   net.Conn
	in     chan []byte   // what came, when it is wanted; closed at the end
	ended  chan struct{} // closed when reading has ended; then err is set
	err    error         // io.EOF: the peer closed
	cancel chan struct{} // closed by close
}

func newLink(conn net.Conn, wanted bool) *link {
	l := &link{conn: conn, ended: make(chan struct{}), cancel: make(chan struct{})}
	if wanted {
		l.in = make(chan []byte, 64)
	}
	go l.read()
	return l
}

func (l *link) read() {
	defer close(l.ended)
	if l.in != nil {
		defer close(l.in)
	}
	for {
		buf := make([]byte, 4096)
		n, err := l.conn.Read(buf)
		if n > 0 && l.in != nil {
			select {
			case l.in <- buf[:n]:
			case <-l.cancel:
				l.err = net.ErrClosed
				return
			}
		}
		if err != nil {
			l.err = err
			return
		}
	}
}

func (l *link) alive() bool {
	select {
	case <-l.ended:
		return false
	default:
		return true
	}
}

// failure is why the connection has ended, nil while it has not.
func (l *link) failure() error {
	select {
	case <-l.ended:
		return peerError(l.err)
	default:
		return nil
	}
}

func peerError(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errPeerClosed
	}
	return err
}

// settle watches the connection for a while and returns why it ended, if it
// did.
func (l *link) settle(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-l.ended:
		return peerError(l.err)
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

// end waits for a clean end of the connection.
func (l *link) end(ctx context.Context) error {
	select {
	case <-l.ended:
		if errors.Is(l.err, io.EOF) {
			return nil
		}
		return l.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// write writes all of b until ctx is done.
func (l *link) write(ctx context.Context, b []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = l.conn.SetWriteDeadline(time.Unix(1, 0)) })
	defer stop()
	_, err := l.conn.Write(b)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		// What the peer said says more than a broken pipe.
		if cause := l.settle(ctx, settling); cause != nil && ctx.Err() == nil {
			return cause
		}
	}
	return err
}

func (l *link) closeWrite() error {
	if c, ok := l.conn.(interface{ CloseWrite() error }); ok {
		if err := c.CloseWrite(); err != nil {
			return err
		}
	}
	if secure, ok := l.conn.(*tls.Conn); ok {
		if c, ok := secure.NetConn().(interface{ CloseWrite() error }); ok {
			return c.CloseWrite()
		}
	}
	return nil
}

func (l *link) close() {
	select {
	case <-l.cancel:
		return
	default:
	}
	close(l.cancel)
	raw := l.conn
	if secure, ok := raw.(*tls.Conn); ok {
		raw = secure.NetConn() // its own Close would wait for a peer that does not read
	}
	_ = raw.Close() // what was written counts by its confirmation
	<-l.ended
}
