package webhook

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"mime"
	"strings"
	"text/template"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// A renderer makes request bodies by a template. Beside those of text/template it
// may call
//
//	json VALUE      the value as JSON, quotes included
//	get PATH        the value at a path of the event ("event.action"), "" if there is none
//	value NAME      one of the configuration's values
//	uid             the record's event_uid
//	finding_uid     the identifier of the event over its whole life
//	action          detected, redetected, status-changed, closed, reopened
//	kind            of the event: risk_process
//	status          the symbol of the handling status: pending
//	closed          whether nobody has to act on the event any more
//
// Its dot is the event in the sink's format, decoded; numbers are as they were
// written, however long.
type renderer struct {
	template *template.Template
	values   map[string]secret.String
	json     bool // what it makes must be JSON
}

// newRenderer reads a template for a content type.
func newRenderer(text, contentType string, values map[string]secret.String) (*renderer, error) {
	w := &renderer{values: values, json: isJSON(contentType)}
	var err error
	w.template, err = template.New("body").Funcs(w.functions(&event.Record{}, nil)).Parse(text)
	if err != nil {
		return nil, err
	}
	return w, nil
}

// isJSON reports whether bodies of a content type are JSON, one or several.
func isJSON(contentType string) bool {
	media, _, err := mime.ParseMediaType(contentType)
	return err == nil && (media == "application/json" || media == "application/x-ndjson" || strings.HasSuffix(media, "+json"))
}

func (w *renderer) functions(r *event.Record, doc map[string]any) template.FuncMap {
	return template.FuncMap{
		"json":        encode,
		"get":         func(path string) any { return get(doc, path) },
		"value":       w.value,
		"uid":         func() string { return r.UID },
		"finding_uid": r.Key.FindingUID,
		"action":      func() string { return string(r.Action) },
		"kind":        func() string { return r.Key.Kind },
		"status":      func() string { return r.Status.Symbol },
		"closed":      func() bool { return r.Status.Closed },
	}
}

// encode writes v as JSON, as short as it can be.
func encode(v any) (string, error) {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	err := enc.Encode(v)
	return strings.TrimSuffix(out.String(), "\n"), err
}

// get returns what is at a dotted path, "" where there is nothing or null.
func get(doc map[string]any, path string) any {
	var at any = doc
	for part := range strings.SplitSeq(path, ".") {
		object, ok := at.(map[string]any)
		if !ok {
			return ""
		}
		at = object[part]
	}
	if at == nil {
		return ""
	}
	return at
}

func (w *renderer) value(name string) (string, error) {
	v, ok := w.values[name]
	if !ok {
		return "", fmt.Errorf("values has no %q", name)
	}
	return v.Reveal(), nil
}

// render makes the body of one event of its encoded form. An error shows
// nothing of the event.
func (w *renderer) render(r *event.Record, encoded []byte) ([]byte, error) {
	doc, err := decode(encoded)
	if err != nil {
		return nil, err
	}
	out, err := w.execute(r, doc)
	if err != nil {
		return nil, err
	}
	if w.json && !json.Valid(out) {
		return nil, errors.New("the body is not JSON: bring each value in by {{json …}}")
	}
	return out, nil
}

// decode reads an object and keeps its numbers exact.
func decode(encoded []byte) (map[string]any, error) {
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(encoded))
	dec.UseNumber()
	if err := dec.Decode(&doc); err != nil || doc == nil {
		return nil, errors.New("the event is no JSON object in the sink's format")
	}
	return doc, nil
}

func (w *renderer) execute(r *event.Record, doc map[string]any) ([]byte, error) {
	own, err := w.template.Clone() // functions belong to one execution
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if err := own.Funcs(w.functions(r, doc)).Execute(&out, doc); err != nil {
		return nil, where(err)
	}
	return out.Bytes(), nil
}

// where keeps of a template's error what the template says, not the values
// that it was given.
func where(err error) error {
	exec, ok := errors.AsType[template.ExecError](err)
	if !ok {
		return errors.New("it cannot be executed")
	}
	text := exec.Error()
	if i := strings.Index(text, "at <"); i >= 0 {
		if end := strings.Index(text[i:], ">: "); end >= 0 {
			return fmt.Errorf("it cannot be executed: %s", text[:i+end+1])
		}
	}
	return errors.New("it cannot be executed")
}

// check executes the template with a sample event. The configuration of a sink
// does not know the sink's format: one format that fits is enough. In those
// that fit, no text of an event may break the JSON.
func (w *renderer) check() error {
	var first error
	var fits bool
	for _, name := range []string{format.ECS, format.Splunk, format.Raw} { // the default first: its mistake is the one to show
		doc, err := w.try(name)
		if err != nil {
			first = errOr(first, fmt.Errorf("with a sample event in format %s: %w", name, err))
			continue
		}
		fits = true
		if err := w.withstands(doc); err != nil {
			return err
		}
	}
	if fits {
		return nil
	}
	return first
}

func errOr(first, second error) error {
	if first != nil {
		return first
	}
	return second
}

// try executes the template with the sample in a format, which it returns.
func (w *renderer) try(name string) (map[string]any, error) {
	encoder, err := format.New(name, format.Config{})
	if err != nil {
		return nil, err
	}
	encoded, err := encoder(nil, sample())
	if err != nil {
		return nil, err
	}
	if _, err := w.render(sample(), encoded); err != nil {
		return nil, err
	}
	return decode(encoded)
}

// withstands executes the template with texts that end a JSON string.
func (w *renderer) withstands(doc map[string]any) error {
	if !w.json {
		return nil
	}
	for _, text := range []string{`"\` + "\n", `","`} {
		out, err := w.execute(sample(), spoil(doc, text).(map[string]any)) //nolint:forcetypeassert // an object stays one
		if err == nil && !json.Valid(out) {
			return errors.New("a text of the event can break the JSON: bring each value in by {{json …}}")
		}
	}
	return nil
}

// spoil replaces each text in v.
func spoil(v any, text string) any {
	switch v := v.(type) {
	case map[string]any:
		all := make(map[string]any, len(v))
		for key, value := range v {
			all[key] = spoil(value, text)
		}
		return all
	case []any:
		all := make([]any, 0, len(v))
		for _, value := range v {
			all = append(all, spoil(value, text))
		}
		return all
	case string:
		return text
	default:
		return v
	}
}

// sample is an event with all that the vendor documents.
func sample() *event.Record {
	raw := []byte(`{"CheckPlatform":["1"],"CmdLine":"./dev -h 192.0.2.1/24","DetectTime":"2023-09-16 18:30:55","EventId":24,"FilePath":"/dev/shm/dev",` +
		`"HandleStatus":0,"HostIp":"192.0.2.4","HostName":"sample","MachineExtraInfo":{"HostName":"sample","InstanceID":"ins-sample","NetworkName":"vpc-sample",` +
		`"NetworkType":1,"PrivateIP":"192.0.2.4","WanIP":"203.0.113.57"},"OnlineStatus":1,"ProcessId":21595,"ReferenceLink":"https://example.com/",` +
		`"StartTime":"2023-09-16 18:28:00","SuggestSolution":"Stop the process.","ThreatDesc":"Hacking tool.","Uuid":"364e2cb6-e3a3-4d5f-9abd-b87711b880e3",` +
		`"VirusName":"Linux.Scanner.Fscan","VirusTags":["scanner","hack_tools"],"WanIp":"203.0.113.57"}`)
	key := event.Key{Account: event.DefaultAccount, Kind: "risk_process", ID: "24"}
	return &event.Record{
		Key: key, UID: key.EventUID(1, ""), Sequence: 1, Action: event.Detected,
		Status: event.Status{Code: "0", Symbol: "pending"}, FirstDetect: "2023-09-16 18:30:55",
		ObservedAt: time.Date(2023, 9, 16, 10, 31, 0, 0, time.UTC), Dialect: "record", Zone: "Asia/Shanghai", Raw: raw,
	}
}
