package cwp

import (
	"bytes"
	"encoding/json"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

// FuzzReadItems reads what someone has kept of the API.
func FuzzReadItems(f *testing.F) {
	f.Add([]byte(`{"Response":{"TotalCount":1,"List":[{"EventId":1,"HandleStatus":0}],"RequestId":"x"}}`))
	f.Add([]byte(`[{"EventId":18446744073709551616},{"EventId":null,"HandleStatus":"odd"}] {"EventId":"x"}`))
	f.Add([]byte(`{"Response":{"Error":{"Code":"AuthFailure","Message":"no"}}}`))
	f.Add([]byte(`{"List":[[[[[[1]]]]],"EventId",null,1e999,{"EventId":{"a":1},"EventId":2}]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		items, err := riskProcess().ReadItems(bytes.NewReader(text))
		if err != nil {
			return
		}
		for _, item := range items {
			if item.ID == "" || item.Status == "" || !json.Valid(item.Raw) {
				t.Errorf("an item without id or status, or that is not JSON: %+v", item)
			}
		}
	})
}

// FuzzAnswer reads whole answers of the API: one that the library does not
// take is an error, never a page, and never one that refuses for good.
func FuzzAnswer(f *testing.F) {
	f.Add([]byte(`{"Response":{"TotalCount":2,"List":[{"EventId":1,"HandleStatus":0,"StartTime":"2026-11-01 10:00:00"}],"RequestId":"x"}}`))
	f.Add([]byte(`{"Response":{"TotalCount":-1,"List":[],"List":[{"EventId":2}],"RequestId":"x"}}`))
	f.Add([]byte(`{"Response":{"TotalCount":5,"List":[{"EventId":101,"StartTime":"2026-11-01 10:00:00","DetectTime":"2026-11-01 10:00:01","HandleStatus":0},` +
		`{"EventId":102,"StartTime":"2026-11-01 10:00:00","DetectTime":"2026-11-01 10:00:01","HandleStatus":1,"VirusName":"b","VirusTags":["y","x"]},` +
		`{"EventIds":103,"EventId" :104, "StartTime":" 026-11-01 10:00:00","DetectTime":"2026-11-01 10:00:0\u0031","VirusName":"a","\u0048andleStatus":2},` +
		`{"EventId":105,"StartTime":" 026-11-01 10:00:00","DetectTime":"2026-11-01 10:00:0 "},` +
		`{"HandleStatus":3,"EventId":0},{"VirusName":"\u2028","VirusName":null,"EventId":-1,"StartTime":"2026-11-01 10:00:0 "},{},[7]],"RequestId":"x"}}`))
	f.Add([]byte(`{"Response":{"TotalCount":1e30,"List":{"EventId":1}}}`))
	f.Add([]byte(`{"Response":` + strings.Repeat("[", 20000)))
	f.Add([]byte(`{"code":4000,"codeDesc":"AuthFailure","message":"x"}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		e, ok := openEnvelope(body, riskProcess())
		if ok && !json.Valid(body) {
			t.Fatalf("%.200q is taken and is no JSON", body)
		}
		if !ok {
			if json.Valid(body) {
				t.Fatalf("%.200q is JSON and is not taken", body)
			}
			return
		}
		if failure := e.failure(http.StatusOK); failure != nil {
			return
		}
		page, failure := e.page(riskProcess())
		if failure != nil {
			return
		}
		for _, item := range page.Items {
			if item.ID == "" || item.Status == "" || !json.Valid(item.Raw) {
				t.Errorf("an item without id or status, or that is not JSON: %+v", item)
			}
			// The items before it change nothing, and the revision is the one that
			// is found by walking over it.
			alone := itemReader{kind: riskProcess()}
			if again, end := alone.read(item.Raw, 0, 0); end != len(item.Raw) || !reflect.DeepEqual(again, item) {
				t.Errorf("read alone %+v, among others %+v", again, item)
			}
			// What is taken as it stands is what the slow way makes of it.
			for field, got := range map[string]string{"StartTime": item.SweepTime, "DetectTime": item.HeadTime} {
				if want := riskProcess().Field(item.Raw, field); got != "" && got != want {
					t.Errorf("%s of %s is %q, want %q", field, item.Raw, got, want)
				}
			}
			if want := riskProcess().Field(item.Raw, "EventId"); !item.NoID && item.ID != want {
				t.Errorf("the id of %s is %q, want %q", item.Raw, item.ID, want)
			}
			if got, want := riskProcess().RevisionOf(&item), riskProcess().Revision(item.Raw); got != want {
				t.Errorf("%s has the revision %s, want %s", item.Raw, got, want)
			}
		}
	})
}

// FuzzCanonicalValue holds that the revision of an event does not depend on
// how its JSON is spaced, nor on the order of lists.
func FuzzCanonicalValue(f *testing.F) {
	for _, text := range []string{`[1, 2,"b" ,"a"]`, `"\u0041/\/"`, `{"a" : [3,1]}`, `null`, `1e3`, `[[2,1],[1]]`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		end := skipValue(value, 0, 0)
		if end != len(value) || end <= 0 {
			return
		}
		got := appendCanonicalValue(nil, value)
		if !json.Valid(got) {
			t.Fatalf("%q becomes %q", value, got)
		}
		var spaced bytes.Buffer
		if json.Indent(&spaced, value, "", "  ") != nil {
			return
		}
		if again := appendCanonicalValue(nil, spaced.Bytes()); !bytes.Equal(got, again) {
			t.Errorf("%q becomes %q, and with spaces %q", value, got, again)
		}
	})
}

// FuzzCredentials reads credential files: an error never shows what is in them.
func FuzzCredentials(f *testing.F) {
	f.Add([]byte(`{"secretId":"AKID","secretKey":"hidden-key"}`), "")
	f.Add([]byte("[default]\nsecret_id = AKID\nsecret_key = hidden-key\ntoken='x'\n"), "default")
	f.Add([]byte("secret_id=\nsecret_key==\n[\n"), "a")
	f.Fuzz(func(t *testing.T, text []byte, section string) {
		creds, err := parseCredentials(text, section)
		if err == nil && (creds.SecretID == "" || creds.SecretKey.IsZero()) {
			t.Errorf("%q gives %+v", text, creds)
		}
		if err != nil && strings.Contains(err.Error(), "hidden-key") {
			t.Errorf("the error shows the file: %v", err)
		}
	})
}

// FuzzSTS reads answers of STS.
func FuzzSTS(f *testing.F) {
	f.Add([]byte(`{"Response":{"AccountId":"100","RequestId":"x"}}`))
	f.Add([]byte(`{"Response":{"Error":{"Code":"x","Message":"y"}}}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var to struct{ AccountId json.RawMessage } //nolint:revive // the vendor's name
		if openSTS(body, &to) == nil && !json.Valid(body) {
			t.Errorf("%q is taken", body)
		}
	})
}

// FuzzAddresses reads endpoints and proxies: an error never shows a password,
// and what is taken can be asked.
func FuzzAddresses(f *testing.F) {
	for _, text := range []string{"cwp.tencentcloudapi.com", "http://127.0.0.1:9811/x", "https://user:hidden-key@proxy:1", "socks5://hidden-key@x", "http://[::1]:80", "https://ä.example"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := parseEndpoint(text)
		if err == nil {
			if _, err := http.NewRequestWithContext(t.Context(), http.MethodPost, u.String(), http.NoBody); err != nil {
				t.Errorf("%q is taken and cannot be asked: %v", text, err)
			}
		}
		_, proxyErr := parseProxy(text)
		for _, err := range []error{err, proxyErr} {
			if err != nil && strings.Contains(err.Error(), "hidden-key") {
				t.Errorf("the error shows the password: %v", err)
			}
		}
	})
}
