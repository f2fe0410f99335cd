// Package all is the one list of the kinds of destinations. It promises that a
// valid Config names exactly one, and makes its sink; what each does is its own
// package's business.
package all

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/elastic"
	"github.com/cwprelay/cwprelay/sinks/file"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/slack"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
	"github.com/cwprelay/cwprelay/sinks/syslog"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

// Config is one destination: exactly one field is set.
type Config struct {
	SplunkHEC *splunkhec.Config  `koanf:"splunk_hec"`
	Kafka     *kafka.Config      `koanf:"kafka"`
	Elastic   *elastic.Config    `koanf:"elasticsearch"`
	Webhook   *webhook.Config    `koanf:"webhook"`
	Slack     *slack.Config      `koanf:"slack"`
	Syslog    *syslog.Config     `koanf:"syslog"`
	File      *file.Config       `koanf:"file"`
	Stdout    *file.StdoutConfig `koanf:"stdout"`
}

// The names of the kinds, as in the configuration.
const (
	SplunkHEC = "splunk_hec"
	Kafka     = "kafka"
	Elastic   = "elasticsearch"
	Webhook   = "webhook"
	Slack     = "slack"
	Syslog    = "syslog"
	File      = "file"
	Stdout    = "stdout"
)

// StandardOutput is the destination that needs no options.
func StandardOutput() Config { return Config{Stdout: &file.StdoutConfig{}} }

// Kinds returns the names of all kinds.
func Kinds() []string {
	return []string{SplunkHEC, Kafka, Elastic, Webhook, Slack, Syslog, File, Stdout}
}

// kinds returns the names of the kinds that are set.
func (c Config) kinds() []string {
	var set []string
	if c.SplunkHEC != nil {
		set = append(set, SplunkHEC)
	}
	if c.Kafka != nil {
		set = append(set, Kafka)
	}
	if c.Elastic != nil {
		set = append(set, Elastic)
	}
	if c.Webhook != nil {
		set = append(set, Webhook)
	}
	if c.Slack != nil {
		set = append(set, Slack)
	}
	if c.Syslog != nil {
		set = append(set, Syslog)
	}
	if c.File != nil {
		set = append(set, File)
	}
	if c.Stdout != nil {
		set = append(set, Stdout)
	}
	return set
}

// Kind returns the name of the kind, empty unless exactly one is set.
func (c Config) Kind() string {
	if set := c.kinds(); len(set) == 1 {
		return set[0]
	}
	return ""
}

// DefaultFormat returns the name of the format that the destination's users
// expect; empty where the sink makes its own messages and takes no format.
func (c Config) DefaultFormat() string {
	switch c.Kind() {
	case SplunkHEC:
		return format.Splunk
	case Slack:
		return ""
	case Syslog:
		return format.CEF
	default:
		return format.ECS
	}
}

// Formats returns the names of the formats that the destination takes; none
// where the sink makes its own messages.
func (c Config) Formats() []string {
	switch c.Kind() {
	case Slack:
		return nil
	case SplunkHEC, Elastic, Webhook:
		return slices.DeleteFunc(format.Names(), func(name string) bool { return !format.IsJSON(name) })
	default:
		return format.Names()
	}
}

// DefaultWhen returns the condition of a destination that is for people;
// empty: everything is sent.
func (c Config) DefaultWhen() string {
	if c.Kind() == Slack {
		return slack.DefaultWhen
	}
	return ""
}

// Promise says, in a few words, what it means that the destination has
// accepted a record.
func (c Config) Promise() string {
	switch c.Kind() {
	case SplunkHEC:
		if c.SplunkHEC.Ack == splunkhec.AckOff {
			return "in the collector's memory"
		}
		return "indexed, where the collector acknowledges; else in its memory"
	case Kafka:
		return "on all in-sync replicas"
	case Elastic:
		return "in the index, on the shards that must be active"
	case Webhook:
		return "the receiver answered 2xx"
	case Slack:
		return "shown in the channel; several records may share a message"
	case Syslog:
		switch c.Syslog.WithDefaults().Ack {
		case syslog.AckRELP:
			return "the receiver answered each message"
		case syslog.AckSession:
			return "the receiver read the batch to its end"
		default:
			return "written; best effort, nothing is confirmed"
		}
	case File:
		return "synced to disk"
	case Stdout:
		return "written to the stream"
	default:
		return ""
	}
}

// WithDefaults returns a copy of c, with every unset option of its kind at its
// default.
func (c Config) WithDefaults() Config {
	if c.SplunkHEC != nil {
		c.SplunkHEC = new(c.SplunkHEC.WithDefaults())
	}
	if c.Kafka != nil {
		c.Kafka = new(c.Kafka.WithDefaults())
	}
	if c.Elastic != nil {
		c.Elastic = new(c.Elastic.WithDefaults())
	}
	if c.Webhook != nil {
		c.Webhook = new(c.Webhook.WithDefaults())
	}
	if c.Slack != nil {
		c.Slack = new(c.Slack.WithDefaults())
	}
	if c.Syslog != nil {
		c.Syslog = new(c.Syslog.WithDefaults())
	}
	if c.File != nil {
		c.File = new(c.File.WithDefaults())
	}
	if c.Stdout != nil {
		c.Stdout = new(c.Stdout.WithDefaults())
	}
	return c
}

// Validate reports every mistake, each beginning with its key.
func (c Config) Validate() error {
	var errs []error
	if set := c.kinds(); len(set) != 1 {
		err := fmt.Errorf("exactly one of %s is required", strings.Join(Kinds(), ", "))
		if len(set) > 1 {
			err = fmt.Errorf("%w; there are %s: give each a sink of its own", err, strings.Join(set, ", "))
		}
		errs = append(errs, err)
	}
	if c.SplunkHEC != nil {
		errs = append(errs, under(SplunkHEC, c.SplunkHEC.Validate()))
	}
	if c.Kafka != nil {
		errs = append(errs, under(Kafka, c.Kafka.Validate()))
	}
	if c.Elastic != nil {
		errs = append(errs, under(Elastic, c.Elastic.Validate()))
	}
	if c.Webhook != nil {
		errs = append(errs, under(Webhook, c.Webhook.Validate()))
	}
	if c.Slack != nil {
		errs = append(errs, under(Slack, c.Slack.Validate()))
	}
	if c.Syslog != nil {
		errs = append(errs, under(Syslog, c.Syslog.Validate()))
	}
	if c.File != nil {
		errs = append(errs, under(File, c.File.Validate()))
	}
	if c.Stdout != nil {
		errs = append(errs, under(Stdout, c.Stdout.Validate()))
	}
	return errors.Join(errs...)
}

// under puts the key of a block before each of its mistakes, one a line.
func under(key string, err error) error {
	if err == nil {
		return nil
	}
	var errs []error
	for text := range strings.SplitSeq(err.Error(), "\n") {
		errs = append(errs, errors.New(key+"."+text))
	}
	return errors.Join(errs...)
}

// Options is what a sink gets beside the configuration of its kind.
type Options struct {
	Name      string    // of the sink, for errors
	Format    string    // name of the format of the bodies; empty: DefaultFormat
	Namespace string    // of Elasticsearch's data streams; empty: default
	Stdout    io.Writer // what the kind stdout writes to
}

// New makes the sink of a valid configuration. It makes no connection and
// opens no file. An error means that the configuration is not valid or that
// the sink needs an option that is missing.
func New(cfg Config, opts Options) (sinks.Sink, error) {
	if opts.Format == "" {
		opts.Format = cfg.DefaultFormat()
	}
	switch cfg.Kind() {
	case SplunkHEC:
		return splunkhec.New(*cfg.SplunkHEC, opts.Format), nil
	case Kafka:
		return kafka.New(*cfg.Kafka, opts.Format), nil
	case Elastic:
		return elastic.New(*cfg.Elastic, elastic.Options{Format: opts.Format, Namespace: opts.Namespace}), nil
	case Webhook:
		return webhook.New(*cfg.Webhook), nil
	case Slack:
		return slack.New(*cfg.Slack), nil
	case Syslog:
		return syslog.New(*cfg.Syslog), nil
	case File:
		return file.New(*cfg.File), nil
	case Stdout:
		if opts.Stdout == nil {
			return nil, fmt.Errorf("sink %s: no standard output was given", opts.Name)
		}
		return file.NewStdout(opts.Stdout), nil
	default:
		return nil, fmt.Errorf("sink %s: %w", opts.Name, cfg.Validate())
	}
}
