package journal

import (
	"testing"

	"github.com/cwprelay/cwprelay/event"
)

// A record is known by its row, not by its number alone: what a failed commit
// left behind is never given for another.
func TestRecentRecordOfAnotherRowIsNotGiven(t *testing.T) {
	var m recent
	old, now := &event.Record{Seq: 7, UID: "old"}, &event.Record{Seq: 7, UID: "now"}
	m.add(old, 1)
	if got := m.findAll(7, 7, 2); got != nil {
		t.Errorf("the record of another row is given: %v", got[0].UID)
	}
	if got := m.add(now, 2); got != now {
		t.Errorf("a new record is taken for %s", got.UID)
	}
	if got := m.findAll(7, 7, 2); len(got) != 1 || got[0] != now {
		t.Errorf("found %v", got)
	}
	if m.findAll(7, 8, 2) != nil || m.findAll(7+recentSlots, 7+recentSlots, 2) != nil {
		t.Error("a record is given that is not there")
	}
}

// What a row holds is given as it stands there, also when it was read before
// with other contents.
func TestRowThatWasReplacedIsReadAnew(t *testing.T) {
	var m recent
	for _, uid := range []string{"old", "now"} {
		row := seal(rowRecord, seqKey(7), new(rowCodec).appendRecord(nil, &event.Record{Seq: 7, UID: uid, Raw: []byte("{}")}))
		records, err := m.open(seqKey(7), row, 7)
		if err != nil || len(records) != 1 || records[0].UID != uid {
			t.Errorf("%v, %v, want %s", records, err, uid)
		}
	}
}
