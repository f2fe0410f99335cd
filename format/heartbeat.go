package format

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

const (
	// kindHeartbeat is the kind of heartbeats. No API gives it.
	kindHeartbeat = "heartbeat"
	// heartbeatAction tells heartbeats from findings, in every format.
	heartbeatAction = "cwprelay-heartbeat"
)

// A Heartbeat is what cwprelay says of itself to a destination from time to
// time, so that whoever searches there notices its silence. It holds nothing
// that an event says.
type Heartbeat struct {
	Sink     string   `json:"sink"`              // configured name
	Host     string   `json:"host,omitempty"`    // that cwprelay runs on
	Version  string   `json:"version,omitempty"` // of cwprelay
	Interval int64    `json:"interval_seconds"`
	Ready    bool     `json:"ready"`             // as /readyz says
	Reasons  []string `json:"reasons,omitempty"` // why not, by their codes
	Behind   int      `json:"behind_records"`    // of the sink
	Dead     int      `json:"dead_letters"`      // of the sink
}

// Record returns the heartbeat as a record, for encoders and sinks. It is in no
// journal and has no sequence there; its event_uid is its own.
func (h Heartbeat) Record(at time.Time) *event.Record {
	at = at.UTC()
	raw, err := json.Marshal(struct {
		Action string `json:"action"`
		Time   string `json:"time"`
		Heartbeat
	}{heartbeatAction, at.Format(millis), h})
	if err != nil {
		panic(err) // texts, numbers and truth values
	}
	sum := sha256.Sum256(raw)
	r := &event.Record{
		Key: event.Key{Account: event.DefaultAccount, Kind: kindHeartbeat, ID: h.Sink}, Sequence: uint64(max(at.UnixMilli(), 0)),
		Revision: hex.EncodeToString(sum[:]), Action: kindHeartbeat, Status: event.Status{Symbol: "not-ready", Closed: true}, ObservedAt: at, Zone: "UTC",
		Source: "cwprelay", Raw: raw,
	}
	if h.Ready {
		r.Status.Symbol = "ready"
	}
	r.UID = r.Key.EventUID(r.Sequence, r.Revision)
	return r
}

// readHeartbeat makes the reading of a heartbeat.
func (f *Finding) readHeartbeat(r *event.Record) {
	h := &Heartbeat{}
	if json.Unmarshal(r.Raw, h) != nil {
		h = &Heartbeat{} // not one of Record's
	}
	f.Heartbeat = h
	f.ActionName, f.Verb, f.Category = heartbeatAction, kindHeartbeat, kindHeartbeat
	f.Severity, f.ThreatSeverity = Informational, Informational
	f.SeverityRule, f.ThreatSeverityRule = kindHeartbeat, kindHeartbeat
	f.Host = unknown
	if h.Host != "" {
		f.Host = h.Host
	}
	f.Message = cleanLine("cwprelay heartbeat: sink " + h.Sink + " on " + f.Host + ", " + h.standing())
}

// standing is whether cwprelay is ready, in words.
func (h *Heartbeat) standing() string {
	if h.Ready {
		return "ready"
	}
	return strings.TrimSuffix("not ready: "+h.reason(), ": ")
}

func (h *Heartbeat) reason() string { return strings.Join(h.Reasons, ", ") }

// outcome is the word of ECS and CEF for whether cwprelay is ready.
func (h *Heartbeat) outcome() string {
	if h.Ready {
		return "success"
	}
	return "failure"
}

// members writes what a heartbeat says.
func (h *Heartbeat) members(w *writer) {
	w.int("behind_records", int64(h.Behind))
	w.int("dead_letters", int64(h.Dead))
	w.int("interval_seconds", h.Interval)
	w.bool("ready", h.Ready)
	w.strs("reasons", h.Reasons)
	w.str("sink", h.Sink)
}

// heartbeat writes into the data stream of the findings: that is the sink's.
func (e ecsEncoder) heartbeat(dst []byte, r *event.Record, f *Finding) []byte {
	h := f.Heartbeat
	w := &writer{append(dst, '{')}
	w.time("@timestamp", f.EventTime)
	e.stream(w, kindRiskProcess)
	w.raw("ecs", `{"version":"`+ecsVersion+`"}`)
	ev := w.open("event")
	w.str("action", f.ActionName)
	w.time("created", r.ObservedAt)
	w.str("dataset", ecsDataset(kindRiskProcess))
	w.str("id", f.UID)
	w.str("kind", "state")
	w.str("module", "tencent_cloud")
	w.str("outcome", h.outcome())
	w.str("provider", "cwprelay")
	w.str("reason", h.reason())
	w.close(ev)
	w.str("message", f.Message)
	observer := w.open("observer")
	w.str("hostname", h.Host)
	w.str("product", "cwprelay")
	w.str("version", h.Version)
	w.close(observer)
	w.raw("tags", `["cwprelay-heartbeat"]`)
	vendor := w.open("tencent_cloud")
	cwp := w.open("cwp")
	w.str("event_uid", r.UID)
	beat := w.open("heartbeat")
	h.members(w)
	w.close(beat)
	w.close(cwp)
	w.close(vendor)
	return append(w.b, '}')
}

// heartbeat writes a Base Event, for there is no class of this.
func (e ocsfEncoder) heartbeat(dst []byte, r *event.Record, f *Finding) []byte {
	h := f.Heartbeat
	w := &writer{append(dst, '{')}
	w.raw("activity_id", `99,"activity_name":"Heartbeat"`)
	w.raw("category_name", `"Uncategorized","category_uid":0,"class_name":"Base Event","class_uid":0`)
	w.str("message", f.Message)
	meta := w.open("metadata")
	w.str("event_code", f.ActionName)
	product := w.open("product")
	w.str("name", "cwprelay")
	w.str("vendor_name", "cwprelay")
	w.str("version", h.Version)
	w.close(product)
	w.raw("profiles", `["datetime"]`)
	w.str("uid", r.UID)
	w.str("version", ocsfVersion)
	w.close(meta)
	w.caption("severity", f.Severity.ocsfCaption())
	status := caption{2, "Failure"}
	if h.Ready {
		status = caption{1, "Success"}
	}
	w.caption("status", status)
	w.str("status_detail", h.reason())
	w.instant("time", f.EventTime)
	w.raw("type_name", `"Base Event: Other","type_uid":99`)
	unmapped := w.open("unmapped")
	w.str("host", h.Host)
	h.members(w)
	w.close(unmapped)
	return append(w.b, '}')
}

func (e splunkEncoder) heartbeat(dst []byte, r *event.Record, f *Finding) []byte {
	h := f.Heartbeat
	w := &writer{append(dst, '{')}
	w.str("app", "cwprelay")
	w.str("description", f.Message)
	w.str("event_action", f.ActionName)
	w.str("id", r.UID)
	h.members(w)
	w.time("observed_time", r.ObservedAt)
	w.str("relay_host", h.Host)
	w.str("severity", f.Severity.String())
	w.str("type", kindHeartbeat)
	w.str("vendor_product", "cwprelay")
	w.str("version", h.Version)
	return append(w.b, '}')
}

func (e cefEncoder) heartbeat(dst []byte, f *Finding) []byte {
	h := f.Heartbeat
	dst = append(append(append(dst, "CEF:"...), e.version...), "|Tencent Cloud|Cloud Workload Protection|"+textVersion+"|"...)
	dst = append(dst, heartbeatAction+"|cwprelay heartbeat|1|"...)
	p := &pairs{b: dst, d: &e.dialect, edits: e.edits}
	p.millis("rt", f.EventTime)
	p.str("act", kindHeartbeat)
	p.str("cat", f.Category)
	p.capped("dvchost", h.Host, 100)
	p.str("outcome", h.outcome())
	p.str("reason", h.reason())
	e.custom(p, "cs1", "Sink", h.Sink)
	label(p, p.int("cn1", int64(h.Behind)), "cn1Label", "BehindRecords")
	label(p, p.int("cn2", int64(h.Dead)), "cn2Label", "DeadLetters")
	label(p, p.int("cn3", h.Interval), "cn3Label", "IntervalSeconds")
	p.str("msg", f.Message)
	return p.changed()
}

func (e leefEncoder) heartbeat(dst []byte, f *Finding) []byte {
	h := f.Heartbeat
	dst = append(append(append(dst, e.header...), "CwprelayHeartbeat"...), e.end...)
	p := &pairs{b: dst, d: &e.dialect, edits: e.edits}
	p.str("cat", f.Category)
	p.millis("devTime", f.EventTime)
	p.int("sev", f.Severity.text())
	p.str("resource", h.Host)
	p.str("action", f.ActionName)
	p.str("sink", h.Sink)
	p.str("outcome", h.outcome())
	p.str("reason", h.reason())
	p.int("behindRecords", int64(h.Behind))
	p.int("deadLetters", int64(h.Dead))
	p.int("intervalSeconds", h.Interval)
	return p.changed()
}
