package console

import (
	"cmp"
	"errors"
	"fmt"
	"net"
)

// Config says where the console listens.
type Config struct {
	// Listen is the address of the HTTP side, default 127.0.0.1:9810; "off"
	// opens no port. Only loopback addresses are accepted: the console has no
	// authentication.
	Listen string `koanf:"listen"`
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
	host, _, err := net.SplitHostPort(c.Listen)
	if err != nil {
		return fmt.Errorf("listen: %q is not host:port; use one like 127.0.0.1:9810, or off", c.Listen)
	}
	if host == "localhost" {
		return nil
	}
	if ip := net.ParseIP(host); ip == nil || !ip.IsLoopback() {
		return errors.New("listen: only a loopback address is accepted, such as 127.0.0.1:9810: the console has no authentication; put a reverse proxy in front of it, or use off")
	}
	return nil
}
