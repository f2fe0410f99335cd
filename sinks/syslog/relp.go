package syslog

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// RELP, the Reliable Event Logging Protocol (librelp's doc/relp.html): frames
// of TXNR SP COMMAND SP DATALEN [SP DATA] LF in both directions. No kept Go
// library has a client, so this is one: a session that sends syslog commands
// and matches the answers.

// maxTXNR is the largest transaction number; 1 follows.
const maxTXNR = 999_999_999

// maxAnswer is the most data of one frame that is read, in bytes.
const maxAnswer = 64 << 10

// A session is an open RELP session. It belongs to one goroutine.
type session struct {
	link *link
	txnr int // of the newest command
	rest []byte
}

// A relpFrame is one frame of the receiver.
type relpFrame struct {
	txnr    int
	command string
	data    string
}

// openRELP opens a session on a new connection.
func openRELP(ctx context.Context, l *link) (*session, error) {
	s := &session{link: l}
	offer := "relp_version=0\nrelp_software=cwprelay\ncommands=syslog"
	if err := l.write(ctx, s.command("open", []byte(offer))); err != nil {
		return nil, fmt.Errorf("open the session: %w", err)
	}
	f, err := s.next(ctx)
	if err != nil {
		return nil, fmt.Errorf("open the session: %w", err)
	}
	switch {
	case f.txnr != s.txnr || f.command != "rsp" || !strings.HasPrefix(f.data, "200"):
		return nil, fmt.Errorf("open the session: the receiver answered %s", show(f.data))
	case strings.Contains(f.data, "commands=") && !offers(f.data, "syslog"):
		return nil, errors.New("open the session: the receiver does not take the command syslog")
	}
	return s, nil
}

// offers reports whether an offer lists a command.
func offers(data, command string) bool {
	for line := range strings.SplitSeq(data, "\n") {
		if list, ok := strings.CutPrefix(line, "commands="); ok {
			for c := range strings.SplitSeq(list, ",") {
				if strings.TrimSpace(c) == command {
					return true
				}
			}
		}
	}
	return false
}

// show makes a receiver's words fit for an error.
func show(s string) string {
	s = strings.Join(strings.Fields(strings.ToValidUTF8(s, "?")), " ")
	return strconv.Quote(s[:min(len(s), 200)])
}

// command makes the next frame.
func (s *session) command(name string, data []byte) []byte {
	if s.txnr++; s.txnr > maxTXNR {
		s.txnr = 1
	}
	out := make([]byte, 0, len(data)+40)
	out = strconv.AppendInt(out, int64(s.txnr), 10)
	out = append(append(append(out, ' '), name...), ' ')
	out = strconv.AppendInt(out, int64(len(data)), 10)
	if len(data) > 0 {
		out = append(append(out, ' '), data...)
	}
	return append(out, '\n')
}

// send sends n messages, at most window of them unanswered at any time. It
// returns which were answered by 200 and what the others were answered by. An
// error means that those in neither are unknown and that the session is over.
func (s *session) send(ctx context.Context, n, window int, message func(i int) []byte) (answered map[int]bool, refused map[int]string, err error) {
	answered, refused = map[int]bool{}, map[int]string{}
	open := map[int]int{} // transaction → message
	var out []byte
	sent := 0
	for sent < n || len(open) > 0 {
		for sent < n && len(open) < window && len(out) < 64<<10 {
			out = append(out, s.command("syslog", message(sent))...)
			open[s.txnr] = sent
			sent++
		}
		if len(out) > 0 {
			if err := s.link.write(ctx, out); err != nil {
				s.takeRest(open, answered, refused)
				return answered, refused, err
			}
			out = out[:0]
			if sent < n && len(open) < window {
				continue
			}
		}
		f, err := s.next(ctx)
		if err == nil {
			err = s.match(f, open, answered, refused)
		}
		if err != nil {
			return answered, refused, err
		}
	}
	return answered, refused, nil
}

// match takes an answer in.
func (s *session) match(f relpFrame, open map[int]int, answered map[int]bool, refused map[int]string) error {
	switch f.command {
	case "serverclose":
		return fmt.Errorf("%w: serverclose", errPeerClosed)
	case "rsp":
	default:
		return fmt.Errorf("the receiver sent %s", show(f.command))
	}
	i, ok := open[f.txnr]
	if !ok {
		return fmt.Errorf("the receiver answered transaction %d, which is not open", f.txnr)
	}
	delete(open, f.txnr)
	if code, _, _ := strings.Cut(f.data, " "); code == "200" {
		answered[i] = true
	} else {
		refused[i] = show(f.data)
	}
	return nil
}

// takeRest takes in the answers that came before a connection broke.
func (s *session) takeRest(open map[int]int, answered map[int]bool, refused map[int]string) {
	for {
		f, ok, err := s.parse()
		if err != nil || !ok {
			more, open := <-s.link.in
			if !open || err != nil {
				return
			}
			s.rest = append(s.rest, more...)
			continue
		}
		if s.match(f, open, answered, refused) != nil {
			return
		}
	}
}

// next returns the next frame.
func (s *session) next(ctx context.Context) (relpFrame, error) {
	for {
		f, ok, err := s.parse()
		if err != nil || ok {
			return f, err
		}
		select {
		case more, open := <-s.link.in:
			if !open {
				<-s.link.ended
				return f, peerError(s.link.err)
			}
			s.rest = append(s.rest, more...)
		case <-ctx.Done():
			return f, context.Cause(ctx)
		}
	}
}

// parse takes a whole frame off the bytes that came, if there is one.
func (s *session) parse() (f relpFrame, ok bool, err error) {
	b := s.rest
	field := func(limit int) (text string, end byte, ok bool) {
		for i, c := range b {
			if c == ' ' || c == '\n' {
				text, b = string(b[:i]), b[i+1:]
				return text, c, true
			}
			if i == limit {
				err = errors.New("the receiver does not speak RELP")
				return "", 0, false
			}
		}
		return "", 0, false
	}
	number := func(limit int) (n int, end byte, ok bool) {
		text, end, ok := field(9)
		if !ok {
			return 0, 0, false
		}
		if n, err = strconv.Atoi(text); err != nil || n < 0 || n > limit {
			err = errors.New("the receiver does not speak RELP")
			return 0, 0, false
		}
		return n, end, true
	}
	var end byte
	if f.txnr, end, ok = number(maxTXNR); !ok || end != ' ' {
		return f, false, s.broken(ok, err)
	}
	if f.command, end, ok = field(32); !ok || end != ' ' {
		return f, false, s.broken(ok, err)
	}
	size, end, ok := number(maxAnswer)
	if !ok {
		return f, false, err
	}
	if end == ' ' {
		if len(b) < size+1 {
			return f, false, nil
		}
		f.data, b = string(b[:size]), b[size:]
		if b[0] != '\n' {
			return f, false, errors.New("the receiver does not speak RELP")
		}
		b = b[1:]
	} else if size > 0 {
		return f, false, errors.New("the receiver does not speak RELP")
	}
	s.rest = append([]byte(nil), b...)
	return f, true, nil
}

// broken is the error of a header that ended where it must not; without one it
// is only not whole yet.
func (*session) broken(whole bool, err error) error {
	if err == nil && whole {
		return errors.New("the receiver does not speak RELP")
	}
	return err
}

// bye closes the session, as far as the receiver wants to hear it.
func (s *session) bye() {
	if s.link.alive() {
		ctx, cancel := context.WithTimeout(context.Background(), witness)
		defer cancel()
		_ = s.link.write(ctx, s.command("close", nil)) // whoever is gone is gone
	}
}
