package format_test

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// A textKey is what a format's standard says of a key.
type textKey struct {
	Type     string `json:"type"`
	Max      int    `json:"max"`
	Audience string `json:"audience"`
	Since    string `json:"since"`
	Reserved bool   `json:"reserved"`
}

// textKeys reads the keys of both formats: CEF's, and with "leef:" before them
// LEEF's.
func textKeys(tb testing.TB) map[string]textKey {
	tb.Helper()
	var cef struct{ Extensions map[string]textKey }
	var leef struct{ Attributes map[string]textKey }
	if err := json.Unmarshal(read(tb, "cef-extensions.json"), &cef); err != nil || len(cef.Extensions) < 100 {
		tb.Fatal(err, len(cef.Extensions))
	}
	if err := json.Unmarshal(read(tb, "leef-attributes.json"), &leef); err != nil || len(leef.Attributes) < 30 {
		tb.Fatal(err, len(leef.Attributes))
	}
	for name, key := range leef.Attributes {
		cef.Extensions["leef:"+name] = key
	}
	return cef.Extensions
}

// readCEF reads a record as the standard says and refuses what it does not
// allow. It is written apart from the encoder, on purpose.
func readCEF(line string) (header []string, pairs map[string]string, err error) {
	var part strings.Builder
	i := 0
	for ; i < len(line) && len(header) < 7; i++ {
		switch {
		case line[i] == '\\' && i+1 < len(line) && (line[i+1] == '|' || line[i+1] == '\\'):
			i++
			part.WriteByte(line[i])
		case line[i] == '\\':
			return nil, nil, fmt.Errorf("wrong escape in the header at %d", i)
		case line[i] == '|':
			header = append(header, part.String())
			part.Reset()
		default:
			part.WriteByte(line[i])
		}
	}
	if len(header) != 7 || header[0] != "CEF:0" && header[0] != "CEF:1" {
		return nil, nil, fmt.Errorf("header %q", header)
	}
	rest := line[i:]
	// A key begins the extension or follows a space, and an = that has no
	// backslash before it ends it.
	starts := regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`).FindAllStringSubmatchIndex(rest, -1)
	pairs = map[string]string{}
	for n, at := range starts {
		end := len(rest)
		if n+1 < len(starts) {
			end = starts[n+1][0]
		}
		key, value := rest[at[2]:at[3]], rest[at[1]:end]
		if _, twice := pairs[key]; twice {
			return nil, nil, fmt.Errorf("%s is there twice", key)
		}
		if pairs[key], err = unescapeCEF(value); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", key, err)
		}
	}
	if len(starts) == 0 || starts[0][0] != 0 {
		return nil, nil, fmt.Errorf("the extension begins with no key: %q", rest)
	}
	return header, pairs, nil
}

func unescapeCEF(s string) (string, error) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '=':
			return "", fmt.Errorf("bare = in %q", s)
		case s[i] != '\\':
			b.WriteByte(s[i])
		case i+1 == len(s):
			return "", fmt.Errorf("half an escape in %q", s)
		default:
			i++
			switch s[i] {
			case '\\', '=':
				b.WriteByte(s[i])
			case 'n':
				b.WriteByte('\n')
			case 'r':
				b.WriteByte('\r')
			default:
				return "", fmt.Errorf("unknown escape in %q", s)
			}
		}
	}
	return b.String(), nil
}

func readLEEF(line string) (header []string, pairs map[string]string, err error) {
	bars := 5
	if strings.HasPrefix(line, "LEEF:2.0|") {
		bars = 6
	}
	header = strings.SplitN(line, "|", bars+1)
	if len(header) != bars+1 || header[0] != "LEEF:2.0" && header[0] != "LEEF:1.0" || bars == 6 && header[5] != "x09" {
		return nil, nil, fmt.Errorf("header %q", header)
	}
	pairs = map[string]string{}
	for part := range strings.SplitSeq(header[bars], "\t") {
		key, value, ok := strings.Cut(part, "=")
		if !ok || key == "" || strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) }) {
			return nil, nil, fmt.Errorf("no attribute: %q", part)
		}
		if _, twice := pairs[key]; twice {
			return nil, nil, fmt.Errorf("%s is there twice", key)
		}
		pairs[key] = value
	}
	return header[:bars], pairs, nil
}

// textMistakes fails the test if a record in a text format breaks its
// standard, or if it does not read back to what it was made of.
func textMistakes(t *testing.T, keys map[string]textKey, name string, r *event.Record, line []byte) {
	t.Helper()
	s := string(line)
	if !utf8.ValidString(s) || strings.ContainsFunc(s, func(c rune) bool { return unicode.IsControl(c) && (c != '\t' || name != format.LEEF) }) ||
		strings.ContainsAny(s, "\u2028\u2029\u202a\u202b\u202d\u202e\u2066\u2067\ufeff") {
		t.Fatalf("%s: unclean line %q", name, s)
	}
	f := format.Of(r)
	if name == format.Text {
		if s != f.Message {
			t.Fatalf("text is %q", s)
		}
		return
	}
	// reads returns what a value of at most limit bytes reads back to.
	reads := func(value string, limit int) string {
		value = strings.TrimSpace(value)
		value = format.Clean(value)
		if name == format.LEEF {
			value = strings.NewReplacer("\n", `\n`, "\r", `\n`).Replace(value)
		} else if len(value) > limit {
			cut := limit - len("...(truncated)")
			for !utf8.RuneStart(value[cut]) {
				cut--
			}
			value = value[:cut] + "...(truncated)"
		}
		return value
	}
	var pairs map[string]string
	var err error
	want := map[string]string{}
	put := func(key, value string, limit int) {
		if v := reads(value, limit); v != "" {
			want[key] = v
		}
	}
	if name == format.CEF {
		_, pairs, err = readCEF(s)
		for key, value := range map[string]string{
			"dproc": f.FileName, "fname": f.FileName, "filePath": f.FilePath, "fileHash": f.ExeMD5, "reason": f.ThreatDesc, "msg": f.Message,
			"cat": f.Category,
		} {
			put(key, value, 1023)
		}
		put("deviceExternalId", f.UUID, 255)
		if len(r.Key.ID) <= 40 {
			put("externalId", r.Key.ID, 40)
		}
		for key, value := range map[string]string{
			"cs1": f.VirusName, "cs2": strings.Join(f.Engines, ", "), "cs3": f.CmdLine, "cs4": strings.Join(f.VirusTags, ","),
			"cs5": f.InstanceID, "cs6": f.UID,
		} {
			put(key, value, 4000)
		}
		if err == nil {
			err = cefMistakes(keys, pairs)
		}
	} else {
		_, pairs, err = readLEEF(s)
		for key, value := range map[string]string{
			"virusName": f.VirusName, "virusTags": strings.Join(f.VirusTags, ","), "detectionEngine": strings.Join(f.Engines, ", "),
			"hostName": f.HostName, "hostUuid": f.UUID, "instanceId": f.InstanceID, "quuid": f.QUUID, "processName": f.FileName,
			"filePath": f.FilePath, "fileHash": f.ExeMD5, "threatDesc": f.ThreatDesc, "commandLine": f.CmdLine, "url": f.ReferenceURL,
			"handleStatus": r.Status.Code, "findingUid": f.UID, "eventId": r.Key.ID,
		} {
			put(key, value, 1<<30)
		}
		if err == nil {
			err = leefMistakes(keys, pairs)
		}
	}
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, s)
	}
	for key, value := range pairs {
		if w, checked := want[key]; checked && w != value {
			t.Fatalf("%s: %s reads back to %q, want %q\n%s", name, key, value, w, s)
		}
	}
	for key := range want {
		if _, ok := pairs[key]; !ok {
			t.Fatalf("%s: %s is missing\n%s", name, key, s)
		}
	}
}

// cefMistakes checks keys and values by the standard's list.
func cefMistakes(keys map[string]textKey, pairs map[string]string) error {
	for name, value := range pairs {
		key, ok := keys[name]
		switch {
		case !ok:
			return fmt.Errorf("unknown key %s", name)
		case key.Audience == "consumer" || key.Since != "0.1" && name != "frameworkName" && name != "threatAttackID":
			return fmt.Errorf("key %s is not for a producer of CEF:0", name)
		case key.Max > 0 && len(value) > key.Max:
			return fmt.Errorf("%s has %d bytes of %d", name, len(value), key.Max)
		case !fits(key.Type, value):
			return fmt.Errorf("%s is no %s: %q", name, key.Type, value)
		case regexp.MustCompile(`^(c[sn]|c6a|deviceCustomDate)\d$`).MatchString(name) && pairs[name+"Label"] == "":
			return fmt.Errorf("%s has no label", name)
		case strings.HasSuffix(name, "Label") && pairs[strings.TrimSuffix(name, "Label")] == "":
			return fmt.Errorf("%s labels nothing", name)
		}
	}
	return nil
}

func leefMistakes(keys map[string]textKey, pairs map[string]string) error {
	own := []string{
		"action", "eventId", "findingUid", "sequence", "handleStatus", "handleStatusName", "severityName", "virusName", "virusTags",
		"detectionEngine", "attackTechnique", "hostName", "hostUuid", "instanceId", "quuid", "processId", "processName", "filePath", "fileHash",
		"processStartTime", "detectTime", "threatDesc", "commandLine",
	}
	for name, value := range pairs {
		key, ok := keys["leef:"+name]
		switch {
		case !ok && !slices.Contains(own, name):
			return fmt.Errorf("unknown key %s", name)
		case key.Reserved:
			return fmt.Errorf("%s is reserved", name)
		case name != "devTime" && !fits(key.Type, value):
			return fmt.Errorf("%s is no %s: %q", name, key.Type, value)
		}
	}
	if n, err := strconv.Atoi(pairs["sev"]); err != nil || n < 1 || n > 10 {
		return fmt.Errorf("sev is %q", pairs["sev"])
	}
	return nil
}

func fits(kind, value string) bool {
	a, notAddress := netip.ParseAddr(value)
	n, notNumber := strconv.ParseInt(value, 10, 64)
	switch kind {
	case "ip_address":
		return notAddress == nil
	case "ipv4_address":
		return notAddress == nil && a.Is4()
	case "ipv6_address":
		return notAddress == nil && a.Is6()
	case "integer":
		return notNumber == nil && n == int64(int32(n))
	case "long":
		return notNumber == nil
	case "timestamp":
		return notNumber == nil && n >= 0
	default:
		return value != ""
	}
}

func TestTextFormatsReadBack(t *testing.T) {
	keys := textKeys(t)
	for _, r := range slices.Concat(variants(t), later(t)) {
		for _, name := range []string{format.CEF, format.LEEF, format.Text} {
			textMistakes(t, keys, name, r, encode(t, name, r))
		}
		one := encodeWith(t, format.CEF, format.Config{CEFVersion: "1"}, r)
		textMistakes(t, keys, format.CEF, r, one)
		if !strings.HasPrefix(string(one), "CEF:1|") || strings.Contains(string(one), "threatAttackID=") != (len(format.Of(r).Techniques) > 0) {
			t.Errorf("CEF:1 is %s", one)
		}
		old := string(encodeWith(t, format.LEEF, format.Config{LEEFVersion: "1.0"}, r))
		textMistakes(t, keys, format.LEEF, r, []byte(old))
		if strings.Replace(old, "LEEF:1.0", "LEEF:2.0", 1) != strings.Replace(string(encode(t, format.LEEF, r)), "|x09|", "|", 1) {
			t.Errorf("LEEF 1.0 is %s", old)
		}
	}
}

// Values longer than their keys allow end with a mark, and never with half an
// escape or half a character.
func TestLongValuesAreCutBetweenEscapes(t *testing.T) {
	keys := textKeys(t)
	for _, unit := range []string{"=", `\`, "\n", "语", "\x1b", "\u202e", "a="} {
		for shift := range 5 {
			long := strings.Repeat("x", shift+1) + strings.Repeat(unit, 5000) + "."
			r := record(t, with(t, map[string]any{"CmdLine": long, "FilePath": "/" + long, "ThreatDesc": long, "Uuid": long}), ordinary())
			line := encode(t, format.CEF, r)
			textMistakes(t, keys, format.CEF, r, line)
			if n := strings.Count(string(line), "...(truncated)"); n != 6 {
				t.Errorf("%q: %d values are marked as cut", unit, n)
			}
			textMistakes(t, keys, format.LEEF, r, encode(t, format.LEEF, r))
		}
	}
}

// The words by which receivers choose their rules are of fixed lists.
func TestNamesOfEventsAreFixed(t *testing.T) {
	names := map[event.Action][2]string{
		event.Detected: {"Risk process detected", "RiskProcessDetected"}, event.Redetected: {"Risk process detected again", "RiskProcessRedetected"},
		event.StatusChanged: {"Risk process status changed", "RiskProcessStatusChanged"},
		event.Reopened:      {"Risk process reopened", "RiskProcessReopened"}, event.Closed: {"Risk process closed", "RiskProcessClosed"},
	}
	for _, r := range later(t) {
		cef, _, err := readCEF(string(encode(t, format.CEF, r)))
		leef, _, err2 := readLEEF(string(encode(t, format.LEEF, r)))
		if err != nil || err2 != nil || cef[5] != names[r.Action][0] || leef[4] != names[r.Action][1] || cef[4] != "risk_process.scanner" {
			t.Errorf("%s: %q, %q, %v, %v", r.Action, cef, leef, err, err2)
		}
	}
}

// The reader of the tests refuses what the standard does.
func TestReadersBite(t *testing.T) {
	keys := textKeys(t)
	const head = "CEF:0|a|b|c|d|e|5|"
	for _, line := range []string{
		"CEF:0|a|b|c|d|e|", `CEF:0|a\x|b|c|d|e|5|act=x`, head + "x act=y", head + "act=a act=b", head + `act=a=b`, head + `act=\x`, head + `act=a\`,
	} {
		if _, pairs, err := readCEF(line); err == nil {
			t.Errorf("%q gave %v", line, pairs)
		}
	}
	for _, pairs := range []map[string]string{
		{"noSuchKey": "x"},
		{"dst": "2001:db8::1"},
		{"dpid": "4294967295"},
		{"rt": "2026-01-01"},
		{"cs1": "x"},
		{"cs1Label": "x"},
		{"fileHash": strings.Repeat("x", 256)},
	} {
		if cefMistakes(keys, pairs) == nil {
			t.Errorf("%v passed", pairs)
		}
	}
	for _, line := range []string{"LEEF:2.0|a|b|c|d|^|x=y", "LEEF:2.0|a|b|c|d|x09|x", "LEEF:2.0|a|b|c|d|x09|x=y\tx=z", "LEEF:2.0|a|b|c|d|x09|=y"} {
		if _, pairs, err := readLEEF(line); err == nil {
			t.Errorf("%q gave %v", line, pairs)
		}
	}
}
