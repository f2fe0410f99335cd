package syslog

import "github.com/cwprelay/cwprelay/sinks"

// Message makes a message, without its frame.
func Message(cfg Config, m sinks.Message) []byte {
	return newWriter(cfg.WithDefaults()).append(nil, &m)
}
