package format

import (
	"bytes"
	"cmp"
	"errors"
	"strconv"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// HECOptions are the metadata of an HTTP Event Collector envelope. What is
// empty has the default of AppendHEC.
type HECOptions struct {
	Index      string // default: none is sent, the token's is used
	Source     string // default: "tencent:cwp:" and the API action of the kind
	SourceType string // default: "tencent:cwp:" and the kind
	Host       string // default: the affected host, Finding.Host

	// Object says that the body is a JSON object made by an encoder of this
	// package (MakesObjects): it is not looked at again.
	Object bool
}

// AppendHEC appends the envelope that Splunk's HTTP Event Collector takes,
// around a body that an encoder of JSON has made, on one line without a line
// break at its end. An error means that the body is no JSON or one that the
// collector refuses (null, an empty string); dst is then as it was given.
func AppendHEC(dst []byte, r *event.Record, body []byte, opts HECOptions) ([]byte, error) {
	if !opts.Object {
		body = bytes.TrimSpace(body)
	}
	switch {
	case opts.Object:
	case !validJSON(body):
		return dst, errors.New("wrap for HEC: the body is not JSON")
	case string(body) == "null" || string(body) == `""`:
		return dst, errors.New("wrap for HEC: the event is empty")
	}
	f := Of(r)
	w := &writer{append(dst, '{')}
	w.key("event")
	w.b = append(w.b, body...)
	fields := w.open("fields")
	w.str("cwp_event_uid", r.UID)
	w.str("cwp_finding_uid", f.UID)
	w.close(fields)
	w.str("host", cmp.Or(opts.Host, f.Host))
	w.str("index", opts.Index)
	w.str("source", cmp.Or(opts.Source, hecSource(r.Key.Kind)))
	w.str("sourcetype", cmp.Or(opts.SourceType, "tencent:cwp:"+r.Key.Kind))
	if t := hecTime(r, f); !t.IsZero() {
		w.key("time")
		w.b = appendEpoch(w.b, t)
	}
	return append(w.b, '}'), nil
}

// hecSource names the API action that events of a kind come from.
func hecSource(kind string) string {
	switch kind {
	case kindRiskProcess:
		return "tencent:cwp:DescribeRiskProcessEvents"
	case kindHeartbeat:
		return "cwprelay"
	default:
		return "tencent:cwp"
	}
}

// hecTime is the time of the event. Splunk has no place for times before 1970:
// then the time of observation is used.
func hecTime(r *event.Record, f *Finding) time.Time {
	if f.EventTime.Unix() < 0 {
		return r.ObservedAt
	}
	return f.EventTime
}

// appendEpoch appends seconds since 1970 with three decimals, exactly.
func appendEpoch(dst []byte, t time.Time) []byte {
	ms := t.UnixMilli()
	dst = strconv.AppendInt(dst, ms/1000, 10)
	ms %= 1000
	return append(dst, '.', byte('0'+ms/100), byte('0'+ms/10%10), byte('0'+ms%10))
}
