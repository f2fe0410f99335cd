package format

import "strconv"

// A Severity says how bad a threat is. Severities are ordered:
// Informational < Low < Medium < High < Critical. The vendor rates nothing;
// the level is derived from virus name and tags.
type Severity int8

// The severities.
const (
	Informational Severity = iota
	Low
	Medium
	High
	Critical
)

// String returns the level's name in lower case.
func (s Severity) String() string {
	switch s {
	case Informational:
		return "informational"
	case Low:
		return "low"
	case Medium:
		return "medium"
	case High:
		return "high"
	case Critical:
		return "critical"
	default:
		return "Severity(" + strconv.Itoa(int(s)) + ")"
	}
}

// ParseSeverity reads the name of a level.
func ParseSeverity(name string) (Severity, bool) {
	for s := Informational; s <= Critical; s++ {
		if s.String() == name {
			return s, true
		}
	}
	return 0, false
}

// ecs returns the value of event.severity and event.risk_score. 21, 47, 73 and
// 99 are the bounds that Elastic Security maps to low, medium, high, critical.
func (s Severity) ecs() int64 {
	switch s {
	case Low:
		return 21
	case Medium:
		return 47
	case High:
		return 73
	case Critical:
		return 99
	default:
		return 0
	}
}

// ocsf returns OCSF's severity_id, which Splunk's severity_id repeats.
func (s Severity) ocsf() int { return int(s) + 1 }
