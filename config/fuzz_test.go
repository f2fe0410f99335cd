package config_test

import (
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/config"
)

// FuzzEnvironment reads variables: they make no configuration that the file
// could not make, and a mistake never shows a secret.
func FuzzEnvironment(f *testing.F) {
	f.Add("CWPRELAY_SINKS__SOC__SPLUNK_HEC__TOKEN", "hidden-key")
	f.Add("CWPRELAY_STATE__MAX_BYTES", "NaN")
	f.Add("CWPRELAY_STATE__MAX_BYTES", "-1KiB")
	f.Add("CWPRELAY_SOURCES__A__POLL_INTERVAL", "1e9h")
	f.Add("CWPRELAY_", "")
	f.Add("CWPRELAY_FORMAT__SEVERITY[-1]__SEVERITY", "low")
	f.Add("CWPRELAY_SINKS__A__KAFKA__BROKERS", "a,b,${X:-${Y}}")
	f.Add("CWPRELAY_SOURCES__A__CREDENTIALS__SECRET_KEY", "${hidden-key")
	f.Fuzz(func(t *testing.T, name, value string) {
		if strings.Contains(value, "${file:") {
			t.Skip("reads files")
		}
		cfg, err := config.Load(config.Options{Path: write(t, valid), Environ: []string{name + "=" + value}})
		if err != nil {
			return
		}
		if cfg.State.MaxBytes < 1<<20 || cfg.State.MinFreeDisk < 0 || cfg.State.Retention <= 0 {
			t.Errorf("%s=%q gives %+v", name, value, cfg.State)
		}
	})
}
