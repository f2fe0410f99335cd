// Package format turns records into bytes: one Encoder for each named format,
// and Of, the reading of a record that formats, conditions and sinks share.
//
// It promises that an encoder gives one line of valid output for any JSON the
// vendor may send: fields may be null, missing, of another type, masked, huge
// or hostile. What has no place of the right type is kept out of typed fields
// and kept as text where the mapping has a string for it. Integers stay exact.
// The same record always gives the same bytes.
//
// Every format but raw redacts secrets in command lines, replaces invalid
// UTF-8 and caps long strings. The raw format is the vendor's JSON as it came:
// it is not redacted.
//
// The package knows neither journal nor destinations; times of sending, such
// as Elasticsearch's event.ingested, belong to the sinks.
package format

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/cwprelay/cwprelay/event"
)

// An Encoder appends the record in its format to dst, like append, and returns
// the extended slice. On error it returns dst as it was given. Encoders may be
// called from several goroutines at once.
type Encoder func(dst []byte, r *event.Record) ([]byte, error)

// The names of the formats.
const (
	CEF    = "cef"    // Common Event Format
	ECS    = "ecs"    // Elastic Common Schema
	LEEF   = "leef"   // Log Event Extended Format
	OCSF   = "ocsf"   // Open Cybersecurity Schema Framework, Detection Finding
	Raw    = "raw"    // the vendor's JSON
	Splunk = "splunk" // the value of an HTTP Event Collector envelope's event, with the names of Splunk's CIM
	Text   = "text"   // one line for people
)

// Versions of what the formats follow.
const (
	ecsVersion  = "9.4.0"
	ocsfVersion = "1.8.0"
)

// Config holds what an operator may choose about the contents of outputs. One
// Config serves all sinks.
type Config struct {
	// Namespace is the last part of the Elasticsearch data stream's name and
	// the value of data_stream.namespace, default "default".
	Namespace string `koanf:"namespace"`
	// CloudProvider is the value of cloud.provider, default "tencent_cloud",
	// which is OpenTelemetry's name; Beats says "qcloud".
	CloudProvider string `koanf:"cloud_provider"`
	// DisableAttack leaves MITRE ATT&CK techniques out. They are derived from
	// virus names and tags, not stated by the vendor.
	DisableAttack bool `koanf:"disable_attack"`
	// CEFVersion is 0, the default, or 1, with which techniques are sent in the
	// keys that CEF 1.2 has for them.
	CEFVersion string `koanf:"cef_version"`
	// LEEFVersion is 2.0, the default, or 1.0.
	LEEFVersion string `koanf:"leef_version"`
	// Severity are rules that go before the built-in ones; the first that fits
	// decides.
	Severity []SeverityRule `koanf:"severity"`
	// Redact are patterns that mask more of command lines.
	Redact []Redaction `koanf:"redact"`
}

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	c.Namespace = cmp.Or(c.Namespace, "default")
	c.CloudProvider = cmp.Or(c.CloudProvider, "tencent_cloud")
	c.CEFVersion = cmp.Or(c.CEFVersion, "0")
	c.LEEFVersion = cmp.Or(c.LEEFVersion, "2.0")
	return c
}

// Validate reports all mistakes of c, each beginning with its key.
func (c Config) Validate() error {
	var errs []error
	if err := checkNamespace(c.Namespace); err != nil {
		errs = append(errs, fmt.Errorf("namespace: %w", err))
	}
	if strings.Trim(c.CloudProvider, "abcdefghijklmnopqrstuvwxyz0123456789_.") != "" || len(c.CloudProvider) > 100 {
		errs = append(errs, fmt.Errorf("cloud_provider: %q: use at most 100 of a-z, 0-9, dot and underscore", c.CloudProvider))
	}
	if c.CEFVersion != "0" && c.CEFVersion != "1" {
		errs = append(errs, fmt.Errorf("cef_version: %q is not 0 or 1", c.CEFVersion))
	}
	if c.LEEFVersion != "2.0" && c.LEEFVersion != "1.0" {
		errs = append(errs, fmt.Errorf("leef_version: %q is not 2.0 or 1.0", c.LEEFVersion))
	}
	errs = append(errs, c.checkRules())
	return errors.Join(errs...)
}

// checkNamespace applies Elastic's rules for the parts of a data stream's name.
func checkNamespace(s string) error {
	switch {
	case len(s) > 100:
		return fmt.Errorf("has %d bytes; use at most 100", len(s))
	case s != strings.ToLower(s):
		return fmt.Errorf("%q: use lower case", s)
	case strings.ContainsAny(s, "-\\/*?\"<>| ,#:") || strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7F }):
		return fmt.Errorf("%q: leave out - \\ / * ? \" < > | , # : and spaces; a data stream's name has no place for them", s)
	default:
		return nil
	}
}

// New returns the encoder of a format, with the changes of a sink's own. cfg
// and changes must be valid; unset options have their defaults.
func New(name string, cfg Config, changes ...Change) (Encoder, error) {
	cfg = cfg.WithDefaults()
	e := newEdits(changes)
	switch name {
	case CEF:
		return newCEF(cfg, e), nil
	case ECS:
		return e.document(newECS(cfg)), nil
	case LEEF:
		return newLEEF(cfg, e), nil
	case OCSF:
		return e.document(newOCSF(cfg)), nil
	case Raw:
		return appendRaw, nil
	case Splunk:
		return e.document(newSplunk(cfg)), nil
	case Text:
		return appendText, nil
	default:
		return nil, fmt.Errorf("unknown format %q; there are: %s", name, strings.Join(Names(), ", "))
	}
}

// Names returns the names that New knows, sorted.
func Names() []string { return []string{CEF, ECS, LEEF, OCSF, Raw, Splunk, Text} }

// IsJSON reports whether a format's records are JSON objects.
func IsJSON(name string) bool {
	switch name {
	case ECS, OCSF, Raw, Splunk:
		return true
	default:
		return false
	}
}

// MakesObjects reports whether each record of a format is a JSON object that
// was made here, whatever the vendor sent.
func MakesObjects(name string) bool { return IsJSON(name) && name != Raw }

// ContentType returns the media type of one encoded record; empty for a name
// that New does not know.
func ContentType(name string) string {
	switch name {
	case ECS, OCSF, Raw, Splunk:
		return "application/json"
	case CEF, LEEF, Text:
		return "text/plain; charset=utf-8"
	default:
		return ""
	}
}

// Schema returns the name of the schema that a format's records follow, with
// its version where it has one, for Kafka's header of that name. The shape of
// raw is the vendor's and changes without notice, so it has no version. Empty
// for a name that New does not know.
func Schema(name string) string {
	switch name {
	case ECS:
		return "ecs/" + ecsVersion
	case OCSF:
		return "ocsf/" + ocsfVersion
	case Splunk:
		return "splunk-cim"
	case CEF, LEEF, Raw, Text:
		return name
	default:
		return ""
	}
}

// errNoMapping says that a format has no mapping for a kind of event.
func errNoMapping(format string, r *event.Record) error {
	return fmt.Errorf("encode %s: no mapping for events of kind %q", format, r.Key.Kind)
}
