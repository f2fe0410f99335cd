package format

import (
	"net/netip"
	"net/url"
	"strings"
	"unicode/utf8"
)

// Caps on strings when a record is encoded. What is cut is named in
// Finding.Truncated.
const (
	maxCmdLine = 32 << 10
	maxText    = 8 << 10
)

// cut shortens s to at most limit bytes, between characters, and reports
// whether it had to.
func cut(s string, limit int) (string, bool) {
	if len(s) <= limit {
		return s, false
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit], true
}

// cleanLine makes untrusted text safe to show on one line: line breaks and
// tabs become spaces; other controls and the characters that change the
// direction of text or cannot be seen become visible escapes.
func cleanLine(s string) string {
	if isPrintable(s) || !strings.ContainsFunc(s, unclean) {
		return s
	}
	return string(appendClean(nil, s, false))
}

// isPrintable reports whether s is printable ASCII.
func isPrintable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}

// appendClean appends s as cleanLine does. With breaks, CR LF and LF become
// LF, and a CR alone stays, for the caller to write them as its format does.
func appendClean(dst []byte, s string, breaks bool) []byte {
	const hex = "0123456789abcdef"
	start := 0
	for i, r := range s {
		if !unclean(r) && r != utf8.RuneError {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + utf8.RuneLen(r)
		switch {
		case r == utf8.RuneError: // as it is, or what is no UTF-8
			_, width := utf8.DecodeRuneInString(s[i:])
			dst, start = append(dst, "\uFFFD"...), i+width
		case r == '\r' && strings.HasPrefix(s[start:], "\n"): // the LF counts
		case breaks && (r == '\n' || r == '\r'):
			dst = append(dst, byte(r))
		case r == '\n' || r == '\r' || r == '\t' || r == '\u0085' || r == '\u2028' || r == '\u2029':
			dst = append(dst, ' ')
		case r < 0x100:
			dst = append(dst, '\\', 'x', hex[r>>4], hex[r&0xF])
		default:
			dst = appendHex4(dst, r)
		}
	}
	return append(dst, s[start:]...)
}

// unclean reports whether a character may not stand in a cleaned line.
func unclean(r rune) bool {
	switch {
	case r < ' ', r >= 0x7F && r < 0xA0: // controls
		return true
	case r >= '\u200E' && r <= '\u200F', r == '\u061C', // marks of direction
		r >= '\u2028' && r <= '\u202E', // separators, embeddings and overrides
		r >= '\u2066' && r <= '\u2069', // isolates
		r == '\uFEFF':
		return true
	default:
		return false
	}
}

// addressOf reads an address that an IP-typed field may hold. Masked addresses
// ("10.***.***.248"), the unspecified one and those with a zone give none.
// An IPv4 address within IPv6 becomes IPv4.
func addressOf(text string) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil || a.IsUnspecified() || a.Zone() != "" {
		return netip.Addr{}
	}
	return a.Unmap()
}

// addressText returns an address as text, nothing for none.
func addressText(a netip.Addr) string {
	if !a.IsValid() {
		return ""
	}
	return a.String()
}

// linkOf returns text if it is an absolute http or https URL, else nothing.
func linkOf(text string) string {
	text = strings.TrimSpace(text)
	if text == "" || isSimpleLink(text) {
		return text
	}
	u, err := url.Parse(text)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return text
}

// isSimpleLink reports whether text is an http or https URL of a host name
// and a path without anything that would have to be looked at closely.
func isSimpleLink(text string) bool {
	rest, ok := strings.CutPrefix(text, "https://")
	if !ok {
		if rest, ok = strings.CutPrefix(text, "http://"); !ok {
			return false
		}
	}
	if rest == "" || !isNameByte(rest[0]) {
		return false
	}
	for i := range len(rest) {
		if c := rest[i]; !isNameByte(c) && c != '/' {
			return false
		}
	}
	return true
}

func isNameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_'
}

// isWindowsPath reports whether a path starts as only Windows' do: with a
// drive and a separator, or with two backslashes.
func isWindowsPath(path string) bool {
	if strings.HasPrefix(path, `\\`) {
		return true
	}
	if len(path) < 3 || path[1] != ':' || path[2] != '\\' && path[2] != '/' {
		return false
	}
	drive := path[0] | 0x20
	return drive >= 'a' && drive <= 'z'
}

// baseName returns what follows the last separator of a path.
func baseName(path string) string {
	if isWindowsPath(path) {
		return path[strings.LastIndexAny(path, `\/`)+1:]
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}

// osType tells the operating system from a path: "windows", "linux" or, where
// the path does not say, nothing.
func osType(path string) string {
	switch {
	case isWindowsPath(path):
		return "windows"
	case strings.HasPrefix(path, "/"):
		return "linux"
	default:
		return ""
	}
}

// md5Of returns an MD5 in lower case, nothing for what is none.
func md5Of(text string) string {
	text = strings.TrimSpace(text)
	if len(text) != 32 {
		return ""
	}
	upper := false
	for i := range len(text) {
		switch c := text[i]; {
		case c >= '0' && c <= '9', c >= 'a' && c <= 'f':
		case c >= 'A' && c <= 'F':
			upper = true
		default:
			return ""
		}
	}
	if upper {
		text = strings.ToLower(text)
	}
	return text
}

// CleanLine makes untrusted text safe to show on one line of at most limit
// bytes: line breaks and tabs become spaces, other controls and characters
// that change the direction of text or cannot be seen become visible escapes.
// What is cut ends with "…".
func CleanLine(s string, limit int) string {
	const ellipsis = "…"
	s = cleanLine(s)
	if len(s) <= limit {
		return s
	}
	s, _ = cut(s, limit-len(ellipsis))
	return s + ellipsis
}
