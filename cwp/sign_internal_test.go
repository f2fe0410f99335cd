package cwp

import (
	"strings"
	"testing"
	"time"
)

// TestPublishedVectors holds the signature against the vendor's own examples.
func TestPublishedVectors(t *testing.T) {
	body := []byte(`{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}`)
	for name, tc := range map[string]struct {
		key    string
		signed []string
		want   string
	}{
		"content-type and host":              {"Gu5t9xGARNpq86cd98joQYCN3*******", []string{"content-type", "host"}, "2230eefd229f582d8b1b891af7107b91597240707d778ab3738f756258d7652c"},
		"content-type, host and x-tc-action": {strings.Repeat("*", 32), []string{"content-type", "host", "x-tc-action"}, "10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f"},
	} {
		t.Run(name, func(t *testing.T) {
			got := signable{
				service: "cvm", host: "cvm.tencentcloudapi.com",
				headers: map[string]string{"content-type": "application/json; charset=utf-8", "x-tc-action": "describeinstances"},
				signed:  tc.signed, body: body, time: time.Unix(1551113065, 0),
			}.authorization("AKIDz8krbsJ5yKBZQpn74WFkmLPx3*******", tc.key)
			if !strings.HasSuffix(got, ", Signature="+tc.want) {
				t.Errorf("got %s, want the signature %s", got, tc.want)
			}
		})
	}
}

func FuzzOpenEnvelope(f *testing.F) {
	f.Add([]byte(`{"Response":{"TotalCount":1,"List":[{"EventId":1}],"RequestId":"x"}}`))
	f.Add([]byte(`{"Response":{"List":null,"TotalCount":null}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, ok := openEnvelope(body, riskProcess())
		if !ok || e.response == nil {
			return
		}
		if page, failure := e.page(riskProcess()); failure == nil {
			for _, item := range page.Items {
				if item.ID == "" || item.Status == "" {
					t.Errorf("an item without id or status: %+v", item)
				}
			}
		}
	})
}
