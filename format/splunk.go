package format

import (
	"cmp"
	"strconv"

	"github.com/cwprelay/cwprelay/event"
)

// A splunkEncoder writes the body of an event with the field names of Splunk's
// Common Information Model (data sets Malware and Alerts), so that the add-on
// needs no renaming. What CIM requires and the record does not tell is
// "unknown". AppendHEC puts the envelope around it.
type splunkEncoder struct{ cfg Config }

func newSplunk(cfg Config) Encoder { return splunkEncoder{cfg}.encode }

func (e splunkEncoder) encode(dst []byte, r *event.Record) ([]byte, error) {
	f := Of(r)
	switch {
	case f.Heartbeat != nil:
		return e.heartbeat(dst, r, f), nil
	case !f.mapped:
		return dst, errNoMapping(Splunk, r)
	}
	w := &writer{append(dst, '{')}
	w.str("action", cimAction(r.Status.Symbol))
	w.str("app", "tencent:cwp")
	w.str("category", f.Category)
	w.str("description", f.Message)
	w.str("dest", f.Host)
	w.addr("dest_ip", f.HostAddr)
	w.str("dest_name", f.HostName)
	w.addr("dest_translated_ip", f.WanAddr)
	w.str("dest_type", "instance")
	w.time("detect_time", f.DetectTime)
	if f.DetectTime.IsZero() {
		w.str("detect_time_raw", f.DetectTimeText)
	}
	w.strs("detection_engine", f.Engines)
	w.str("event_action", f.ActionName)
	splunkNumber(w, "event_id", r.Key.ID)
	w.str("file_hash", f.ExeMD5)
	w.str("file_name", cmp.Or(f.FileName, unknown))
	w.str("file_path", cmp.Or(f.FilePath, unknown))
	w.str("finding_uid", f.UID)
	splunkNumber(w, "handle_status", r.Status.Code)
	w.str("host_ip", f.HostIP)
	w.str("host_uuid", f.UUID)
	w.str("id", r.UID)
	w.str("instance_id", f.InstanceID)
	if !e.cfg.DisableAttack {
		list(w, "mitre_technique_id", f.Techniques, Technique.MostExact)
	}
	w.str("network_name", f.NetworkName)
	w.num("network_type", f.NetworkType)
	w.time("observed_time", r.ObservedAt)
	w.num("online_status", f.OnlineStatus)
	w.str("os", f.OSType)
	w.str("private_ip", f.PrivateIP)
	w.str("process", f.CmdLine)
	w.num("process_id", f.ProcessID)
	w.str("process_name", f.FileName)
	w.str("process_path", f.FilePath)
	w.str("quuid", f.QUUID)
	w.bool("redacted", f.Redacted)
	if r.Replayed {
		w.bool("replayed", true)
	}
	w.uint("sequence", r.Sequence)
	w.str("severity", f.Severity.String())
	w.str("severity_id", strconv.Itoa(f.Severity.ocsf()))
	w.str("signature", cmp.Or(f.VirusName, unknown))
	w.str("signature_id", cmp.Or(f.VirusName, unknown))
	w.str("src", unknown)
	w.time("start_time", f.StartTime)
	if f.StartTime.IsZero() {
		w.str("start_time_raw", f.StartTimeText)
	}
	w.str("status", r.Status.Symbol)
	w.kept("suggested_solution", f.SuggestSolution, f.keptSolution)
	w.kept("threat_description", f.ThreatDesc, f.keptDesc)
	if len(f.Truncated) > 0 {
		w.bool("truncated", true)
		w.strs("truncated_fields", f.Truncated)
	}
	w.str("type", alertOrEvent(f))
	w.str("url", f.ReferenceURL)
	w.str("user", unknown)
	w.str("vendor_account", f.Account)
	w.str("vendor_product", "Tencent Cloud Workload Protection")
	w.strs("vendor_tags", f.VirusTags)
	w.str("wan_ip", f.WanIP)
	return append(w.b, '}'), nil
}

// cimAction is CIM's word for what became of the threat. The process did run,
// so all but the killed count as allowed.
func cimAction(symbol string) string {
	switch symbol {
	case "scanned":
		return "blocked"
	case "scanning":
		return "deferred"
	default:
		return "allowed"
	}
}

// splunkNumber writes text as a number if it is one in 64 bits, else as a
// string.
func splunkNumber(w *writer, key, text string) {
	if n := intOf(text); n.Valid {
		w.int(key, n.Value)
		return
	}
	w.str(key, text)
}
