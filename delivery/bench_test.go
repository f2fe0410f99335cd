package delivery_test

import (
	"context"
	"testing"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/sinks"
)

// endless is a journal of n records, all alike, that finds them at once.
type endless struct {
	*memory
	n uint64
}

func (e endless) Read(_ context.Context, after uint64, limit, _ int) ([]*event.Record, error) {
	var out []*event.Record
	for seq := after + 1; seq <= e.n && len(out) < limit; seq++ {
		out = append(out, record(seq))
	}
	return out, nil
}

func (e endless) Changed(after uint64) <-chan struct{} {
	c := make(chan struct{})
	if after < e.n {
		close(c)
	}
	return c
}

type nowhere struct{ sinks.Sink }

func (nowhere) Send(context.Context, []sinks.Message) (sinks.Receipt, error) {
	return sinks.Receipt{Answer: "200"}, nil
}

// BenchmarkWorker is what the worker itself costs for each record, the making
// of the record and a copy as its encoding included.
func BenchmarkWorker(b *testing.B) {
	b.ReportAllocs()
	w, err := delivery.New(delivery.Options{
		Name: "soc", Sink: nowhere{}, Journal: endless{newMemory(), uint64(b.N)},
		Encoder: func(dst []byte, r *event.Record) ([]byte, error) { return append(dst, r.Raw...), nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	end := make(chan error, 1)
	go func() { end <- w.Run(ctx) }()
	if _, err := w.Wait(ctx, uint64(b.N)); err != nil {
		b.Fatal(err)
	}
	cancel()
	if err := <-end; err != nil {
		b.Fatal(err)
	}
}
