package syslog

import (
	"bytes"
	"encoding/json"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

const (
	bom       = "\xEF\xBB\xBF"
	truncated = "...(truncated)"
)

// A writer makes messages.
type writer struct {
	cfg      Config
	facility int
	host     string
	software string
}

func newWriter(cfg Config) *writer {
	w := &writer{cfg: cfg, facility: slices.Index(facilities(), cfg.Facility), host: cfg.Hostname, software: "cwprelay"}
	if w.host == "" {
		name, _ := os.Hostname()
		w.host = strings.Map(func(r rune) rune {
			if r <= ' ' || r > '~' {
				return -1
			}
			return r
		}, name)
		w.host = w.host[:min(len(w.host), 255)]
	}
	if w.host == "" {
		w.host = "-" // NILVALUE
	}
	return w
}

// severity is the table of the formats: 0 and 1 are never used, they page
// consoles.
func severity(s format.Severity) int {
	switch s {
	case format.Critical:
		return 2
	case format.High:
		return 3
	case format.Medium:
		return 4
	case format.Low:
		return 5
	default:
		return 6
	}
}

// A level is how much a message was shortened. Each includes those before.
type level int

const (
	whole level = iota
	noLongTexts
	command512
	command128
	path255
	noNames
	bare
	levels
)

// append appends a message of at most cfg.MaxMessageBytes.
func (w *writer) append(dst []byte, m *sinks.Message) []byte {
	f := format.Of(m.Record)
	body := oneLine(m.Body)
	short := body
	for l := range levels {
		head := w.head(nil, m, f, l)
		if l == noLongTexts {
			short = shorten(body, 128, len(body))
		}
		msg := body
		if l > whole {
			msg = short
		}
		room := w.cfg.MaxMessageBytes - len(head)
		if l == levels-1 && len(msg) > room {
			msg = shorten(body, 0, room)
		}
		if len(msg) <= room {
			return append(append(dst, head...), msg...)
		}
	}
	return dst // not reached: a bare head is shorter than any cap
}

// head is everything before the MSG.
func (w *writer) head(dst []byte, m *sinks.Message, f *format.Finding, l level) []byte {
	dst = append(dst, '<')
	dst = strconv.AppendInt(dst, int64(w.facility*8+severity(f.Severity)), 10)
	dst = append(dst, '>')
	if w.cfg.Protocol == RFC3164 {
		// No year and no zone: UTC.
		dst = f.EventTime.UTC().AppendFormat(dst, time.Stamp)
		dst = append(append(append(dst, ' '), w.host...), ' ')
		if !bytes.HasPrefix(m.Body, []byte("CEF:")) && !bytes.HasPrefix(m.Body, []byte("LEEF:")) {
			dst = append(append(dst, w.cfg.AppName[:min(len(w.cfg.AppName), 32)]...), ": "...)
		}
		return dst
	}
	dst = append(dst, "1 "...)
	dst = f.EventTime.UTC().AppendFormat(dst, "2006-01-02T15:04:05.000Z")
	for _, part := range []string{w.host, w.cfg.AppName, "-", f.ActionName[:min(len(f.ActionName), 32)]} {
		dst = append(append(dst, ' '), part...)
	}
	dst = append(dst, ` [origin software="`...)
	dst = append(append(dst, w.software...), `"]`...)
	if w.cfg.EnterpriseNumber > 0 {
		dst = w.data(dst, m, f, l)
	}
	dst = append(dst, ' ')
	if w.cfg.BOM && !json.Valid(m.Body) && !bytes.HasPrefix(m.Body, []byte("CEF:")) && !bytes.HasPrefix(m.Body, []byte("LEEF:")) {
		dst = append(dst, bom...)
	}
	return dst
}

// data appends the element of the organisation's own.
func (w *writer) data(dst []byte, m *sinks.Message, f *format.Finding, l level) []byte {
	dst = append(dst, "[cwp@"...)
	dst = strconv.AppendInt(dst, int64(w.cfg.EnterpriseNumber), 10)
	put := func(name, value string) {
		if value != "" {
			dst = append(append(append(dst, ' '), name...), `="`...)
			dst = append(appendValue(dst, value), '"')
		}
	}
	// Visible line breaks, and never longer than a level says.
	line := func(s string, from level, limit int) string {
		s = strings.NewReplacer("\r\n", `\n`, "\n", `\n`, "\r", `\r`).Replace(s)
		if s = format.CleanLine(s, 32<<10); l >= from && len(s) > limit {
			s = cutText(s, limit)
		}
		return s
	}
	names := func(s string) string {
		if l >= noNames {
			return ""
		}
		return line(s, bare, 0)
	}
	put("eventId", m.Record.Key.ID)
	put("findingUid", line(f.UID, bare, 200))
	put("eventUid", m.Record.UID)
	put("sequence", strconv.FormatUint(m.Record.Sequence, 10))
	put("severity", f.Severity.String())
	put("status", m.Record.Status.Symbol)
	put("statusCode", line(m.Record.Status.Code, bare, 20))
	put("category", f.Category)
	put("virusName", line(f.VirusName, bare, 100))
	put("virusTags", names(strings.Join(f.VirusTags, ",")))
	if f.Host != "unknown" {
		put("host", names(f.Host))
	}
	if f.HostAddr.IsValid() {
		put("hostIp", f.HostAddr.String())
	}
	if f.WanAddr.IsValid() {
		put("wanIp", f.WanAddr.String())
	}
	put("instanceId", names(f.InstanceID))
	put("hostUuid", names(f.UUID))
	if l < bare {
		put("pid", line(f.ProcessIDText, bare, 0))
		put("filePath", line(f.FilePath, path255, 255))
		limit := 512
		if l >= command128 {
			limit = 128
		}
		put("cmdLine", line(f.CmdLine, command512, limit))
		put("startTime", stamp(f.StartTime))
		put("detectTime", stamp(f.DetectTime))
		var ids []string
		for _, t := range f.Techniques {
			ids = append(ids, t.MostExact())
		}
		put("technique", strings.Join(ids, ","))
	}
	if l > whole {
		put("truncated", "true")
	}
	return append(dst, ']')
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// appendValue escapes a PARAM-VALUE (RFC 5424 section 6.3.3).
func appendValue(dst []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c == '"' || c == '\\' || c == ']' {
			dst = append(dst, '\\')
		}
		dst = append(dst, s[i])
	}
	return dst
}

// oneLine replaces what would end a frame or a line; formats for people and
// machines have none of it.
func oneLine(body []byte) []byte {
	if !bytes.ContainsAny(body, "\n\r\x00") {
		return body
	}
	return bytes.Map(func(r rune) rune {
		if r == '\n' || r == '\r' || r == 0 {
			return ' '
		}
		return r
	}, body)
}

// cutText cuts between characters and says so.
func cutText(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	if limit <= len(truncated) {
		return ""
	}
	at := limit - len(truncated)
	for at > 0 && !utf8.RuneStart(s[at]) {
		at--
	}
	return s[:at] + truncated
}

// shorten brings a MSG to at most limit bytes. JSON stays JSON: its longest
// texts are cut first, to no less than keep bytes while that helps, then its
// largest members go. CEF and LEEF keep their form in the same way. Other text
// is cut at its end.
func shorten(body []byte, keep, limit int) []byte {
	var doc map[string]any
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if head, list, separator := pairsOf(body); head != "" {
		return shortenPairs(head, list, separator, keep, limit)
	}
	if len(body) == 0 || body[0] != '{' || dec.Decode(&doc) != nil {
		return []byte(cutText(string(body), min(limit, len(body))))
	}
	if keep > 0 {
		cutStrings(doc, keep)
		doc["truncated"] = true
		return marshal(doc)
	}
	doc["truncated"] = true
	for _, most := range []int{128, 32, 8} {
		cutStrings(doc, most)
		if out := marshal(doc); len(out) <= limit {
			return out
		}
	}
	for len(doc) > 1 {
		delete(doc, largest(doc))
		if out := marshal(doc); len(out) <= limit {
			return out
		}
	}
	return []byte("{}")
}

func marshal(v any) []byte {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	_ = enc.Encode(v) // it came from JSON
	return bytes.TrimSuffix(b.Bytes(), []byte("\n"))
}

func cutStrings(v any, most int) {
	switch v := v.(type) {
	case map[string]any:
		for k, inner := range v {
			if s, ok := inner.(string); ok && len(s) > most+len(truncated) {
				v[k] = cutText(s, most+len(truncated))
			} else {
				cutStrings(inner, most)
			}
		}
	case []any:
		for i, inner := range v {
			if s, ok := inner.(string); ok && len(s) > most+len(truncated) {
				v[i] = cutText(s, most+len(truncated))
			} else {
				cutStrings(inner, most)
			}
		}
	}
}

// largest is the member that takes the most room.
func largest(doc map[string]any) string {
	name, size := "", -1
	for k, v := range doc {
		if n := len(marshal(v)); k != "truncated" && (n > size || n == size && k < name) {
			name, size = k, n
		}
	}
	return name
}
