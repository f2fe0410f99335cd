// Package secret holds values that must never be printed: tokens, keys,
// passwords and addresses that contain one.
package secret

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
)

// Mask is what a secret looks like wherever it would be shown.
const Mask = "********"

// A String is a secret. Every way of formatting, logging or encoding it gives
// Mask, or nothing when it is empty; only Reveal gives the value.
type String struct{ value string }

// New makes a secret of value.
func New(value string) String { return String{value: value} }

// Reveal returns the value. It is called where the value goes on the wire,
// nowhere else.
func (s String) Reveal() string { return s.value }

// IsZero reports whether there is no value.
func (s String) IsZero() bool { return s.value == "" }

// String returns Mask, or "" when there is no value.
func (s String) String() string {
	if s.value == "" {
		return ""
	}
	return Mask
}

// GoString hides the value from %#v.
func (s String) GoString() string { return s.String() }

// LogValue hides the value from log/slog.
func (s String) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText hides the value from encoders (JSON, YAML, zap's reflection).
func (s String) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText takes the value from a configuration file or variable.
func (s *String) UnmarshalText(text []byte) error {
	s.value = string(text)
	return nil
}

// Forms are the shapes in which others may repeat a secret in what they say:
// as it is, escaped for addresses and for JSON, in hex, and in base64, wherever
// in what was encoded it stood. They are what has to be masked.
func (s String) Forms() []string {
	const least = 8                    // shorter ones would match by chance
	quoted, _ := json.Marshal(s.value) //nolint:errchkjson // a string always encodes
	out := []string{
		s.value, url.QueryEscape(s.value), url.PathEscape(s.value), strings.Trim(string(quoted), `"`),
		base64.StdEncoding.EncodeToString([]byte(s.value)), hex.EncodeToString([]byte(s.value)),
	}
	for shift := range 3 {
		// The digits at the ends depend on what stands before and behind it.
		text := base64.RawStdEncoding.EncodeToString([]byte("..."[:shift] + s.value))
		from := []int{0, 2, 3}[shift]
		if text = text[from:max(from, len(text)-2)]; len(text) < least {
			continue
		}
		out = append(out, text, strings.NewReplacer("+", "-", "/", "_").Replace(text))
	}
	return out
}
