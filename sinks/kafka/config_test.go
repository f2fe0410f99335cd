package kafka_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/kafka"
)

func valid() kafka.Config {
	return kafka.Config{Brokers: []string{"kafka-1:9092", "[::1]:9092"}, Topic: "cwp.findings"}
}

func TestValidConfigs(t *testing.T) {
	for name, edit := range map[string]func(*kafka.Config){
		"least": func(*kafka.Config) {},
		"TLS": func(c *kafka.Config) {
			c.Brokers = []string{"tls://a:9093", "tls://b:9093"}
			c.TLS.CAFile, c.TLS.ServerName = "/ca.pem", "kafka"
		},
		"TLS and plain": func(c *kafka.Config) {
			c.Brokers = []string{"tls://a:9093"}
			c.SASL = kafka.SASL{Mechanism: "plain", Username: "u", Password: secret.New("p")}
		},
		"scram without TLS": func(c *kafka.Config) {
			c.SASL = kafka.SASL{Mechanism: "scram-sha-512", Username: "u", Password: secret.New("p")}
		},
		"plain without TLS": func(c *kafka.Config) {
			c.SASL = kafka.SASL{Mechanism: "plain", Username: "u", Password: secret.New("p"), AllowPlaintext: true}
		},
		"other values": func(c *kafka.Config) {
			c.Key, c.Acks, c.Compression, c.MaxMessageBytes = "event_uid", "all", "zstd", 8<<20
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			edit(&c)
			if err := c.Validate(); err != nil {
				t.Errorf("mistakes:\n%v", err)
			}
		})
	}
}

// Each mistake is reported under its key, and all of them at once.
func TestMistakes(t *testing.T) {
	c := kafka.Config{
		Brokers: []string{"kafka", "tls://kafka:9093", "a:1,b:2", "http://kafka:9092", "user@kafka:9092", "kafka:0", ":9092"},
		Topic:   "findings/cwp", Key: "uid", Acks: "one", Compression: "brotli", ClientID: strings.Repeat("c", 201),
		SASL:            kafka.SASL{Mechanism: "kerberos"},
		MaxMessageBytes: 1, MaxBatchRecords: -1, MaxBatchBytes: 1 << 40,
		DialTimeout: time.Nanosecond, RequestTimeout: 2 * time.Hour, MissingTopicGrace: -1,
	}
	c.TLS.CertFile = "cert.pem"
	want := []string{
		"brokers.0", "brokers.2", "brokers.3", "brokers.4", "brokers.5", "brokers.6", "brokers", "topic", "key", "acks",
		"compression", "client_id", "tls.key_file", "sasl.mechanism", "max_message_bytes", "max_batch_records", "max_batch_bytes",
		"dial_timeout", "request_timeout", "missing_topic_grace",
	}
	if diff := cmp.Diff(want, keys(c.Validate())); diff != "" {
		t.Errorf("keys (-want +got):\n%s", diff)
	}
}

func TestMistakesAlone(t *testing.T) {
	for name, x := range map[string]struct {
		edit func(*kafka.Config)
		want string
	}{
		"no brokers":   {func(c *kafka.Config) { c.Brokers = nil }, "brokers: required"},
		"no topic":     {func(c *kafka.Config) { c.Topic = "" }, "topic: required"},
		"dots":         {func(c *kafka.Config) { c.Topic = ".." }, "topic: "},
		"useless TLS":  {func(c *kafka.Config) { c.TLS.CAFile = "ca.pem" }, "tls: has no effect"},
		"no mechanism": {func(c *kafka.Config) { c.SASL.Username = "u" }, "sasl.mechanism: required"},
		"no username": {func(c *kafka.Config) {
			c.SASL = kafka.SASL{Mechanism: "scram-sha-256", Password: secret.New("p")}
		}, "sasl.username: required"},
		"no password": {func(c *kafka.Config) { c.SASL = kafka.SASL{Mechanism: "scram-sha-256", Username: "u"} }, "sasl.password: required"},
		"readable password": {func(c *kafka.Config) {
			c.SASL = kafka.SASL{Mechanism: "plain", Username: "u", Password: secret.New("p")}
		}, "sasl.mechanism: plain sends the password readable"},
		"prohibited by SCRAM": {func(c *kafka.Config) {
			c.SASL = kafka.SASL{Mechanism: "scram-sha-256", Username: "u", Password: secret.New("p\u0007x")}
		}, "sasl.username: "},
		"zero byte": {func(c *kafka.Config) {
			c.SASL = kafka.SASL{Mechanism: "plain", Username: "u\x00v", Password: secret.New("p"), AllowPlaintext: true}
		}, "sasl.password: "},
	} {
		t.Run(name, func(t *testing.T) {
			c := valid()
			x.edit(&c)
			err := c.Validate()
			if err == nil || !strings.HasPrefix(err.Error(), x.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("mistakes %q, want one beginning with %q", err, x.want)
			}
		})
	}
}

// keys returns the keys of an error's lines.
func keys(err error) []string {
	var all []string
	for line := range strings.SplitSeq(err.Error(), "\n") {
		key, _, _ := strings.Cut(line, ": ")
		all = append(all, key)
	}
	return all
}
