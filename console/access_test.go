package console_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

const token = "0123456789abcdef0123456789abcdef"

func guarded(t *testing.T, cfg console.Config) *console.Server {
	t.Helper()
	access, err := console.NewAccess(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return console.New(console.Options{
		Metrics: prometheus.NewRegistry(), Access: access,
		Sources: func() []poller.Status { return nil }, Sinks: func() []delivery.Status { return nil },
		Journal: func(context.Context) (journal.Status, error) { return journal.Status{}, nil },
	})
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestOnlyTheTokenOpensTheConsole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	write(t, path, token+"\n")
	synctest.Test(t, func(t *testing.T) {
		s := guarded(t, console.Config{Listen: "0.0.0.0:9810", TokenFile: path})
		ask := func(path string, header http.Header) (int, time.Duration, http.Header) {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "http://cwprelay.example"+path, http.NoBody)
			r.Header = header
			w := httptest.NewRecorder()
			began := time.Now()
			s.ServeHTTP(w, r)
			if strings.Contains(w.Body.String(), token) {
				t.Error("the token is shown")
			}
			return w.Code, time.Since(began), w.Header()
		}
		bearer := func(text string) http.Header { return http.Header{"Authorization": {"Bearer " + text}} }
		basic := func(text string) http.Header {
			r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/", http.NoBody)
			r.SetBasicAuth("anybody", text)
			return r.Header
		}
		for name, tt := range map[string]struct {
			path   string
			header http.Header
			want   int
			held   bool
		}{
			"the token":              {"/", bearer(token), 200, false},
			"as a password":          {"/metrics", basic(token), 200, false},
			"nothing":                {"/", http.Header{}, 401, false},
			"nothing, for readiness": {"/readyz", http.Header{}, 401, false},
			"alive is no secret":     {"/healthz", http.Header{}, 200, false},
			"another":                {"/", bearer(token + "x"), 401, true},
			"its beginning":          {"/", bearer(token[:31]), 401, true},
			"another password":       {"/metrics", basic("x" + token), 401, true},
		} {
			code, took, h := ask(tt.path, tt.header)
			if code != tt.want || (took >= time.Second) != tt.held {
				t.Errorf("%s: status %d after %v, want %d, held %v", name, code, took, tt.want, tt.held)
			}
			if code == 401 && (h.Get("WWW-Authenticate") == "" || h.Get("Content-Security-Policy") == "") {
				t.Errorf("%s: headers %v", name, h)
			}
		}
		// Guessing is held, and bounded.
		codes := make(chan int, 100)
		for range cap(codes) {
			go func() { code, _, _ := ask("/", bearer("guess")); codes <- code }()
		}
		counts := map[int]int{}
		for range cap(codes) {
			counts[<-codes]++
		}
		if counts[401] == 0 || counts[401] > 20 || counts[401]+counts[429] != 100 {
			t.Errorf("a hundred guesses at once: %v", counts)
		}
		// A token that was changed is in force; one that cannot be one changes
		// nothing.
		next := "another-token-of-some-length"
		write(t, path, next)
		time.Sleep(2 * time.Second)
		if code, _, _ := ask("/", bearer(next)); code != 200 {
			t.Errorf("the new token: status %d", code)
		}
		if code, _, _ := ask("/", bearer(token)); code != 401 {
			t.Errorf("the old token: status %d", code)
		}
		write(t, path, "")
		time.Sleep(2 * time.Second)
		if code, _, _ := ask("/", bearer(next)); code != 200 {
			t.Errorf("while the file is empty: status %d", code)
		}
		if code, _, _ := ask("/", bearer("")); code != 401 {
			t.Errorf("an empty token while the file is empty: status %d", code)
		}
	})
}

// certify makes a certificate of an authority, and writes both.
func certify(t *testing.T, dir, name string, ca *tls.Certificate) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: ca == nil, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	parent, signer := tmpl, any(key)
	if ca != nil {
		parent, signer = ca.Leaf, ca.PrivateKey
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
	write(t, filepath.Join(dir, name+".pem"), string(certPEM))
	write(t, filepath.Join(dir, name+".key"), string(keyPEM))
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}

func TestOnlyClientsOfTheAuthorityAreAnswered(t *testing.T) {
	dir := t.TempDir()
	ca := certify(t, dir, "ca", nil)
	stranger := certify(t, dir, "stranger", nil)
	certify(t, dir, "server", &ca)
	client := certify(t, dir, "client", &ca)
	foreign := certify(t, dir, "foreign", &stranger)
	at := func(name string) string { return filepath.Join(dir, name) }
	s := guarded(t, console.Config{Listen: "0.0.0.0:9810", TLS: console.TLS{CertFile: at("server.pem"), KeyFile: at("server.key"), ClientCAFile: at("ca.pem")}})
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, ln) }()
	roots := x509.NewCertPool()
	roots.AddCert(ca.Leaf)
	ask := func(certs ...tls.Certificate) (serial string, err error) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, Certificates: certs, MinVersion: tls.VersionTLS12}}
		defer transport.CloseIdleConnections()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+ln.Addr().String()+"/metrics", http.NoBody)
		if err != nil {
			return "", err
		}
		resp, err := (&http.Client{Transport: transport}).Do(r)
		if err != nil {
			return "", err
		}
		defer func() { _ = resp.Body.Close() }()
		_, err = io.Copy(io.Discard, resp.Body)
		return resp.TLS.PeerCertificates[0].SerialNumber.String(), err
	}
	first, err := ask(client)
	if err != nil {
		t.Errorf("a client of the authority: %v", err)
	}
	if _, err := ask(); err == nil {
		t.Error("a client without a certificate is answered")
	}
	if _, err := ask(foreign); err == nil {
		t.Error("a client of another authority is answered")
	}
	certify(t, dir, "server", &ca) // renewed
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if now, err := ask(client); err == nil && now != first {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the renewed certificate is not used")
		}
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestAccessThatCannotWorkIsRefused(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "short"), "secret")
	write(t, filepath.Join(dir, "text"), "no certificate")
	certify(t, dir, "server", nil)
	at := func(name string) string { return filepath.Join(dir, name) }
	pair := console.TLS{CertFile: at("server.pem"), KeyFile: at("server.key")}
	noCA := pair
	noCA.ClientCAFile = at("text")
	for want, cfg := range map[string]console.Config{
		"fewer than 20 characters": {TokenFile: at("short")},
		"http.token_file: open":    {TokenFile: at("nosuch")},
		"http.tls: open":           {TLS: console.TLS{CertFile: at("nosuch"), KeyFile: at("nosuch")}},
		"holds no certificate":     {TLS: noCA},
	} {
		if _, err := console.NewAccess(cfg); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("want %q: %v", want, err)
		}
	}
	for want, cfg := range map[string]console.Config{
		"needs token_file":     {Listen: "0.0.0.0:9810"},
		"needs token_file, or": {Listen: ":9810", TLS: pair},
		"key_file is missing":  {Listen: "127.0.0.1:1", TLS: console.TLS{CertFile: "x"}},
		"cert_file is missing": {Listen: "127.0.0.1:1", TLS: console.TLS{KeyFile: "x"}},
		"client_ca_file needs": {Listen: "127.0.0.1:1", TLS: console.TLS{ClientCAFile: "x"}},
		"is not host:port":     {Listen: "nonsense", TokenFile: "x"},
	} {
		if err := cfg.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: want %q: %v", cfg, want, err)
		}
	}
	for _, cfg := range []console.Config{
		{Listen: "127.0.0.1:9810"},
		{Listen: "localhost:1"},
		{Listen: "off"},
		{Listen: "0.0.0.0:1", TokenFile: "x"},
		{Listen: ":1", TLS: noCA},
		{Listen: "[::1]:1"},
	} {
		if err := cfg.Validate(); err != nil {
			t.Errorf("%+v: %v", cfg, err)
		}
	}
}
