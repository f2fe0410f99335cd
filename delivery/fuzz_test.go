package delivery

import (
	"testing"

	"github.com/cwprelay/cwprelay/event"
)

// FuzzCondition compiles conditions and asks them about a record: they answer
// or fail, and do neither crash nor loop.
func FuzzCondition(f *testing.F) {
	for _, text := range []string{
		"threat_severity >= high && !backfill", `any(virus_tags, # == "x")`, `virus_name matches "^L.*"`, "1/0 == 0", `lower(file_path) contains "tmp"`,
		"all(virus_tags, any(virus_tags, true))", `count(virus_tags, {let x = #; x == ""}) > 0`, "[1,2,3][9] == 1", "((((((true))))))",
	} {
		f.Add(text)
	}
	rec := &event.Record{
		Seq: 1, Key: event.Key{Account: "1", Kind: "risk_process", ID: "7"}, Sequence: 1, Dialect: "record", Zone: "Asia/Shanghai",
		Action: event.Detected, Status: event.Status{Code: "0", Symbol: "pending"},
		Raw: []byte(`{"EventId":7,"VirusName":"Linux.Risk.Miner","VirusTags":["a","b"],"FilePath":"/tmp/x"}`),
	}
	f.Fuzz(func(t *testing.T, text string) {
		c, err := compile(text)
		if err != nil {
			if err.Error() == "" {
				t.Errorf("%q is refused without a word", text)
			}
			return
		}
		first, firstErr := c.match(rec)
		second, secondErr := c.match(rec)
		if first != second || (firstErr == nil) != (secondErr == nil) {
			t.Errorf("%q gives %t, %v and then %t, %v", text, first, firstErr, second, secondErr)
		}
	})
}
