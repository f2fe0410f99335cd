// Package secret holds values that must never be printed: tokens, keys,
// passwords and addresses that contain one.
package secret

import "log/slog"

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
