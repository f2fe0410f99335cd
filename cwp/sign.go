package cwp

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
)

// algorithm is the vendor's third signature scheme.
const algorithm = "TC3-HMAC-SHA256"

// A signable is what of a POST request goes into its signature.
type signable struct {
	service string
	host    string            // as in the Host header, with the port
	headers map[string]string // further signed headers by lower-case name; content-type must be among them
	signed  []string          // names of the signed headers in order, "host" among them
	body    []byte
	time    time.Time
}

// authorization is the Authorization header of a request. Path and query are
// not part of the signature: the vendor signs "/" whatever the endpoint's path.
func (s signable) authorization(secretID, secretKey string) string {
	var canonical strings.Builder
	canonical.WriteString("POST\n/\n\n")
	for _, name := range s.signed {
		value := s.headers[name]
		if name == "host" {
			value = s.host
		}
		canonical.WriteString(name + ":" + strings.ToLower(strings.TrimSpace(value)) + "\n")
	}
	names := strings.Join(s.signed, ";")
	canonical.WriteString("\n" + names + "\n" + hexSum(s.body))

	date := s.time.UTC().Format(time.DateOnly)
	scope := date + "/" + s.service + "/tc3_request"
	text := algorithm + "\n" + strconv.FormatInt(s.time.Unix(), 10) + "\n" + scope + "\n" + hexSum([]byte(canonical.String()))

	key := mac([]byte("TC3"+secretKey), date)
	key = mac(key, s.service)
	key = mac(key, "tc3_request")
	return algorithm + " Credential=" + secretID + "/" + scope +
		", SignedHeaders=" + names + ", Signature=" + hex.EncodeToString(mac(key, text))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

func hexSum(b []byte) string {
	sum := sha256.Sum256(b)
	var out [2 * sha256.Size]byte
	hex.Encode(out[:], sum[:])
	return string(out[:])
}
