package splunkhec

import (
	"encoding/json"
	"errors"

	"github.com/cwprelay/cwprelay/event"
)

type hecOptions struct{ Index, Source, SourceType, Host string }

func appendHEC(dst []byte, r *event.Record, body []byte, opts hecOptions) ([]byte, error) {
	if !json.Valid(body) {
		return dst, errors.New("not JSON")
	}
	env := map[string]any{
		"event": json.RawMessage(body), "host": "h", "source": "s", "sourcetype": "t", "time": 1.5,
		"fields": map[string]string{"cwp_event_uid": r.UID, "cwp_finding_uid": r.Key.FindingUID()},
	}
	if opts.Index != "" {
		env["index"] = opts.Index
	}
	b, err := json.Marshal(env)
	return append(dst, b...), err
}
