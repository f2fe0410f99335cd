package elastic

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// A bulkAnswer is the answer to a _bulk request, as far as it was asked for.
type bulkAnswer struct {
	Errors bool        `json:"errors"`
	Items  []operation `json:"items"`
}

// An operation is an item by what it answers, of which only a create was asked
// for.
type operation struct {
	Create item            `json:"create"`
	Index  json.RawMessage `json:"index"`
	Update json.RawMessage `json:"update"`
	Delete json.RawMessage `json:"delete"`
}

func (o *operation) isCreate() bool {
	return o.Create.Status != 0 && o.Index == nil && o.Update == nil && o.Delete == nil
}

// An item is what became of one record.
type item struct {
	Status int     `json:"status"`
	Error  failure `json:"error"`
}

// A failure is why, in a structure, or as a text as old versions have it.
type failure struct {
	Type   string
	Reason string
	Cause  string // type of the innermost cause
}

// UnmarshalJSON takes either form; what it does not know stays empty.
func (f *failure) UnmarshalJSON(text []byte) error {
	if bytes.HasPrefix(text, []byte(`"`)) {
		return json.Unmarshal(text, &f.Reason)
	}
	type link struct {
		Type     string          `json:"type"`
		Reason   string          `json:"reason"`
		CausedBy json.RawMessage `json:"caused_by"`
	}
	for depth := 0; len(text) > 0 && depth < 10; depth++ {
		var l link
		if json.Unmarshal(text, &l) != nil {
			return nil //nolint:nilerr // the status alone counts then
		}
		if depth == 0 {
			f.Type, f.Reason = l.Type, l.Reason
		}
		f.Cause, text = l.Type, l.CausedBy
		if depth > 0 && l.Reason != "" && !strings.Contains(f.Reason, l.Reason) {
			f.Reason += ": " + l.Reason
		}
	}
	return nil
}

// judge reads what became of each record. HTTP 200 alone says nothing.
func judge(r *httpx.Response, batch []sinks.Message) (sinks.Receipt, error) {
	var a bulkAnswer
	if r.Cut {
		return sinks.Receipt{Answer: "200"}, errors.New("the answer is longer than is read: the outcome is unknown")
	}
	if err := json.Unmarshal(r.Body, &a); err != nil {
		return sinks.Receipt{Answer: "200"}, fmt.Errorf("the answer is no JSON (%s): the outcome is unknown", r.Excerpt())
	}
	if len(a.Items) != len(batch) {
		return sinks.Receipt{Answer: "200"}, fmt.Errorf("the answer has %d items for %d records: the outcome is unknown", len(a.Items), len(batch))
	}
	failed := map[int]error{}
	receipt := sinks.Receipt{}
	for i := range a.Items {
		it := &a.Items[i].Create
		if !a.Items[i].isCreate() {
			return sinks.Receipt{Answer: "200"}, fmt.Errorf("item %d of the answer tells no status of a create: the outcome is unknown", i)
		}
		switch err := it.err(r); {
		case it.Status == http.StatusConflict && err == nil:
			receipt.Duplicates++
		case err != nil:
			failed[i] = err
		}
	}
	receipt.Answer = fmt.Sprintf("%d items=%d created=%d duplicates=%d failed=%d", r.Status, len(batch), len(batch)-receipt.Duplicates-len(failed), receipt.Duplicates, len(failed))
	if len(failed) > 0 {
		return receipt, &sinks.PartialError{Failed: failed}
	}
	return receipt, nil
}

// err is what an item means for its record: nil when the document is there.
func (it *item) err(r *httpx.Response) error {
	if it.Status == http.StatusOK || it.Status == http.StatusCreated {
		return nil
	}
	err := fmt.Errorf("item answered %d %s: %s", it.Status, r.Show(it.Error.Type), r.Show(it.Error.Reason))
	switch s := it.Status; {
	case s == http.StatusConflict:
		// The id is there already. A conflict of another kind is none of ours.
		if it.Error.Type == "" || strings.Contains(it.Error.Type, "version_conflict") {
			return nil
		}
		return sinks.Answered(err)
	case s == http.StatusTooManyRequests, s == http.StatusServiceUnavailable:
		return err
	case s == http.StatusUnauthorized, s == http.StatusForbidden, s == http.StatusNotFound:
		return sinks.Halt(err)
	case s == http.StatusBadRequest && it.setup():
		return sinks.Halt(err)
	case s == http.StatusBadRequest:
		return sinks.Poison(err)
	case s == http.StatusRequestEntityTooLarge:
		return sinks.TooLarge(err)
	default:
		return sinks.Answered(err)
	}
}

// setup reports whether a 400 is of the index and not of the document.
func (it *item) setup() bool {
	return slices.Contains([]string{"invalid_index_name_exception", "index_closed_exception", "invalid_alias_name_exception"}, it.Error.Type) ||
		it.Error.Type == "illegal_argument_exception" && (strings.Contains(it.Error.Reason, "pipeline") || strings.Contains(it.Error.Reason, "no write index") || strings.Contains(it.Error.Reason, "only write ops with an op_type of create"))
}
