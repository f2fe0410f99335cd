package format

import (
	"cmp"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// An ocsfEncoder writes Detection Findings (class 2004) of the Open
// Cybersecurity Schema Framework 1.8.0, with the profiles cloud, datetime, host
// and security_control. Attributes appear only with values of their types;
// what has no attribute is under unmapped, by its source's name.
type ocsfEncoder struct{ cfg Config }

func newOCSF(cfg Config) Encoder { return ocsfEncoder{cfg}.encode }

// caption is a value of an enumeration and its name.
type caption struct {
	id   int64
	name string
}

func (e ocsfEncoder) encode(dst []byte, r *event.Record) ([]byte, error) {
	f := Of(r)
	switch {
	case f.Heartbeat != nil:
		return e.heartbeat(dst, r, f), nil
	case !f.mapped:
		return dst, errNoMapping(OCSF, r)
	}
	activity, became := ocsfActivity(r.Action), ocsfStatus(r.Status.Symbol)
	w := &writer{append(dst, '{')}
	w.caption("action", became.action)
	w.int("activity_id", activity.id)
	w.str("activity_name", activity.name)
	e.attacks(w, f)
	w.raw("category_name", `"Findings","category_uid":2,"class_name":"Detection Finding","class_uid":2004`)

	cloud := w.open("cloud")
	account := w.open("account")
	w.str("uid", f.Account)
	w.close(account)
	w.str("provider", "Tencent Cloud")
	w.close(cloud)

	seen := &observables{}
	ocsfDevice(w, f, seen)
	w.caption("disposition", became.disposition)
	w.instant("end_time", f.DetectTime)
	ocsfEvidence(w, f, seen)
	e.findingInfo(w, r, f)
	w.bool("is_alert", f.Alert)
	ocsfMalware(w, f)
	w.str("message", f.Message)
	ocsfMetadata(w, r, f)
	ocsfObservables(w, f, seen)
	ocsfRemediation(w, f)
	ocsfResource(w, f)
	w.caption("severity", f.Severity.ocsfCaption())
	w.instant("start_time", f.StartTime)
	w.caption("status", became.status)
	w.str("status_code", r.Status.Code)
	w.str("status_detail", r.Status.Symbol)
	w.instant("time", f.EventTime)
	if f.zone != nil {
		_, seconds := f.EventTime.In(f.zone).Zone()
		w.int("timezone_offset", int64(seconds/60))
	}
	w.str("type_name", "Detection Finding: "+activity.name)
	w.int("type_uid", 200400+activity.id)
	ocsfUnmapped(w, f)
	return append(w.b, '}'), nil
}

// caption writes an enumeration's value and its name.
func (w *writer) caption(k string, c caption) {
	w.str(k, c.name)
	w.comma()
	w.b = append(append(append(w.b, '"'), k...), `_id":`...)
	w.b = strconv.AppendInt(w.b, c.id, 10)
}

// instant writes a time in milliseconds since 1970 and, as the profile
// datetime wants it, in RFC 3339.
func (w *writer) instant(k string, t time.Time) {
	if t.IsZero() {
		return
	}
	w.int(k, t.UnixMilli())
	w.comma()
	w.b = append(append(append(w.b, '"'), k...), `_dt":"`...)
	w.b = append(appendMillis(w.b, t), '"')
}

// item begins an object in a list.
func (w *writer) item() (start int) {
	start = len(w.b)
	w.comma()
	w.b = append(w.b, '{')
	return start
}

// list begins a list as a member and returns what end needs.
func (w *writer) list(k string) (start int) {
	start = len(w.b)
	w.key(k)
	w.b = append(w.b, '[')
	return start
}

// end ends the list, or removes it when it is empty.
func (w *writer) end(start int) {
	if w.b[len(w.b)-1] == '[' {
		w.b = w.b[:start]
		return
	}
	w.b = append(w.b, ']')
}

// ocsfCaption returns severity_id and its name.
func (s Severity) ocsfCaption() caption {
	names := [...]string{"Informational", "Low", "Medium", "High", "Critical"}
	return caption{int64(s.ocsf()), names[s]}
}

func ocsfActivity(a event.Action) caption {
	switch a {
	case event.Detected:
		return caption{1, "Create"}
	case event.Closed:
		return caption{3, "Close"}
	default:
		return caption{2, "Update"}
	}
}

// ocsfOutcome is what became of a finding, in three enumerations.
type ocsfOutcome struct{ status, action, disposition caption }

func ocsfStatus(symbol string) ocsfOutcome {
	none := caption{0, "Unknown"}
	switch symbol {
	case "pending":
		return ocsfOutcome{caption{1, "New"}, caption{3, "Observed"}, caption{15, "Detected"}}
	case "scanning":
		return ocsfOutcome{caption{2, "In Progress"}, caption{3, "Observed"}, caption{15, "Detected"}}
	case "scanned":
		return ocsfOutcome{caption{4, "Resolved"}, caption{2, "Denied"}, caption{2, "Blocked"}}
	case "processed":
		return ocsfOutcome{caption{4, "Resolved"}, none, none}
	case "exited": // it ended, nobody remedied it
		return ocsfOutcome{caption{99, "Exited"}, caption{3, "Observed"}, caption{16, "No Action"}}
	case "trusted", "ignored":
		return ocsfOutcome{caption{3, "Suppressed"}, caption{1, "Allowed"}, caption{1, "Allowed"}}
	default:
		return ocsfOutcome{none, none, none}
	}
}

// attacks writes one entry for each technique and tactic.
func (e ocsfEncoder) attacks(w *writer, f *Finding) {
	if e.cfg.DisableAttack {
		return
	}
	list := w.list("attacks")
	for _, t := range f.Techniques {
		tactics := t.Tactics
		if len(tactics) == 0 {
			tactics = []Tactic{{}}
		}
		for _, tactic := range tactics {
			entry := w.item()
			if t.SubID != "" {
				ocsfAttack(w, "sub_technique", t.SubName, t.SubReference(), t.SubID)
			}
			if tactic.ID != "" {
				ocsfAttack(w, "tactic", tactic.Name, tactic.Reference(), tactic.ID)
			}
			ocsfAttack(w, "technique", t.Name, t.Reference(), t.ID)
			w.close(entry)
		}
	}
	w.end(list)
}

func ocsfAttack(w *writer, key, name, url, uid string) {
	o := w.open(key)
	w.str("name", name)
	w.str("src_url", url)
	w.str("uid", uid)
	w.close(o)
}

// observables collects what of the event is worth a search.
type observables struct {
	device, process bool
	addrs           []string // of further interfaces
}

func ocsfDevice(w *writer, f *Finding, seen *observables) {
	ip := addressText(f.HostAddr)
	if f.OSHostName == "" && f.InstanceID == "" && ip == "" && f.HostName == "" && f.UUID == "" {
		return // nothing tells which device
	}
	seen.device = true
	device := w.open("device")
	w.str("hostname", f.OSHostName)
	w.str("instance_uid", f.InstanceID)
	w.str("ip", ip)
	w.str("name", f.HostName)
	interfaces := w.list("network_interfaces")
	for _, a := range f.Addresses {
		if a != ip {
			seen.addrs = append(seen.addrs, a)
			n := w.item()
			w.str("ip", a)
			w.raw("type", `"Unknown","type_id":0`)
			w.close(n)
		}
	}
	w.end(interfaces)
	ocsfOS(w, f)
	w.raw("type", `"Server","type_id":1`)
	w.str("uid", f.UUID)
	w.str("uid_alt", f.QUUID)
	if isVPC(f.NetworkName) {
		w.str("vpc_uid", f.NetworkName)
	}
	w.close(device)
}

func isVPC(name string) bool { return strings.HasPrefix(name, "vpc-") }

func ocsfOS(w *writer, f *Finding) {
	switch f.OSType {
	case "linux":
		w.raw("os", `{"name":"Linux","type":"Linux","type_id":200}`)
	case "windows":
		w.raw("os", `{"name":"Windows","type":"Windows","type_id":100}`)
	}
}

// ocsfFileName is the name that a file object must have.
func ocsfFileName(f *Finding) string { return cmp.Or(f.FileName, f.FilePath) }

// ocsfFile writes the members of the executable.
func ocsfFile(w *writer, f *Finding, hash bool) {
	if hash && f.ExeMD5 != "" {
		w.raw("hashes", `[{"algorithm":"MD5","algorithm_id":1,"value":"`+f.ExeMD5+`"}]`)
	}
	w.str("name", ocsfFileName(f))
	w.str("path", f.FilePath)
	w.raw("type", `"Executable File","type_id":8`)
}

// ocsfEvidence writes the process where something tells which, else the file
// alone.
func ocsfEvidence(w *writer, f *Finding, seen *observables) {
	id := f.EntityID()
	list := w.list("evidences")
	entry := w.item()
	if f.ProcessID.Valid || id != "" {
		seen.process = true
		process := w.open("process")
		w.str("cmd_line", f.CmdLine)
		w.instant("created_time", f.StartTime)
		if ocsfFileName(f) != "" {
			file := w.open("file")
			ocsfFile(w, f, true)
			w.close(file)
		}
		w.str("name", f.FileName)
		w.str("path", f.FilePath)
		w.num("pid", f.ProcessID)
		w.str("uid", id)
		w.close(process)
	} else {
		data := w.open("data")
		w.str("cmd_line", f.CmdLine)
		w.close(data)
		if ocsfFileName(f) != "" {
			file := w.open("file")
			ocsfFile(w, f, true)
			w.close(file)
		}
	}
	w.close(entry)
	w.end(list)
}

func (e ocsfEncoder) findingInfo(w *writer, r *event.Record, f *Finding) {
	info := w.open("finding_info")
	if len(f.Engines) > 0 {
		analytic := w.open("analytic")
		ocsfAnalytic(w, f.Engines[0], f.CheckPlatform[0])
		w.close(analytic)
	}
	e.attacks(w, f)
	w.instant("created_time", timeOf(r.FirstDetect, f.zone))
	w.strs("data_sources", f.Engines)
	w.kept("desc", f.ThreatDesc, f.keptDesc)
	w.instant("last_seen_time", f.DetectTime)
	if r.Action != event.Detected {
		w.instant("modified_time", r.ObservedAt)
	}
	related := w.list("related_analytics")
	for i, name := range f.Engines {
		if i > 0 {
			analytic := w.item()
			ocsfAnalytic(w, name, f.CheckPlatform[i])
			w.close(analytic)
		}
	}
	w.end(related)
	w.str("title", f.VirusName)
	w.strs("types", f.VirusTags)
	w.str("uid", f.UID)
	w.close(info)
}

func ocsfAnalytic(w *writer, name, code string) {
	w.str("name", cmp.Or(name, unknown))
	switch code {
	case "3":
		w.raw("type", `"Learning (ML/DL)","type_id":4`)
	case "4":
		w.raw("type", `"Behavioral","type_id":2`)
	default:
		w.raw("type", `"Other","type_id":99`)
	}
	w.str("uid", code)
}

func ocsfMalware(w *writer, f *Finding) {
	if f.VirusName == "" {
		return
	}
	list := w.list("malware")
	entry := w.item()
	w.key("classification_ids")
	w.b = append(strconv.AppendInt(append(w.b, '['), f.classification.id, 10), ']')
	w.strs("classifications", []string{f.classification.name})
	if ocsfFileName(f) != "" {
		files := w.list("files")
		file := w.item()
		ocsfFile(w, f, false)
		w.close(file)
		w.end(files)
	}
	w.str("name", f.VirusName)
	w.str("provider", "Tencent Cloud CWP")
	w.caption("severity", f.ThreatSeverity.ocsfCaption())
	w.close(entry)
	w.end(list)
}

func ocsfMetadata(w *writer, r *event.Record, f *Finding) {
	meta := w.open("metadata")
	w.str("correlation_uid", f.UID)
	w.str("event_code", "RiskProcessEvent")
	if len(f.Truncated) > 0 {
		w.bool("is_truncated", true)
	}
	labels := w.list("labels")
	if f.Redacted {
		w.comma()
		w.b = append(w.b, `"cmd_line_redacted"`...)
	}
	if r.Replayed {
		w.comma()
		w.b = append(w.b, `"replayed"`...)
	}
	w.end(labels)
	w.str("log_name", r.Key.Kind)
	w.str("log_provider", "Tencent Cloud CWP API")
	w.str("log_version", textVersion)
	w.instant("logged_time", r.ObservedAt)
	w.str("original_event_uid", r.Key.ID)
	w.str("original_time", f.DetectTimeText)
	w.raw("product", `{"name":"Cloud Workload Protection","uid":"cwp","vendor_name":"Tencent Cloud"}`)
	w.raw("profiles", `["cloud","datetime","host","security_control"]`)
	w.uint("sequence", r.Sequence)
	w.str("tenant_uid", f.Account)
	w.str("uid", r.UID)
	w.str("version", ocsfVersion)
	w.close(meta)
}

// ocsfObservables names the places of values that are there.
func ocsfObservables(w *writer, f *Finding, seen *observables) {
	list := w.list("observables")
	add := func(there bool, path string, kind caption, value string) {
		if !there || value == "" {
			return
		}
		entry := w.item()
		w.str("name", path)
		w.caption("type", kind)
		w.str("value", value)
		w.close(entry)
	}
	address, file := caption{2, "IP Address"}, "evidences[].file"
	if seen.process {
		file = "evidences[].process.file"
	}
	add(seen.device, "device.hostname", caption{1, "Hostname"}, f.OSHostName)
	add(seen.device, "device.ip", address, addressText(f.HostAddr))
	for _, a := range seen.addrs {
		add(true, "device.network_interfaces[].ip", address, a)
	}
	add(seen.device, "device.uid", caption{47, "Device Object: uid"}, f.UUID)
	add(true, "resources[].uid", caption{10, "Resource UID"}, f.InstanceID)
	add(seen.process, "evidences[].process.name", caption{9, "Process Name"}, f.FileName)
	add(true, file+".name", caption{7, "File Name"}, ocsfFileName(f))
	add(true, file+".path", caption{45, "File Path"}, f.FilePath)
	if ocsfFileName(f) != "" {
		add(true, file+".hashes[].value", caption{8, "Hash"}, f.ExeMD5)
	}
	add(seen.process, "evidences[].process.cmd_line", caption{13, "Command Line"}, f.CmdLine)
	w.end(list)
}

// ocsfRemediation writes the vendor's advice; the schema wants words where
// there is only a link.
func ocsfRemediation(w *writer, f *Finding) {
	desc := f.SuggestSolution
	if desc == "" && f.ReferenceURL != "" {
		desc = "See the reference."
	}
	remediation := w.open("remediation")
	w.str("desc", desc)
	if f.ReferenceURL != "" {
		w.strs("references", []string{f.ReferenceURL})
	}
	w.close(remediation)
}

func ocsfResource(w *writer, f *Finding) {
	name, uid := cmp.Or(f.HostName, f.OSHostName), cmp.Or(f.InstanceID, f.UUID)
	if name == "" && uid == "" {
		return
	}
	list := w.list("resources")
	entry := w.item()
	w.str("hostname", f.OSHostName)
	w.str("ip", addressText(f.HostAddr))
	w.str("name", name)
	w.str("provider", "Tencent Cloud")
	w.raw("role", `"Affected","role_id":3`)
	w.str("type", "host")
	w.str("uid", uid)
	w.close(entry)
	w.end(list)
}

// ocsfUnmapped keeps what no attribute can take, by the vendor's names.
func ocsfUnmapped(w *writer, f *Finding) {
	masked := func(text string) string {
		if addressOf(text) != (netip.Addr{}) {
			return ""
		}
		return text
	}
	unmapped := w.open("unmapped")
	w.num("FirstDetectionMethod", f.FirstDetectionMethod)
	w.str("HostIp", masked(f.HostIP))
	machine := w.open("MachineExtraInfo")
	if !isVPC(f.NetworkName) {
		w.str("NetworkName", f.NetworkName)
	}
	w.num("NetworkType", f.NetworkType)
	w.str("PrivateIP", masked(f.PrivateIP))
	w.str("WanIP", masked(f.ExtraWanIP))
	w.close(machine)
	w.num("OnlineStatus", f.OnlineStatus)
	if !f.ProcessID.Valid {
		w.str("ProcessId", f.ProcessIDText)
	}
	if f.ReferenceURL == "" {
		w.str("ReferenceLink", f.ReferenceLink)
	}
	if f.StartTime.IsZero() {
		w.str("StartTime", f.StartTimeText)
	}
	w.str("WanIp", masked(f.WanIP))
	w.close(unmapped)
}

// ocsfMalwareClass returns a value of malware.classification_ids; Other has no
// name of its own.
func ocsfMalwareClass(id int64) caption {
	names := map[int64]string{
		0: "Unknown", 1: "Adware", 2: "Backdoor", 3: "Bot", 4: "Bootkit", 5: "DDOS", 6: "Downloader", 7: "Dropper", 9: "Keylogger",
		10: "Ransomware", 11: "Remote-Access-Trojan", 13: "Resource-Exploitation", 15: "Rootkit", 17: "Spyware", 18: "Trojan", 19: "Virus",
		20: "Webshell", 21: "Wiper", 22: "Worm",
	}
	return caption{id, names[id]}
}
