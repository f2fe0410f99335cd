// Package cwp speaks to the Tencent Cloud CWP API: it signs, sends one
// request, reads one answer and says what an error means. It is the one place
// that knows how the API is asked; what to ask and when, and what to do about
// an error, is the poller's.
package cwp

import (
	"fmt"
	"time"
)

// A Sort is an order in which a list can be asked for.
type Sort int

// The orders.
const (
	BySweepTime     Sort = iota // ascending by the time that never changes
	BySweepTimeDesc             // descending by it
	ByHeadTimeDesc              // descending by the time of the last detection
)

// A Query is one request for a part of a list. Its filters are added to those
// of the source.
type Query struct {
	Sort   Sort
	Begin  string // lower bound on the sweep time, API wall time; empty: not sent
	End    string // upper bound on the sweep time; empty: not sent
	Status string // value of the status filter; empty: not sent
	Where  Where  // one further filter; zero: not sent
	Offset int
	Limit  int  // 1 to Kind.MaxLimit
	Urgent bool // goes before others that wait for the request budget
}

// Where is one filter with one value.
type Where struct{ Name, Value string }

// A Page is one answer.
type Page struct {
	Items      []Item
	Total      int64 // TotalCount; meaningful only if HasTotal
	HasTotal   bool  // TotalCount was a number, not null and not missing
	RequestID  string
	Bytes      int       // of the whole answer, in which the items lie
	SentAt     time.Time // before the request was written; with a monotonic reading
	ReceivedAt time.Time // after the whole answer was read; with a monotonic reading
	// Ahead is by how much the server's clock is ahead of ours, as its Date header
	// says in whole seconds; 0 where it says nothing.
	Ahead time.Duration
}

// MaxClockSkew is by how much the clocks of the API and of whoever asks may
// differ: what is signed with a time further from its own is refused with
// AuthFailure.SignatureExpire (the API's page "Signature v3", X-TC-Timestamp).
const MaxClockSkew = 5 * time.Minute

// An Item is one element of the list. Its texts are trimmed; a null, missing
// or wrongly typed value is the empty text.
type Item struct {
	ID        string // decimal text or the API's string; "sha256:" and hex of Raw where there is no usable id
	NoID      bool   // ID was made from Raw
	Status    string // the status as text, "null" when there is none
	SweepTime string // the API's own text
	HeadTime  string // the API's own text
	Raw       []byte // the element, byte for byte, in the body of its answer: whoever keeps it longer than the page makes a copy

	revision [maxRevision]span // in Raw: the values of the kind's RevisionFields
	walked   bool              // revision was filled in
}

// A span is a piece of a text; the zero span is none.
type span struct{ from, to int }

// A Class is what an error of the API means for whoever asked.
type Class int

// The classes, after the vendor's list of codes; the part of a code before the
// first dot decides, unless a longer code is listed.
const (
	ClassNetwork     Class = iota // no usable answer: network, proxy, HTTP status, not JSON, cut short. Retry
	ClassServer                   // the service is in trouble. Retry
	ClassVague                    // FailedOperation: may be lasting. Retry a few times, then report
	ClassRate                     // asked too often. Retry; the limiter has been slowed down
	ClassAnswerSize               // the answer would be too large. Retry with a smaller Limit
	ClassClock                    // our clock is off by more than five minutes and correcting it did not help
	ClassCredentials              // the credentials are missing, wrong, expired or have no right. Probe slowly
	ClassRequest                  // the request is wrong: our bug, the wrong site, a retired action. Probe slowly
	ClassAnswer                   // the answer is JSON but not of the promised shape: Response or the list key is missing
)

// Classes are all classes.
func Classes() []Class {
	var out []Class
	for c := ClassNetwork; c <= ClassAnswer; c++ {
		out = append(out, c)
	}
	return out
}

// String names the class as metrics and logs do.
func (c Class) String() string {
	switch c {
	case ClassNetwork:
		return "network"
	case ClassServer:
		return "server"
	case ClassVague:
		return "vague"
	case ClassRate:
		return "rate"
	case ClassAnswerSize:
		return "answer_size"
	case ClassClock:
		return "clock"
	case ClassCredentials:
		return "credentials"
	case ClassRequest:
		return "request"
	case ClassAnswer:
		return "answer"
	default:
		return "unknown"
	}
}

// An Error is a failed request. It never holds a secret: not a key, a token, a
// signature nor a proxy's password.
type Error struct {
	Class      Class
	Code       string // the API's code; empty when there was no API answer
	Message    string // the API's own words, cleaned to one line and capped; or ours
	RequestID  string // the API's id of the answer, when there was one
	HTTPStatus int    // 0 when there was no answer
	Err        error  // the cause, when there is one
}

// Error says what happened in one line.
func (e *Error) Error() string {
	s := e.Class.String()
	if e.Code != "" {
		s = e.Code
	}
	if e.HTTPStatus != 0 && e.HTTPStatus != 200 {
		s += fmt.Sprintf(" (HTTP %d)", e.HTTPStatus)
	}
	if e.Message != "" {
		s += ": " + e.Message
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	if e.RequestID != "" {
		s += " (request id " + e.RequestID + ")"
	}
	return s
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }
