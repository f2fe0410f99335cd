package format

import (
	"slices"
	"strings"

	"github.com/cwprelay/cwprelay/event"
)

// ecsDataset is the data set of a kind, in event.dataset and in the name of
// the data stream.
func ecsDataset(kind string) string { return "tencent_cloud.cwp_" + kind }

// An ecsEncoder writes Elastic Common Schema 9.4.0. Fields of the vendor's own
// are under tencent_cloud.cwp. Numbers, dates and addresses appear in fields
// of such types only if they are ones, so that no mapping refuses a document.
type ecsEncoder struct{ cfg Config }

func newECS(cfg Config) Encoder { return ecsEncoder{cfg}.encode }

func (e ecsEncoder) encode(dst []byte, r *event.Record) ([]byte, error) {
	f := Of(r)
	switch {
	case f.Heartbeat != nil:
		return e.heartbeat(dst, r, f), nil
	case !f.mapped:
		return dst, errNoMapping(ECS, r)
	}
	w := &writer{append(dst, '{')}
	w.time("@timestamp", f.EventTime)
	e.cloud(w, f)

	e.stream(w, r.Key.Kind)
	w.raw("ecs", `{"version":"`+ecsVersion+`"}`)
	ecsEvent(w, r, f)
	ecsFile(w, f)
	ecsHost(w, f)
	w.str("message", f.Message)
	w.raw("observer", `{"product":"Cloud Workload Protection","vendor":"Tencent Cloud"}`)
	ecsProcess(w, f)
	ecsRelated(w, f)

	rule := w.open("rule")
	w.str("category", f.Category)
	w.str("name", f.VirusName)
	w.str("reference", f.ReferenceURL)
	w.close(rule)

	w.raw("tags", `["forwarded","tencent_cloud-cwp_risk_process"]`)
	ecsVendor(w, r, f)
	switch {
	case e.cfg.DisableAttack || len(f.Techniques) == 0:
	case f.threat != "":
		w.raw("threat", f.threat)
	default:
		w.key("threat")
		w.b = appendThreat(w.b, f.Techniques)
	}
	return append(w.b, '}'), nil
}

// stream names the data stream that events of a kind go to.
func (e ecsEncoder) stream(w *writer, kind string) {
	stream := w.open("data_stream")
	w.str("dataset", ecsDataset(kind))
	w.str("namespace", e.cfg.Namespace)
	w.str("type", "logs")
	w.close(stream)
}

func (e ecsEncoder) cloud(w *writer, f *Finding) {
	cloud := w.open("cloud")
	account := w.open("account")
	w.str("id", f.Account)
	w.close(account)
	instance := w.open("instance")
	w.str("id", f.InstanceID)
	w.str("name", f.HostName)
	w.close(instance)
	w.str("provider", e.cfg.CloudProvider)
	w.close(cloud)
}

func ecsEvent(w *writer, r *event.Record, f *Finding) {
	ev := w.open("event")
	w.str("action", f.ActionName)
	w.raw("category", `["malware","process"]`)
	w.str("code", "RiskProcessEvent")
	w.time("created", r.ObservedAt)
	w.str("dataset", ecsDataset(r.Key.Kind))
	w.str("id", f.UID)
	w.str("kind", alertOrEvent(f))
	w.str("module", "tencent_cloud")
	w.str("provider", "cwp")
	w.str("reference", f.ReferenceURL)
	w.int("risk_score", f.Severity.ecs())
	w.uint("sequence", r.Sequence)
	w.int("severity", f.Severity.ecs())
	w.raw("type", `["info"]`) // the one type that both categories expect
	w.close(ev)
}

// alertOrEvent is the value of ECS's event.kind and of CIM's type.
func alertOrEvent(f *Finding) string {
	if f.Alert {
		return "alert"
	}
	return "event"
}

func ecsFile(w *writer, f *Finding) {
	file := w.open("file")
	ecsHash(w, f)
	w.str("name", f.FileName)
	w.str("path", f.FilePath)
	w.close(file)
}

func ecsHash(w *writer, f *Finding) {
	hash := w.open("hash")
	w.str("md5", f.ExeMD5)
	w.close(hash)
}

func ecsHost(w *writer, f *Finding) {
	host := w.open("host")
	w.str("hostname", f.OSHostName)
	w.str("id", f.UUID)
	w.strs("ip", f.Addresses)
	name := f.OSHostName
	if name == "" {
		name = f.HostName // without host.name, views of hosts miss the record
	}
	w.str("name", strings.ToLower(name))
	os := w.open("os")
	w.str("type", f.OSType)
	w.close(os)
	w.close(host)
}

func ecsProcess(w *writer, f *Finding) {
	process := w.open("process")
	w.str("command_line", f.CmdLine)
	w.str("entity_id", f.EntityID())
	w.str("executable", f.FilePath)
	ecsHash(w, f)
	w.str("name", f.FileName)
	w.num("pid", f.ProcessID)
	w.time("start", f.StartTime)
	w.close(process)
}

func ecsRelated(w *writer, f *Finding) {
	related := w.open("related")
	if f.ExeMD5 != "" {
		w.strs("hash", []string{f.ExeMD5})
	}
	var hosts [2]string
	n := 0
	for _, name := range [...]string{f.OSHostName, f.HostName} {
		if name != "" && !slices.Contains(hosts[:n], name) {
			hosts[n] = name
			n++
		}
	}
	w.strs("hosts", hosts[:n])
	w.strs("ip", f.Addresses)
	w.close(related)
}

// ecsVendor writes what ECS has no field for, and the vendor's values as they
// came.
func ecsVendor(w *writer, r *event.Record, f *Finding) {
	vendor := w.open("tencent_cloud")
	cwp := w.open("cwp")
	w.str("category", f.Category)
	platform := w.open("check_platform")
	w.strs("code", f.CheckPlatform)
	w.strs("name", f.Engines)
	w.close(platform)
	w.time("detect_time", f.DetectTime)
	if f.DetectTime.IsZero() {
		w.str("detect_time_raw", f.DetectTimeText)
	}
	w.num("event_id", intOf(r.Key.ID))
	w.str("event_uid", r.UID)
	w.num("first_detection_method", f.FirstDetectionMethod)

	status := w.open("handle_status")
	w.num("code", intOf(r.Status.Code))
	w.str("dialect", r.Dialect)
	w.str("name", r.Status.Symbol)
	w.str("previous", r.Previous.Symbol)
	w.close(status)

	w.str("host_ip", f.HostIP)
	w.str("host_name", f.HostName)
	ecsMachine(w, f)
	w.num("online_status", f.OnlineStatus)
	w.str("quuid", f.QUUID)
	w.bool("redacted", f.Redacted)
	w.str("reference_link", f.ReferenceLink)
	if r.Replayed {
		w.bool("replayed", true)
	}
	w.str("revision", r.Revision)
	w.str("severity", f.Severity.String())
	if f.StartTime.IsZero() {
		w.str("start_time_raw", f.StartTimeText)
	}
	w.kept("suggest_solution", f.SuggestSolution, f.keptSolution)
	w.kept("threat_description", f.ThreatDesc, f.keptDesc)
	if len(f.Truncated) > 0 {
		w.bool("truncated", true)
		w.strs("truncated_fields", f.Truncated)
	}
	w.str("virus_name", f.VirusName)
	w.strs("virus_tags", f.VirusTags)
	w.str("wan_ip", f.WanIP)
	w.close(cwp)
	w.close(vendor)
}

func ecsMachine(w *writer, f *Finding) {
	machine := w.open("machine")
	w.str("host_name", f.OSHostName)
	w.str("instance_id", f.InstanceID)
	w.str("network_name", f.NetworkName)
	network := w.open("network_type")
	w.num("code", f.NetworkType)
	w.str("name", networkTypeName(f.NetworkType))
	w.close(network)
	w.str("private_ip", f.PrivateIP)
	w.str("wan_ip", f.ExtraWanIP)
	w.close(machine)
}

// appendThreat appends the techniques as ECS wants them, in parallel lists; none
// are nothing.
func appendThreat(dst []byte, techniques []Technique) []byte {
	if len(techniques) == 0 {
		return dst
	}
	w := &writer{append(dst, '{')}
	var tactics []Tactic
	for _, t := range techniques {
		for _, tactic := range t.Tactics {
			if !slices.Contains(tactics, tactic) {
				tactics = append(tactics, tactic)
			}
		}
	}
	w.str("framework", "MITRE ATT&CK")
	tactic := w.open("tactic")
	list(w, "id", tactics, func(t Tactic) string { return t.ID })
	list(w, "name", tactics, func(t Tactic) string { return t.Name })
	list(w, "reference", tactics, Tactic.Reference)
	w.close(tactic)

	technique := w.open("technique")
	list(w, "id", techniques, func(t Technique) string { return t.ID })
	list(w, "name", techniques, func(t Technique) string { return t.Name })
	list(w, "reference", techniques, Technique.Reference)
	sub := w.open("subtechnique")
	list(w, "id", techniques, func(t Technique) string { return t.SubID })
	list(w, "name", techniques, func(t Technique) string { return t.SubName })
	list(w, "reference", techniques, Technique.SubReference)
	w.close(sub)
	w.close(technique)
	return append(w.b, '}')
}

// list writes what text gives of each item; items that give nothing are left
// out, and so is an empty list.
func list[T any](w *writer, key string, items []T, text func(T) string) {
	begun := false
	for _, item := range items {
		s := text(item)
		if s == "" {
			continue
		}
		if !begun {
			w.key(key)
			w.b = append(w.b, '[')
			begun = true
		}
		w.comma()
		w.b = appendString(w.b, s)
	}
	if begun {
		w.b = append(w.b, ']')
	}
}
