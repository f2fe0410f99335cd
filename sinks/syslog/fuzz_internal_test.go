package syslog

import (
	"net/url"
	"strings"
	"testing"
)

// FuzzRELP reads what a receiver may send, cut anywhere: whole frames come out
// the same, and what does not speak RELP is refused before it takes memory.
func FuzzRELP(f *testing.F) {
	f.Add([]byte("1 rsp 6 200 OK\n2 rsp 0\n"), 3)
	f.Add([]byte("1 rsp 99999999 x"), 1)
	f.Add([]byte("0 serverclose 0\n"), 2)
	f.Add([]byte(strings.Repeat("9", 300)), 5)
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		read := func(parts ...[]byte) (frames []relpFrame, failed bool, left int) {
			s := &session{}
			for _, part := range parts {
				s.rest = append(s.rest, part...)
				for {
					fr, ok, err := s.parse()
					if err != nil {
						return frames, true, len(s.rest)
					}
					if !ok {
						break
					}
					frames = append(frames, fr)
				}
			}
			return frames, false, len(s.rest)
		}
		whole, failed, left := read(text)
		if !failed && left > maxAnswer+64 {
			t.Errorf("%d bytes are kept for a frame that never ends", left)
		}
		if cut < 0 || cut > len(text) {
			return
		}
		parts, failedToo, _ := read(text[:cut], text[cut:])
		if failed != failedToo || len(whole) != len(parts) {
			t.Errorf("whole: %v, %t; in two parts: %v, %t", whole, failed, parts, failedToo)
		}
	})
}

// FuzzAddress reads addresses: what is taken has a host and a port.
func FuzzAddress(f *testing.F) {
	for _, text := range []string{"tls://siem:6514", "udp://[::1]", "relp+tls://x", "tcp://a:b@c", "tcp://:1", "tls://host:port"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		to, err := parseAddress(text)
		if err != nil {
			return
		}
		if u, err := url.Parse("//" + to.host); err != nil || u.Hostname() == "" || u.Port() == "" {
			t.Errorf("%q is taken and gives the host %q", text, to.host)
		}
	})
}
