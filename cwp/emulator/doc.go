// Package emulator emulates the CWP API: the list of malicious processes
// (DescribeRiskProcessEvents) over data that changes while it is read, and the
// account of the caller (sts GetCallerIdentity). It serves `cwprelay demo`,
// `cwprelay emulate`, the property tests of the poller and other people's
// tests.
//
// It promises to answer as the API is documented to, and worse where the
// documents leave room: the order inside one second differs from request to
// request, filters and limits are enforced, errors come with HTTP 200. It
// remembers what was visible when, so that a test can tell what a poller had
// to see and that nothing was made up. Everything random comes from a seed.
//
// A World is the list, without goroutines, network or a clock: the fast half,
// that property tests ask through a Lister. A Server is the API over HTTP, with
// signatures, a rate limit and faults. Signatures are verified by code of this
// package alone, so that client and emulator are both judged by the vendor's
// published vectors and neither by the other.
//
// # What the vendor's newest models say
//
// Read from the Python SDKs tencentcloud-sdk-python-cwp 3.1.190 (Chinese site)
// and tencentcloud-sdk-python-intl-en 3.1.193 (international site), which the
// scripts in .ci/judges run against this emulator:
//
//   - The Chinese request model names the time filters BeginTime and EndTime.
//     The international one still prints BeginTime twice, the second time
//     described as the end. The emulator takes EndTime; a second BeginTime is a
//     second lower bound.
//   - Filters: at most five, joined by AND; at most five values each, joined by
//     OR. ExactMatch is described as "fuzzy search" in both.
//   - The record: FirstDetectionMethod is in both models, QUUID and ExeMd5 in
//     the Chinese one only. The emulator sends all of them.
//   - HandleStatus of the record: 0 pending, 1 handled, 2 killing, 3 killed, 4
//     exited, 5 ignored. Status of the filter: 0 pending, 1 killing, 2 killed,
//     3 exited, 4 trusted. Both models have both lists. See Quirks.StatusAsRecord.
//   - Neither says what By and Order are when they are not sent, nor whether
//     the time bounds are inclusive. The emulator's choice: DetectTime, DESC,
//     inclusive.
package emulator
