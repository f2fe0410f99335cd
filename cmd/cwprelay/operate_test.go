package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/journal"
)

// ask runs a verb, decodes what it prints as JSON into answer, and returns its
// exit code and what it said on standard error.
func (s *stage) ask(answer any, args ...string) (int, string) {
	s.t.Helper()
	cmd := s.command(append(args, "-c", s.config, "-o", "json")...)
	var stderr lockedBuffer
	cmd.Stderr = &stderr
	out, _ := cmd.Output() // the code tells
	if answer != nil && len(out) > 0 {
		if err := json.Unmarshal(out, answer); err != nil {
			s.t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

func (s *stage) overview() console.Overview {
	s.t.Helper()
	var v console.Overview
	if code, errs := s.ask(&v, "status"); code != exitDone && code != exitFound {
		s.t.Fatalf("status: %d, %s", code, errs)
	}
	return v
}

func (s *stage) sink(name string) console.SinkOverview {
	s.t.Helper()
	for _, sink := range s.overview().Sinks {
		if sink.Name == name {
			return sink
		}
	}
	s.t.Fatalf("no sink %s", name)
	return console.SinkOverview{}
}

// A person on call asks the daemon, steers it, and asks the journal once the
// daemon is gone.
func TestOperatorSeesAndSteers(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 60})
	var refuses atomic.Bool
	refuses.Store(true)
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if refuses.Load() && strings.Contains(string(body), "Miner") {
			w.WriteHeader(http.StatusBadRequest)
		}
	}))
	t.Cleanup(hook.Close)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(strings.Replace(string(text), "sinks:\n", "sinks:\n  hook: {webhook: {url: \""+hook.URL+"\", allow_private: true}}\n", 1))

	if code, errs := s.ask(nil, "status"); code != exitFailed || !strings.Contains(errs, "there is no journal") {
		t.Errorf("before the first start: %d, %s", code, errs)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "state")); err == nil {
		t.Error("looking made a state directory")
	}
	d := s.start("run", "-c", s.config)
	s.until("ready", d, func() bool {
		if _, err := os.Stat(filepath.Join(s.dir, "state", socketName)); err != nil {
			return false
		}
		v := s.overview()
		return v.Running && v.Ready.Ready && s.sink("hook").Dead > 0 && s.sink("hook").Behind == 0 && s.sink("archive").Behind == 0
	})
	if info, err := os.Stat(filepath.Join(s.dir, "state", socketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info.Mode(), err)
	}

	if code, errs := s.run("health", "-c", s.config); code != 0 {
		t.Errorf("health: %d, %s", code, errs)
	}

	// Why is this alert not there?
	var letters []console.Letter
	if code, errs := s.ask(&letters, "deadletter", "list", "hook"); code != 0 || len(letters) == 0 || letters[0].Class != "poison" || letters[0].Raw != nil {
		t.Fatalf("dead letters: %d, %s, %+v", code, errs, letters)
	}
	dead := letters[0]
	for _, id := range []string{fmt.Sprintf("#%d", dead.Seq), dead.UID, dead.Finding, dead.Finding[strings.LastIndexByte(dead.Finding, ':')+1:]} {
		var traced []console.Traced
		if code, errs := s.ask(&traced, "trace", id); code != 0 || len(traced) != 1 || traced[0].Seq != dead.Seq || traced[0].RequestID == "" || traced[0].Sweep == "" {
			t.Fatalf("trace %s: %d, %s, %+v", id, code, errs, traced)
		}
		for _, at := range traced[0].Sinks {
			switch at.Sink {
			case "hook":
				if at.State != "dead" || !strings.Contains(at.Reason, "400") {
					t.Errorf("hook: %+v", at)
				}
			default:
				if at.State != "settled" || len(at.Receipts) != 1 || !at.Receipts[0].Accepted || at.Receipts[0].Answer == "" {
					t.Errorf("%s: %+v", at.Sink, at)
				}
			}
		}
	}
	if code, errs := s.ask(nil, "trace", "nosuch"); code != exitFound || !strings.Contains(errs, "no record of nosuch") {
		t.Errorf("trace of nothing: %d, %s", code, errs)
	}
	if code, errs := s.ask(nil, "deadletter", "list", "nosuch"); code != exitUsage || !strings.Contains(errs, "there are: archive, hook, soc") {
		t.Errorf("unknown sink: %d, %s", code, errs)
	}

	// Is anything missing?
	var rec console.Reconciliation
	if code, errs := s.ask(&rec, "reconcile", "--sink", "hook"); code != exitFound || rec.Agrees || len(rec.Differ) != len(letters) || len(rec.Sinks) != 1 || rec.Differ[0].Where != "hook" {
		t.Errorf("reconcile with dead letters: %d, %s, %+v", code, errs, rec)
	}
	if code, errs := s.ask(&rec, "reconcile", "--sink", "archive"); code != 0 || !rec.Agrees || !rec.Sources[0].Certified {
		t.Errorf("reconcile of a sink that has everything: %d, %s, %+v", code, errs, rec)
	}

	// One is dropped, the others are sent again once the receiver takes them.
	var done console.Done
	if code, errs := s.ask(&done, "deadletter", "drop", "hook", fmt.Sprint(dead.Seq)); code != 0 || done.Records != 1 {
		t.Errorf("drop: %d, %s", code, errs)
	}
	if code, errs := s.ask(nil, "deadletter", "drop", "hook", fmt.Sprint(dead.Seq)); code != exitUsage || !strings.Contains(errs, "has no dead letter") {
		t.Errorf("dropped twice: %d, %s", code, errs)
	}
	refuses.Store(false)
	if code, errs := s.ask(&done, "deadletter", "retry", "hook", "--all"); code != 0 || done.Records != uint64(len(letters)-1) {
		t.Errorf("retry: %d, %s, %+v", code, errs, done)
	}
	s.until("delivered what was dead", d, func() bool { return s.sink("hook").Dead == 0 })

	// A paused sink gets nothing and keeps everything.
	if code, errs := s.ask(nil, "sinks", "pause", "archive"); code != 0 {
		t.Errorf("pause: %d, %s", code, errs)
	}
	s.until("paused", d, func() bool { return s.sink("archive").State == "paused" })
	if code, errs := s.ask(nil, "sinks", "resume", "archive"); code != 0 {
		t.Errorf("resume: %d, %s", code, errs)
	}
	s.until("resumed", d, func() bool { return s.sink("archive").State != "paused" })

	// What was delivered is sent again.
	before := s.lines()
	if code, errs := s.ask(&done, "replay", "--sink", "archive", "--from", "1", "--wait"); code != 0 || done.Records < uint64(before) {
		t.Errorf("replay: %d, %s, %+v", code, errs, done)
	}
	s.until("replayed", d, func() bool { return s.lines() >= 2*before })
	for _, args := range [][]string{{"replay", "--sink", "archive"}, {"replay", "--from", "1"}, {"replay", "--sink", "archive", "--since", "soon"}, {"deadletter", "retry", "hook"}} {
		if code, errs := s.ask(nil, args...); code != exitUsage || errs == "" {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
	if code, errs := s.ask(nil, "log-level", "debug"); code != 0 {
		t.Errorf("log level: %d, %s", code, errs)
	}

	// A copy of the state, taken while it runs, goes on elsewhere.
	var found journal.Checked
	if code, errs := s.ask(&found, "state", "check"); code != 0 || !found.Sound() || found.Rows < 60 {
		t.Errorf("state check: %d, %s, %+v", code, errs, found)
	}
	copied, elsewhere := filepath.Join(s.dir, "copy.db"), filepath.Join(s.dir, "elsewhere")
	if code, errs := s.ask(nil, "state", "export", copied); code != 0 {
		t.Errorf("state export: %d, %s", code, errs)
	}
	if info, err := os.Stat(copied); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the export: %v, %v", info, err)
	}
	for _, args := range [][]string{{"state", "export", copied}, {"state", "import", copied}} { // there is one already
		if code, errs := s.ask(nil, args...); code != exitUsage || !strings.Contains(errs, "--force") {
			t.Errorf("%v: %d, %s", args, code, errs)
		}
	}
	for _, args := range [][]string{{"state", "import", copied, "--force"}, {"state", "compact"}} {
		if code, errs := s.ask(nil, args...); code != exitFailed || !strings.Contains(errs, "in use by another process") {
			t.Errorf("%v while it runs: %d, %s", args, code, errs)
		}
	}
	if code, errs := s.ask(nil, "state", "import", copied, "--state-dir", elsewhere); code != 0 {
		t.Errorf("state import: %d, %s", code, errs)
	}
	var copies []console.Traced
	if code, errs := s.ask(&copies, "trace", dead.UID, "--state-dir", elsewhere); code != 0 || len(copies) != 1 {
		t.Errorf("trace in the copy: %d, %s", code, errs)
	}

	// The daemon is gone; the journal answers.
	if err := d.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := d.Wait(); err != nil {
		t.Fatal(err)
	}
	if v := s.overview(); v.Running || v.Journal.Records < 60 || s.sink("soc").State != "stopped" {
		t.Errorf("without a daemon: %+v", v)
	}
	if code, errs := s.run("health", "-c", s.config); code != exitFailed || !strings.Contains(errs, "no daemon runs") {
		t.Errorf("health without a daemon: %d, %s", code, errs)
	}
	var traced []console.Traced
	if code, errs := s.ask(&traced, "trace", dead.UID); code != 0 || len(traced) != 1 {
		t.Errorf("trace without a daemon: %d, %s", code, errs)
	}
	if code, errs := s.ask(&rec, "reconcile"); code != 0 || !rec.Agrees || len(rec.Sinks) != 3 {
		t.Errorf("reconcile without a daemon: %d, %s, %+v", code, errs, rec)
	}
	if code, errs := s.ask(nil, "reconcile", "--resend"); code != exitFailed || !strings.Contains(errs, "no daemon runs") {
		t.Errorf("resend without a daemon: %d, %s", code, errs)
	}
	if code, errs := s.ask(nil, "state", "compact"); code != 0 {
		t.Errorf("state compact: %d, %s", code, errs)
	}
	if code, errs := s.ask(nil, "sinks", "pause", "archive"); code != exitFailed || !strings.Contains(errs, "no daemon runs") {
		t.Errorf("pause without a daemon: %d, %s", code, errs)
	}
}

// lines are those of the file sink.
func (s *stage) lines() int {
	text, _ := os.ReadFile(filepath.Join(s.dir, "out.jsonl"))
	return strings.Count(string(text), "\n")
}

// Wherever a sink is to be named, the shell knows the configured ones.
func TestSinkNamesAreCompleted(t *testing.T) {
	s := newStage(t, emulator.Config{})
	for _, words := range [][]string{
		{"sinks", "test"},
		{"sinks", "setup"},
		{"sinks", "pause"},
		{"sinks", "resume"},
		{"deadletter", "list"},
		{"deadletter", "show"},
		{"deadletter", "retry"},
		{"deadletter", "drop"},
		{"deadletter", "export"},
		{"replay", "--sink"},
		{"reconcile", "--sink"},
	} {
		args := append([]string{"__complete"}, words[:1]...)
		if strings.HasPrefix(words[1], "--") {
			args = append(args, "-c", s.config, words[1], "")
		} else {
			args = append(args, words[1], "-c", s.config, "")
		}
		cmd := s.command(args...)
		out, err := cmd.Output()
		if err != nil || !strings.HasPrefix(string(out), "archive\nsoc\n:4") {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
	}
}

func TestSinceIsATimeOrADuration(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for text, want := range map[string]string{
		"6h": "2026-01-01T21:04:05Z", "2025-12-31T00:00:00Z": "2025-12-31T00:00:00Z", "2025-12-31T00:00:00+08:00": "2025-12-30T16:00:00Z",
		"-1h": "", "yesterday": "", "": "",
	} {
		got, err := sinceWhen(text, now)
		if (err != nil) != (want == "") || err == nil && got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}

// Whatever goes wrong, /readyz, page, metric and status tell it by name, and tell
// when it is over.
func TestEachTroubleHasAName(t *testing.T) {
	t.Parallel()
	s := newStage(t, emulator.Config{Events: 50, Rate: 2}) // changes, so that sinks have something to send
	text := strings.Replace(readAll(t, s.config), `listen: "off"`, "listen: 127.0.0.1:0", 1)
	text = strings.Replace(text, "poll_interval: 1s", "poll_interval: 1s\n    timeout: 1s", 1)
	s.write(text)
	d := s.start("run", "-c", s.config)
	address := ""
	s.until("listening", d, func() bool {
		address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(d.stderr.String())
		return address != ""
	})
	reasons := func() string {
		status, body := s.get(address + "/readyz")
		var ready console.Readiness
		if err := json.Unmarshal([]byte(body), &ready); err != nil || ready.Ready != (status == http.StatusOK) || ready.Ready != (len(ready.Reasons) == 0) {
			t.Fatalf("/readyz: %d %s, %v", status, body, err)
		}
		var codes []string
		for _, r := range ready.Reasons {
			if r.Detail == "" {
				t.Errorf("%s of %s says nothing more", r.Code, r.About)
			}
			codes = append(codes, r.Code+" "+r.About)
		}
		return strings.Join(codes, ", ")
	}
	s.until("ready", d, func() bool { return reasons() == "" })
	const source = " source prod/risk_process"
	world := s.api.World()
	for _, trouble := range []struct {
		name, want string
		begin, end func()
	}{
		{
			"the key is revoked", "api_credentials" + source,
			func() { s.api.SetCredentials("AKIDother", "other", "") },
			func() { s.api.SetCredentials(emulator.DefaultSecretID, emulator.DefaultSecretKey, "") },
		},
		{
			"the API counts events and shows none", "events_withheld" + source,
			func() { world.SetQuirks(emulator.Quirks{CountedOnly: world.IDs()}) },
			func() { world.SetQuirks(emulator.Quirks{}) },
		},
		{
			"no sweep can be certified", "no_certified_sweep" + source,
			func() { world.SetQuirks(emulator.Quirks{NoTotal: true}) },
			func() { world.SetQuirks(emulator.Quirks{}) },
		},
		{
			"the clock is off, and correcting it helps", "api_clock" + source,
			func() { s.api.SetClockSkew(-7 * time.Minute) },
			func() { s.api.SetClockSkew(0) },
		},
		{
			"the clock is off, and correcting it does not help", "api_clock" + source,
			func() { s.api.SetFaults(emulator.Faults{Codes: map[string]float64{"AuthFailure.SignatureExpire": 1}}) },
			func() { s.api.SetFaults(emulator.Faults{}) },
		},
		{
			"the API is silent", "api_network" + source,
			func() { s.api.SetFaults(emulator.Faults{Latency: time.Hour}) },
			func() { s.api.SetFaults(emulator.Faults{}) },
		},
		{
			"the token of Splunk is revoked", "sink_halted sink soc",
			func() { s.hec.DisableToken(true) },
			func() { s.hec.DisableToken(false); s.ask(nil, "sinks", "resume", "soc") },
		},
		{
			"the journal is full", "journal_full" + source + ", journal_full journal",
			func() {
				s.write(strings.Replace(text, "min_free_disk: 1}", "min_free_disk: 1048576TiB}", 1))
				_ = d.Process.Signal(syscall.SIGHUP)
			},
			func() { s.write(text); _ = d.Process.Signal(syscall.SIGHUP) },
		},
	} {
		trouble.begin()
		last := ""
		s.until(trouble.name+" is told", d, func() bool { last = reasons(); return strings.HasPrefix(last, trouble.want) })
		if last != trouble.want {
			t.Errorf("%s: told as %s", trouble.name, last)
		}
		code, _, _ := strings.Cut(trouble.want, " ")
		if _, page := s.get(address + "/"); !strings.Contains(page, "Not ready") || !strings.Contains(page, code) {
			t.Errorf("%s: the page does not say %s", trouble.name, code)
		}
		if _, metrics := s.get(address + "/metrics"); !strings.Contains(metrics, `cwprelay_not_ready_reason{reason="`+code+`"} 1`) {
			t.Errorf("%s: the metrics do not say %s", trouble.name, code)
		}
		if v := s.overview(); v.Ready.Ready || v.Ready.Reasons[0].Code != code {
			t.Errorf("%s: status says %+v", trouble.name, v.Ready)
		}
		trouble.end()
		s.until(trouble.name+" is over", d, func() bool { return reasons() == "" })
		if _, page := s.get(address + "/"); strings.Contains(page, "Not ready") {
			t.Errorf("%s: the page does not say that it is over", trouble.name)
		}
	}
}

// get asks the console.
func (s *stage) get(url string) (status int, body string) {
	s.t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		s.t.Fatal(err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// A journal that is full names itself and the sink that holds it up, everywhere
// that somebody looks.
func TestFullJournalIsNamedEverywhere(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 4000})
	s.hec.DisableToken(true)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.Replace(text, []byte("min_free_disk: 1}"), []byte("min_free_disk: 1, max_bytes: 1MiB}"), 1)
	s.write(strings.Replace(string(text), `listen: "off"`, `listen: "127.0.0.1:0"`, 1))
	d := s.start("run", "-c", s.config)
	full := func(list []console.Reason) bool {
		for _, r := range list {
			if r.Code == "journal_full" && strings.Contains(r.Detail, "sink soc") {
				return true
			}
		}
		return false
	}
	s.until("told as full", d, func() bool {
		if _, err := os.Stat(filepath.Join(s.dir, "state", socketName)); err != nil {
			return false
		}
		return full(s.overview().Ready.Reasons)
	})
	address := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(d.stderr.String())
	for path, want := range map[string]string{
		"/readyz": `"journal_full"`, "/": "journal_full", "/metrics": `cwprelay_not_ready_reason{reason="journal_full"} 1`,
	} {
		resp, err := http.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		if err = errors.Join(err, resp.Body.Close()); err != nil || !strings.Contains(string(body), want) {
			t.Errorf("%s does not say %s: %v\n%.500s", path, want, err, body)
		}
	}
	if n := strings.Count(d.stderr.String(), "polling paused"); n != 1 {
		t.Errorf("the log tells it %d times", n)
	}
}

// A bar never says more than all, and guesses how long only by what it saw.
func TestProgressIsABarWithAnEstimate(t *testing.T) {
	for _, tc := range []struct {
		done, all, lately uint64
		in                time.Duration
		want              string
	}{
		{0, 0, 0, 0, "[------------------------------]   0 %"},
		{500, 1000, 100, 10 * time.Second, "[###############---------------]  50 %  10/s, about 50s left"},
		{1200, 1000, 1, time.Second, "[##############################] 100 %  1/s, about 0s left"},
	} {
		if got := progress(tc.done, tc.all, tc.lately, tc.in); got != tc.want {
			t.Errorf("%+v: %q, want %q", tc, got, tc.want)
		}
	}
}

// Drawn over itself, the status clears what was longer before, and no line is
// wider than the terminal.
func TestStatusIsDrawnOverItself(t *testing.T) {
	v := console.Overview{Running: true, Ready: console.Readiness{Ready: true}}
	text := onScreen("Ready.\nä"+strings.Repeat("x", 100)+"\nshort\n", v, true, 40)
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "\x1b[H\x1b[1;32mReady.") || !strings.HasSuffix(text, "\x1b[K\x1b[J") {
		t.Fatalf("%q", text)
	}
	for i, want := range []string{1: "ä" + strings.Repeat("x", 38) + "…\x1b[K", 2: "short\x1b[K"} {
		if want != "" && lines[i] != want {
			t.Errorf("line %d: %q, want %q", i, lines[i], want)
		}
	}
	if once := onScreen("NOT READY\nx\n", console.Overview{Running: true}, false, 40); once != "\x1b[1;31mNOT READY\x1b[0m\nx\n" {
		t.Errorf("%q", once)
	}
}

// A slip of the finger is an error that shows how it is written, below a verb
// too.
func TestWrongWordsShowTheRightOnes(t *testing.T) {
	t.Parallel()
	s := &stage{t: t}
	for want, args := range map[string][]string{
		"did you mean list or test?":     {"sinks", "tst"},
		"usage: cwprelay sinks COMMAND":  {"sinks", "nonsense"},
		"usage: cwprelay trace ID":       {"trace"},
		"usage: cwprelay status [flags]": {"status", "--wach"},
		"status":                         {"statsu"},
	} {
		if code, errs := s.run(args...); code != exitUsage || !strings.Contains(errs, want) || !strings.Contains(errs, "--help says more") {
			t.Errorf("%v: %d, %s; want %q", args, code, errs, want)
		}
	}
	if code, errs := s.run("sinks"); code != 0 || errs != "" {
		t.Errorf("sinks alone: %d, %s", code, errs)
	}
}

// What is kept of a sink goes when it is not configured and a person says so,
// and not before.
func TestForgetsSinksThatAreNotConfigured(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 10})
	if code, errs := s.run("run", "--once", "-c", s.config); code != exitDone {
		t.Fatalf("exit %d: %s", code, errs)
	}
	if code, errs := s.ask(nil, "sinks", "forget", "archive"); code != exitFailed || !strings.Contains(errs, "take it out of the configuration first") {
		t.Errorf("a configured one: %d, %s", code, errs)
	}
	if code, errs := s.ask(nil, "sinks", "forget", "nobody"); code != exitUsage || !strings.Contains(errs, "nobody") {
		t.Errorf("one that never was: %d, %s", code, errs)
	}
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for line := range strings.Lines(string(text)) {
		if !strings.Contains(line, "archive:") {
			kept = append(kept, line)
		}
	}
	s.write(strings.Join(kept, ""))
	if got := s.sink("archive").State; got != "unconfigured" {
		t.Errorf("it is %s, not unconfigured", got)
	}
	var done console.Done
	if code, errs := s.ask(&done, "sinks", "forget", "archive"); code != exitDone {
		t.Errorf("forgetting: %d, %s", code, errs)
	}
	for _, sink := range s.overview().Sinks {
		if sink.Name == "archive" {
			t.Errorf("it is still there: %+v", sink)
		}
	}
}
