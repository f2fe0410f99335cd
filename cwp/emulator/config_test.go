package emulator_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

func TestReportsEveryMistake(t *testing.T) {
	if err := (emulator.Config{}).WithDefaults().Validate(); err != nil {
		t.Errorf("the defaults: %v", err)
	}
	err := emulator.Config{
		Listen: "nowhere", Events: -1, Rate: math.NaN(), SecretID: "a b", Limit: -1,
		Faults: emulator.Faults{Reset: 1.5, Latency: -time.Second, Codes: map[string]float64{"lower": 0.1}},
	}.Validate()
	if err == nil {
		t.Fatal("accepted")
	}
	for _, key := range []string{"listen: ", "events: ", "rate: ", "secret_id: ", "secret_key: required", "limit: ", "faults: latency: ", "reset: ", "codes: ", "add up"} {
		if !strings.Contains(err.Error(), key) {
			t.Errorf("%q is missing in:\n%v", key, err)
		}
	}
}

func TestFaultsAsText(t *testing.T) {
	const text = "latency=20ms,jitter=1s,reset=0.01,truncate=0.02,not_json=0.03,server_error=0.04,empty_list=0.05,null_list=0.06," +
		"ignore_filter=0.07,wrong_total=0.08,InternalError=0.1,RequestLimitExceeded.UinLimitExceeded=0.2"
	var f emulator.Faults
	if err := f.UnmarshalText([]byte(text)); err != nil {
		t.Fatal(err)
	}
	want := emulator.Faults{
		Latency: 20 * time.Millisecond, Jitter: time.Second, Reset: 0.01, Truncate: 0.02, NotJSON: 0.03, ServerError: 0.04, EmptyList: 0.05,
		NullList: 0.06, IgnoreFilter: 0.07, WrongTotal: 0.08, Codes: map[string]float64{"InternalError": 0.1, "RequestLimitExceeded.UinLimitExceeded": 0.2},
	}
	if diff := cmp.Diff(want, f); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if back, err := f.MarshalText(); err != nil || string(back) != text {
		t.Errorf("back as %s, %v", back, err)
	}
	for _, bad := range []string{"resets=1", "reset", "reset=two", "reset=2", "latency=5", "reset=0.6,truncate=0.6", "=1", "lower.case=1"} {
		before := f
		if err := f.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was accepted", bad)
		}
		if diff := cmp.Diff(before, f); diff != "" {
			t.Errorf("%q changed the faults:\n%s", bad, diff)
		}
	}
	if err := f.UnmarshalText(nil); err != nil || f.Reset != 0 {
		t.Errorf("empty text does not end the faults: %+v, %v", f, err)
	}
}
