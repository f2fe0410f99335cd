package webhook

import (
	"net/http"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
)

// The vector is that of the specification's reference libraries
// (github.com/standard-webhooks/standard-webhooks, MIT).
func TestSignatureIsThatOfTheReferenceLibraries(t *testing.T) {
	const want = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
	var keys [][]byte
	for _, text := range []string{"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"} {
		key, err := signingKey(secret.New(text))
		if err != nil {
			t.Fatal(err)
		}
		keys = append(keys, key)
	}
	h := http.Header{}
	sign(h, keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	got := h.Get("Webhook-Signature")
	if len(got) != 2*len(want)+1 || got[:len(want)] != want || got[len(want)] != ' ' {
		t.Errorf("signature %q, want %q and that of the second secret", got, want)
	}
	if h.Get("Webhook-Id") != "msg_p5jXN8AQM9LWM0D4loKWxJek" || h.Get("Webhook-Timestamp") != "1614265330" {
		t.Errorf("headers %v", h)
	}
}
