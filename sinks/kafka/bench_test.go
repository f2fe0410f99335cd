package kafka_test

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/cwprelay/cwprelay/sinks/kafka"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// BenchmarkSend sends batches of 1000 records of 0.8 KB, the vendor's JSON, to
// a broker in this process that stores nothing.
func BenchmarkSend(b *testing.B) {
	for _, codec := range []string{
		kafka.CompressionLZ4, kafka.CompressionZstd, kafka.CompressionSnappy, kafka.CompressionGzip, kafka.CompressionNone,
	} {
		b.Run(codec, func(b *testing.B) {
			c, err := kfake.NewCluster(kfake.NumBrokers(1), kfake.SeedTopics(3, topic), kfake.BlackholeProduce())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
			var wire int
			c.ControlKey(int16(kmsg.Produce), func(r kmsg.Request) (kmsg.Response, error, bool) {
				wire += len(r.(*kmsg.ProduceRequest).Topics[0].Partitions[0].Records)
				return nil, nil, false
			})
			s := kafka.New(kafka.Config{Brokers: c.ListenAddrs(), Topic: topic, Compression: codec}, "ecs")
			defer s.Close()
			batch := sinktest.Messages(1000)
			size := 0
			for i := range batch {
				batch[i].Body = batch[i].Record.Raw
				size += len(batch[i].Body)
			}
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Send(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(wire)/float64(b.N*len(batch)), "wireB/record")
		})
	}
}
