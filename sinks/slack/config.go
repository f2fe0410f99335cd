package slack

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// DefaultWhen is the condition of a Slack sink that has none: Slack is for
// people, and what they have to act on.
const DefaultWhen = "threat_severity >= high && !backfill"

// Config is the configuration of one channel: an incoming webhook, or a bot.
type Config struct {
	URL secret.String `koanf:"url"` // of an incoming webhook; or:

	Token   secret.String `koanf:"token"`   // of a bot (xoxb-…), with the right chat:write
	Channel string        `koanf:"channel"` // of the bot's messages: its id
	APIURL  string        `koanf:"api_url"` // default https://slack.com/api

	DigestAbove int `koanf:"digest_above"` // more waiting records than that become one message; default 20

	AllowPrivate bool          `koanf:"allow_private"` // true: loopback and private addresses may be called
	Proxy        secret.String `koanf:"proxy"`         // http, https or socks5 address; it may hold a password
	TLS          httpx.TLS     `koanf:"tls"`
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.DigestAbove = cmp.Or(c.DigestAbove, 20)
	if !c.Token.IsZero() {
		c.APIURL = cmp.Or(c.APIURL, "https://slack.com/api")
	}
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	add := func(text string, args ...any) { errs = append(errs, fmt.Errorf(text, args...)) }
	switch {
	case c.URL.IsZero() && c.Token.IsZero():
		add("url: required, that of an incoming webhook; or token and channel of a bot")
	case !c.URL.IsZero() && !c.Token.IsZero():
		add("url: only one of url and token can be used")
	case !c.URL.IsZero():
		if err := checkURL(c.URL.Reveal()); err != nil {
			add("url: %w", err)
		}
		if c.Channel != "" {
			add("channel: belongs to token; a webhook has a channel of its own")
		}
	default:
		if c.Channel == "" {
			add("channel: required with token: the channel's id, like C0123456789")
		}
		if err := checkURL(c.APIURL); err != nil {
			add("api_url: %w", err)
		}
	}
	if c.DigestAbove < 1 || c.DigestAbove > maxBatch {
		add("digest_above: %d is not between 1 and %d", c.DigestAbove, maxBatch)
	}
	if err := c.http().Validate(); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (c Config) http() httpx.HTTP {
	return httpx.HTTP{Proxy: c.Proxy, TLS: c.TLS, RefusePrivate: !c.AllowPrivate}
}

// checkURL checks an address; its errors do not repeat it.
func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Hostname() == "":
		return errors.New("not an address; write https://hooks.slack.com/services/…")
	case u.Scheme != "http" && u.Scheme != "https":
		return errors.New("must begin with https://")
	case u.User != nil || u.Fragment != "":
		return errors.New("must hold no user and no fragment")
	}
	return nil
}

// pathSecrets are the parts of a webhook's path: together they are its secret.
func (c Config) pathSecrets() []secret.String {
	out := []secret.String{c.Token}
	if u, err := url.Parse(c.URL.Reveal()); err == nil {
		for part := range strings.SplitSeq(u.Path+"/"+u.RawQuery, "/") {
			if len(part) >= 8 && part != "services" {
				out = append(out, secret.New(part))
			}
		}
	}
	return out
}
