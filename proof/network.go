package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/rs/zerolog"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

func networkProof() proof {
	return proof{
		name: "network",
		promise: "whatever the network does between cwprelay and the API or a destination - delays, jitter, little bandwidth, slow ends, resets, silence, " +
			"connections cut in the middle of a body, nobody there - nothing is lost and nothing untrue is delivered",
		run: network,
	}
}

// network puts a proxy before the API and before each destination, and lets a
// schedule of troubles happen that the seed decides.
func network(ctx context.Context, e *evidence) error {
	duration := either(e, 30*time.Second, 15*time.Minute)
	between := newProxies()
	defer between.close()
	r, err := newRig(ctx, e, rigConfig{
		apis:  []emulator.Config{{Events: 250, Rate: 10, Seed: e.Seed}},
		front: between.front, sink: ", timeout: 3s",
	})
	if err != nil {
		return err
	}
	defer r.close()
	// Answers of the API overtake each other all the time, many events change
	// their status while they are read, and one second holds more of them than
	// an answer does.
	api := r.sources[0].api
	api.SetFaults(emulator.Faults{Jitter: 400 * time.Millisecond})
	api.Change(func(w *emulator.World) { w.Burst(130, time.Now()) })
	changing, stop := context.WithCancel(ctx)
	defer stop()
	r.running.Go(func() {
		random := rand.New(rand.NewPCG(e.Seed, 21))
		ops := []emulator.Op{emulator.OpProgress, emulator.OpReopen, emulator.OpIgnore}
		for ; changing.Err() == nil; sleep(changing, 10*time.Millisecond) {
			api.Change(func(w *emulator.World) { w.Do(ops[random.IntN(len(ops))], time.Now()) })
		}
	})
	schedule := plan(e.Seed, sorted(between.links), duration)
	if err := write(filepath.Join(e.dir, "schedule.txt"), schedule); err != nil {
		return err
	}
	d, err := r.start(ctx, "run")
	if err != nil {
		return err
	}
	kinds, err := between.play(ctx, schedule)
	if err != nil {
		return err
	}
	stop()
	api.SetFaults(emulator.Faults{})
	if err := r.failures(ctx); err != nil {
		return err
	}
	if code := d.terminate(); code != 0 {
		e.broke("the daemon ended with code %d after SIGTERM; its log is %s", code, r.logs.path)
	}
	if err := r.ended(); err != nil {
		return err
	}
	if _, err := r.certificates(); err != nil {
		return err
	}
	e.count("certified sweeps under trouble", len(r.sweeps))
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.judge(ctx); err != nil {
		return err
	}
	e.did("let %d troubles of %d kinds happen within %s on the ways to the API and to %d destinations, several at once", len(schedule), len(kinds), duration, len(between.links)-1)
	for _, kind := range sorted(kinds) {
		e.count("troubles: "+kind, kinds[kind])
	}
	e.did("compared what every destination holds with the emulated API's own history, for each of the certified sweeps, and record by record with each other")
	if e.failed() {
		e.did("the schedule, of which the seed makes the same again, is in %s", filepath.Join(e.dir, "schedule.txt"))
		for _, t := range schedule {
			e.tell("%s", t)
		}
	}
	return nil
}

// A trouble befalls one way for a while.
type trouble struct {
	at, lasts time.Duration
	link      string
	kind      string
	stream    string // upstream, towards the destination, or downstream
	amounts   map[string]int
}

func (t trouble) String() string {
	return fmt.Sprintf("%s for %s: %s %s %s %v", t.at, t.lasts, t.link, t.kind, t.stream, t.amounts)
}

// absent is the trouble that nobody listens; the others are toxics.
const absent = "nobody there"

// plan draws the troubles of a run. It depends on nothing but its arguments.
func plan(seed uint64, links []string, duration time.Duration) []trouble {
	random := rand.New(rand.NewPCG(seed, 20))
	var all []trouble
	between := func(least, most int) int { return least + random.IntN(most-least) }
	for at := time.Duration(0); at < duration; at += time.Duration(between(100, 700)) * time.Millisecond {
		t := trouble{
			at: at, lasts: time.Duration(between(200, 3000)) * time.Millisecond,
			link: links[random.IntN(len(links))], stream: []string{"upstream", "downstream"}[random.IntN(2)],
		}
		kinds := []string{"latency", "bandwidth", "slicer", "slow_close", "reset_peer", "timeout", "limit_data", absent}
		if t.link == "stream" {
			// A stream has no answers: who cuts it and then ends it in good order
			// cannot be told from a receiver that has read it.
			kinds = kinds[:4]
		}
		switch t.kind = kinds[random.IntN(len(kinds))]; t.kind {
		case "latency":
			t.amounts = map[string]int{"latency": between(10, 400), "jitter": between(0, 300)}
		case "bandwidth":
			t.amounts = map[string]int{"rate": between(2, 60)} // KiB a second
		case "slicer":
			t.amounts = map[string]int{"average_size": between(10, 500), "size_variation": 5, "delay": between(10, 2000)}
		case "slow_close":
			t.amounts = map[string]int{"delay": between(50, 1500)}
		case "reset_peer":
			t.amounts = map[string]int{"timeout": between(0, 300)}
		case "timeout":
			t.amounts = map[string]int{"timeout": between(0, 1000)} // 0: silence without end
		case "limit_data":
			t.amounts = map[string]int{"bytes": between(1, 60_000)}
		}
		all = append(all, t)
	}
	return all
}

// Proxies are what is between, those of proxies, by the name of what is behind them.
type proxies struct {
	server *toxiproxy.ApiServer
	links  map[string]*toxiproxy.Proxy
}

func newProxies() *proxies {
	zerolog.SetGlobalLevel(zerolog.Disabled) // some toxics log where nobody asked them to
	quiet := zerolog.Nop()
	return &proxies{
		server: toxiproxy.NewServer(toxiproxy.NewMetricsContainer(prometheus.NewRegistry()), quiet),
		links:  map[string]*toxiproxy.Proxy{},
	}
}

// front puts a proxy before an address and returns its own.
func (n *proxies) front(name, address string) (string, error) {
	p := toxiproxy.NewProxy(n.server, name, "127.0.0.1:0", address)
	if err := p.Start(); err != nil {
		return "", fmt.Errorf("proxy before %s: %w", name, err)
	}
	n.links[name] = p
	return p.Listen, nil
}

func (n *proxies) close() {
	for _, p := range n.links {
		shutOff(p)
	}
}

// shutOff ends a proxy. Now and then one does not come to its end, when a
// connection is made at the same moment; its address is given up all the same.
func shutOff(p *toxiproxy.Proxy) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		p.Stop()
	}()
	select {
	case <-ended:
	case <-time.After(3 * time.Second):
	}
}

// play lets the troubles happen at their time, and ends them all. It returns
// how many there were of each kind.
func (n *proxies) play(ctx context.Context, schedule []trouble) (map[string]int, error) {
	type step struct {
		at    time.Duration
		begin bool
		n     int
	}
	var steps []step
	for i, t := range schedule {
		steps = append(steps, step{t.at, true, i}, step{t.at + t.lasts, false, i})
	}
	slices.SortStableFunc(steps, func(a, b step) int { return int(a.at - b.at) })
	kinds := map[string]int{}
	absentees := map[string]int{}
	began := time.Now()
	for _, s := range steps {
		sleep(ctx, time.Until(began.Add(s.at)))
		if err := ctx.Err(); err != nil {
			return kinds, err
		}
		t := schedule[s.n]
		p := n.links[t.link]
		name := fmt.Sprintf("%d", s.n)
		var err error
		switch {
		case t.kind == absent && s.begin:
			kinds[t.kind]++
			absentees[t.link]++
			shutOff(p)
		case t.kind == absent:
			if absentees[t.link]--; absentees[t.link] == 0 {
				err = p.Start()
			}
		case s.begin:
			kinds[t.kind]++
			var toxic []byte
			toxic, err = json.Marshal(map[string]any{"name": name, "type": t.kind, "stream": t.stream, "toxicity": 1, "attributes": t.amounts})
			if err == nil {
				err = n.within(t.link, func() error {
					_, err := p.Toxics.AddToxicJson(strings.NewReader(string(toxic)))
					return err
				})
			}
		default:
			err = n.within(t.link, func() error { return p.Toxics.RemoveToxic(ctx, name) })
		}
		if errors.Is(err, toxiproxy.ErrToxicNotFound) || errors.Is(err, toxiproxy.ErrProxyAlreadyStarted) {
			err = nil // the proxy was replaced meanwhile
		}
		if err != nil {
			return kinds, fmt.Errorf("%s: %w", t, err)
		}
	}
	return kinds, nil
}

// within changes the toxics of a proxy. Now and then that never returns, when a
// connection ends at the same moment: then another proxy takes its place.
func (n *proxies) within(link string, change func() error) error {
	done := make(chan error, 1)
	go func() { done <- change() }()
	select {
	case err := <-done:
		return err
	case <-time.After(3 * time.Second):
	}
	old := n.links[link]
	shutOff(old)
	p := toxiproxy.NewProxy(n.server, link, old.Listen, old.Upstream)
	n.links[link] = p
	if err := p.Start(); err != nil {
		return fmt.Errorf("another proxy before %s: %w", link, err)
	}
	return nil
}

// failures accounts for the duplicates that attempts may have brought which
// ended without an answer.
func (r *rig) failures(ctx context.Context) error {
	figures, err := r.metrics(ctx)
	if err != nil {
		return err
	}
	for _, d := range r.dests {
		failed := 0
		for name, n := range figures {
			if strings.HasPrefix(name, "cwprelay_sink_attempts_total{") && strings.Contains(name, fmt.Sprintf("sink=%q", d.name)) && !strings.Contains(name, `outcome="ok"`) {
				failed += int(n)
			}
		}
		d.mu.Lock()
		d.excuse(failed * d.batch)
		d.faults["attempts that failed"] = failed
		d.mu.Unlock()
	}
	return nil
}

func write(path string, schedule []trouble) error {
	var b strings.Builder
	for _, t := range schedule {
		b.WriteString(t.String() + "\n")
	}
	return os.WriteFile(path, []byte(b.String()), 0o600)
}
