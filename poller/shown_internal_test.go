package poller

import (
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/event"
)

// Answers overlap in time: of two that show an event, the later request is
// right, in whatever order they are seen.
func TestLaterRequestIsRightAboutAnEvent(t *testing.T) {
	p := &Poller{kind: cwp.KindByName("risk_process"), cfg: Config{}.WithDefaults()}
	now := time.Now()
	showing := func(status string, sent time.Time) *answer {
		return &answer{
			page: &cwp.Page{SentAt: sent, ReceivedAt: sent.Add(time.Second)},
			rows: []row{{item: &cwp.Item{ID: "7", Status: status, Raw: []byte(`{"HandleStatus":` + status + `}`)}}},
		}
	}
	older, newer := showing("0", now), showing("1", now.Add(time.Millisecond))
	for _, order := range [][]*answer{{older, newer}, {newer, older}} {
		one := newShowing(p, func(event.Key) bool { return true })
		for _, a := range order {
			one.see(p, a, origin{})
		}
		if got := one.shown.Events["7"].Status.Code; got != "1" {
			t.Errorf("status %s, want 1", got)
		}
		if kept := one.kept["7"]; kept == nil || string(kept.Raw) != `{"HandleStatus":1}` {
			t.Errorf("kept %+v", kept)
		}
	}
}
