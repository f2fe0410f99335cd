package console

import (
	"cmp"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// TLS makes the console speak HTTPS. The files are read again when they change.
type TLS struct {
	CertFile     string `koanf:"cert_file"`      // PEM; the console's certificate, with key_file
	KeyFile      string `koanf:"key_file"`       // PEM
	ClientCAFile string `koanf:"client_ca_file"` // PEM; only clients with a certificate of these authorities are answered
}

// leastToken is the least length of a token: fewer characters can be guessed.
const leastToken = 20

// An Access decides who is answered. Nil lets everybody in.
type Access struct {
	cfg Config

	mu       sync.Mutex // guards the rest
	token    [sha256.Size]byte
	stamp    string
	cert     *tls.Certificate
	clientCA *x509.CertPool
	looked   time.Time

	slow chan struct{} // one for each wrong attempt that is being held
}

// NewAccess reads the files that the configuration names; nil where it names
// none. An error names the option and the file.
func NewAccess(cfg Config) (*Access, error) {
	if cfg.TokenFile == "" && cfg.TLS == (TLS{}) {
		return nil, nil //nolint:nilnil // documented: nothing to check
	}
	a := &Access{cfg: cfg, slow: make(chan struct{}, 20)}
	return a, a.read()
}

// Open reports whether the token goes over the network unencrypted.
func (a *Access) Open() bool {
	return a != nil && a.cfg.TokenFile != "" && a.cfg.TLS.CertFile == "" && !isLoopback(a.cfg.Listen)
}

// lookEvery is how often the files are looked at.
const lookEvery = time.Second

// read reads what the files hold now. What cannot be read leaves what was read
// before.
func (a *Access) read() error {
	var stamps []string
	for _, path := range []string{a.cfg.TokenFile, a.cfg.TLS.CertFile, a.cfg.TLS.KeyFile, a.cfg.TLS.ClientCAFile} {
		one := path
		if info, err := os.Stat(path); path != "" && err == nil {
			one = fmt.Sprint(path, info.ModTime(), info.Size())
		}
		stamps = append(stamps, one)
	}
	stamp := strings.Join(stamps, "|")
	if stamp == a.stamp {
		return nil
	}
	token, cert, pool := a.token, a.cert, a.clientCA
	if path := a.cfg.TokenFile; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("http.token_file: %w", err)
		}
		trimmed := strings.TrimSpace(string(text))
		if len(trimmed) < leastToken {
			return fmt.Errorf("http.token_file: %s holds fewer than %d characters; make one with: openssl rand -hex 32", path, leastToken)
		}
		token = sha256.Sum256([]byte(trimmed))
	}
	if path := a.cfg.TLS.CertFile; path != "" {
		pair, err := tls.LoadX509KeyPair(path, a.cfg.TLS.KeyFile)
		if err != nil {
			return fmt.Errorf("http.tls: %w", err)
		}
		cert = &pair
	}
	if path := a.cfg.TLS.ClientCAFile; path != "" {
		text, err := os.ReadFile(path)
		if err != nil {
			return fmt.Errorf("http.tls.client_ca_file: %w", err)
		}
		pool = x509.NewCertPool()
		if !pool.AppendCertsFromPEM(text) {
			return fmt.Errorf("http.tls.client_ca_file: %s holds no certificate in PEM", path)
		}
	}
	a.token, a.cert, a.clientCA, a.stamp = token, cert, pool, stamp
	return nil
}

// look reads the files again where they have changed. A file that is wrong now
// changes nothing.
func (a *Access) look() {
	if now := time.Now(); now.Sub(a.looked) >= lookEvery {
		a.looked = now
		_ = a.read() // what was read before stays in force
	}
}

// listener makes ln speak TLS, if that is configured.
func (a *Access) listener(ln net.Listener) net.Listener {
	if a == nil || a.cfg.TLS.CertFile == "" {
		return ln
	}
	return tls.NewListener(ln, &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			a.look()
			c := &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, Certificates: []tls.Certificate{*a.cert}}
			if a.clientCA != nil {
				c.ClientCAs, c.ClientAuth = a.clientCA, tls.RequireAndVerifyClientCert
			}
			return c, nil
		},
	})
}

// guards reports whether requests are checked by more than their host name.
func (a *Access) guards() bool {
	return a != nil && (a.cfg.TokenFile != "" || a.cfg.TLS.ClientCAFile != "")
}

// allow reports whether a request bears the token, as a bearer token or as the
// password of any user, and answers it when not. /healthz says nothing and
// needs none. A wrong token waits a second for its answer.
func (a *Access) allow(w http.ResponseWriter, r *http.Request) bool {
	if a == nil || a.cfg.TokenFile == "" || r.URL.Path == "/healthz" {
		return true
	}
	given, bearer := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !bearer {
		_, given, _ = r.BasicAuth()
	}
	sum := sha256.Sum256([]byte(given))
	a.mu.Lock()
	a.look()
	ok := subtle.ConstantTimeCompare(sum[:], a.token[:]) == 1
	a.mu.Unlock()
	if ok {
		return true
	}
	if given != "" {
		select {
		case a.slow <- struct{}{}:
			defer func() { <-a.slow }()
		default:
			http.Error(w, "too many wrong tokens", http.StatusTooManyRequests)
			return false
		}
		t := time.NewTimer(time.Second)
		defer t.Stop()
		select {
		case <-t.C:
		case <-r.Context().Done():
		}
	}
	w.Header().Set("WWW-Authenticate", `Basic realm="cwprelay", charset="UTF-8"`)
	http.Error(w, "a token is required: as a bearer token, or as the password of any user", http.StatusUnauthorized)
	return false
}

// isLoopback reports whether only this machine can reach an address.
func isLoopback(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}

// validateAccess reports what is missing for the address that is listened on.
func (c Config) validateAccess() error {
	var errs []error
	if (c.TLS.CertFile == "") != (c.TLS.KeyFile == "") {
		errs = append(errs, fmt.Errorf("tls: %s is missing: cert_file and key_file belong together", cmp.Or(map[bool]string{true: "cert_file"}[c.TLS.CertFile == ""], "key_file")))
	}
	if c.TLS.ClientCAFile != "" && c.TLS.CertFile == "" {
		errs = append(errs, errors.New("tls: client_ca_file needs cert_file and key_file"))
	}
	if !isLoopback(c.Listen) && c.TokenFile == "" && c.TLS.ClientCAFile == "" {
		errs = append(errs, errors.New("listen: an address that others can reach needs token_file, or tls with client_ca_file; or use a loopback address such as 127.0.0.1:9810, or off"))
	}
	return errors.Join(errs...)
}
