package cwp

import (
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/cwprelay/cwprelay/config/secret"
)

// The codes that a request is repeated for within one List.
const (
	codeSignatureExpire  = "AuthFailure.SignatureExpire"
	codeTokenFailure     = "AuthFailure.TokenFailure"     //nolint:gosec // a code of the API, no secret
	codeSecretIDNotFound = "AuthFailure.SecretIdNotFound" //nolint:gosec // a code of the API, no secret
)

// classOf says what a code of the API means, after the vendor's common list.
// Codes are hierarchical: what stands before the first dot decides, so that a
// new longer code is understood. A code that is not listed may be anything, as
// FailedOperation may.
func classOf(code string) Class {
	if code == codeSignatureExpire {
		return ClassClock
	}
	class, ok := prefixClass(codePrefix(code))
	if !ok {
		return ClassVague
	}
	return class
}

func codePrefix(code string) string {
	prefix, _, _ := strings.Cut(code, ".")
	return prefix
}

// prefixClass is false for a code that is not on the vendor's list.
func prefixClass(prefix string) (Class, bool) {
	switch prefix {
	case "RequestLimitExceeded":
		return ClassRate, true
	case "InternalError", "ServiceUnavailable", "ResourceUnavailable", "ResourceInsufficient", "ResourceInUse",
		"RequestTimeout": // the last is not on the vendor's list
		return ClassServer, true
	case "FailedOperation":
		return ClassVague, true
	case "ResponseSizeLimitExceeded":
		return ClassAnswerSize, true
	case "AuthFailure", "UnauthorizedOperation", "IpInBlacklist", "IpNotInWhitelist", "OperationDenied":
		return ClassCredentials, true
	case "InvalidParameter", "InvalidParameterValue", "MissingParameter", "UnknownParameter", "InvalidAction",
		"NoSuchVersion", "NoSuchProduct", "UnsupportedRegion", "UnsupportedOperation", "UnsupportedProtocol",
		"ActionOffline", "InvalidRequest", "RequestSizeLimitExceeded",
		"LimitExceeded", // a quota, not a rate: waiting a little does not help
		"ResourceNotFound":
		return ClassRequest, true
	default:
		return 0, false
	}
}

// codeLabel is the value of the metric's label code for an error. The set of
// values is bounded, whatever the API sends.
func codeLabel(e *Error) string {
	if e.Code == "" {
		return e.Class.String()
	}
	switch e.Code {
	case "RequestLimitExceeded.UinLimitExceeded", "RequestLimitExceeded.IPLimitExceeded",
		"RequestLimitExceeded.GlobalRegionUinLimitExceeded", "InternalError.MainDBFail", "FailedOperation.APIServerFail",
		codeSignatureExpire, codeTokenFailure, codeSecretIDNotFound,
		"AuthFailure.SignatureFailure", "AuthFailure.InvalidSecretId", "AuthFailure.InvalidAuthorization",
		"AuthFailure.MFAFailure", "AuthFailure.UnauthorizedOperation":
		return e.Code
	}
	if prefix := codePrefix(e.Code); prefix != "" {
		if _, ok := prefixClass(prefix); ok {
			return prefix
		}
	}
	return "other"
}

// maxMessage is the most that is kept of a text from outside, in bytes.
const maxMessage = 400

// clean makes one line of a text from outside: controls and invisible
// formatting become spaces, runs of spaces one, and it is cut to limit bytes.
func clean(text string, limit int) string {
	if len(text) > 4*limit {
		text = text[:4*limit]
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || unicode.Is(unicode.Zl, r) || unicode.Is(unicode.Zp, r) {
			return ' '
		}
		return r
	}, text) // Map replaces what is not UTF-8
	text = strings.Join(strings.Fields(text), " ")
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + "…"
}

// hide removes secrets from a text, in every form in which a server may repeat
// them, and what is left of one where the text was cut.
func hide(text string, secrets []string) string {
	const least = 6 // of a secret that was cut
	for _, s := range secrets {
		// Shorter ones would match by chance and hide nothing worth it.
		if len(s) < 4 {
			continue
		}
		for _, form := range secret.New(s).Forms() {
			text = strings.ReplaceAll(text, form, secret.Mask)
			whole, cut := strings.CutSuffix(text, "…")
			for n := len(form) - 1; cut && n >= least; n-- {
				if strings.HasSuffix(whole, form[:n]) {
					text = whole[:len(whole)-n] + secret.Mask + "…"
					break
				}
			}
		}
	}
	return text
}

// hide removes secrets from what the server said.
func (e *Error) hide(secrets []string) {
	e.Code, e.Message, e.RequestID = hide(e.Code, secrets), hide(e.Message, secrets), hide(e.RequestID, secrets)
}
