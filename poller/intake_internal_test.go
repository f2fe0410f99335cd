package poller

import (
	"testing"
	"unsafe"

	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
)

// A record does not keep an answer in memory of which it is a small part; where
// most of the answer is news, nothing is copied.
func TestRecordsKeepNoAnswerForNothing(t *testing.T) {
	body := make([]byte, 1000)
	j := job{answer: &answer{page: &cwp.Page{Bytes: len(body)}}}
	for name, tt := range map[string]struct {
		size   int // of each of four records
		copied bool
	}{"few news": {100, true}, "mostly news": {200, false}} {
		changes := []journal.Change{{}} // one without a record
		for i := range 4 {
			changes = append(changes, journal.Change{Record: &event.Record{Raw: body[i*tt.size : (i+1)*tt.size]}})
		}
		j.keepApart(changes)
		for i, c := range changes[1:] {
			at := &body[i*tt.size]
			if copied := unsafe.SliceData(c.Record.Raw) != at; copied != tt.copied || len(c.Record.Raw) != tt.size {
				t.Errorf("%s: record %d is a copy: %v, want %v", name, i, copied, tt.copied)
			}
		}
	}
}
