package main

import (
	"encoding/json"
	"io"
	"math"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// An api serves a list as DescribeRiskProcessEvents does: time filters, order,
// offset, limit and TotalCount. It takes every signature.
type api struct {
	list     *list
	latency  time.Duration // before each answer
	limit    *window       // what is beyond it is refused; nil: nothing is
	refused  atomic.Int64
	last     atomic.Int64 // when the newest request came
	status   atomic.Int32 // what all events bear
	requests atomic.Int64
	first    atomic.Int64 // when the first request came, in nanoseconds; 0: none yet
	buffers  sync.Pool
}

func newAPI(l *list) *api {
	return &api{list: l, buffers: sync.Pool{New: func() any { return new([]byte) }}}
}

// begin forgets what was counted.
func (a *api) begin() {
	a.requests.Store(0)
	a.refused.Store(0)
	a.first.Store(0)
	a.last.Store(0)
}

type question struct {
	Limit, Offset int
	By, Order     string
	Filters       []struct {
		Name   string
		Values []string
	}
}

// ServeHTTP answers one request.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	now := time.Now()
	a.first.CompareAndSwap(0, now.UnixNano())
	a.last.Store(now.UnixNano())
	n := a.requests.Add(1)
	fits := a.limit.fits(now)
	if a.latency > 0 && sleep(r.Context(), a.latency) != nil {
		return // who asked has gone
	}
	w.Header().Set("Content-Type", "application/json")
	if !fits {
		a.refused.Add(1)
		_, _ = io.WriteString(w, tooOften) // who asked has gone
		return
	}
	q := question{Limit: 10}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&q); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	buffer, _ := a.buffers.Get().(*[]byte)
	defer a.buffers.Put(buffer)
	*buffer = a.answer((*buffer)[:0], q, n)
	w.Header().Set("Content-Length", strconv.Itoa(len(*buffer)))
	_, _ = w.Write(*buffer) // who asked has gone
}

const tooOften = `{"Response":{"Error":{"Code":"RequestLimitExceeded","Message":"Your current request times exceeds the limit."},"RequestId":"bench"}}`

// A window is a limit of requests in any second.
type window struct {
	mu   sync.Mutex  // guards came
	came []time.Time // the newest that were let through, as many as the limit, in a ring
	next int
}

func newWindow(limit int) *window {
	if limit == 0 {
		return nil
	}
	return &window{came: make([]time.Time, limit)}
}

// fits reports whether a request is within the limit.
func (w *window) fits(now time.Time) bool {
	if w == nil {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if now.Sub(w.came[w.next]) < time.Second {
		return false
	}
	w.came[w.next] = now
	w.next = (w.next + 1) % len(w.came)
	return true
}

// answer appends the body of an answer.
func (a *api) answer(dst []byte, q question, number int64) []byte {
	from, to := a.chosen(q)
	total := to - from
	dst = append(dst, `{"Response":{"TotalCount":`...)
	dst = strconv.AppendInt(dst, int64(total), 10)
	dst = append(dst, `,"List":[`...)
	status := byte(a.status.Load())
	for i := range min(q.Limit, 100, max(total-q.Offset, 0)) {
		if i > 0 {
			dst = append(dst, ',')
		}
		at := from + q.Offset + i
		if q.Order == "DESC" {
			at = to - 1 - q.Offset - i
		}
		dst = a.list.append(dst, at, status)
	}
	dst = append(dst, `],"RequestId":"5d6f3c4a-1111-4222-8333-`...)
	id := strconv.FormatInt(number+1e11, 10)
	return append(append(dst, id...), `"}}`...)
}

// chosen are the events that the filters leave.
func (a *api) chosen(q question) (from, to int) {
	begin, end := int64(math.MinInt64), int64(math.MaxInt64)
	for _, f := range q.Filters {
		if len(f.Values) == 0 {
			continue
		}
		second, ok := wallSecond(f.Values[0])
		switch {
		case f.Name == "BeginTime" && ok:
			begin = second
		case f.Name == "EndTime" && ok:
			end = second
		case f.Name == "Status" && f.Values[0] != strconv.Itoa(int(a.status.Load())):
			return 0, 0
		}
	}
	return a.list.between(begin, end)
}
