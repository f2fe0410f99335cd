package format

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// kindRiskProcess is the kind of DescribeRiskProcessEvents.
const kindRiskProcess = "risk_process"

// readRiskProcess reads a RiskProcessEvent. A field of another type than the
// vendor documents is read as far as its place allows and never fails the
// record.
func (f *Finding) readRiskProcess(x *Rules, raw string) {
	f.mapped = true
	members(raw, func(key, value string) {
		switch key {
		case "CheckPlatform":
			list := x.tables.listOf(value)
			f.CheckPlatform, f.Engines = list.texts, list.names
			f.noteCut(key, list.long)
		case "CmdLine":
			f.readCmdLine(x, value)
		case "DetectTime":
			f.DetectTimeText = f.text(key, value)
		case "ExeMd5":
			f.ExeMD5 = md5Of(textOf(value))
		case "FilePath":
			f.FilePath = f.text(key, value)
		case "FirstDetectionMethod":
			f.FirstDetectionMethod = intOf(value)
		case "HostIp":
			f.HostIP = f.text(key, value)
		case "HostName":
			f.HostName = f.text(key, value)
		case "MachineExtraInfo":
			f.readMachine(value)
		case "OnlineStatus":
			f.OnlineStatus = intOf(value)
		case "ProcessId":
			f.ProcessIDText = f.text(key, value)
			f.ProcessID = intOf(value)
			f.ProcessID.Valid = f.ProcessID.Valid && f.ProcessID.Value >= 0
		case "QUUID":
			f.QUUID = f.text(key, value)
		case "ReferenceLink":
			f.ReferenceLink = f.text(key, value)
		case "StartTime":
			f.StartTimeText = f.text(key, value)
		case "SuggestSolution":
			f.SuggestSolution, f.keptSolution = f.keptText(x, key, value)
		case "ThreatDesc":
			f.ThreatDesc, f.keptDesc = f.keptText(x, key, value)
		case "Uuid":
			f.UUID = f.text(key, value)
		case "VirusName":
			f.VirusName = f.text(key, value)
		case "VirusTags":
			list := x.tables.listOf(value)
			f.VirusTags = list.texts
			f.noteCut(key, list.long)
		case "WanIp":
			f.WanIP = f.text(key, value)
		}
	})
}

// readMachine reads MachineExtraInfo, whose capitals differ from those of the
// event itself.
func (f *Finding) readMachine(raw string) {
	members(raw, func(key, value string) {
		switch key {
		case "HostName":
			f.OSHostName = f.text("MachineExtraInfo.HostName", value)
		case "InstanceID":
			f.InstanceID = f.text("MachineExtraInfo.InstanceID", value)
		case "NetworkName":
			f.NetworkName = f.text("MachineExtraInfo.NetworkName", value)
		case "NetworkType":
			f.NetworkType = intOf(value)
		case "PrivateIP":
			f.PrivateIP = f.text("MachineExtraInfo.PrivateIP", value)
		case "WanIP":
			f.ExtraWanIP = f.text("MachineExtraInfo.WanIP", value)
		}
	})
}

// readCmdLine masks secrets before it cuts: half a secret would not be
// recognised.
func (f *Finding) readCmdLine(x *Rules, value string) {
	s, long := cut(wordsOf(value), maxRedacted)
	s, f.Redacted = x.redactor.apply(s)
	s, longer := cut(strings.TrimSpace(s), maxCmdLine)
	f.CmdLine = s
	f.noteCut("CmdLine", long || longer)
}

// text reads a string and caps it.
func (f *Finding) text(name, value string) string {
	s, long := cut(textOf(value), maxText)
	f.noteCut(name, long)
	return s
}

// keptText reads a string that many findings have, and caps it.
func (f *Finding) keptText(x *Rules, name, value string) (string, *keptText) {
	kept := x.tables.textOf(value)
	if kept == nil {
		return f.text(name, value), nil
	}
	f.noteCut(name, kept.long)
	return kept.text, kept
}

// noteCut records the name of a field that was cut, once.
func (f *Finding) noteCut(name string, long bool) {
	if n := len(f.Truncated); long && (n == 0 || f.Truncated[n-1] != name) {
		f.Truncated = append(f.Truncated, name)
	}
}

// engineNames names the engines of CheckPlatform.
func engineNames(codes []string) []string {
	if len(codes) == 0 {
		return nil
	}
	names := make([]string, len(codes))
	for i, code := range codes {
		switch code {
		case "1":
			names[i] = "Cloud search engine"
		case "2":
			names[i] = "TAV"
		case "3":
			names[i] = "BinaryAI"
		case "4":
			names[i] = "Abnormal behavior"
		case "5":
			names[i] = "Threat intelligence"
		default:
			names[i] = code
		}
	}
	return names
}

// networkTypeName names the values that the vendor documents.
func networkTypeName(n Int) string {
	switch {
	case !n.Valid:
		return ""
	case n.Value == 1:
		return "vpc"
	case n.Value == 2:
		return "basic_network"
	case n.Value == 3:
		return "non_tencent_cloud"
	default:
		return ""
	}
}

// EntityID identifies the process over all its events: the first 32 hex digits
// of SHA-256(agent LF process id LF start time), as the vendor wrote them, with
// the instance's id where the agent has none. It is empty when host or process
// id are missing: then two processes could share it.
func (f *Finding) EntityID() string {
	host := f.UUID
	if host == "" {
		host = f.InstanceID
	}
	if host == "" || f.ProcessIDText == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(host + "\n" + f.ProcessIDText + "\n" + f.StartTimeText))
	return hex.EncodeToString(sum[:16])
}
