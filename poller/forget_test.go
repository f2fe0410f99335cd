package poller_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
)

// A key is forgotten when certified sweeps have not shown it for forget_after,
// and no earlier: neither time in which nobody looked nor sweeps without a
// certificate count.
func TestKeysAreForgottenAfterCertifiedAbsenceOnly(t *testing.T) {
	t.Parallel()
	const step = 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, 20)
		r.opt.Config.SweepInterval, r.opt.Config.ForgetAfter = step, 4*step
		sweep := func(certified bool) {
			t.Helper()
			cert, err := r.once(t.Context())
			if cert.Certified != certified {
				t.Fatalf("%+v, %v, want a certificate: %t", cert, err, certified)
			}
		}
		known := func(when string, want int) {
			t.Helper()
			if n := len(r.pairs()); n != want {
				t.Errorf("%s: %d keys are known, want %d", when, n, want)
			}
		}
		hiding := func(_ int, _ cwp.Query, p *cwp.Page) (*cwp.Page, error) {
			p.Items = p.Items[:len(p.Items)-1] // and it counts what it hides
			return p, nil
		}
		sweep(true)
		gone := r.world.IDs()[:3]
		r.world.Delete(gone...)
		time.Sleep(step)
		sweep(true) // absent from here on
		r.api.After = hiding
		for range 6 {
			time.Sleep(step)
			sweep(false)
		}
		known("after an hour of sweeps that prove nothing", 20)
		r.api.After = nil
		sweep(true) // nobody looked since the last certificate
		known("after an hour in which nobody looked", 20)
		for range 3 {
			time.Sleep(step)
			sweep(true)
		}
		known("after half an hour", 20)
		time.Sleep(step - time.Second)
		sweep(true)
		known("a second before", 20)
		time.Sleep(time.Second)
		sweep(true)
		known("after forget_after", 17)
		pairs := r.pairs()
		for _, id := range gone {
			if pairs[id] != "" {
				t.Errorf("event %s is known", id)
			}
		}
	})
}
