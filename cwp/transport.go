package cwp

import (
	"crypto/tls"
	"net/http"
	"os"
	"sync"
	"time"
)

// A transport is the connections of a source. It reads the files of the tls
// block again when they have changed; while new ones cannot be used (a rotation
// under way), the former count.
type transport struct {
	files TLSConfig
	dial  func(*tls.Config) *http.Transport

	mu     sync.Mutex // guards the rest
	now    *http.Transport
	stamps [3]stamp // of the files that now was made of
}

// A stamp tells one content of a file from the next.
type stamp struct {
	modified time.Time
	size     int64
}

func (c TLSConfig) stamps() (all [3]stamp) {
	for i, name := range []string{c.CAFile, c.CertFile, c.KeyFile} {
		if name == "" {
			continue
		}
		if info, err := os.Stat(name); err == nil {
			all[i] = stamp{info.ModTime(), info.Size()}
		}
	}
	return all
}

// newTransport reads the files; its error says which cannot be used.
func newTransport(files TLSConfig, dial func(*tls.Config) *http.Transport) (*transport, error) {
	t := &transport{files: files, dial: dial}
	return t, t.look()
}

func (t *transport) look() error {
	stamps := t.files.stamps()
	if t.now != nil && stamps == t.stamps {
		return nil
	}
	conf, err := t.files.client()
	if err != nil {
		return err
	}
	if t.now != nil {
		t.now.CloseIdleConnections()
	}
	t.now, t.stamps = t.dial(conf), stamps
	return nil
}

func (t *transport) current() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.look() // the former files count
	return t.now
}

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(r *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(r)
}

// CloseIdleConnections is what http.Client calls.
func (t *transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.now.CloseIdleConnections()
}
