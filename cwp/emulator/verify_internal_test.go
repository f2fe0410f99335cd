package emulator

import (
	"encoding/hex"
	"net/http"
	"strings"
	"testing"
	"time"
)

// The vendor's published vectors: the documentation of its signature scheme
// and the test of its Go SDK.
func TestAcceptsPublishedSignatures(t *testing.T) {
	const body = `{"Limit": 1, "Filters": [{"Values": ["\u672a\u547d\u540d"], "Name": "instance-name"}]}`
	if sum := hexHash([]byte(body)); sum != "35e9c5b0e3ae67532d3c9f17ead6c90222632e5b1ff7f6e89887f1398934f064" {
		t.Fatalf("the body is not the published one: %s", sum)
	}
	for name, c := range map[string]struct{ key, signed, signature string }{
		"content type and host": {
			key: "Gu5t9xGARNpq86cd98joQYCN3*******", signed: "content-type;host",
			signature: "2230eefd229f582d8b1b891af7107b91597240707d778ab3738f756258d7652c",
		},
		"with the action": {
			key: strings.Repeat("*", 32), signed: "content-type;host;x-tc-action",
			signature: "10b1a37a7301a02ca19a647ad722d5e43b4b3cff309d421d85b46093f6ab6c4f",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "https://cvm.tencentcloudapi.com/", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/json; charset=utf-8")
			r.Header.Set("X-TC-Action", "DescribeInstances")
			r.Header.Set("X-TC-Timestamp", "1551113065")
			header := "TC3-HMAC-SHA256 Credential=AKID/2019-02-25/cvm/tc3_request, SignedHeaders=" + c.signed + ", Signature=" + c.signature
			a, refused := parseAuthorization(header)
			if refused != nil {
				t.Fatal(refused)
			}
			now := time.Unix(1551113065, 0)
			if refused := a.verify(r, []byte(body), c.key, now); refused != nil {
				t.Errorf("refused: %v (computed %s)", refused, hex.EncodeToString(a.sign(r, []byte(body), c.key, 1551113065)))
			}
			for age, code := range map[time.Duration]string{
				5 * time.Minute:                    "",
				-5 * time.Minute:                   "",
				5*time.Minute + time.Nanosecond:    "AuthFailure.SignatureExpire",
				-(5*time.Minute + time.Nanosecond): "AuthFailure.SignatureExpire",
			} {
				if got := codeOf(a.verify(r, []byte(body), c.key, now.Add(age))); got != code {
					t.Errorf("aged %s: %q, want %q", age, got, code)
				}
			}
			if got := codeOf(a.verify(r, []byte(body+" "), c.key, now)); got != "AuthFailure.SignatureFailure" {
				t.Errorf("other body: %q", got)
			}
			r.Host = "cwp.tencentcloudapi.com"
			if got := codeOf(a.verify(r, []byte(body), c.key, now)); got != "AuthFailure.SignatureFailure" {
				t.Errorf("other host: %q", got)
			}
		})
	}
}

func codeOf(err *APIError) string {
	if err == nil {
		return ""
	}
	return err.Code
}

func TestRefusesOddAuthorizations(t *testing.T) {
	sig := strings.Repeat("ab", 32)
	for name, header := range map[string]string{
		"other scheme":      "TC2 Credential=a/b/c/tc3_request, SignedHeaders=host, Signature=" + sig,
		"no credential":     "TC3-HMAC-SHA256 SignedHeaders=host, Signature=" + sig,
		"short scope":       "TC3-HMAC-SHA256 Credential=a/b/tc3_request, SignedHeaders=host, Signature=" + sig,
		"other terminator":  "TC3-HMAC-SHA256 Credential=a/b/c/tc2_request, SignedHeaders=host, Signature=" + sig,
		"short signature":   "TC3-HMAC-SHA256 Credential=a/b/c/tc3_request, SignedHeaders=host, Signature=ab",
		"no hex":            "TC3-HMAC-SHA256 Credential=a/b/c/tc3_request, SignedHeaders=host, Signature=" + strings.Repeat("zz", 32),
		"a part twice":      "TC3-HMAC-SHA256 Credential=a/b/c/tc3_request, Signature=" + sig + ", Signature=" + sig,
		"no name and value": "TC3-HMAC-SHA256 junk",
		"empty":             "",
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := parseAuthorization(header); codeOf(err) != "AuthFailure.InvalidAuthorization" {
				t.Errorf("%q gives %v", header, err)
			}
		})
	}
}

func TestWeightsAreThousandths(t *testing.T) {
	sum := 0
	for _, op := range Ops() {
		sum += op.weight()
	}
	if sum != 1000 {
		t.Errorf("the weights add up to %d", sum)
	}
}
