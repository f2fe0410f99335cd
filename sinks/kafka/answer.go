package kafka

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
)

const (
	maxText    = 300 // runes of an error or receipt
	maxHangups = 3   // in a row, until they are held to be a refusal of the password
)

// produce appends a lane's records, batch by batch, until one fails.
func (s *Sink) produce(ctx context.Context, l *link, to *lane) {
	for from := 0; from < len(to.records); {
		n := to.next(from, s.cfg.MaxMessageBytes)
		answer, err := l.client.Produce(ctx, &kafka.ProduceRequest{
			Topic:        s.cfg.Topic,
			Partition:    to.partition,
			RequiredAcks: kafka.RequireAll, // the zero value is fire-and-forget
			Compression:  s.codec,
			Records:      kafka.NewRecordReader(to.records[from : from+n]...),
		})
		var named map[int]error
		if err == nil {
			err, named = answer.Error, answer.RecordErrors
		}
		if err != nil {
			s.fail(to, from, n, s.class(ctx, l, fmt.Sprintf("produce to %s partition %d", s.cfg.Topic, to.partition), err), named)
			return
		}
		to.sent = append(to.sent, chunk{records: n, offset: answer.BaseOffset})
		from += n
	}
}

// fail notes that n of the lane's records from the given one were not
// appended, and that those behind them were not sent.
func (s *Sink) fail(to *lane, from, n int, err error, named map[int]error) {
	class := sinks.ClassOf(err)
	verdict := class == sinks.ClassPoison || class == sinks.ClassTooLarge
	to.stale = !verdict && !sinks.IsAnswer(err) || class == sinks.ClassHalt
	if class == sinks.ClassPoison && n > 1 {
		err = sinks.TooLarge(err) // a verdict on one of several: the mark that has them halved
	}
	rest := err
	if verdict {
		rest = errors.New("not sent: an earlier record of its partition was refused")
	}
	for i := from; i < len(to.records); i++ {
		if i < from+n {
			to.failed[to.indexes[i]] = err
		} else {
			to.failed[to.indexes[i]] = rest
		}
	}
	if class == sinks.ClassPoison {
		to.name(from, n, err, named)
	}
}

// name gives the verdict to the records that the broker named; it appended
// none of the others either.
func (l *lane) name(from, n int, err error, named map[int]error) {
	guilty := map[int]error{}
	for i, why := range named {
		if i >= 0 && i < n {
			guilty[i] = why
		}
	}
	if len(guilty) == 0 {
		return
	}
	for i := range n {
		if why, ok := guilty[i]; ok {
			l.failed[l.indexes[from+i]] = sinks.Poison(fmt.Errorf("%w: %s", err, oneLine(why.Error())))
		} else {
			l.failed[l.indexes[from+i]] = errors.New("not appended: another record of its batch was refused")
		}
	}
}

// class says what an error of the client means.
//
// What the brokers answer about their own state is not marked as an answer:
// were it, one event would be blamed when a partition is without its replicas
// for an hour.
func (s *Sink) class(ctx context.Context, l *link, what string, err error) error {
	wrapped := s.wrap(ctx, what, err)
	if ended(ctx) != nil {
		return wrapped
	}
	if code, ok := errors.AsType[kafka.Error](err); ok {
		return s.classCode(code, wrapped)
	}
	_, login := errors.AsType[loginError](err)
	switch {
	case errors.Is(err, protocol.ErrNoTopic), errors.Is(err, protocol.ErrNoPartition):
		return s.isMissing(wrapped)
	case login, aboutCertificates(err):
		return sinks.Halt(wrapped)
	case l.hungUp(err):
		return s.hungUp(wrapped)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fmt.Errorf("%w; the broker closed the connection: if it always does, see whether it expects TLS (tls://) and a login (sasl)", wrapped)
	default:
		return wrapped // network, timeout, "no leader": it may have been applied
	}
}

// classCode says what a broker's answer means.
func (s *Sink) classCode(code kafka.Error, err error) error {
	switch code {
	case kafka.UnknownTopicOrPartition:
		return s.isMissing(err)
	case kafka.LeaderNotAvailable, kafka.NotLeaderForPartition, kafka.RequestTimedOut, kafka.ReplicaNotAvailable,
		kafka.NetworkException, kafka.GroupLoadInProgress, kafka.GroupCoordinatorNotAvailable, kafka.NotCoordinatorForGroup,
		kafka.NotEnoughReplicas,
		kafka.NotEnoughReplicasAfterAppend, // it is appended; a duplicate follows
		kafka.BrokerNotAvailable,           // also the client's own, for a broker it does not know yet
		kafka.NotController, kafka.KafkaStorageError, kafka.FencedLeaderEpoch, kafka.UnknownLeaderEpoch, kafka.ThrottlingQuotaExceeded:
		return err
	case kafka.MessageSizeTooLarge, kafka.RecordListTooLarge:
		return sinks.TooLarge(err)
	case kafka.InvalidTimestamp, kafka.InvalidRecord:
		return sinks.Poison(err)
	case kafka.InvalidTopic, kafka.InvalidRequiredAcks, kafka.TopicAuthorizationFailed, kafka.GroupAuthorizationFailed,
		kafka.ClusterAuthorizationFailed, kafka.UnsupportedSASLMechanism, kafka.IllegalSASLState, kafka.UnsupportedVersion,
		kafka.InvalidRequest, kafka.UnsupportedForMessageFormat, kafka.PolicyViolation, kafka.TransactionalIDAuthorizationFailed,
		kafka.SecurityDisabled, kafka.SASLAuthenticationFailed, kafka.UnsupportedCompressionType:
		return sinks.Halt(err)
	default:
		return sinks.Answered(err) // 2 CORRUPT_MESSAGE, -1 UNKNOWN_SERVER_ERROR: an event may be the cause
	}
}

// isMissing lets a topic that is not there be created for a while.
func (s *Sink) isMissing(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.missing.IsZero() {
		s.missing = time.Now()
	}
	err = fmt.Errorf("topic %s does not exist; create it, or correct topic: %w", s.cfg.Topic, err)
	if time.Since(s.missing) < s.cfg.MissingTopicGrace {
		return err
	}
	return sinks.Halt(err)
}

// hungUp takes one connection that is closed during the login for an accident,
// several in a row for the broker's way to refuse the password.
func (s *Sink) hungUp(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hangups++
	if s.hangups < maxHangups {
		return fmt.Errorf("%w; the broker closed the connection during the login", err)
	}
	return sinks.Halt(fmt.Errorf("%w; the broker closed %d connections in a row during the login: wrong username, password or mechanism?", err, s.hangups))
}

// A refusal is a broker's answer in bounded length.
type refusal struct {
	code kafka.Error
	text string
}

func (e *refusal) Error() string { return e.text }
func (e *refusal) Unwrap() error { return e.code }

// wrap says what was done. The password, which an answer might repeat, is not
// in the result, and neither is it in what the result wraps.
func (s *Sink) wrap(ctx context.Context, what string, err error) error {
	if inner := errors.Unwrap(err); inner != nil && strings.HasPrefix(err.Error(), "kafka.(*Client).") {
		err = inner
	}
	text := err.Error()
	if password := s.cfg.SASL.Password.Reveal(); password != "" {
		text = strings.ReplaceAll(text, password, secret.Mask)
	}
	text = oneLine(text)
	if code, ok := errors.AsType[kafka.Error](err); ok {
		err = &refusal{code: code, text: text}
	} else if text != err.Error() {
		err = errors.New(text)
	}
	if cause := ended(ctx); cause != nil && !errors.Is(err, cause) {
		err = fmt.Errorf("%w (%w)", cause, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// ended is ctx.Err, also in the moment in which the deadline has passed and the
// context does not know it: the client sets it on the connection, too.
func ended(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if at, ok := ctx.Deadline(); ok && !time.Now().Before(at) {
		return context.DeadlineExceeded
	}
	return nil
}

// oneLine makes text fit to be shown.
func oneLine(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsSpace(r) || unicode.IsControl(r) || r == unicode.ReplacementChar || unicode.Is(unicode.Cf, r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > maxText {
		return string(runes[:maxText]) + "…"
	}
	return text
}

// certificateAlert reports whether a TLS alert refuses our certificate or its
// lack.
func certificateAlert(text string) bool {
	return strings.Contains(text, "certificate") || strings.Contains(text, "access denied")
}

// answers are the brokers' receipts.
type answers struct {
	parts   []string
	records int
}

func (a *answers) add(partition int, c chunk) {
	a.records += c.records
	a.parts = append(a.parts, fmt.Sprintf("partition=%d offset=%d-%d", partition, c.offset, c.offset+int64(c.records)-1))
}

// String shows the first few.
func (a *answers) String() string {
	const shown = 6
	if len(a.parts) > shown {
		return fmt.Sprintf("%s, and %d more; %d records", strings.Join(a.parts[:shown], ", "), len(a.parts)-shown, a.records)
	}
	return strings.Join(a.parts, ", ")
}
