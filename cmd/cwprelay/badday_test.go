package main

import (
	"bytes"
	"encoding/json"
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

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// A badDay is a daemon with four sinks, and what its operator has: the verbs,
// the console and the log.
type badDay struct {
	*stage
	d       daemon
	address string
	cluster *kfake.Cluster
	admin   *kgo.Client
	text    string // of the configuration
}

// say runs a verb as a person does and returns what it printed.
func (b *badDay) say(args ...string) string {
	b.t.Helper()
	cmd := b.command(append(args, "-c", b.config)...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	_ = cmd.Run() // the code is no matter here
	return out.String()
}

// ready is what /readyz says: "" when all is well, else code, who, and why.
func (b *badDay) ready() string {
	b.t.Helper()
	_, body := b.get(b.address + "/readyz")
	var r console.Readiness
	if err := json.Unmarshal([]byte(body), &r); err != nil {
		b.t.Fatal(err)
	}
	var out []string
	for _, reason := range r.Reasons {
		out = append(out, fmt.Sprintf("%s (%s) %s", reason.Code, reason.About, reason.Detail))
	}
	return strings.Join(out, "\n")
}

// must waits until a look at something shows all of the words.
func (b *badDay) must(what string, look func() string, words ...string) {
	b.t.Helper()
	last := ""
	b.until(what, b.d, func() bool {
		last = look()
		for _, w := range words {
			if !strings.Contains(last, w) {
				return false
			}
		}
		return true
	})
	if what != "metrics" {
		b.t.Logf("%s:\n%s", what, last)
	}
}

func (b *badDay) well() {
	b.t.Helper()
	b.until("well again", b.d, func() bool { return b.ready() == "" })
}

func (b *badDay) metrics() string {
	_, text := b.get(b.address + "/metrics")
	return text
}

// happens puts new events into the API's list and returns their ids.
func (b *badDay) happens(n int) (ids []string) {
	b.api.Change(func(w *emulator.World) { ids = w.Burst(n, time.Now()) })
	return ids
}

// trace shows what became of an event.
func (b *badDay) trace(id string) string {
	b.t.Helper()
	cmd := b.command("trace", id, "-c", b.config)
	out, _ := cmd.CombinedOutput()
	return string(out)
}

func (b *badDay) topic(create bool) {
	b.t.Helper()
	var req kmsg.Request
	if create {
		topic := kmsg.NewCreateTopicsRequestTopic()
		topic.Topic, topic.NumPartitions, topic.ReplicationFactor = "cwp.findings", 1, 1
		r := kmsg.NewPtrCreateTopicsRequest()
		r.Topics = append(r.Topics, topic)
		req = r
	} else {
		topic := kmsg.NewDeleteTopicsRequestTopic()
		topic.Topic = new("cwp.findings")
		r := kmsg.NewPtrDeleteTopicsRequest()
		r.TopicNames, r.Topics = []string{"cwp.findings"}, append(r.Topics, topic)
		req = r
	}
	if _, err := b.admin.Request(b.t.Context(), req); err != nil {
		b.t.Fatal(err)
	}
}

func (b *badDay) hangup(text string) {
	b.t.Helper()
	b.write(text)
	if err := b.d.Process.Signal(syscall.SIGHUP); err != nil {
		b.t.Fatal(err)
	}
}

// TestBadDay lives through a bad day as the operator does: by verbs, console,
// metrics and log alone. docs/operations.md tells it.
func TestBadDay(t *testing.T) {
	t.Parallel()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(1, "cwp.findings"))
	if err != nil {
		t.Fatal(err)
	}
	defer cluster.Close()
	admin, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()
	b := &badDay{stage: newStage(t, emulator.Config{Events: 40}), cluster: cluster, admin: admin}
	var disliked atomic.Value // the id of an event that the hook refuses
	disliked.Store("none")
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if id, _ := disliked.Load().(string); strings.Contains(string(body), id) {
			w.WriteHeader(http.StatusUnprocessableEntity)
		}
	}))
	defer hook.Close()
	keys := filepath.Join(b.dir, "keys")
	key := func(id, value string) {
		t.Helper()
		if err := os.WriteFile(keys, fmt.Appendf(nil, "secret_id=%s\nsecret_key=%s\n", id, value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	key(emulator.DefaultSecretID, emulator.DefaultSecretKey)
	b.text = regexp.MustCompile(`credentials: .*`).ReplaceAllString(readAll(t, b.config), "credentials: {provider: file, path: "+keys+"}\n    timeout: 1s")
	b.text = strings.Replace(b.text, `listen: "off"`, "listen: 127.0.0.1:0", 1)
	b.text = strings.Replace(b.text, "sinks:\n", "sinks:\n  bus: {kafka: {brokers: [\""+cluster.ListenAddrs()[0]+"\"], topic: cwp.findings, missing_topic_grace: 1s}}\n  hook: {webhook: {url: \""+hook.URL+"\", allow_private: true}}\n", 1)
	b.write(b.text)
	b.d = b.start("run", "-c", b.config)
	b.until("listening", b.d, func() bool {
		b.address = regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(b.d.stderr.String())
		return b.address != ""
	})
	b.well()
	first := b.happens(1)[0]
	b.must("delivered everywhere", func() string { return b.trace(first) }, "soc      settled  accepted", "bus      settled  accepted", "archive  settled  accepted", "RequestId")

	// Splunk's token is revoked: that sink is halted and says why; the others go
	// on, and nothing is lost.
	b.hec.DisableToken(true)
	revoked := b.happens(1)[0]
	b.must("ready", b.ready, "sink_halted (sink soc)", "403", "Token disabled (check token)")
	b.must("trace", func() string { return b.trace(revoked) }, "soc      waiting  halted: answered 403", "archive  settled  accepted", "bus      settled  accepted")
	b.must("status", func() string { return b.say("status") }, "NOT READY", "soc      halted")
	b.must("metrics", b.metrics, `cwprelay_sink_halted{sink="soc"} 1`, `cwprelay_sink_state{sink="soc",state="halted"} 1`)
	b.hec.DisableToken(false)
	b.say("sinks", "resume", "soc")
	b.well()
	b.must("trace", func() string { return b.trace(revoked) }, "soc      settled  accepted")

	// Somebody deletes the topic.
	b.topic(false)
	lost := b.happens(1)[0]
	b.must("ready", b.ready, "sink_halted (sink bus)", "topic cwp.findings does not exist; create it")
	b.must("trace", func() string { return b.trace(lost) }, "bus      waiting  halted: ", "create it", "soc      settled  accepted")
	b.topic(true)
	b.say("sinks", "resume", "bus")
	b.well()
	b.must("trace", func() string { return b.trace(lost) }, "bus      settled  accepted")

	// The disk is full: history goes first, then polling pauses.
	b.hangup(strings.Replace(b.text, "min_free_disk: 1}", "min_free_disk: 1048576TiB}", 1))
	last := ""
	b.must("ready", func() string { last = b.happens(1)[0]; return b.ready() }, "journal_full (source prod/risk_process)", "journal_full (journal)", "state.min_free_disk reached: free space on the disk")
	b.must("status", func() string { return b.say("status") }, "NOT READY", "FULL: journal is full: state.min_free_disk reached")
	b.must("metrics", b.metrics, "cwprelay_journal_full 1")
	b.hangup(b.text)
	b.well()
	b.must("trace", func() string { return b.trace(last) }, "soc      settled  accepted", "bus      settled  accepted")

	// The API takes requests and answers none.
	b.api.SetFaults(emulator.Faults{Latency: time.Hour})
	b.must("ready", b.ready, "api_network (source prod/risk_process)", "no answer within 1s")
	b.must("status", func() string { return b.say("status") }, "NOT READY", "api_network")
	b.must("metrics", b.metrics, `cwprelay_not_ready_reason{reason="api_network"} 1`)
	b.api.SetFaults(emulator.Faults{})
	b.well()

	// The key is rotated at the vendor, and then in the file.
	b.api.SetCredentials("AKIDnext", "next-key", "")
	b.must("ready", b.ready, "api_credentials (source prod/risk_process)", "AuthFailure.SecretIdNotFound", "request id")
	b.must("status", func() string { return b.say("status") }, "NOT READY", "api_credentials", "request id")
	key("AKIDnext", "next-key")
	b.well()

	// A receiver takes one event for wrong.
	var ids []string
	b.api.Change(func(w *emulator.World) { ids = w.Burst(1, time.Now()); disliked.Store(ids[0]) })
	b.must("trace", func() string { return b.trace(ids[0]) }, "hook     waiting  retrying: answered 422")
	b.happens(2) // that others pass is the proof
	b.must("trace", func() string { return b.trace(ids[0]) }, "hook     dead     poison: ", "422", "soc      settled  accepted")
	b.must("dead letters", func() string { return b.say("deadletter", "list", "hook") }, "poison", "422", ids[0])
	b.must("metrics", b.metrics, `cwprelay_sink_dead_letters_total{class="poison",sink="hook"} 1`)
	disliked.Store("none")
	b.must("retry", func() string { return b.say("deadletter", "retry", "hook", "--all") }, "1")
	b.until("sent again", b.d, func() bool { return b.sink("hook").Dead == 0 })
	b.must("reconcile", func() string { return b.say("reconcile") }, "Nothing is missing.")

	b.log(ids[0], map[string]int{
		"destination refuses everything; records are kept, and it is asked slowly until it accepts one": 2,
		"delivery works again":     2,
		"the API cannot be polled": 1, "the API refuses us": 1, "the API can be polled again": 2,
		"record refused; it waits until others pass": 1, "record put into the dead letters": 1, "dead letter was accepted after all": 1,
		"another configuration is in force; what is not named goes on undisturbed": 2,
	})
}

// log reads what the day left in the log: a line for each thing that happened,
// as often as it happened, and nothing for each event.
func (b *badDay) log(dead string, times map[string]int) {
	b.t.Helper()
	text := b.d.stderr.String()
	b.t.Log(text)
	got, sweeps := map[string]int{}, map[string]bool{}
	shown := map[string]bool{}
	for _, id := range b.api.World().IDs() {
		shown[id] = id != dead
	}
	word := regexp.MustCompile(`\d{10,}`)
	for line := range strings.Lines(text) {
		var l struct{ Msg, Sweep, Error, Level, After string }
		if err := json.Unmarshal([]byte(line), &l); err != nil {
			b.t.Errorf("a line that is not JSON: %s", line)
		}
		got[l.Msg]++
		if l.Sweep != "" && sweeps[l.Sweep] {
			b.t.Errorf("a second line of one sweep: %s", line)
		}
		sweeps[l.Sweep] = true
		if strings.Contains(line, "AuthFailure") && !regexp.MustCompile(`request id [0-9a-f-]{36}`).MatchString(line) {
			b.t.Errorf("an answer of the API without its request id: %s", line)
		}
		if (l.Msg == "delivery works again" || l.Msg == "the API can be polled again") && l.After == "" {
			b.t.Errorf("an end without how long it lasted: %s", line)
		}
		for _, id := range word.FindAllString(line, -1) {
			if shown[id] {
				b.t.Errorf("a line about an event: %s", line)
			}
		}
		if strings.Contains(line, "next-key") || strings.Contains(line, "hectest-token") {
			b.t.Errorf("a secret: %s", line)
		}
	}
	// It pauses again when a sink gave up a little room meanwhile.
	if paused, on := got["polling paused"], got["polling goes on: the journal has room again"]; paused < 1 || paused != on {
		b.t.Errorf("polling paused %d times and went on %d times", paused, on)
	}
	for msg, n := range times {
		if got[msg] != n {
			b.t.Errorf("%q stands in the log %d times, want %d", msg, got[msg], n)
		}
		delete(got, msg)
	}
	for msg, n := range got {
		if msg != "sweep ended" && n > 3 {
			b.t.Errorf("%q stands in the log %d times", msg, n)
		}
	}
}
