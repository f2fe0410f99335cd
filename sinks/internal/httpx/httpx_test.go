package httpx_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func client(t *testing.T, cfg httpx.HTTP, secrets ...secret.String) *httpx.Client {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	c := httpx.New(cfg, secrets...)
	t.Cleanup(c.Close)
	return c
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func post(t *testing.T, c *httpx.Client, address, body string) (*httpx.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return c.Do(req)
}

func TestReadsAnswers(t *testing.T) {
	var connections atomic.Int64
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.Header().Set("X-Agent", r.UserAgent())
		w.WriteHeader(http.StatusAccepted)
		_, _ = w.Write(body)
	}))
	srv.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			connections.Add(1)
		}
	}
	srv.Start()
	t.Cleanup(srv.Close)
	c := client(t, httpx.HTTP{})
	for _, size := range []int{0, 5, httpx.MaxBody, httpx.MaxBody + 1, 3 * httpx.MaxBody} {
		r, err := post(t, c, srv.URL, strings.Repeat("x", size))
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Body) != min(size, httpx.MaxBody) || r.Cut != (size > httpx.MaxBody) || r.Status != 202 {
			t.Errorf("answer of %d bytes: %d read, cut %t, status %d", size, len(r.Body), r.Cut, r.Status)
		}
		if got := r.Header.Get("X-Agent"); got != "cwprelay" {
			t.Errorf("user agent %q", got)
		}
	}
	if got := connections.Load(); got != 1 {
		t.Errorf("%d connections for requests one after the other, want 1", got)
	}
}

func TestBrokenBodies(t *testing.T) {
	for _, status := range []int{200, 401, 503} {
		address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, "begin")
			_ = http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		})
		r, err := post(t, client(t, httpx.HTTP{}), address, "")
		if status == 200 {
			if err == nil || sinks.ClassOf(err) != sinks.ClassRetry || sinks.IsAnswer(err) {
				t.Errorf("%d: %v, want a failure of the network", status, err)
			}
			continue
		}
		if err != nil || r.Status != status || string(r.Body) != "begin" || !r.Cut {
			t.Errorf("%d: %+v, %v, want the refusal to stand", status, r, err)
		}
	}
}

// Nothing compressed is asked for, and nothing is unpacked: 64 KiB stay 64 KiB.
func TestAsksForNoCompression(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, r.Header.Get("Accept-Encoding"))
	})
	r, err := post(t, client(t, httpx.HTTP{}), address, "")
	if err != nil || len(r.Body) > 0 {
		t.Errorf("Accept-Encoding %q, %v", r.Body, err)
	}
}

func TestSecretsAreMasked(t *testing.T) {
	hidden := secret.New("/T0000/B1111/geheim+geheim")
	address := serve(t, func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusForbidden)
		for _, form := range []string{
			hidden.Reveal(), url.QueryEscape(hidden.Reveal()), url.PathEscape(hidden.Reveal()),
			base64.StdEncoding.EncodeToString([]byte(hidden.Reveal())), r.URL.Path,
		} {
			_, _ = io.WriteString(w, form+"\n")
		}
	})
	r, err := post(t, client(t, httpx.HTTP{}, hidden), address+hidden.Reveal(), "")
	if err != nil {
		t.Fatal(err)
	}
	want := strings.TrimSpace(strings.Repeat(secret.Mask+" ", 5))
	if got := r.Excerpt(); got != want {
		t.Errorf("excerpt %q, want %q", got, want)
	}
	srv := httptest.NewServer(nil)
	srv.Close()
	_, err = post(t, client(t, httpx.HTTP{}, hidden), srv.URL+hidden.Reveal()+"?token=geheim", "")
	if err == nil || strings.Contains(err.Error(), "geheim") || strings.Contains(err.Error(), "T0000") {
		t.Errorf("error shows the address: %v", err)
	}
}

// A peer that is no HTTP server has its words in the error; with a secret in
// them the cause is dropped, not only its text masked.
func TestSecretsInErrorsAreMasked(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	defer func() { l.Close(); <-done }()
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "ERR bad token geheim-geheim\r\n\r\n")
			_ = c.Close()
		}
	}()
	_, err = post(t, client(t, httpx.HTTP{}, secret.New("geheim-geheim")), "http://"+l.Addr().String(), "")
	for e := err; e != nil; e = errors.Unwrap(e) {
		if strings.Contains(e.Error(), "geheim") {
			t.Errorf("shows the secret: %v", e)
		}
	}
	if err == nil {
		t.Error("no error")
	}
}

func TestExcerptIsOneShortLine(t *testing.T) {
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusTeapot)
		_, _ = io.WriteString(w, "a\r\n\tb\x00\x1b[31m\u202e\xff"+strings.Repeat("ä", 300))
	})
	r, err := post(t, client(t, httpx.HTTP{}), address, "")
	if err != nil {
		t.Fatal(err)
	}
	got := r.Excerpt()
	if !strings.HasPrefix(got, "a b [31m ää") || len([]rune(got)) != 201 || !strings.HasSuffix(got, "…") {
		t.Errorf("excerpt %q", got)
	}
	if got := r.Err().Error(); !strings.HasPrefix(got, "answered 418 I'm a teapot: a b") {
		t.Errorf("error %q", got)
	}
}

func TestParseRetryAfter(t *testing.T) {
	now := time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"": 0, "0": 0, "1": time.Second, " 30 ": 30 * time.Second, "3600": time.Hour, "3601": time.Hour, "9223372036854775807": time.Hour,
		"9223372036854775808": 0, "-1": 0, "1.5": 0, "1s": 0, "soon": 0, "0x10": 0,
		"Wed, 04 Mar 2026 05:07:07 GMT":     time.Minute,
		"Wednesday, 04-Mar-26 05:07:07 GMT": time.Minute,
		"Wed Mar  4 05:07:07 2026":          time.Minute,
		"Wed, 04 Mar 2026 05:05:07 GMT":     0,
		"Thu, 05 Mar 2026 05:05:07 GMT":     time.Hour,
		"2026-03-04T05:07:07Z":              0,
	} {
		if got := httpx.ParseRetryAfter(value, now); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// Every row of the webhook's table.
func TestClass(t *testing.T) {
	answered := map[int]bool{500: true, 507: true}
	for class, statuses := range map[sinks.Class][]int{
		sinks.ClassRetry:    {408, 425, 429, 500, 502, 503, 504, 507, 520, 525, 530},
		sinks.ClassTooLarge: {413},
		sinks.ClassPoison:   {400, 422},
		sinks.ClassHalt:     {301, 302, 304, 308, 401, 403, 404, 405, 406, 407, 410, 415, 501},
	} {
		for _, status := range statuses {
			err := (&httpx.Response{Status: status, Header: http.Header{"Retry-After": {"9"}}}).Class()
			if got := sinks.ClassOf(err); err == nil || got != class {
				t.Errorf("%d: class %v, want %v", status, got, class)
			}
			if class != sinks.ClassRetry {
				continue
			}
			if got := sinks.RetryAfter(err); got != 9*time.Second {
				t.Errorf("%d: waits %s, want 9s", status, got)
			}
			if got := sinks.IsAnswer(err); got != answered[status] {
				t.Errorf("%d: IsAnswer %t, want %t", status, got, answered[status])
			}
		}
	}
	for _, status := range []int{402, 418, 451, 519, 531, 599, 999} {
		err := (&httpx.Response{Status: status}).Class()
		if err == nil || sinks.ClassOf(err) != sinks.ClassRetry || !sinks.IsAnswer(err) {
			t.Errorf("%d: %v, want a retryable answer", status, err)
		}
	}
	for _, status := range []int{200, 201, 202, 204, 299} {
		if err := (&httpx.Response{Status: status}).Class(); err != nil {
			t.Errorf("%d: %v", status, err)
		}
	}
}

func TestValidate(t *testing.T) {
	for proxy, good := range map[string]bool{
		"": true, "http://proxy:3128": true, "https://u:p@proxy": true, "socks5://proxy:1080": true, "socks5h://proxy": true,
		"proxy:3128": false, "ftp://proxy": false, "http://": false, "http://pro xy": false, "://geheim": false,
	} {
		err := httpx.HTTP{Proxy: secret.New(proxy)}.Validate()
		if (err == nil) != good {
			t.Errorf("proxy %q: %v", proxy, err)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "proxy: ") || strings.Contains(err.Error(), "geheim")) {
			t.Errorf("proxy %q: %v", proxy, err)
		}
	}
	for name, c := range map[string]struct {
		tls  httpx.TLS
		want string
	}{
		"nothing":     {httpx.TLS{}, ""},
		"pair":        {httpx.TLS{CertFile: "c", KeyFile: "k"}, ""},
		"no key":      {httpx.TLS{CertFile: "c"}, "tls.key_file: "},
		"no cert":     {httpx.TLS{KeyFile: "k"}, "tls.cert_file: "},
		"useless CA":  {httpx.TLS{CAFile: "a", InsecureSkipVerify: true}, "tls.insecure_skip_verify: "},
		"not checked": {httpx.TLS{InsecureSkipVerify: true}, ""},
	} {
		err := httpx.HTTP{TLS: c.tls}.Validate()
		if (err == nil) != (c.want == "") || err != nil && !strings.HasPrefix(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
	err := httpx.HTTP{Proxy: secret.New("x"), TLS: httpx.TLS{KeyFile: "k", InsecureSkipVerify: true, CAFile: "c"}}.Validate()
	if got := strings.Count(err.Error(), "\n") + 1; got != 3 {
		t.Errorf("%d mistakes reported, want 3: %v", got, err)
	}
}

func TestProxyComesFromConfigurationOnly(t *testing.T) {
	var proxied atomic.Int64
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) {
		proxied.Add(1)
		if r.Method == http.MethodConnect {
			w.WriteHeader(http.StatusProxyAuthRequired)
		}
	})
	t.Setenv("HTTP_PROXY", proxy)
	t.Setenv("HTTPS_PROXY", proxy)
	t.Setenv("ALL_PROXY", proxy)
	if _, err := post(t, client(t, httpx.HTTP{}), "http://destination.invalid/", ""); err == nil || proxied.Load() > 0 {
		t.Errorf("the environment's proxy was used %d times: %v", proxied.Load(), err)
	}
	configured := client(t, httpx.HTTP{Proxy: secret.New(proxy)})
	if r, err := post(t, configured, "http://destination.invalid/", ""); err != nil || r.Status != 200 || proxied.Load() != 1 {
		t.Errorf("the configured proxy was used %d times: %v", proxied.Load(), err)
	}
	_, err := post(t, configured, "https://destination.invalid/", "")
	if err == nil || sinks.ClassOf(err) != sinks.ClassHalt || !strings.Contains(err.Error(), "407") {
		t.Errorf("class %v of %v, want halt: the proxy wants credentials", sinks.ClassOf(err), err)
	}
}

func TestRefusesPrivateAddresses(t *testing.T) {
	c := client(t, httpx.HTTP{RefusePrivate: true})
	for _, host := range []string{
		"127.0.0.1", "127.8.9.10", "localhost", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "169.254.0.23", "100.100.100.200",
		"100.64.0.1", "0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1",
		"[::1]", "[::]", "[fe80::1]", "[fd00::1]", "[ff02::1]", "[::ffff:127.0.0.1]", "[::ffff:169.254.169.254]",
		"[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[2001::1]",
	} {
		_, err := post(t, c, "http://"+host+":1/", "")
		if err == nil || sinks.ClassOf(err) != sinks.ClassHalt || !strings.Contains(err.Error(), "not a public address") {
			t.Errorf("%s: class %v of %v, want halt", host, sinks.ClassOf(err), err)
		}
	}
	// A name is judged by what it resolves to; the connection is not made.
	var asked atomic.Int64
	address := serve(t, func(http.ResponseWriter, *http.Request) { asked.Add(1) })
	_, _ = post(t, c, strings.Replace(address, "127.0.0.1", "localhost", 1), "")
	if asked.Load() > 0 {
		t.Error("connected to a private address")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // public addresses must not be dialled by a test
	req, _ := http.NewRequestWithContext(ctx, http.MethodPost, "http://203.0.113.1/", http.NoBody)
	if _, err := c.Do(req); sinks.ClassOf(err) == sinks.ClassHalt {
		t.Errorf("public address: %v", err)
	}
}

// authority issues certificates.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns the certificate and key for a name, as PEM.
func (a *authority) issue(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	der8, err := x509.MarshalPKCS8PrivateKey(own)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der8})
}

// serveTLS answers with the name in the client's certificate.
func serveTLS(t *testing.T, a *authority, change func(*tls.Config)) string {
	t.Helper()
	pair, err := tls.X509KeyPair(a.issue(t, "splunk.test"))
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, cert := range r.TLS.PeerCertificates {
			_, _ = io.WriteString(w, cert.Subject.CommonName)
		}
	}))
	srv.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	if change != nil {
		change(srv.TLS)
	}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are what is tested
	srv.StartTLS()
	t.Cleanup(srv.Close)
	return srv.URL
}

func write(t *testing.T, name string, data []byte) {
	t.Helper()
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestVerifiesCertificates(t *testing.T) {
	a := newAuthority(t, "one")
	ca, other := filepath.Join(t.TempDir(), "ca.pem"), filepath.Join(t.TempDir(), "other.pem")
	write(t, ca, a.pem)
	write(t, other, newAuthority(t, "two").pem)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	write(t, empty, []byte("nothing"))
	good := serveTLS(t, a, nil)
	old := serveTLS(t, a, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS11; c.MinVersion = tls.VersionTLS10 })
	for name, c := range map[string]struct {
		address string
		tls     httpx.TLS
		want    sinks.Class // -1: accepted
	}{
		"right":                      {good, httpx.TLS{CAFile: ca, ServerName: "splunk.test"}, -1},
		"wrong name":                 {good, httpx.TLS{CAFile: ca}, sinks.ClassHalt},
		"wrong authority":            {good, httpx.TLS{CAFile: other, ServerName: "splunk.test"}, sinks.ClassHalt},
		"system's authorities":       {good, httpx.TLS{ServerName: "splunk.test"}, sinks.ClassHalt},
		"not verified, as asked":     {good, httpx.TLS{InsecureSkipVerify: true}, -1},
		"TLS 1.1":                    {old, httpx.TLS{InsecureSkipVerify: true}, sinks.ClassRetry},
		"no such file":               {good, httpx.TLS{CAFile: ca + ".not"}, sinks.ClassHalt},
		"file without a certificate": {good, httpx.TLS{CAFile: empty}, sinks.ClassHalt},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := post(t, client(t, httpx.HTTP{TLS: c.tls}), c.address, "")
			if c.want == -1 {
				if err != nil || r.Status != 200 {
					t.Error(err)
				}
				return
			}
			if err == nil || sinks.ClassOf(err) != c.want {
				t.Errorf("class %v of %v, want %v", sinks.ClassOf(err), err, c.want)
			}
		})
	}
}

func TestShowsOurCertificate(t *testing.T) {
	a := newAuthority(t, "one")
	dir := t.TempDir()
	files := httpx.TLS{
		CAFile: filepath.Join(dir, "ca.pem"), CertFile: filepath.Join(dir, "cert.pem"), KeyFile: filepath.Join(dir, "key.pem"),
		ServerName: "splunk.test",
	}
	write(t, files.CAFile, a.pem)
	cert, key := a.issue(t, "first")
	write(t, files.CertFile, cert)
	write(t, files.KeyFile, key)
	address := serveTLS(t, a, func(c *tls.Config) {
		c.ClientAuth = tls.RequireAndVerifyClientCert
		c.ClientCAs = x509.NewCertPool()
		c.ClientCAs.AddCert(a.cert)
	})
	c := client(t, httpx.HTTP{TLS: files})
	name := func() string {
		t.Helper()
		r, err := post(t, c, address, "")
		if err != nil {
			t.Fatal(err)
		}
		return string(r.Body)
	}
	if got := name(); got != "first" {
		t.Errorf("showed %q, want first", got)
	}
	// A rotation: between the two files the former pair goes on to be used.
	cert, key = a.issue(t, "second name") // another length: the time stamp may be the same
	write(t, files.CertFile, cert)
	if got := name(); got != "first" {
		t.Errorf("within the rotation showed %q, want first", got)
	}
	write(t, files.KeyFile, key)
	if got := name(); got != "second name" {
		t.Errorf("after the rotation showed %q, want the second", got)
	}
	stranger := client(t, httpx.HTTP{TLS: httpx.TLS{CAFile: files.CAFile, ServerName: "splunk.test"}})
	if _, err := post(t, stranger, address, ""); err == nil || sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("without a certificate: class %v of %v, want halt", sinks.ClassOf(err), err)
	}
}
