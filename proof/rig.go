package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// A rig is emulated APIs, destinations that count, and a configuration of
// cwprelay that joins them.
type rig struct {
	e       *evidence
	bin     string
	dir     string // of state, logs and files
	config  string // path
	console string // its address
	ledger  *ledger
	sources []*source
	dests   []*destination
	logs    tail
	sweeps  []sweep // that were certified, by the log

	stop    context.CancelFunc
	running sync.WaitGroup
}

// A source is one emulated API.
type source struct {
	account string
	address string // where the daemon asks; a proof may put something in between
	api     *emulator.Server
}

// rigConfig is what proofs differ in.
type rigConfig struct {
	apis     []emulator.Config
	endless  bool   // destinations keep no record that was counted
	settings string // of each source; empty: polled as often as can be
	batch    int    // records of one attempt at most
	sink     string // further settings of each sink
	state    string // further settings of the state

	// front puts something before the address of an API or a destination, and
	// returns where it is reached then. Nil: nothing.
	front func(name, address string) (string, error)
}

func (c rigConfig) before(name, address string) (string, error) {
	if c.front == nil {
		return address, nil
	}
	return c.front(name, address)
}

// newRig starts the emulated APIs and the destinations. The configuration is
// written by configure.
func newRig(ctx context.Context, e *evidence, cfg rigConfig) (*rig, error) {
	bin, err := e.program(ctx)
	if err != nil {
		return nil, err
	}
	r := &rig{e: e, bin: bin, dir: e.dir, config: filepath.Join(e.dir, "cwprelay.yaml")}
	if r.console, err = freeAddress(); err != nil {
		return nil, err
	}
	r.logs.path = filepath.Join(e.dir, "cwprelay.log")
	ctx, r.stop = context.WithCancel(ctx)
	worlds := map[string]*emulator.World{}
	for i, c := range cfg.apis {
		c.Limit = 10_000                            // what the API allows is kept by the daemon's own budget
		ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
		if err != nil {
			r.close()
			return nil, err
		}
		s := &source{account: fmt.Sprint(1300000001 + i), address: ln.Addr().String(), api: emulator.New(c)}
		worlds[s.account] = s.api.World()
		if s.address, err = cfg.before(fmt.Sprintf("s%d", i), s.address); err != nil {
			r.close()
			return nil, errors.Join(err, ln.Close())
		}
		r.sources = append(r.sources, s)
		r.running.Go(func() { _ = s.api.Serve(ctx, ln) }) // it ends with the proof
	}
	r.ledger = newLedger(e, worlds)
	if r.dests, err = everyKind(ctx, r.ledger, r.dir, cfg); err != nil {
		r.close()
		return nil, err
	}
	return r, r.configure(cfg)
}

// freeAddress is a loopback address on which nobody listens.
func freeAddress() (string, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return "", err
	}
	return ln.Addr().String(), ln.Close()
}

// configure writes the daemon's configuration.
func (r *rig) configure(cfg rigConfig) error {
	var b strings.Builder
	b.WriteString("sources:\n")
	for i, s := range r.sources {
		fmt.Fprintf(&b, "  s%d: {endpoint: \"http://%s\", account_id: %q, credentials: {provider: static, secret_id: %s, secret_key: %s}, requests_per_second: 20, %s}\n",
			i, s.address, s.account, emulator.DefaultSecretID, emulator.DefaultSecretKey, cmp.Or(cfg.settings, "poll_interval: 1s, sweep_interval: 1s"))
	}
	b.WriteString("sinks:\n")
	for _, d := range r.dests {
		text := d.config
		if d.address != "" {
			text = fmt.Sprintf(text, d.address)
		}
		fmt.Fprintf(&b, "  %s: %s, batch_records: %d%s}\n", d.name, text, cmp.Or(cfg.batch, batch), cfg.sink)
	}
	fmt.Fprintf(&b, "state: {dir: %q, min_free_disk: 1%s}\nhttp: {listen: %q}\nlog: {level: info, format: json}\n", r.state(), cfg.state, r.console)
	return os.WriteFile(r.config, []byte(b.String()), 0o600)
}

func (r *rig) state() string { return filepath.Join(r.dir, "state") }

func (r *rig) close() {
	for _, d := range r.dests {
		d.close()
	}
	r.stop()
	r.running.Wait()
	r.logs.close()
}

// A daemon is a running cwprelay.
type daemon struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{} // closed when it has ended
	err  error         // of the end; read after done
}

// start starts cwprelay; its log is appended to the rig's.
func (r *rig) start(ctx context.Context, args ...string) (*daemon, error) {
	out, err := os.OpenFile(r.logs.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	d := &daemon{cmd: exec.CommandContext(ctx, r.bin, append(args, "-c", r.config)...), log: out, done: make(chan struct{})}
	d.cmd.Env, d.cmd.Stderr, d.cmd.Dir = environment(), out, r.dir
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C at a terminal is ours, not its
	if err := d.cmd.Start(); err != nil {
		return nil, errors.Join(err, out.Close())
	}
	go func() {
		d.err = errors.Join(d.cmd.Wait(), out.Close())
		close(d.done)
	}()
	return d, nil
}

// kill ends the daemon without a warning. It is an error when it had ended by
// itself.
func (r *rig) kill(d *daemon) error {
	_ = d.cmd.Process.Kill() // fails when it has ended, which is seen below
	<-d.done
	if d.cmd.ProcessState.ExitCode() != -1 {
		r.e.broke("cwprelay ended by itself with code %d; its log is %s", d.cmd.ProcessState.ExitCode(), r.logs.path)
	}
	if err := errors.Join(r.quiet(), r.catchUp()); err != nil {
		return err
	}
	for _, dest := range r.dests {
		dest.killed()
	}
	r.ledger.newLife()
	return nil
}

// quiet waits until the destinations have read all that a process sent which
// was killed.
func (r *rig) quiet() error {
	for _, d := range r.dests {
		err := eventually(10*time.Second, func() (bool, string) {
			n := d.open()
			return n == 0, fmt.Sprintf("%d connections of a killed process are open", n)
		})
		if err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// ended notes that a process has ended by itself.
func (r *rig) ended() error {
	if err := r.catchUp(); err != nil {
		return err
	}
	for _, d := range r.dests {
		d.lived()
	}
	r.ledger.newLife()
	return nil
}

// terminate ends the daemon in good order and returns its exit code.
func (d *daemon) terminate() int {
	_ = d.cmd.Process.Signal(syscall.SIGTERM) // fails when it has ended already
	<-d.done
	return d.cmd.ProcessState.ExitCode()
}

// call runs a verb to its end and returns what it printed.
func (r *rig) call(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, r.bin, append(args, "-c", r.config)...)
	var stderr bytes.Buffer
	cmd.Env, cmd.Stderr, cmd.Dir = environment(), &stderr, r.dir
	out, err := cmd.Output()
	if err != nil {
		return out, fmt.Errorf("cwprelay %s: %w: %s", strings.Join(args, " "), err, stderr.Bytes())
	}
	return out, nil
}

// certificates reads the log for certified sweeps that ended since the last
// call, and adds them to those that are known.
func (r *rig) certificates() (int, error) {
	before := len(r.sweeps)
	var bad error
	err := r.logs.read(func(line []byte) {
		var entry struct {
			At      time.Time `json:"ts"`
			Message string    `json:"msg"`
			Source  string    `json:"source"`
			Sweep   string    `json:"sweep"`
			Verdict string    `json:"verdict"`
		}
		// A line that was torn by a kill is no certificate.
		if json.Unmarshal(line, &entry) != nil || entry.Message != "sweep ended" || entry.Verdict != "certified" {
			return
		}
		_, text, _ := strings.Cut(entry.Sweep, "-") // a sweep's, or a head scan's that saw the whole list
		text, _, _ = strings.Cut(text, "Z")
		begin, err := time.Parse("20060102T150405.000", text)
		if err != nil {
			bad = fmt.Errorf("sweep %s: %w", entry.Sweep, err)
			return
		}
		for i, s := range r.sources {
			if entry.Source == fmt.Sprintf("s%d", i) {
				// The log tells the end after it; a span that is too long promises less.
				r.sweeps = append(r.sweeps, sweep{id: entry.Sweep, account: s.account, begin: begin, end: entry.At.Add(time.Millisecond)})
			}
		}
	})
	return len(r.sweeps) - before, errors.Join(err, bad)
}

// settle sweeps and delivers until nothing is left, by `run --once`. The lists
// still change a little: an event is buried only after another one was accepted.
func (r *rig) settle(ctx context.Context) error {
	for _, s := range r.sources {
		s.api.SetRate(2)
	}
	for try := 1; ; try++ {
		d, err := r.start(ctx, "run", "--once", "--timeout", "10s")
		if err != nil {
			return err
		}
		<-d.done
		code := d.cmd.ProcessState.ExitCode()
		if err := r.ended(); err != nil {
			return err
		}
		certified, err := r.certificates()
		if err != nil {
			return err
		}
		switch {
		case (code == 0 || code == 3) && certified >= len(r.sources):
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case try == 12:
			r.e.broke("with everything in order again, run --once does not come to an end: code %d, %d certificates; its log is %s", code, certified, r.logs.path)
			return nil
		}
	}
}

// sound checks the journal that is left: every row can be read, none ever could
// not, no sink misses any, and it took in each change once.
func (r *rig) sound(ctx context.Context) error {
	if out, err := r.call(ctx, "state", "check"); err != nil {
		r.e.broke("the journal is not sound: %v: %s", err, out)
	}
	out, err := r.call(ctx, "status", "-o", "json")
	if err != nil {
		return err
	}
	var now console.Overview
	if err := json.Unmarshal(out, &now); err != nil {
		return fmt.Errorf("cwprelay status: %w", err)
	}
	j := now.Journal
	if j.Gaps > 0 || j.Damaged > 0 || len(j.SetAside) > 0 {
		r.e.broke("the journal has %d gaps, %d damaged records and %d files set aside, though no disk failed", j.Gaps, j.Damaged, len(j.SetAside))
	}
	if known := r.ledger.records(); j.Last != uint64(known) {
		r.e.broke("the journal has taken in %d records, and the destinations know of %d different ones", j.Last, known)
	}
	return nil
}

// dead reads the dead letters of every sink out of the journal.
func (r *rig) dead(ctx context.Context) error {
	for _, d := range r.dests {
		out, err := r.call(ctx, "deadletter", "export", d.name)
		if err != nil {
			return err
		}
		for letters := json.NewDecoder(bytes.NewReader(out)); ; {
			var letter struct {
				UID string `json:"event_uid"`
			}
			if err := letters.Decode(&letter); errors.Is(err, io.EOF) {
				break
			} else if err != nil {
				return fmt.Errorf("dead letters of %s: %w", d.name, err)
			}
			r.ledger.bury(d.index, letter.UID)
		}
	}
	return nil
}

// catchUp waits until everything that was delivered is in the ledger.
func (r *rig) catchUp() error {
	for _, d := range r.dests {
		if err := d.catchUp(); err != nil {
			return fmt.Errorf("%s: %w", d.name, err)
		}
	}
	return nil
}

// judge checks what holds at the end of a run, when everything was settled, for
// each of the certified sweeps so far, and reports the figures.
func (r *rig) judge(ctx context.Context) error {
	if err := errors.Join(r.catchUp(), r.dead(ctx), r.sound(ctx)); err != nil {
		return err
	}
	r.ledger.complete()
	r.ledger.ordered()
	pairs := 0
	for _, s := range r.sweeps {
		pairs += r.ledger.certified(s)
	}
	if len(r.sweeps) > 0 {
		r.e.count("certified sweeps", len(r.sweeps))
		r.e.count("pairs visible throughout one, summed", pairs)
	}
	r.e.count("records in the journal", r.ledger.records())
	tallies := r.ledger.tallies()
	for _, d := range r.dests {
		t := tallies[d.name]
		d.mu.Lock()
		r.e.count(d.name, fmt.Sprintf("%d records, %d of them again (at most %d in flight), %d dead letters, faults %v",
			t.arrived, t.duplicates, d.allowed, t.dead, d.faults))
		if t.duplicates > d.allowed {
			r.e.broke("%s got %d records again; %d were in flight at kills and lost answers", d.name, t.duplicates, d.allowed)
		}
		d.mu.Unlock()
	}
	return nil
}

// eventually waits for what is bound to come, or says what it was like when it
// did not.
func eventually(bound time.Duration, holds func() (bool, string)) error {
	for deadline := time.Now().Add(bound); ; time.Sleep(20 * time.Millisecond) {
		ok, state := holds()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("after %s: %s", bound, state)
		}
	}
}

// control asks an endpoint of the daemon's admin socket.
func (r *rig) control(ctx context.Context, path string, to any) error {
	client := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(r.state(), "admin.sock"))
	}, DisableKeepAlives: true}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, (&url.URL{Scheme: "http", Host: "cwprelay", Path: path}).String(), nil)
	if err != nil {
		return err
	}
	res, err := client.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close() //nolint:errcheck // it is only read
	return json.NewDecoder(res.Body).Decode(to)
}

// silent takes what servers log of connections that end on purpose.
func silent() *log.Logger { return log.New(io.Discard, "", 0) }
