package kafka_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

func TestContract(t *testing.T) {
	sasl := kafka.SASL{Mechanism: kafka.MechanismPlain, Username: "relay", Password: secret.New(sinktest.Secret), AllowPlaintext: true}
	t.Run("working", func(t *testing.T) {
		c := start(t, 4, kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", sinktest.Secret))
		sinktest.Working(t, func(*testing.T) sinks.Sink {
			return kafka.New(kafka.Config{Brokers: c.ListenAddrs(), Topic: topic, SASL: sasl}, "ecs")
		})
	})
	t.Run("network", func(t *testing.T) {
		sinktest.Network(t, func(address string) sinks.Sink {
			return kafka.New(kafka.Config{Brokers: []string{address}, Topic: topic, SASL: sasl}, "ecs")
		})
	})
}

// What a reader gets is what was sent, whatever the compression, and where the
// Java client would have put it.
func TestReaderGetsRecords(t *testing.T) {
	const partitions = 5
	for _, codec := range []string{
		kafka.CompressionLZ4, kafka.CompressionZstd, kafka.CompressionSnappy, kafka.CompressionGzip, kafka.CompressionNone,
	} {
		for _, key := range []string{kafka.KeyFinding, kafka.KeyEvent} {
			t.Run(codec+" "+key, func(t *testing.T) {
				c := start(t, partitions)
				s := open(t, c, kafka.Config{Compression: codec, Key: key})
				batch := sinktest.Messages(100)
				accepted(t, s, batch)
				byUID := map[string]*kgo.Record{}
				for _, r := range read(t, c, len(batch)) {
					byUID[header(r, "event_uid")] = r
				}
				for i, m := range batch {
					r := byUID[m.Record.UID]
					if r == nil {
						t.Fatalf("record %d is missing", i)
					}
					want := m.Record.Key.FindingUID()
					if key == kafka.KeyEvent {
						want = m.Record.UID
					}
					if string(r.Key) != want || int(r.Partition) != partitionOf(want, partitions) {
						t.Errorf("record %d has key %q in partition %d, want %q in %d", i, r.Key, r.Partition, want, partitionOf(want, partitions))
					}
					if !bytes.Equal(r.Value, m.Body) {
						t.Errorf("record %d is %s, want %s", i, r.Value, m.Body)
					}
					if !r.Timestamp.Equal(m.Record.ObservedAt) {
						t.Errorf("record %d is of %s, want %s", i, r.Timestamp, m.Record.ObservedAt)
					}
					wantHeaders := []kgo.RecordHeader{
						{Key: "event_uid", Value: []byte(m.Record.UID)},
						{Key: "action", Value: []byte("risk-process-detected")},
						{Key: "schema", Value: []byte("ecs/9.4.0")},
						{Key: "content-type", Value: []byte("application/json")},
					}
					if diff := cmp.Diff(wantHeaders, r.Headers); diff != "" {
						t.Errorf("headers of record %d (-want +got):\n%s", i, diff)
					}
				}
			})
		}
	}
}

// All changes of one event are read in the order in which they were sent,
// within a Send and over several.
func TestOrderOfKey(t *testing.T) {
	c := start(t, 3, kfake.NumBrokers(3))
	s := open(t, c, kafka.Config{MaxMessageBytes: 2048}) // several batches for each partition
	all := changes(20, 12)
	for part := range slices.Chunk(all, 80) {
		accepted(t, s, part)
	}
	next := map[string]int{}
	for _, r := range byOffset(read(t, c, len(all))) {
		next[string(r.Key)]++
		if want := fmt.Sprintf(`"sequence":%d}`, next[string(r.Key)]); !strings.HasSuffix(string(r.Value), want) {
			t.Fatalf("partition %d offset %d is %s, want %s", r.Partition, r.Offset, r.Value, want)
		}
	}
}

func byOffset(records []*kgo.Record) []*kgo.Record {
	slices.SortFunc(records, func(a, b *kgo.Record) int { return int(a.Offset - b.Offset) })
	return records
}

// The receipt names partitions and offsets.
func TestReceipt(t *testing.T) {
	c := start(t, 1)
	s := open(t, c, kafka.Config{})
	accepted(t, s, sinktest.Messages(5))
	if got, want := accepted(t, s, sinktest.Messages(3)).Answer, "partition=0 offset=5-7"; got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	many := start(t, 10)
	got := accepted(t, open(t, many, kafka.Config{}), sinktest.Messages(100)).Answer
	if !strings.HasSuffix(got, ", and 4 more; 100 records") || strings.Count(got, "partition=") != 6 {
		t.Errorf("answer %q, want six of ten partitions", got)
	}
}

// Requests ask for all replicas, and leave the leader time to wait for them.
func TestWaitsForReplicas(t *testing.T) {
	c := start(t, 1)
	var acks, millis atomic.Int64
	c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
		req := r.(*kmsg.ProduceRequest)
		acks.Store(int64(req.Acks))
		millis.Store(int64(req.TimeoutMillis))
		return nil, nil, false
	})
	s := open(t, c, kafka.Config{})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute) // as delivery does
	defer cancel()
	if _, err := s.Send(ctx, sinktest.Messages(1)); err != nil {
		t.Fatal(err)
	}
	if acks.Load() != -1 || millis.Load() < 24_000 || millis.Load() > 25_000 {
		t.Errorf("acks %d and %d ms, want -1 (all) and 25 s", acks.Load(), millis.Load())
	}
}

// Every row of the table of answers.
func TestAnswers(t *testing.T) {
	rows := map[int16]sinks.Class{10: sinks.ClassTooLarge, 18: sinks.ClassTooLarge, 32: sinks.ClassPoison, 87: sinks.ClassPoison}
	for _, code := range []int16{17, 21, 29, 30, 31, 33, 34, 35, 42, 43, 44, 53, 54, 58, 76} {
		rows[code] = sinks.ClassHalt
	}
	state := []int16{3, 5, 6, 7, 8, 9, 13, 14, 15, 16, 19, 20, 41, 56, 74, 75, 89} // of the cluster: no event is to blame
	c := start(t, 1)
	var code atomic.Int32
	answer(c, &code, nil)
	for n := int16(-1); n <= 133; n++ {
		if n == 0 {
			continue
		}
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			s := open(t, c, kafka.Config{})
			code.Store(int32(n))
			receipt, err := send(t, s, sinktest.Messages(1))
			if got, want := sinks.ClassOf(err), rows[n]; err == nil || got != want {
				t.Errorf("class %v of %v, want %v", got, err, want)
			}
			if got, want := sinks.IsAnswer(err), !slices.Contains(state, n); got != want {
				t.Errorf("IsAnswer %t of %v, want %t", got, err, want)
			}
			if receipt.Answer != "" {
				t.Errorf("receipt %q, want none", receipt.Answer)
			}
			code.Store(0)
			accepted(t, s, sinktest.Messages(1))
		})
	}
}

// A verdict that names no record has the batch halved; alone it is poison.
func TestVerdictWithoutName(t *testing.T) {
	c := start(t, 1)
	var code atomic.Int32
	answer(c, &code, nil)
	s := open(t, c, kafka.Config{})
	for _, n := range []int32{10, 18, 32, 87} {
		code.Store(n)
		_, err := send(t, s, sinktest.Messages(4))
		if got := sinks.ClassOf(err); got != sinks.ClassTooLarge {
			t.Errorf("code %d: class %v of %v, want too_large, which halves", n, got, err)
		}
	}
}

// Of a batch in which the broker names bad records, those alone are poison.
func TestNamedRecords(t *testing.T) {
	c := start(t, 1)
	var code atomic.Int32
	code.Store(87)
	answer(c, &code, func(p *kmsg.ProduceResponseTopicPartition) {
		for _, i := range []int32{1, 3, 99, -1} { // two of them are not in the batch
			e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
			e.RelativeOffset, e.ErrorMessage = i, new("bad\nkey")
			p.ErrorRecords = append(p.ErrorRecords, e)
		}
	})
	s := open(t, c, kafka.Config{})
	_, err := send(t, s, sinktest.Messages(5))
	want := map[int]sinks.Class{0: sinks.ClassRetry, 1: sinks.ClassPoison, 2: sinks.ClassRetry, 3: sinks.ClassPoison, 4: sinks.ClassRetry}
	if diff := cmp.Diff(want, classes(err)); diff != "" {
		t.Fatalf("classes (-want +got):\n%s", diff)
	}
	if text := failures(err)[1].Error(); !strings.Contains(text, "bad key") || strings.Contains(text, "\n") {
		t.Errorf("error %q, want the broker's reason in one line", text)
	}
}

// Names of records that were not sent name none.
func TestNamedRecordsOfNoBatch(t *testing.T) {
	c := start(t, 1)
	var code atomic.Int32
	code.Store(87)
	answer(c, &code, func(p *kmsg.ProduceResponseTopicPartition) {
		e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
		e.RelativeOffset = 5
		p.ErrorRecords = append(p.ErrorRecords, e)
	})
	_, err := send(t, open(t, c, kafka.Config{}), sinktest.Messages(5))
	if got := sinks.ClassOf(err); got != sinks.ClassTooLarge {
		t.Errorf("class %v of %v, want too_large, which halves", got, err)
	}
}

func classes(err error) map[int]sinks.Class {
	all := map[int]sinks.Class{}
	for i, e := range failures(err) {
		all[i] = sinks.ClassOf(e)
	}
	return all
}

// A partition that fails takes only its own records with it.
func TestPartitionFailsAlone(t *testing.T) {
	const partitions = 3
	c := start(t, partitions)
	s := open(t, c, kafka.Config{})
	batch := sinktest.Messages(60)
	bad := map[int]bool{}
	for i, m := range batch {
		bad[i] = partitionOf(m.Record.Key.FindingUID(), partitions) == 1
	}
	for _, e := range []*kerr.Error{kerr.NotEnoughReplicas, kerr.TopicAuthorizationFailed, kerr.UnknownServerError} {
		c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Partitions: []int32{1}, Err: e})
		before := stored(c)
		receipt, err := send(t, s, batch)
		failed := failures(err)
		for i := range batch {
			if (failed[i] != nil) != bad[i] {
				t.Fatalf("%v: record %d: %v, in the failing partition: %t", e, i, failed[i], bad[i])
			}
		}
		if got := stored(c) - before; got != len(batch)-len(failed) || got == 0 {
			t.Errorf("%v: %d are stored, %d failed of %d", e, got, len(failed), len(batch))
		}
		if strings.Contains(receipt.Answer, "partition=1") || !strings.Contains(receipt.Answer, "partition=2 ") {
			t.Errorf("%v: receipt %q", e, receipt.Answer)
		}
	}
	before := stored(c)
	accepted(t, s, batch)
	if got := stored(c) - before; got != len(batch) {
		t.Errorf("%d are stored of %d", got, len(batch))
	}
}

// After a batch of a partition that failed, none behind it is sent.
func TestNothingOvertakesInPartition(t *testing.T) {
	c := start(t, 1)
	s := open(t, c, kafka.Config{MaxMessageBytes: 2048})
	batch := changes(2, 30)
	var requests, code atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		if requests.Add(1) == 2 {
			code.Store(10)
		}
		return nil, nil, false
	})
	answer(c, &code, nil)
	_, err := send(t, s, batch)
	failed := failures(err)
	n := stored(c)
	if n == 0 || n == len(batch) || requests.Load() != 2 {
		t.Fatalf("%d stored in %d requests, want the first batch only", n, requests.Load())
	}
	kinds := map[sinks.Class]int{}
	for i := range batch {
		if (i < n) != (failed[i] == nil) {
			t.Fatalf("%d stored, record %d: %v", n, i, failed[i])
		}
		if failed[i] != nil {
			kinds[sinks.ClassOf(failed[i])]++
		}
	}
	if kinds[sinks.ClassTooLarge] == 0 || kinds[sinks.ClassRetry] == 0 || len(kinds) != 2 {
		t.Errorf("classes %v, want the batch too large and the rest to be sent again", kinds)
	}
}

// A record larger than the topic takes is refused before it is sent, and
// nothing of its key overtakes it.
func TestTooLargeRecord(t *testing.T) {
	c := start(t, 2)
	s := open(t, c, kafka.Config{MaxMessageBytes: 4096})
	for name, at := range map[string]int{"first": 0, "middle": 4, "last": 8, "only": -1} {
		t.Run(name, func(t *testing.T) {
			batch := changes(3, 3)
			if at < 0 {
				batch, at = batch[:1], 0
			}
			batch[at].Body = bytes.Repeat([]byte("x"), 5000)
			before := stored(c)
			_, err := send(t, s, batch)
			want := map[int]sinks.Class{at: sinks.ClassTooLarge}
			for i := at + 3; i < len(batch); i += 3 { // of the same key
				want[i] = sinks.ClassRetry
			}
			if len(batch) == 1 {
				if got := sinks.ClassOf(err); got != sinks.ClassTooLarge {
					t.Errorf("class %v of %v, want too_large", got, err)
				}
			} else if diff := cmp.Diff(want, classes(err)); diff != "" {
				t.Errorf("classes (-want +got):\n%s", diff)
			}
			if got := stored(c) - before; got != len(batch)-len(want) {
				t.Errorf("%d stored, want %d", got, len(batch)-len(want))
			}
		})
	}
}

// No batch is larger than max_message_bytes, even if nothing can be
// compressed, and none is much smaller than it could be.
func TestBatchesFit(t *testing.T) {
	const limit = 100_000
	c := start(t, 1, kfake.BrokerConfigs(map[string]string{"message.max.bytes": fmt.Sprint(limit)}))
	var requests atomic.Int32
	c.ControlKey(int16(kmsg.Produce), func(kmsg.Request) (kmsg.Response, error, bool) {
		c.KeepControl()
		requests.Add(1)
		return nil, nil, false
	})
	s := open(t, c, kafka.Config{MaxMessageBytes: limit, Compression: kafka.CompressionNone})
	batch := sinktest.Messages(100)
	random := rand.New(rand.NewPCG(1, 2))
	total := 0
	for i := range batch {
		batch[i].Body = make([]byte, 1+random.IntN(limit-1000))
		total += len(batch[i].Body)
	}
	accepted(t, s, batch)
	if least := total / limit; int(requests.Load()) > 2*least {
		t.Errorf("%d requests for %d bytes", requests.Load(), total)
	}
	read(t, c, len(batch))
}

// A deletion is never sent by mistake.
func TestEmptyBodyIsRefused(t *testing.T) {
	c := start(t, 1)
	s := open(t, c, kafka.Config{})
	batch := sinktest.Messages(3)
	batch[1].Body = nil
	_, err := send(t, s, batch)
	if diff := cmp.Diff(map[int]sinks.Class{1: sinks.ClassPoison}, classes(err)); diff != "" {
		t.Errorf("classes (-want +got):\n%s", diff)
	}
	read(t, c, 2)
}

// An answer that is lost means the records again, with the same uid.
func TestLostAnswer(t *testing.T) {
	var cut cutter
	c := start(t, 1, kfake.ListenFn(cut.listen))
	s := open(t, c, kafka.Config{})
	batch := sinktest.Messages(10)
	c.Fault(kfake.Fault{Keys: []kmsg.Key{kmsg.Produce}, Observe: true, When: func(kmsg.Request) bool {
		cut.armed.Store(true)
		return true
	}})
	_, err := send(t, s, batch)
	if err == nil || sinks.ClassOf(err) != sinks.ClassRetry || sinks.IsAnswer(err) || failures(err) != nil {
		t.Fatalf("error %v, want one of the network", err)
	}
	if n := stored(c); n != 10 {
		t.Fatalf("%d stored, want 10: the answer was to be lost, not the request", n)
	}
	accepted(t, s, batch)
	count := map[string]int{}
	for _, r := range read(t, c, 20) {
		count[header(r, "event_uid")]++
	}
	for _, uid := range sinktest.UIDs(batch) {
		if count[uid] != 2 {
			t.Errorf("%s is there %d times, want 2", uid, count[uid])
		}
	}
}

// When a leader moves, one attempt fails and the next finds the new one.
func TestLeaderMoves(t *testing.T) {
	c := start(t, 2, kfake.NumBrokers(3))
	s := open(t, c, kafka.Config{})
	batch := sinktest.Messages(20)
	accepted(t, s, batch)
	sent := len(batch)
	for range 5 {
		old := c.LeaderFor(topic, 0)
		if err := c.MoveTopicPartition(topic, 0, (old+1)%3); err != nil {
			t.Fatal(err)
		}
		_, err := send(t, s, batch)
		for _, e := range failures(err) {
			if sinks.ClassOf(e) != sinks.ClassRetry || sinks.IsAnswer(e) {
				t.Fatalf("error %v, want one that is tried again and blames no record", e)
			}
		}
		if err == nil {
			t.Fatal("the old leader took records")
		}
		sent += len(batch) - len(failures(err))
		start := time.Now()
		accepted(t, s, batch)
		if took := time.Since(start); took > 15*time.Second { // at once, on a machine that may be busy
			t.Errorf("found the new leader after %s", took)
		}
		sent += len(batch)
	}
	if n := stored(c); n != sent {
		t.Errorf("%d stored, want %d", n, sent)
	}
}

// A broker that is gone and comes back elsewhere is found by the others.
func TestBrokerLost(t *testing.T) {
	c := start(t, 3, kfake.NumBrokers(3))
	s := open(t, c, kafka.Config{})
	batch := sinktest.Messages(30)
	accepted(t, s, batch)
	if err := c.RemoveNode(c.LeaderFor(topic, 0)); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 5 {
		if _, err = send(t, s, batch); err == nil {
			return
		}
		for _, e := range failures(err) {
			if sinks.ClassOf(e) != sinks.ClassRetry {
				t.Fatalf("class %v of %v", sinks.ClassOf(e), e)
			}
		}
	}
	t.Errorf("still not delivered: %v", err)
}

// A missing topic is waited for, then halts the sink, and is found when it is
// there.
func TestMissingTopic(t *testing.T) {
	c := start(t, 0)
	grace := 300 * time.Millisecond
	s := open(t, c, kafka.Config{MissingTopicGrace: grace})
	begun := time.Now()
	_, err := send(t, s, sinktest.Messages(2))
	if got := sinks.ClassOf(err); err == nil || (got != sinks.ClassRetry && time.Since(begun) < grace) || sinks.ClassOf(err) == sinks.ClassPoison {
		t.Fatalf("class %v of %v, want retry", got, err)
	}
	if !strings.Contains(err.Error(), topic) {
		t.Errorf("error %q does not name the topic", err)
	}
	for deadline := time.Now().Add(20 * time.Second); sinks.ClassOf(err) != sinks.ClassHalt; {
		if _, err = send(t, s, sinktest.Messages(2)); err == nil || time.Now().After(deadline) {
			t.Fatalf("class %v of %v, want halt", sinks.ClassOf(err), err)
		}
	}
	if took := time.Since(begun); took < grace {
		t.Errorf("halted after %s, want %s of grace", took, grace)
	}
	if _, err = s.Probe(t.Context()); sinks.ClassOf(err) != sinks.ClassHalt {
		t.Fatalf("Probe: class %v of %v, want halt", sinks.ClassOf(err), err)
	}
	if err := c.CreateTopic(topic, 2, nil); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Probe(t.Context()); err != nil || got != "topic=cwp.findings partitions=2" {
		t.Errorf("Probe: %q, %v", got, err)
	}
	accepted(t, s, sinktest.Messages(2))
	if err := c.DeleteTopic(topic); err != nil {
		t.Fatal(err)
	}
	if _, err = send(t, s, sinktest.Messages(2)); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
		t.Errorf("class %v of %v: the time of a topic that was there begins anew", sinks.ClassOf(err), err)
	}
}

// What the brokers say of the topic counts as what they say of records.
func TestAnswersOfMetadata(t *testing.T) {
	for code, want := range map[int16]sinks.Class{
		3: sinks.ClassRetry, 5: sinks.ClassRetry, 17: sinks.ClassHalt, 29: sinks.ClassHalt, -1: sinks.ClassRetry,
	} {
		t.Run(fmt.Sprint(code), func(t *testing.T) {
			c := start(t, 1)
			c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
				c.KeepControl()
				res := r.(*kmsg.MetadataRequest).ResponseKind().(*kmsg.MetadataResponse)
				one := kmsg.NewMetadataResponseTopic()
				one.Topic, one.ErrorCode = new(topic), code
				res.Topics = append(res.Topics, one)
				return res, nil, true
			})
			s := open(t, c, kafka.Config{})
			_, err := send(t, s, sinktest.Messages(2))
			if got := sinks.ClassOf(err); err == nil || got != want {
				t.Errorf("class %v of %v, want %v", got, err, want)
			}
			if _, err := s.Probe(t.Context()); err == nil || sinks.ClassOf(err) != want {
				t.Errorf("Probe: class %v of %v, want %v", sinks.ClassOf(err), err, want)
			}
		})
	}
}

// A broker that takes a request and never answers costs one attempt.
func TestSilentBroker(t *testing.T) {
	for name, key := range map[string]kmsg.Key{"produce": kmsg.Produce, "metadata": kmsg.Metadata, "login": kmsg.SASLAuthenticate} {
		t.Run(name, func(t *testing.T) {
			c := start(t, 1, kfake.EnableSASL(), kfake.Superuser("SCRAM-SHA-256", "relay", sinktest.Secret))
			var silent atomic.Bool
			c.ControlKey(int16(key), func(kmsg.Request) (kmsg.Response, error, bool) {
				silent.Store(true)
				return nil, nil, true
			})
			s := open(t, c, kafka.Config{SASL: kafka.SASL{Mechanism: kafka.MechanismScramSHA256, Username: "relay", Password: secret.New(sinktest.Secret)}})
			// A busy machine may take longer until it is silent.
			for within := 100 * time.Millisecond; !silent.Load(); within *= 2 {
				ctx, cancel := context.WithTimeout(t.Context(), within)
				_, err := s.Send(ctx, sinktest.Messages(2))
				cancel()
				if err == nil && silent.Load() {
					break // it was silent to the former attempt, after that had given up
				}
				if !errors.Is(err, context.DeadlineExceeded) || sinks.IsAnswer(err) {
					t.Fatalf("error %v, want the deadline", err)
				}
			}
			accepted(t, s, sinktest.Messages(2))
		})
	}
}

func TestLogin(t *testing.T) {
	for name, mechanism := range map[string]string{
		kafka.MechanismPlain: "PLAIN", kafka.MechanismScramSHA256: "SCRAM-SHA-256", kafka.MechanismScramSHA512: "SCRAM-SHA-512",
	} {
		server, caFile := certificates(t)
		c := start(t, 2, kfake.EnableSASL(), kfake.Superuser(mechanism, "relay", sinktest.Secret), kfake.TLS(server))
		cfg := kafka.Config{Brokers: overTLS(c.ListenAddrs()), SASL: kafka.SASL{Mechanism: name, Username: "relay", Password: secret.New(sinktest.Secret)}}
		cfg.TLS.CAFile = caFile
		t.Run(name, func(t *testing.T) {
			s := open(t, c, cfg)
			accepted(t, s, sinktest.Messages(10))
			if n := stored(c); n != 10 {
				t.Errorf("%d stored, want 10", n)
			}
		})
		for wrong, edit := range map[string]func(*kafka.SASL){
			"password": func(s *kafka.SASL) { s.Password = secret.New(sinktest.Secret + "x") },
			"user":     func(s *kafka.SASL) { s.Username = "nobody" },
		} {
			t.Run(name+" with a wrong "+wrong, func(t *testing.T) {
				cfg := cfg
				edit(&cfg.SASL)
				s := open(t, c, cfg)
				var got []sinks.Class
				for range 4 { // this cluster refuses by closing the connection
					_, err := send(t, s, sinktest.Messages(1))
					holds(t, err)
					got = append(got, sinks.ClassOf(err))
				}
				if want := []sinks.Class{sinks.ClassRetry, sinks.ClassRetry, sinks.ClassHalt, sinks.ClassHalt}; !slices.Equal(got, want) {
					t.Errorf("classes %v, want %v", got, want)
				}
			})
		}
	}
}

// A broker that says that it refuses us halts the sink at once.
func TestLoginRefused(t *testing.T) {
	for _, code := range []int16{33, 34, 58} {
		c := start(t, 1, kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"))
		key := kmsg.SASLAuthenticate
		if code == 33 {
			key = kmsg.SASLHandshake
		}
		c.ControlKey(int16(key), func(r kmsg.Request) (kmsg.Response, error, bool) {
			res := r.ResponseKind()
			switch res := res.(type) {
			case *kmsg.SASLHandshakeResponse:
				res.ErrorCode = code
			case *kmsg.SASLAuthenticateResponse:
				res.ErrorCode, res.ErrorMessage = code, new("no: "+sinktest.Secret+strings.Repeat("\nlong", 1000))
			}
			return res, nil, true
		})
		s := open(t, c, kafka.Config{SASL: kafka.SASL{
			Mechanism: kafka.MechanismPlain, Username: "relay", Password: secret.New(sinktest.Secret), AllowPlaintext: true,
		}})
		_, err := send(t, s, sinktest.Messages(1))
		if got := sinks.ClassOf(err); got != sinks.ClassHalt {
			t.Errorf("code %d: class %v of %v, want halt", code, got, err)
		}
		for e := err; e != nil; e = errors.Unwrap(e) {
			holds(t, e)
			if len(e.Error()) > 1000 || strings.Contains(e.Error(), "\n") {
				t.Errorf("code %d: %d bytes of error, or several lines", code, len(e.Error()))
			}
		}
	}
}

func TestTLS(t *testing.T) {
	server, caFile := certificates(t)
	_, otherCA := certificates(t)
	c := start(t, 1, kfake.TLS(server))
	for name, x := range map[string]struct {
		edit func(*kafka.Config)
		want sinks.Class
		ok   bool
	}{
		"right":              {edit: func(c *kafka.Config) { c.TLS.CAFile = caFile }, ok: true},
		"not verified":       {edit: func(c *kafka.Config) { c.TLS.InsecureSkipVerify = true }, ok: true},
		"system authorities": {edit: func(*kafka.Config) {}, want: sinks.ClassHalt},
		"other authority":    {edit: func(c *kafka.Config) { c.TLS.CAFile = otherCA }, want: sinks.ClassHalt},
		"other name":         {edit: func(c *kafka.Config) { c.TLS.CAFile, c.TLS.ServerName = caFile, "kafka.example" }, want: sinks.ClassHalt},
		"no such file":       {edit: func(c *kafka.Config) { c.TLS.CAFile = caFile + ".gone" }, want: sinks.ClassHalt},
		"without TLS":        {edit: func(k *kafka.Config) { k.Brokers = c.ListenAddrs() }, want: sinks.ClassRetry},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := kafka.Config{Brokers: overTLS(c.ListenAddrs())}
			x.edit(&cfg)
			s := open(t, c, cfg)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			_, err := s.Send(ctx, sinktest.Messages(2))
			if (err == nil) != x.ok || sinks.ClassOf(err) != x.want {
				t.Errorf("class %v of %v, want %v", sinks.ClassOf(err), err, x.want)
			}
			_, err = s.Probe(ctx)
			if (err == nil) != x.ok || sinks.ClassOf(err) != x.want {
				t.Errorf("Probe: class %v of %v, want %v", sinks.ClassOf(err), err, x.want)
			}
		})
	}
}

// A broker that closes the connection at once does not say why; the error says
// what is mostly the reason.
func TestHintsAtLogin(t *testing.T) {
	c := start(t, 1, kfake.EnableSASL(), kfake.Superuser("PLAIN", "relay", "right"))
	_, err := send(t, open(t, c, kafka.Config{}), sinktest.Messages(1))
	if err == nil || sinks.ClassOf(err) != sinks.ClassRetry || !strings.Contains(err.Error(), "sasl") {
		t.Errorf("class %v of %v, want retry and a hint", sinks.ClassOf(err), err)
	}
}

// Probe says when records of some partitions would not be taken.
func TestProbeSeesMissingLeader(t *testing.T) {
	c := start(t, 1)
	c.ControlKey(int16(kmsg.Metadata), func(r kmsg.Request) (kmsg.Response, error, bool) {
		res := r.(*kmsg.MetadataRequest).ResponseKind().(*kmsg.MetadataResponse)
		one := kmsg.NewMetadataResponseTopic()
		one.Topic = new(topic)
		for i := range int32(2) {
			p := kmsg.NewMetadataResponseTopicPartition()
			p.Partition, p.Leader, p.ErrorCode = i, -1, 5
			one.Partitions = append(one.Partitions, p)
		}
		res.Topics = append(res.Topics, one)
		return res, nil, true
	})
	s := open(t, c, kafka.Config{})
	_, err := s.Probe(t.Context())
	if err == nil || sinks.ClassOf(err) != sinks.ClassRetry || !strings.HasSuffix(err.Error(), "2 of 2 partitions have no leader") {
		t.Errorf("error %v", err)
	}
}

func TestLimits(t *testing.T) {
	got := kafka.New(kafka.Config{MaxBatchRecords: 7}, "ecs").Limits()
	if want := (sinks.Limits{Records: 7, Bytes: 16 << 20}); got != want {
		t.Errorf("limits %+v, want %+v", got, want)
	}
}
