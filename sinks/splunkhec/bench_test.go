package splunkhec_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/splunkhec"
)

// BenchmarkSend is what one event costs from its encoded body to the answer of
// a collector that reads and drops it.
func BenchmarkSend(b *testing.B) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"text":"Success","code":0}`)
	}))
	defer srv.Close()
	encode, err := format.New(format.Splunk, format.Config{})
	if err != nil {
		b.Fatal(err)
	}
	batch := sinktest.Messages(400)
	size := 0
	for i := range batch {
		body, err := encode(nil, batch[i].Record)
		if err != nil {
			b.Fatal(err)
		}
		batch[i].Body = body
		size += len(body)
	}
	for _, compression := range []string{splunkhec.CompressionGzip, splunkhec.CompressionNone} {
		b.Run(compression, func(b *testing.B) {
			s := splunkhec.New(splunkhec.Config{
				URL: srv.URL, Token: secret.New("t"), Compression: compression, MaxBatchBytes: 8 << 20,
			}, "splunk")
			defer s.Close()
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := s.Send(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(batch)), "ns/event")
		})
	}
}
