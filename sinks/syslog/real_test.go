package syslog_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/syslog"
)

// A server is a real syslog server as a process.
type server struct {
	t    *testing.T
	dir  string
	port string
	args []string
	cmd  *exec.Cmd
	over chan struct{} // closed when the process has ended
}

// rsyslogd returns the program and where its modules are.
func rsyslogd(t *testing.T) (program, modules string) {
	t.Helper()
	home := sinktest.RealFolder(t, "CWPRELAY_RSYSLOG_HOME", "the packages rsyslog, rsyslog-relp and rsyslog-gnutls, unpacked (dpkg -x) into a folder that CWPRELAY_RSYSLOG_HOME names")
	return filepath.Join(home, "usr/sbin/rsyslogd"), filepath.Join(home, "usr/lib/x86_64-linux-gnu/rsyslog")
}

// startServer writes the configuration, in which DIR and PORT are replaced,
// and starts the server.
func startServer(t *testing.T, config string, args ...string) *server {
	t.Helper()
	s := &server{t: t, dir: t.TempDir(), port: sinktest.FreePort(t)}
	replace := strings.NewReplacer("DIR", s.dir, "PORT", s.port)
	if err := os.WriteFile(filepath.Join(s.dir, "conf"), []byte(replace.Replace(config)), 0o600); err != nil {
		t.Fatal(err)
	}
	writeCertificates(t, s.dir)
	for _, a := range args {
		s.args = append(s.args, replace.Replace(a))
	}
	s.start()
	t.Cleanup(s.kill)
	return s
}

func (s *server) start() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(s.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		s.t.Fatal(err)
	}
	defer log.Close()
	_ = os.Remove(filepath.Join(s.dir, "pid"))
	s.cmd = exec.CommandContext(context.WithoutCancel(s.t.Context()), s.args[0], s.args[1:]...)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.over = make(chan struct{})
	go func(cmd *exec.Cmd, over chan struct{}) {
		_ = cmd.Wait()
		close(over)
	}(s.cmd, s.over)
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", "127.0.0.1:"+s.port)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(s.dir, "log"))
			s.t.Fatalf("%s does not listen:\n%s", s.args[0], text)
		}
	}
}

func (s *server) kill() {
	_ = s.cmd.Process.Kill()
	<-s.over
}

// written counts the messages that the server's file has, by event id.
func (s *server) written() map[string]int {
	text, _ := os.ReadFile(filepath.Join(s.dir, "out"))
	out := map[string]int{}
	for line := range bytes.Lines(text) {
		_, rest, ok := bytes.Cut(line, []byte(`"event_id":`))
		if id, _, whole := bytes.Cut(rest, []byte(",")); ok && whole && bytes.HasSuffix(line, []byte("\n")) {
			out[string(id)]++
		}
	}
	return out
}

// writeCertificates makes an authority and a certificate of 127.0.0.1.
func writeCertificates(t *testing.T, dir string) {
	t.Helper()
	put := func(name, kind string, der []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	now := time.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "127.0.0.1"}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	caKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	caDER, err := x509.CreateCertificate(rand.Reader, authority, authority, &caKey.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, caKey)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	put("ca.pem", "CERTIFICATE", caDER)
	put("cert.pem", "CERTIFICATE", der)
	put("key.pem", "PRIVATE KEY", keyDER)
}

// Direct queues and a file that is flushed with each write: what was answered
// is with the system.
const rsyslogRules = `
template(name="raw" type="string" string="%rawmsg%\n")
ruleset(name="in" queue.type="Direct") { action(type="omfile" file="DIR/out" template="raw" asyncWriting="off" flushOnTXEnd="on" ioBufferSize="4k") }
global(workDirectory="DIR" maxMessageSize="64k" defaultNetstreamDriver="gtls" defaultNetstreamDriverCAFile="DIR/ca.pem"
  defaultNetstreamDriverCertFile="DIR/cert.pem" defaultNetstreamDriverKeyFile="DIR/key.pem")
`

const syslogNGRules = `@version: 3.35
options { keep-hostname(yes); log-msg-size(65536); stats-freq(0); flush-lines(1); time-reopen(1); };
destination d { file("DIR/out" template("$RAWMSG\n") flush-lines(1)); };
`

// realServers are the servers and how each confirms.
func realServers(t *testing.T) map[string]func(t *testing.T) (*server, syslog.Config) {
	t.Helper()
	rsyslog := func(scheme, input string) func(t *testing.T) (*server, syslog.Config) {
		return func(t *testing.T) (*server, syslog.Config) {
			t.Helper()
			program, modules := rsyslogd(t)
			s := startServer(t, rsyslogRules+input, program, "-n", "-f", "DIR/conf", "-i", "DIR/pid", "-M", modules)
			return s, s.config(scheme)
		}
	}
	syslogNG := func(scheme, source string) func(t *testing.T) (*server, syslog.Config) {
		return func(t *testing.T) (*server, syslog.Config) {
			t.Helper()
			program := sinktest.RealProgram(t, "syslog-ng", "syslog-ng-core")
			s := startServer(t, syslogNGRules+source+"\nlog { source(s); destination(d); flags(flow-control); };\n",
				program, "-F", "--no-caps", "-f", "DIR/conf", "-R", "DIR/persist", "-p", "DIR/pid", "-c", "DIR/ctl")
			return s, s.config(scheme)
		}
	}
	return map[string]func(t *testing.T) (*server, syslog.Config){
		"rsyslog relp": rsyslog("relp", `module(load="imrelp") input(type="imrelp" port="PORT" address="127.0.0.1" ruleset="in" maxDataSize="64k")`),
		"rsyslog relp TLS": rsyslog("relp+tls", `module(load="imrelp") input(type="imrelp" port="PORT" address="127.0.0.1" ruleset="in" maxDataSize="64k"
  tls="on" tls.caCert="DIR/ca.pem" tls.myCert="DIR/cert.pem" tls.myPrivKey="DIR/key.pem" tls.authMode="name" tls.permittedPeer=["127.0.0.1"])`),
		"rsyslog imptcp": rsyslog("tcp", `module(load="imptcp") input(type="imptcp" port="PORT" address="127.0.0.1" ruleset="in")`),
		"rsyslog imtcp":  rsyslog("tcp", `module(load="imtcp") input(type="imtcp" port="PORT" address="127.0.0.1" ruleset="in")`),
		"rsyslog imtcp TLS": rsyslog("tls", `module(load="imtcp" streamDriver.name="gtls" streamDriver.mode="1" streamDriver.authMode="x509/certvalid")
input(type="imtcp" port="PORT" address="127.0.0.1" ruleset="in")`),
		"syslog-ng TCP": syslogNG("tcp", `source s { syslog(ip("127.0.0.1") port(PORT) transport("tcp") flags(store-raw-message) max-connections(50) log-iw-size(5000)); };`),
		"syslog-ng TLS": syslogNG("tls", `source s { syslog(ip("127.0.0.1") port(PORT) transport("tls") flags(store-raw-message) max-connections(50) log-iw-size(5000)
  tls(key-file("DIR/key.pem") cert-file("DIR/cert.pem") ca-file("DIR/ca.pem") peer-verify(required-trusted))); };`),
	}
}

func (s *server) config(scheme string) syslog.Config {
	cfg := syslog.Config{Address: scheme + "://127.0.0.1:" + s.port, MaxMessageBytes: 8192}
	if strings.HasSuffix(scheme, "tls") {
		cfg.TLS = httpx.TLS{CAFile: filepath.Join(s.dir, "ca.pem"), CertFile: filepath.Join(s.dir, "cert.pem"), KeyFile: filepath.Join(s.dir, "key.pem")}
	}
	return cfg
}

// batchFrom are n messages, of which only those of the numbers exist once.
func batchFrom(first, n int) []sinks.Message {
	batch := make([]sinks.Message, 0, n)
	for i := first; i < first+n; i++ {
		r := sinktest.Record(i)
		batch = append(batch, sinks.Message{Record: r, Body: fmt.Appendf(nil, `{"event_id":%d,"text":"%s"}`, i, strings.Repeat("x", 300))})
	}
	return batch
}

// TestRealServers sends to each server, kills it by -9 and stops it in the
// middle of batches, and compares what it wrote with what was confirmed.
func TestRealServers(t *testing.T) {
	for name, begin := range realServers(t) {
		t.Run(name, func(t *testing.T) {
			srv, cfg := begin(t)
			s := open(t, cfg)
			confirmed := map[string]bool{}
			const size = 200
			killed := false // or about to be
			for n := range 24 {
				if n%6 == 2 { // in the middle of a batch, as far as one can tell
					killed = true
					kill := time.AfterFunc(time.Duration(n)*time.Millisecond, func() { _ = srv.cmd.Process.Kill() })
					defer kill.Stop()
				}
				if n%6 == 5 {
					_ = srv.cmd.Process.Signal(syscall.SIGSTOP)
					time.AfterFunc(300*time.Millisecond, func() { _ = srv.cmd.Process.Signal(syscall.SIGCONT) })
				}
				batch := batchFrom(n*size, size)
				for deadline := time.Now().Add(time.Minute); len(batch) > 0; {
					ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
					_, err := s.Send(ctx, batch)
					cancel()
					batch = rest(batch, err, confirmed)
					switch {
					case err == nil:
					case time.Now().After(deadline):
						t.Fatalf("batch %d is not accepted: %v", n, err)
					case killed:
						<-srv.over
						srv.start()
						killed = false
					}
				}
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
			missing := 0
			for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
				have := srv.written()
				missing = 0
				for id := range confirmed {
					if have[id] == 0 {
						missing++
					}
				}
				if missing == 0 || time.Now().After(deadline) {
					t.Logf("%d confirmed, %d written, %d missing", len(confirmed), len(have), missing)
					break
				}
			}
			if missing > 0 || len(confirmed) != 24*size {
				t.Errorf("%d of %d confirmed messages are missing", missing, len(confirmed))
			}
		})
	}
}

// rest notes what was accepted and returns what was not.
func rest(batch []sinks.Message, err error, confirmed map[string]bool) []sinks.Message {
	var left []sinks.Message
	partial, ok := err.(*sinks.PartialError) //nolint:errorlint // as Send returns it
	for i, m := range batch {
		if err != nil && (!ok || partial.Failed[i] != nil) {
			left = append(left, m)
			continue
		}
		confirmed[fmt.Sprint(m.Record.Seq)] = true
	}
	return left
}

func TestRealServerRefusesUnknownClients(t *testing.T) {
	srv, cfg := realServers(t)["syslog-ng TLS"](t)
	cfg.TLS.CertFile, cfg.TLS.KeyFile = "", ""
	s := open(t, cfg)
	if _, err := s.Send(t.Context(), batchFrom(1, 10)); err == nil || sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("without a client certificate: class %v of %v", sinks.ClassOf(err), err)
	}
	other := t.TempDir()
	writeCertificates(t, other)
	_, cfg = srv, srv.config("tls")
	cfg.TLS.CAFile = filepath.Join(other, "ca.pem")
	s = open(t, cfg)
	if _, err := s.Send(t.Context(), batchFrom(1, 10)); err == nil || sinks.ClassOf(err) != sinks.ClassHalt {
		t.Errorf("with another authority: class %v of %v", sinks.ClassOf(err), err)
	}
}
