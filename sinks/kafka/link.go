package kafka

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"

	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// A link is the connections to a cluster and what was learned of it through
// them. One that failed is closed and replaced: the client keeps its view of
// the cluster for seconds after it was shown to be wrong, ends no request
// whose context is done, and has no time limit for a login.
type link struct {
	client *kafka.Client
	pool   *kafka.Transport
	conns  *conns
	login  *login       // nil: we do not log in
	files  httpx.Stamps // of the TLS files that it was made of
}

// newLink reads the TLS files and makes no connection.
func newLink(cfg Config) (*link, error) {
	hosts, useTLS, err := cfg.addresses()
	if err != nil {
		return nil, err
	}
	l := &link{conns: newConns(cfg.DialTimeout), files: cfg.TLS.Stamps()}
	l.conns.plain = !useTLS
	l.pool = &kafka.Transport{
		Dial:           l.conns.dial,
		DialTimeout:    cfg.DialTimeout,
		ClientID:       cfg.ClientID,
		MetadataTopics: []string{cfg.Topic}, // the default is all of the cluster's
		MetadataTTL:    5 * time.Second,
	}
	if useTLS {
		if l.pool.TLS, err = cfg.TLS.Config(); err != nil {
			return nil, err
		}
	}
	mechanism, err := cfg.SASL.mechanism()
	if err != nil {
		return nil, fmt.Errorf("sasl: the username or password cannot be used with %s", cfg.SASL.Mechanism)
	}
	if mechanism != nil {
		l.login = &login{Mechanism: mechanism}
		l.pool.SASL = l.login
	}
	l.client = &kafka.Client{
		Addr:      kafka.TCP(hosts...),
		Transport: l.pool,
		Timeout:   2 * cfg.RequestTimeout, // the client tells the leader half of it, and half a second without it
	}
	return l, nil
}

// close ends all connections, also those on which an answer is awaited.
func (l *link) close() {
	l.pool.CloseIdleConnections()
	l.conns.close()
}

// hungUp reports whether err is a connection that the broker closed while we
// logged in. Brokers before 1.0, and others that speak the protocol, refuse a
// password that way.
func (l *link) hungUp(err error) bool {
	return l.login != nil && l.login.open.Load() > 0 && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE))
}

// conns are the open connections of one link.
type conns struct {
	dialer net.Dialer
	plain  bool // what comes is the protocol itself, not TLS

	mu     sync.Mutex // guards the fields below
	open   map[*conn]struct{}
	closed bool
}

// A conn leaves its conns when it is closed.
type conn struct {
	net.Conn
	conns *conns
	frame frame
}

// Read reads on, as long as what comes can be Kafka.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if c.conns.plain && !c.frame.takes(b[:n]) {
		return 0, errNoKafka
	}
	return n, err
}

var errNoKafka = errors.New("what answers does not speak Kafka")

// maxFrame is the most that one answer may be, in bytes. Ours are small; the
// metadata of a topic with thousands of partitions is not.
const maxFrame = 64 << 20

// A frame is how far the answer is read that comes: a length of four bytes and
// as many more. The client crashes on a length that is none.
type frame struct {
	head [4]byte
	have int // bytes of head
	left int // of the answer
	bad  bool
}

// takes reports whether more bytes can be Kafka's.
func (f *frame) takes(b []byte) bool {
	for len(b) > 0 && !f.bad {
		if f.left > 0 {
			n := min(f.left, len(b))
			f.left, b = f.left-n, b[n:]
			continue
		}
		f.head[f.have] = b[0]
		b = b[1:]
		if f.have++; f.have < len(f.head) {
			continue
		}
		size := int32(binary.BigEndian.Uint32(f.head[:])) //nolint:gosec // negative ones are what is looked for
		f.have, f.left, f.bad = 0, int(size), size < 0 || size > maxFrame
	}
	return !f.bad
}

func newConns(timeout time.Duration) *conns {
	return &conns{dialer: net.Dialer{Timeout: timeout, KeepAlive: 15 * time.Second}, open: map[*conn]struct{}{}}
}

func (c *conns) dial(ctx context.Context, network, address string) (net.Conn, error) {
	raw, err := c.dialer.DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	one := &conn{Conn: raw, conns: c}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, errors.Join(net.ErrClosed, raw.Close())
	}
	c.open[one] = struct{}{}
	return one, nil
}

// Close closes the connection.
func (c *conn) Close() error {
	c.conns.mu.Lock()
	delete(c.conns.open, c)
	c.conns.mu.Unlock()
	return c.Conn.Close()
}

// close closes all connections and lets no new one be made.
func (c *conns) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for one := range c.open {
		_ = one.Conn.Close() // whoever uses it gets the error
	}
	clear(c.open)
}

// A login is a mechanism that knows how many logins have begun and not ended
// well.
type login struct {
	sasl.Mechanism
	open atomic.Int64
}

// Start begins a login.
func (m *login) Start(ctx context.Context) (sasl.StateMachine, []byte, error) {
	session, first, err := m.Mechanism.Start(ctx)
	if err != nil {
		return nil, nil, loginError{err}
	}
	m.open.Add(1)
	return &loginSession{StateMachine: session, login: m}, first, nil
}

// A loginSession is one login.
type loginSession struct {
	sasl.StateMachine
	login *login
}

// Next takes the broker's answer. An error means that the broker refused us,
// or could not show that it knows the password.
func (s *loginSession) Next(ctx context.Context, challenge []byte) (bool, []byte, error) {
	done, response, err := s.StateMachine.Next(ctx, challenge)
	if err != nil {
		return false, nil, loginError{err}
	}
	if done {
		s.login.open.Add(-1)
	}
	return done, response, nil
}

// loginError says that a login failed by what was said, not by the network.
type loginError struct{ err error }

func (e loginError) Error() string { return "log in: " + e.err.Error() }
func (e loginError) Unwrap() error { return e.err }

// aboutCertificates reports whether err is a certificate that we do not
// accept, or ours that the broker does not. crypto/tls keeps the type of a
// peer's alert to itself; its text is in the error.
func aboutCertificates(err error) bool {
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return true
	}
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "remote error" && certificateAlert(op.Err.Error())
}
