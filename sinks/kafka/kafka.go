// Package kafka sends records to a topic of a Kafka cluster.
//
// Accepted means that the leader of the partition and all its in-sync replicas
// have the record (acks=all; let the topic have min.insync.replicas=2 and three
// replicas). A record's key decides its partition as in the Java client, so all
// changes of one event are in one partition, in order, unless Config.Key says
// otherwise.
//
// The client has no idempotent producer: an answer that is lost means that the
// records are appended again. Consumers drop duplicates by the header
// event_uid.
//
// One Send is one request for each batch of each partition; what fails is
// reported record by record, and nothing is tried twice.
package kafka

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
	"github.com/segmentio/kafka-go/compress/snappy"
	"golang.org/x/sync/errgroup"

	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
)

// maxParallel bounds how many partitions are sent to at once, and so the
// connections, of which the client uses one for each request under way.
const maxParallel = 8

// A Sink sends to one topic.
type Sink struct {
	cfg    Config
	codec  kafka.Compression
	schema []byte    // value of a header; empty: no such header
	mime   []byte    // likewise
	arenas sync.Pool // of batches whose requests were all answered

	mu      sync.Mutex // guards the fields below: Probe may run beside Send
	link    *link      // nil: none yet, or the last one failed
	missing time.Time  // when the topic was first found missing; zero: it is there
	hangups int        // connections closed while we logged in, in a row
}

var (
	_ sinks.Sink    = (*Sink)(nil)
	_ sinks.Prober  = (*Sink)(nil)
	_ sinks.Limiter = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It makes no connection. The
// bodies of messages are in the named format, which the headers schema and
// content-type tell consumers.
func New(cfg Config, formatName string) *Sink {
	cfg = cfg.WithDefaults()
	codec, _ := cfg.codec() // the configuration is valid
	plainSnappy()
	return &Sink{
		cfg: cfg, codec: codec,
		schema: []byte(format.Schema(formatName)), mime: []byte(format.ContentType(formatName)),
	}
}

// plainSnappy has the client compress as snappy is meant, and others do: for
// twice the time its default gives a tenth less. It can be set for all only.
//
//nolint:gochecknoglobals // as the client's own setting is
var plainSnappy = sync.OnceFunc(func() { compress.SnappyCodec.Compression = snappy.FasterCompression })

// Close closes the connections.
func (s *Sink) Close() error {
	s.drop()
	return nil
}

// Limits bounds one attempt; a partition's part of it is cut into batches of
// the size that the topic takes.
func (s *Sink) Limits() sinks.Limits {
	return sinks.Limits{Records: s.cfg.MaxBatchRecords, Bytes: int(s.cfg.MaxBatchBytes)}
}

// Send appends the batch to the topic. Records of one partition are appended
// in order, and none after one that was not; partitions do not wait for each
// other.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	if err := ctx.Err(); err != nil {
		return sinks.Receipt{}, fmt.Errorf("produce to %s: %w", s.cfg.Topic, err)
	}
	l, err := s.connected()
	if err != nil {
		return sinks.Receipt{}, err
	}
	partitions, err := s.partitions(ctx, l)
	if err != nil {
		err = s.class(ctx, l, "look up topic "+s.cfg.Topic, err)
		s.drop()
		return sinks.Receipt{}, err
	}
	a := s.arena(batch)
	p := s.plan(batch, partitions, a)
	var g errgroup.Group
	g.SetLimit(maxParallel)
	for _, lane := range p.lanes {
		g.Go(func() error {
			s.produce(ctx, l, lane)
			return nil
		})
	}
	_ = g.Wait() // the lanes hold what became of them
	receipt, err := s.conclude(p, len(batch))
	if err == nil {
		s.arenas.Put(a) // each request was answered: nothing is written any more
	}
	return receipt, err
}

// conclude tells from the lanes what became of n records.
func (s *Sink) conclude(p *plan, n int) (sinks.Receipt, error) {
	failed, stale := p.refused, false
	var answer answers
	for _, lane := range p.lanes {
		for _, c := range lane.sent {
			answer.add(lane.partition, c)
		}
		stale = stale || lane.stale
		maps.Copy(failed, lane.failed)
	}
	if stale {
		s.drop()
	}
	if answer.records > 0 {
		s.works()
	}
	receipt := sinks.Receipt{Answer: answer.String()}
	switch whole := same(failed, n); {
	case len(failed) == 0:
		return receipt, nil
	case whole != nil:
		return receipt, whole
	default:
		return receipt, &sinks.PartialError{Failed: failed}
	}
}

// same returns the error that says what all failures of n records say: the one
// that they share, or one of those that only differ in their words. It returns
// nil when some records were accepted or the failures differ.
func same(failed map[int]error, n int) error {
	if len(failed) < n {
		return nil
	}
	first := failed[0]
	class := sinks.ClassOf(first)
	for _, err := range failed {
		if sinks.ClassOf(err) != class {
			return nil
		}
		verdict := class == sinks.ClassPoison || class == sinks.ClassTooLarge
		if verdict && !errors.Is(err, first) {
			return nil
		}
	}
	return first
}

// connected returns the link to the cluster, a new one after a failure and when
// TLS files have changed. While new files cannot be used (a rotation under way),
// the former link counts.
func (s *Sink) connected() (*link, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil && s.link.files == s.cfg.TLS.Stamps() {
		return s.link, nil
	}
	l, err := newLink(s.cfg)
	switch {
	case err == nil && s.link != nil:
		s.link.close()
	case err != nil && s.link != nil:
		return s.link, nil
	case err != nil:
		return nil, sinks.Halt(err) // files of TLS
	}
	s.link = l
	return s.link, nil
}

// drop closes the link; the next attempt makes a new one.
func (s *Sink) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.link != nil {
		s.link.close()
		s.link = nil
	}
}

// works notes that the cluster has taken records or would.
func (s *Sink) works() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.missing, s.hangups = time.Time{}, 0
}

// partitions returns the topic's partitions in order.
func (s *Sink) partitions(ctx context.Context, l *link) ([]kafka.Partition, error) {
	answer, err := l.client.Metadata(ctx, &kafka.MetadataRequest{Topics: []string{s.cfg.Topic}})
	if err != nil {
		return nil, err
	}
	if len(answer.Topics) != 1 {
		return nil, kafka.UnknownTopicOrPartition
	}
	topic := answer.Topics[0]
	if topic.Error != nil {
		return nil, topic.Error
	}
	if len(topic.Partitions) == 0 {
		return nil, kafka.LeaderNotAvailable // just created
	}
	return topic.Partitions, nil
}

// Probe asks the cluster for the topic, by connections of its own. It cannot
// tell whether we may write.
func (s *Sink) Probe(ctx context.Context) (string, error) {
	l, err := newLink(s.cfg)
	if err != nil {
		return "", sinks.Halt(err)
	}
	defer l.close()
	what := "look up topic " + s.cfg.Topic
	partitions, err := s.partitions(ctx, l)
	if err != nil {
		return "", s.class(ctx, l, what, err)
	}
	headless := 0
	for _, p := range partitions {
		if p.Leader == (kafka.Broker{}) {
			headless++
		}
	}
	if headless > 0 {
		return "", fmt.Errorf("%s: %d of %d partitions have no leader", what, headless, len(partitions))
	}
	s.works()
	return fmt.Sprintf("topic=%s partitions=%d", s.cfg.Topic, len(partitions)), nil
}
