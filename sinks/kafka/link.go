package kafka

import (
	"context"
	"crypto/tls"
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

	mu     sync.Mutex // guards the fields below
	open   map[*conn]struct{}
	closed bool
}

// A conn leaves its conns when it is closed.
type conn struct {
	net.Conn
	conns *conns
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
