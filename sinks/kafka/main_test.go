package kafka_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const topic = "cwp.findings"

// start runs a cluster that has the topic with the given partitions; none: it
// has no topic.
func start(t *testing.T, partitions int32, opts ...kfake.Opt) *kfake.Cluster {
	t.Helper()
	if partitions > 0 {
		opts = append(opts, kfake.SeedTopics(partitions, topic))
	}
	c, err := kfake.NewCluster(append([]kfake.Opt{kfake.NumBrokers(1)}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// open makes a sink of the cluster.
func open(t *testing.T, c *kfake.Cluster, cfg kafka.Config) *kafka.Sink {
	t.Helper()
	if cfg.Brokers == nil {
		cfg.Brokers = c.ListenAddrs()
	}
	cfg.Topic = topic
	if err := cfg.Validate(); err != nil {
		t.Fatalf("configuration: %v", err)
	}
	s := kafka.New(cfg, "ecs")
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
	})
	return s
}

// send sends with a limit of time.
func send(t *testing.T, s *kafka.Sink, batch []sinks.Message) (sinks.Receipt, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	return s.Send(ctx, batch)
}

// accepted sends and wants success.
func accepted(t *testing.T, s *kafka.Sink, batch []sinks.Message) sinks.Receipt {
	t.Helper()
	receipt, err := send(t, s, batch)
	if err != nil {
		t.Fatalf("Send: %v", err)
	}
	return receipt
}

// read returns the first n records of the topic, by another client, and fails
// when there are fewer or more.
func read(t *testing.T, c *kfake.Cluster, n int, opts ...kgo.Opt) []*kgo.Record {
	t.Helper()
	client, err := kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(c.ListenAddrs()...), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.FetchMaxWait(10 * time.Millisecond),
	}, opts...)...)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var records []*kgo.Record
	for len(records) < n && ctx.Err() == nil {
		records = append(records, client.PollFetches(ctx).Records()...)
	}
	if stored := stored(c); len(records) != n || stored != n {
		t.Fatalf("read %d records of %d, want %d", len(records), stored, n)
	}
	return records
}

// stored is how many records the cluster has.
func stored(c *kfake.Cluster) int {
	var n int64
	for _, p := range c.PartitionInfos(topic) {
		n += p.HighWatermark
	}
	return int(n)
}

// header returns the value of a header, "-" when there is none.
func header(r *kgo.Record, key string) string {
	for _, h := range r.Headers {
		if h.Key == key {
			return string(h.Value)
		}
	}
	return "-"
}

// partitionOf is where the Java client puts a key, as franz-go knows it.
func partitionOf(key string, partitions int) int {
	return kgo.StickyKeyPartitioner(nil).ForTopic(topic).Partition(&kgo.Record{Key: []byte(key)}, partitions)
}

// changes returns a batch in which each of the events 1 to keys has n changes,
// interleaved.
func changes(keys, n int) []sinks.Message {
	var batch []sinks.Message
	for sequence := range n {
		for _, m := range sinktest.Messages(keys) {
			m.Record.Sequence = uint64(sequence + 1)
			m.Record.UID = m.Record.Key.EventUID(m.Record.Sequence, m.Record.Revision)
			m.Body = fmt.Appendf(nil, `{"uid":%q,"sequence":%d}`, m.Record.UID, m.Record.Sequence)
			batch = append(batch, m)
		}
	}
	return batch
}

// failures returns what failed by index, nil unless some records were accepted.
func failures(err error) map[int]error {
	if p, ok := errors.AsType[*sinks.PartialError](err); ok {
		return p.Failed
	}
	return nil
}

// answer makes the cluster answer produce requests with code while it is not
// zero.
func answer(c *kfake.Cluster, code *atomic.Int32, edit func(*kmsg.ProduceResponseTopicPartition)) {
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		if code.Load() == 0 {
			return nil, nil, false
		}
		req := r.(*kmsg.ProduceRequest)
		res := req.ResponseKind().(*kmsg.ProduceResponse)
		for _, topic := range req.Topics {
			one := kmsg.NewProduceResponseTopic()
			one.Topic = topic.Topic
			for _, partition := range topic.Partitions {
				p := kmsg.NewProduceResponseTopicPartition()
				p.Partition, p.ErrorCode = partition.Partition, int16(code.Load())
				if edit != nil {
					edit(&p)
				}
				one.Partitions = append(one.Partitions, p)
			}
			res.Topics = append(res.Topics, one)
		}
		return res, nil, true
	})
}

// certificates makes an authority and a certificate for 127.0.0.1, and returns
// the server's configuration and the authority's file.
func certificates(t *testing.T) (server *tls.Config, caFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(caFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS12}, caFile
}

// overTLS writes addresses as those of brokers with TLS.
func overTLS(addresses []string) []string {
	all := slices.Clone(addresses)
	for i := range all {
		all[i] = "tls://" + all[i]
	}
	return all
}

// A cutter loses answers: while armed, the next thing a broker writes closes
// the connection instead.
type cutter struct{ armed atomic.Bool }

func (c *cutter) listen(network, address string) (net.Listener, error) {
	l, err := net.Listen(network, address)
	return cutListener{l, c}, err
}

type cutListener struct {
	net.Listener
	cutter *cutter
}

func (l cutListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return cutConn{c, l.cutter}, nil
}

type cutConn struct {
	net.Conn
	cutter *cutter
}

func (c cutConn) Write(b []byte) (int, error) {
	if c.cutter.armed.Swap(false) {
		return 0, c.Close()
	}
	return c.Conn.Write(b)
}

// holds fails when a text of err or its causes has the secret.
func holds(t *testing.T, err error) {
	t.Helper()
	if bytes.Contains(fmt.Appendf(nil, "%+v", err), []byte(sinktest.Secret)) {
		t.Errorf("shows the secret: %v", err)
	}
}
