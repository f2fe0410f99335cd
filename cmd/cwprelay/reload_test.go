package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"go.uber.org/goleak"
	"go.uber.org/zap/zapcore"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/sinks"
)

// A rig is a daemon in this process, whose configuration the test changes.
type rig struct {
	*stage
	a     *app
	s     *supervisor
	r     *reloader
	log   *lockedBuffer
	ended chan error
	end   context.CancelFunc
}

// open opens a daemon for the stage's configuration, and begin begins it.
func (s *stage) open() *rig {
	s.t.Helper()
	load := func(text []byte) (*config.Config, error) {
		return config.Load(config.Options{Path: s.config, Text: text})
	}
	cfg, err := load(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	r := &rig{stage: s, log: &lockedBuffer{}, ended: make(chan error, 1)}
	logs := newLogger(cfg.Log, r.log)
	if r.a, err = open(cfg, process{stdout: io.Discard, stderr: r.log}, logs); err != nil {
		s.t.Fatal(err)
	}
	r.r = newReloader(cfg, load, logs.Logger)
	return r
}

func (r *rig) begin() {
	r.t.Helper()
	ctx, end := context.WithCancel(context.Background())
	r.end = end
	ready := make(chan *supervisor, 1)
	ln, err := listen(ctx, r.a.cfg().HTTP)
	if err != nil {
		r.t.Fatal(err)
	}
	go func() {
		err := r.a.daemon(ctx, ln, func(ctx context.Context, s *supervisor) error {
			ready <- s
			<-ctx.Done()
			return nil
		})
		r.ended <- err
	}()
	select {
	case r.s = <-ready:
	case err := <-r.ended:
		r.t.Fatal(err)
	}
	r.t.Cleanup(r.stop)
}

// stop ends the daemon, once.
func (r *rig) stop() {
	if r.end == nil {
		return
	}
	r.end()
	r.end = nil
	if err := <-r.ended; err != nil {
		r.t.Error(err)
	}
	if err := r.a.close(); err != nil {
		r.t.Error(err)
	}
}

// reload writes the configuration and asks for it, as SIGHUP does.
func (r *rig) reload(text string) {
	r.t.Helper()
	r.write(text)
	if err := r.r.look(r.s, true); err != nil {
		r.t.Fatal(err)
	}
}

// changed is the configuration with some of its text replaced.
func (r *rig) changed(pairs ...string) string {
	r.t.Helper()
	text, err := os.ReadFile(r.config)
	if err != nil {
		r.t.Fatal(err)
	}
	out := strings.NewReplacer(pairs...).Replace(string(text))
	if out == string(text) {
		r.t.Fatalf("nothing of %q is in the configuration", pairs)
	}
	return out
}

// until waits for something to become true.
func (r *rig) until(what string, holds func() bool) {
	r.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			r.t.Fatalf("not %s after two minutes:\n%s", what, r.log)
		}
	}
}

// mutate adds events to the API's list.
func (r *rig) mutate(events int) {
	r.api.Change(func(w *emulator.World) { w.Burst(events, time.Now()) })
}

// last is the sequence of the newest record, and settled that up to which a
// sink has come.
func (r *rig) last() uint64 {
	r.t.Helper()
	st, err := r.a.journal.Status(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	return st.Last
}

func (r *rig) settled(name string) uint64 {
	r.t.Helper()
	s, ok := r.a.now.Load().find("sink " + name).(*sinkPart)
	if !ok {
		r.t.Fatalf("no sink %s", name)
	}
	return s.worker.Status().Cursor.Seq
}

// more makes something happen in the list and waits until the sinks have it.
func (r *rig) more(names ...string) {
	r.t.Helper()
	before := r.last()
	r.mutate(20)
	r.until("taken in", func() bool { return r.last() > before })
	for _, name := range names {
		r.until("delivered to "+name, func() bool { return r.settled(name) >= r.last() })
	}
}

// exports reports whether any figure bears a label.
func (r *rig) exports(label, value string) bool {
	r.t.Helper()
	families, err := r.a.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if l.GetName() == label && l.GetValue() == value {
					return true
				}
			}
		}
	}
	return false
}

// noLeaks fails if a goroutine that was begun since is left at the end.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// A receiver is a syslog receiver that counts connections and bytes.
type receiver struct {
	address string

	mu          sync.Mutex // guards the rest
	connections int
	bytes       int
}

// newReceiver begins a receiver; secure, if not nil, makes it speak TLS.
func newReceiver(t *testing.T, secure *tls.Config) *receiver {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{address: ln.Addr().String()}
	if secure != nil {
		ln = tls.NewListener(ln, secure)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() { _ = ln.Close(); serving.Wait() })
	serving.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			r.mu.Lock()
			r.connections++
			r.mu.Unlock()
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				for buf := make([]byte, 4096); ; {
					n, err := conn.Read(buf)
					r.mu.Lock()
					r.bytes += n
					r.mu.Unlock()
					if err != nil {
						return
					}
				}
			})
		}
	})
	return r
}

func (r *receiver) seen() (connections, bytes int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connections, r.bytes
}

// uids are those in a file of ECS documents, with how often each stands there.
func uids(t *testing.T, path string) map[string]int {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for line := range bytes.Lines(text) {
		var doc struct {
			Event struct {
				ID       string `json:"id"`
				Sequence int    `json:"sequence"`
			} `json:"event"`
		}
		if err := json.Unmarshal(line, &doc); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		out[fmt.Sprint(doc.Event.ID, "#", doc.Event.Sequence)]++
	}
	return out
}

// One sink changes, one comes and one goes; all else goes on, on the same
// connections and in the same sweeps. What returns goes on from where it was.
func TestReloadRestartsOnlyWhatChanged(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 60})
	wire := newReceiver(t, nil)
	s.write(strings.Replace(readAll(t, s.config), "sinks:\n", "sinks:\n  wire: {syslog: {address: \"tcp://"+wire.address+"\", ack: none, framing: newline}}\n", 1))
	r := s.open()
	r.begin()
	r.more("wire", "soc", "archive")
	before := r.a.now.Load()
	connections, sent := wire.seen()
	if connections != 1 {
		t.Fatalf("%d connections before anything changed", connections)
	}
	full := readAll(t, s.config)

	r.reload(r.changed("token: hectest-token", "token: hectest-token, source: changed", "  archive: {file: {path: "+s.dir+"/out.jsonl}}", "  second: {file: {path: "+s.dir+"/second.jsonl}}"))
	now := r.a.now.Load()
	for _, name := range []string{"sink wire", "source prod/risk_process"} {
		if now.find(name) != before.find(name) {
			t.Errorf("%s was begun anew", name)
		}
	}
	if now.find("sink soc") == before.find("sink soc") {
		t.Error("a sink that changed goes on as it was")
	}
	r.more("wire", "soc", "second")
	if c, _ := wire.seen(); c != 1 {
		t.Errorf("%d connections of a sink that did not change", c)
	}
	r.until("receiving on the same connection", func() bool { _, n := wire.seen(); return n > sent })
	if n := s.hec.Duplicates(); n != 0 {
		t.Errorf("the sink that changed got %d duplicates", n)
	}
	if got := s.hec.Events(); got[len(got)-1].Source != "changed" {
		t.Errorf("the last event was not sent with the new settings: %+v", got[len(got)-1])
	}
	r.until("without the figures of the sink that went", func() bool { return !r.exports("sink", "archive") })
	if !r.exports("sink", "wire") || !r.exports("sink", "second") || !r.exports("sink", "soc") {
		t.Error("figures of a sink that is there are gone")
	}

	r.reload(full)
	r.more("archive", "wire", "soc")
	for uid, n := range uids(t, filepath.Join(s.dir, "out.jsonl")) {
		if n != 1 {
			t.Errorf("%s stands %d times in the file of the sink that returned", uid, n)
		}
	}
	if got, want := len(uids(t, filepath.Join(s.dir, "out.jsonl"))), s.hec.Distinct(); got != want {
		t.Errorf("the sink that returned has %d records, another %d", got, want)
	}
	if c, _ := wire.seen(); c != 1 {
		t.Errorf("%d connections of a sink that did not change", c)
	}
	r.until("without the second", func() bool { return !r.exports("sink", "second") })
	if !r.exports("sink", "archive") {
		t.Error("the sink that returned has no figures")
	}
	r.stop()
}

func readAll(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// A stuckSink does not return from its first attempt until it is let go,
// whatever its context says.
type stuckSink struct {
	sinks.Sink
	once    sync.Once
	stuck   chan struct{} // closed when it hangs
	release chan struct{}
}

func (s *stuckSink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	hang := false
	s.once.Do(func() { hang = true })
	if hang {
		close(s.stuck)
		<-s.release
	}
	return s.Sink.Send(ctx, batch)
}

// A sink that hangs and ignores its context holds up neither the others nor its
// own successor, and when it comes back to life it changes nothing.
func TestReloadDoesNotWaitForHungSink(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 60})
	r := s.open()
	part, _ := r.a.now.Load().find("sink archive").(*sinkPart)
	hung := &stuckSink{Sink: part.sink, stuck: make(chan struct{}), release: make(chan struct{})}
	part.sink = hung
	encode, err := encoder(r.a.cfg(), "archive")
	if err != nil {
		t.Fatal(err)
	}
	if part.worker, err = delivery.New(delivery.Options{
		Name: "archive", Sink: hung, Config: part.cfg.Delivery, Encoder: encode, Journal: r.a.journal, Log: r.a.log, Metrics: r.a.metrics.sinks,
	}); err != nil {
		t.Fatal(err)
	}
	r.begin()
	<-hung.stuck

	r.reload(r.changed("token: hectest-token", "token: hectest-token, source: changed", "archive: {", "archive: {batch_records: 7, "))
	select {
	case <-part.life.done:
		t.Fatal("it did not hang")
	default:
	}
	r.more("soc") // with its new settings, while the other hangs
	select {
	case <-part.life.done:
		t.Fatal("it did not hang")
	default:
	}
	r.more("archive") // its successor
	if !strings.Contains(r.log.String(), "a part that was replaced does not end") {
		t.Errorf("nobody was told:\n%s", r.log)
	}
	at := r.settled("archive")
	close(hung.release)
	<-part.life.done
	if part.life.err != nil {
		t.Errorf("the part that was given up ended with %v", part.life.err)
	}
	c, err := r.a.journal.Cursor(t.Context(), "archive")
	if err != nil || c.Seq < at {
		t.Errorf("the cursor is at %d, and was at %d; %v", c.Seq, at, err)
	}
	r.more("archive", "soc")
	if got, want := len(uids(t, filepath.Join(s.dir, "out.jsonl"))), s.hec.Distinct(); got != want {
		t.Errorf("%d records in the file, %d at Splunk", got, want)
	}
	r.stop()
}

// Whatever is wrong with a file, nothing changes, and the operator sees it until
// it is mended.
func TestBadFileChangesNothingAndShows(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 20})
	taken := httptest.NewServer(nil)
	defer taken.Close()
	r := s.open()
	r.begin()
	r.more("soc", "archive")
	good := readAll(t, s.config)
	before := r.a.now.Load()
	for name, bad := range map[string]struct{ text, want string }{
		"two mistakes":           {r.changed("poll_interval: 1s", "poll_interval: never", "token: hectest-token", "tokken: hectest-token"), "did you mean token"},
		"not YAML":               {"sinks: {", "did not find expected"},
		"an authority not there": {r.changed("poll_interval: 1s", "poll_interval: 1s\n    tls: {ca_file: "+s.dir+"/nosuch.pem}", "  archive:", "  other: {stdout: {}}\n  archive:"), "nosuch.pem"},
		"a port that is taken":   {r.changed(`listen: "off"`, "listen: "+strings.TrimPrefix(taken.URL, "http://"), "  archive:", "  other: {stdout: {}}\n  archive:"), "address already in use"},
	} {
		t.Run(name, func(t *testing.T) {
			r.reload(bad.text)
			if r.a.now.Load() != before {
				t.Error("something has changed")
			}
			standing := *r.a.standing.Load()
			if standing.State != console.ConfigurationRefused || !strings.Contains(strings.Join(standing.Mistakes, "\n"), bad.want) {
				t.Errorf("it stands as %+v, want %q", standing, bad.want)
			}
			if !strings.Contains(r.log.String(), bad.want) {
				t.Errorf("the log does not say %q:\n%s", bad.want, r.log)
			}
			if r.exports("sink", "other") {
				t.Error("there are figures of a sink that never was")
			}
			if name == "not YAML" {
				return // it does not say where the daemon is
			}
			if v := s.overview(); v.Config == nil || v.Config.State != console.ConfigurationRefused {
				t.Errorf("status says %+v", v.Config)
			}
		})
	}
	// Edited, and nobody asked to read it.
	s.write(good + "# a remark\n")
	if err := r.r.look(r.s, false); err != nil {
		t.Fatal(err)
	}
	if got := r.a.standing.Load().State; got != console.ConfigurationEdited {
		t.Errorf("an edited file stands as %s", got)
	}
	if !r.gauge("cwprelay_config_current", 0) {
		t.Error("the metric does not tell")
	}
	r.reload(good)
	if got := r.a.standing.Load(); got.State != console.ConfigurationCurrent || got.Mistakes != nil {
		t.Errorf("a good file stands as %+v", got)
	}
	if !r.gauge("cwprelay_config_current", 1) {
		t.Error("the metric does not tell")
	}
	if r.a.now.Load() != before {
		t.Error("the same configuration has changed something")
	}
	r.stop()
}

func (r *rig) gauge(name string, want float64) bool {
	r.t.Helper()
	families, err := r.a.reg.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == name {
			return f.GetMetric()[0].GetGauge().GetValue() == want
		}
	}
	return false
}

// A rotated secret takes effect by itself, also while the file on disk has a
// mistake, and an edit that nobody asked for does not come with it.
func TestRotatedSecretIsReadAgain(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 20})
	token := filepath.Join(s.dir, "token")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("wrong-token\n")
	s.write(strings.Replace(readAll(t, s.config), "token: hectest-token", "token: \"${file:"+token+"}\"", 1))
	r := s.open()
	r.begin()
	r.until("refused", func() bool { return r.sinkState("soc") == delivery.Halted })
	before := r.a.now.Load()
	s.write(r.changed("poll_interval: 1s", "poll_interval: 2s")) // an edit under way
	put("hectest-token\n")
	if err := r.r.look(r.s, false); err != nil {
		t.Fatal(err)
	}
	now := r.a.now.Load()
	if now.find("sink soc") == before.find("sink soc") {
		t.Fatal("the sink goes on with the former secret")
	}
	for _, name := range []string{"sink archive", "source prod/risk_process"} {
		if now.find(name) != before.find(name) {
			t.Errorf("%s was begun anew", name)
		}
	}
	r.more("soc")
	if got := r.a.standing.Load().State; got != console.ConfigurationEdited {
		t.Errorf("the edit stands as %s", got)
	}
	r.stop()
}

func (r *rig) sinkState(name string) delivery.State {
	s, _ := r.a.now.Load().find("sink " + name).(*sinkPart)
	return s.worker.Status().State
}

// A first sweep that takes its time goes on through a reload.
func TestReloadDoesNotDisturbFirstSweep(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 300})
	var once sync.Once
	hold, held := make(chan struct{}), make(chan struct{})
	var requests atomic.Int32
	gate := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if requests.Add(1) == 3 {
			close(held)
			<-hold
		}
		s.api.ServeHTTP(w, req)
	}))
	defer gate.Close()
	defer once.Do(func() { close(hold) })
	text := readAll(t, s.config)
	from := text[strings.Index(text, "endpoint: ")+len("endpoint: "):]
	from, _, _ = strings.Cut(from, "\n")
	s.write(strings.Replace(strings.Replace(text, from, gate.URL, 1), "_interval: 1s", "_interval: 1h", 2))
	r := s.open()
	r.begin()
	<-held
	source, _ := r.a.now.Load().find("source prod/risk_process").(*sourcePart)
	began := source.poller.Status().Progress.Started
	r.reload(r.changed("token: hectest-token", "token: hectest-token, source: changed"))
	once.Do(func() { close(hold) })
	r.until("swept", func() bool { return !source.poller.Status().Last.Ended.IsZero() })
	if st := source.poller.Status(); !st.Last.Started.Equal(began.UTC()) || !st.Last.Certified {
		t.Errorf("the sweep that ended began at %s, not %s: %+v", st.Last.Started, began, st.Last)
	}
	r.until("delivered", func() bool { return r.settled("soc") == r.last() })
	r.stop()
}

// An authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{t: t}
	a.pem, _, a.cert, a.key = a.issue("authority", nil)
	return a
}

// issue makes a certificate for this machine; without a parent, one of an
// authority.
func (a *authority) issue(name string, parent *authority) (certPEM, keyPEM []byte, cert *x509.Certificate, key *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:        parent == nil, BasicConstraintsValid: true,
	}
	signer, signerKey := template, key
	if parent != nil {
		signer, signerKey = parent.cert, parent.key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, signer, &key.PublicKey, signerKey)
	if err != nil {
		a.t.Fatal(err)
	}
	if cert, err = x509.ParseCertificate(der); err != nil {
		a.t.Fatal(err)
	}
	text, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: text}), cert, key
}

// Certificates are rotated under a source and three kinds of sinks: ours, and
// the authority of the servers. Nothing begins anew, and nothing fails.
func TestRotatedCertificatesAreReadAgain(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 30})
	var serverCert atomic.Pointer[tls.Certificate]
	var mu sync.Mutex // guards seen
	seen := map[string]string{}
	ours := newAuthority(t)
	clients := x509.NewCertPool()
	clients.AddCert(ours.cert)
	server := func(name string) *tls.Config {
		own := &tls.Config{
			GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return serverCert.Load(), nil },
			ClientAuth:     tls.RequireAndVerifyClientCert, ClientCAs: clients,
			VerifyConnection: func(c tls.ConnectionState) error {
				mu.Lock()
				defer mu.Unlock()
				seen[name] = c.PeerCertificates[0].Subject.CommonName
				return nil
			},
			SessionTicketsDisabled: true,
		}
		// Not itself: the servers add a certificate of theirs.
		return &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return own, nil }}
	}
	file := func(name string) string { return filepath.Join(s.dir, name) }
	// As a rotation does it: whole files, put in place of the former.
	put := func(name string, text []byte) {
		t.Helper()
		if err := errors.Join(os.WriteFile(file(name+".new"), text, 0o600), os.Rename(file(name+".new"), file(name))); err != nil {
			t.Fatal(err)
		}
	}
	rotate := func(client string) {
		t.Helper()
		theirs := newAuthority(t)
		certPEM, keyPEM, _, _ := theirs.issue("server", theirs)
		pair, err := tls.X509KeyPair(certPEM, keyPEM)
		if err != nil {
			t.Fatal(err)
		}
		certPEM, keyPEM, _, _ = ours.issue(client, ours)
		put("key.pem", keyPEM)
		put("cert.pem", certPEM)
		put("ca.pem", theirs.pem)
		serverCert.Store(&pair)
	}
	rotate("first")

	web := func(name string, handler http.Handler) string {
		srv := httptest.NewUnstartedServer(handler)
		srv.TLS = server(name)
		srv.StartTLS()
		t.Cleanup(srv.Close)
		return srv.URL
	}
	api := web("source", s.api)
	hook := web("hook", http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) }))
	wire := newReceiver(t, server("wire"))
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "cwp"), kfake.TLS(server("bus")))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	files := fmt.Sprintf("tls: {ca_file: %s, cert_file: %s, key_file: %s}", file("ca.pem"), file("cert.pem"), file("key.pem"))
	s.write(fmt.Sprintf(`
sources:
  prod:
    endpoint: %s
    credentials: {provider: static, secret_id: %s, secret_key: %s}
    poll_interval: 1s
    sweep_interval: 1s
    %s
sinks:
  hook: {webhook: {url: "%s", allow_private: true, batch: ndjson, %s}}
  wire: {syslog: {address: "tls://%s", ack: none, %s}}
  bus: {kafka: {brokers: ["tls://%s"], topic: cwp, %s}}
state: {dir: %s/state, min_free_disk: 1}
http: {listen: "off"}
`, api, emulator.DefaultSecretID, emulator.DefaultSecretKey, files, hook, files, wire.address, files, cluster.ListenAddrs()[0], files, s.dir))
	r := s.open()
	r.begin()
	r.more("hook", "wire", "bus")
	before := r.a.now.Load()
	check := func(want string) {
		t.Helper()
		mu.Lock()
		defer mu.Unlock()
		for _, name := range []string{"source", "hook", "wire", "bus"} {
			if seen[name] != want {
				t.Errorf("the server of %s saw the certificate %q, want %q", name, seen[name], want)
			}
		}
	}
	check("first")
	put("cert.pem", []byte("half a file"))
	r.more("hook", "wire", "bus") // what cannot be used changes nothing
	rotate("second")
	r.more("hook", "wire", "bus")
	r.more("hook", "wire", "bus") // a source may have asked before the files were there
	check("second")
	if r.a.now.Load() != before {
		t.Error("something was begun anew")
	}
	if text := r.log.String(); strings.Contains(text, `"level":"error"`) || strings.Contains(text, "delivery fails") {
		t.Errorf("something failed:\n%s", text)
	}
	r.stop()
}

// Sources come, go and change; one that turns out to be another account's ends
// alone.
func TestReloadOfSources(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 20})
	other := emulator.New(emulator.Config{Events: 30, Seed: 5, Limit: 10_000, Account: "2"})
	otherServer := httptest.NewServer(other)
	defer otherServer.Close()
	good := strings.Replace(readAll(t, s.config), "    poll_interval", "    account_id: \"1\"\n    poll_interval", 1)
	s.write(good)
	r := s.open()
	r.begin()
	r.more("soc", "archive")
	before := r.a.now.Load()
	second := fmt.Sprintf("  second:\n    endpoint: %s\n    account_id: \"2\"\n    credentials: {provider: static, secret_id: %s, secret_key: %s}\n    sweep_interval: 1s\n    poll_interval: 1s\nsinks:", otherServer.URL, emulator.DefaultSecretID, emulator.DefaultSecretKey)

	r.reload(strings.Replace(good, "sinks:", second, 1))
	source, _ := r.a.now.Load().find("source second/risk_process").(*sourcePart)
	r.until("swept the second", func() bool { return source.poller.Status().Certified.IDs == 30 })
	r.until("delivered", func() bool { return r.settled("soc") == r.last() && s.hec.Distinct() == 70 })
	for _, name := range []string{"source prod/risk_process", "sink soc", "sink archive"} {
		if r.a.now.Load().find(name) != before.find(name) {
			t.Errorf("%s was begun anew", name)
		}
	}
	if !r.exports("source", "second") {
		t.Error("the new source has no figures")
	}

	// More requests a second, and a source that goes.
	r.reload(strings.Replace(good, "requests_per_second: 20", "requests_per_second: 5", 1))
	changed, _ := r.a.now.Load().find("source prod/risk_process").(*sourcePart)
	r.until("slower", func() bool { _, rate := changed.client.Budget(); return rate < 6 })
	r.more("soc")
	r.until("without the figures of the source that went", func() bool { return !r.exports("source", "second") })
	if n := s.hec.Duplicates(); n != 0 {
		t.Errorf("%d duplicates", n)
	}
	r.reload(good)
	again, _ := r.a.now.Load().find("source prod/risk_process").(*sourcePart)
	r.until("faster again", func() bool { _, rate := again.client.Budget(); return rate > 19 })

	r.reload(strings.Replace(good, `account_id: "1"`, `account_id: "3"`, 1))
	wrong, _ := r.a.now.Load().find("source prod/risk_process").(*sourcePart)
	<-wrong.life.done
	if !strings.Contains(r.log.String(), "the source is not polled") {
		t.Errorf("nobody was told:\n%s", r.log)
	}
	if ready := r.s.page.Readiness(t.Context()); len(ready.Reasons) != 1 || ready.Reasons[0].Code != "account_changed" || !strings.Contains(ready.Reasons[0].Detail, "restore account_id") {
		t.Errorf("readiness says %+v", ready)
	}
	r.reload(good)
	r.more("soc", "archive")
	r.stop()
}

// The console moves, is guarded and unguarded, while all else goes on.
func TestReloadMovesConsole(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 20})
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = ln.Close() }()
		return ln.Addr().String()
	}
	first, second := free(), free()
	text := strings.Replace(readAll(t, s.config), `listen: "off"`, "listen: "+first, 1)
	token := filepath.Join(s.dir, "token")
	if err := os.WriteFile(token, []byte("a token of some length"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.write(text)
	r := s.open()
	r.begin()
	before := r.a.now.Load()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	code := func(address string) int {
		resp, err := client.Get("http://" + address + "/readyz")
		if err != nil {
			return 0
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		return resp.StatusCode
	}
	r.until("ready", func() bool { return code(first) == http.StatusOK })
	r.reload(strings.Replace(text, "listen: "+first, "listen: "+first+", token_file: "+token, 1)) // the same port
	if got := code(first); got != http.StatusUnauthorized {
		t.Errorf("a guarded console answers %d, also on connections of before", got)
	}
	r.reload(strings.Replace(text, first, second, 1))
	if got := code(first); got != 0 {
		t.Errorf("the former address answers %d", got)
	}
	if got := code(second); got != http.StatusOK {
		t.Errorf("the new address answers %d", got)
	}
	_, port, _ := net.SplitHostPort(second)
	r.reload(strings.Replace(text, first, "localhost:"+port, 1)) // a port that we have
	if got := code(second); got != http.StatusOK {
		t.Errorf("the same port by another name answers %d", got)
	}
	for _, x := range before.all() {
		if r.a.now.Load().find(x.name()) != x {
			t.Errorf("%s was begun anew", x.name())
		}
	}
	r.stop()
}

// Log, limits and grace change in place. What an operator set at run time stays.
func TestReloadOfSettings(t *testing.T) {
	noLeaks(t)
	s := newStage(t, emulator.Config{Events: 20})
	r := s.open()
	r.begin()
	r.more("soc", "archive")
	before := r.a.now.Load()
	r.reload(r.changed("min_free_disk: 1}", "min_free_disk: 1, max_bytes: 3MiB}") + "log: {level: debug, format: console}\nshutdown_grace: 3s\n")
	if st, err := r.a.journal.Status(t.Context()); err != nil || st.MaxBytes != 3<<20 {
		t.Errorf("the journal's limit is %d, %v", st.MaxBytes, err)
	}
	r.more("soc", "archive")
	r.until("logging at another level and in another form", func() bool { return strings.Contains(r.log.String(), "\tDEBUG\t") })
	if got := time.Duration(r.a.patience.Load()); got != 8*time.Second {
		t.Errorf("the end may take %s", got)
	}
	r.a.logs.level.SetLevel(zapcore.ErrorLevel) // as the verb does
	r.reload(r.changed("3MiB", "4MiB"))
	if got := r.a.logs.level.Level(); got != zapcore.ErrorLevel {
		t.Errorf("the level that was set at run time is %s now", got)
	}
	for _, x := range before.all() {
		if r.a.now.Load().find(x.name()) != x {
			t.Errorf("%s was begun anew", x.name())
		}
	}
	r.stop()
}

// A paused sink whose settings change stays paused.
func TestReloadKeepsPause(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 20})
	r := s.open()
	r.begin()
	r.more("soc", "archive")
	part, _ := r.a.now.Load().find("sink soc").(*sinkPart)
	part.worker.Pause(true)
	r.reload(r.changed("token: hectest-token", "token: hectest-token, source: changed"))
	r.until("paused", func() bool { return r.sinkState("soc") == delivery.Paused })
	r.stop()
}

// Another state directory makes everything begin anew, also while a sink hangs
// and ignores its context.
func TestReloadOfStateDirDoesNotWaitForHungSink(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 20})
	r := s.open()
	part, _ := r.a.now.Load().find("sink archive").(*sinkPart)
	hung := &stuckSink{Sink: part.sink, stuck: make(chan struct{}), release: make(chan struct{})}
	defer close(hung.release)
	var err error
	if part.worker, err = delivery.New(delivery.Options{Name: "archive", Sink: hung, Config: part.cfg.Delivery, Journal: r.a.journal, Log: r.a.log}); err != nil {
		t.Fatal(err)
	}
	err = r.a.daemon(t.Context(), nil, func(_ context.Context, sup *supervisor) error {
		<-hung.stuck
		s.write(r.changed("/state,", "/elsewhere,"))
		return r.r.look(sup, true)
	})
	if anew, ok := errors.AsType[*anewError](err); !ok || filepath.Base(anew.next.State.Dir) != "elsewhere" {
		t.Errorf("the daemon ended with %v", err)
	}
	if err := r.a.close(); err != nil {
		t.Error(err)
	}
}

// With another state directory everything begins anew there: what the API shows
// is told again, and the former directory is free for others.
func TestReloadToAnotherStateDir(t *testing.T) {
	t.Parallel()
	s := newStage(t, emulator.Config{Events: 30})
	d := s.start("run", "-c", s.config)
	delivered := func(lines int) func() bool {
		return func() bool {
			_, err := os.Stat(filepath.Join(s.dir, "elsewhere", socketName))
			if lines > 30 && err != nil {
				return false
			}
			return s.lines() == lines
		}
	}
	s.until("all is delivered", d, delivered(30))
	text := readAll(t, s.config)
	s.write(strings.Replace(text, "/state,", "/elsewhere,", 1))
	if err := d.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	s.until("all is delivered from the other directory", d, delivered(60))
	s.until("ready again", d, func() bool { v := s.overview(); return v.Running && v.Ready.Ready })
	if _, err := os.Stat(filepath.Join(s.dir, "state", socketName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the former socket: %v", err)
	}
	former := filepath.Join(s.dir, "former.yaml")
	if err := os.WriteFile(former, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, errs := s.run("run", "--once", "-c", former); code != exitDone || s.lines() != 60 {
		t.Errorf("a process on the former directory: %d, %d lines, %s", code, s.lines(), errs)
	}
	if err := errors.Join(d.Process.Signal(syscall.SIGTERM), d.Wait()); err != nil {
		t.Error(err)
	}
}
