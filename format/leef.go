package format

import (
	"cmp"
	"math"
	"strings"

	"github.com/cwprelay/cwprelay/event"
)

// A leefEncoder writes IBM QRadar's Log Event Extended Format, 2.0 or 1.0,
// with a tab between attributes. The format has no escapes and receivers
// unescape nothing: values stand as they are, without tabs, and a line break
// is the two characters \n.
type leefEncoder struct {
	header  string
	end     string // of the header
	attack  bool
	dialect dialect
	edits   *edits
}

func newLEEF(cfg Config, e *edits) Encoder {
	end := "|"
	if cfg.LEEFVersion == "2.0" {
		end = "|x09|"
	}
	return leefEncoder{
		header: "LEEF:" + cfg.LEEFVersion + "|Tencent Cloud|Cloud Workload Protection|" + textVersion + "|", end: end,
		attack:  !cfg.DisableAttack,
		dialect: dialect{separator: '\t', lineFeed: `\n`, carriage: `\n`, most: maxCmdLine},
		edits:   e,
	}.encode
}

func (e leefEncoder) encode(dst []byte, r *event.Record) ([]byte, error) {
	f := Of(r)
	switch {
	case f.Heartbeat != nil:
		return e.heartbeat(dst, f), nil
	case !f.mapped:
		return dst, errNoMapping(LEEF, r)
	}
	dst = append(append(append(dst, e.header...), textEvent(r.Action).leef...), e.end...)

	p := &pairs{b: dst, d: &e.dialect, edits: e.edits}
	p.str("cat", f.Category)
	p.millis("devTime", f.EventTime)
	p.int("sev", f.Severity.text())
	p.str("src", addressText(f.HostAddr))
	p.str("srcPostNAT", addressText(f.WanAddr))
	p.str("resource", cmp.Or(strings.TrimSpace(f.OSHostName), f.HostName))
	p.str("url", f.ReferenceURL)
	p.str("action", f.ActionName)
	p.str("eventId", r.Key.ID)
	p.str("findingUid", f.UID)
	p.int("sequence", int64(min(r.Sequence, math.MaxInt64)))
	p.str("handleStatus", r.Status.Code)
	p.str("handleStatusName", r.Status.Symbol)
	p.str("severityName", f.Severity.String())
	p.str("virusName", f.VirusName)
	p.str("virusTags", joined(f.VirusTags, ","))
	p.str("detectionEngine", joined(f.Engines, ", "))
	if e.attack && len(f.Techniques) > 0 {
		p.str("attackTechnique", techniqueIDs(f.Techniques))
	}
	p.str("hostName", f.HostName)
	p.str("hostUuid", f.UUID)
	p.str("instanceId", f.InstanceID)
	p.str("quuid", f.QUUID)
	if f.ProcessID.Valid {
		p.int("processId", f.ProcessID.Value)
	}
	p.str("processName", f.FileName)
	p.str("filePath", f.FilePath)
	p.str("fileHash", f.ExeMD5)
	p.millis("processStartTime", f.StartTime)
	p.millis("detectTime", f.DetectTime)
	p.str("threatDesc", f.ThreatDesc)
	p.str("commandLine", f.CmdLine)
	return p.changed(), nil
}

// techniqueIDs returns the most exact id of each technique, in one text.
func techniqueIDs(techniques []Technique) string {
	if len(techniques) == 1 {
		return techniques[0].MostExact()
	}
	ids := make([]string, len(techniques))
	for i, t := range techniques {
		ids[i] = t.MostExact()
	}
	return strings.Join(ids, ",")
}
