package format

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"unsafe"

	"github.com/cwprelay/cwprelay/event"
)

// Bounds on what an operator's own rules may cost. They run for every record.
const (
	mostRules     = 200
	patternLength = 1000 // bytes
)

// A SeverityRule sets the severity of some findings. Either a virus name or a
// tag is given.
type SeverityRule struct {
	// VirusName is compared with the whole virus name, whatever the case; *
	// stands for any characters.
	VirusName string `koanf:"virus_name"`
	// Tag is compared with each virus tag, whatever the case.
	Tag string `koanf:"tag"`
	// Severity is informational, low, medium, high or critical.
	Severity string `koanf:"severity"`
}

// A Redaction masks more of command lines than the built-in patterns do.
type Redaction struct {
	// Pattern is a regular expression (RE2) of what is masked.
	Pattern string `koanf:"pattern"`
	// Replace takes the place of what matched, default "********"; ${1} is the
	// first group.
	Replace string `koanf:"replace"`
}

// Rules read records: the built-in ones and those of the configuration. They
// may be used from several goroutines.
type Rules struct {
	tables    *tables
	redactor  redactor
	overrides []override
}

// override is a compiled SeverityRule.
type override struct {
	parts    []string // of the virus name in lower case, between the *; nil for a tag
	tag      string   // in lower case
	severity Severity
	rule     string
}

// NewRules compiles the rules of a valid Config.
func NewRules(cfg Config) (*Rules, error) {
	base := shared()
	x := &Rules{tables: base.tables, redactor: base.redactor}
	x.redactor.rules = slices.Clone(base.redactor.rules)
	for i, s := range cfg.Severity {
		level, ok := ParseSeverity(s.Severity)
		if !ok {
			return nil, fmt.Errorf("severity[%d].severity: %q is no severity", i, s.Severity)
		}
		o := override{severity: level, rule: fmt.Sprintf("format.severity[%d]", i)}
		if s.VirusName != "" {
			o.parts = strings.Split(strings.ToLower(s.VirusName), "*")
		} else {
			o.tag = strings.ToLower(s.Tag)
		}
		x.overrides = append(x.overrides, o)
	}
	for i, r := range cfg.Redact {
		re, err := regexp.Compile(r.Pattern)
		if err != nil {
			return nil, fmt.Errorf("redact[%d].pattern: %w", i, err)
		}
		x.redactor.rules = append(x.redactor.rules, redaction{
			Name: fmt.Sprintf("format.redact[%d]", i), Replace: cmp.Or(r.Replace, redactedMask), re: re,
		})
	}
	return x, nil
}

// Read reads a record, at most once: the reading stays with the record, for Of.
// Whoever takes records out of the journal calls it before others see them.
func (x *Rules) Read(r *event.Record) *Finding {
	return r.Derived(x.build).(*Finding) // only this package calls Derived
}

func (x *Rules) build(r *event.Record) any {
	f := &Finding{
		UID:    r.Key.FindingUID(),
		Closed: r.Status.Closed, Open: !r.Status.Closed,
		EventTime: r.ObservedAt,
	}
	if r.Key.Account != event.DefaultAccount {
		f.Account = r.Key.Account
	}
	if r.Key.Kind == kindHeartbeat {
		f.readHeartbeat(r)
		return f
	}
	f.readAction(x, r)
	if r.Key.Kind == kindRiskProcess {
		// The finding's texts lie in the record's JSON, which nobody changes.
		f.readRiskProcess(x, unsafe.String(unsafe.SliceData(r.Raw), len(r.Raw))) //nolint:gosec // a copy would be a tenth of the reading
	}
	f.readTimes(x, r)
	f.rate(x, r)
	f.readAddresses()
	f.ReferenceURL = linkOf(f.ReferenceLink)
	f.FileName, f.OSType = baseName(f.FilePath), osType(f.FilePath)
	f.Host = f.host()
	f.Message = f.message()
	return f
}

// override returns the first rule of the configuration that fits; nil for none.
func (x *Rules) override(f *Finding) *override {
	if len(x.overrides) == 0 {
		return nil
	}
	name := strings.ToLower(f.VirusName)
	for i := range x.overrides {
		o := &x.overrides[i]
		if o.parts != nil && globMatch(o.parts, name) {
			return o
		}
		if o.parts == nil && slices.ContainsFunc(f.VirusTags, func(tag string) bool { return strings.ToLower(tag) == o.tag }) {
			return o
		}
	}
	return nil
}

// globMatch reports whether s is the parts with any characters between them.
func globMatch(parts []string, s string) bool {
	if len(parts) == 1 {
		return s == parts[0]
	}
	s, ok := strings.CutPrefix(s, parts[0])
	if !ok {
		return false
	}
	last := len(parts) - 1
	for _, part := range parts[1:last] {
		at := strings.Index(s, part)
		if at < 0 {
			return false
		}
		s = s[at+len(part):]
	}
	return strings.HasSuffix(s, parts[last])
}

// checkRules reports every mistake of an operator's own rules.
func (c Config) checkRules() error {
	var errs []error
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	if len(c.Severity) > mostRules {
		add("severity: has %d rules; at most %d", len(c.Severity), mostRules)
	}
	for i, s := range c.Severity {
		if (s.VirusName == "") == (s.Tag == "") {
			add("severity[%d]: give either virus_name or tag", i)
		}
		if _, ok := ParseSeverity(s.Severity); !ok {
			add("severity[%d].severity: %q is not one of informational, low, medium, high, critical", i, s.Severity)
		}
		if len(s.VirusName) > patternLength || len(s.Tag) > patternLength {
			add("severity[%d]: is longer than %d bytes", i, patternLength)
		}
	}
	if len(c.Redact) > mostRules {
		add("redact: has %d patterns; at most %d", len(c.Redact), mostRules)
	}
	for i, r := range c.Redact {
		re, err := regexp.Compile(r.Pattern)
		switch {
		case r.Pattern == "":
			add("redact[%d].pattern: required", i)
		case len(r.Pattern) > patternLength:
			add("redact[%d].pattern: is longer than %d bytes", i, patternLength)
		case err != nil:
			add("redact[%d].pattern: %w", i, err)
		case re.MatchString(""):
			add("redact[%d].pattern: matches the empty text, so it would mask everywhere", i)
		}
	}
	return errors.Join(errs...)
}
