package format

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A Finding is what a record says: the vendor's fields in Go types, and what is
// derived from them. It is read once for whatever looks at the same record:
// the journal hands sinks that read side by side the same record, so the
// vendor's JSON is read once whatever their number. It is shared between
// goroutines; nobody changes it.
//
// Strings are valid UTF-8 and at most 8 KiB long (CmdLine 32 KiB); empty means
// null, missing or empty. They are what the vendor sent, so they may hold
// line breaks, controls and mark-up: each format cleans or escapes them.
type Finding struct {
	UID     string // finding_uid: the same over the life of the event
	Account string // the vendor's account id; empty where the source has none

	ActionName string // "risk-process-killed": what happened, of a fixed list for each kind
	Verb       string // the same in words, to follow "process": "killed", "detected again"
	Alert      bool   // somebody should look: detected, detected again or reopened, and open
	Open       bool   // the handling status is open
	Closed     bool   // the handling status is closed; the opposite of Open
	mapped     bool   // the kind has a mapping

	EventTime  time.Time // when it happened: DetectTime where a detection is reported, else the time of observation
	DetectTime time.Time // of the last detection; zero when there is none that can be read
	StartTime  time.Time // of the process; zero when there is none that can be read

	Severity           Severity // informational for findings that are trusted or ignored, else ThreatSeverity
	ThreatSeverity     Severity // how bad the threat is, whatever became of it
	SeverityRule       string   // what decided Severity: "status:ignored", or ThreatSeverityRule
	ThreatSeverityRule string   // "format.severity[0]" of the configuration, "category:miner", or "default" when nothing is known of the threat
	ThreatMatch        string   // the tag or part of the virus name that led to the category
	Category           string   // of data/threat-categories.json; "unknown"
	Techniques         []Technique

	Host    string // the best name of the affected host: of its system, of the console, an address or an id; "unknown"
	Message string // one cleaned line without command line and path: "Tencent CWP: X process detected on Y"

	VirusName       string
	VirusTags       []string
	CheckPlatform   []string // codes of the engines that detected it
	Engines         []string // their names; the code where there is none
	ThreatDesc      string
	SuggestSolution string
	ReferenceLink   string // as the vendor sent it, perhaps no link at all
	ReferenceURL    string // ReferenceLink if it is an absolute http or https URL

	ProcessID Int    // never negative
	FilePath  string // of the executable
	FileName  string // the last part of FilePath
	OSType    string // "linux" or "windows", as FilePath tells; else empty
	CmdLine   string // secrets masked, trimmed
	Redacted  bool   // something in CmdLine was masked
	ExeMD5    string // in lower case; empty for what is no MD5

	HostName    string     // name of the machine in the vendor's console
	OSHostName  string     // name that the machine's system has
	HostIP      string     // as the vendor sent it, perhaps masked: "10.***.***.248"
	WanIP       string     // likewise
	PrivateIP   string     // likewise, from MachineExtraInfo
	ExtraWanIP  string     // likewise, from MachineExtraInfo
	HostAddr    netip.Addr // HostIP, or PrivateIP, whichever is an address; else not valid
	WanAddr     netip.Addr // WanIP, or ExtraWanIP, likewise
	Addresses   []string   // all addresses of the host, each once, in canonical form
	UUID        string     // of the vendor's agent on the host; perhaps masked
	QUUID       string     // of the instance
	InstanceID  string
	NetworkName string
	NetworkType Int // 1 VPC, 2 basic network, 3 not Tencent Cloud; 0 occurs

	OnlineStatus         Int
	FirstDetectionMethod Int

	DetectTimeText string // DetectTime as the vendor sent it
	StartTimeText  string // StartTime as the vendor sent it, which is part of the process's identity
	ProcessIDText  string // likewise

	Truncated []string // the vendor's names of the fields that were cut

	Heartbeat *Heartbeat // what a heartbeat says; nil for every finding

	keptDesc, keptSolution *keptText // of ThreatDesc and SuggestSolution; may be nil

	addresses      [mostAddresses]string // memory of Addresses
	zone           *time.Location        // of the vendor's wall times; nil where the record names one that does not exist
	threat         string                // of ATT&CK, in ECS; may be empty
	classification caption               // of the malware, in OCSF
}

// mostAddresses is in how many fields an address can stand.
const mostAddresses = 4

// Of returns the reading of a record: the one that Rules.Read made, else one by
// the built-in rules. It always succeeds: what cannot be read is missing. For a
// kind without a mapping it gives what the record itself tells.
func Of(r *event.Record) *Finding { return shared().Read(r) }

// readAction derives the names of what happened.
func (f *Finding) readAction(x *Rules, r *event.Record) {
	name := string(r.Action)
	switch r.Action {
	case event.Redetected:
		f.Verb = "detected again"
	case event.StatusChanged:
		f.Verb = "status changed"
	case event.Closed:
		name = closedName(r.Status.Symbol)
		f.Verb = name
	default:
		f.Verb = name
	}
	if f.ActionName = x.tables.actions[name]; r.Key.Kind != kindRiskProcess || f.ActionName == "" {
		f.ActionName = strings.ReplaceAll(r.Key.Kind, "_", "-") + "-" + name
	}
	switch r.Action {
	case event.Detected, event.Redetected, event.Reopened:
		f.Alert = f.Open
	default:
	}
}

// closedName says how an event was closed, by the symbol of its status.
func closedName(symbol string) string {
	switch symbol {
	case "scanned":
		return "killed"
	case "exited", "processed", "trusted", "ignored":
		return symbol
	default:
		return string(event.Closed)
	}
}

// readTimes reads the vendor's wall times and chooses the time of the event.
// The vendor gives no time of a change of status.
func (f *Finding) readTimes(x *Rules, r *event.Record) {
	loc := x.tables.zone(r.Zone)
	f.zone = loc
	f.DetectTime = timeOf(f.DetectTimeText, loc)
	f.StartTime = timeOf(f.StartTimeText, loc)
	detected := r.Action == event.Detected || r.Action == event.Redetected
	if detected && !f.DetectTime.IsZero() {
		f.EventTime = f.DetectTime
	}
}

// timeOf reads a time of the vendor's, as UTC. Nothing is guessed: without a
// known zone wall times cannot be read. Years that RFC 3339 cannot write are
// not read either.
func timeOf(text string, loc *time.Location) time.Time {
	if text == "" {
		return time.Time{}
	}
	if loc == nil {
		if len(strings.TrimSpace(text)) == len(event.WallLayout) {
			return time.Time{}
		}
		loc = time.UTC
	}
	t, ok := event.ParseTime(text, loc)
	t = t.UTC()
	if !ok || t.Year() < 1 || t.Year() > 9999 {
		return time.Time{}
	}
	return t
}

// rate derives severity, category and techniques.
func (f *Finding) rate(x *Rules, r *event.Record) {
	v := x.tables.classify(f.VirusName, f.VirusTags)
	f.Category, f.Techniques, f.threat, f.classification = v.category, v.techniques, v.threat, v.classification
	f.ThreatSeverity, f.ThreatSeverityRule, f.ThreatMatch = v.severity, v.rule, v.match
	if o := x.override(f); o != nil {
		f.ThreatSeverity, f.ThreatSeverityRule = o.severity, o.rule
	}
	f.Severity, f.SeverityRule = f.ThreatSeverity, f.ThreatSeverityRule
	switch r.Status.Symbol {
	case "trusted", "ignored":
		f.Severity, f.SeverityRule = Informational, "status:"+r.Status.Symbol
	}
}

// host returns the best name of the host that there is.
func (f *Finding) host() string {
	for _, name := range []string{f.OSHostName, f.HostName} {
		if name = strings.TrimSpace(name); name != "" {
			return name
		}
	}
	if f.HostAddr.IsValid() {
		return f.HostAddr.String()
	}
	for _, id := range []string{f.InstanceID, f.UUID, f.QUUID, f.HostIP} {
		if id != "" {
			return id
		}
	}
	return unknown
}

// unknown stands for what a destination requires and the record does not tell.
const unknown = "unknown"

func (f *Finding) message() string {
	what := "risk"
	if f.VirusName != "" {
		what = cleanLine(f.VirusName)
	}
	return "Tencent CWP: " + what + " process " + f.Verb + " on " + cleanLine(f.Host)
}

// readAddresses reads the addresses that the texts are. Of the host's own, and
// of those that others see, the first counts.
func (f *Finding) readAddresses() {
	texts := [mostAddresses]string{f.HostIP, f.PrivateIP, f.WanIP, f.ExtraWanIP}
	var found [len(texts)]netip.Addr
	n := 0
	for i, text := range texts {
		switch {
		case text == "":
			continue
		case i >= 2 && i%2 == 1 && text == texts[2], i == 1 && text == texts[0]: // it is mostly told twice
			found[i] = found[i&2]
			continue
		}
		a := addressOf(text)
		if found[i] = a; !a.IsValid() || slices.Contains(found[:i], a) {
			continue
		}
		// Digits and dots are canonical as they are: leading zeros are not taken.
		if !isDotted(text) {
			text = a.String()
		}
		f.addresses[n] = text
		n++
	}
	if n > 0 {
		f.Addresses = f.addresses[:n:n]
	}
	f.HostAddr = firstValid(found[0], found[1])
	f.WanAddr = firstValid(found[2], found[3])
}

// isDotted reports whether text is digits and dots.
func isDotted(text string) bool {
	for i := range len(text) {
		if c := text[i]; c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

func firstValid(a, b netip.Addr) netip.Addr {
	if a.IsValid() {
		return a
	}
	return b
}
