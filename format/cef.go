package format

import (
	"cmp"
	"math"
	"strconv"
	"strings"

	"github.com/cwprelay/cwprelay/event"
)

// textVersion is the version of the vendor's API, which text formats name as
// the version of the device.
const textVersion = "2018-02-28"

// A cefEncoder writes the Common Event Format of ArcSight (Implementation
// Standard, document 27). Every key is one of the standard's own, of type and
// at most of the length that it allows; longer values end with
// "...(truncated)".
type cefEncoder struct {
	version string // "0" or "1"
	attack  bool   // the keys of CEF 1.2 for a technique are sent
	dialect dialect
	edits   *edits
}

func newCEF(cfg Config, e *edits) Encoder {
	return cefEncoder{
		version: cfg.CEFVersion, attack: cfg.CEFVersion == "1" && !cfg.DisableAttack,
		dialect: dialect{separator: ' ', escapes: true, lineFeed: `\n`, carriage: `\r`, most: 1023},
		edits:   e,
	}.encode
}

func (e cefEncoder) encode(dst []byte, r *event.Record) ([]byte, error) {
	f := Of(r)
	switch {
	case f.Heartbeat != nil:
		return e.heartbeat(dst, f), nil
	case !f.mapped:
		return dst, errNoMapping(CEF, r)
	}
	dst = append(append(append(dst, "CEF:"...), e.version...), "|Tencent Cloud|Cloud Workload Protection|"+textVersion+"|"...)
	dst = append(append(append(dst, r.Key.Kind...), '.'), f.Category...)
	dst = append(append(append(dst, "|Risk process "...), textEvent(r.Action).cef...), '|')
	dst = append(strconv.AppendInt(dst, f.Severity.text(), 10), '|')

	p := &pairs{b: dst, d: &e.dialect, edits: e.edits}
	p.millis("rt", f.EventTime)
	p.millis("start", f.StartTime)
	if len(r.Key.ID) <= 40 { // cs6 has it too
		p.str("externalId", r.Key.ID)
	}
	p.str("act", cefAct(r.Status.Symbol))
	p.str("cat", f.Category)
	p.str("dhost", cmp.Or(strings.TrimSpace(f.OSHostName), f.HostName))
	e.addresses(p, f)
	if f.ProcessID.Valid && f.ProcessID.Value <= math.MaxInt32 {
		p.int("dpid", f.ProcessID.Value)
	}
	p.str("dproc", f.FileName)
	p.str("fname", f.FileName)
	p.str("filePath", f.FilePath)
	p.str("fileHash", f.ExeMD5)
	p.capped("deviceExternalId", f.UUID, 255)
	e.custom(p, "cs1", "VirusName", f.VirusName)
	e.custom(p, "cs2", "DetectionEngine", joined(f.Engines, ", "))
	e.custom(p, "cs3", "CommandLine", f.CmdLine)
	e.custom(p, "cs4", "VirusTags", joined(f.VirusTags, ","))
	e.custom(p, "cs5", "InstanceId", f.InstanceID)
	e.custom(p, "cs6", "FindingUid", f.UID)
	label(p, p.millis("deviceCustomDate1", f.DetectTime), "deviceCustomDate1Label", "LastDetectTime")
	if n := intOf(r.Status.Code); n.Valid {
		label(p, p.int("cn1", n.Value), "cn1Label", "HandleStatus")
	}
	label(p, p.int("cn2", int64(min(r.Sequence, math.MaxInt64))), "cn2Label", "Sequence")
	if e.attack && len(f.Techniques) > 0 {
		p.str("frameworkName", "MITRE ATT&CK")
		p.str("threatAttackID", f.Techniques[0].MostExact())
	}
	p.str("reason", f.ThreatDesc)
	p.str("msg", f.Message)
	return p.changed(), nil
}

// addresses writes the host's addresses. The ordinary keys take IPv4 only.
func (e cefEncoder) addresses(p *pairs, f *Finding) {
	if f.HostAddr.Is4() {
		p.str("dst", f.HostAddr.String())
	} else if f.HostAddr.IsValid() {
		label(p, p.str("c6a3", f.HostAddr.String()), "c6a3Label", "Destination IPv6 Address")
	}
	if f.WanAddr.Is4() {
		p.str("destinationTranslatedAddress", f.WanAddr.String())
	}
}

// custom writes one of the customs strings and what it means.
func (e cefEncoder) custom(p *pairs, key, name, value string) {
	label(p, p.capped(key, value, 4000), key+"Label", name)
}

// label names what a custom key means, if there is one.
func label(p *pairs, there bool, key, name string) {
	if there {
		p.str(key, name)
	}
}

// cefAct says what the vendor did about the process, or what became of it.
func cefAct(symbol string) string {
	switch symbol {
	case "scanning":
		return "killing"
	case "scanned":
		return "killed"
	default:
		return symbol
	}
}

// text returns the severity of CEF and LEEF, of 0 to 10.
func (s Severity) text() int64 {
	switch s {
	case Low:
		return 3
	case Medium:
		return 5
	case High:
		return 8
	case Critical:
		return 10
	default:
		return 1
	}
}

// textNames are what text formats call an action: fixed words, because
// receivers choose their rules by them.
type textNames struct{ cef, leef string }

func textEvent(a event.Action) textNames {
	switch a {
	case event.Redetected:
		return textNames{"detected again", "RiskProcessRedetected"}
	case event.StatusChanged:
		return textNames{"status changed", "RiskProcessStatusChanged"}
	case event.Reopened:
		return textNames{"reopened", "RiskProcessReopened"}
	case event.Closed:
		return textNames{"closed", "RiskProcessClosed"}
	default:
		return textNames{"detected", "RiskProcessDetected"}
	}
}
