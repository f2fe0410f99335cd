package slack

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// FuzzAnswer holds that nothing but Slack's own word confirms a message.
func FuzzAnswer(f *testing.F) {
	f.Add(200, "ok")
	f.Add(200, `{"ok":true,"ts":"1.2"}`)
	f.Add(200, `{"ok":false,"error":"ratelimited"}`)
	f.Add(200, "<html>ok</html>")
	f.Add(302, "ok")
	f.Add(410, "channel_is_archived")
	f.Fuzz(func(t *testing.T, status int, body string) {
		r := &httpx.Response{Status: status, Body: []byte(body)}
		s := &Sink{}
		if err := s.hookAnswer(r); err == nil && (status != 200 || strings.TrimSpace(body) != "ok") {
			t.Errorf("a webhook is confirmed by %d %q", status, body)
		}
		var a struct {
			OK *bool `json:"ok"`
		}
		yes := json.Unmarshal([]byte(body), &a) == nil && a.OK != nil && *a.OK
		if _, err := s.botAnswer(r); err == nil && (status != 200 || !yes) {
			t.Errorf("a message is confirmed by %d %q", status, body)
		}
	})
}
