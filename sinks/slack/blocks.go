package slack

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

// Limits of Block Kit, in characters ("Reference: blocks" of Slack's
// documentation); total is what messages are known to be refused above.
const (
	headerMax  = 150
	fieldMax   = 300 // 2000 by the documentation; a message has ten
	commandMax = 2500
	hostsMax   = 10 // of a group
	linesMax   = 15 // of a digest
	grouped    = 30 * time.Second
)

type object = map[string]any

// A post is one message on its way, and the records it tells of.
type post struct {
	records []int // indexes into the batch
	blocks  []object
	text    string // shown in notifications, and where blocks are not
	thread  string // ts of the message that it answers
}

// plan makes the posts of a batch: one digest when it is large, else one for
// each group of the same virus and action within half a minute.
func plan(batch []sinks.Message, digestAbove int, threads bool) []*post {
	if len(batch) > digestAbove {
		return []*post{digest(batch)}
	}
	var groups [][]int
	for i, m := range batch {
		f := format.Of(m.Record)
		joined := false
		for g, members := range groups {
			first := format.Of(batch[members[0]].Record)
			apart := f.EventTime.Sub(first.EventTime).Abs()
			if f.VirusName != "" && f.VirusName == first.VirusName && f.ActionName == first.ActionName && apart <= grouped &&
				(!threads || m.Memo == "" && batch[members[0]].Memo == "") {
				groups[g], joined = append(members, i), true
				break
			}
		}
		if !joined {
			groups = append(groups, []int{i})
		}
	}
	var posts []*post
	for _, members := range groups {
		p := single(batch[members[0]].Record)
		if len(members) > 1 {
			p = group(batch, members)
		}
		p.records = members
		if threads {
			_, p.thread, _ = strings.Cut(batch[members[0]].Memo, ":")
		}
		posts = append(posts, p)
	}
	return posts
}

// single tells of one event.
func single(r *event.Record) *post {
	f := format.Of(r)
	if f.Heartbeat != nil {
		return &post{blocks: []object{{"type": "section", "text": plain(format.CleanLine(f.Message, fieldMax))}}, text: parsed(f.Message)}
	}
	fields := fieldsOf(
		"Severity", f.Severity.String(), "Status", r.Status.Symbol, "Host", f.Host, "IP", strings.Join(f.Addresses, ", "), "Instance", f.InstanceID,
		"Process", processOf(f), "Path", f.FilePath, "Tags", strings.Join(f.VirusTags, ", "), "ATT&CK", techniques(f), "Detected", stamp(f.DetectTime),
	)
	blocks := []object{header(f.Severity.String(), cmp.Or(f.VirusName, "unknown")), {"type": "section", "fields": fields}}
	if f.CmdLine != "" {
		blocks = append(blocks, rich("rich_text_preformatted", object{"type": "text", "text": command(f.CmdLine)}))
	}
	if f.ReferenceURL != "" && len(f.ReferenceURL) <= 2000 {
		blocks = append(blocks, rich("rich_text_section", object{"type": "link", "url": f.ReferenceURL, "text": "Vendor guidance"}))
	}
	blocks = append(blocks, footer(f.ActionName+" · "+f.UID))
	return &post{blocks: blocks, text: parsed(f.Message)}
}

// group tells of the same virus on several hosts.
func group(batch []sinks.Message, members []int) *post {
	first := format.Of(batch[members[0]].Record)
	var hosts []string
	seen := map[string]bool{}
	worst := first
	for _, i := range members {
		f := format.Of(batch[i].Record)
		if f.Severity > worst.Severity {
			worst = f
		}
		name := f.Host
		if len(f.Addresses) > 0 && name != f.Addresses[0] {
			name += " (" + f.Addresses[0] + ")"
		}
		if !seen[name] {
			seen[name] = true
			hosts = append(hosts, format.CleanLine(name, 150))
		}
	}
	count := len(hosts)
	if count > hostsMax {
		hosts = append(hosts[:hostsMax], fmt.Sprintf("and %d more", count-hostsMax))
	}
	summary := amount(len(members), "event") + " on " + amount(count, "host")
	return &post{
		blocks: []object{
			header(worst.Severity.String(), cmp.Or(first.VirusName, "unknown")),
			{"type": "section", "fields": fieldsOf(
				"Severity", worst.Severity.String(), "Status", batch[members[0]].Record.Status.Symbol, "Events", fmt.Sprint(len(members)), "Hosts", fmt.Sprint(count),
				"Tags", strings.Join(first.VirusTags, ", "), "ATT&CK", techniques(first), "First", stamp(first.EventTime),
			)},
			rich("rich_text_preformatted", object{"type": "text", "text": strings.Join(hosts, "\n")}),
			footer(first.ActionName + " · " + summary),
		},
		text: parsed("Tencent CWP: " + cmp.Or(format.CleanLine(first.VirusName, 200), "process") + " " + first.Verb + ": " + summary),
	}
}

// digest tells of a batch by counts.
func digest(batch []sinks.Message) *post {
	type line struct {
		severity format.Severity
		text     string
		n        int
	}
	var lines []*line
	known := map[string]*line{}
	p := &post{}
	worst := format.Severity(0)
	hosts := map[string]bool{}
	for i := range batch {
		f := format.Of(batch[i].Record)
		p.records = append(p.records, i)
		hosts[f.Host] = true
		worst = max(worst, f.Severity)
		key := f.Severity.String() + "  " + format.CleanLine(cmp.Or(f.VirusName, "unknown"), 100) + "  " + f.Verb
		if known[key] == nil {
			known[key] = &line{severity: f.Severity, text: key}
			lines = append(lines, known[key])
		}
		known[key].n++
	}
	var shown []string
	for s := format.Critical; s >= format.Informational; s-- {
		for _, l := range lines {
			if l.severity == s {
				shown = append(shown, fmt.Sprintf("%4d × %s", l.n, l.text))
			}
		}
	}
	if more := len(shown) - linesMax; more > 0 {
		shown = append(shown[:linesMax], fmt.Sprintf("and %d further kinds", more))
	}
	summary := amount(len(batch), "event") + " on " + amount(len(hosts), "host")
	p.blocks = []object{
		header(worst.String(), summary),
		rich("rich_text_preformatted", object{"type": "text", "text": strings.Join(shown, "\n")}),
		footer("digest: more was waiting than Slack takes one by one; the other sinks have every event"),
	}
	p.text = parsed("Tencent CWP: " + summary)
	return p
}

func header(severity, text string) object {
	return object{"type": "header", "text": plain(runes("["+strings.ToUpper(severity)+"] "+format.CleanLine(text, 4*headerMax), headerMax))}
}

func footer(text string) object {
	return object{"type": "context", "elements": []object{plain(format.CleanLine("Tencent CWP · "+text, fieldMax))}}
}

// rich is text that Slack does not parse.
func rich(kind string, element object) object {
	return object{"type": "rich_text", "elements": []object{{"type": kind, "elements": []object{element}}}}
}

// plain is text that Slack does not parse either.
func plain(text string) object {
	return object{"type": "plain_text", "text": text, "emoji": false}
}

// fieldsOf are names and values in turn; those without a value are left out.
func fieldsOf(pairs ...string) []object {
	var out []object
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			out = append(out, plain(pairs[i]+"\n"+format.CleanLine(pairs[i+1], fieldMax)))
		}
	}
	return out
}

func processOf(f *format.Finding) string {
	if f.FileName == "" {
		return ""
	}
	if f.ProcessIDText == "" {
		return f.FileName
	}
	return f.FileName + " (pid " + f.ProcessIDText + ")"
}

func techniques(f *format.Finding) string {
	var ids []string
	for _, t := range f.Techniques {
		ids = append(ids, t.MostExact())
	}
	return strings.Join(ids, ", ")
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format("2006-01-02T15:04:05.000Z")
}

// command keeps the lines of a command, each cleaned.
func command(text string) string {
	var lines []string
	for l := range strings.SplitSeq(strings.ReplaceAll(text, "\r\n", "\n"), "\n") {
		lines = append(lines, format.CleanLine(l, commandMax))
	}
	return runes(strings.Join(lines, "\n"), commandMax)
}

// runes cuts to so many characters.
func runes(s string, limit int) string {
	if utf8.RuneCountInString(s) <= limit {
		return s
	}
	return string([]rune(s)[:limit-1]) + "…"
}

// parsed is text for the one place that Slack parses.
func parsed(text string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(format.CleanLine(text, 1000))
}

// amount counts things in words.
func amount(n int, thing string) string {
	if n != 1 {
		thing += "s"
	}
	return strconv.Itoa(n) + " " + thing
}
