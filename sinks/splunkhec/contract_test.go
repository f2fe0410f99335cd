package splunkhec_test

import (
	"io"
	"net/http"
	"testing"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
)

func TestContract(t *testing.T) {
	for name, cfg := range map[string]splunkhec.Config{
		"defaults":     {},
		"uncompressed": {Compression: splunkhec.CompressionNone},
		"without acks": {Ack: splunkhec.AckOff},
	} {
		t.Run(name, func(t *testing.T) {
			cfg.Token = secret.New(sinktest.Secret)
			sinktest.HTTPSpec{
				Accept: func(w http.ResponseWriter, r *http.Request) {
					_, _ = io.Copy(io.Discard, r.Body)
					_, _ = io.WriteString(w, `{"text":"Success","code":0}`)
				},
				// Without the collector's code these come from something on the way.
				Classes: map[int]sinks.Class{400: sinks.ClassRetry, 422: sinks.ClassRetry},
			}.Run(t, func(url string) sinks.Sink {
				cfg := cfg
				cfg.URL = url
				return splunkhec.New(cfg, "splunk")
			})
		})
	}
}
