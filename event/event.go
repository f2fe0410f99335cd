// Package event holds what travels through cwprelay: the key that identifies
// an event, the state kept of it, and the record of one change to it.
//
// It knows nothing of the API that events come from, of the journal that keeps
// them or of the destinations they go to, and imports the standard library only.
package event

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"sync"
	"time"
)

// DefaultAccount stands in for the account of a source that has none: an own
// endpoint that does not say whose events it serves.
const DefaultAccount = "default"

// A Key identifies an event. Ids are unique per account and kind, not globally
// (ModifyRiskEventsStatus addresses an event as RiskType + id).
type Key struct {
	Account string // the vendor's account id, or DefaultAccount
	Kind    string // the name of a row of the registry of kinds: "risk_process"
	ID      string // the vendor's id as decimal text, or "sha256:…" of the item where it has none
}

// FindingUID is the identifier of the event over its whole life, as every
// output carries it.
func (k Key) FindingUID() string {
	return uidPrefix + k.Account + ":" + k.Kind + ":" + k.ID
}

const uidPrefix = "tencent-cwp:"

// EventUID is the identifier of one change: the first 40 hex digits of
// SHA-256(finding_uid LF sequence LF revision).
func (k Key) EventUID(sequence uint64, revision string) string {
	const hexDigits = 40
	var few [256]byte
	text := append(append(few[:0], uidPrefix...), k.Account...)
	text = append(append(text, ':'), k.Kind...)
	text = append(append(text, ':'), k.ID...)
	text = append(strconv.AppendUint(append(text, '\n'), sequence, 10), '\n')
	sum := sha256.Sum256(append(text, revision...))
	var out [hexDigits]byte
	hex.Encode(out[:], sum[:hexDigits/2])
	return string(out[:])
}

// A Status is the handling status of an event: what the vendor sent and how
// the source's handle_status_dialect reads it.
type Status struct {
	Code   string // the vendor's value as text, "3"; "null" when there was none
	Symbol string // "pending", "scanned", …; "unknown" when the dialect has no such value
	Closed bool   // nobody has to act on the event any more
}

// UnknownStatus is the symbol of a status that the dialect does not know.
const UnknownStatus = "unknown"

// An Action is what a record says happened to its event.
type Action string

// The actions. Formats derive their own names from them, the kind and the
// status: risk-process-killed is a Closed with the symbol "scanned".
const (
	Detected      Action = "detected"       // first seen
	Redetected    Action = "redetected"     // same status, a tracked field changed
	StatusChanged Action = "status-changed" // open stays open or closed stays closed
	Closed        Action = "closed"         // open to closed
	Reopened      Action = "reopened"       // closed to open
)

// ActionFor names the change from one status to another. It does not know
// Detected and Redetected, which are not changes of status.
func ActionFor(before, after Status) Action {
	switch {
	case !before.Closed && after.Closed:
		return Closed
	case before.Closed && !after.Closed:
		return Reopened
	default:
		return StatusChanged
	}
}

// A State is what the journal keeps of a key: enough to tell the next change,
// never the event itself.
type State struct {
	Status      Status    // the last handling status
	Sequence    uint64    // of the last change, 1 for the first; stored before anything is sent
	FirstDetect string    // the first detection time, as the API's own text
	Tracked     []string  // last value of each field of the source's changed_on after the status, in its order
	LastRecord  uint64    // log sequence of the last record; 0 when none was written (backfill: silent)
	AbsentSince time.Time // end of the first certified sweep that did not show the key, moved on by the time that nobody looked; zero while it is shown
	Unwatched   bool      // the key was last shown under other filters of the source: its absence means nothing
}

// A Record is one change of one event, as the journal keeps it and every sink
// gets it. Records are shared between goroutines: nobody changes one after it
// was appended or read, and nobody copies one but by Again.
type Record struct {
	Seq      uint64 // log sequence: order in the journal; grows, may have holes; 0 before it is appended
	Key      Key
	UID      string // event_uid: stable over resends, different for each change; receivers drop duplicates by it
	Sequence uint64 // 1, 2, 3 … per key
	Revision string // SHA-256, in hex, of the fields that make a revision

	Action   Action
	Status   Status
	Previous Status // zero for Detected

	FirstDetect string    // the first detection time seen of this key, as the API's own text
	ObservedAt  time.Time // when the answer that showed this change was received, UTC
	Backfill    bool      // taken in by the source's first certified sweep: old news
	Dialect     string    // the reading of the status: "record" or "filter"
	Zone        string    // IANA name of the zone of the API's wall times: "Asia/Shanghai"

	Source    string // configured name of the source
	Sweep     string // id of the sweep or head scan that showed it
	Page      int    // number of the request within it, from 1
	RequestID string // the API's id of the answer

	Raw []byte // the vendor's JSON object, byte for byte

	// Replayed is set on records that are sent again by an operator's replay.
	// It is not stored.
	Replayed bool

	derivedOnce sync.Once
	derived     any
}

// Again returns a copy of r that is marked as sent again by an operator's
// replay. It shares Raw with r.
func (r *Record) Again() *Record {
	return &Record{
		Seq: r.Seq, Key: r.Key, UID: r.UID, Sequence: r.Sequence, Revision: r.Revision,
		Action: r.Action, Status: r.Status, Previous: r.Previous,
		FirstDetect: r.FirstDetect, ObservedAt: r.ObservedAt, Backfill: r.Backfill, Dialect: r.Dialect, Zone: r.Zone,
		Source: r.Source, Sweep: r.Sweep, Page: r.Page, RequestID: r.RequestID,
		Raw: r.Raw, Replayed: true,
	}
}

// Derived returns what build makes of r, built at most once however many sinks
// ask. Only package format calls it: all callers must pass the same function.
func (r *Record) Derived(build func(*Record) any) any {
	r.derivedOnce.Do(func() { r.derived = build(r) })
	return r.derived
}
