package main

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

const (
	busTopic = "cwp.findings"
	busBatch = 50 // records: the most in flight to a sink
)

// newBusStage is a stage with a Kafka broker beside Splunk. Both get small
// batches.
func newBusStage(t *testing.T, api emulator.Config) (*stage, *kfake.Cluster) {
	t.Helper()
	cluster, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, busTopic))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(cluster.Close)
	s := newStage(t, api)
	text, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(strings.NewReplacer(
		"sinks:", "sinks:\n  bus: {kafka: {brokers: [\""+cluster.ListenAddrs()[0]+"\"], topic: "+busTopic+"}, batch_records: 50}",
		"token: hectest-token}", "token: hectest-token}, batch_records: 50",
	).Replace(string(text)))
	return s, cluster
}

// onBus reads the topic from its beginning to its end with another
// implementation: the pairs, and how many records bear a uid that was there.
func onBus(t *testing.T, cluster *kfake.Cluster) (pairs map[emulator.Pair]bool, duplicates int) {
	t.Helper()
	consumer, err := kgo.NewClient(kgo.SeedBrokers(cluster.ListenAddrs()...), kgo.ConsumeTopics(busTopic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer consumer.Close()
	end := int64(0)
	for partition := range int32(3) {
		info := cluster.PartitionInfo(busTopic, partition)
		end += info.HighWatermark
	}
	pairs, uids := map[emulator.Pair]bool{}, map[string]bool{}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for read := int64(0); read < end; {
		consumer.PollFetches(ctx).EachRecord(func(r *kgo.Record) {
			read++
			for _, h := range r.Headers {
				if h.Key != "event_uid" {
					continue
				}
				if uids[string(h.Value)] {
					duplicates++
				}
				uids[string(h.Value)] = true
			}
			pair, err := ecsPair(r.Value)
			if err != nil {
				t.Errorf("record of the topic: %v: %s", err, r.Value)
			}
			pairs[pair] = true
		})
		if ctx.Err() != nil {
			t.Fatalf("read %d of %d records of the topic in 30 s", read, end)
		}
	}
	return pairs, duplicates
}

// TestOnceReachesSplunkAndKafka is what the program is for: run --once over a
// list that changes, then after twenty kills, then with a tenth of the API's
// answers faulty. Every pair that was visible during the whole of the sweep is at
// both destinations, and repeated is at most what was in flight when a process
// was killed.
func TestOnceReachesSplunkAndKafka(t *testing.T) {
	t.Parallel()
	kills := 20
	if testing.Short() {
		kills = 3
	}
	s, cluster := newBusStage(t, emulator.Config{Events: 700, Rate: 10, Seed: 3})
	check := func(when string, pairs []emulator.Pair) {
		t.Helper()
		s.requireAll(pairs)
		bus, duplicates := onBus(t, cluster)
		missing := 0
		for _, p := range pairs {
			if !bus[p] {
				missing++
			}
		}
		if missing > 0 || len(pairs) < 300 {
			t.Errorf("%s: %d of %d pairs are missing on the bus", when, missing, len(pairs))
		}
		if most := s.kills * busBatch; duplicates > most || s.hec.Duplicates() > most {
			t.Errorf("%s: %d duplicates on the bus and %d at Splunk after %d kills, want at most %d each", when, duplicates, s.hec.Duplicates(), s.kills, most)
		}
		t.Logf("%s: %d pairs, %d duplicates on the bus, %d at Splunk", when, len(pairs), duplicates, s.hec.Duplicates())
	}

	from, to := s.sweepAll()
	check("once", s.api.World().VisibleThroughout(from, to))

	random := rand.New(rand.NewPCG(5, 6))
	for range kills {
		s.api.Change(func(w *emulator.World) { w.Burst(30, time.Now()) })
		d := s.start("run", "--once", "-c", s.config)
		// The length of a life is what varies here; nothing is waited for.
		time.Sleep(time.Duration(50+random.IntN(500)) * time.Millisecond)
		_ = d.Process.Kill() // it may have done all and ended
		_ = d.Wait()
		s.kills++
	}
	from, to = s.sweepAll()
	check("after kills", s.api.World().VisibleThroughout(from, to))

	var faults emulator.Faults
	if err := faults.UnmarshalText([]byte("reset=0.02,truncate=0.02,not_json=0.02,server_error=0.02,InternalError=0.02")); err != nil {
		t.Fatal(err)
	}
	s.api.SetFaults(faults)
	faulty := func() (n int) {
		for code, count := range s.api.Stats().Requests {
			if code != "ok" {
				n += count
			}
		}
		return n
	}
	before := faulty()
	for round := 0; round < 3 || faulty() == before; round++ {
		from, to = s.sweepAll()
		check("with faults", s.api.World().VisibleThroughout(from, to))
	}
}

// ecsPair is the pair of an ECS document.
func ecsPair(doc []byte) (emulator.Pair, error) {
	var ecs struct {
		Tencent struct {
			CWP struct {
				EventID json.Number `json:"event_id"`
				Handle  struct {
					Code json.Number `json:"code"`
				} `json:"handle_status"`
			} `json:"cwp"`
		} `json:"tencent_cloud"`
	}
	err := json.Unmarshal(doc, &ecs)
	return emulator.Pair{ID: ecs.Tencent.CWP.EventID.String(), Status: ecs.Tencent.CWP.Handle.Code.String()}, err
}
