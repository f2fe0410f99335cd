package emulator

import (
	"encoding/json"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// show gives the row as answers bear it. What is shown is remembered as true.
func (w *World) show(r *row) Row {
	if r.json == nil {
		r.json = r.render()
	}
	if r.now.hash == 0 {
		r.now.hash = w.hash(r.json)
	}
	return Row{ID: r.id, Status: r.now.status, Start: shownTime(r.start), Detect: shownTime(r.now.detect), Raw: r.json}
}

// render writes the present version of r, in the order of the vendor's own
// example.
func (r *row) render() []byte {
	if r.members != nil {
		return r.renderMembers()
	}
	b := make([]byte, 0, 1800)
	b = append(b, `{"EventId":`...)
	b = append(b, r.id...)
	if r.form == nulls {
		return r.renderNulls(b)
	}
	b = append(b, ',')
	b = append(b, r.host.head...)
	b = append(b, `"ProcessId":`...)
	b = strconv.AppendInt(b, r.pid, 10)
	b = append(b, `,"FilePath":`...)
	b = appendText(b, r.path)
	b = append(b, `,"CmdLine":`...)
	b = appendText(b, r.command)
	b = appendTime(append(b, `,"StartTime":`...), r.start)
	b = appendTime(append(b, `,"DetectTime":`...), r.now.detect)
	b = append(b, ',')
	b = append(b, r.threat.members...)
	b = append(b, `"HandleStatus":`...)
	b = append(b, r.now.status...)
	b = append(b, `,"OnlineStatus":`...)
	b = append(b, digit(!r.offline))
	b = append(b, ',')
	b = append(b, r.host.tail...)
	b = append(b, `,"FirstDetectionMethod":`...)
	b = append(b, digit(!r.manual))
	b = append(b, `,"QUUID":`...)
	b = appendText(b, r.host.quuid)
	b = append(b, `,"ExeMd5":`...)
	b = appendText(b, r.md5)
	if r.form == extra {
		b = append(b, `,"RiskScore":87.5,"AttackStage":{"TacticId":"TA0002","Techniques":["T1059"]},"ContainerId":null,"Serial":18446744073709551615`...)
	}
	b = append(b, '}')
	if r.form == escaped {
		b = escapeAll(b)
	}
	return b
}

// renderNulls writes an event of which little is known: the API's record has
// null for every member but the id, the times and the status.
func (r *row) renderNulls(b []byte) []byte {
	b = append(b, `,"HostName":null,"HostIp":null,"WanIp":null,"ProcessId":null,"FilePath":`...)
	b = appendText(b, r.path)
	b = append(b, `,"CmdLine":null`...)
	b = appendTime(append(b, `,"StartTime":`...), r.start)
	b = appendTime(append(b, `,"DetectTime":`...), r.now.detect)
	b = append(b, `,"VirusName":`...)
	b = appendText(b, r.threat.name)
	b = append(b, `,"CheckPlatform":null,"VirusTags":null,"ThreatDesc":null,"SuggestSolution":null,"ReferenceLink":null,"HandleStatus":`...)
	b = append(b, r.now.status...)
	b = append(b, `,"OnlineStatus":`...)
	b = append(b, digit(!r.offline))
	return append(b, `,"MachineExtraInfo":null,"Uuid":null}`...)
}

// renderMembers writes a changed event that was inserted as JSON.
func (r *row) renderMembers() []byte {
	b, err := json.Marshal(r.members)
	if err != nil {
		panic(err) // every value was read from JSON or written by this package
	}
	return b
}

func digit(yes bool) byte {
	if yes {
		return '1'
	}
	return '0'
}

func appendTime(b []byte, text string) []byte {
	switch text {
	case Null:
		return append(b, "null"...)
	case Blank:
		return append(b, `""`...)
	default:
		return appendText(b, text)
	}
}

const hexDigits = "0123456789abcdef"

// appendText writes a JSON string as the vendor does: without the HTML
// escaping of encoding/json, other scripts as they are.
func appendText(b []byte, s string) []byte {
	b = append(b, '"')
	from := 0
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		b = append(b, s[from:i]...)
		from = i + 1
		switch c {
		case '"', '\\':
			b = append(b, '\\', c)
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		case '\t':
			b = append(b, '\\', 't')
		default:
			b = append(b, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(append(b, s[from:]...), '"')
}

// escapeAll replaces everything but ASCII by \u sequences, which may stand
// wherever JSON holds such characters: in strings.
func escapeAll(b []byte) []byte {
	out := make([]byte, 0, 2*len(b))
	for len(b) > 0 {
		c, n := utf8.DecodeRune(b)
		b = b[n:]
		if c < utf8.RuneSelf {
			out = append(out, byte(c))
			continue
		}
		for _, u := range utf16.AppendRune(nil, c) {
			out = append(out, '\\', 'u', hexDigits[u>>12], hexDigits[u>>8&15], hexDigits[u>>4&15], hexDigits[u&15])
		}
	}
	return out
}
