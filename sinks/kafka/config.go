package kafka

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// What the key of a record is.
const (
	KeyFinding = "finding_uid" // all changes of one event in order, in one partition; a compacted topic keeps the last
	KeyEvent   = "event_uid"   // a compacted topic keeps every change and removes what was sent twice
)

// AcksAll is the one level of acknowledgement on offer: a broker that answers
// before its replicas have a record can lose it after we forgot it.
const AcksAll = "all"

// How batches are compressed.
const (
	CompressionLZ4    = "lz4"
	CompressionZstd   = "zstd"
	CompressionSnappy = "snappy"
	CompressionGzip   = "gzip"
	CompressionNone   = "none"
)

// How we log in.
const (
	MechanismPlain       = "plain"
	MechanismScramSHA256 = "scram-sha-256"
	MechanismScramSHA512 = "scram-sha-512"
)

// tlsScheme before a broker's address asks for TLS.
const tlsScheme = "tls://"

// Config is the configuration of one topic.
type Config struct {
	// Brokers are the addresses to learn the cluster from, at least one that
	// is up: "kafka:9092", or "tls://kafka:9093" for TLS, which then is spoken
	// with every broker.
	Brokers []string `koanf:"brokers"`
	Topic   string   `koanf:"topic"` // it must exist
	Key     string   `koanf:"key"`   // finding_uid (default), event_uid
	Acks    string   `koanf:"acks"`  // all

	// Compression is lz4 (default), zstd, snappy, gzip or none. lz4 takes the
	// least time here (BenchmarkSend; less than sending uncompressed) and every
	// broker and client knows it. zstd makes smaller batches for half as much
	// time again, and needs brokers of 2.1 or later.
	Compression string `koanf:"compression"`
	ClientID    string `koanf:"client_id"` // for the brokers' logs and quotas; default cwprelay

	TLS  httpx.TLS `koanf:"tls"` // files are read again when they change
	SASL SASL      `koanf:"sasl"`

	// MaxMessageBytes is the topic's max.message.bytes, default 1 MiB: the
	// brokers' default less 12 bytes. It bounds one record and one batch of
	// them, before compression.
	MaxMessageBytes int64 `koanf:"max_message_bytes"`
	MaxBatchRecords int   `koanf:"max_batch_records"` // of one attempt, over all partitions; default 10000
	MaxBatchBytes   int64 `koanf:"max_batch_bytes"`   // of one attempt, over all partitions; default 16 MiB

	DialTimeout       time.Duration `koanf:"dial_timeout"`        // connect, TLS and greeting; default 10s
	RequestTimeout    time.Duration `koanf:"request_timeout"`     // how long a leader may wait for its replicas; default 25s
	MissingTopicGrace time.Duration `koanf:"missing_topic_grace"` // how long a missing topic is waited for before the sink halts; default 1m
}

// SASL configures how we log in; without a mechanism we do not.
type SASL struct {
	Mechanism string        `koanf:"mechanism"` // plain, scram-sha-256, scram-sha-512
	Username  string        `koanf:"username"`  // to log in as
	Password  secret.String `koanf:"password"`  // of username

	// AllowPlaintext lets plain be used without TLS: whoever is on the way can
	// read the password.
	AllowPlaintext bool `koanf:"allow_plaintext"`
}

// WithDefaults fills in what is zero.
func (c Config) WithDefaults() Config {
	c.Key = cmp.Or(c.Key, KeyFinding)
	c.Acks = cmp.Or(c.Acks, AcksAll)
	c.Compression = cmp.Or(c.Compression, CompressionLZ4)
	c.ClientID = cmp.Or(c.ClientID, "cwprelay")
	c.MaxMessageBytes = cmp.Or(c.MaxMessageBytes, 1<<20)
	c.MaxBatchRecords = cmp.Or(c.MaxBatchRecords, 10_000)
	c.MaxBatchBytes = cmp.Or(c.MaxBatchBytes, 16<<20)
	c.DialTimeout = cmp.Or(c.DialTimeout, 10*time.Second)
	c.RequestTimeout = cmp.Or(c.RequestTimeout, 25*time.Second) // delivery's 60s hold it and a dial
	c.MissingTopicGrace = cmp.Or(c.MissingTopicGrace, time.Minute)
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	c = c.WithDefaults()
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if _, _, err := c.addresses(); err != nil {
		errs = append(errs, err)
	}
	if err := checkTopic(c.Topic); err != nil {
		errs = append(errs, err)
	}
	if c.Key != KeyFinding && c.Key != KeyEvent {
		add("key: %q is not one of finding_uid, event_uid", c.Key)
	}
	if c.Acks != AcksAll {
		add("acks: %q is not offered: with anything but all, an accepted record can be lost", c.Acks)
	}
	if _, ok := c.codec(); !ok {
		add("compression: %q is not one of lz4, zstd, snappy, gzip, none", c.Compression)
	}
	if len(c.ClientID) > 200 {
		add("client_id: %d bytes are too long; use at most 200", len(c.ClientID))
	}
	if err := c.TLS.Validate(); err != nil {
		for e := range strings.SplitSeq(err.Error(), "\n") {
			add("tls.%s", e)
		}
	}
	errs = append(errs, c.checkSASL()...)
	if c.MaxMessageBytes < 1<<10 || c.MaxMessageBytes > 1<<30 {
		add("max_message_bytes: %d is not between 1KiB and 1GiB", c.MaxMessageBytes)
	}
	if c.MaxBatchRecords < 1 {
		add("max_batch_records: %d is less than 1", c.MaxBatchRecords)
	}
	if c.MaxBatchBytes < 1<<10 || c.MaxBatchBytes > 1<<30 {
		add("max_batch_bytes: %d is not between 1KiB and 1GiB", c.MaxBatchBytes)
	}
	for _, t := range []struct {
		key string
		d   time.Duration
	}{
		{"dial_timeout", c.DialTimeout}, {"request_timeout", c.RequestTimeout}, {"missing_topic_grace", c.MissingTopicGrace},
	} {
		if t.d < time.Millisecond || t.d > time.Hour {
			add("%s: %s is not between 1ms and 1h", t.key, t.d)
		}
	}
	return errors.Join(errs...)
}

func (c Config) checkSASL() []error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf("sasl."+format, args...)) }
	s := c.SASL
	switch s.Mechanism {
	case "":
		if s.Username != "" || !s.Password.IsZero() {
			add("mechanism: required with a username or password; one of plain, scram-sha-256, scram-sha-512")
		}
		return errs
	case MechanismPlain, MechanismScramSHA256, MechanismScramSHA512:
	default:
		add("mechanism: %q is not one of plain, scram-sha-256, scram-sha-512", s.Mechanism)
		return errs
	}
	if s.Username == "" {
		add("username: required with a mechanism")
	}
	if s.Password.IsZero() {
		add("password: required with a mechanism")
	}
	if _, useTLS, err := c.addresses(); err == nil && !useTLS && s.Mechanism == MechanismPlain && !s.AllowPlaintext {
		add("mechanism: plain sends the password readable; write the brokers as tls://host:port, use scram-sha-512, or set allow_plaintext: true")
	}
	if _, err := s.mechanism(); err != nil {
		add("username: %s has no use for such a username or password (RFC 4013)", s.Mechanism) // the cause may show them
	}
	if strings.ContainsRune(s.Username+s.Password.Reveal(), 0) {
		add("password: it and the username must not hold a zero byte")
	}
	return errs
}

// mechanism returns how to log in, nil when we do not.
func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch s.Mechanism {
	case MechanismPlain:
		return plain.Mechanism{Username: s.Username, Password: s.Password.Reveal()}, nil
	case MechanismScramSHA256:
		return scram.Mechanism(scram.SHA256, s.Username, s.Password.Reveal())
	case MechanismScramSHA512:
		return scram.Mechanism(scram.SHA512, s.Username, s.Password.Reveal())
	default:
		return nil, nil //nolint:nilnil // no mechanism is what kafka.Transport calls nil
	}
}

// codec returns the client's name of the compression.
func (c Config) codec() (kafka.Compression, bool) {
	switch c.Compression {
	case CompressionLZ4:
		return kafka.Lz4, true
	case CompressionZstd:
		return kafka.Zstd, true
	case CompressionSnappy:
		return kafka.Snappy, true
	case CompressionGzip:
		return kafka.Gzip, true
	case CompressionNone:
		return 0, true
	default:
		return 0, false
	}
}

// addresses returns the brokers without their scheme, and whether they are
// spoken to by TLS.
func (c Config) addresses() (hosts []string, useTLS bool, err error) {
	if len(c.Brokers) == 0 {
		return nil, false, errors.New("brokers: required, like [kafka:9092] or [tls://kafka:9093]")
	}
	var errs []error
	secure := 0
	for i, broker := range c.Brokers {
		host, isTLS := strings.CutPrefix(broker, tlsScheme)
		if isTLS {
			secure++
		}
		if problem := checkAddress(host); problem != "" {
			errs = append(errs, fmt.Errorf("brokers.%d: %s; write host:port or tls://host:port", i, problem))
		}
		hosts = append(hosts, host)
	}
	if secure != 0 && secure != len(c.Brokers) {
		errs = append(errs, errors.New("brokers: some with tls:// and some without; all of a cluster are spoken to in one way"))
	}
	if secure == 0 && c.TLS != (httpx.TLS{}) {
		errs = append(errs, errors.New("tls: has no effect without TLS; write the brokers as tls://host:port"))
	}
	return hosts, secure > 0, errors.Join(errs...)
}

// checkAddress says what is wrong with host:port, without repeating it.
func checkAddress(address string) string {
	switch {
	case strings.Contains(address, "://"):
		return "the only scheme is tls://"
	case strings.ContainsAny(address, ", \t"):
		return "one broker for each entry of the list"
	case strings.Contains(address, "@"):
		return "no username here, it goes into sasl"
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || host == "" {
		return "not an address"
	}
	if n, err := strconv.Atoi(port); err != nil || n < 1 || n > 65535 {
		return "not a port"
	}
	return ""
}

// checkTopic applies the brokers' rules for names.
func checkTopic(name string) error {
	switch {
	case name == "":
		return errors.New("topic: required")
	case len(name) > 249 || name == "." || name == "..":
		return fmt.Errorf("topic: %.300q is not a topic's name; use at most 249 bytes, and neither . nor .. alone", name)
	case strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "":
		return fmt.Errorf("topic: %q has other characters than a-z, A-Z, 0-9, . _ and -", name)
	default:
		return nil
	}
}
