package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// memoryBound is the most memory, without the pages of files, that the program
// may use whatever it is answered: what it needs to work, and some answers of
// max_body at once, which take twice as much while they grow.
const memoryBound = 224 << 20

// An abuse is a way to answer that is none. ours is what would have been
// answered.
type abuse struct {
	name   string
	items  bool // what it shows was true, and may be taken in; it proves nothing all the same
	answer func(w http.ResponseWriter, random *rand.Rand, ours func() []byte)
}

// gigantic is how much a hostile server is willing to send.
const gigantic = 768 << 20

// endless sends head, and then filling until nobody reads any more.
func endless(head, filling string) func(http.ResponseWriter, *rand.Rand, func() []byte) {
	return func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) { pour(w, head, filling) }
}

func pour(w io.Writer, head, filling string) {
	block := []byte(strings.Repeat(filling, 1+(64<<10)/len(filling)))
	_, err := io.WriteString(w, head)
	for sent := 0; err == nil && sent < gigantic; sent += len(block) {
		_, err = w.Write(block)
	}
}

// instead answers by a text.
func instead(text string) func(http.ResponseWriter, *rand.Rand, func() []byte) {
	return func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) { _, _ = io.WriteString(w, text) }
}

// changed answers by what a function makes of the honest answer.
func changed(change func(random *rand.Rand, body []byte) []byte) func(http.ResponseWriter, *rand.Rand, func() []byte) {
	return func(w http.ResponseWriter, random *rand.Rand, ours func() []byte) {
		_, _ = w.Write(change(random, ours()))
	}
}

// total puts another count into the honest answer.
func total(value string) func(http.ResponseWriter, *rand.Rand, func() []byte) {
	return changed(func(_ *rand.Rand, body []byte) []byte {
		before, rest, found := bytes.Cut(body, []byte(`"TotalCount":`))
		if !found {
			return []byte("{}")
		}
		return fmt.Appendf(nil, `%s"TotalCount":%s%s`, before, value, rest[bytes.IndexAny(rest, ",}"):])
	})
}

const listHead = `{"Response":{"RequestId":"r","TotalCount":250,"List":[`

// abuses of the API.
func abuses() []abuse {
	item := `{"EventId":1,"HandleStatus":0,"StartTime":"2026-01-01 00:00:00","DetectTime":"2026-01-01 00:00:00"},`
	return []abuse{
		{"a list that never ends", false, endless(listHead, item)},
		{"white space without an end", false, endless("", " \n\t")},
		{"a text without an end", false, endless(listHead+`{"EventId":1,"CmdLine":"`, "x")},
		{"a number without an end", false, endless(listHead+`{"EventId":1`, "0")},
		{"nesting without an end", false, endless(listHead, `[{"a":`)},
		{"keys without an end", false, endless(`{"Response":{`, `"Error":null,"List":[],`)},
		{"a head without an end", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			for i := range 3000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("y", 8<<10))
			}
			_, _ = io.WriteString(w, "{}")
		}},
		{"a length that is a lie", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.Header().Set("Content-Length", strconv.Itoa(1<<40))
			_, _ = io.WriteString(w, listHead)
		}},
		{"a little that unpacks to much", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			pour(gzip.NewWriter(w), listHead, item)
		}},
		{"an error of a gigabyte", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.WriteHeader(http.StatusBadGateway)
			pour(w, "<html>", "<p>overloaded</p>")
		}},
		{"an error without an end", false, endless(`{"Response":{"Error":{"Code":"InternalError","Message":"`, "m")},
		{"a redirect", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusTemporaryRedirect)
		}},
		{"a connection that is cut", false, func(w http.ResponseWriter, random *rand.Rand, ours func() []byte) {
			body := ours()
			_, _ = w.Write(body[:random.IntN(len(body))])
			panic(http.ErrAbortHandler) // net/http's way to end a connection
		}},
		{"bits that are flipped until it is no JSON", false, changed(func(random *rand.Rand, body []byte) []byte {
			for range 20 {
				body[random.IntN(len(body))] ^= 1 << random.IntN(8)
			}
			return append(body, '{')
		})},
		{"wrong types", false, instead(`{"Response":{"List":{"EventId":[1]},"TotalCount":"x","RequestId":[]}}`)},
		{"an error beside a list", false, changed(func(_ *rand.Rand, body []byte) []byte {
			return bytes.Replace(body, []byte(`{"Response":{`), []byte(`{"Response":{"Error":{"Code":"InternalError","Message":"x"},`), 1)
		})},
		{"the answer twice", false, changed(func(_ *rand.Rand, body []byte) []byte { return append(body, body...) })},
		{"a negative count", true, total("-250")},
		{"a count beyond all numbers", true, total("9223372036854775808")},
		{"a count of all there could be", true, total("9223372036854775807")},
		{"a count that is a text", true, total(`"250"`)},
	}
}

// yeses are no answers of a destination either. None of them says yes by the
// protocol of the sink that it is given to.
func yeses() []abuse {
	lie := `{"text":"Success","code":0,"ok":true,"errors":false,"items":[]}`
	later := func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	return []abuse{
		{"an error of a gigabyte", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.WriteHeader(http.StatusBadGateway)
			pour(w, "", lie)
		}},
		{"a yes beside an error", false, func(w http.ResponseWriter, random *rand.Rand, ours func() []byte) {
			later(w, random, ours)
			_, _ = io.WriteString(w, lie)
		}},
		{"a yes that is cut", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.Header().Set("Content-Length", "5000")
			w.WriteHeader(http.StatusServiceUnavailable)
			_, _ = io.WriteString(w, lie)
			panic(http.ErrAbortHandler) // net/http's way to end a connection
		}},
		{"a redirect", false, func(w http.ResponseWriter, _ *rand.Rand, _ func() []byte) {
			w.Header().Set("Location", "/elsewhere")
			w.WriteHeader(http.StatusPermanentRedirect)
		}},
		{"a head without an end", false, func(w http.ResponseWriter, random *rand.Rand, ours func() []byte) {
			for i := range 3000 {
				w.Header().Set(fmt.Sprint("X-", i), strings.Repeat("y", 8<<10))
			}
			later(w, random, ours)
		}},
	}
}

// A gate stands before an API or an HTTP destination and answers in its place
// while there is an abuse.
type gate struct {
	next   http.Handler
	mu     sync.Mutex // guards the rest
	random *rand.Rand
	abuse  *abuse
	abused int // requests that were answered by it
}

// openGate listens before an address.
func openGate(address string, seed uint64) (*gate, string, func(), error) {
	g := &gate{
		next:   httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: address}),
		random: rand.New(rand.NewPCG(seed, 40)),
	}
	g.next.(*httputil.ReverseProxy).ErrorLog = silent()
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		return nil, "", nil, err
	}
	srv := &http.Server{Handler: g, ReadHeaderTimeout: time.Minute, ErrorLog: silent()}
	go func() { _ = srv.Serve(ln) }()
	return g, ln.Addr().String(), func() { _ = srv.Close() }, nil
}

// set begins an abuse, or ends it with nil.
func (g *gate) set(a *abuse) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.abuse, g.abused = a, 0
}

// count is how many requests were abused.
func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.abused
}

// ServeHTTP passes a request on, or abuses it.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	a, random := g.abuse, rand.New(rand.NewPCG(g.random.Uint64(), 41))
	g.mu.Unlock()
	if a == nil {
		g.next.ServeHTTP(w, r)
		return
	}
	defer func() { g.mu.Lock(); g.abused++; g.mu.Unlock() }()
	a.answer(w, random, func() []byte {
		rec := httptest.NewRecorder()
		g.next.ServeHTTP(rec, r)
		return rec.Body.Bytes()
	})
}

func siegeProof() proof {
	return proof{
		name: "siege",
		promise: "an API and destinations that answer by gigabytes, by nesting or texts without an end, by lies about counts and lengths, or by anything else " +
			"that is no answer, cost no crash, bounded memory, no certificate and no record",
		run: siege,
	}
}

// siege runs the daemon against an API and destinations that abuse it in every
// way, one after the other.
func siege(ctx context.Context, e *evidence) error {
	gates, closes := map[string]*gate{}, []func(){}
	defer func() {
		for _, closeIt := range closes {
			closeIt()
		}
	}()
	r, err := newRig(ctx, e, rigConfig{
		apis: []emulator.Config{{Events: 350, Rate: 8, Seed: e.Seed}},
		sink: ", timeout: 5s",
		front: func(name, address string) (string, error) {
			switch name {
			case "s0", "soc", "search", "hook":
			default: // TestGarbageConfirmsNothing abuses those that do not speak HTTP
				return address, nil
			}
			g, front, closeIt, err := openGate(address, e.Seed)
			if err != nil {
				return "", err
			}
			gates[name], closes = g, append(closes, closeIt)
			return front, nil
		},
	})
	if err != nil {
		return err
	}
	defer r.close()
	b := &besieged{rig: r, gates: gates}
	honest := func() error {
		if _, err := r.certificates(); err != nil { // those of lives before
			return err
		}
		return b.life(ctx, nil, nil, func(*daemon) error {
			return eventually(time.Minute, func() (bool, string) {
				n, err := r.certificates()
				return n > 0 || err != nil, fmt.Sprintf("no sweep is certified: %v; the log is %s", err, r.logs.path)
			})
		})
	}
	if err := honest(); err != nil {
		return err
	}
	for _, a := range abuses() {
		if err := b.abuse(ctx, a, "s0"); err != nil {
			return err
		}
	}
	for _, a := range yeses() {
		if err := b.abuse(ctx, a, "soc", "search", "hook"); err != nil {
			return err
		}
	}
	if err := b.abuse(ctx, abuse{"a yes about nothing", false, instead(`{"took":1,"errors":false,"items":[]}`)}, "search"); err != nil {
		return err
	}
	if err := honest(); err != nil {
		e.broke("when all answer honestly again: %v", err)
	}
	if err := r.settle(ctx); err != nil {
		return err
	}
	if err := r.judge(ctx); err != nil {
		return err
	}
	for _, s := range b.spans {
		r.provesNothing(s)
	}
	for name, t := range r.ledger.tallies() {
		if t.dead > 0 {
			e.broke("%s has %d dead letters, and refused nothing", name, t.dead)
		}
	}
	if b.most > memoryBound {
		e.broke("the program used %s of memory, at most %s are allowed", mebibytes(float64(b.most)), mebibytes(memoryBound))
	}
	e.did("started the built binary before an API that abuses it in %d ways, with up to %d MiB an answer, and before three destinations that do so in %d", len(abuses()), gigantic>>20, len(yeses())+1)
	e.did("compared what was taken in and certified meanwhile with what the API truly showed, and what all destinations hold in the end")
	e.count("most memory (RssAnon)", fmt.Sprintf("%s, by %s; at most %s", mebibytes(float64(b.most)), b.by, mebibytes(memoryBound)))
	e.count("requests answered by abuse", b.abused)
	return nil
}

// besieged is a rig whose APIs and destinations are abusive.
type besieged struct {
	*rig
	gates  map[string]*gate
	spans  []span
	abused int
	most   int64 // bytes of memory that a life used
	by     string
}

// life runs the daemon until a function returns, while gates are abusive.
func (b *besieged) life(ctx context.Context, a *abuse, names []string, until func(*daemon) error) error {
	for _, name := range names {
		b.gates[name].set(a)
	}
	d, err := b.start(ctx, "run")
	if err != nil {
		return err
	}
	most := watchMemory(d)
	err = until(d)
	what := "honest answers"
	if a != nil {
		what = a.name
	}
	select {
	case <-d.done:
		return fmt.Errorf("cwprelay ended by itself, answered by %s: %w; its log is %s", what, d.err, b.logs.path)
	default:
	}
	if err == nil {
		err = b.failures(ctx)
	}
	for _, name := range names {
		b.abused += b.gates[name].count()
	}
	if code := d.terminate(); code != 0 {
		b.e.broke("the daemon ended with code %d after SIGTERM, answered by %s; its log is %s", code, what, b.logs.path)
	}
	for _, name := range names {
		b.gates[name].set(nil)
	}
	if n := most(); n > b.most {
		b.most, b.by = n, what
	}
	return errors.Join(err, b.ended())
}

// A span is the time of one abuse.
type span struct {
	abuse
	from, to time.Time
}

// abuse lets a life of the daemon meet an abuse, until each of the gates has
// answered some requests by it.
func (b *besieged) abuse(ctx context.Context, a abuse, names ...string) error {
	from := time.Now()
	most := either(b.e, 3, 6)
	if a.items {
		most = 40 // some sweeps, which may end
	}
	err := b.life(ctx, &a, names, func(d *daemon) error {
		return eventually(3*time.Minute, func() (bool, string) {
			select {
			case <-d.done:
				return true, ""
			default:
			}
			for _, name := range names {
				if abused := b.gates[name].count(); abused < most && ctx.Err() == nil {
					return false, fmt.Sprintf("%s: %d requests of %s were answered so", a.name, abused, name)
				}
			}
			return true, ""
		})
	})
	if names[0] == "s0" {
		b.spans = append(b.spans, span{abuse: a, from: from, to: time.Now()})
	}
	b.e.tell("%s: %s", a.name, time.Since(from).Round(time.Millisecond))
	return errors.Join(err, ctx.Err())
}

// provesNothing checks that nothing was certified by what was shown during an
// abuse, and nothing taken in unless it was true.
func (r *rig) provesNothing(s span) {
	for _, w := range r.sweeps {
		if w.begin.After(s.from) && w.end.Before(s.to) {
			r.e.broke("sweep %s was certified by %s", w.id, s.name)
		}
	}
	if s.items {
		return
	}
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	for _, h := range r.ledger.events {
		for _, one := range h.records {
			if one.observed.After(s.from) && one.observed.Before(s.to) {
				r.e.broke("taken in while the API answered by %s: %s", s.name, one.arrival)
			}
		}
	}
}

// watchMemory samples the memory of the daemon, without the pages of files,
// until it ends. What it returns tells the most so far.
func watchMemory(d *daemon) (most func() int64) {
	var mu sync.Mutex
	var greatest int64
	go func() {
		for {
			status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.cmd.Process.Pid)) // it may have ended
			kib, _ := strconv.ParseInt(strings.TrimSpace(after(status, "RssAnon:", "k")), 10, 64)
			mu.Lock()
			greatest = max(greatest, kib<<10)
			mu.Unlock()
			select {
			case <-d.done:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	return func() int64 {
		mu.Lock()
		defer mu.Unlock()
		return greatest
	}
}
