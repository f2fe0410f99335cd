// Package slack tells people of events: in a channel by an incoming webhook,
// or by a bot, which answers in the thread of an event's first message when
// its status changes.
//
// A record counts as delivered when Slack has taken the message that tells of
// it. Slack is for people, not for records: events of the same virus share a
// message, and more than Slack takes become a digest. What is sent again may
// be shown twice.
package slack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

const (
	// apart is Slack's limit: one message a second and channel.
	apart = time.Second
	// maxBatch is how many records one Send takes.
	maxBatch = 200
	// strange is how often Slack may answer 200 with something else than "ok"
	// before it is held not to be Slack.
	strange = 3
)

// A Sink sends to one channel.
type Sink struct {
	cfg    Config
	client *httpx.Client

	// Send is called by one goroutine.
	next time.Time // no message before
	odd  int       // answers in a row that were none of Slack's
}

var (
	_ sinks.Sink    = (*Sink)(nil)
	_ sinks.Limiter = (*Sink)(nil)
)

// New makes the sink of a valid configuration. It makes no connection.
func New(cfg Config) *Sink { return newSink(cfg, httpx.New(cfg.http(), cfg.pathSecrets()...)) }

func newSink(cfg Config, client *httpx.Client) *Sink {
	return &Sink{cfg: cfg.WithDefaults(), client: client}
}

// Close closes idle connections.
func (s *Sink) Close() error {
	s.client.Close()
	return nil
}

// Limits is what one digest may tell of.
func (*Sink) Limits() sinks.Limits { return sinks.Limits{Records: maxBatch} }

func (s *Sink) bot() bool { return !s.cfg.Token.IsZero() }

// Send posts the batch, one message after the other, a second apart.
func (s *Sink) Send(ctx context.Context, batch []sinks.Message) (sinks.Receipt, error) {
	receipt := sinks.Receipt{}
	failed := map[int]error{}
	posts := plan(batch, s.cfg.DigestAbove, s.bot())
	var stopped error
	for _, p := range posts {
		if stopped == nil {
			var ts string
			var err error
			if ts, err = s.post(ctx, p); err == nil {
				receipt.Answer = "200 ok"
				if ts != "" {
					receipt.Answer += " ts=" + ts
				}
				receipt.Memo = s.remember(receipt.Memo, p, ts)
				continue
			}
			if c := sinks.ClassOf(err); c != sinks.ClassPoison && c != sinks.ClassTooLarge {
				stopped = err
			}
			for _, i := range p.records {
				failed[i] = err
			}
			continue
		}
		for _, i := range p.records {
			failed[i] = errors.New("not sent: a message before it failed")
		}
	}
	switch {
	case len(failed) == 0:
		return receipt, nil
	case stopped != nil && len(failed) == len(batch):
		return receipt, stopped
	default:
		return receipt, &sinks.PartialError{Failed: failed}
	}
}

// remember notes the message that tells of each record, for the answers to it.
func (s *Sink) remember(memo map[int]string, p *post, ts string) map[int]string {
	if !s.bot() || ts == "" {
		return memo
	}
	if memo == nil {
		memo = map[int]string{}
	}
	for _, i := range p.records {
		if p.thread != "" {
			ts = p.thread // answers go to the first message
		}
		memo[i] = s.cfg.Channel + ":" + ts
	}
	return memo
}

// post posts one message; where Slack dislikes its blocks, once more as plain
// text.
func (s *Sink) post(ctx context.Context, p *post) (ts string, err error) {
	ts, err = s.exchange(ctx, p, p.blocks)
	if c := sinks.ClassOf(err); err == nil || c != sinks.ClassPoison && c != sinks.ClassTooLarge {
		return ts, err
	}
	if ts, again := s.exchange(ctx, p, nil); again == nil {
		return ts, nil
	} else if sinks.ClassOf(again) != sinks.ClassTooLarge {
		err = again
	}
	return "", err
}

// exchange makes one request.
func (s *Sink) exchange(ctx context.Context, p *post, blocks []object) (ts string, err error) {
	if err := s.wait(ctx); err != nil {
		return "", err
	}
	message := object{"text": p.text, "unfurl_links": false, "unfurl_media": false}
	if blocks != nil {
		message["blocks"] = blocks
	}
	address := s.cfg.URL.Reveal()
	if s.bot() {
		address = strings.TrimRight(s.cfg.APIURL, "/") + "/chat.postMessage"
		message["channel"] = s.cfg.Channel
		if p.thread != "" {
			message["thread_ts"] = p.thread
		}
	}
	var body bytes.Buffer
	enc := json.NewEncoder(&body)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(message); err != nil {
		return "", sinks.Poison(fmt.Errorf("encode the message: %w", err))
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body.Bytes()))
	if err != nil {
		return "", sinks.Halt(errors.New("url: cannot be used for a request"))
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	if s.bot() {
		req.Header.Set("Authorization", "Bearer "+s.cfg.Token.Reveal())
	}
	r, err := s.client.Do(req)
	if err != nil {
		return "", err
	}
	if s.bot() {
		return s.botAnswer(r)
	}
	return "", s.hookAnswer(r)
}

// wait keeps messages apart.
func (s *Sink) wait(ctx context.Context) error {
	t := time.NewTimer(time.Until(s.next))
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.next = time.Now().Add(apart)
	return nil
}

// hookAnswer reads the answer to an incoming webhook: "ok", or a code as text.
func (s *Sink) hookAnswer(r *httpx.Response) error {
	code := strings.TrimSpace(string(r.Body))
	switch {
	case r.Status == http.StatusOK && code == "ok":
		s.odd = 0
		return nil
	case r.Status/100 == 2:
		return s.strange(r)
	case r.Status == http.StatusBadRequest && slices.Contains([]string{"user_not_found", "invalid_token", "no_service", "no_team", "channel_not_found"}, code):
		return sinks.Halt(r.Err())
	case r.Status == http.StatusForbidden, r.Status == http.StatusNotFound, r.Status == http.StatusGone:
		return sinks.Halt(r.Err())
	default:
		return r.Class()
	}
}

// strange is an answer that Slack does not give.
func (s *Sink) strange(r *httpx.Response) error {
	s.odd++
	err := fmt.Errorf("no answer of Slack's: %w", r.Err())
	if s.odd >= strange {
		return sinks.Halt(err)
	}
	return err
}

// botAnswer reads the answer of chat.postMessage ("Web API" of Slack's
// documentation): HTTP 200 with ok and, if that is false, a code.
func (s *Sink) botAnswer(r *httpx.Response) (ts string, err error) {
	var a struct {
		OK    *bool  `json:"ok"`
		Error string `json:"error"`
		TS    string `json:"ts"`
	}
	switch {
	case r.Status == http.StatusOK:
	case r.Status/100 == 2: // only Slack's own word confirms
		return "", s.strange(r)
	default:
		return "", r.Class()
	}
	if err := json.Unmarshal(r.Body, &a); err != nil || a.OK == nil {
		return "", s.strange(r)
	}
	s.odd = 0
	if *a.OK {
		return a.TS, nil
	}
	said := fmt.Errorf("refused: %s", r.Show(a.Error))
	switch a.Error {
	case "ratelimited", "rate_limited", "message_limit_exceeded":
		return "", sinks.After(said, max(r.RetryAfter(), 30*time.Second))
	case "internal_error", "fatal_error", "service_unavailable", "request_timeout", "team_added_to_org":
		return "", said
	case "msg_too_long", "no_text", "too_many_attachments", "invalid_blocks", "invalid_blocks_format", "invalid_arguments", "markdown_text_conflict", "metadata_too_large":
		return "", sinks.Poison(said)
	case "invalid_auth", "not_authed", "account_inactive", "token_revoked", "token_expired", "no_permission", "missing_scope", "not_allowed_token_type",
		"channel_not_found", "not_in_channel", "is_archived", "restricted_action", "ekm_access_denied", "org_login_required", "team_access_not_granted", "access_denied":
		return "", sinks.Halt(said)
	default:
		return "", sinks.Answered(said)
	}
}
