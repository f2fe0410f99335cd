package httpx

import (
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
)

// MaxRetryAfter is the longest wait that a destination can ask for.
const MaxRetryAfter = time.Hour

// RetryAfter returns how long the destination asked to wait, 0 when it did
// not say.
func (r *Response) RetryAfter() time.Duration {
	return ParseRetryAfter(r.Header.Get("Retry-After"), time.Now())
}

// ParseRetryAfter reads the value of a Retry-After header, seconds or an HTTP
// date. What is negative, past or unreadable counts as not said: 0. The
// result is at most MaxRetryAfter.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	value = strings.TrimSpace(value)
	if seconds, err := strconv.ParseInt(value, 10, 64); err == nil {
		return time.Duration(min(max(seconds, 0), int64(MaxRetryAfter/time.Second))) * time.Second
	}
	if date, err := http.ParseTime(value); err == nil {
		return min(max(date.Sub(now), 0), MaxRetryAfter)
	}
	return 0
}

// Err describes the answer as an error without a class: "answered 503 Service
// Unavailable: " and the beginning of the body.
func (r *Response) Err() error {
	text := strings.TrimSpace(fmt.Sprintf("answered %d %s", r.Status, http.StatusText(r.Status)))
	if excerpt := r.Excerpt(); excerpt != "" {
		text += ": " + excerpt
	}
	return errors.New(text)
}

// Class classes the answer by its status alone, as destinations without codes
// of their own mean it (webhooks, proxies, load balancers). It returns nil for
// 2xx. A status that says "later" is retryable; so is one that is not known,
// which is marked as an answer because it may be one event that causes it.
//
// 400 and 422 are poison: right for a request that carries one record; one
// that carries several has to find out which.
func (r *Response) Class() error {
	if r.Status/100 == 2 {
		return nil
	}
	err := r.Err()
	switch s := r.Status; {
	case s/100 == 3:
		return sinks.Halt(fmt.Errorf("%w (redirects are not followed: configure the final address)", err))
	case s == http.StatusRequestEntityTooLarge:
		return sinks.TooLarge(err)
	case s == http.StatusBadRequest, s == http.StatusUnprocessableEntity:
		return sinks.Poison(err)
	case s == http.StatusInternalServerError, s == http.StatusInsufficientStorage:
		return sinks.After(sinks.Answered(err), r.RetryAfter())
	case later(s):
		return sinks.After(err, r.RetryAfter())
	case ours(s):
		return sinks.Halt(err)
	default:
		return sinks.After(sinks.Answered(err), r.RetryAfter())
	}
}

// later reports whether a status speaks of the moment and not of the events.
func later(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	default:
		return status >= 520 && status <= 530 // between a proxy on the way and the destination
	}
}

// ours reports whether a status says that our setup is wrong.
func ours(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusMethodNotAllowed,
		http.StatusNotAcceptable, http.StatusProxyAuthRequired, http.StatusGone,
		http.StatusUnsupportedMediaType, http.StatusNotImplemented:
		return true
	default:
		return false
	}
}
