package poller_test

import (
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/poller"
)

// What is odd about an item is counted, and the item taken in as it stands.
func TestOddItemsAreCountedAndTakenIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, 0)
		if _, err := r.world.InsertJSON(
			[]byte(`{"HandleStatus":0,"StartTime":"2026-01-02 03:04:05"}`),
			[]byte(`{"EventId":7,"HandleStatus":0,"StartTime":null}`),
			[]byte(`{"EventId":8,"HandleStatus":77,"StartTime":"2026-01-02 03:04:05"}`),
		); err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		r.opt.Metrics = poller.NewMetrics(reg)
		if _, err := r.once(t.Context()); err != nil {
			t.Fatal(err)
		}
		if n := len(r.records()); n != 3 {
			t.Errorf("%d records, want 3", n)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		odd := map[string]bool{}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				for _, l := range m.GetLabel() {
					if f.GetName() == "cwprelay_items_odd_total" && l.GetName() == "what" {
						odd[l.GetValue()] = m.GetCounter().GetValue() > 0
					}
				}
			}
		}
		if diff := cmp.Diff(map[string]bool{"id": true, "time": true, "status": true}, odd); diff != "" {
			t.Errorf("counted (-want +got):\n%s", diff)
		}
	})
}
