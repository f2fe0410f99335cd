package console

import (
	"cmp"
	"fmt"
	"net"
)

// Config says where the console listens.
type Config struct {
	// Listen is the address of the HTTP side, default 127.0.0.1:9810; "off"
	// opens no port. An address that is not loopback needs token_file, or tls
	// with client_ca_file.
	Listen string `koanf:"listen"`
	// TokenFile holds the token (20 characters or more) that requests must bear:
	// as a bearer token, or as the password of any user. Read again when it
	// changes. /healthz needs none.
	TokenFile string `koanf:"token_file"`
	TLS       TLS    `koanf:"tls"`
	// ShowCommands shows the command lines of the last events on the page,
	// secrets masked. Default false.
	ShowCommands bool `koanf:"show_commands"`
}

// Off is the value of Listen that opens no port.
const Off = "off"

// WithDefaults returns c with every unset option at its default.
func (c Config) WithDefaults() Config {
	c.Listen = cmp.Or(c.Listen, "127.0.0.1:9810")
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	if c.Listen == Off {
		return nil
	}
	if _, _, err := net.SplitHostPort(c.Listen); err != nil {
		return fmt.Errorf("listen: %q is not host:port; use one like 127.0.0.1:9810, or off", c.Listen)
	}
	return c.validateAccess()
}
