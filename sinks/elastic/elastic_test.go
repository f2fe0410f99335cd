package elastic_test

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/elastic"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lines reads the lines of a request.
func lines(t *testing.T, r *http.Request) []string {
	t.Helper()
	body := io.Reader(r.Body)
	if r.Header.Get("Content-Encoding") == "gzip" {
		var err error
		if body, err = gzip.NewReader(r.Body); err != nil {
			t.Error(err)
			return nil
		}
	}
	var out []string
	for s := bufio.NewScanner(body); s.Scan(); {
		out = append(out, s.Text())
	}
	return out
}

// answering is a server that answers each item with the same text.
func answering(t *testing.T, item string) http.HandlerFunc {
	t.Helper()
	return func(w http.ResponseWriter, r *http.Request) {
		n := len(lines(t, r)) / 2
		items := make([]string, n)
		for i := range items {
			items[i] = `{"create":` + item + `}`
		}
		_, _ = fmt.Fprintf(w, `{"errors":false,"items":[%s]}`, strings.Join(items, ","))
	}
}

func TestContract(t *testing.T) {
	for name, cfg := range map[string]elastic.Config{
		"API key":      {APIKey: secret.New(sinktest.Secret)},
		"password":     {Username: "relay", Password: secret.New(sinktest.Secret)},
		"token":        {Bearer: secret.New(sinktest.Secret)},
		"uncompressed": {APIKey: secret.New(sinktest.Secret), Compression: elastic.CompressionNone},
	} {
		t.Run(name, func(t *testing.T) {
			sinktest.HTTPSpec{Accept: answering(t, `{"status":201}`)}.Run(t, func(url string) sinks.Sink {
				cfg := cfg
				cfg.URLs = []string{url}
				return elastic.New(cfg, elastic.Options{Format: format.ECS})
			})
		})
	}
}

func serve(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func open(t *testing.T, cfg elastic.Config, opt elastic.Options) *elastic.Sink {
	t.Helper()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	s := elastic.New(cfg, opt)
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestItemsHaveTheirClass(t *testing.T) {
	const accepted = sinks.Class(-1)
	for name, tc := range map[string]struct {
		item     string
		want     sinks.Class
		answered bool
	}{
		"created":               {`{"status":201}`, accepted, false},
		"there already":         {`{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"document already exists"}}`, accepted, false},
		"queue full":            {`{"status":429,"error":{"type":"es_rejected_execution_exception","reason":"q"}}`, sinks.ClassRetry, false},
		"breaker":               {`{"status":429,"error":{"type":"circuit_breaking_exception","reason":"q"}}`, sinks.ClassRetry, false},
		"no shards":             {`{"status":503,"error":{"type":"unavailable_shards_exception","reason":"q"}}`, sinks.ClassRetry, false},
		"server error":          {`{"status":500,"error":{"type":"x","reason":"q"}}`, sinks.ClassRetry, true},
		"unknown":               {`{"status":418}`, sinks.ClassRetry, true},
		"mapping":               {`{"status":400,"error":{"type":"mapper_parsing_exception","reason":"failed to parse","caused_by":{"type":"number_format_exception","reason":"For input"}}}`, sinks.ClassPoison, true},
		"document":              {`{"status":400,"error":{"type":"document_parsing_exception","reason":"q"}}`, sinks.ClassPoison, true},
		"strict":                {`{"status":400,"error":{"type":"strict_dynamic_mapping_exception","reason":"q"}}`, sinks.ClassPoison, true},
		"too long":              {`{"status":400,"error":{"type":"illegal_argument_exception","reason":"immense term"}}`, sinks.ClassPoison, true},
		"error as a text":       {`{"status":400,"error":"no"}`, sinks.ClassPoison, true},
		"error as a number":     {`{"status":400,"error":7}`, sinks.ClassPoison, true},
		"missing pipeline":      {`{"status":400,"error":{"type":"illegal_argument_exception","reason":"pipeline with id [x] does not exist"}}`, sinks.ClassHalt, true},
		"closed index":          {`{"status":400,"error":{"type":"index_closed_exception","reason":"closed"}}`, sinks.ClassHalt, true},
		"missing index":         {`{"status":404,"error":{"type":"index_not_found_exception","reason":"q"}}`, sinks.ClassHalt, true},
		"read-only":             {`{"status":403,"error":{"type":"cluster_block_exception","reason":"FORBIDDEN/12/index read-only"}}`, sinks.ClassHalt, true},
		"not allowed":           {`{"status":403,"error":{"type":"security_exception","reason":"q"}}`, sinks.ClassHalt, true},
		"document is too large": {`{"status":413}`, sinks.ClassTooLarge, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := open(t, elastic.Config{URLs: []string{serve(t, answering(t, tc.item))}}, elastic.Options{})
			receipt, err := s.Send(t.Context(), sinktest.Messages(3))
			if tc.want == accepted {
				if err != nil || (name == "there already") != (receipt.Duplicates == 3) {
					t.Errorf("receipt %+v, %v", receipt, err)
				}
				return
			}
			partial, ok := errors.AsType[*sinks.PartialError](err)
			if !ok || len(partial.Failed) != 3 {
				t.Fatalf("error %v", err)
			}
			if got := partial.Failed[1]; sinks.ClassOf(got) != tc.want || sinks.IsAnswer(got) != tc.answered {
				t.Errorf("class %v, answer %t of %q, want %v, %t", sinks.ClassOf(got), sinks.IsAnswer(got), got, tc.want, tc.answered)
			}
		})
	}
}

func TestEachItemCountsByItself(t *testing.T) {
	url := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":400,"error":{"type":"mapper_parsing_exception","reason":"r"}}},`+
			`{"create":{"status":409}},{"create":{"status":429}}]}`)
	})
	s := open(t, elastic.Config{URLs: []string{url}}, elastic.Options{})
	receipt, err := s.Send(t.Context(), sinktest.Messages(4))
	partial, ok := errors.AsType[*sinks.PartialError](err)
	if !ok || len(partial.Failed) != 2 || sinks.ClassOf(partial.Failed[1]) != sinks.ClassPoison || sinks.ClassOf(partial.Failed[3]) != sinks.ClassRetry {
		t.Errorf("error %v", err)
	}
	if receipt.Duplicates != 1 || receipt.Answer != "200 items=4 created=1 duplicates=1 failed=2" {
		t.Errorf("receipt %+v", receipt)
	}
}

func TestAnswerThatDoesNotFitIsNeverSuccess(t *testing.T) {
	for name, body := range map[string]string{
		"empty":           ``,
		"cut":             `{"errors":false,"items":[{"create":{"status":201}},`,
		"no items":        `{"errors":false}`,
		"too few":         `{"items":[{"create":{"status":201}}]}`,
		"too many":        `{"items":[{"create":{"status":201}},{"create":{"status":201}},{"create":{"status":201}}]}`,
		"of another kind": `{"items":[{"index":{"status":201}},{"index":{"status":201}}]}`,
		"of two kinds":    `{"items":[{"create":{"status":201},"delete":{"status":200}},{"create":{"status":201}}]}`,
		"HTML":            `<html>login</html>`,
		"no status":       `{"items":[{"create":{}},{"create":{}}]}`,
		"null":            `null`,
		"endless":         strings.Repeat(" ", 17<<20),
	} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) })
			s := open(t, elastic.Config{URLs: []string{url}}, elastic.Options{})
			_, err := s.Send(t.Context(), sinktest.Messages(2))
			if err == nil {
				t.Fatal("Send succeeded")
			}
			// No record is to blame.
			if _, ok := errors.AsType[*sinks.PartialError](err); ok || sinks.ClassOf(err) != sinks.ClassRetry {
				t.Errorf("class %v of %v (%T)", sinks.ClassOf(err), err, err)
			}
		})
	}
}

func TestRequestIsWhatTheServersRead(t *testing.T) {
	var got []string
	var head http.Header
	var target string
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		head, target = r.Header.Clone(), r.URL.String()
		got = lines(t, r)
		_, _ = io.WriteString(w, `{"items":[{"create":{"status":201}}]}`)
	})
	r := sinktest.Record(1)
	hostile := &event.Record{
		Seq: 2, Key: r.Key, UID: r.UID, Sequence: 1, Revision: r.Revision, Action: event.Detected, Status: r.Status, ObservedAt: r.ObservedAt,
		Dialect: r.Dialect, Zone: r.Zone, Source: r.Source,
		Raw: []byte(`{"EventId":1,"CmdLine":"\"event\":{\"x\":1}}\n{\"delete\":{}}","VirusName":"\"event\":{\""}`),
	}
	encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	body, err := encode(nil, hostile)
	if err != nil {
		t.Fatal(err)
	}
	s := open(t, elastic.Config{URLs: []string{url + "/es/"}, APIKey: secret.New("key1")}, elastic.Options{Format: format.ECS, Namespace: "soc"})
	before := time.Now().Add(-time.Second)
	if _, err := s.Send(t.Context(), []sinks.Message{{Record: hostile, Body: body}}); err != nil {
		t.Fatal(err)
	}
	if target != "/es/logs-tencent_cloud.cwp_risk_process-soc/_bulk?filter_path=errors,items.*.status,items.*.error" ||
		head.Get("Content-Type") != "application/x-ndjson" || head.Get("Authorization") != "ApiKey key1" {
		t.Errorf("request to %s with %v", target, head)
	}
	if len(got) != 2 || got[0] != `{"create":{"_id":"`+r.UID+`"}}` {
		t.Fatalf("lines %q", got)
	}
	var doc, plain map[string]any
	if err := errors.Join(json.Unmarshal([]byte(got[1]), &doc), json.Unmarshal(body, &plain)); err != nil {
		t.Fatal(err)
	}
	ev := doc["event"].(map[string]any)
	at, err := time.Parse(time.RFC3339, fmt.Sprint(ev["ingested"]))
	if err != nil || at.Before(before) {
		t.Errorf("event.ingested is %v", ev["ingested"])
	}
	delete(ev, "ingested")
	if fmt.Sprint(doc) != fmt.Sprint(plain) {
		t.Errorf("document %v, want %v", doc, plain)
	}
}

func TestAnotherNodeIsAskedAfterAFailure(t *testing.T) {
	var busy, good int
	urls := []string{
		"http://127.0.0.1:1",
		serve(t, func(w http.ResponseWriter, _ *http.Request) { busy++; w.WriteHeader(http.StatusServiceUnavailable) }),
		serve(t, func(w http.ResponseWriter, r *http.Request) { good++; answering(t, `{"status":201}`)(w, r) }),
	}
	s := open(t, elastic.Config{URLs: urls}, elastic.Options{})
	for attempt, want := range []bool{false, false, true, true} {
		if _, err := s.Send(t.Context(), sinktest.Messages(1)); (err == nil) != want {
			t.Errorf("attempt %d: %v", attempt+1, err)
		}
	}
	if busy != 1 || good != 2 {
		t.Errorf("%d and %d requests at the second and third node", busy, good)
	}
}

func TestConfigNamesEveryMistake(t *testing.T) {
	cfg := elastic.Config{
		URLs: []string{"es:9200", "https://u:p@es"}, APIKey: secret.New("a"), Username: "u", Index: "Bad Index", KeepDays: -1,
		Compression: "zip", CompressionLevel: 10, MaxBatchBytes: 1, MaxBatchRecords: -1,
	}
	err := cfg.Validate()
	if err == nil {
		t.Fatal("no error")
	}
	for _, want := range []string{
		"urls: number 1 ", "urls: number 2 ", "api_key: ", "username: ", "index: ", "keep_days: ", "compression: ", "compression_level: ", "max_batch_bytes: ", "max_batch_records: ",
	} {
		if !strings.Contains("\n"+err.Error(), "\n"+want) {
			t.Errorf("no %q in:\n%v", want, err)
		}
	}
	if strings.Contains(err.Error(), "u:p") {
		t.Errorf("a password is shown:\n%v", err)
	}
}

// TestTemplateMapsEverythingThatIsSent compares the mapping with documents of
// every kind of record there is an example of.
func TestTemplateMapsEverythingThatIsSent(t *testing.T) {
	var template struct {
		Template struct {
			Mappings struct{ Properties map[string]any }
		}
	}
	if err := json.Unmarshal(elastic.Template(), &template); err != nil {
		t.Fatal(err)
	}
	encode, err := format.New(format.ECS, format.Config{}.WithDefaults())
	if err != nil {
		t.Fatal(err)
	}
	full := sinktest.Record(1)
	odd := full.Again()
	odd.Raw = []byte(strings.NewReplacer("2023-09-16 18:30:55", "soon", "2023-09-16 18:28:00", "later", `"OnlineStatus"`, `"QUUID":"q","ExeMd5":"9e107d9d372bb6826bd81d3542a419d6","FirstDetectionMethod":1,"OnlineStatus"`,
		"./dev -h", strings.Repeat("x", 40_000)).Replace(string(full.Raw)))
	for _, r := range []*event.Record{full, odd} {
		body, err := encode(nil, r)
		if err != nil {
			t.Fatal(err)
		}
		var doc map[string]any
		if err := json.Unmarshal(body, &doc); err != nil {
			t.Fatal(err)
		}
		mapped(t, "", doc, template.Template.Mappings.Properties)
	}
	if !bytes.Contains(elastic.Template(), []byte(`"truncated_fields"`)) {
		t.Error("truncated_fields is not mapped")
	}
}

func mapped(t *testing.T, path string, doc, properties map[string]any) {
	t.Helper()
	for name, v := range doc {
		p, ok := properties[name].(map[string]any)
		if !ok {
			t.Errorf("%s%s is sent and has no mapping", path, name)
			continue
		}
		if inner, ok := v.(map[string]any); ok {
			properties, _ := p["properties"].(map[string]any)
			mapped(t, path+name+".", inner, properties)
		}
	}
}

func TestSetupLeavesWhatIsNotItsOwn(t *testing.T) {
	var puts []string
	existing := ""
	opensearch := ""
	url := serve(t, func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/":
			_, _ = fmt.Fprintf(w, `{"version":{"number":"8.19.0"%s}}`, opensearch)
		case r.Method == http.MethodPut:
			body, _ := io.ReadAll(r.Body)
			if !json.Valid(body) || r.Header.Get("Content-Type") != "application/json" {
				t.Errorf("put %s: %s", r.URL.Path, body)
			}
			puts = append(puts, r.URL.Path)
			_, _ = io.WriteString(w, `{"acknowledged":true}`)
		case existing != "":
			_, _ = fmt.Fprintf(w, `{"index_templates":[{"name":"x","index_template":{"_meta":%s}}]}`, existing)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	})
	for name, tc := range map[string]struct {
		existing, opensearch, says string
		keep, puts                 int
		fails                      bool
	}{
		"nothing there":         {"", "", "made", 0, 1, false},
		"ours, the same":        {`{"managed_by":"cwprelay","version":1}`, "", "there already", 0, 0, false},
		"ours, other lifecycle": {`{"managed_by":"cwprelay","version":1}`, "", "renewed", 30, 2, false},
		"ours, older":           {`{"managed_by":"cwprelay","version":0}`, "", "renewed", 0, 1, false},
		"ours, newer":           {`{"managed_by":"cwprelay","version":2}`, "", "newer", 0, 0, false},
		"another's":             {`{"managed_by":"fleet"}`, "", "", 0, 0, true},
		"OpenSearch":            {"", `,"distribution":"opensearch"`, "made", 30, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			puts, existing, opensearch = nil, tc.existing, tc.opensearch
			s := open(t, elastic.Config{URLs: []string{url}, KeepDays: tc.keep, Compression: elastic.CompressionNone}, elastic.Options{})
			if tc.opensearch != "" {
				existing = ""
			}
			done, err := s.Setup(t.Context())
			if (err != nil) != tc.fails || !strings.Contains(strings.Join(done, "\n"), tc.says) || len(puts) != tc.puts {
				t.Errorf("done %q, %v, put %q", done, err, puts)
			}
		})
	}
}

func FuzzAnswer(f *testing.F) {
	f.Add(`{"items":[{"create":{"status":201}},{"create":{"status":400,"error":{"type":"x","caused_by":{"type":"y","reason":"z"}}}}]}`)
	f.Add(`{"items":[{"create":{"status":409,"error":"x"}},{}]}`)
	f.Fuzz(func(t *testing.T, body string) {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, body) }))
		defer srv.Close()
		s := elastic.New(elastic.Config{URLs: []string{srv.URL}}, elastic.Options{})
		defer s.Close()
		_, err := s.Send(t.Context(), sinktest.Messages(2))
		if err == nil && (strings.Count(body, "20")+strings.Count(body, "409") < 2) {
			t.Errorf("accepted by %q", body)
		}
	})
}
