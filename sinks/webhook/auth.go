package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"

	"golang.org/x/oauth2"
	"golang.org/x/oauth2/clientcredentials"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
)

// tokens fetches and keeps the access token of client credentials. It belongs
// to the one goroutine that calls Send.
type tokens struct {
	cfg   *clientcredentials.Config // remembers how the endpoint takes credentials
	http  *http.Client
	token *oauth2.Token // of the last fetch, nil when none is to be used
}

func newTokens(o OAuth2, client *httpx.Client) *tokens {
	params := url.Values{}
	for name, value := range o.Params {
		params.Set(name, value)
	}
	return &tokens{
		cfg: &clientcredentials.Config{
			ClientID: o.ClientID, ClientSecret: o.ClientSecret.Reveal(), TokenURL: o.TokenURL, Scopes: o.Scopes, EndpointParams: params,
		},
		http: &http.Client{
			Transport: through{client},
			// Followed, a redirect would carry our credentials elsewhere.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
}

// get returns a token that is valid now. fresh says that it was fetched by
// this call.
func (t *tokens) get(ctx context.Context) (token *oauth2.Token, fresh bool, err error) {
	if t.token.Valid() {
		return t.token, false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	token, err = t.cfg.Token(context.WithValue(ctx, oauth2.HTTPClient, t.http))
	if err != nil {
		return nil, false, tokenError(err)
	}
	t.token = token
	return token, true, nil
}

// drop forgets the token, so that the next request fetches another.
func (t *tokens) drop() { t.token = nil }

// mask hides the token in an answer that may repeat it.
func (t *tokens) mask(r *httpx.Response) {
	if t.token != nil && t.token.AccessToken != "" {
		r.Body = bytes.ReplaceAll(r.Body, []byte(t.token.AccessToken), []byte(secret.Mask))
	}
}

// tokenError classes why there is no token: what refuses our credentials or
// says that the address is wrong is our setup, all else is tried again. None
// of it is an answer about an event.
func tokenError(err error) error {
	if refused, ok := errors.AsType[*oauth2.RetrieveError](err); ok {
		r := httpx.Response{Status: refused.Response.StatusCode, Header: refused.Response.Header}
		text := fmt.Sprintf("fetch a token: the token endpoint answered %d %s", r.Status, http.StatusText(r.Status))
		if setup(refused.ErrorCode) {
			return sinks.Halt(errors.New(text + ": " + refused.ErrorCode))
		}
		if sinks.ClassOf(r.Class()) == sinks.ClassHalt {
			return sinks.Halt(errors.New(text))
		}
		return sinks.After(errors.New(text), r.RetryAfter())
	}
	if network, ok := errors.AsType[*url.Error](err); ok {
		return fmt.Errorf("fetch a token: %w", network.Err) // its own text has the whole address
	}
	return errors.New("fetch a token: the answer of the token endpoint holds no token")
}

// setup reports whether a code of RFC 6749 section 5.2 speaks of our
// configuration; all of them do.
func setup(code string) bool {
	return slices.Contains([]string{
		"invalid_client", "invalid_grant", "invalid_request", "invalid_scope", "unauthorized_client", "unsupported_grant_type",
	}, code)
}

// through is the way of the token's requests: the sink's own client.
type through struct{ client *httpx.Client }

func (t through) RoundTrip(req *http.Request) (*http.Response, error) {
	r, err := t.client.Do(req)
	if err != nil {
		return nil, err
	}
	return &http.Response{
		Status: fmt.Sprintf("%d %s", r.Status, http.StatusText(r.Status)), StatusCode: r.Status, Header: r.Header,
		Body: io.NopCloser(bytes.NewReader(r.Body)), Request: req,
	}, nil
}

// authorize adds the credentials. fresh says that a token was fetched for this
// request.
func (s *Sink) authorize(ctx context.Context, req *http.Request) (fresh bool, err error) {
	switch {
	case !s.cfg.Token.IsZero():
		req.Header.Set("Authorization", "Bearer "+s.cfg.Token.Reveal())
	case s.cfg.Username != "":
		req.SetBasicAuth(s.cfg.Username, s.cfg.Password.Reveal())
	case s.tokens != nil:
		var token *oauth2.Token
		if token, fresh, err = s.tokens.get(ctx); err != nil {
			return false, err
		}
		token.SetAuthHeader(req)
	}
	return fresh, nil
}

// judge classes an answer. A token that is refused is not used again; unless
// it was fetched just now, another one may do.
func (s *Sink) judge(r *httpx.Response, fresh bool) error {
	if s.tokens == nil || r.Status != http.StatusUnauthorized {
		return r.Class()
	}
	s.tokens.drop()
	if fresh {
		return r.Class()
	}
	return fmt.Errorf("%w (with a token fetched earlier; the next request has a new one)", r.Err())
}
