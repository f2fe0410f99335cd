package splunkhec

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"strconv"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
)

// When open ids are asked for: 1 s after the oldest post, 2 s after that, 4 s,
// 8 s, then every 10 s; ids of younger posts are asked along.
const (
	firstPoll   = time.Second
	longestPoll = 10 * time.Second
	leastGap    = 250 * time.Millisecond // between two polls, however many batches come and go
	pollTimeout = 30 * time.Second
)

// A channel is what the collector counts acknowledgement ids by. It keeps its
// own cookies: behind a load balancer they lead to the indexer that knows the
// ids. All fields but id and jar are guarded by Sink.mu.
type channel struct {
	id  string
	jar *cookiejar.Jar

	opening bool             // a post that may open it is under way
	opened  bool             // a post on it was answered 2xx: the cookies are there
	turn    chan struct{}    // closed when opening ends
	open    map[int64]*await // by acknowledgement id
	problem error            // of the last poll, nil if it was answered
}

// An await is one batch that waits for its acknowledgement.
type await struct {
	id    int64
	since time.Time
	told  chan error // buffered; nil is "indexed"
}

func newChannel() *channel {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	jar, _ := cookiejar.New(nil) // never fails without options
	return &channel{
		id:   fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:]),
		jar:  jar,
		turn: make(chan struct{}),
		open: map[int64]*await{},
	}
}

// channel returns the channel to post on. The first post on a channel goes
// alone, so that those after it bear the cookies of its answer.
func (s *Sink) channel(ctx context.Context) (*channel, error) {
	for {
		s.mu.Lock()
		ch := s.current
		if ch.opened || !ch.opening {
			ch.opening = true
			s.mu.Unlock()
			return ch, nil
		}
		turn := ch.turn
		s.mu.Unlock()
		select {
		case <-turn:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// posted notes the end of a post on ch. When the network failed, ids may begin
// anew (the server was started again), and an old one must not be confirmed by
// a new one: go on with another channel.
func (s *Sink) posted(ch *channel, r *response, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil && s.acking() {
		s.leave(ch)
	}
	if !ch.opened {
		ch.opened, ch.opening = err == nil && r.Status/100 == 2, false
		close(ch.turn)
		ch.turn = make(chan struct{})
	}
}

// leave makes the next posts use a new channel. What is open on the former one
// is still waited for. The caller holds mu.
func (s *Sink) leave(ch *channel) {
	if s.current == ch {
		s.current = newChannel()
	}
}

// acking reports whether batches wait for acknowledgements. The caller holds mu.
func (s *Sink) acking() bool {
	return !s.ackOff && (s.cfg.Ack == AckOn || s.ackSeen)
}

// confirm waits until the collector says that the batch with this id was
// indexed. A batch whose wait ends otherwise is sent again, on a new channel.
func (s *Sink) confirm(ctx context.Context, ch *channel, id int64) error {
	a, err := s.await(ch, id)
	if err != nil {
		return err
	}
	timeout := time.NewTimer(s.cfg.AckTimeout)
	defer timeout.Stop()
	select {
	case err := <-a.told:
		return err
	case <-timeout.C:
		err = fmt.Errorf("ackId %d was not confirmed within %s", id, s.cfg.AckTimeout)
	case <-ctx.Done():
		err = fmt.Errorf("wait for ackId %d: %w", id, context.Cause(ctx))
	case <-s.life.Done():
		err = fmt.Errorf("wait for ackId %d: the sink was closed", id)
	}
	return s.giveUp(ch, a, err)
}

// await registers an id and sees to it that a poller runs.
func (s *Sink) await(ch *channel, id int64) (*await, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if other, twice := ch.open[id]; twice {
		err := fmt.Errorf("ackId %d was given twice on one channel: the server was started again, or a load balancer without sticky sessions", id)
		delete(ch.open, id)
		other.told <- err
		s.leave(ch)
		return nil, err
	}
	if s.life.Err() != nil {
		return nil, fmt.Errorf("wait for ackId %d: the sink was closed", id)
	}
	a := &await{id: id, since: time.Now(), told: make(chan error, 1)}
	ch.open[id] = a
	s.waiting[ch] = struct{}{}
	if s.polling {
		s.changed()
	} else {
		s.polling = true
		s.pollers.Go(s.poll)
	}
	return a, nil
}

// giveUp ends a wait because of err, unless the answer came meanwhile.
func (s *Sink) giveUp(ch *channel, a *await, err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case told := <-a.told:
		return told
	default:
	}
	delete(ch.open, a.id)
	s.changed()
	s.leave(ch)
	if ch.problem != nil {
		err = fmt.Errorf("%w (last poll: %w)", err, ch.problem)
	}
	return err
}

// changed makes the poller look again at what is open. The caller holds mu.
func (s *Sink) changed() {
	select {
	case s.look <- struct{}{}:
	default:
	}
}

// poll asks for all open ids until none is left or the sink is closed.
func (s *Sink) poll() {
	var earliest time.Time
	for {
		next, ok := s.nextPoll(earliest)
		if !ok {
			return
		}
		timer := time.NewTimer(time.Until(next))
		select {
		case <-s.life.Done():
			timer.Stop()
			return
		case <-s.look:
			timer.Stop()
			continue
		case <-timer.C:
		}
		var pause time.Duration
		for _, ch := range s.channelsOpen() {
			pause = max(pause, s.pollChannel(ch))
		}
		earliest = time.Now().Add(max(pause, leastGap))
	}
}

// nextPoll returns when to ask next, not before earliest. It returns false,
// and the poller must end, when nothing is open.
func (s *Sink) nextPoll(earliest time.Time) (time.Time, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var oldest time.Time
	for ch := range s.waiting {
		if len(ch.open) == 0 {
			delete(s.waiting, ch)
		}
		for _, a := range ch.open {
			if oldest.IsZero() || a.since.Before(oldest) {
				oldest = a.since
			}
		}
	}
	if oldest.IsZero() {
		s.polling = false
		return time.Time{}, false
	}
	next := oldest.Add(pollAge(time.Since(oldest)))
	if next.Before(earliest) {
		next = earliest
	}
	return next, true
}

// pollAge returns the age at which a post is asked for next, given its age now.
func pollAge(now time.Duration) time.Duration {
	at, step := firstPoll, firstPoll
	for at <= now {
		step = min(2*step, longestPoll)
		at += step
	}
	return at
}

func (s *Sink) channelsOpen() []*channel {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*channel
	for ch := range s.waiting {
		if len(ch.open) > 0 {
			all = append(all, ch)
		}
	}
	return all
}

// pollChannel asks once for all open ids of a channel and tells those who
// wait. It returns how long the collector asked to wait.
func (s *Sink) pollChannel(ch *channel) time.Duration {
	asked := s.openIDs(ch)
	if len(asked) == 0 {
		return 0
	}
	body, _ := json.Marshal(map[string][]int64{"acks": asked}) // numbers always can
	ctx, cancel := context.WithTimeout(s.life, pollTimeout)
	defer cancel()
	r, err := s.exchange(ctx, ch, http.MethodPost, "/services/collector/ack", body, "")
	if err != nil {
		s.polled(ch, nil, err)
		return 0
	}
	if r.Status/100 == 2 {
		var wire struct {
			Acks map[string]bool `json:"acks"`
		}
		if err := json.Unmarshal(r.Body, &wire); err != nil || wire.Acks == nil {
			s.polled(ch, nil, fmt.Errorf("unreadable answer about acknowledgements: %w", r.Err()))
			return 0
		}
		var confirmed []int64
		for _, id := range asked {
			if wire.Acks[strconv.FormatInt(id, 10)] {
				confirmed = append(confirmed, id)
			}
		}
		s.polled(ch, confirmed, nil)
		return 0
	}
	a := parseAnswer(r.Status, r.Body)
	err = fmt.Errorf("ask for acknowledgements: %w", refusal(r, a))
	switch {
	case a.code == codeAckDisabled && s.cfg.Ack == AckAuto:
		s.ackDisabled()
		err = fmt.Errorf("ask for acknowledgements: %w (sending without them from now on)", describe(r, a))
	case r.Status/100 == 5 && sinks.ClassOf(err) == sinks.ClassRetry,
		r.Status == http.StatusRequestTimeout, r.Status == http.StatusTooEarly, r.Status == http.StatusTooManyRequests:
		s.polled(ch, nil, err)
		return sinks.RetryAfter(err)
	case sinks.ClassOf(err) != sinks.ClassHalt:
		err = fmt.Errorf("ask for acknowledgements: %w", describe(r, a)) // too large or bad is about the question, not about events
	}
	s.refused(ch, asked, err)
	return 0
}

func (s *Sink) openIDs(ch *channel) []int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	ids := make([]int64, 0, len(ch.open))
	for id := range ch.open {
		ids = append(ids, id)
	}
	return ids
}

// polled tells those whose id was confirmed and keeps what went wrong.
func (s *Sink) polled(ch *channel, confirmed []int64, problem error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	ch.problem = problem
	s.tell(ch, confirmed, nil)
}

// refused tells those who wait that their ids cannot be asked for: they are
// never taken as delivered.
func (s *Sink) refused(ch *channel, ids []int64, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.leave(ch)
	s.tell(ch, ids, err)
}

// tell ends waits. The caller holds mu.
func (s *Sink) tell(ch *channel, ids []int64, err error) {
	for _, id := range ids {
		if a, open := ch.open[id]; open {
			delete(ch.open, id)
			a.told <- err
		}
	}
}

// ackDisabled ends waiting for acknowledgements for as long as this process
// lives: the collector said that the token has none.
func (s *Sink) ackDisabled() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ackOff = true
}

// exchange makes one request on a channel, with its cookies.
func (s *Sink) exchange(ctx context.Context, ch *channel, method, path string, body []byte, encoding string) (*response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, sinks.Halt(fmt.Errorf("make a request: %w", err))
	}
	req.Header.Set("Authorization", "Splunk "+s.cfg.Token.Reveal())
	req.Header.Set("X-Splunk-Request-Channel", ch.id)
	if method == http.MethodPost {
		req.Header.Set("Content-Type", "application/json")
	}
	if encoding != "" {
		req.Header.Set("Content-Encoding", encoding)
	}
	for _, cookie := range ch.jar.Cookies(req.URL) {
		req.AddCookie(cookie)
	}
	r, err := s.client.Do(req)
	if err != nil {
		return nil, err
	}
	ch.jar.SetCookies(req.URL, (&http.Response{Header: r.Header}).Cookies())
	return r, nil
}
