package cwp

import "testing"

// The lowest rate of those that share a budget holds, until it leaves.
func TestBudgetIsThatOfTheLowestShare(t *testing.T) {
	limits := NewLimits()
	lim, leaveTen := limits.of("key", "action", 10)
	same, leaveFour := limits.of("key", "action", 4)
	if lim != same {
		t.Fatal("two limiters for one credential and action")
	}
	rate := func(want float64) {
		t.Helper()
		if got := lim.perSecond() / spacing; got < want-0.01 || got > want+0.01 {
			t.Errorf("%.2f requests a second, want %.2f", got, want)
		}
	}
	rate(4)
	lim.refused()
	rate(2)
	leaveFour()
	rate(2) // what a refusal took comes back by quiet, not by this
	leaveTen()
	rate(2)
	_, leave := limits.of("key", "action", 1)
	defer leave()
	rate(1)
}
