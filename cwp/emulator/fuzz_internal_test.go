package emulator

import (
	"testing"
	"time"
)

// FuzzRequest asks the list: it answers or refuses, whatever it is asked.
func FuzzRequest(f *testing.F) {
	f.Add([]byte(`{"Limit":100,"Offset":0,"Order":"ASC","By":"StartTime","Filters":[{"Name":"BeginTime","Values":["2026-11-01 10:00:00"]}]}`))
	f.Add([]byte(`{"Limit":-1,"Offset":99999999999}`))
	f.Add([]byte(`{"Filters":[{"Name":"Status","Values":[]}]}`))
	f.Add([]byte(`null`))
	world := NewWorld(1, 50, time.Unix(1_793_500_000, 0))
	f.Fuzz(func(t *testing.T, body []byte) {
		req, bad := decodeRequest(body)
		if bad != nil {
			return
		}
		if answer, err := world.List(req); err == nil && len(answer.Rows) > 100 {
			t.Errorf("%q gets %d rows", body, len(answer.Rows))
		}
	})
}

// FuzzAuthorization reads Authorization headers.
func FuzzAuthorization(f *testing.F) {
	f.Add("TC3-HMAC-SHA256 Credential=ID/2026-11-01/cwp/tc3_request, SignedHeaders=content-type;host, Signature=00")
	f.Add("TC3-HMAC-SHA256 Credential=//, =")
	f.Fuzz(func(t *testing.T, header string) {
		if a, bad := parseAuthorization(header); bad == nil && len(a.signature) != 32 {
			t.Errorf("%q has a signature of %d bytes", header, len(a.signature))
		}
	})
}
