package emulator

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cwprelay/cwprelay/cwp"
)

// A Lister asks a World as the API client asks the API, without network and
// signatures. It is the poller's view of the client in tests.
//
// The functions are told the number of the request, from 1, in the order of
// arrival. They may be nil and are called by as many goroutines as ask.
type Lister struct {
	World   *World
	Filters map[string][]string // sent with every request, as a source's filters are

	// Before is called before an answer is computed: the place to change the
	// list between requests. Its error is what List returns.
	Before func(n int, q cwp.Query) error
	// Quirks gives the ways in which one answer is not honest, in place of the
	// World's.
	Quirks func(n int, q cwp.Query) Quirks
	// After may change an answer, or return another page or an error.
	After func(n int, q cwp.Query, p *cwp.Page) (*cwp.Page, error)
	// Lead passes before the answer is computed, Lag after. With a Lag that
	// differs between requests, answers arrive in another order than they were
	// true in.
	Lead, Lag func(n int) time.Duration

	requests atomic.Int64
}

// Requests is the number of requests so far.
func (l *Lister) Requests() int { return int(l.requests.Load()) }

// List answers one query. A page is the World's at one moment between its
// SentAt and ReceivedAt. A request that the API would refuse is a *cwp.Error.
func (l *Lister) List(ctx context.Context, q cwp.Query) (*cwp.Page, error) {
	n := int(l.requests.Add(1))
	sent := time.Now()
	if err := pass(ctx, l.Lead, n); err != nil {
		return nil, err
	}
	if l.Before != nil {
		if err := l.Before(n, q); err != nil {
			return nil, err
		}
	}
	quirks := l.World.Quirks()
	if l.Quirks != nil {
		quirks = l.Quirks(n, q)
	}
	answer, err := l.World.ListWith(l.request(q), quirks)
	if refused, ok := errors.AsType[*APIError](err); ok {
		return nil, &cwp.Error{Class: cwp.ClassRequest, Code: refused.Code, Message: refused.Message, HTTPStatus: 200}
	}
	if err != nil {
		return nil, err
	}
	if err := pass(ctx, l.Lag, n); err != nil {
		return nil, err
	}
	page := pageOf(answer)
	page.RequestID = fmt.Sprintf("00000000-0000-4000-8000-%012x", n)
	page.SentAt, page.ReceivedAt = sent, time.Now()
	if l.After != nil {
		return l.After(n, q, page)
	}
	return page, nil
}

func (l *Lister) request(q cwp.Query) Request {
	req := Request{Limit: &q.Limit, Offset: &q.Offset}
	switch q.Sort {
	case cwp.BySweepTime:
		req.By, req.Order = "StartTime", "ASC"
	case cwp.BySweepTimeDesc:
		req.By, req.Order = "StartTime", "DESC"
	default:
		req.By, req.Order = "DetectTime", "DESC"
	}
	for name, values := range l.Filters {
		req.Filters = append(req.Filters, Filter{Name: name, Values: values})
	}
	for _, f := range []Filter{
		{Name: "BeginTime", Values: []string{q.Begin}},
		{Name: "EndTime", Values: []string{q.End}},
		{Name: "Status", Values: []string{q.Status}},
		{Name: q.Where.Name, Values: []string{q.Where.Value}},
	} {
		if f.Values[0] != "" {
			req.Filters = append(req.Filters, f)
		}
	}
	return req
}

func pageOf(a Answer) *cwp.Page {
	page := &cwp.Page{Items: make([]cwp.Item, len(a.Rows)), Total: a.Total, HasTotal: !a.NoTotal}
	if a.NoTotal {
		page.Total = 0
	}
	for i, r := range a.Rows {
		page.Items[i] = cwp.Item{
			ID: r.ID, NoID: len(r.ID) > 7 && r.ID[:7] == "sha256:", Status: r.Status,
			SweepTime: r.Start, HeadTime: r.Detect, Raw: r.Raw,
		}
	}
	return page
}

// pass waits for as long as the function says.
func pass(ctx context.Context, long func(int) time.Duration, n int) error {
	if long == nil {
		return nil
	}
	d := long(n)
	if d <= 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
