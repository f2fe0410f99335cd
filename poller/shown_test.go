package poller_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/poller"
)

// What Show returns is what the API showed, and the records that it keeps are
// those that the journal has, as far as nothing happened since.
func TestShowReturnsWhatTheAPIShows(t *testing.T) {
	r := newRig(t, 7, 700)
	p, err := poller.New(r.opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	wanted := map[string]bool{}
	shown, err := p.Show(ctx, func(k event.Key) bool {
		if len(wanted) < 50 {
			wanted[k.ID] = true
		}
		return wanted[k.ID]
	})
	if err != nil || !shown.Certificate.Certified || shown.More {
		t.Fatalf("%v, certificate %+v, more %v", err, shown.Certificate, shown.More)
	}
	got := map[string]string{}
	for id, e := range shown.Events {
		got[id] = e.Status.Code
	}
	if diff := cmp.Diff(r.pairs(), got); diff != "" || len(got) != r.world.Len() || len(got) < 700 {
		t.Errorf("%d events are visible; shown (-want +got):\n%s", r.world.Len(), diff)
	}
	journaled := map[uint64]*event.Record{}
	for _, rec := range r.records() {
		journaled[rec.Seq] = rec
	}
	for _, rec := range shown.Kept {
		delete(wanted, rec.Key.ID)
		was := journaled[rec.Seq]
		if was == nil || was.UID != rec.UID || was.Key != rec.Key || was.Sequence != rec.Sequence || string(was.Raw) != string(rec.Raw) || was.Action != rec.Action {
			t.Fatalf("kept %+v\nthe journal has %+v", rec, was)
		}
	}
	if len(wanted) > 0 {
		t.Errorf("%d of 50 events that were to be kept are not: %v", len(wanted), wanted)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if _, err := p.Show(t.Context(), func(event.Key) bool { return false }); !errors.Is(err, poller.ErrNotRunning) {
		t.Errorf("a source that is not polled any more: %v", err)
	}
}

// Whoever asks before the account is known is told why there is nothing to show.
func TestShowSaysWhyNothingSweeps(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, 7, 10)
		r.opt.Identify = func(context.Context) (string, error) { return "", errors.New("AuthFailure: revoked") }
		p, err := poller.New(r.opt)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- p.Run(ctx) }()
		if _, err := p.Show(ctx, func(event.Key) bool { return false }); err == nil || !strings.Contains(err.Error(), "AuthFailure: revoked") {
			t.Errorf("%v", err)
		}
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
