package format_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"maps"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// A situation is what surrounds the vendor's JSON in a record. The files
// testdata/*.context.json have this form.
type situation struct {
	Account  *string   `json:"account_id"`
	First    *string   `json:"first_detect_time"`
	Dialect  string    `json:"handle_status_dialect"`
	Observed time.Time `json:"observed_at"`
	Previous *int      `json:"previous_handle_status"`
	Sequence uint64    `json:"sequence"`
	Zone     string    `json:"timezone"`

	Action event.Action `json:"-"` // empty: as the statuses say
}

// record makes the record that the poller would make of the vendor's JSON.
func record(tb testing.TB, raw []byte, s situation) *event.Record {
	tb.Helper()
	item := fields(tb, raw)
	account := event.DefaultAccount
	if s.Account != nil {
		account = *s.Account
	}
	r := &event.Record{
		Seq: 1, Sequence: s.Sequence, Action: event.Detected,
		Key:        event.Key{Account: account, Kind: "risk_process", ID: idOf(item, raw)},
		Status:     statusOf(s.Dialect, text(item, "HandleStatus")),
		ObservedAt: s.Observed, Dialect: s.Dialect, Zone: s.Zone, Source: "prod",
		Raw: raw, Revision: revision(item),
	}
	r.FirstDetect = strings.TrimSpace(text(item, "DetectTime"))
	if s.First != nil {
		r.FirstDetect = *s.First
	}
	if s.Previous != nil {
		r.Previous = statusOf(s.Dialect, strconv.Itoa(*s.Previous))
		r.Action = event.ActionFor(r.Previous, r.Status)
	}
	if s.Action != "" {
		r.Action = s.Action
	}
	r.UID = r.Key.EventUID(r.Sequence, r.Revision)
	return r
}

// statusOf reads a status by a dialect, as the vendor's two lists say.
func statusOf(dialect, code string) event.Status {
	symbols := []string{"pending", "processed", "scanning", "scanned", "exited", "ignored"}
	if dialect == "filter" {
		symbols = []string{"pending", "scanning", "scanned", "exited", "trusted"}
	}
	s := event.Status{Code: code, Symbol: event.UnknownStatus}
	if n, err := strconv.Atoi(code); err == nil && n >= 0 && n < len(symbols) {
		s.Symbol = symbols[n]
		s.Closed = s.Symbol != "pending" && s.Symbol != "scanning"
	}
	return s
}

// ordinary is the situation of a first sight.
func ordinary() situation {
	return situation{
		Dialect: "record", Zone: "Asia/Shanghai", Sequence: 1,
		Observed: time.Date(2026, 9, 18, 1, 2, 3, 456e6, time.UTC),
	}
}

func fields(tb testing.TB, raw []byte) map[string]any {
	tb.Helper()
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		tb.Fatalf("decode %.200s: %v", raw, err)
	}
	m, _ := v.(map[string]any)
	return m
}

func text(item map[string]any, key string) string {
	b, err := json.Marshal(item[key])
	if err != nil {
		panic(err)
	}
	return strings.Trim(string(b), `"`)
}

func idOf(item map[string]any, raw []byte) string {
	if id, ok := item["EventId"].(json.Number); ok {
		return id.String()
	}
	sum := sha256.Sum256(raw)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// revision is the definition of formats: SHA-256 of the compact, key-sorted
// JSON of some fields, lists sorted.
func revision(item map[string]any) string {
	part := map[string]any{}
	for _, name := range []string{
		"CheckPlatform", "DetectTime", "FilePath", "HandleStatus", "ProcessId", "StartTime", "VirusName", "VirusTags",
	} {
		v := item[name]
		if list, ok := v.([]any); ok {
			v = slices.SortedFunc(slices.Values(list), func(a, b any) int {
				return strings.Compare(fmt.Sprint(a), fmt.Sprint(b))
			})
		}
		part[name] = v
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(part); err != nil {
		panic(err)
	}
	sum := sha256.Sum256(bytes.TrimSuffix(b.Bytes(), []byte("\n")))
	return hex.EncodeToString(sum[:])
}

// example reads one of the examples in testdata by its name.
func example(tb testing.TB, name string) *event.Record {
	tb.Helper()
	var s situation
	if err := json.Unmarshal(read(tb, name+".context.json"), &s); err != nil {
		tb.Fatal(err)
	}
	return record(tb, read(tb, name+".input.json"), s)
}

func examples() []string { return []string{"01-detected", "02-killed-masked", "03-hostile"} }

func read(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// samples are the events of the vendor-shaped answers in testdata.
func samples(tb testing.TB) []*event.Record {
	tb.Helper()
	var list []*event.Record
	files, err := filepath.Glob("testdata/risk_process*.json")
	if err != nil || len(files) == 0 {
		tb.Fatal("no samples", err)
	}
	for _, file := range files {
		var answer struct {
			Response struct{ List []json.RawMessage }
		}
		if err := json.Unmarshal(read(tb, filepath.Base(file)), &answer); err != nil {
			tb.Fatal(err)
		}
		for _, item := range answer.Response.List {
			list = append(list, record(tb, item, ordinary()))
		}
	}
	for _, name := range examples() {
		list = append(list, example(tb, name))
	}
	return list
}

// encode runs a format with default options.
func encode(tb testing.TB, name string, r *event.Record) []byte {
	tb.Helper()
	return encodeWith(tb, name, format.Config{}, r)
}

func encodeWith(tb testing.TB, name string, cfg format.Config, r *event.Record) []byte {
	tb.Helper()
	enc, err := format.New(name, cfg)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := enc([]byte("before"), r)
	if err != nil {
		tb.Fatalf("encode %s: %v", name, err)
	}
	b, ok := bytes.CutPrefix(b, []byte("before"))
	if !ok {
		tb.Fatalf("%s did not append to dst: %.100s", name, b)
	}
	return b
}

// value decodes JSON so that numbers compare by value, exactly.
func value(tb testing.TB, b []byte) any {
	tb.Helper()
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var v any
	if err := dec.Decode(&v); err != nil {
		tb.Fatalf("not JSON: %v\n%.500s", err, b)
	}
	if dec.More() {
		tb.Fatalf("more than one value: %.500s", b)
	}
	return exact(v)
}

func exact(v any) any {
	switch v := v.(type) {
	case json.Number:
		if n, ok := new(big.Rat).SetString(v.String()); ok {
			return n.RatString()
		}
		return v
	case []any:
		for i := range v {
			v[i] = exact(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = exact(v[k])
		}
	}
	return v
}

// flatten returns the leaves of a document by their dotted paths.
func flatten(doc map[string]any) map[string]any {
	flat := map[string]any{}
	for k, v := range doc {
		sub, ok := v.(map[string]any)
		if !ok {
			flat[k] = v
			continue
		}
		for path, leaf := range flatten(sub) {
			flat[k+"."+path] = leaf
		}
	}
	return flat
}

// paths decodes an encoded record into leaves by path.
func paths(tb testing.TB, b []byte) map[string]any {
	tb.Helper()
	return flatten(fields(tb, b))
}

// with returns the first example's JSON with some members replaced; a nil
// value removes one.
func with(tb testing.TB, changes map[string]any) []byte {
	tb.Helper()
	item := fields(tb, read(tb, "01-detected.input.json"))
	maps.Copy(item, changes)
	for k, v := range changes {
		if v == nil {
			delete(item, k)
		}
	}
	b, err := json.Marshal(item)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}
