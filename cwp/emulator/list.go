package emulator

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// A Request is one question for a part of the list, as the API takes it.
type Request struct {
	Filters []Filter
	Limit   *int // default 10, at most 100
	Offset  *int
	Order   string // ASC or DESC
	By      string // StartTime or DetectTime
}

// A Filter is one condition. Its values are joined by OR, filters by AND.
type Filter struct {
	Name       string
	Values     []string
	ExactMatch bool
}

// An Answer is one consistent view of the list: everything in it was so at one
// moment.
type Answer struct {
	Total   int64 // how many match the filters
	NoTotal bool  // TotalCount is null
	Rows    []Row
	Tick    uint64 // the moment; see World.Tick
}

// A Row is one event as it is shown. It must not be changed: answers share it.
type Row struct {
	ID     string // decimal
	Status string
	Start  string // as shown; empty also for null
	Detect string
	Raw    []byte
}

// An APIError is a refusal in the API's own terms.
type APIError struct {
	Code    string
	Message string
}

// Error is code and message.
func (e *APIError) Error() string { return e.Code + ": " + e.Message }

func invalid(format string, args ...any) *APIError {
	return &APIError{Code: "InvalidParameter", Message: fmt.Sprintf(format, args...)}
}

// The API's limits. The last two are from the comment on Filter in the
// vendor's SDKs.
const (
	defaultLimit = 10
	maxLimit     = 100
	maxFilters   = 5
	maxValues    = 5
)

// decodeRequest reads the body of DescribeRiskProcessEvents.
func decodeRequest(body []byte) (Request, *APIError) {
	var req Request
	if len(bytes.TrimSpace(body)) == 0 {
		return req, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(body, &members); err != nil {
		return req, &APIError{Code: "InvalidRequest", Message: "The request body is not a JSON object."}
	}
	for name, value := range members {
		var to any
		switch name {
		case "Filters":
			to = &req.Filters
		case "Limit":
			to = &req.Limit
		case "Offset":
			to = &req.Offset
		case "Order":
			to = &req.Order
		case "By":
			to = &req.By
		default:
			return req, &APIError{Code: "UnknownParameter", Message: fmt.Sprintf("The parameter `%s` is not recognized.", name)}
		}
		if err := json.Unmarshal(value, to); err != nil {
			return req, invalid("The value type of parameter `%s` is not valid.", name)
		}
	}
	return req, nil
}

// A query is a Request that was found valid.
type query struct {
	by         int
	descending bool
	offset     int
	limit      int
	begin, end int64             // inclusive bounds on the start time
	timed      bool              // there are such bounds
	where      []func(*row) bool // all must hold
}

// List answers a request. Every answer is computed from the list at one
// moment. The error is nil or an *APIError.
func (w *World) List(req Request) (Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list(req, w.quirks)
}

// ListWith answers as List does, with other quirks for this one request.
func (w *World) ListWith(req Request, quirks Quirks) (Answer, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.list(req, quirks)
}

func (w *World) list(req Request, quirks Quirks) (Answer, error) {
	q, apiErr := req.parse(quirks)
	if apiErr != nil {
		return Answer{}, apiErr
	}
	matching, withheld := w.matching(q, quirks)

	answer := Answer{
		Total:   max(0, int64(len(matching)+withheld+quirks.TotalOffset)),
		NoTotal: quirks.NoTotal,
		Tick:    w.tick,
	}
	limit := q.limit
	if quirks.MaxItems > 0 {
		limit = min(limit, quirks.MaxItems)
	}
	first := min(q.offset, len(matching))
	last := min(first+limit, len(matching))
	var page []*row
	switch {
	case quirks.IgnoreOrder:
		inserted := slices.SortedFunc(slices.Values(matching), func(a, b *row) int { return cmp.Compare(a.serial, b.serial) })
		page = inserted[first:last]
	case q.descending:
		// The order inside a second is random, so a part of the descending
		// list is the mirrored part of the ascending one, backwards.
		page = w.pick(matching, q.by, len(matching)-last, len(matching)-first, quirks.StableTies)
		slices.Reverse(page)
	default:
		page = w.pick(matching, q.by, first, last, quirks.StableTies)
	}
	answer.Rows = make([]Row, len(page))
	for i, r := range page {
		answer.Rows[i] = w.show(r)
	}
	return answer, nil
}

// matching is what fits the query, ascending by its time, and how many rows
// fit that are to be counted only.
func (w *World) matching(q query, quirks Quirks) ([]*row, int) {
	rows := w.indexes[q.by].rows
	where := q.where
	if q.timed {
		if q.by == byStart {
			lo := firstAtOrAfter(rows, byStart, q.begin)
			hi := len(rows)
			if q.end < math.MaxInt64 {
				hi = firstAtOrAfter(rows, byStart, q.end+1)
			}
			rows = rows[lo:max(lo, hi)]
		} else {
			where = append(slices.Clip(where), func(r *row) bool {
				return r.keys[byStart] >= q.begin && r.keys[byStart] <= q.end
			})
		}
	}
	if len(where) == 0 && len(quirks.CountedOnly) == 0 && len(quirks.Hidden) == 0 {
		return rows, 0
	}
	var found []*row
	withheld := 0
	for _, r := range rows {
		switch {
		case slices.ContainsFunc(where, func(holds func(*row) bool) bool { return !holds(r) }):
		case slices.Contains(quirks.Hidden, r.id):
		case slices.Contains(quirks.CountedOnly, r.id):
			withheld++
		default:
			found = append(found, r)
		}
	}
	return found, withheld
}

// pick takes the rows at positions first to last of sorted rows, where the
// order of those that share a second is random: a part of a random permutation
// is a random sample in random order.
func (w *World) pick(sorted []*row, by, first, last int, stable bool) []*row {
	page := make([]*row, 0, last-first)
	if stable {
		return append(page, sorted[first:last]...)
	}
	for i := first; i < last; {
		key := sorted[i].keys[by]
		end := i + 1
		if end < len(sorted) && sorted[end].keys[by] == key {
			end = firstAtOrAfter(sorted, by, key+1)
		}
		start := i
		if start > 0 && sorted[start-1].keys[by] == key {
			start = firstAtOrAfter(sorted, by, key)
		}
		n := min(end, last) - i
		page = sample(w.ties, page, sorted[start:end], n)
		i += n
	}
	return page
}

// sample appends n different elements of from, in random order.
func sample(random *rand.Rand, to, from []*row, n int) []*row {
	if len(from) == 1 {
		return append(to, from[0])
	}
	// The first n steps of a shuffle that remembers what it moved instead of
	// moving it.
	moved := make(map[int]int, n)
	at := func(i int) int {
		if j, ok := moved[i]; ok {
			return j
		}
		return i
	}
	for i := range n {
		j := i + random.IntN(len(from)-i)
		to = append(to, from[at(j)])
		moved[j] = at(i)
	}
	return to
}

func (req Request) parse(quirks Quirks) (query, *APIError) {
	q := query{by: byDetect, descending: true, limit: defaultLimit, begin: noTime + 1, end: math.MaxInt64}
	switch req.By {
	case "StartTime":
		q.by = byStart
	case "DetectTime", "":
	default:
		return q, invalid("By must be StartTime or DetectTime")
	}
	switch req.Order {
	case "ASC":
		q.descending = false
	case "DESC", "":
	default:
		return q, invalid("Order must be ASC or DESC")
	}
	if req.Limit != nil && *req.Limit != 0 {
		q.limit = *req.Limit
	}
	if q.limit < 1 || q.limit > maxLimit {
		return q, invalid("Limit must be from 1 to %d", maxLimit)
	}
	if req.Offset != nil {
		q.offset = *req.Offset
	}
	if q.offset < 0 {
		return q, invalid("Offset must not be negative")
	}
	if len(req.Filters) > maxFilters {
		return q, invalid("there must be at most %d Filters", maxFilters)
	}
	for i, f := range req.Filters {
		if len(f.Values) == 0 || len(f.Values) > maxValues {
			return q, invalid("Filters.%d.Values must hold from 1 to %d values", i, maxValues)
		}
		if err := q.add(f, quirks); err != nil {
			return q, invalid("Filters.%d.%s", i, err.Message)
		}
	}
	return q, nil
}

// add narrows the query by one filter.
func (q *query) add(f Filter, quirks Quirks) *APIError {
	switch f.Name {
	case "BeginTime", "EndTime":
		return q.addTime(f, quirks)
	case "Status":
		return q.addStatus(f, quirks)
	case "HostId":
		q.anyOf(f.Values, func(r *row, v string) bool {
			return r.host.uuid == v || r.host.quuid == v || r.host.instance == v
		})
	case "IpOrName":
		q.anyOf(folded(f.Values), func(r *row, v string) bool {
			return slices.ContainsFunc(r.host.searched, func(s string) bool { return fits(s, v, f.ExactMatch) })
		})
	case "VirusName":
		q.anyOf(folded(f.Values), func(r *row, v string) bool { return fits(r.threat.folded, v, f.ExactMatch) })
	case "FilePath":
		q.anyOf(folded(f.Values), func(r *row, v string) bool { return fits(strings.ToLower(r.path), v, f.ExactMatch) })
	case "ProcessId":
		for _, v := range f.Values {
			if _, err := strconv.ParseUint(v, 10, 63); err != nil {
				return invalid("Values is not a process id")
			}
		}
		q.anyOf(f.Values, func(r *row, v string) bool { return strconv.FormatInt(r.pid, 10) == v })
	default:
		return invalid("Name is invalid")
	}
	return nil
}

// folded prepares values for a search without regard to case: what the
// database of the service is taken to do, because its examples and the console
// search for "miner" and find Linux.Risk.Miner.
func folded(values []string) []string {
	lower := make([]string, len(values))
	for i, v := range values {
		lower[i] = strings.ToLower(v)
	}
	return lower
}

func fits(text, part string, exact bool) bool {
	return text == part || !exact && strings.Contains(text, part)
}

func (q *query) anyOf(values []string, holds func(*row, string) bool) {
	q.where = append(q.where, func(r *row) bool {
		return slices.ContainsFunc(values, func(v string) bool { return holds(r, v) })
	})
}

func (q *query) addTime(f Filter, quirks Quirks) *APIError {
	t, err := time.Parse(event.WallLayout, f.Values[0])
	if len(f.Values) != 1 || err != nil {
		return invalid("Values must be one time like 2006-01-02 15:04:05")
	}
	if quirks.IgnoreTimeFilter {
		return nil
	}
	key := t.Unix()
	q.timed = true
	if f.Name == "BeginTime" {
		if quirks.ExclusiveBegin {
			key++
		}
		q.begin = max(q.begin, key)
		return nil
	}
	if quirks.ExclusiveEnd {
		key--
	}
	q.end = min(q.end, key)
	return nil
}

// addStatus reads the filter in its own numbering: 0 pending, 1 killing, 2
// killed, 3 exited, 4 trusted. Records are numbered otherwise: 1 handled and 5
// ignored have no value of the filter, and no record is "trusted". Whether the
// server translates is not known; Quirks.StatusAsRecord is the other reading.
func (q *query) addStatus(f Filter, quirks Quirks) *APIError {
	wanted := make([]string, len(f.Values))
	for i, v := range f.Values {
		if quirks.StatusAsRecord {
			if _, err := strconv.Atoi(v); err != nil {
				return invalid("Values is not a status")
			}
			wanted[i] = v
			continue
		}
		switch v {
		case "0":
			wanted[i] = "0"
		case "1":
			wanted[i] = "2"
		case "2":
			wanted[i] = "3"
		case "3":
			wanted[i] = "4"
		case "4":
			wanted[i] = "trusted" // no record's
		default:
			return invalid("Values must be from 0 to 4")
		}
	}
	if !quirks.IgnoreStatus {
		q.anyOf(wanted, func(r *row, v string) bool { return r.now.status == v })
	}
	return nil
}
