package hectest

import (
	"net/http"
	"strconv"
	"sync/atomic"
)

// A Balancer spreads requests over collectors in turn, as a load balancer in
// front of a cluster does. A request that bears the cookie of an earlier
// answer goes to the same collector again.
type Balancer struct {
	members []http.Handler
	sticky  bool
	turn    atomic.Int64
}

// stickyCookie is the name of the balancer's cookie.
const stickyCookie = "HECLB"

// NewBalancer makes a balancer; without sticky it sets no cookie and heeds none.
func NewBalancer(sticky bool, members ...http.Handler) *Balancer {
	return &Balancer{members: members, sticky: sticky}
}

// ServeHTTP passes the request on.
func (b *Balancer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if cookie, err := r.Cookie(stickyCookie); err == nil && b.sticky {
		if n, err := strconv.Atoi(cookie.Value); err == nil && n >= 0 && n < len(b.members) {
			b.members[n].ServeHTTP(w, r)
			return
		}
	}
	n := int(b.turn.Add(1)-1) % len(b.members)
	if b.sticky {
		http.SetCookie(w, &http.Cookie{Name: stickyCookie, Value: strconv.Itoa(n), Path: "/"}) //nolint:gosec // tests run without TLS
	}
	b.members[n].ServeHTTP(w, r)
}
