package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/twmb/franz-go/pkg/kfake"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
)

// docsSecret is every secret of the pages: of the API, of destinations, to
// sign with.
var docsSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef")) //nolint:gochecknoglobals // made by a function

// places says where the files and ports of a page really are.
type places struct {
	dir   string
	pairs []string // what a page says, what is meant
	vars  map[string]string
}

var (
	systemFile = regexp.MustCompile(`/(?:run/secrets|etc/cwprelay)/[\w./-]*\w`)
	variable   = regexp.MustCompile(`\$\{([A-Z][A-Z0-9_]*)`)
)

// newPlaces makes the files that the configurations of a page refer to.
func newPlaces(t *testing.T, p page) places {
	t.Helper()
	dir, err := os.MkdirTemp("", "docs") //nolint:usetesting // short: the path of a socket may not be long
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // whatever still writes into it
	out := places{dir: dir, vars: map[string]string{}}
	for _, system := range []string{"/run/secrets/", "/etc/cwprelay/", "/var/lib/cwprelay", "/var/log/cwprelay"} {
		here := filepath.Join(dir, "system", system)
		if err := os.MkdirAll(here, 0o700); err != nil {
			t.Fatal(err)
		}
		out.pairs = append(out.pairs, system, filepath.Join(dir, "system")+system)
	}
	cert := httptest.NewUnstartedServer(nil)
	cert.StartTLS()
	defer cert.Close()
	for _, s := range p.steps {
		if s.lang != "yaml" || s.marks["not cwprelay's"] != "" {
			continue
		}
		for _, m := range variable.FindAllStringSubmatch(s.text, -1) {
			out.vars[m[1]] = secretFor(m[1])
		}
		for _, file := range systemFile.FindAllString(s.text, -1) {
			here := filepath.Join(dir, "system", file)
			text := secretFor(file)
			switch filepath.Ext(file) {
			case ".pem", ".crt", ".key":
				text = pemOf(t, cert.TLS.Certificates[0], filepath.Ext(file) == ".key")
			case ".yaml":
				continue
			}
			if err := os.MkdirAll(filepath.Dir(here), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(here, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return out
}

// pemOf is the certificate of a test server, or its key.
func pemOf(t *testing.T, cert tls.Certificate, key bool) string {
	t.Helper()
	if !key {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}))
	}
	der, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// secretFor is a secret by its name: addresses may be secrets too.
func secretFor(name string) string {
	if name = strings.ToLower(name); strings.Contains(name, "webhook") || strings.Contains(name, "url") || strings.Contains(name, "proxy") {
		return "https://receiver.example/secret"
	}
	return docsSecret
}

func (p places) here(text string) string { return strings.NewReplacer(p.pairs...).Replace(text) }

// there is the way back, for what was printed.
func (p places) there(text string) string {
	back := slices.Clone(p.pairs)
	slices.Reverse(back)
	return strings.ReplaceAll(strings.NewReplacer(back...).Replace(text), p.dir+"/", "")
}

func (p places) variables() []string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.vars)) {
		out = append(out, name+"="+p.vars[name])
	}
	return out
}

// TestDocsCommandsRun runs every command of every page, in order.
func TestDocsCommandsRun(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("bash"); err != nil {
		t.Skip("the pages' commands are for a shell: install bash")
	}
	var ran, not atomic.Int64
	reached := map[int]bool{}
	t.Run("pages", func(t *testing.T) {
		for _, p := range pages(t) {
			runs := false
			for _, s := range p.steps {
				switch {
				case s.runs() && s.lang != "setup":
					ran.Add(1)
					runs = true
				case s.marks["not run"] != "":
					not.Add(1)
				}
				for _, code := range codesOf(s) {
					reached[code] = true
				}
			}
			if runs {
				t.Run(p.name, func(t *testing.T) {
					t.Parallel()
					newPageStage(t, p).run()
				})
			}
		}
	})
	t.Logf("%d blocks of commands were run, %d could not be", ran.Load(), not.Load())
	for _, code := range []int{exitFailed, exitUsage, exitFound, exitUnreachable, exitRefused, exitConfig} {
		if !reached[code] {
			t.Errorf("no page shows what ends with code %d", code)
		}
	}
}

var shownCode = regexp.MustCompile(`(?m)^exit code (\d+)$`)

// codesOf are the exit codes that a block claims.
func codesOf(s step) (out []int) {
	if !s.runs() {
		return nil
	}
	claims := []string{s.marks["exit"]}
	for _, m := range shownCode.FindAllStringSubmatch(s.text, -1) {
		claims = append(claims, m[1])
	}
	for _, c := range claims {
		if code, err := strconv.Atoi(c); err == nil {
			out = append(out, code)
		}
	}
	return out
}

// A pageStage is what the commands of a page meet.
type pageStage struct {
	t     *testing.T
	page  page
	place places
	out   string // what steps print, and the processes in the background
}

func newPageStage(t *testing.T, p page) *pageStage {
	t.Helper()
	s := &pageStage{t: t, page: p, place: newPlaces(t, p)}
	s.out = filepath.Join(s.place.dir, "out")
	if err := os.MkdirAll(filepath.Join(s.place.dir, "work"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(s.place.dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.out, 0o700); err != nil {
		t.Fatal(err)
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	console, api := freeAddress(t), freeAddress(t)
	s.place.pairs = append(s.place.pairs, "127.0.0.1:9810", console, "127.0.0.1:9811", api)
	script := fmt.Sprintf("#!/bin/sh\n[ \"$1\" != emulate ] || { shift; set -- emulate --listen %s \"$@\"; }\n%s=1 exec %s \"$@\"\n", api, asProgram, program)
	if err := os.WriteFile(filepath.Join(s.place.dir, "bin", "cwprelay"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	checkout, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	maps.Copy(s.place.vars, map[string]string{
		"CWPRELAY_HTTP__LISTEN": console,
		"CHECKOUT":              checkout,
		"DOCS_SECRET":           docsSecret,

		"TENCENTCLOUD_SECRET_ID":  emulator.DefaultSecretID,
		"TENCENTCLOUD_SECRET_KEY": docsSecret,

		"DOCS_API":      s.api(),
		"DOCS_HEC":      serveDocs(t, hectest.New(hectest.Config{Token: docsSecret, Ack: true})),
		"DOCS_KAFKA":    docsKafka(t),
		"DOCS_ELASTIC":  serveDocs(t, http.HandlerFunc(docsElastic)),
		"DOCS_RECEIVER": serveDocs(t, http.HandlerFunc(docsReceiver)),
		"DOCS_SYSLOG":   docsSyslog(t),
	})
	return s
}

// api is an emulated API with the pages' secret.
func (s *pageStage) api() string {
	server := emulator.New(emulator.Config{Events: 120, Seed: 3, SecretID: emulator.DefaultSecretID, SecretKey: secret.New(docsSecret)})
	return serveDocs(s.t, server)
}

func serveDocs(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return server.URL
}

// freeAddress is one that nobody listens on.
func freeAddress(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

func docsKafka(t *testing.T) string {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, "cwp.findings"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	return cluster.ListenAddrs()[0]
}

// docsElastic takes every document and every template.
func docsElastic(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		unpacked, err := gzip.NewReader(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		body = unpacked
	}
	switch {
	case r.URL.Path == "/":
		_, _ = io.WriteString(w, `{"version":{"number":"2.19.0","distribution":"opensearch"},"tagline":"The OpenSearch Project: https://opensearch.org/"}`)
	case strings.HasSuffix(r.URL.Path, "_bulk"):
		var items []string
		lines := bufio.NewScanner(body)
		lines.Buffer(nil, 1<<20)
		for ; lines.Scan(); lines.Scan() {
			items = append(items, `{"create":{"status":201}}`)
		}
		_, _ = fmt.Fprintf(w, `{"errors":false,"items":[%s]}`, strings.Join(items, ","))
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{}`)
	default:
		_, _ = io.WriteString(w, `{"acknowledged":true}`)
	}
}

// docsReceiver is a webhook's receiver, and Slack.
func docsReceiver(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	if strings.Contains(r.URL.Path, "chat.postMessage") || strings.Contains(r.URL.Path, "auth.test") {
		_, _ = io.WriteString(w, `{"ok":true,"ts":"1.2","channel":"C0123456789"}`)
		return
	}
	_, _ = io.WriteString(w, "ok")
}

// docsSyslog reads connections to their end.
func docsSyslog(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
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
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}()
		}
	}()
	return ln.Addr().String()
}

// A printed is what a command was to print.
type printed struct {
	step    int
	file    string
	command string
	want    []string
}

// run runs the page.
func (s *pageStage) run() {
	var script strings.Builder
	script.WriteString(prelude)
	var checks []printed
	for i, st := range s.page.steps {
		text := s.place.here(st.text)
		if name := st.marks["file"]; name != "" {
			fmt.Fprintf(&script, "at %d\nmkdir -p \"$(dirname %[2]s)\"\ncat >%[2]s <<'END OF FILE'\n%[3]sEND OF FILE\n", i, s.place.here(name), text)
		}
		if !st.runs() {
			continue
		}
		if st.lang == "console" {
			checks = append(checks, s.console(&script, i, st)...)
			continue
		}
		fmt.Fprintf(&script, "at %d\n", i)
		switch condition := st.marks["background"]; {
		case condition != "":
			fmt.Fprintf(&script, "export LOG=\"$OUT/%[1]d\"\nset -m\n( trap : TERM\n%[2]s) >\"$LOG\" 2>&1 &\nset +m\nbackground $! <<'END OF CONDITION'\n%[3]s\nEND OF CONDITION\n", i, text, s.place.here(condition))
		case st.marks["exit"] != "":
			fmt.Fprintf(&script, "set +e\n{\n%s} >\"$OUT/%d\" 2>&1\nended $? %s\n", text, i, st.marks["exit"])
		default:
			fmt.Fprintf(&script, "{\n%s} >\"$OUT/%d\" 2>&1\n", text, i)
		}
	}
	ctx, cancel := context.WithTimeout(s.t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-c", script.String())
	cmd.Dir = filepath.Join(s.place.dir, "work")
	cmd.WaitDelay = 10 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.Env = append(s.place.variables(),
		"PATH="+filepath.Join(s.place.dir, "gobin")+":"+filepath.Join(s.place.dir, "bin")+":"+os.Getenv("PATH"), "OUT="+s.out, "HOME="+cmd.Dir, "LC_ALL=C.UTF-8",
		"GOBIN="+filepath.Join(s.place.dir, "gobin"), "GOFLAGS="+goEnv(s.t, "GOFLAGS"), "GOCACHE="+goEnv(s.t, "GOCACHE"), "GOMODCACHE="+goEnv(s.t, "GOMODCACHE"),
	)
	defer s.killBackground()
	said, err := cmd.CombinedOutput()
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // what hidden commands left running
	if err != nil {
		at := s.step()
		output, _ := os.ReadFile(filepath.Join(s.out, strconv.Itoa(at)))
		s.t.Errorf("%s:%d: %v: %s\n%s\nprinted:\n%s", s.page.name, s.page.steps[at].line, err, said, s.page.steps[at].text, output)
		return
	}
	for _, c := range checks {
		s.compare(c)
	}
}

// prelude is what the script of each page begins with.
const prelude = `set -euo pipefail
at() { echo "$1" >"$OUT/at"; }
ended() { set -e; [ "$1" = "$2" ] || { echo "exit code $1, want $2"; exit 1; }; }
background() {
  last=$1; echo "$1" >>"$OUT/pids"; local condition; condition=$(cat)
  for _ in $(seq 900); do
    if (eval "$condition") >/dev/null 2>&1; then return; fi
    kill -0 "$1" || { echo "it ended by itself"; exit 1; }
    sleep 0.1
  done
  echo "it never came to: $condition"; exit 1
}
# use_emulator makes the source "prod" of the configurations ask the emulator.
use_emulator() { export CWPRELAY_SOURCES__PROD__SITE= CWPRELAY_SOURCES__PROD__ENDPOINT="$DOCS_API"; }
# stop ends what was begun last in the background as an operator would.
stop() { kill -TERM -- "-$last"; wait "$last"; }
`

// console adds the commands of a console block.
func (s *pageStage) console(script *strings.Builder, i int, st step) (checks []printed) {
	var command string
	var want []string
	flush := func() {
		if command == "" {
			return
		}
		name := fmt.Sprintf("%d.%d", i, len(checks))
		fmt.Fprintf(script, "at %d\n", i)
		run := fmt.Sprintf("{\n%s\n} >\"$OUT/%s\" 2>&1", s.place.here(command), name)
		fmt.Fprintf(script, "%s || { code=$?; cat \"$OUT/%s\"; exit $code; }\n", run, name)
		checks = append(checks, printed{i, name, command, want})
		command, want = "", nil
	}
	for line := range strings.SplitSeq(strings.TrimSuffix(st.text, "\n"), "\n") {
		switch {
		case strings.HasPrefix(line, "$ "):
			flush()
			command = strings.TrimPrefix(line, "$ ")
		case command != "" && strings.HasSuffix(command, "\\"):
			command += "\n" + line
		default:
			want = append(want, line)
		}
	}
	flush()
	return checks
}

// compare compares what a command printed with what the page shows.
func (s *pageStage) compare(c printed) {
	output, err := os.ReadFile(filepath.Join(s.out, c.file))
	if err != nil {
		s.t.Error(err)
		return
	}
	var pattern strings.Builder
	pattern.WriteString(`^`)
	for _, line := range c.want {
		if strings.TrimSpace(line) == "…" {
			pattern.WriteString(`(?:.*\n)*?`)
			continue
		}
		pattern.WriteString(strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", ".*") + ` *\n`)
	}
	pattern.WriteString(`$`)
	if got := s.place.there(string(output)); !regexp.MustCompile(pattern.String()).MatchString(got) {
		s.t.Errorf("%s:%d: $ %s\nprints:\n%s\nthe page shows:\n%s", s.page.name, s.page.steps[c.step].line, c.command, got, strings.Join(c.want, "\n"))
	}
}

// step is the one that was run last.
func (s *pageStage) step() int {
	text, err := os.ReadFile(filepath.Join(s.out, "at"))
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(bytes.TrimSpace(text)))
	return n
}

func (s *pageStage) killBackground() {
	text, err := os.ReadFile(filepath.Join(s.out, "pids"))
	if err != nil {
		return // none
	}
	for line := range strings.Lines(string(text)) {
		if pid, err := strconv.Atoi(strings.TrimSpace(line)); err == nil {
			_ = syscall.Kill(-pid, syscall.SIGKILL) // its group; it may have ended
		}
	}
}

// goEnv is a setting of the Go that runs the tests, for pages that build.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
