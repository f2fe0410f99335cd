// Package sinktest is the contract of a sink, as tests: what a sink must do
// whatever its destination is, and how those behind HTTP must read a status.
// What is particular to one destination belongs to that sink's own tests.
//
// HTTP is for sinks behind HTTP, Network for others that connect to an
// address, Working for every sink with a destination that works.
package sinktest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"runtime"
	"strings"
	"testing"
	"time"
	"weak"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/sinks"
)

// Secret is the credential that tests configure a sink with (token, password,
// part of an address). It must not come back in any error or receipt.
const Secret = "s3cr3t-0f-s1nkt3st"

// prompt is how long a Send may take to return once its context is done. It
// is generous: the machine may be busy.
const prompt = 5 * time.Second

// short is a deadline that passes while a peer is silent.
const short = 100 * time.Millisecond

// Record returns a risk_process record; different n are different events.
func Record(n int) *event.Record {
	raw := fmt.Appendf(nil, `{"CheckPlatform":["1"],"CmdLine":"./dev -h 10.0.12.%[2]d/24 -m ssh -nopoc -t 200","DetectTime":"2023-09-16 18:30:55",`+
		`"EventId":%[1]d,"FilePath":"/dev/shm/dev","HandleStatus":0,"HostIp":"10.0.12.%[2]d","HostName":"prod-etl-datahub-%02[2]d",`+
		`"MachineExtraInfo":{"HostName":"dataHub","InstanceID":"ins-jvi1gdu0","NetworkName":"vpc-9k2m4x1z","NetworkType":1,"PrivateIP":"10.0.12.%[2]d","WanIP":"203.0.113.57"},`+
		`"OnlineStatus":1,"ProcessId":21595,"ReferenceLink":"https://www.tencentcloud.com/document/product/296/9605","StartTime":"2023-09-16 18:28:00",`+
		`"SuggestSolution":"1. Stop the process.\n2. Isolate or delete the file.","ThreatDesc":"Hacking tool process is detected on the host.",`+
		`"Uuid":"364e2cb6-e3a3-4d5f-9abd-b87711b880e3","VirusName":"Linux.Scanner.Fscan","VirusTags":["scanner","hack_tools"],"WanIp":"203.0.113.57"}`,
		n, n%250)
	key := event.Key{Account: "1300000001", Kind: "risk_process", ID: fmt.Sprint(n)}
	revision := fmt.Sprintf("%064x", n)
	return &event.Record{
		Seq: uint64(n), Key: key, UID: key.EventUID(1, revision), Sequence: 1, Revision: revision,
		Action: event.Detected, Status: event.Status{Code: "0", Symbol: "pending"},
		FirstDetect: "2023-09-16 18:30:55", ObservedAt: time.Date(2023, 9, 16, 10, 31, 10, 250e6, time.UTC),
		Dialect: "record", Zone: "Asia/Shanghai",
		Source: "prod", Sweep: "20230916T103110-1", Page: 1, RequestID: "eac6b301-a322-493a-8e36-83b295459397",
		Raw: raw,
	}
}

// Messages returns n messages with the records 1 to n, each with a JSON object
// as its body.
func Messages(n int) []sinks.Message {
	batch := make([]sinks.Message, 0, n)
	for i := range n {
		batch = append(batch, message(i+1))
	}
	return batch
}

func message(n int) sinks.Message {
	r := Record(n)
	body, _ := json.Marshal(map[string]any{ // plain values always can
		"action": "allowed", "app": "tencent:cwp", "category": "scanner", "dest": "dataHub",
		"description":  "Tencent CWP: Linux.Scanner.Fscan process detected on dataHub",
		"event_action": "risk-process-detected", "event_id": n, "finding_uid": r.Key.FindingUID(), "id": r.UID,
		"process": "./dev -h 10.0.12.1/24 -m ssh -nopoc -t 200 -o ssh.txt", "severity": "medium",
		"signature": "Linux.Scanner.Fscan", "vendor_product": "Tencent Cloud Workload Protection",
	})
	return sinks.Message{Record: r, Body: body}
}

// UIDs returns the uids of a batch, in order.
func UIDs(batch []sinks.Message) []string {
	uids := make([]string, 0, len(batch))
	for _, m := range batch {
		uids = append(uids, m.Record.UID)
	}
	return uids
}

// run runs one part of a contract and then looks for goroutines that it left
// behind. Parts run one after the other.
func run(t *testing.T, name string, part func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		before := goleak.IgnoreCurrent()
		t.Cleanup(func() { goleak.VerifyNone(t, before) }) // runs last
		part(t)
	})
}

// use gives the sink to a test and closes it.
func use(t *testing.T, sink sinks.Sink) sinks.Sink {
	t.Helper()
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return sink
}

// Working tests what every sink does with a destination that takes everything.
// open returns a new sink for such a destination.
func Working(t *testing.T, open func(t *testing.T) sinks.Sink) {
	t.Helper()
	run(t, "closed unused", func(t *testing.T) {
		t.Helper()
		use(t, open(t))
	})
	run(t, "accepted", func(t *testing.T) {
		t.Helper()
		sink := use(t, open(t))
		for _, n := range []int{1, 2, 50} {
			batch, same := Messages(n), Messages(n)
			receipt, err := sink.Send(t.Context(), batch)
			if err != nil {
				t.Fatalf("Send of %d: %v", n, err)
			}
			safe(t, receipt, nil)
			for i := range batch {
				if string(batch[i].Body) != string(same[i].Body) || string(batch[i].Record.Raw) != string(same[i].Record.Raw) {
					t.Fatalf("Send of %d changed message %d", n, i)
				}
			}
		}
	})
	run(t, "window", func(t *testing.T) {
		t.Helper()
		sink := use(t, open(t))
		for range 3 { // the window may open with the first answers
			errs := make(chan error)
			width := min(Width(sink), 4)
			for range width {
				go func() {
					_, err := sink.Send(t.Context(), Messages(2))
					errs <- err
				}()
			}
			for range width {
				if err := <-errs; err != nil {
					t.Errorf("Send beside others: %v", err)
				}
			}
		}
	})
	run(t, "keeps no batch", func(t *testing.T) {
		t.Helper()
		sink := use(t, open(t))
		record := sendOne(t, sink)
		for deadline := time.Now().Add(prompt); record.Value() != nil; runtime.GC() {
			if time.Now().After(deadline) {
				t.Fatal("the sink still refers to a record that it has sent")
			}
		}
	})
	run(t, "context done before", func(t *testing.T) {
		t.Helper()
		sink := use(t, open(t))
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		start := time.Now()
		receipt, err := sink.Send(ctx, Messages(3)) // a sink that needs no time may succeed
		promptly(t, start)
		safe(t, receipt, err)
		if err != nil {
			wantClass(t, err, sinks.ClassRetry)
		}
	})
}

// Width is how many Sends may run at once now.
func Width(sink sinks.Sink) int {
	if w, ok := sink.(sinks.Windower); ok {
		return max(w.Window(), 1)
	}
	return 1
}

// sendOne sends a record that nothing else refers to.
//
//go:noinline
func sendOne(t *testing.T, sink sinks.Sink) weak.Pointer[event.Record] {
	t.Helper()
	batch := Messages(1)
	if _, err := sink.Send(t.Context(), batch); err != nil {
		t.Fatalf("Send: %v", err)
	}
	return weak.Make(batch[0].Record)
}

// promptly fails when a Send that should have ended soon after start did not.
func promptly(t *testing.T, start time.Time) {
	t.Helper()
	if took := time.Since(start); took > prompt {
		t.Errorf("Send returned %s after its context was done", took)
	}
}

// wantClass fails unless err has the class; the only failure of a batch of one
// may come as a *sinks.PartialError.
func wantClass(t *testing.T, err error, want sinks.Class) {
	t.Helper()
	if err == nil {
		t.Fatalf("Send succeeded, want an error of class %v", want)
	}
	if got := sinks.ClassOf(only(err)); got != want {
		t.Errorf("class %v of error %q, want %v", got, err, want)
	}
}

// only returns the one failure of a batch of one.
func only(err error) error {
	if partial, ok := errors.AsType[*sinks.PartialError](err); ok && len(partial.Failed) == 1 {
		return partial.Failed[0]
	}
	return err
}

// safe fails when a receipt or an error shows the secret, is long or has more
// than one line.
func safe(t *testing.T, receipt sinks.Receipt, err error) {
	t.Helper()
	texts := append(textsOf(err), receipt.Answer)
	for _, memo := range receipt.Memo {
		texts = append(texts, memo)
	}
	for _, text := range texts {
		if strings.Contains(text, Secret) {
			t.Errorf("shows the secret: %.300q", text)
		}
		if len(text) > 2000 {
			t.Errorf("%d bytes are too long to be shown: %.100q", len(text), text)
		}
	}
	if strings.ContainsAny(receipt.Answer, "\r\n") {
		t.Errorf("receipt of more than one line: %q", receipt.Answer)
	}
}

// textsOf returns every way in which an error and its causes can be shown.
func textsOf(err error) []string {
	if err == nil {
		return nil
	}
	texts := []string{err.Error(), fmt.Sprintf("%+v", err)}
	if partial, ok := err.(*sinks.PartialError); ok { //nolint:errorlint // each error of the tree is visited by itself
		for _, failed := range partial.Failed {
			texts = append(texts, textsOf(failed)...)
		}
	}
	switch e := err.(type) { //nolint:errorlint // as above
	case interface{ Unwrap() error }:
		texts = append(texts, textsOf(e.Unwrap())...)
	case interface{ Unwrap() []error }:
		for _, cause := range e.Unwrap() {
			texts = append(texts, textsOf(cause)...)
		}
	}
	return texts
}

// near reports whether got is d, less at most the time that a test may take.
func near(got, d time.Duration) bool {
	return got <= d && math.Abs(float64(d-got)) <= float64(prompt)
}
