package delivery_test

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/journal/journaltest"
	"github.com/cwprelay/cwprelay/sinks"
)

// marked is a sink that notes which records came as replayed.
type marked struct {
	*dest
	replayed *[]uint64
}

func (m marked) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	receipt, err := m.dest.Send(ctx, batch)
	for _, msg := range batch {
		if err == nil && msg.Record.Replayed {
			*m.replayed = append(*m.replayed, msg.Record.Seq)
		}
	}
	return receipt, err
}

func TestReplaySendsAgainInOrderUpToTheCursor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 45)...)
		var replayed []uint64
		r := start(t, j, &dest{answer: fine}, func(o *delivery.Options) { o.Sink = marked{o.Sink.(*dest), &replayed} })
		after(time.Minute)
		if err := r.w.Replay(t.Context(), 21); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		if diff := cmp.Diff(append(span(1, 45), span(21, 45)...), r.d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(span(21, 45), replayed); diff != "" {
			t.Errorf("marked as replayed (-want +got):\n%s", diff)
		}
		if got := r.cursor(); got.Seq != 45 || len(j.replays) > 0 || r.w.Status().Replay != nil {
			t.Errorf("cursor %+v, replays %v after the end", got, j.replays)
		}
		if last := j.receipts["soc"][len(j.receipts["soc"])-1]; !last.Again {
			t.Errorf("receipt %+v does not say that it is of a replay", last)
		}
		r.close()
	})
}

func TestLiveRecordsGoBeforeAReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 500)...)
		var slow atomic.Bool
		d := &dest{answer: func(context.Context, int, []uint64) (sinks.Receipt, error) {
			if slow.Load() {
				time.Sleep(time.Second)
			}
			return sinks.Receipt{}, nil
		}}
		r := start(t, j, d)
		after(time.Minute)
		slow.Store(true)
		if err := r.w.Replay(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		before := len(d.seen())
		j.add(records(501, 1500)...) // a hundred batches
		after(100 * time.Second)
		calls := d.seen()[before:]
		again := 0
		for _, c := range calls {
			if c.seqs[0] <= 500 {
				again++
			}
		}
		if again < 9 || again > 12 {
			t.Errorf("%d of %d batches were the replay's while live ones waited, want one in ten", again, len(calls))
		}
		after(time.Hour)
		// What became live meanwhile is replayed too: the newest comes last.
		if got := d.got(); len(got) != 3000 || got[2999] != 1500 {
			t.Errorf("%d accepted, the last is %d; want 3000 and 1500", len(got), got[len(got)-1])
		}
		r.close()
	})
}

func TestReplayGoesOnAfterARestartAndSurvivesFailures(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 95)...)
		var fails atomic.Int64
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			switch {
			case fails.Add(-1) >= 0:
				return errNetwork
			case len(seqs) > 1 && slices.Contains(seqs, 33):
				return sinks.TooLarge(errors.New("413"))
			}
			return nil
		})}
		r := start(t, j, d)
		after(time.Minute)
		fails.Store(1 << 30)
		if err := r.w.Replay(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		if err := r.w.Replay(t.Context(), 5); !errors.Is(err, journal.ErrReplay) {
			t.Errorf("a second replay: %v", err)
		}
		after(time.Minute)
		r.close()
		if err := r.w.Replay(t.Context(), 5); err == nil {
			t.Error("a worker that has ended takes a replay")
		}

		fails.Store(0)
		d.accepted = nil
		r = start(t, j, d)
		after(time.Minute)
		if diff := cmp.Diff(span(5, 95), sorted(d.got())); diff != "" {
			t.Errorf("accepted after the restart (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestReplayedRecordThatIsReadAgainIsStillMarked(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 25)...)
		var fails atomic.Int64
		d := &dest{answer: simply(func(int, []uint64) error {
			if fails.Add(-1) >= 0 {
				return errNetwork
			}
			return nil
		})}
		var replayed []uint64
		// A sink with a window: what it sends is not held in memory meanwhile.
		r := start(t, j, d, func(o *delivery.Options) { o.Sink = windowed{marked{d, &replayed}, 1} })
		after(time.Minute)
		fails.Store(2)
		if err := r.w.Replay(t.Context(), 5); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		if diff := cmp.Diff(span(5, 25), replayed); diff != "" {
			t.Errorf("marked as replayed (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestReplayedRecordThatIsRefusedIsBuried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 40)...)
		var strict atomic.Bool
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if strict.Load() && slices.Contains(seqs, 17) {
				return sinks.Poison(errors.New("400"))
			}
			return nil
		})}
		r := start(t, j, d)
		after(time.Minute)
		strict.Store(true)
		if err := r.w.Replay(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		if diff := cmp.Diff(map[uint64]string{17: "poison"}, r.dead()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if len(j.replays) > 0 {
			t.Errorf("the replay has not ended: %+v", j.replays["soc"])
		}
		r.close()
	})
}

func TestReplayCanBeEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 1000)...)
		d := &dest{answer: func(_ context.Context, n int, _ []uint64) (sinks.Receipt, error) {
			if n >= 100 {
				time.Sleep(time.Second)
			}
			return sinks.Receipt{}, nil
		}}
		r := start(t, j, d)
		after(time.Minute)
		if err := r.w.Replay(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		after(10*time.Second + 1)
		if s := r.w.Status().Replay; s == nil || s.After != 100 || s.Until != 1000 || s.Sent != 100 {
			t.Errorf("status of the replay is %+v", s)
		}
		if err := r.w.EndReplay(t.Context()); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		if n := len(d.got()); n != 1110 || len(j.replays) > 0 {
			t.Errorf("%d accepted, replays %v", n, j.replays)
		}
		r.close()
	})
}

func TestStuckDeadLetterIsSentAgainDaily(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 4)...)
		for seq, class := range map[uint64]string{2: "stuck", 3: "poison"} {
			j.dead["soc"] = append(j.dead["soc"], journal.DeadLetter{Record: record(seq), Class: class, Attempts: 12, At: time.Now()})
		}
		j.cursors["soc"] = journal.Cursor{Seq: 4}
		var mended atomic.Bool
		d := &dest{answer: simply(func(int, []uint64) error {
			if mended.Load() {
				return nil
			}
			return sinks.Answered(errors.New("500 internal error"))
		})}
		r := start(t, j, d)
		after(73 * time.Hour)
		if n := len(d.seen()); n != 3 {
			t.Errorf("%d attempts in three days, want one a day", n)
		}
		if got := j.dead["soc"][1]; got.Class != "stuck" || got.Attempts != 15 {
			t.Errorf("dead letter is %+v, want 15 attempts", got)
		}
		mended.Store(true)
		after(25 * time.Hour)
		if diff := cmp.Diff(map[uint64]string{3: "poison"}, r.dead()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]uint64{2}, d.got()); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		r.close()
	})
}

func TestDeadLetterIsRetriedOnRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 4)...)
		j.cursors["soc"] = journal.Cursor{Seq: 4}
		for seq := range uint64(3) {
			j.dead["soc"] = append(j.dead["soc"], journal.DeadLetter{Record: record(seq + 1), Class: "poison", Attempts: 2, At: time.Now()})
		}
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if seqs[0] == 2 {
				return sinks.Poison(errors.New("400 still"))
			}
			return nil
		})}
		r := start(t, j, d)
		if err := r.w.Retry(t.Context(), 2, 3, 77); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		if diff := cmp.Diff(map[uint64]string{1: "poison", 2: "poison"}, r.dead()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if i := slices.IndexFunc(j.dead["soc"], func(d journal.DeadLetter) bool { return d.Record.Seq == 2 }); j.dead["soc"][i].Reason != "400 still" {
			t.Errorf("dead letter is %+v", j.dead["soc"][i])
		}
		if n := len(d.seen()); n != 2 {
			t.Errorf("%d attempts, want one each", n)
		}
		r.close()
	})
}

// A dead letter that is sent again stays one until it is accepted.
func TestDeadLetterStaysUntilItIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 4)...)
		j.cursors["soc"] = journal.Cursor{Seq: 4}
		j.dead["soc"] = []journal.DeadLetter{{Record: record(2), Class: "poison", Attempts: 2, At: time.Now()}}
		var mended atomic.Bool
		d := &dest{answer: simply(func(int, []uint64) error {
			if mended.Load() {
				return nil
			}
			return errNetwork
		})}
		r := start(t, j, d)
		if err := r.w.Retry(t.Context(), 2); err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		if diff := cmp.Diff(map[uint64]string{2: "poison"}, r.dead()); diff != "" || len(d.seen()) == 0 {
			t.Errorf("dead letters after %d attempts (-want +got):\n%s", len(d.seen()), diff)
		}
		mended.Store(true)
		after(time.Hour)
		if left := r.dead(); len(left) > 0 || !slices.Contains(d.got(), 2) {
			t.Errorf("dead letters %v, accepted %v", left, d.got())
		}
		r.close()
	})
}

// TestWithTheRealJournal runs a worker over a journal on disk through replay,
// dead letter and restart.
func TestWithTheRealJournal(t *testing.T) {
	dir := t.TempDir()
	open := func() *journal.File {
		f, err := journal.Open(journal.Config{Dir: dir, MinFreeDisk: 1}.WithDefaults(), journal.Options{Sinks: []journal.SinkRule{{Name: "soc"}}})
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	f := open()
	source, err := f.Lease(t.Context(), "source/prod/risk_process")
	if err != nil {
		t.Fatal(err)
	}
	var batch journal.Batch
	for i := range 200 {
		batch.Changes = append(batch.Changes, journaltest.Change(journaltest.Record(string(rune('a'+i/20))+string(rune('a'+i%20)), 1)))
	}
	last, err := f.Append(t.Context(), source, batch)
	if err != nil {
		t.Fatal(err)
	}
	d := &dest{answer: simply(func(_ int, seqs []uint64) error {
		if slices.Contains(seqs, 7) {
			return sinks.Poison(errors.New("400"))
		}
		return nil
	})}
	for round, want := range []int{199, 298} { // the replay refuses its record, too
		w, err := delivery.New(delivery.Options{Name: "soc", Sink: d, Encoder: encode, Journal: f, Config: delivery.Config{BatchRecords: 30}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		end := make(chan error, 1)
		go func() { end <- w.Run(ctx) }()
		if round == 1 {
			if err := w.Replay(ctx, last-98); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := w.Wait(ctx, last); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(20 * time.Second); w.Status().Replay != nil || len(d.got()) < want; {
			if time.Now().After(deadline) {
				t.Fatalf("%d accepted, status %+v", len(d.got()), w.Status())
			}
			time.Sleep(time.Millisecond)
		}
		cancel()
		if err := <-end; err != nil {
			t.Error(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		f = open()
	}
	defer f.Close()
	dead, err := f.DeadLetters(t.Context(), "soc", 0, 10)
	if err != nil || len(dead) != 1 || dead[0].Record.Seq != 7 {
		t.Errorf("dead letters %+v, %v", dead, err)
	}
	if c, err := f.Cursor(t.Context(), "soc"); err != nil || c.Seq != last {
		t.Errorf("cursor %+v, %v", c, err)
	}
}

func TestResendSendsWhatTheJournalNoLongerHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(701, 705)...)
		var filled []journal.Range
		j.onSettle = func(s journal.Settlement) {
			if len(s.Filled) > 0 {
				filled = s.Filled
				if got := len(j.dead["soc"]) + len(s.Dead); got != 599 {
					t.Errorf("the gap is closed with %d of its records kept, want 599", got)
				}
			}
		}
		d := &dest{answer: simply(func(_ int, seqs []uint64) error {
			if seqs[0] == 7 {
				return sinks.Poison(errors.New("400"))
			}
			return nil
		})}
		r := start(t, j, d, func(o *delivery.Options) { o.Config.When = `event_id != "e8"` })
		after(time.Minute)
		r.w.Pause(true)
		refused, err := r.w.Resend(t.Context(), records(1, 600), []journal.Range{{First: 1, Last: 600}})
		if err != nil || refused != 1 {
			t.Fatalf("%d refused by the condition, %v", refused, err)
		}
		if diff := cmp.Diff([]journal.Range{{First: 1, Last: 600}}, filled); diff != "" {
			t.Errorf("filled (-want +got):\n%s", diff)
		}
		// A restart comes between: what was to be sent is still sent.
		r.close()
		r = start(t, j, d)
		after(time.Minute)
		want := slices.DeleteFunc(span(1, 600), func(seq uint64) bool { return seq == 7 || seq == 8 })
		if diff := cmp.Diff(want, d.got()[5:]); diff != "" {
			t.Errorf("accepted (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff(map[uint64]string{7: "poison"}, r.dead()); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		if c := r.cursor(); c.Seq != 705 {
			t.Errorf("cursor %+v", c)
		}
		r.close()
	})
}

// A replay that begins when a former process had settled records behind others
// that it had not: those are still owed, and are not the replay's to send.
func TestReplaySendsNothingThatIsStillOwed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		j := newMemory()
		j.add(records(1, 6)...)
		j.cursors["soc"] = journal.Cursor{Seq: 2, Ahead: []journal.Range{{First: 5, Last: 6}}}
		j.readFails = 1 // so that the replay reads before what is owed was read
		d := &dest{answer: fine}
		r := start(t, j, d)
		synctest.Wait()
		if err := r.w.Replay(t.Context(), 1); err != nil {
			t.Fatal(err)
		}
		after(time.Minute)
		r.close()
		if diff := cmp.Diff([]uint64{1, 2, 3, 4, 5, 6}, sorted(slices.Compact(sorted(d.got())))); diff != "" {
			t.Errorf("sent (-want +got):\n%s", diff)
		}
		for _, seq := range []uint64{3, 4} {
			if n := len(slices.DeleteFunc(d.got(), func(s uint64) bool { return s != seq })); n != 1 {
				t.Errorf("record %d, which the sink had not had, was sent %d times", seq, n)
			}
		}
	})
}
