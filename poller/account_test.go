package poller_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/poller"
)

// Whose events these are is asked once and kept: the account is part of every
// key. Another one is refused, and changes nothing.
func TestAccountIsAskedForOnceAndKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 3, 20)
		asked := 0
		r.opt.Identify = func(context.Context) (string, error) { asked++; return "1300000009", nil }
		for range 2 { // the second as after a restart
			if cert, err := r.once(t.Context()); err != nil || !cert.Certified {
				t.Fatalf("%+v, %v", cert, err)
			}
		}
		recs := r.records()
		if asked != 1 || len(recs) != 20 || recs[0].Key.Account != "1300000009" {
			t.Errorf("asked %d times, %d records, the first of account %s", asked, len(recs), recs[0].Key.Account)
		}

		r.opt.Config.AccountID = "1300000010"
		p, err := poller.New(r.opt)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = p.Once(t.Context(), 1); !errors.Is(err, poller.ErrAccount) || !strings.Contains(err.Error(), "restore account_id") {
			t.Errorf("error %v", err)
		}
		if got := p.Status().NotReady(time.Now()); got != "account_changed" {
			t.Errorf("not ready because of %q", got)
		}
		if n := len(r.records()); n != 20 {
			t.Errorf("%d records", n)
		}
	})
}
