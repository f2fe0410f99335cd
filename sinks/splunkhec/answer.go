package splunkhec

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// The collector's codes, from Splunk's "Troubleshoot HTTP Event Collector".
const (
	codeSuccess          = 0
	codeTokenDisabled    = 1
	codeTokenRequired    = 2
	codeBadAuthorization = 3
	codeBadToken         = 4
	codeNoData           = 5
	codeBadFormat        = 6
	codeBadIndex         = 7
	codeInternal         = 8
	codeBusy             = 9
	codeNoChannel        = 10
	codeBadChannel       = 11
	codeEventRequired    = 12
	codeEventBlank       = 13
	codeAckDisabled      = 14
	codeBadFields        = 15
	codeQueryToken       = 16
	codeHealthy          = 17
	codeQueuesFull       = 18
	codeAckUnavailable   = 19
	codeBothUnavailable  = 20
	codeHealthBadToken   = 21
	codeHealthDisabled   = 22
	codeShuttingDown     = 23
	codeQueueFilling     = 24
	codeAckFilling       = 25
	codeQueueAtCapacity  = 26
	codeAckAtCapacity    = 27
	codeNoSticky         = 28
)

// none stands for a number that an answer does not have.
const none = -1

// cloudLimit is the size in bytes from which Splunk Cloud refuses a request as
// if its first object were malformed.
const cloudLimit = 5 << 20

// An answer is what the collector said, as far as this sink understands it.
type answer struct {
	status  int
	code    int    // none: the body is not the collector's, but that of something on the way
	text    string // the server's words, unmasked
	invalid int    // number of the object it stumbled over, from 0; none if it did not say
	ackID   int64  // none if there is none
}

// parseAnswer reads a body. One that is not a JSON object with a code leaves
// only the status.
func parseAnswer(status int, body []byte) answer {
	a := answer{status: status, code: none, invalid: none, ackID: none}
	var wire struct {
		Text    string `json:"text"`
		Code    *int   `json:"code"`
		Invalid *int   `json:"invalid-event-number"`
		AckID   *int64 `json:"ackId"`
	}
	if json.Unmarshal(body, &wire) != nil || wire.Code == nil || *wire.Code < 0 {
		return a
	}
	a.code, a.text = *wire.Code, wire.Text
	if wire.Invalid != nil && *wire.Invalid >= 0 {
		a.invalid = *wire.Invalid
	}
	if wire.AckID != nil && *wire.AckID >= 0 {
		a.ackID = *wire.AckID
	}
	return a
}

// accepted reports whether the collector took the whole request.
func (a answer) accepted() bool {
	return a.status/100 == 2 && (a.code == codeSuccess || a.filling())
}

// filling reports whether the collector took the request and asks for less.
func (a answer) filling() bool {
	return a.status/100 == 2 && (a.code == codeQueueFilling || a.code == codeAckFilling)
}

// String is the answer as receipts show it; it holds nothing that the server
// could choose but numbers.
func (a answer) String() string {
	text := strconv.Itoa(a.status)
	if a.code != none {
		text += " code=" + strconv.Itoa(a.code)
	}
	if a.invalid != none {
		text += " event=" + strconv.Itoa(a.invalid)
	}
	if a.ackID != none {
		text += " ackId=" + strconv.FormatInt(a.ackID, 10)
	}
	return text
}

// refusal classes an answer that accepted nothing and names no object: the
// table of codes, and the status where there is no code.
func refusal(r *httpx.Response, a answer) error {
	err := describe(r, a)
	if a.status == http.StatusRequestEntityTooLarge {
		return sinks.TooLarge(err)
	}
	switch a.code {
	case codeTokenDisabled, codeTokenRequired, codeBadAuthorization, codeBadToken, codeHealthBadToken, codeHealthDisabled:
		return sinks.Halt(fmt.Errorf("%w (check token)", err))
	case codeQueryToken:
		return sinks.Halt(fmt.Errorf("%w (the token did not arrive as a header: look at proxies on the way)", err))
	case codeNoSticky:
		return sinks.Halt(fmt.Errorf("%w (the load balancer needs sticky sessions)", err))
	case codeNoData, codeNoChannel, codeBadChannel:
		return sinks.Halt(fmt.Errorf("%w (the request did not arrive as it was sent: look at proxies on the way)", err))
	case codeAckDisabled:
		return sinks.Halt(fmt.Errorf("%w (enable indexer acknowledgement for the token, or set ack: auto)", err))
	case codeBadIndex:
		return sinks.Halt(fmt.Errorf("%w (allow the index for the token, or correct index)", err))
	case codeBusy, codeQueuesFull, codeAckUnavailable, codeBothUnavailable, codeShuttingDown,
		codeQueueAtCapacity, codeAckAtCapacity:
		return sinks.After(err, r.RetryAfter())
	case codeInternal:
		return sinks.After(sinks.Answered(err), r.RetryAfter())
	}
	switch {
	case a.status/100 == 2:
		return sinks.Answered(fmt.Errorf("%w (not an answer of a HTTP Event Collector)", err))
	case a.status == http.StatusBadRequest || a.status == http.StatusUnprocessableEntity:
		return sinks.Answered(err) // a proxy's: it says nothing of an event
	default:
		return r.Class()
	}
}

// isolate tells apart the records of a request that was refused for one of its
// objects. The collector indexes what stands before that object, other
// receivers may not, so it is not taken as accepted.
//
// body is the length of the request before compression; records that could
// not be told apart are halved.
func isolate(r *httpx.Response, a answer, records, body int) error {
	err := describe(r, a)
	at := a.invalid
	if a.code == codeBadIndex && at != none {
		at-- // it names the object after the one with the index
	}
	switch {
	case at == 0 && a.invalid == 0 && body > cloudLimit:
		return sinks.TooLarge(fmt.Errorf("%w (of a request of %d bytes, taken as its size)", err, body))
	case records == 1:
		return sinks.Poison(err)
	case at < 0 || at >= records:
		return sinks.TooLarge(fmt.Errorf("%w (it does not say which of %d)", err, records))
	}
	failed := make(map[int]error, records)
	for i := range records {
		failed[i] = fmt.Errorf("sent together with a refused event: %w", err)
	}
	failed[at] = sinks.Poison(err)
	return &sinks.PartialError{Failed: failed}
}

// describe says what the collector answered, in its words and with its
// numbers; a body that is not the collector's is shown as it begins.
func describe(r *httpx.Response, a answer) error {
	if a.code == none {
		return r.Err()
	}
	text := "answered " + a.String()
	if words := r.Show(a.text); words != "" {
		text += ": " + words
	}
	return errors.New(text)
}
