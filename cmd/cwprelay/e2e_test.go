package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/sinks/splunkhec/hectest"
)

// asProgram makes the test binary be cwprelay: it is what the tests start as
// processes of their own, and kill.
const asProgram = "CWPRELAY_TEST_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		if err := os.Unsetenv(asProgram); err != nil {
			os.Exit(exitFailed)
		}
		main()
	}
	goleak.VerifyTestMain(m)
}

// A stage is an emulated API, an emulated Splunk, and a configuration that
// joins them.
type stage struct {
	t      *testing.T
	api    *emulator.Server
	hec    *hectest.Server
	dir    string
	config string
	kills  int // processes that were killed
}

func newStage(t *testing.T, api emulator.Config) *stage {
	t.Helper()
	api.Limit = 10_000
	s := &stage{t: t, api: emulator.New(api), hec: hectest.New(hectest.Config{}), dir: t.TempDir()}
	apiServer, hecServer := httptest.NewServer(s.api), httptest.NewServer(s.hec)
	t.Cleanup(apiServer.Close)
	t.Cleanup(hecServer.Close)
	ctx, cancel := context.WithCancel(context.Background())
	var changes sync.WaitGroup
	changes.Go(func() { _ = s.api.Run(ctx) })
	t.Cleanup(func() { cancel(); changes.Wait() })
	s.config = filepath.Join(s.dir, "cwprelay.yaml")
	s.write(fmt.Sprintf(`
sources:
  prod:
    endpoint: %s
    credentials: {provider: static, secret_id: %s, secret_key: %s}
    requests_per_second: 20
    poll_interval: 1s
    sweep_interval: 1s
sinks:
  soc: {splunk_hec: {url: "%s", token: hectest-token}}
  archive: {file: {path: %s/out.jsonl}}
state: {dir: %s/state, min_free_disk: 1}
http: {listen: "off"}
`, apiServer.URL, emulator.DefaultSecretID, emulator.DefaultSecretKey, hecServer.URL, s.dir, s.dir))
	return s
}

func (s *stage) write(text string) {
	s.t.Helper()
	if err := os.WriteFile(s.config, []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

func (s *stage) command(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	// Not what the tests themselves are told: it would be configuration.
	cmd.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { return strings.HasPrefix(v, "CWPRELAY_") })
	cmd.Env = append(cmd.Env, asProgram+"=1")
	return cmd
}

// asked is how many requests the API has answered, or failed.
func (s *stage) asked() (n int) {
	for _, count := range s.api.Stats().Requests {
		n += count
	}
	return n
}

// run runs cwprelay to its end and returns its exit code and what it printed
// on standard error.
func (s *stage) run(args ...string) (int, string) {
	s.t.Helper()
	cmd := s.command(args...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		s.t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), stderr.String()
}

// delivered are the pairs that a destination holds, from ECS documents or the
// bodies of HEC events.
func (s *stage) delivered() (hec, archive map[emulator.Pair]bool) {
	s.t.Helper()
	hec, archive = map[emulator.Pair]bool{}, map[emulator.Pair]bool{}
	for _, e := range s.hec.Events() {
		var body struct {
			EventID json.Number `json:"event_id"`
			Status  json.Number `json:"handle_status"`
		}
		if err := json.Unmarshal(e.Event, &body); err != nil {
			s.t.Fatal(err)
		}
		hec[emulator.Pair{ID: body.EventID.String(), Status: body.Status.String()}] = true
	}
	text, err := os.ReadFile(filepath.Join(s.dir, "out.jsonl"))
	if err != nil {
		s.t.Fatal(err)
	}
	torn := 0
	for line := range bytes.Lines(text) {
		pair, err := ecsPair(line)
		if err != nil {
			// A process that is killed while it writes leaves the beginning of a
			// line, which the next one ends; the record follows whole.
			if torn++; torn > s.kills {
				s.t.Fatalf("line of the file: %v: %s", err, line)
			}
			continue
		}
		archive[pair] = true
	}
	return hec, archive
}

// sweepAll sweeps until a sweep is certified, and returns the ticks it lasted.
func (s *stage) sweepAll() (from, to uint64) {
	s.t.Helper()
	var text string
	for range 5 {
		from = s.api.World().Tick()
		var code int
		if code, text = s.run("run", "--once", "-c", s.config); code == exitDone {
			return from, s.api.World().Tick()
		}
	}
	s.t.Fatalf("no certified sweep:\n%s", text)
	return 0, 0
}

func (s *stage) requireAll(pairs []emulator.Pair) {
	s.t.Helper()
	hec, archive := s.delivered()
	missing := 0
	for _, p := range pairs {
		// What has no plain number as status is told in another field.
		if !hec[p] || !archive[p] {
			if missing++; missing < 5 {
				s.t.Errorf("%+v: at Splunk %t, in the file %t", p, hec[p], archive[p])
			}
		}
	}
	if missing > 0 {
		s.t.Errorf("%d of %d pairs are missing", missing, len(pairs))
	}
	if v := s.hec.Violations(); len(v) > 0 {
		s.t.Errorf("Splunk would not like %v", v)
	}
}

// TestOnceDeliversEverything is the newcomer's way: one run over a list that
// changes.
func TestOnceDeliversEverything(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 1200, Rate: 5, Seed: 7})
	from, to := s.sweepAll()
	s.requireAll(s.api.World().VisibleThroughout(from, to))
	if d := s.hec.Duplicates(); d > 0 {
		t.Errorf("%d duplicates without a crash", d)
	}
}

// TestKilledProcessLosesNothing kills the program at random times, while the
// list changes and a tenth of the answers of both sides are faulty.
func TestKilledProcessLosesNothing(t *testing.T) {
	t.Parallel()
	kills := 30
	if testing.Short() {
		kills = 5
	}
	s := newStage(t, emulator.Config{Events: 600, Rate: 20, Seed: 11})
	var faults emulator.Faults
	if err := faults.UnmarshalText([]byte("reset=0.03,truncate=0.03,InternalError=0.04")); err != nil {
		t.Fatal(err)
	}
	s.api.SetFaults(faults)
	random := rand.New(rand.NewPCG(1, 2))
	for n := range kills {
		if n%3 == 0 {
			s.hec.Next(hectest.LostAnswer(), hectest.Busy())
		}
		asked := s.asked()
		d := s.start("run", "-c", s.config)
		s.until("asking the API", d, func() bool { return s.asked() > asked })
		// The length of a life is what varies here; nothing is waited for.
		time.Sleep(time.Duration(random.IntN(500)) * time.Millisecond)
		if err := d.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		s.kills++
		if err := d.Wait(); d.ProcessState.ExitCode() != -1 {
			t.Fatalf("it ended by itself: %v\n%s", err, d.stderr)
		}
	}
	s.hec.Recover() // what lives were too short to meet
	s.api.SetFaults(emulator.Faults{})
	from, to := s.sweepAll()
	s.requireAll(s.api.World().VisibleThroughout(from, to))
	// One batch of each sink is in flight at most, and a batch is 1000 records.
	if d := s.hec.Duplicates(); d > kills*1000 {
		t.Errorf("%d duplicates after %d kills", d, kills)
	}
	t.Logf("%d events at Splunk, %d duplicates after %d kills", s.hec.Distinct(), s.hec.Duplicates(), kills)
}

// TestMistakesHaveOneClearMessageAndCode covers what people get wrong.
func TestMistakesHaveOneClearMessageAndCode(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 10})
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	good := string(text)
	for name, tc := range map[string]struct {
		change func(string) string
		args   []string
		code   int
		want   string
	}{
		"wrong secret": {
			change: func(c string) string { return strings.Replace(c, "secret_key: emulator", "secret_key: wr0ng", 1) },
			args:   []string{"run", "--once"}, code: exitRefused, want: "AuthFailure.SignatureFailure",
		},
		"nobody there": {
			change: func(c string) string {
				return strings.Replace(c, "endpoint: http://127.0.0.1:", "endpoint: http://127.0.0.1:1#", 1)
			},
			args: []string{"check"}, code: exitConfig, want: "endpoint",
		},
		"API unreachable": {
			change: func(c string) string {
				return strings.Replace(c, "endpoint: http://127.0.0.1:", "endpoint: http://127.0.0.1:1/", 1)
			},
			args: []string{"check"}, code: exitUnreachable, want: "connection refused",
		},
		"two mistakes": {
			change: func(c string) string {
				return strings.Replace(c, "requests_per_second: 20", "requests_per_second: 20000\n    polll_interval: 1s", 1)
			},
			args: []string{"run"}, code: exitConfig, want: "polll_interval: unknown key; did you mean poll_interval?",
		},
		"unknown verb": {change: func(c string) string { return c }, args: []string{"rum"}, code: exitUsage, want: "unknown command"},
		"unknown flag": {change: func(c string) string { return c }, args: []string{"run", "--onec"}, code: exitUsage, want: "onec"},
	} {
		t.Run(name, func(t *testing.T) {
			s.write(tc.change(good))
			args := tc.args
			if tc.code != exitUsage {
				args = append(args, "-c", s.config)
			}
			code, text := s.run(args...)
			if code != tc.code || !strings.Contains(text, tc.want) {
				t.Errorf("exit code %d, want %d; printed:\n%s\nwant %q", code, tc.code, text, tc.want)
			}
			if strings.Contains(text, "wr0ng") || strings.Contains(text, "hectest-token") {
				t.Errorf("a secret was printed:\n%s", text)
			}
		})
	}
}

// TestFiveMistakesAreToldAtOnce has one mistake of each sort in a file: all are
// told, each with its line and what to do, and nothing is begun.
func TestFiveMistakesAreToldAtOnce(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 10})
	s.write(`sources:
  prod:
    endpoint: ftp://127.0.0.1
    poll_intervall: 15s
    sweep_interval: 5s
sinks:
  soc: {splunk_hec: {url: "https://splunk:8088", token: "${NOT_SET_ANYWHERE}"}}
  pipeline: {kafka: {brokers: ["kafka:9092"]}}
state: {dir: ` + s.dir + `/state}
`)
	code, text := s.run("run", "-c", s.config)
	if code != exitConfig {
		t.Errorf("exit code %d, want %d", code, exitConfig)
	}
	for _, want := range []string{
		"cwprelay.yaml:3: sources.prod.endpoint: the scheme must be http or https",
		"cwprelay.yaml:4: sources.prod.poll_intervall: unknown key; did you mean poll_interval?",
		"cwprelay.yaml:5: sources.prod.sweep_interval: 5s is shorter than poll_interval (15s)",
		"cwprelay.yaml:7: sinks.soc.splunk_hec.token: the variable NOT_SET_ANYWHERE is not set; set it, or give a default: ${NOT_SET_ANYWHERE:-value}",
		"cwprelay.yaml:8: sinks.pipeline.kafka.topic: required",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("not told: %s", want)
		}
	}
	if t.Failed() || strings.Count(text, "cwprelay.yaml:") != 5 {
		t.Errorf("told:\n%s", text)
	}
	if _, err := os.Stat(filepath.Join(s.dir, "state")); err == nil {
		t.Error("the state directory was made")
	}
}

// TestSecondProcessIsRefused starts a second daemon on the same state.
func TestSecondProcessIsRefused(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 10})
	first := s.command("run", "-c", s.config)
	if err := first.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Process.Kill(); _ = first.Wait() }()
	for s.hec.Distinct() == 0 {
		time.Sleep(20 * time.Millisecond) // until it has the state open and works
	}
	code, text := s.run("run", "--once", "-c", s.config)
	if code != exitFailed || !strings.Contains(text, "in use by another process") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
}

// TestHaltedSinkHarmsNoOther gives one sink a token that is refused.
func TestHaltedSinkHarmsNoOther(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 300})
	s.hec.DisableToken(true)
	code, text := s.run("run", "--once", "-c", s.config)
	if code != exitFailed || !strings.Contains(text, "sink soc is halted") {
		t.Errorf("exit code %d:\n%s", code, text)
	}
	_, archive := s.delivered()
	if len(archive) != 300 {
		t.Errorf("%d pairs in the file, want 300", len(archive))
	}
	s.hec.DisableToken(false)
	if code, text := s.run("run", "--once", "-c", s.config); code != exitDone {
		t.Errorf("after mending: exit code %d:\n%s", code, text)
	}
	s.requireAll(s.api.World().Visible(s.api.World().Tick()))
}

func TestDemoShowsEventsAndEnds(t *testing.T) {
	s := &stage{t: t}
	cmd := s.command("demo", "--for", "3s")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	if n := bytes.Count(stdout.Bytes(), []byte("\n")); n < 25 || !json.Valid(bytes.SplitN(stdout.Bytes(), []byte("\n"), 2)[0]) {
		t.Errorf("%d lines:\n%.300s", n, stdout.String())
	}
	if !strings.Contains(stderr.String(), "Status page: http://127.0.0.1:") {
		t.Errorf("no address of the page:\n%s", stderr.String())
	}
}

// A daemon is a running process of the program.
type daemon struct {
	*exec.Cmd
	stderr *lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex // guards b
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func (s *stage) start(args ...string) daemon {
	s.t.Helper()
	d := daemon{s.command(args...), &lockedBuffer{}}
	d.Stderr = d.stderr
	if err := d.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if d.ProcessState == nil {
			_ = d.Process.Kill()
			_ = d.Wait()
		}
	})
	return d
}

// until waits for something to become true.
func (s *stage) until(what string, d daemon, holds func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not %s after two minutes:\n%s", what, d.stderr)
		}
	}
}

func TestTerminationEndsWithZeroAndLosesNothing(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		s := newStage(t, emulator.Config{Events: 300})
		d := s.start("run", "-c", s.config)
		s.until("delivering", d, func() bool { return s.hec.Distinct() > 0 })
		if err := d.Process.Signal(signal); err != nil {
			t.Fatal(err)
		}
		if err := d.Wait(); err != nil {
			t.Errorf("%s: %v\n%s", signal, err, d.stderr)
		}
		from, to := s.sweepAll()
		s.requireAll(s.api.World().VisibleThroughout(from, to))
		if n := s.hec.Duplicates(); n > 0 {
			t.Errorf("%s: %d duplicates after an orderly end", signal, n)
		}
	}
}

// TestConfigurationIsReadAgain changes the file and a secret beside it, and
// makes mistakes in between.
func TestConfigurationIsReadAgain(t *testing.T) {
	s := newStage(t, emulator.Config{Events: 50, Rate: 5})
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	token := filepath.Join(s.dir, "token")
	put := func(value string) {
		t.Helper()
		if err := os.WriteFile(token, []byte(value+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	put("wrong-token-1")
	good := strings.Replace(string(text), "token: hectest-token", "token: \"${file:"+token+"}\"", 1)
	s.write(good)
	d := s.start("run", "-c", s.config)
	s.until("halted", d, func() bool { return strings.Contains(d.stderr.String(), "refuses everything") })

	put("hectest-token") // noticed by itself
	s.until("delivering with the new secret", d, func() bool { return s.hec.Distinct() >= 50 })

	hangup := func() {
		t.Helper()
		if err := d.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	s.write(strings.Replace(good, "poll_interval: 1s", "poll_interval: never", 1))
	hangup()
	s.until("told of the mistake", d, func() bool {
		return strings.Contains(d.stderr.String(), "sources.prod.poll_interval: must be a duration")
	})
	before := s.hec.Distinct()
	s.until("going on with the former", d, func() bool { return s.hec.Distinct() > before })

	s.write(strings.Replace(good, "sinks:", "sinks:\n  second: {file: {path: "+s.dir+"/second.jsonl}}", 1))
	hangup()
	s.until("delivering to the new sink", d, func() bool {
		info, err := os.Stat(filepath.Join(s.dir, "second.jsonl"))
		return err == nil && info.Size() > 0
	})
	// A port that is taken, and a directory that cannot be made: nothing changes.
	taken := httptest.NewServer(nil)
	defer taken.Close()
	s.write(strings.Replace(good, `listen: "off"`, "listen: "+strings.TrimPrefix(taken.URL, "http://"), 1))
	hangup()
	s.until("told of the port", d, func() bool { return strings.Contains(d.stderr.String(), "address already in use") })
	s.write(strings.Replace(good, "/state,", "/cwprelay.yaml/state,", 1))
	hangup()
	s.until("going back", d, func() bool { return strings.Contains(d.stderr.String(), "going back to the former") })
	before = s.hec.Distinct()
	s.until("going on with the former", d, func() bool { return s.hec.Distinct() > before })
	// Where that is asked for, a change of the file is enough; a file put in its
	// place is one.
	s.write(good + "reload_on_change: true\n")
	hangup()
	s.until("reading the file when it changes", d, func() bool { return strings.Contains(d.stderr.String(), "reload_on_change changed") })
	next := filepath.Join(s.dir, "next.yaml")
	if err := os.WriteFile(next, []byte(strings.Replace(good, "sinks:", "sinks:\n  third: {file: {path: "+s.dir+"/third.jsonl}}", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(next, s.config); err != nil {
		t.Fatal(err)
	}
	s.until("delivering to the third sink", d, func() bool {
		info, err := os.Stat(filepath.Join(s.dir, "third.jsonl"))
		return err == nil && info.Size() > 0
	})
	if strings.Contains(d.stderr.String(), "hectest-token") || strings.Contains(d.stderr.String(), "wrong-token-1") {
		t.Errorf("a secret was logged:\n%s", d.stderr)
	}
}
