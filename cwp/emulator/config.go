package emulator

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
)

// The credentials and the account of an emulator that was given none.
const (
	DefaultSecretID  = "AKIDemulator" //nolint:gosec // no secret: the key of a server of invented data
	DefaultSecretKey = "emulator"
	DefaultAccount   = "100000000001"
)

// Config says what the emulator serves, to whom, and how badly.
type Config struct {
	Listen string `koanf:"listen"` // host:port, default 127.0.0.1:9811

	Events int     `koanf:"events"` // in the list at the start; default none
	Seed   uint64  `koanf:"seed"`   // of everything random, default 1
	Rate   float64 `koanf:"rate"`   // operations on the list per second; default none: it does not change

	SecretID  string        `koanf:"secret_id"`  // default DefaultSecretID
	SecretKey secret.String `koanf:"secret_key"` // default DefaultSecretKey
	Token     secret.String `koanf:"token"`      // set: the credentials are temporary and requests must bear it
	Account   string        `koanf:"account"`    // what GetCallerIdentity answers, default DefaultAccount

	Limit     int           `koanf:"limit"`      // requests per second, credential and action, default 20 as the API's
	ClockSkew time.Duration `koanf:"clock_skew"` // by which the emulator's clock is ahead (negative: behind)
	Faults    Faults        `koanf:"faults"`
	Quirks    Quirks        `koanf:"quirks"`
}

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:9811")
	c.Seed = cmp.Or(c.Seed, 1)
	c.SecretID = cmp.Or(c.SecretID, DefaultSecretID)
	c.SecretKey = cmp.Or(c.SecretKey, secret.New(DefaultSecretKey))
	c.Account = cmp.Or(c.Account, DefaultAccount)
	c.Limit = cmp.Or(c.Limit, 20)
	return c
}

// The bounds of a Config: what a machine of today holds and does.
const (
	maxEvents = 5_000_000
	maxRate   = 100_000
)

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }

	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		add("listen: %q must be like 127.0.0.1:9811", c.Listen)
	}
	if c.Events < 0 || c.Events > maxEvents {
		add("events: must be from 0 to %d", maxEvents)
	}
	// Written so that NaN is refused too.
	if !(c.Rate >= 0 && c.Rate <= maxRate) {
		add("rate: must be from 0 to %d", maxRate)
	}
	if c.SecretID == "" || strings.ContainsAny(c.SecretID, "/, \t\r\n") {
		add("secret_id: must be without spaces, commas and slashes: it stands in a header")
	}
	if c.SecretKey.IsZero() {
		add("secret_key: required")
	}
	if c.Limit < 1 {
		add("limit: must be at least 1 request per second")
	}
	if err := c.Faults.Validate(); err != nil {
		add("faults: %w", err)
	}
	return errors.Join(errs...)
}

// Faults are what happens to requests now and then. Probabilities are from 0
// to 1, of each request alone; at most one of them befalls a request, so their
// sum is at most 1.
//
// As text, in flags and in the control endpoint, they are name=value pairs:
// "latency=20ms,jitter=30ms,reset=0.01,InternalError=0.05". A name that begins
// with a capital letter is a code of the API.
type Faults struct {
	Latency time.Duration `koanf:"latency"` // of every answer
	Jitter  time.Duration `koanf:"jitter"`  // up to so much more, evenly spread

	Reset        float64 `koanf:"reset"`         // the connection is reset before an answer
	Truncate     float64 `koanf:"truncate"`      // the connection ends in the middle of the answer
	NotJSON      float64 `koanf:"not_json"`      // HTTP 200 with a page of a proxy
	ServerError  float64 `koanf:"server_error"`  // HTTP 500, 502, 503 or 504
	EmptyList    float64 `koanf:"empty_list"`    // no events, count 0
	NullList     float64 `koanf:"null_list"`     // List is null, count 0
	IgnoreFilter float64 `koanf:"ignore_filter"` // as if no filter had been sent
	WrongTotal   float64 `koanf:"wrong_total"`   // TotalCount is off by up to ten

	Codes map[string]float64 `koanf:"codes"` // errors of the API by code
}

// odds lists the probabilities by name. The order is fixed: a seed must give
// the same faults again.
func (f *Faults) odds() []struct {
	name string
	p    *float64
} {
	return []struct {
		name string
		p    *float64
	}{
		{"reset", &f.Reset},
		{"truncate", &f.Truncate},
		{"not_json", &f.NotJSON},
		{"server_error", &f.ServerError},
		{"empty_list", &f.EmptyList},
		{"null_list", &f.NullList},
		{"ignore_filter", &f.IgnoreFilter},
		{"wrong_total", &f.WrongTotal},
	}
}

// Validate reports every mistake, each beginning with its key.
func (f Faults) Validate() error {
	var errs []error
	if f.Latency < 0 || f.Latency > time.Hour {
		errs = append(errs, errors.New("latency: must be from 0 to 1h"))
	}
	if f.Jitter < 0 || f.Jitter > time.Hour {
		errs = append(errs, errors.New("jitter: must be from 0 to 1h"))
	}
	sum := 0.0
	check := func(name string, p float64) {
		if !(p >= 0 && p <= 1) {
			errs = append(errs, fmt.Errorf("%s: must be a probability from 0 to 1", name))
		}
		sum += p
	}
	for _, o := range f.odds() {
		check(o.name, *o.p)
	}
	for _, code := range slices.Sorted(maps.Keys(f.Codes)) {
		check(code, f.Codes[code])
		if code == "" || code[0] < 'A' || code[0] > 'Z' || strings.ContainsAny(code, " ,=") {
			errs = append(errs, fmt.Errorf("codes: %q is not a code of the API; they are like InternalError", code))
		}
	}
	if sum > 1+1e-9 {
		errs = append(errs, fmt.Errorf("the probabilities add up to %g; they must not exceed 1", sum))
	}
	return errors.Join(errs...)
}

// MarshalText gives the faults as text, in a fixed order.
func (f Faults) MarshalText() ([]byte, error) {
	var parts []string
	if f.Latency > 0 {
		parts = append(parts, "latency="+f.Latency.String())
	}
	if f.Jitter > 0 {
		parts = append(parts, "jitter="+f.Jitter.String())
	}
	for _, o := range f.odds() {
		if *o.p > 0 {
			parts = append(parts, o.name+"="+strconv.FormatFloat(*o.p, 'g', -1, 64))
		}
	}
	for _, code := range slices.Sorted(maps.Keys(f.Codes)) {
		parts = append(parts, code+"="+strconv.FormatFloat(f.Codes[code], 'g', -1, 64))
	}
	return []byte(strings.Join(parts, ",")), nil
}

// UnmarshalText replaces f by the faults that text names; empty text means
// none. It reports every mistake.
func (f *Faults) UnmarshalText(text []byte) error {
	var parsed Faults
	var errs []error
	for part := range strings.SplitSeq(string(text), ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		name, value, _ := strings.Cut(part, "=")
		if err := parsed.set(strings.TrimSpace(name), strings.TrimSpace(value)); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if err := parsed.Validate(); err != nil {
		return err
	}
	*f = parsed
	return nil
}

func (f *Faults) set(name, value string) error {
	if name == "latency" || name == "jitter" {
		d, err := time.ParseDuration(value)
		if err != nil {
			return fmt.Errorf("%s: %q is not a duration; use one like 50ms", name, value)
		}
		if name == "latency" {
			f.Latency = d
		} else {
			f.Jitter = d
		}
		return nil
	}
	p, err := strconv.ParseFloat(value, 64)
	if err != nil {
		return fmt.Errorf("%s: %q is not a probability; use one like 0.01", name, value)
	}
	known := []string{"latency", "jitter"}
	for _, o := range f.odds() {
		if o.name == name {
			*o.p = p
			return nil
		}
		known = append(known, o.name)
	}
	if name == "" || name[0] < 'A' || name[0] > 'Z' {
		return fmt.Errorf("unknown fault %q; known: %s, and codes of the API like InternalError", name, strings.Join(known, ", "))
	}
	if f.Codes == nil {
		f.Codes = map[string]float64{}
	}
	f.Codes[name] = p
	return nil
}

// Quirks are lasting ways in which the list differs from what is documented or
// hoped for. The zero value is an honest list.
type Quirks struct {
	ExclusiveBegin   bool `koanf:"exclusive_begin"    json:"exclusive_begin,omitempty"`    // BeginTime is an exclusive bound
	ExclusiveEnd     bool `koanf:"exclusive_end"      json:"exclusive_end,omitempty"`      // EndTime is an exclusive bound
	StatusAsRecord   bool `koanf:"status_as_record"   json:"status_as_record,omitempty"`   // the filter Status compares with the record's number; else it has the filter's own numbering
	IgnoreTimeFilter bool `koanf:"ignore_time_filter" json:"ignore_time_filter,omitempty"` // BeginTime and EndTime have no effect
	IgnoreStatus     bool `koanf:"ignore_status"      json:"ignore_status,omitempty"`      // the filter Status has no effect
	IgnoreOrder      bool `koanf:"ignore_order"       json:"ignore_order,omitempty"`       // By and Order have no effect: order of insertion
	StableTies       bool `koanf:"stable_ties"        json:"stable_ties,omitempty"`        // the order inside one second does not change
	NullWhenEmpty    bool `koanf:"null_when_empty"    json:"null_when_empty,omitempty"`    // List is null, not [], when there is nothing
	NoTotal          bool `koanf:"no_total"           json:"no_total,omitempty"`           // TotalCount is null
	TotalOffset      int  `koanf:"total_offset"       json:"total_offset,omitempty"`       // added to every TotalCount
	MaxItems         int  `koanf:"max_items"          json:"max_items,omitempty"`          // most items of an answer, however large its Limit

	CountedOnly []string `koanf:"counted_only" json:"counted_only,omitempty"` // ids of events that are counted but never given
	Hidden      []string `koanf:"hidden"       json:"hidden,omitempty"`       // ids of events that are neither given nor counted
}
