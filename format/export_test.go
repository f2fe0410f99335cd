package format

import (
	"net/netip"
	"slices"
)

// What the tests look at from inside.
const (
	MaxText    = maxText
	MaxCmdLine = maxCmdLine
)

func ValidJSON(b []byte) bool                { return validJSON(b) }
func Clean(s string) string                  { return string(appendClean(nil, s, true)) }
func CleanWhole(s string) string             { return cleanLine(s) }
func BaseName(path string) string            { return baseName(path) }
func OSType(path string) string              { return osType(path) }
func LinkOf(s string) string                 { return linkOf(s) }
func AddressOf(s string) netip.Addr          { return addressOf(s) }
func ListOf(s string) []string               { return listOf(s) }
func IntOf(s string) Int                     { return intOf(s) }
func Unquote(s string) string                { return unquote(s) }
func Categories() []threatClass              { return shared().tables.classifier.classes }
func AppendString(b []byte, s string) []byte { return appendString(b, s) }

// Redact masks as Of does. Without hints every pattern is tried.
func Redact(s string, hints bool) (string, bool) {
	x := shared().redactor
	if !hints {
		x.rules = slices.Clone(x.rules)
		for i := range x.rules {
			x.rules[i].hints, x.rules[i].also, x.rules[i].Names = 0, 0, nil
		}
	}
	return x.apply(s)
}
