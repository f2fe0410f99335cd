package main

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cwprelay/cwprelay/event"
)

// after returns what stands between a text and the next of the characters in
// ends. In JSON a key with its quotes cannot occur inside a value, where quotes
// are escaped.
func after(body []byte, text, ends string) string {
	_, rest, found := bytes.Cut(body, []byte(text))
	if !found {
		return ""
	}
	if end := bytes.IndexAny(rest, ends); end >= 0 {
		rest = rest[:end]
	}
	return string(rest)
}

// asFinding completes an arrival by what the destination's form says.
func asFinding(findingUID, sequence, status, observed, detect string) (arrival, error) {
	parts := strings.Split(findingUID, ":")
	if len(parts) != 4 {
		return arrival{}, fmt.Errorf("finding_uid %q", findingUID)
	}
	a := arrival{account: parts[1], id: parts[3], status: status}
	var errs []error
	var err error
	if a.sequence, err = strconv.ParseUint(sequence, 10, 64); err != nil {
		errs = append(errs, fmt.Errorf("sequence: %w", err))
	}
	if observed != "" {
		if a.observed, err = time.Parse(time.RFC3339Nano, observed); err != nil {
			errs = append(errs, fmt.Errorf("observed: %w", err))
		}
	}
	if detect != "" {
		t, err := time.Parse(time.RFC3339Nano, detect)
		if err != nil {
			errs = append(errs, fmt.Errorf("detection time: %w", err))
		}
		a.detect = t.In(time.FixedZone("CST", 8*60*60)).Format(event.WallLayout)
	}
	if status == "" {
		errs = append(errs, errors.New("no status"))
	}
	return a, errors.Join(errs...)
}

// ofECS reads a document of the format ecs.
func ofECS(body []byte) (arrival, error) {
	const quote = `"`
	a, err := asFinding(
		after(body, `"id":"tencent-cwp`, quote), after(body, `"sequence":`, ",}"), after(body, `"handle_status":{"code":`, ",}"),
		after(body, `"created":"`, quote), after(body, `"detect_time":"`, quote))
	a.uid = after(body, `"event_uid":"`, quote)
	return a, err
}

// ofSplunk reads an event of the format splunk.
func ofSplunk(body []byte) (arrival, error) {
	const quote = `"`
	a, err := asFinding(
		after(body, `"finding_uid":"`, quote), after(body, `"sequence":`, ",}"), after(body, `"handle_status":`, ",}"),
		after(body, `"observed_time":"`, quote), after(body, `"detect_time":"`, quote))
	a.uid = after(body, `"id":"`, quote)
	return a, err
}

// ofCEF reads a syslog message of the format cef. It has no time of
// observation.
func ofCEF(message []byte) (arrival, error) {
	const space = " "
	a, err := asFinding(
		after(message, "cs6=", space), after(message, "cn2=", space), after(message, "cn1=", space), "", "")
	a.uid = after(message, `eventUid="`, `"`)
	return a, err
}
