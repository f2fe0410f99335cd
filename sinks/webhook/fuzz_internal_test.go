package webhook

import (
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/config/secret"
)

// FuzzSecret reads signing secrets: an error never shows one.
func FuzzSecret(f *testing.F) {
	f.Add("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	f.Add("whsec_")
	f.Add("whsec_!hidden-key-hidden-key")
	f.Fuzz(func(t *testing.T, text string) {
		key, err := signingKey(secret.New(text))
		if err == nil && (len(key) < minKey || len(key) > maxKey) {
			t.Errorf("%q is a key of %d bytes", text, len(key))
		}
		if err != nil && strings.Contains(err.Error(), "hidden-key") {
			t.Errorf("the error shows the secret: %v", err)
		}
	})
}
