package syslog

import (
	"bytes"
	"cmp"
	"regexp"
	"slices"
	"strings"
)

// A pair is a key of CEF or LEEF and its value as it stands in the message.
type pair struct{ key, value string }

// longText are the keys of the vendor's description, which goes first.
func longText(key string) bool { return key == "reason" || key == "threatDesc" }

// identity are the keys that stay whatever the cap is: without them a message
// says nothing.
func identity(key string) bool {
	return slices.Contains([]string{"externalId", "cs6", "cs6Label", "act", "cat", "rt", "eventId", "findingUid", "devTime", "sev", "action"}, key)
}

// pairsOf takes a message in CEF or LEEF apart; head is empty for any other.
func pairsOf(body []byte) (head string, list []pair, separator string) {
	text := string(body)
	bars := 0
	switch {
	case strings.HasPrefix(text, "CEF:"):
		bars, separator = 7, " "
	case strings.HasPrefix(text, "LEEF:1.0|"):
		bars, separator = 5, "\t"
	case strings.HasPrefix(text, "LEEF:"):
		bars, separator = 6, "\t"
	default:
		return "", nil, ""
	}
	at := 0
	for range bars {
		next := strings.IndexByte(text[at:], '|')
		if next < 0 {
			return "", nil, ""
		}
		at += next + 1
	}
	head, rest := text[:at], text[at:]
	if separator == "\t" {
		for part := range strings.SplitSeq(rest, "\t") {
			key, value, _ := strings.Cut(part, "=")
			list = append(list, pair{key, value})
		}
		return head, list, separator
	}
	// Values hold no = without a backslash before it.
	starts := regexp.MustCompile(`(?:^| )([A-Za-z0-9]+)=`).FindAllStringSubmatchIndex(rest, -1)
	for i, s := range starts {
		end := len(rest)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		}
		list = append(list, pair{rest[s[2]:s[3]], rest[s[1]:end]})
	}
	return head, list, separator
}

// shortenPairs brings a message to at most limit bytes: the description goes,
// then the longest values are cut, then the largest pairs go. With keep, no
// value becomes shorter than that.
func shortenPairs(head string, list []pair, separator string, keep, limit int) []byte {
	list = slices.DeleteFunc(slices.Clone(list), func(p pair) bool { return longText(p.key) })
	steps := []int{512, 255, 128}
	if keep == 0 {
		steps = append(steps, 64, 32)
	}
	for _, most := range steps {
		if sizeOf(head, list) <= limit {
			break
		}
		for i, p := range list {
			if len(p.value) > most && !identity(p.key) {
				list[i].value = cutEscaped(p.value, most)
			}
		}
	}
	for keep == 0 && sizeOf(head, list) > limit {
		order := slices.MaxFunc(list, func(a, b pair) int {
			return cmp.Or(cmp.Compare(removable(a), removable(b)), cmp.Compare(a.key, b.key))
		})
		if removable(order) == 0 {
			break
		}
		list = slices.DeleteFunc(list, func(p pair) bool { return p.key == order.key || p.key == order.key+"Label" })
	}
	var b bytes.Buffer
	b.WriteString(head)
	for i, p := range list {
		if i > 0 {
			b.WriteString(separator)
		}
		b.WriteString(p.key + "=" + p.value)
	}
	if keep == 0 && b.Len() > limit { // a cap below what identifies a record
		return []byte(cutEscaped(b.String(), limit))
	}
	return b.Bytes()
}

// removable is how many bytes a pair gives; a label goes with its key.
func removable(p pair) int {
	if identity(p.key) || strings.HasSuffix(p.key, "Label") {
		return 0
	}
	return len(p.key) + len(p.value) + 2
}

func sizeOf(head string, list []pair) int {
	n := len(head)
	for _, p := range list {
		n += len(p.key) + len(p.value) + 2
	}
	return n
}

// cutEscaped cuts as cutText does, and not within an escape.
func cutEscaped(s string, limit int) string {
	short, cut := strings.CutSuffix(cutText(s, limit), truncated)
	if !cut {
		return short
	}
	if slashes := len(short) - len(strings.TrimRight(short, `\`)); slashes%2 == 1 {
		short = short[:len(short)-1]
	}
	return short + truncated
}
