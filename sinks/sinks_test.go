package sinks_test

import (
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/cwprelay/cwprelay/sinks"
)

func TestMarks(t *testing.T) {
	cause := io.ErrUnexpectedEOF
	for name, c := range map[string]struct {
		err    error
		class  sinks.Class
		after  time.Duration
		answer bool
	}{
		"unmarked":                {cause, sinks.ClassRetry, 0, false},
		"poison":                  {sinks.Poison(cause), sinks.ClassPoison, 0, true},
		"halt":                    {sinks.Halt(cause), sinks.ClassHalt, 0, true},
		"too large":               {sinks.TooLarge(cause), sinks.ClassTooLarge, 0, true},
		"after":                   {sinks.After(cause, time.Minute), sinks.ClassRetry, time.Minute, false},
		"after the past":          {sinks.After(cause, -time.Minute), sinks.ClassRetry, 0, false},
		"answered":                {sinks.Answered(cause), sinks.ClassRetry, 0, true},
		"answered, after":         {sinks.After(sinks.Answered(cause), time.Second), sinks.ClassRetry, time.Second, true},
		"after, answered":         {sinks.Answered(sinks.After(cause, time.Second)), sinks.ClassRetry, time.Second, true},
		"wrapped":                 {fmt.Errorf("send: %w", sinks.Halt(cause)), sinks.ClassHalt, 0, true},
		"the outermost mark wins": {sinks.Poison(fmt.Errorf("alone: %w", sinks.TooLarge(cause))), sinks.ClassPoison, 0, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := sinks.ClassOf(c.err); got != c.class {
				t.Errorf("class %v, want %v", got, c.class)
			}
			if got := sinks.RetryAfter(c.err); got != c.after {
				t.Errorf("waits %s, want %s", got, c.after)
			}
			if got := sinks.IsAnswer(c.err); got != c.answer {
				t.Errorf("IsAnswer %t, want %t", got, c.answer)
			}
			if !errors.Is(c.err, cause) {
				t.Error("lost its cause")
			}
			if c.err.Error() == "" {
				t.Error("says nothing")
			}
		})
	}
}

func TestNothingHasNoClass(t *testing.T) {
	if sinks.ClassOf(nil) != sinks.ClassRetry || sinks.RetryAfter(nil) != 0 || sinks.IsAnswer(nil) {
		t.Error("nil has a class, a wait or an answer")
	}
}

// Each failure of a partial error has its own class, and the whole has none.
func TestPartialErrorHidesItsFailures(t *testing.T) {
	err := error(&sinks.PartialError{Failed: map[int]error{
		7: sinks.Poison(errors.New("bad")), 3: sinks.After(errors.New("busy"), time.Minute),
	}})
	if got := sinks.ClassOf(err); got != sinks.ClassRetry {
		t.Errorf("class %v, want retry", got)
	}
	if got := sinks.RetryAfter(err); got != 0 {
		t.Errorf("waits %s, want 0", got)
	}
	if got, want := err.Error(), "2 records not accepted, first is number 3: busy"; got != want {
		t.Errorf("says %q, want %q", got, want)
	}
	if got, want := (&sinks.PartialError{}).Error(), "no record failed"; got != want {
		t.Errorf("says %q, want %q", got, want)
	}
}

func TestClassNames(t *testing.T) {
	for class, want := range map[sinks.Class]string{
		sinks.ClassRetry: "retry", sinks.ClassTooLarge: "too_large", sinks.ClassPoison: "poison", sinks.ClassHalt: "halt", 99: "unknown",
	} {
		if got := class.String(); got != want {
			t.Errorf("class %d is %q, want %q", int(class), got, want)
		}
	}
}
