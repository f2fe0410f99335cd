package syslog

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// What confirms that a message has arrived.
const (
	AckRELP    = "relp"    // the receiver's answer to each message
	AckSession = "session" // the receiver has read the connection of a batch to its end
	AckNone    = "none"    // nothing: best effort
)

// How messages are told apart in a stream (RFC 6587).
const (
	FramingOctets  = "octet_counting"
	FramingNewline = "newline"
)

// The forms of a message.
const (
	RFC5424 = "rfc5424"
	RFC3164 = "rfc3164"
)

// documentation is the enterprise number of examples (RFC 5612).
const documentation = 32473

// Config is the configuration of one receiver.
type Config struct {
	Address string `koanf:"address"` // udp://, tcp://, tls://, relp:// or relp+tls:// with host and port; ports default to 514, 514, 6514, 2514, 2514
	Ack     string `koanf:"ack"`     // relp, session (default of tcp and tls) or none (udp)

	Framing         string `koanf:"framing"`           // octet_counting (default), newline
	Protocol        string `koanf:"protocol"`          // rfc5424 (default), rfc3164
	MaxMessageBytes int    `koanf:"max_message_bytes"` // of one message, default 8192 (udp 2048); longer ones are shortened

	Facility         string `koanf:"facility"`          // kern … local7, default local0
	AppName          string `koanf:"app_name"`          // default tencent-cwp
	Hostname         string `koanf:"hostname"`          // of this forwarder, default the machine's
	EnterpriseNumber int    `koanf:"enterprise_number"` // of your organisation: adds the structured data element cwp@N; default none
	BOM              bool   `koanf:"bom"`               // true: text begins with the UTF-8 byte order mark

	Window int `koanf:"window"` // relp: messages that may wait for their answer at once, default 128

	TLS httpx.TLS `koanf:"tls"`
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	scheme, _, _ := strings.Cut(c.Address, "://")
	switch scheme {
	case "udp":
		c.Ack = cmp.Or(c.Ack, AckNone)
		c.MaxMessageBytes = cmp.Or(c.MaxMessageBytes, 2048)
	case "relp", "relp+tls":
		c.Ack = cmp.Or(c.Ack, AckRELP)
	}
	c.Ack = cmp.Or(c.Ack, AckSession)
	c.Framing = cmp.Or(c.Framing, FramingOctets)
	c.Protocol = cmp.Or(c.Protocol, RFC5424)
	c.MaxMessageBytes = cmp.Or(c.MaxMessageBytes, 8192)
	c.Facility = cmp.Or(c.Facility, "local0")
	c.AppName = cmp.Or(c.AppName, "tencent-cwp")
	c.Window = cmp.Or(c.Window, 128)
	return c
}

// facilities are the names of RFC 5424 table 1, by their numbers.
func facilities() []string {
	return []string{
		"kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp", "ntp", "audit", "alert", "clock",
		"local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7",
	}
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	to, err := parseAddress(c.Address)
	if err != nil {
		add("address: %w", err)
	} else if !slices.Contains(to.acks(), c.Ack) {
		add("ack: %q does not go with %s; use %s", c.Ack, to.scheme, strings.Join(to.acks(), " or "))
	}
	switch c.Framing {
	case FramingOctets:
	case FramingNewline:
		if to.tls {
			add("framing: syslog over TLS is octet_counting (RFC 5425 section 4.3)")
		}
	default:
		add("framing: %q is not one of octet_counting, newline", c.Framing)
	}
	switch c.Protocol {
	case RFC5424, RFC3164:
	default:
		add("protocol: %q is not one of rfc5424, rfc3164", c.Protocol)
	}
	if c.MaxMessageBytes < 480 || c.MaxMessageBytes > 1<<20 {
		add("max_message_bytes: %d is not between 480 and 1048576", c.MaxMessageBytes)
	}
	if to.scheme == "udp" && c.MaxMessageBytes > 65_000 {
		add("max_message_bytes: %d does not fit a datagram", c.MaxMessageBytes)
	}
	if !slices.Contains(facilities(), c.Facility) {
		add("facility: %q is not one of %s", c.Facility, strings.Join(facilities(), ", "))
	}
	if !printable(c.AppName, 48) {
		add("app_name: must be 1 to 48 visible ASCII characters")
	}
	if c.Hostname != "" && !printable(c.Hostname, 255) {
		add("hostname: must be 1 to 255 visible ASCII characters")
	}
	if c.EnterpriseNumber < 0 || c.EnterpriseNumber == documentation {
		add("enterprise_number: %d is not a number of your own; 32473 is reserved for documentation (RFC 5612)", c.EnterpriseNumber)
	}
	if c.Window < 1 || c.Window > 10_000 {
		add("window: %d is not between 1 and 10000", c.Window)
	}
	if err := c.TLS.Validate(); err != nil {
		for e := range strings.SplitSeq(err.Error(), "\n") {
			errs = append(errs, errors.New("tls."+e))
		}
	}
	if c.TLS != (httpx.TLS{}) && err == nil && !to.tls {
		add("tls: belongs to tls:// and relp+tls://, not to %s://", to.scheme)
	}
	return errors.Join(errs...)
}

// printable reports whether text is 1 to limit characters of PRINTUSASCII.
func printable(text string, limit int) bool {
	return text != "" && len(text) <= limit && !strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r > '~' })
}

// A target is a parsed address.
type target struct {
	scheme string
	host   string // with its port
	name   string // without
	tls    bool
}

func (t target) acks() []string {
	switch t.scheme {
	case "udp":
		return []string{AckNone}
	case "relp", "relp+tls":
		return []string{AckRELP}
	default:
		return []string{AckSession, AckNone}
	}
}

func (t target) network() string {
	if t.scheme == "udp" {
		return "udp"
	}
	return "tcp"
}

func parseAddress(text string) (target, error) {
	ports := map[string]string{"udp": "514", "tcp": "514", "tls": "6514", "relp": "2514", "relp+tls": "2514"}
	u, err := url.Parse(text)
	switch {
	case text == "":
		return target{}, errors.New("required, like tls://siem.example:6514")
	case err != nil || u.Hostname() == "":
		return target{}, errors.New("not an address; write tls://host:6514")
	case ports[u.Scheme] == "":
		return target{}, errors.New("must begin with udp://, tcp://, tls://, relp:// or relp+tls://")
	case u.User != nil || u.RawQuery != "" || u.Fragment != "" || strings.Trim(u.Path, "/") != "":
		return target{}, errors.New("must hold host and port only")
	}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil && strings.Contains(u.Hostname(), ":") {
		return target{}, errors.New("not an address; write tls://host:6514, or tls://[2001:db8::1]:6514")
	}
	if n, err := strconv.Atoi(u.Port()); u.Port() != "" && (err != nil || n < 1 || n > 65535) {
		return target{}, errors.New("the port must be from 1 to 65535")
	}
	return target{
		scheme: u.Scheme, name: u.Hostname(), host: net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), ports[u.Scheme])),
		tls: u.Scheme == "tls" || u.Scheme == "relp+tls",
	}, nil
}
