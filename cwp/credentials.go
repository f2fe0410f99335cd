package cwp

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
)

// Credentials sign a request.
type Credentials struct {
	SecretID  string
	SecretKey secret.String
	Token     secret.String // of temporary credentials; empty: they are lasting
	Expires   time.Time     // zero: they do not, as far as is known
}

func (c Credentials) secrets() []string {
	return []string{c.SecretKey.Reveal(), c.Token.Reveal()}
}

// A Provider gives credentials. It is safe for concurrent use.
type Provider interface {
	// Get returns credentials that are valid now, or an *Error: of
	// ClassCredentials, saying what to set, when there are none.
	Get(ctx context.Context) (Credentials, error)
	// Invalidate makes the next Get ask anew: the API refused what it gave.
	Invalidate()
	// Identity tells providers of different credentials apart, without
	// secrets: those with the same identity share a request budget.
	Identity() string
}

// The names of the providers.
const (
	providerEnv        = "env"
	providerStatic     = "static"
	providerFile       = "file"
	providerProfile    = "profile"
	providerCVMRole    = "cvm_role"
	providerTKEOIDC    = "tke_oidc"
	providerAssumeRole = "assume_role"
)

func providers() []string {
	return []string{providerEnv, providerStatic, providerFile, providerProfile, providerCVMRole, providerTKEOIDC, providerAssumeRole}
}

// CredentialsConfig says where keys come from.
type CredentialsConfig struct {
	// Provider is env (default), static, file, profile, cvm_role, tke_oidc or
	// assume_role.
	Provider string `koanf:"provider"`

	SecretID  string        `koanf:"secret_id"`  // static
	SecretKey secret.String `koanf:"secret_key"` // static
	Token     secret.String `koanf:"token"`      // static, of temporary credentials

	Path    string `koanf:"path"`    // file: JSON or name=value lines with secret_id, secret_key, token
	Profile string `koanf:"profile"` // profile: section or tccli profile, default "default"

	RoleName string `koanf:"role_name"` // cvm_role; default: the role of the machine

	Source      string        `koanf:"source"`       // assume_role: provider of the keys that assume the role, default env
	RoleARN     string        `koanf:"role_arn"`     // assume_role: qcs::cam::uin/UIN:roleName/NAME
	SessionName string        `koanf:"session_name"` // assume_role, default cwprelay
	ExternalID  secret.String `koanf:"external_id"`  // assume_role
	Duration    time.Duration `koanf:"duration"`     // assume_role, default 2h, at most 12h

	STSEndpoint string `koanf:"sts_endpoint"` // default: the vendor's at the source's site
}

// WithDefaults returns c with every unset option at its default.
func (c CredentialsConfig) WithDefaults() CredentialsConfig {
	c.Provider = cmp.Or(c.Provider, providerEnv)
	if c.Provider == providerProfile || c.Source == providerProfile {
		c.Profile = cmp.Or(c.Profile, "default")
	}
	if c.Provider == providerAssumeRole {
		c.Source = cmp.Or(c.Source, providerEnv)
		c.SessionName = cmp.Or(c.SessionName, "cwprelay")
		c.Duration = cmp.Or(c.Duration, 2*time.Hour)
	}
	return c
}

func (c CredentialsConfig) usesSTS() bool {
	return c.Provider == providerAssumeRole || c.Provider == providerTKEOIDC
}

// Validate reports every mistake, each beginning with its key.
func (c CredentialsConfig) Validate() error {
	var errs []error
	add := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	uses := func(provider string) bool {
		return c.Provider == provider || c.Provider == providerAssumeRole && c.Source == provider
	}
	known := false
	for _, p := range providers() {
		known = known || p == c.Provider
	}
	if !known {
		add("provider: %q is not one of %s", c.Provider, strings.Join(providers(), ", "))
	}
	if uses(providerStatic) {
		if c.SecretID == "" {
			add("secret_id: required with the provider static")
		}
		if c.SecretKey.IsZero() {
			add("secret_key: required with the provider static; take it from a file or variable: ${file:/run/secrets/key}")
		}
	}
	if uses(providerFile) && c.Path == "" {
		add("path: required with the provider file")
	}
	if c.Provider == providerAssumeRole {
		switch c.Source {
		case providerEnv, providerStatic, providerFile, providerProfile, providerCVMRole, providerTKEOIDC:
		default:
			add("source: %q is not the name of a provider that has keys of its own", c.Source)
		}
		if !strings.HasPrefix(c.RoleARN, "qcs::cam::") {
			add("role_arn: required with the provider assume_role, like qcs::cam::uin/100000000001:roleName/reader")
		}
		if c.Duration < time.Minute || c.Duration > 12*time.Hour {
			add("duration: must be from 1m to 12h")
		}
	}
	if c.STSEndpoint != "" {
		if _, err := parseEndpoint(c.STSEndpoint); err != nil {
			add("sts_endpoint: %w", err)
		}
	}
	return errors.Join(errs...)
}

// NewProvider makes the provider of a source's valid configuration. getenv
// looks up the environment. It reads and asks nothing yet.
func NewProvider(cfg Config, getenv func(string) string) (Provider, error) {
	hc, err := newHTTP(cfg)
	if err != nil {
		return nil, err
	}
	stsURL, err := cfg.serviceURL("sts", cfg.Credentials.STSEndpoint)
	if err != nil {
		return nil, err
	}
	asker := &Client{cfg: cfg, http: hc, sts: stsURL, opt: Options{UserAgent: "cwprelay"}}
	c := cfg.Credentials
	p, err := c.named(c.Provider, asker, getenv)
	if err != nil {
		return nil, err
	}
	return p, nil
}

func (c CredentialsConfig) named(name string, asker *Client, getenv func(string) string) (Provider, error) {
	switch name {
	case providerEnv:
		return &cached{identity: "env:" + getenv("TENCENTCLOUD_SECRET_ID"), fetch: func(context.Context) (Credentials, error) {
			return envCredentials(getenv)
		}}, nil
	case providerStatic:
		creds := Credentials{SecretID: c.SecretID, SecretKey: c.SecretKey, Token: c.Token}
		return &cached{identity: "static:" + c.SecretID, fetch: func(context.Context) (Credentials, error) { return creds, nil }}, nil
	case providerFile:
		return &cached{identity: "file:" + c.Path, fetch: fileFetcher(func() string { return c.Path }, "")}, nil
	case providerProfile:
		return &cached{identity: "profile:" + c.Profile, fetch: profileFetcher(c.Profile, getenv)}, nil
	case providerCVMRole:
		return &cached{identity: "cvm_role:" + c.RoleName, fetch: func(ctx context.Context) (Credentials, error) {
			return cvmRole(ctx, metadataURL, c.RoleName)
		}}, nil
	case providerTKEOIDC:
		return &cached{identity: "tke_oidc:" + getenv("TKE_ROLE_ARN"), fetch: func(ctx context.Context) (Credentials, error) {
			return tkeOIDC(ctx, asker, getenv)
		}}, nil
	case providerAssumeRole:
		source, err := c.named(c.Source, asker, getenv)
		if err != nil {
			return nil, err
		}
		return &cached{identity: "assume_role:" + c.RoleARN, source: source, fetch: func(ctx context.Context) (Credentials, error) {
			return assumeRole(ctx, asker, source, c)
		}}, nil
	default:
		return nil, fmt.Errorf("credentials.provider: %q is not one of %s", name, strings.Join(providers(), ", "))
	}
}

func missing(format string, args ...any) error {
	return &Error{Class: ClassCredentials, Message: "no credentials: " + fmt.Sprintf(format, args...)}
}

// A cached provider keeps what it fetched until shortly before it expires.
// Credentials that do not expire are fetched each time, which costs a look at
// memory or at a file's times.
type cached struct {
	identity string
	source   Provider // what fetch asks for keys; nil: none
	fetch    func(context.Context) (Credentials, error)

	mu      sync.Mutex // guards the rest, and lets one caller fetch
	creds   Credentials
	until   time.Time // when to fetch again; zero: now
	retryAt time.Time // not before, after a failure while the old ones are valid
}

func (c *cached) Identity() string { return c.identity }

func (c *cached) Invalidate() {
	c.mu.Lock()
	c.until, c.creds, c.retryAt = time.Time{}, Credentials{}, time.Time{}
	c.mu.Unlock()
	if c.source != nil {
		c.source.Invalidate()
	}
}

func (c *cached) Get(ctx context.Context) (Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	valid := !c.creds.Expires.IsZero() && now.Before(c.creds.Expires)
	if valid && (now.Before(c.until) || now.Before(c.retryAt)) {
		return c.creds, nil
	}
	fresh, err := c.fetch(ctx)
	switch {
	case err == nil:
		c.creds, c.until = fresh, time.Time{}
		if !fresh.Expires.IsZero() {
			// The last seventh of the life is for getting new ones.
			c.until = fresh.Expires.Add(-fresh.Expires.Sub(now) / 7)
		}
		return fresh, nil
	case valid:
		c.retryAt = now.Add(10 * time.Second)
		return c.creds, nil
	default:
		return Credentials{}, err
	}
}

func envCredentials(getenv func(string) string) (Credentials, error) {
	creds := Credentials{
		SecretID:  getenv("TENCENTCLOUD_SECRET_ID"),
		SecretKey: secret.New(getenv("TENCENTCLOUD_SECRET_KEY")),
		Token:     secret.New(getenv("TENCENTCLOUD_TOKEN")),
	}
	switch {
	case creds.SecretID == "":
		return creds, missing("set TENCENTCLOUD_SECRET_ID and TENCENTCLOUD_SECRET_KEY in the environment")
	case creds.SecretKey.IsZero():
		return creds, missing("TENCENTCLOUD_SECRET_ID is set, TENCENTCLOUD_SECRET_KEY is not")
	}
	return creds, nil
}

// fileFetcher reads a file of credentials again when it has changed. A new
// file that cannot be used leaves the old credentials in force.
func fileFetcher(path func() string, section string) func(context.Context) (Credentials, error) {
	var known os.FileInfo
	var knownPath string
	var creds Credentials
	return func(context.Context) (Credentials, error) {
		name := path()
		info, err := os.Stat(name)
		if err == nil && known != nil && name == knownPath && os.SameFile(info, known) && info.ModTime().Equal(known.ModTime()) && info.Size() == known.Size() {
			return creds, nil
		}
		var read Credentials
		var text []byte
		if err == nil {
			text, err = os.ReadFile(name)
		}
		if err == nil {
			read, err = parseCredentials(text, section)
		}
		if err != nil {
			if creds.SecretID != "" {
				return creds, nil
			}
			return read, missing("credentials file %s: %v", name, reason(err))
		}
		known, knownPath, creds = info, name, read
		return creds, nil
	}
}

// reason is an error without the path, which the reader was told.
func reason(err error) error {
	if p, ok := errors.AsType[*os.PathError](err); ok {
		return p.Err
	}
	return err
}

// parseCredentials reads JSON, as tccli writes it, or name=value lines, as the
// vendor's SDKs read them. Names are those of the vendor in any spelling.
func parseCredentials(text []byte, section string) (Credentials, error) {
	values := map[string]string{}
	put := func(name, value string) {
		name = strings.ToLower(strings.NewReplacer("_", "", "-", "").Replace(strings.TrimSpace(name)))
		values[name] = strings.TrimSpace(value)
	}
	var object map[string]any
	if err := json.Unmarshal(text, &object); err == nil {
		for name, v := range object {
			if s, ok := v.(string); ok {
				put(name, s)
			}
		}
	} else {
		here := section == ""
		for line := range strings.SplitSeq(string(text), "\n") {
			line = strings.TrimSpace(line)
			switch {
			case line == "", line[0] == '#', line[0] == ';':
			case line[0] == '[':
				here = section == "" || strings.Trim(line, "[] ") == section
			default:
				if name, value, ok := strings.Cut(line, "="); ok && here {
					put(name, strings.Trim(strings.TrimSpace(value), `"'`))
				}
			}
		}
	}
	creds := Credentials{SecretID: values["secretid"], SecretKey: secret.New(values["secretkey"]), Token: secret.New(values["token"])}
	if creds.SecretID == "" || creds.SecretKey.IsZero() {
		return creds, errors.New("holds no secret_id and secret_key")
	}
	return creds, nil
}

// profileFetcher looks where the vendor's SDKs and its command line keep keys.
func profileFetcher(profile string, getenv func(string) string) func(context.Context) (Credentials, error) {
	home := cmp.Or(getenv("HOME"), getenv("USERPROFILE"))
	sdk := cmp.Or(getenv("TENCENTCLOUD_CREDENTIALS_FILE"), filepath.Join(home, ".tencentcloud", "credentials"))
	cli := filepath.Join(home, ".tccli", profile+".credential")
	first := fileFetcher(func() string { return sdk }, profile)
	second := fileFetcher(func() string { return cli }, "")
	return func(ctx context.Context) (Credentials, error) {
		creds, err := first(ctx)
		if err == nil {
			return creds, nil
		}
		if creds, err := second(ctx); err == nil {
			return creds, nil
		}
		return Credentials{}, missing("profile %s is neither in %s nor in %s", profile, sdk, cli)
	}
}

const metadataURL = "http://metadata.tencentyun.com/latest/meta-data/cam/security-credentials/"

// cvmRole asks the machine's metadata service for the keys of its role.
func cvmRole(ctx context.Context, base, role string) (Credentials, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if role == "" {
		name, err := metadata(ctx, base)
		if err != nil {
			return Credentials{}, err
		}
		role = strings.TrimSpace(string(name))
	}
	raw, err := metadata(ctx, base+url.PathEscape(role))
	if err != nil {
		return Credentials{}, err
	}
	var answer struct {
		TmpSecretId, TmpSecretKey, Token, Code string //nolint:revive // the API's own names
		ExpiredTime                            int64
	}
	if err := json.Unmarshal(raw, &answer); err != nil || answer.Code != "Success" || answer.TmpSecretId == "" || answer.TmpSecretKey == "" {
		return Credentials{}, missing("the metadata service gave no keys for role %q (code %q); bind a role to the machine", role, clean(answer.Code, 40))
	}
	return Credentials{
		SecretID: answer.TmpSecretId, SecretKey: secret.New(answer.TmpSecretKey), Token: secret.New(answer.Token),
		Expires: time.Unix(answer.ExpiredTime, 0),
	}, nil
}

func metadata(ctx context.Context, address string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, http.NoBody)
	if err != nil {
		return nil, err
	}
	// Never through a proxy: the service answers for whoever asks.
	hc := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := hc.Do(req)
	if err != nil {
		return nil, &Error{Class: ClassNetwork, Message: "ask the metadata service for the machine's role", Err: withoutURL(err, nil)}
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if resp.StatusCode != http.StatusOK {
		return nil, missing("the metadata service answers %d: is a role bound to the machine?", resp.StatusCode)
	}
	raw, err := io.ReadAll(io.LimitReader(resp.Body, 1<<16))
	if err != nil {
		return nil, &Error{Class: ClassNetwork, Message: "read the metadata service's answer", Err: err}
	}
	return raw, nil
}

// stsKeys is the answer of AssumeRole and AssumeRoleWithWebIdentity.
type stsKeys struct {
	Response struct {
		Credentials struct {
			TmpSecretId, TmpSecretKey, Token string //nolint:revive // the API's own names
		}
		ExpiredTime int64
	}
}

func (k stsKeys) credentials() (Credentials, error) {
	c := k.Response.Credentials
	if c.TmpSecretId == "" || c.TmpSecretKey == "" {
		return Credentials{}, &Error{Class: ClassAnswer, Message: "STS gave no keys", HTTPStatus: http.StatusOK}
	}
	return Credentials{
		SecretID: c.TmpSecretId, SecretKey: secret.New(c.TmpSecretKey), Token: secret.New(c.Token),
		Expires: time.Unix(k.Response.ExpiredTime, 0),
	}, nil
}

// assumeRole trades keys for those of a role (sts:AssumeRole).
func assumeRole(ctx context.Context, asker *Client, source Provider, c CredentialsConfig) (Credentials, error) {
	creds, err := source.Get(ctx)
	if err != nil {
		return Credentials{}, err
	}
	request := map[string]any{
		"RoleArn": c.RoleARN, "RoleSessionName": c.SessionName, "DurationSeconds": int(c.Duration.Seconds()),
	}
	if !c.ExternalID.IsZero() {
		request["ExternalId"] = c.ExternalID.Reveal()
	}
	return asker.keys(ctx, call{action: "AssumeRole", creds: creds}, request)
}

// keys asks STS for temporary keys.
func (c *Client) keys(ctx context.Context, in call, request map[string]any) (Credentials, error) {
	if c.sts == nil {
		return Credentials{}, missing("credentials.sts_endpoint is required with an endpoint that is not the vendor's")
	}
	body, err := json.Marshal(request)
	if err != nil {
		return Credentials{}, fmt.Errorf("encode the request to STS: %w", err)
	}
	in.body = body
	secrets := in.creds.secrets()
	for _, name := range []string{"ExternalId", "WebIdentityToken"} {
		if text, ok := request[name].(string); ok {
			secrets = append(secrets, text)
		}
	}
	var answer stsKeys
	if err := c.askSTS(ctx, in, secrets, &answer); err != nil {
		return Credentials{}, err
	}
	return answer.credentials()
}

// tkeOIDC trades a pod's token for keys (sts:AssumeRoleWithWebIdentity). The
// token is read each time: it rotates.
func tkeOIDC(ctx context.Context, asker *Client, getenv func(string) string) (Credentials, error) {
	var unset []string
	env := map[string]string{}
	for _, name := range []string{"TKE_PROVIDER_ID", "TKE_WEB_IDENTITY_TOKEN_FILE", "TKE_ROLE_ARN"} {
		if env[name] = getenv(name); env[name] == "" {
			unset = append(unset, name)
		}
	}
	if len(unset) > 0 {
		return Credentials{}, missing("%s not set: is the pod's service account bound to a role?", strings.Join(unset, ", "))
	}
	token, err := os.ReadFile(env["TKE_WEB_IDENTITY_TOKEN_FILE"])
	if err != nil {
		return Credentials{}, missing("the pod's token: %v", err)
	}
	text := strings.TrimSpace(string(token))
	if text == "" {
		return Credentials{}, missing("the pod's token: %s is empty", env["TKE_WEB_IDENTITY_TOKEN_FILE"])
	}
	return asker.keys(ctx, call{action: "AssumeRoleWithWebIdentity", region: getenv("TKE_REGION"), unsigned: true}, map[string]any{
		"ProviderId": env["TKE_PROVIDER_ID"], "WebIdentityToken": text,
		"RoleArn": env["TKE_ROLE_ARN"], "RoleSessionName": "cwprelay", "DurationSeconds": 7200,
	})
}
