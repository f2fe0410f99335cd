package format

import (
	"bytes"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A Field is a field that a format's records can have.
type Field struct {
	Name    string   // "process.pid"; of a list of objects "evidences[].process.pid"
	From    []string // what it is made of: the vendor's names, and what the record itself knows; empty for a constant
	Example string   // a value, as text
}

// Fields returns what a format's records can hold, sorted by name. It finds
// out by encoding sample records, so that it cannot differ from the encoder.
// Formats without fields have none.
//
// Objects within lists are listed for reading; a Change reaches the list only.
func Fields(name string, cfg Config) []Field {
	encode, err := New(name, cfg)
	if err != nil || name == Raw || name == Text {
		return nil
	}
	found := map[string]*Field{}
	for _, base := range sampleWorlds() {
		before := fieldsOf(name, encode, base.record())
		for path, value := range before {
			if found[path] == nil {
				found[path] = &Field{Name: path, Example: value}
			}
		}
		for from, worlds := range base.others() {
			for _, world := range worlds {
				after := fieldsOf(name, encode, world.record())
				for path, value := range after {
					if found[path] == nil {
						found[path] = &Field{Name: path, Example: value}
					}
					if before[path] != value {
						found[path].note(from)
					}
				}
				for path := range before {
					if _, ok := after[path]; !ok {
						found[path].note(from)
					}
				}
			}
		}
	}
	list := make([]Field, 0, len(found))
	for _, path := range slices.Sorted(maps.Keys(found)) {
		slices.Sort(found[path].From)
		list = append(list, *found[path])
	}
	return list
}

func (f *Field) note(from string) {
	if !slices.Contains(f.From, from) {
		f.From = append(f.From, from)
	}
}

// fieldsOf encodes a record and returns its fields as text. A list of plain
// values is one field; one of objects is a field, and so are the members of
// its objects.
func fieldsOf(name string, encode Encoder, r *event.Record) map[string]string {
	out := map[string]string{}
	b, err := encode(nil, r)
	if err != nil {
		return out
	}
	if !IsJSON(name) {
		return textPairs(name, string(b))
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	var doc any
	if dec.Decode(&doc) == nil {
		flattenInto(out, "", doc)
	}
	return out
}

func flattenInto(out map[string]string, path string, v any) {
	if m, ok := v.(map[string]any); ok {
		for name, inner := range m {
			flattenInto(out, strings.TrimPrefix(path+"."+name, "."), inner)
		}
		return
	}
	out[path] = strings.Trim(string(appendJSON(nil, v)), `"`)
	list, _ := v.([]any)
	for _, item := range list {
		if m, ok := item.(map[string]any); ok {
			flattenInto(out, path+"[]", m)
		}
	}
}

// textPairs reads the keys and values of a CEF or LEEF record of ours, as they
// stand in it.
func textPairs(name, line string) map[string]string {
	out := map[string]string{}
	bars, separator := 7, " "
	if name == LEEF {
		bars, separator = 5, "\t"
		if strings.HasPrefix(line, "LEEF:2.0") {
			bars = 6
		}
	}
	for range bars {
		_, line, _ = strings.Cut(line, "|")
	}
	key := ""
	for part := range strings.SplitSeq(line, separator) {
		k, v, ok := strings.Cut(part, "=")
		if ok && k != "" && strings.Trim(k, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789") == "" {
			key = k
			out[key] = v
		} else if key != "" {
			out[key] += separator + part
		}
	}
	return out
}

// A sampleWorld is a record by its parts.
type sampleWorld struct {
	item   map[string]any // the vendor's
	closed bool
	change func(*event.Record) // of what the record knows beside the item; nil for nothing
}

// sampleWorlds are records that show every field between them.
func sampleWorlds() []sampleWorld {
	item := func(host, wan string) map[string]any {
		return map[string]any{
			"CheckPlatform": []any{"1", "4"}, "CmdLine": "./dev -h 10.0.12.1/24 --password=x", "DetectTime": "2026-09-17 18:30:55",
			"ExeMd5": strings.Repeat("0c", 16), "FilePath": "/dev/shm/dev", "FirstDetectionMethod": json.Number("1"),
			"HostIp": host, "HostName": "prod-etl-02",
			"MachineExtraInfo": map[string]any{
				"HostName": "dataHub", "InstanceID": "ins-jvi1gdu0", "NetworkName": "vpc-9k2m4x1z", "NetworkType": json.Number("1"),
				"PrivateIP": host, "WanIP": wan,
			},
			"OnlineStatus": json.Number("1"), "ProcessId": json.Number("21595"), "QUUID": "5e1c",
			"ReferenceLink": "https://www.tencentcloud.com/document/product/296", "StartTime": "2026-09-17 18:28:00",
			"SuggestSolution": "Stop the process.", "ThreatDesc": "A hacking tool runs.",
			"Uuid": "364e2cb6-e3a3-4d5f-9abd-b87711b880e3", "VirusName": "Linux.Miner.XMRig", "VirusTags": []any{"miner", "scanner"}, "WanIp": wan,
		}
	}
	odd := item("10.***.***.248", "127.5.**.**")
	odd["DetectTime"], odd["StartTime"], odd["ReferenceLink"] = "soon", "soon", "javascript:x"
	odd["CmdLine"], odd["ProcessId"] = strings.Repeat("x", maxCmdLine+1), "none"
	odd["MachineExtraInfo"] = map[string]any{"NetworkName": "eth1", "PrivateIP": "10.*.*.1", "WanIP": "10.*.*.2"}
	return []sampleWorld{
		{item: item("10.0.12.248", "203.0.113.57")},
		{item: item("2001:db8::15", "198.51.100.7")},
		{item: odd},
		{item: map[string]any{"CmdLine": "x", "FilePath": "/x", "HostName": "only", "HostIp": "10.0.0.1", "ExeMd5": strings.Repeat("0c", 16)}, closed: true},
		{item: map[string]any{"ProcessId": json.Number("7"), "MachineExtraInfo": map[string]any{"InstanceID": "ins-1"}}},
	}
}

// sampleChanges are what a record knows beside the vendor's item, and how it
// may differ.
func sampleChanges() map[string]func(*event.Record) {
	return map[string]func(*event.Record){
		"EventId":                 func(r *event.Record) { r.Key.ID = "25" },
		"HandleStatus":            func(r *event.Record) { r.Status = event.Status{Code: "2", Symbol: "scanning"} },
		"account":                 func(r *event.Record) { r.Key.Account = event.DefaultAccount },
		"kind of change":          func(r *event.Record) { r.Action = event.Reopened },
		"dialect":                 func(r *event.Record) { r.Dialect = "filter" },
		"event_uid":               func(r *event.Record) { r.UID = strings.Repeat("8", 40) },
		"first DetectTime":        func(r *event.Record) { r.FirstDetect = "2026-09-15 18:30:55" },
		"previous HandleStatus":   func(r *event.Record) { r.Previous = event.Status{Code: "2", Symbol: "scanning"} },
		"replay":                  func(r *event.Record) { r.Replayed = true },
		"revision":                func(r *event.Record) { r.Revision = strings.Repeat("b", 64) },
		"sequence":                func(r *event.Record) { r.Sequence = 3 },
		"time of the observation": func(r *event.Record) { r.ObservedAt = r.ObservedAt.Add(time.Minute) },
		"zone of the API":         func(r *event.Record) { r.Zone = "UTC" },
	}
}

// record makes the record.
func (s sampleWorld) record() *event.Record {
	pending := event.Status{Code: "0", Symbol: "pending"}
	r := &event.Record{
		Key: event.Key{Account: "100012345678", Kind: kindRiskProcess, ID: "24"}, UID: strings.Repeat("7", 40), Sequence: 2,
		Revision: strings.Repeat("a", 64), Action: event.Redetected, Status: pending, Previous: pending,
		FirstDetect: "2026-09-16 18:30:55", ObservedAt: time.Date(2026, 9, 17, 10, 31, 10, 250e6, time.UTC),
		Dialect: "record", Zone: defaultZone, Source: "prod", Raw: appendJSON(nil, s.item),
	}
	if s.closed {
		r.Action, r.Status = event.Closed, event.Status{Code: "3", Symbol: "scanned", Closed: true}
	}
	if s.change != nil {
		s.change(r)
	}
	return r
}

// others returns the record as it may differ, by the name of what differs: for
// each of the vendor's values with another one and without it.
func (s sampleWorld) others() map[string][]sampleWorld {
	out := map[string][]sampleWorld{}
	for from, change := range sampleChanges() {
		out[from] = []sampleWorld{{item: s.item, closed: s.closed, change: change}}
	}
	for name, v := range s.item {
		inner, ok := v.(map[string]any)
		if !ok {
			for _, item := range variants(s.item, name) {
				out[name] = append(out[name], sampleWorld{item: item, closed: s.closed})
			}
			continue
		}
		for deep := range inner {
			for _, in := range variants(inner, deep) {
				item := maps.Clone(s.item)
				item[name] = in
				out[name+"."+deep] = append(out[name+"."+deep], sampleWorld{item: item, closed: s.closed})
			}
		}
	}
	return out
}

// variants returns an object without a member, and with another value of it.
func variants(object map[string]any, name string) []map[string]any {
	without, other := maps.Clone(object), maps.Clone(object)
	delete(without, name)
	switch v := object[name].(type) {
	case json.Number:
		other[name] = v + "1"
	case []any:
		other[name] = v[1:]
	case string:
		_, err := time.Parse(event.WallLayout, v)
		switch {
		case err == nil:
			other[name] = "2026-09-10 08:00:00"
		case addressOf(v).IsValid():
			other[name] = addressOf(v).Next().String()
		case name == "ExeMd5":
			other[name] = strings.Repeat("0d", 16)
		default:
			other[name] = v + "2"
		}
	}
	return []map[string]any{without, other}
}
