package elastic_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/elastic"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// A node is a real OpenSearch of one node.
type node struct {
	t    *testing.T
	url  string
	args []string
	java string
	log  string
	cmd  *exec.Cmd

	client *http.Client
}

func startNode(t *testing.T) *node {
	t.Helper()
	const install = "the jars of .ci/real/opensearch/pom.xml (mvn dependency:copy-dependencies) and name their folder by CWPRELAY_OPENSEARCH_HOME"
	home := sinktest.RealFolder(t, "CWPRELAY_OPENSEARCH_HOME", install)
	java := sinktest.RealProgram(t, "java", "a Java runtime and compiler of version 17 (openjdk-17-jdk-headless)")
	dir := t.TempDir()
	ports := [2]string{sinktest.FreePort(t), sinktest.FreePort(t)}
	n := &node{
		t: t, client: &http.Client{Transport: &http.Transport{}}, java: java, url: "http://127.0.0.1:" + ports[0], log: filepath.Join(dir, "log"),
		args: []string{"-Xmx512m", "-cp", filepath.Join(home, "*"), "../../.ci/real/opensearch/Node.java", filepath.Join(dir, "data"), ports[0], ports[1]},
	}
	n.start()
	t.Cleanup(n.kill)
	return n
}

func (n *node) start() {
	n.t.Helper()
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.t.Fatal(err)
	}
	defer log.Close()
	n.cmd = exec.CommandContext(context.WithoutCancel(n.t.Context()), n.java, n.args...)
	n.cmd.Stdout, n.cmd.Stderr = log, log
	if err := n.cmd.Start(); err != nil {
		n.t.Fatal(err)
	}
	for deadline := time.Now().Add(90 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		resp, err := n.client.Get(n.url + "/_cluster/health?wait_for_status=yellow&timeout=1s")
		if err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(n.log)
			n.t.Fatalf("the node does not answer:\n%s", text[max(0, len(text)-3000):])
		}
	}
}

func (n *node) kill() {
	if n.cmd.ProcessState == nil {
		_ = n.cmd.Process.Kill()
		_ = n.cmd.Wait()
	}
}

// ask asks the node by plain HTTP.
func (n *node) ask(method, path, body string) map[string]any {
	n.t.Helper()
	req, err := http.NewRequestWithContext(n.t.Context(), method, n.url+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := n.client.Do(req)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	var out map[string]any
	if err := errors.Join(err, json.Unmarshal(text, &out)); err != nil || resp.StatusCode/100 != 2 {
		n.t.Fatalf("%s %s answered %d: %s", method, path, resp.StatusCode, text)
	}
	return out
}

func (n *node) hits(query string) int {
	n.t.Helper()
	const stream = "/logs-tencent_cloud.cwp_risk_process-default"
	n.ask(http.MethodPost, stream+"/_refresh", "")
	out := n.ask(http.MethodPost, stream+"/_search", `{"track_total_hits":true,"size":0,"query":`+query+`}`)
	return int(out["hits"].(map[string]any)["total"].(map[string]any)["value"].(float64))
}

// encoded are the messages 1 to n, as ECS documents.
func encoded(t *testing.T, from, n int) []sinks.Message {
	t.Helper()
	encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	var out []sinks.Message
	for i := from; i < from+n; i++ {
		r := sinktest.Record(i)
		body, err := encode(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, sinks.Message{Record: r, Body: body})
	}
	return out
}

// hostile are items of which no field has the type it should have, and those
// of the format's examples.
func hostile(t *testing.T) [][]byte {
	t.Helper()
	files, err := filepath.Glob("../../format/testdata/*.input.json")
	if err != nil || len(files) < 3 {
		t.Fatal(err, files)
	}
	var out [][]byte
	for _, file := range files {
		raw, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, raw)
	}
	names := []string{"ProcessId", "OnlineStatus", "FirstDetectionMethod", "DetectTime", "StartTime", "HostIp", "WanIp", "VirusTags", "CheckPlatform", "MachineExtraInfo", "ExeMd5", "CmdLine"}
	for _, value := range []string{`1e400`, `18446744073709551615`, `"x"`, `[1,"a",null]`, `{"a":{"b":1}}`, `true`, `null`, `"9999-12-31 23:59:59"`, `"0000-00-00 00:00:00"`, `"10.***.**.1"`, `"fe80::1%eth0"`} {
		var members []string
		for _, name := range names {
			members = append(members, `"`+name+`":`+value)
		}
		out = append(out, []byte("{"+strings.Join(members, ",")+"}"))
	}
	return out
}

// TestRealNode delivers to an OpenSearch node, and asks it what it has.
func TestRealNode(t *testing.T) {
	n := startNode(t)
	defer n.client.CloseIdleConnections()
	s := open(t, elastic.Config{URLs: []string{n.url}}, elastic.Options{Format: format.ECS})
	for _, want := range []string{"made", "there already"} {
		if done, err := s.Setup(t.Context()); err != nil || !strings.Contains(strings.Join(done, "\n"), want) {
			t.Fatalf("set-up: %q, %v", done, err)
		}
	}

	t.Run("documents are found by their fields", func(t *testing.T) {
		if _, err := s.Send(t.Context(), encoded(t, 1, 300)); err != nil {
			t.Fatal(err)
		}
		for query, want := range map[string]int{
			`{"match_all":{}}`: 300,
			`{"term":{"rule.name":"Linux.Scanner.Fscan"}}`:                                        300,
			`{"term":{"host.ip":"10.0.12.0/28"}}`:                                                 31, // of 1 to 15 and 250 to 265, whose last parts are 0 to 15
			`{"range":{"@timestamp":{"gte":"2023-09-16T10:30:00Z","lt":"2023-09-16T10:31:00Z"}}}`: 300,
			`{"range":{"event.ingested":{"gte":"now-5m"}}}`:                                       300,
			`{"range":{"tencent_cloud.cwp.event_id":{"gte":10,"lte":19}}}`:                        10,
			`{"wildcard":{"process.command_line":"*-nopoc -t 200"}}`:                              300,
			`{"term":{"event.kind":"alert"}}`:                                                     300,
			`{"match":{"tencent_cloud.cwp.threat_description":"hacking"}}`:                        300,
			`{"term":{"process.pid":21595}}`:                                                      300,
			`{"term":{"threat.technique.id":"T1046"}}`:                                            300,
		} {
			if got := n.hits(query); got != want {
				t.Errorf("%d hits of %s, want %d", got, query, want)
			}
		}
	})

	t.Run("the dashboard finds them", func(t *testing.T) {
		for title, search := range searches(t) {
			out := n.ask(http.MethodPost, "/logs-tencent_cloud.cwp_risk_process-*/_search", search)
			hits := out["hits"].(map[string]any)["total"].(map[string]any)["value"].(float64)
			severe := strings.Contains(title, "critical") // the records of the test are of medium severity
			if hits == 0 != severe {
				t.Errorf("%s: %v hits of %s", title, hits, search)
			}
			aggs, _ := out["aggregations"].(map[string]any)
			for _, v := range aggs {
				buckets, isList := v.(map[string]any)["buckets"].([]any)
				if value, _ := v.(map[string]any)["value"].(float64); isList && len(buckets) == 0 || !isList && value == 0 {
					t.Errorf("%s: nothing is counted: %v", title, v)
				}
			}
		}
	})

	t.Run("what is sent again is there once", func(t *testing.T) {
		receipt, err := s.Send(t.Context(), encoded(t, 291, 20))
		if err != nil || receipt.Duplicates != 10 {
			t.Errorf("receipt %+v, %v", receipt, err)
		}
		if got := n.hits(`{"match_all":{}}`); got != 310 {
			t.Errorf("%d documents, want 310", got)
		}
	})

	t.Run("hostile documents fit the mapping", func(t *testing.T) {
		before := n.hits(`{"match_all":{}}`)
		var batch []sinks.Message
		encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
		if err != nil {
			t.Fatal(err)
		}
		for i, raw := range hostile(t) {
			m := sinks.Message{Record: sinktest.Record(5000 + i).Again()}
			m.Record.Replayed, m.Record.Raw = false, raw
			if m.Body, err = encode(nil, m.Record); err != nil {
				t.Fatal(err)
			}
			batch = append(batch, m)
		}
		if _, err := s.Send(t.Context(), batch); err != nil {
			t.Fatal(err)
		}
		after := n.hits(`{"match_all":{}}`)
		if after-before != len(batch) {
			t.Errorf("%d documents of %d", after-before, len(batch))
		}
		for i := range batch { // out of the way of the other counts
			n.ask(http.MethodPost, "/logs-tencent_cloud.cwp_risk_process-default/_delete_by_query?refresh=true", fmt.Sprintf(`{"query":{"term":{"tencent_cloud.cwp.event_id":%d}}}`, 5000+i))
		}
	})

	t.Run("a heartbeat fits the mapping", func(t *testing.T) {
		encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
		if err != nil {
			t.Fatal(err)
		}
		m := sinks.Message{Record: format.Heartbeat{Sink: "search", Host: "relay-1", Reasons: []string{"sink_halted"}}.Record(time.Now())}
		if m.Body, err = encode(nil, m.Record); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Send(t.Context(), []sinks.Message{m}); err != nil {
			t.Fatal(err)
		}
		const query = `{"bool":{"filter":[{"term":{"event.action":"cwprelay-heartbeat"}},{"term":{"event.outcome":"failure"}}]}}`
		if got := n.hits(query); got != 1 {
			t.Errorf("%d heartbeats are found, want 1", got)
		}
		n.ask(http.MethodPost, "/logs-tencent_cloud.cwp_risk_process-default/_delete_by_query?refresh=true", `{"query":`+query+`}`)
	})

	t.Run("a document that does not fit the mapping is refused alone", func(t *testing.T) {
		batch := encoded(t, 400, 5)
		batch[2].Body = bytes.Replace(batch[2].Body, []byte(`"rule":{`), []byte(`"rule":"no object","former":{`), 1)
		_, err := s.Send(t.Context(), batch)
		partial, ok := errors.AsType[*sinks.PartialError](err)
		if !ok || len(partial.Failed) != 1 || sinks.ClassOf(partial.Failed[2]) != sinks.ClassPoison {
			t.Errorf("error %v", err)
		}
		if got := n.hits(`{"match_all":{}}`); got != 314 {
			t.Errorf("%d documents, want 314", got)
		}
	})

	t.Run("a read-only index halts", func(t *testing.T) {
		const settings = "/logs-tencent_cloud.cwp_risk_process-default/_settings"
		n.ask(http.MethodPut, settings, `{"index.blocks.write":true}`)
		_, err := s.Send(t.Context(), encoded(t, 500, 2))
		partial, ok := errors.AsType[*sinks.PartialError](err)
		if !ok || len(partial.Failed) != 2 || sinks.ClassOf(partial.Failed[0]) != sinks.ClassHalt {
			t.Errorf("error %v", err)
		}
		n.ask(http.MethodPut, settings, `{"index.blocks.write":null}`)
		if _, err := s.Send(t.Context(), encoded(t, 500, 2)); err != nil {
			t.Errorf("after the block: %v", err)
		}
	})

	t.Run("a killed and a stopped node lose nothing and hold nothing twice", func(t *testing.T) {
		killed := make(chan struct{})
		go func() {
			defer close(killed)
			for n.requests() < 6 {
				time.Sleep(time.Millisecond)
			}
			n.kill()
		}()
		const batches = 30
		for i := range batches {
			batch := encoded(t, 1000+i*100, 100)
			for tries := 0; ; tries++ {
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				_, err := s.Send(ctx, batch)
				cancel()
				if err == nil {
					break
				}
				if tries > 20 {
					t.Fatalf("batch %d: %v", i, err)
				}
				if c := sinks.ClassOf(err); c == sinks.ClassPoison {
					t.Fatalf("batch %d is poison: %v", i, err)
				}
				<-killed
				if n.cmd.ProcessState != nil {
					n.start()
				}
			}
			if i == 20 {
				n.stopFor(2 * time.Second)
			}
		}
		if got := n.hits(`{"range":{"tencent_cloud.cwp.event_id":{"gte":1000}}}`); got != batches*100 {
			t.Errorf("%d documents, want %d", got, batches*100)
		}
	})
}

// requests is how many bulk requests the node has begun since it started.
func (n *node) requests() int {
	resp, err := n.client.Get(n.url + "/_nodes/stats/thread_pool?filter_path=nodes.*.thread_pool.write.completed")
	if err != nil {
		return 0
	}
	defer resp.Body.Close()
	var out struct {
		Nodes map[string]struct {
			ThreadPool struct {
				Write struct{ Completed int }
			} `json:"thread_pool"`
		}
	}
	if json.NewDecoder(resp.Body).Decode(&out) != nil {
		return 0
	}
	for _, one := range out.Nodes {
		return one.ThreadPool.Write.Completed - 10 // of the tests before
	}
	return 0
}

// stopFor stops the node for a while, as a machine that swaps does.
func (n *node) stopFor(d time.Duration) {
	n.t.Helper()
	if err := n.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		n.t.Fatal(err)
	}
	time.AfterFunc(d, func() { _ = n.cmd.Process.Signal(syscall.SIGCONT) })
}
