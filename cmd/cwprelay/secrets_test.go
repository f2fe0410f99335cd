package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// planted are secrets of every kind, by what they are. Each has characters that
// encodings change.
func planted() map[string]string {
	out := map[string]string{}
	for _, kind := range []string{
		"api-key", "api-token", "hec-token", "sasl-password", "es-api-key", "es-password", "slack-path", "slack-token",
		"webhook-path", "webhook-header", "webhook-password", "webhook-value", "proxy-password", "source-proxy", "console-token",
	} {
		out[kind] = "pl4nted~" + kind + "~0f7Zq9xK"
	}
	out["es-api-key"] = base64.StdEncoding.EncodeToString([]byte("id:" + out["es-api-key"]))
	out["webhook-secret"] = "whsec_" + base64.StdEncoding.EncodeToString([]byte("pl4nted~webhook-secret~0f7Zq9xK"))
	out["slack-token"] = "xoxb-" + out["slack-token"]
	return out
}

// shapes are what a secret looks like when it leaks.
func shapes(value string) map[string]string {
	quoted, _ := json.Marshal(value) //nolint:errchkjson // a string always encodes
	out := map[string]string{
		"as it is": value, "in JSON": strings.Trim(string(quoted), `"`), "in hex": hex.EncodeToString([]byte(value)),
		"in a query": url.QueryEscape(value), "in a path": url.PathEscape(value),
	}
	for shift := range 3 { // somewhere within what was encoded
		text := base64.RawStdEncoding.EncodeToString([]byte("xyz"[:shift] + value))
		from := []int{0, 2, 3}[shift]
		out[fmt.Sprint("in base64, shifted by ", shift)] = text[from : len(text)-2]
		out[fmt.Sprint("in base64 of addresses, shifted by ", shift)] = strings.NewReplacer("+", "-", "/", "_").Replace(text[from : len(text)-2])
	}
	return out
}

// A seen is all that was seen of a program, by where.
type seen struct {
	mu sync.Mutex // guards by
	by map[string][]byte
}

func (s *seen) add(where string, text []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.by[where] = append(s.by[where], text...)
}

// leaks names every secret that stands in something that was seen.
func (s *seen) leaks(secrets map[string]string) (out []string) {
	for _, where := range slices.Sorted(maps.Keys(s.by)) {
		for kind, value := range secrets {
			for shape, text := range shapes(value) {
				if at := bytes.Index(s.by[where], []byte(text)); at >= 0 {
					from, to := max(0, at-120), min(len(s.by[where]), at+len(text)+20)
					out = append(out, fmt.Sprintf("%s: the %s %s: …%s…", where, kind, shape, s.by[where][from:to]))
				}
			}
		}
	}
	return out
}

// telltale is a server that refuses everything in turns and tells in its answer
// whatever it was sent.
func telltale() http.Handler {
	var n atomic.Int64
	codes := []int{400, 401, 403, 404, 407, 413, 422, 429, 500, 503, 302, 200}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		var b strings.Builder
		fmt.Fprintf(&b, "you asked %s %s of %s", r.Method, r.RequestURI, r.Host)
		for name, values := range r.Header {
			fmt.Fprintf(&b, "; %s: %s", name, strings.Join(values, ","))
		}
		if user, password, ok := r.BasicAuth(); ok {
			fmt.Fprintf(&b, "; you are %s with %s", user, password)
		}
		fmt.Fprintf(&b, "; and said %.200s", body)
		w.Header().Set("X-Told", b.String()[:min(500, b.Len())])
		w.Header().Set("Location", "http://127.0.0.1:1/"+url.QueryEscape(b.String()[:min(300, b.Len())]))
		w.WriteHeader(codes[int(n.Add(1))%len(codes)])
		text, _ := json.Marshal(b.String()) //nolint:errchkjson // a string always encodes
		fmt.Fprintf(w, `{"text":%s,"code":4,"error":{"type":"x","reason":%s},"Response":{"Error":{"Code":"InternalError","Message":%s},"RequestId":%s}}`, text, text, text, text)
	})
}

// keyPair writes a certificate and its key, and returns a line of the key.
func keyPair(t *testing.T, dir string) (line string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "client"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
	for name, content := range map[string][]byte{"cert.pem": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert}), "key.pem": text} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return strings.Split(string(text), "\n")[1]
}

// blabbing is a TCP server that sends back what it gets, and garbage.
func blabbing(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = c.Close() }()
				buf := make([]byte, 4096)
				n, _ := c.Read(buf)
				_, _ = c.Write(buf[:n])
			}()
		}
	}()
	return ln.Addr().String()
}

// TestNoSecretIsEverShown plants secrets of every kind, lets everything fail in
// every way with servers that tell what they were sent, and looks at all that
// leaves the program but what goes to the destinations themselves.
func TestNoSecretIsEverShown(t *testing.T) {
	secrets := planted()
	s := newStage(t, emulator.Config{Events: 40, Rate: 5, SecretKey: secret.New(secrets["api-key"]), Token: secret.New(secrets["api-token"])})
	secrets["tls-key"] = keyPair(t, s.dir)
	loud := httptest.NewServer(telltale())
	t.Cleanup(loud.Close)
	tokenFile := filepath.Join(s.dir, "console-token")
	if err := os.WriteFile(tokenFile, []byte(secrets["console-token"]), 0o600); err != nil {
		t.Fatal(err)
	}
	listen := freePort(t)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	api := strings.Fields(string(text[strings.Index(string(text), "endpoint:"):]))[1]
	hec, _, _ := strings.Cut(string(text[strings.Index(string(text), `splunk_hec: {url: "`)+19:]), `"`)
	proxied := strings.Replace(loud.URL, "http://", "http://user:"+secrets["proxy-password"]+"@", 1)
	creds := fmt.Sprintf(`{provider: static, secret_id: %s, secret_key: "%s", token: "%s"}`, emulator.DefaultSecretID, secrets["api-key"], secrets["api-token"])
	quick := "requests_per_second: 20, poll_interval: 1s, sweep_interval: 1s"
	s.write(fmt.Sprintf(`
sources:
  good: {account_id: "1", endpoint: %[1]s, credentials: %[2]s, %[3]s}
  told: {account_id: "2", endpoint: %[4]s, credentials: %[2]s, %[3]s}
  far:  {account_id: "3", endpoint: "http://api.invalid", proxy: "%[5]s", credentials: %[2]s, %[3]s}
sinks:
  archive: {file: {path: %[6]s/out.jsonl}}
  hec:     {splunk_hec: {url: "%[4]s", token: "%[7]s"}}
  hecgood: {splunk_hec: {url: "%[8]s", token: "%[7]s"}}
  hecfar:  {splunk_hec: {url: "http://hec.invalid:8088", token: "%[7]s", proxy: "%[9]s"}}
  es:      {elasticsearch: {urls: ["%[4]s"], api_key: "%[10]s"}}
  esbasic: {elasticsearch: {urls: ["%[4]s"], username: u, password: "%[11]s"}}
  estls:   {elasticsearch: {urls: ["https://127.0.0.1:1"], api_key: "%[10]s", tls: {cert_file: %[6]s/cert.pem, key_file: %[6]s/key.pem}}}
  slack:   {slack: {url: "%[4]s/services/%[12]s", allow_private: true}, when: "true"}
  bot:     {slack: {token: "%[13]s", channel: C1, api_url: "%[4]s", allow_private: true}, when: "true"}
  hook:    {webhook: {url: "%[4]s/h/%[14]s?key=%[14]s", allow_private: true, headers: {X-Key: "%[15]s"}, secrets: ["%[16]s"], username: u, password: "%[17]s"}}
  values:  {webhook: {url: "%[4]s/", allow_private: true, template: '{"k": {{json (value "k")}}, "id": {{json (get "event.id")}}}', values: {k: "%[18]s"}}}
  kafka:   {kafka: {brokers: ["%[19]s"], topic: t, sasl: {mechanism: scram-sha-256, username: u, password: "%[20]s"}}}
state: {dir: %[6]s/state, min_free_disk: 1}
http: {listen: "%[21]s", token_file: %[22]s}
log: {level: debug, format: json}
shutdown_grace: 1s
`, api, creds, quick, loud.URL, "http://user:"+secrets["source-proxy"]+"@"+strings.TrimPrefix(loud.URL, "http://"), s.dir,
		secrets["hec-token"], hec, proxied, secrets["es-api-key"], secrets["es-password"], secrets["slack-path"], secrets["slack-token"],
		secrets["webhook-path"], secrets["webhook-header"], secrets["webhook-secret"], secrets["webhook-password"], secrets["webhook-value"],
		blabbing(t), secrets["sasl-password"], listen, tokenFile))
	if code, said := s.run("check", "--offline", "-c", s.config); code != 0 {
		t.Fatalf("the configuration of this test is wrong: %d: %s", code, said)
	}

	all := &seen{by: map[string][]byte{}}
	var log lockedBuffer
	daemon := s.command("run", "-c", s.config)
	daemon.Stdout, daemon.Stderr = &log, &log
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	t.Cleanup(func() {
		if !stopped {
			_ = daemon.Process.Kill()
			_ = daemon.Wait()
		}
	})
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", daemon.Process.Pid)); err == nil {
		all.add("process arguments", args)
	}
	fetch := func(path string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+listen+path, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.SetBasicAuth("x", secrets["console-token"])
		resp, err := new(http.Client).Do(req)
		if err != nil {
			return nil
		}
		defer func() { _ = resp.Body.Close() }()
		text, _ := io.ReadAll(resp.Body)
		return text
	}
	verb := func(args ...string) {
		cmd := s.command(append(args, "-c", s.config)...)
		var out lockedBuffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Error(err)
			return
		}
		timer := time.AfterFunc(8*time.Second, func() { _ = cmd.Process.Kill() }) // what waits for a destination has said enough
		defer timer.Stop()
		_ = cmd.Wait() // many end with a finding
		text := []byte(out.String())
		all.add("cwprelay "+strings.Join(args, " "), text)
	}
	// Until every sink has told that it was refused or failed.
	broken := []string{"hec", "hecfar", "es", "esbasic", "estls", "slack", "bot", "hook", "values", "kafka"}
	told := func(sink string) bool { return strings.Contains(log.String(), `"logger":"sink.`+sink+`"`) }
	quiet := func(sink string) bool { return !told(sink) }
	socket := filepath.Join(s.dir, "state", "admin.sock")
	up := func() bool { _, err := os.Stat(socket); return err == nil && len(fetch("/metrics")) > 0 }
	for deadline := time.Now().Add(2 * time.Minute); slices.ContainsFunc(broken, quiet) || !up(); {
		if time.Now().After(deadline) {
			t.Fatalf("not every sink has failed: nothing would be proved of it: %s", log.String())
		}
		time.Sleep(50 * time.Millisecond)
	}
	for _, path := range []string{"/", "/metrics", "/readyz", "/healthz", "/page.js"} {
		all.add("console "+path, fetch(path))
	}
	var verbs sync.WaitGroup
	for _, args := range []string{
		"status", "status -o json", "trace #1 -o json", "trace #2", "sinks list", "config print", "config print -o json", "config explain",
		"check --offline", "reconcile -o json", "state check", "state export -", "state export " + filepath.Join(s.dir, "exported"),
		"sinks test hec", "sinks test es", "sinks test esbasic", "sinks test slack", "sinks test bot", "sinks test hook", "sinks test kafka",
		"deadletter list hook -o json", "deadletter export hook", "deadletter list values", "deadletter export values", "deadletter list hec",
	} {
		verbs.Go(func() { verb(strings.Fields(args)...) })
	}
	verbs.Wait()
	if err := daemon.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	_ = daemon.Wait()
	stopped = true
	all.add("log", []byte(log.String()))
	for _, name := range []string{"out.jsonl", "exported"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		if err != nil {
			t.Error(err)
		}
		all.add("file "+name, text)
	}
	err = filepath.WalkDir(filepath.Join(s.dir, "state"), func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		all.add("state "+filepath.Base(path), text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, leak := range all.leaks(secrets) {
		t.Error(leak)
	}
	for _, where := range []string{"log", "console /", "console /metrics", "cwprelay status -o json", "cwprelay config print", "state journal.db"} {
		if len(all.by[where]) < 200 {
			t.Errorf("%s has %d bytes: too little was seen to prove anything: %s", where, len(all.by[where]), all.by[where])
		}
	}
}

// TestMistakesInTheConfigurationShowNoSecret spoils values that hold secrets.
func TestMistakesInTheConfigurationShowNoSecret(t *testing.T) {
	secrets := planted()
	s := &stage{t: t, dir: t.TempDir()}
	s.config = filepath.Join(s.dir, "cwprelay.yaml")
	all := &seen{by: map[string][]byte{}}
	for name, text := range map[string]string{
		"a list":        `sinks: {a: {splunk_hec: {url: "http://x", token: ["` + secrets["hec-token"] + `"]}}}`,
		"a map":         `sinks: {a: {splunk_hec: {url: "http://x", token: {x: "` + secrets["hec-token"] + `"}}}}`,
		"unknown":       `sinks: {a: {splunk_hec: {url: "http://x", tokn: "` + secrets["hec-token"] + `"}}}`,
		"unclosed":      `sinks: {a: {splunk_hec: {token: "` + secrets["hec-token"],
		"no secret":     `sinks: {a: {webhook: {url: "http://x", secrets: ["` + secrets["webhook-path"] + `"]}}}`,
		"a bad url":     `sinks: {a: {webhook: {url: "http://x y/` + secrets["webhook-path"] + `"}}}`,
		"a bad proxy":   `sinks: {a: {splunk_hec: {url: "http://x", token: t, proxy: "ftp://u:` + secrets["proxy-password"] + `@h"}}}`,
		"a slack url":   `sinks: {a: {slack: {url: "hooks.slack/` + secrets["slack-path"] + `"}}}`,
		"an endpoint":   `sources: {a: {endpoint: "https://u:` + secrets["api-key"] + `@h"}}`,
		"both":          `sinks: {a: {elasticsearch: {urls: ["http://x"], api_key: "` + secrets["es-api-key"] + `", username: u, password: "` + secrets["es-password"] + `"}}}`,
		"a reference":   `sinks: {a: {splunk_hec: {url: "http://x", token: "${` + secrets["hec-token"] + `"}}}`,
		"es url":        `sinks: {a: {elasticsearch: {urls: ["http://u:` + secrets["es-password"] + `@h:bad"]}}}`,
		"syslog":        `sinks: {a: {syslog: {address: "tls://u:` + secrets["es-password"] + `@h"}}}`,
		"kafka":         `sinks: {a: {kafka: {brokers: ["u:` + secrets["sasl-password"] + `@h:1"], topic: t}}}`,
		"a header name": `sinks: {a: {webhook: {url: "http://x", headers: {"Bad Name": "` + secrets["webhook-header"] + `"}}}}`,
		"a template":    `sinks: {a: {webhook: {url: "http://x", template: '{{value "k"}', values: {k: "` + secrets["webhook-value"] + `"}}}}`,
		"credentials":   `sources: {a: {credentials: {provider: static, secret_id: x, secret_key: "` + secrets["api-key"] + `", tokn: "` + secrets["api-token"] + `"}}}`,
	} {
		s.write(text)
		for _, args := range [][]string{{"check", "--offline"}, {"config", "print"}, {"config", "explain"}} {
			out, _ := s.command(append(args, "-c", s.config)...).CombinedOutput()
			all.add(name+": "+strings.Join(args, " "), out)
		}
		if len(all.by[name+": check --offline"]) == 0 {
			t.Errorf("%s: nothing was said", name)
		}
	}
	for _, leak := range all.leaks(secrets) {
		t.Error(leak)
	}
}

func freePort(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	return ln.Addr().String()
}
