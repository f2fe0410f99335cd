package splunkhec

import (
	"net/http"

	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// NewWithTransport is New with rt in place of the network.
func NewWithTransport(cfg Config, rt http.RoundTripper) *Sink {
	return newSink(cfg, httpx.NewWithTransport(rt, cfg.Token))
}

// Parsed is what parseAnswer makes of a body.
type Parsed struct {
	Accepted bool
	Code     int
	Invalid  int
	AckID    int64
	Line     string
}

// Parse shows parseAnswer to tests.
func Parse(status int, body []byte) Parsed {
	a := parseAnswer(status, body)
	return Parsed{Accepted: a.accepted(), Code: a.code, Invalid: a.invalid, AckID: a.ackID, Line: a.String()}
}

// BaseURL shows baseURL to tests.
func BaseURL(text string) (string, error) { return baseURL(text) }
