package delivery_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/sinks"
)

// counted are the counters of a registry with an outcome, without those at 0.
func counted(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if n := m.GetCounter().GetValue(); l.GetName() == "outcome" && n > 0 {
					all[f.GetName()+" "+l.GetValue()] = n
				}
			}
		}
	}
	return all
}

func TestAttemptsAndRecordsAreCountedByOutcome(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 40)...)
		answers := []error{
			errNetwork, // then one record is a probe
			nil,
			sinks.TooLarge(errors.New("413")), // of 9, then of 4 and 5
			nil,
			nil,
			&sinks.PartialError{Failed: map[int]error{9: errNetwork}},
			nil,
		}
		hang := make(chan struct{})
		d := &dest{answer: func(ctx context.Context, n int, seqs []uint64) (sinks.Receipt, error) {
			switch {
			case n < len(answers):
				return sinks.Receipt{}, answers[n]
			case slices.Contains(seqs, 40):
				close(hang)
				<-ctx.Done()
				return sinks.Receipt{}, ctx.Err()
			default:
				return sinks.Receipt{}, nil
			}
		}}
		reg := prometheus.NewRegistry()
		r := start(t, j, d, func(o *delivery.Options) {
			o.Metrics, o.Config.When, o.Grace = delivery.NewMetrics(reg), `event_id != "e35"`, time.Second
		})
		<-hang
		r.close()
		accepted := len(d.got())
		n := len(d.seen())
		want := map[string]float64{
			"cwprelay_sink_attempts_total retry": 1, "cwprelay_sink_attempts_total too_large": 1,
			"cwprelay_sink_attempts_total partial": 1, "cwprelay_sink_attempts_total cancelled": 1,
			"cwprelay_sink_attempts_total ok":      float64(n - 4),
			"cwprelay_sink_records_total accepted": float64(accepted), "cwprelay_sink_records_total filtered": 1,
		}
		if diff := cmp.Diff(want, counted(t, reg)); diff != "" {
			t.Errorf("counted (-want +got):\n%s", diff)
		}
	})
}
