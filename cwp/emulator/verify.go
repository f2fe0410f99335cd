package emulator

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The errors of authentication, in the words of the vendor's samples.
func authFailure(reason, format string, args ...any) *APIError {
	return &APIError{Code: "AuthFailure." + reason, Message: fmt.Sprintf(format, args...)}
}

func signatureFailure(why string) *APIError {
	return authFailure("SignatureFailure", "The provided credentials could not be validated. Please check your signature is correct. (%s)", why)
}

// An authorization is a parsed Authorization header.
type authorization struct {
	secretID      string
	date, service string // of the scope
	signed        []string
	signature     []byte
}

const scheme = "TC3-HMAC-SHA256"

// parseAuthorization reads
//
//	TC3-HMAC-SHA256 Credential=ID/DATE/SERVICE/tc3_request, SignedHeaders=a;b, Signature=hex
func parseAuthorization(header string) (authorization, *APIError) {
	var a authorization
	bad := authFailure("InvalidAuthorization", "The Authorization header is not of the form that %s prescribes.", scheme)
	rest, ok := strings.CutPrefix(header, scheme+" ")
	if !ok {
		return a, bad
	}
	parts := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		name, value, found := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := parts[name]; twice || !found {
			return a, bad
		}
		parts[name] = value
	}
	scope := strings.Split(parts["Credential"], "/")
	signature, err := hex.DecodeString(parts["Signature"])
	if len(parts) != 3 || len(scope) != 4 || scope[3] != "tc3_request" || err != nil || len(signature) != sha256.Size {
		return a, bad
	}
	a.secretID, a.date, a.service = scope[0], scope[1], scope[2]
	a.signed, a.signature = strings.Split(parts["SignedHeaders"], ";"), signature
	return a, nil
}

// maxAge is how far a request's time may be from the server's.
const maxAge = 5 * time.Minute

// verify checks the signature of a request and its age. body is the request's
// body, now the time on the server's clock.
func (a authorization) verify(r *http.Request, body []byte, secretKey string, now time.Time) *APIError {
	seconds, err := strconv.ParseInt(r.Header.Get("X-TC-Timestamp"), 10, 64)
	if err != nil {
		return &APIError{Code: "MissingParameter", Message: "X-TC-Timestamp is missing or no number of seconds."}
	}
	stamp := time.Unix(seconds, 0)
	if age := now.Sub(stamp); age > maxAge || age < -maxAge {
		return authFailure("SignatureExpire", "The signature has expired; the request time differs from the server time by more than five minutes.")
	}
	if a.date != stamp.UTC().Format(time.DateOnly) {
		return signatureFailure("the date of the scope is not that of X-TC-Timestamp in UTC")
	}
	for _, required := range []string{"content-type", "host"} {
		if !slices.Contains(a.signed, required) {
			return signatureFailure(required + " is not among the signed headers")
		}
	}
	if !slices.IsSorted(a.signed) {
		return signatureFailure("the signed headers are not sorted")
	}
	if !hmac.Equal(a.signature, a.sign(r, body, secretKey, seconds)) {
		return signatureFailure("computed over " + r.Host)
	}
	return nil
}

// sign computes what the signature has to be. The vendor signs "/" whatever
// the path, and the headers in lower case, their values too.
func (a authorization) sign(r *http.Request, body []byte, secretKey string, seconds int64) []byte {
	lines := []string{r.Method, "/", ""}
	for _, name := range a.signed {
		value := strings.Join(r.Header.Values(name), ",")
		if name == "host" {
			value = r.Host
		}
		lines = append(lines, name+":"+strings.ToLower(strings.TrimSpace(value)))
	}
	lines = append(lines, "", strings.Join(a.signed, ";"), hexHash(body))
	scope := strings.Join([]string{a.date, a.service, "tc3_request"}, "/")
	text := strings.Join([]string{scheme, strconv.FormatInt(seconds, 10), scope, hexHash([]byte(strings.Join(lines, "\n")))}, "\n")

	key := []byte("TC3" + secretKey)
	for _, part := range []string{a.date, a.service, "tc3_request", text} {
		h := hmac.New(sha256.New, key)
		h.Write([]byte(part))
		key = h.Sum(nil)
	}
	return key
}

func hexHash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}
