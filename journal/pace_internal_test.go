package journal

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// An append waits for a reader that is close behind, and for no other.
func TestAppendsWaitForTheReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		never := make(chan struct{})
		takes := func(want time.Duration, why string) {
			t.Helper()
			began := time.Now()
			p.wait(never)
			if took := time.Since(began); took != want {
				t.Errorf("%s: waits %v, not %v", why, took, want)
			}
		}
		p.wrote(paceRecords)
		takes(0, "few records are unread")
		p.wrote(paceRecords + 1)
		time.AfterFunc(30*time.Millisecond, func() { p.readTo(1) })
		takes(30*time.Millisecond, "the reader moves far enough")

		p.wrote(paceRecords + 500)
		for i := range uint64(5) { // to 251: not far enough
			time.AfterFunc(time.Duration(i)*20*time.Millisecond, func() { p.readTo(50*i + 51) })
		}
		takes(paceWait, "the reader moves, though not far enough")
		takes(paceWait, "the reader moved when it was waited for last")
		takes(0, "the reader did not move when it was waited for")
		p.readTo(400)
		takes(paceWait, "the reader has moved since")
		p.readTo(450)
		p.readTo(350) // another one, which is behind it
		p.wrote(paceMost + 450)
		takes(paceWait, "it is not too far behind")
		p.readTo(451)
		p.wrote(paceMost + 452)
		takes(0, "the reader is far behind")

		p.readTo(1000)
		closed := make(chan struct{})
		time.AfterFunc(time.Millisecond, func() { close(closed) })
		began := time.Now()
		if p.wait(closed); time.Since(began) != time.Millisecond {
			t.Errorf("waits %v though the journal is closed", time.Since(began))
		}
	})
}

// Appends and readers of a journal tell each other where they are.
func TestAppendLooksForTheReader(t *testing.T) {
	f, lease := leased(t, nil)
	next := 0
	add := func(n int) time.Duration {
		var batch Batch
		for range n {
			next++
			key := event.Key{Account: "a", Kind: "risk_process", ID: fmt.Sprint(next)}
			batch.Changes = append(batch.Changes, Change{
				Key: key, State: event.State{Sequence: 1}, Record: &event.Record{Key: key, Sequence: 1, Raw: []byte("{}")},
			})
		}
		began := time.Now()
		if _, err := f.Append(t.Context(), lease, batch); err != nil {
			t.Fatal(err)
		}
		return time.Since(began)
	}
	add(paceRecords + 1)
	if took := add(1); took < paceWait {
		t.Errorf("an append does not wait for the reader: %v", took)
	}
	if f.pace.ahead() != nil {
		t.Error("it waits again for a reader that does not move")
	}
	records, err := f.Read(t.Context(), 0, paceRecords, 0)
	if err != nil || len(records) != paceRecords {
		t.Fatalf("%d records, %v", len(records), err)
	}
	if f.pace.read != paceRecords || f.pace.stands {
		t.Errorf("the reader is taken to be at %d, and to stand: %t", f.pace.read, f.pace.stands)
	}
	if add(paceRecords); f.pace.ahead() == nil {
		t.Error("a reader that has moved is not waited for")
	}
}
