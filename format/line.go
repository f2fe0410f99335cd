package format

import "github.com/cwprelay/cwprelay/event"

// appendText appends the message for people: one line without command line
// and path. Syslog adds the details as structured data.
func appendText(dst []byte, r *event.Record) ([]byte, error) {
	f := Of(r)
	if !f.mapped && f.Heartbeat == nil {
		return dst, errNoMapping(Text, r)
	}
	return append(dst, f.Message...), nil
}
