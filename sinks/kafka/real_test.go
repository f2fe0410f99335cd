package kafka_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// A broker is a real Apache Kafka of one process: broker and controller.
type broker struct {
	t     *testing.T
	dir   string
	java  string
	jars  string
	kcat  string
	plain string // addresses
	sasl  string
	ca    string
	cmd   *exec.Cmd
	admin *kgo.Client
}

const realPassword = "r3al-passw0rd"

func startBroker(t *testing.T) *broker {
	t.Helper()
	home := sinktest.RealFolder(t, "CWPRELAY_KAFKA_HOME", "the jars of .ci/real/kafka/pom.xml (mvn dependency:copy-dependencies) and name their folder by CWPRELAY_KAFKA_HOME")
	b := &broker{
		t: t, dir: t.TempDir(), jars: filepath.Join(home, "*"),
		java:  sinktest.RealProgram(t, "java", "a Java runtime of version 17 (openjdk-17-jre-headless)"),
		kcat:  sinktest.RealProgram(t, "kcat", "kcat"),
		plain: sinktest.FreeAddress(t), sasl: sinktest.FreeAddress(t),
	}
	server, ca := certificates(t)
	b.ca = ca
	cert := server.Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(cert.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	store := append(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]})...)
	b.write("store.pem", string(store))
	controller := sinktest.FreeAddress(t)
	b.write("server.properties", strings.NewReplacer("$OPEN", b.plain, "$CLOSED", b.sasl, "$CONTROLLER", controller, "$DIR", b.dir, "$PASSWORD", realPassword).Replace(`
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@$CONTROLLER
listeners=OPEN://$OPEN,CLOSED://$CLOSED,CONTROLLER://$CONTROLLER
advertised.listeners=OPEN://$OPEN,CLOSED://$CLOSED
inter.broker.listener.name=OPEN
controller.listener.names=CONTROLLER
listener.security.protocol.map=OPEN:PLAINTEXT,CLOSED:SASL_SSL,CONTROLLER:PLAINTEXT
sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512
listener.name.closed.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_relay="$PASSWORD";
listener.name.closed.scram-sha-256.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
listener.name.closed.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
ssl.keystore.type=PEM
ssl.keystore.location=$DIR/store.pem
auto.create.topics.enable=false
offsets.topic.replication.factor=1
group.initial.rebalance.delay.ms=0
log.dirs=$DIR/logs
`))
	out, err := exec.CommandContext(t.Context(), b.java, "-cp", b.jars, "kafka.tools.StorageTool", "format", "-t", "4L6g3nShT-eMCtK--X86sw", "-c", filepath.Join(b.dir, "server.properties"),
		"--add-scram", "SCRAM-SHA-256=[name=relay,password="+realPassword+"]", "--add-scram", "SCRAM-SHA-512=[name=relay,password="+realPassword+"]").CombinedOutput()
	if err != nil {
		t.Fatalf("format the storage: %v\n%s", err, out)
	}
	if b.admin, err = kgo.NewClient(kgo.SeedBrokers(b.plain)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.admin.Close)
	b.start()
	t.Cleanup(b.kill)
	return b
}

func (b *broker) write(name, text string) {
	b.t.Helper()
	if err := os.WriteFile(filepath.Join(b.dir, name), []byte(text), 0o600); err != nil {
		b.t.Fatal(err)
	}
}

func (b *broker) start() {
	b.t.Helper()
	log, err := os.OpenFile(filepath.Join(b.dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		b.t.Fatal(err)
	}
	defer log.Close()
	b.cmd = exec.CommandContext(context.WithoutCancel(b.t.Context()), b.java, "-Xmx512m", "-cp", b.jars, "kafka.Kafka", filepath.Join(b.dir, "server.properties"))
	b.cmd.Stdout, b.cmd.Stderr = log, log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.t.Context(), time.Second)
		_, err := kmsg.NewPtrMetadataRequest().RequestWith(ctx, b.admin)
		cancel()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			text, _ := os.ReadFile(filepath.Join(b.dir, "log"))
			b.t.Fatalf("the broker does not answer: %v\n%s", err, text[max(0, len(text)-3000):])
		}
	}
}

func (b *broker) kill() {
	if b.cmd.ProcessState == nil {
		_ = b.cmd.Process.Kill()
		_ = b.cmd.Wait()
	}
}

// topic makes a topic with settings.
func (b *broker) topic(name string, partitions int32, settings map[string]string) {
	b.t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	one := kmsg.NewCreateTopicsRequestTopic()
	one.Topic, one.NumPartitions, one.ReplicationFactor = name, partitions, 1
	for k, v := range settings {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		one.Configs = append(one.Configs, c)
	}
	req.Topics = append(req.Topics, one)
	resp, err := req.RequestWith(b.t.Context(), b.admin)
	if err != nil || resp.Topics[0].ErrorCode != 0 {
		b.t.Fatalf("make topic %s: %v, %+v", name, err, resp)
	}
}

// sink makes a sink of a topic.
func (b *broker) sink(name string, change func(*kafka.Config)) *kafka.Sink {
	b.t.Helper()
	cfg := kafka.Config{Brokers: []string{b.plain}, Topic: name}
	if change != nil {
		change(&cfg)
	}
	if err := cfg.Validate(); err != nil {
		b.t.Fatal(err)
	}
	s := kafka.New(cfg, "ecs")
	b.t.Cleanup(func() { _ = s.Close() })
	return s
}

// deliver sends until all is accepted, at least for a while.
func (b *broker) deliver(s *kafka.Sink, batch []sinks.Message) {
	b.t.Helper()
	var err error
	for deadline := time.Now().Add(60 * time.Second); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(b.t.Context(), 5*time.Second)
		_, err = s.Send(ctx, batch)
		cancel()
		if err == nil {
			return
		}
		if failed := failures(err); failed != nil {
			var left []sinks.Message
			for i := range batch {
				if failed[i] != nil {
					left = append(left, batch[i])
				}
			}
			batch = left
		}
		if b.cmd.ProcessState != nil {
			b.start()
		}
	}
	b.t.Fatalf("not accepted: %v", err)
}

// A message as kcat shows it.
type message struct {
	Key     string   `json:"key"`
	Payload string   `json:"payload"`
	Headers []string `json:"headers"`
	Part    int      `json:"partition"`
}

// read reads a topic from its beginning by kcat, which is not ours.
func (b *broker) read(name string) []message {
	b.t.Helper()
	out, err := exec.CommandContext(b.t.Context(), b.kcat, "-b", b.plain, "-t", name, "-C", "-o", "beginning", "-e", "-q", "-J").Output()
	if err != nil {
		b.t.Fatalf("kcat: %v\n%s", err, out)
	}
	var all []message
	for line := range bytes.Lines(out) {
		var m message
		if err := json.Unmarshal(line, &m); err != nil {
			b.t.Fatalf("kcat: %v: %s", err, line)
		}
		all = append(all, m)
	}
	return all
}

func (m message) header(name string) string {
	for i := 0; i+1 < len(m.Headers); i += 2 {
		if m.Headers[i] == name {
			return m.Headers[i+1]
		}
	}
	return ""
}

func TestRealBroker(t *testing.T) {
	b := startBroker(t)

	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		t.Run("codec "+codec, func(t *testing.T) {
			name := "codec-" + codec
			b.topic(name, 3, nil)
			batch := sinktest.Messages(300)
			b.deliver(b.sink(name, func(c *kafka.Config) { c.Compression = codec }), batch)
			want := map[string]sinks.Message{}
			for _, m := range batch {
				want[m.Record.UID] = m
			}
			got := b.read(name)
			if len(got) != len(batch) {
				t.Fatalf("%d messages, want %d", len(got), len(batch))
			}
			for _, m := range got {
				w, ok := want[m.header("event_uid")]
				if !ok || m.Key != w.Record.Key.FindingUID() || m.Payload != string(w.Body) || m.header("action") == "" || m.header("schema") == "" || m.header("content-type") == "" {
					t.Fatalf("message %+v, want %+v", m, w)
				}
			}
		})
	}

	t.Run("a heartbeat", func(t *testing.T) {
		b.topic("heartbeat", 3, nil)
		m := sinks.Message{Record: format.Heartbeat{Sink: "pipeline", Host: "relay-1", Ready: true}.Record(time.Now()), Body: []byte(`{"event":{"action":"cwprelay-heartbeat"}}`)}
		b.deliver(b.sink("heartbeat", nil), []sinks.Message{m, m})
		got := b.read("heartbeat")
		if len(got) != 2 || got[0].Key != m.Record.Key.FindingUID() || got[0].header("action") != "cwprelay-heartbeat" || got[0].Payload != string(m.Body) {
			t.Errorf("messages %+v", got)
		}
	})

	t.Run("logins over TLS", func(t *testing.T) {
		b.topic("closed", 1, nil)
		for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
			closed := func(password string) *kafka.Sink {
				return b.sink("closed", func(c *kafka.Config) {
					c.Brokers, c.TLS = []string{"tls://" + b.sasl}, httpx.TLS{CAFile: b.ca}
					c.SASL = kafka.SASL{Mechanism: mechanism, Username: "relay", Password: secret.New(password)}
				})
			}
			b.deliver(closed(realPassword), sinktest.Messages(5))
			_, err := closed("wr0ng-passw0rd").Send(t.Context(), sinktest.Messages(1))
			if err == nil || sinks.ClassOf(err) != sinks.ClassHalt || strings.Contains(fmt.Sprintf("%+v", err), "wr0ng") {
				t.Errorf("%s, wrong password: class %v of %v", mechanism, sinks.ClassOf(err), err)
			}
		}
		if n := len(b.read("closed")); n != 15 {
			t.Errorf("%d messages, want 15", n)
		}
	})

	t.Run("a topic that is made later", func(t *testing.T) {
		s := b.sink("later", nil)
		if _, err := s.Send(t.Context(), sinktest.Messages(3)); err == nil || sinks.ClassOf(err) != sinks.ClassRetry {
			t.Errorf("missing: class %v of %v", sinks.ClassOf(err), err)
		}
		b.topic("later", 1, nil)
		b.deliver(s, sinktest.Messages(3))
	})

	t.Run("a message that is too large is named alone", func(t *testing.T) {
		b.topic("small", 1, map[string]string{"max.message.bytes": "4000"})
		for name, limit := range map[string]int64{"by us": 4000, "by the broker": 1 << 20} {
			s := b.sink("small", func(c *kafka.Config) { c.MaxMessageBytes, c.Compression = limit, "none" })
			batch := sinktest.Messages(3)
			batch[1].Body = bytes.Repeat([]byte("x"), 5000)
			for i := range batch {
				_, err := s.Send(t.Context(), batch[i:i+1])
				if partial := failures(err); partial != nil {
					err = partial[0]
				}
				if (i == 1) != (err != nil) || i == 1 && sinks.ClassOf(err) != sinks.ClassTooLarge {
					t.Errorf("%s, message %d: class %v of %v", name, i, sinks.ClassOf(err), err)
				}
			}
		}
	})

	t.Run("order of each event over a change of partitions", func(t *testing.T) {
		b.topic("growing", 2, nil)
		s := b.sink("growing", nil)
		all := changes(20, 10)
		b.deliver(s, all[:100])
		req := kmsg.NewPtrCreatePartitionsRequest()
		one := kmsg.NewCreatePartitionsRequestTopic()
		one.Topic, one.Count = "growing", 5
		req.Topics = append(req.Topics, one)
		if _, err := req.RequestWith(t.Context(), b.admin); err != nil {
			t.Fatal(err)
		}
		b.deliver(s, all[100:])
		last := map[string]map[int]int{} // key → partition → position
		position := map[string]int{}
		for i, m := range all {
			position[m.Record.UID] = i
		}
		for _, m := range b.read("growing") {
			if last[m.Key] == nil {
				last[m.Key] = map[int]int{}
			}
			at := position[m.header("event_uid")]
			if before, ok := last[m.Key][m.Part]; ok && before >= at {
				t.Errorf("%s: change %d after %d in partition %d", m.Key, at, before, m.Part)
			}
			last[m.Key][m.Part] = at
		}
	})

	t.Run("a killed and a stopped broker lose nothing that was accepted", func(t *testing.T) {
		b.topic("durable", 3, nil)
		s := b.sink("durable", nil)
		const batches, size = 30, 200
		for n := range batches {
			switch n {
			case 8, 18:
				time.AfterFunc(2*time.Millisecond, func() { _ = b.cmd.Process.Kill(); _ = b.cmd.Wait() })
			case 13:
				_ = b.cmd.Process.Signal(syscall.SIGSTOP)
				time.AfterFunc(time.Second, func() { _ = b.cmd.Process.Signal(syscall.SIGCONT) })
			}
			batch := make([]sinks.Message, size)
			for i := range batch {
				r := sinktest.Record(n*size + i + 1)
				batch[i] = sinks.Message{Record: r, Body: r.Raw}
			}
			b.deliver(s, batch)
		}
		got := map[string]int{}
		for _, m := range b.read("durable") {
			got[m.header("event_uid")]++
		}
		duplicates := 0
		for _, n := range got {
			duplicates += n - 1
		}
		if len(got) != batches*size || duplicates > 4*size {
			t.Errorf("%d of %d messages, %d duplicates", len(got), batches*size, duplicates)
		}
	})
}
