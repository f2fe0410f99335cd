package cwp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cwprelay/cwprelay/config/secret"
)

func TestRoleOfTheMachine(t *testing.T) {
	expires := time.Now().Add(time.Hour).Unix()
	mux := http.NewServeMux()
	mux.HandleFunc("/roles/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "reader\n") })
	mux.HandleFunc("/roles/reader", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"TmpSecretId":"AKIDtmp","TmpSecretKey":"k","Token":"t","ExpiredTime":%d,"Code":"Success"}`, expires)
	})
	mux.HandleFunc("/roles/empty", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"Code":"Failed"}`) })
	mux.HandleFunc("/roles/revoked", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprint(w, `{"TmpSecretId":"AKIDtmp","TmpSecretKey":"pl4nted","Token":"pl4nted","Code":"Revoked"}`)
	})
	mux.HandleFunc("/roles/portal", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `<html>pl4nted</html>`) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for name, tc := range map[string]struct {
		role, want string // what the error says; empty: it succeeds
	}{
		"role of the machine": {"", ""},
		"named role":          {"reader", ""},
		"role without keys":   {"empty", `no keys for role "empty" (code "Failed"); bind a role`},
		"keys and a failure":  {"revoked", `code "Revoked"`},
		"no answer of its":    {"portal", `no keys for role "portal"`},
		"unknown role":        {"nobody", "answers 404: is a role bound to the machine?"},
	} {
		t.Run(name, func(t *testing.T) {
			creds, err := cvmRole(t.Context(), srv.URL+"/roles/", tc.role)
			if tc.want != "" {
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Class != ClassCredentials || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), "pl4nted") {
					t.Errorf("error %v, want one of credentials with %q", err, tc.want)
				}
				return
			}
			if err != nil || creds.SecretID != "AKIDtmp" || creds.SecretKey.Reveal() != "k" || creds.Token.Reveal() != "t" || creds.Expires.Unix() != expires {
				t.Errorf("credentials %+v, %v", creds, err)
			}
		})
	}
	if _, err := cvmRole(t.Context(), "http://127.0.0.1:1/", "reader"); err == nil {
		t.Error("no error without a metadata service")
	} else if e, ok := errors.AsType[*Error](err); !ok || e.Class != ClassNetwork {
		t.Errorf("error %v, want one of the network", err)
	}
}

func TestTokenOfThePodIsTradedAndReadEachTime(t *testing.T) {
	var tokens []string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body struct{ ProviderId, WebIdentityToken, RoleArn, RoleSessionName string } //nolint:revive // the API's own names
		err := json.NewDecoder(r.Body).Decode(&body)
		if err != nil || r.Header.Get("X-Tc-Action") != "AssumeRoleWithWebIdentity" || r.Header.Get("Authorization") != "SKIP" ||
			r.Header.Get("X-Tc-Region") != "ap-guangzhou" || body.ProviderId != "p" || body.RoleArn != "qcs::cam::uin/1:roleName/r" {
			t.Errorf("request %v, %+v, %v", r.Header, body, err)
		}
		tokens = append(tokens, body.WebIdentityToken)
		_, _ = fmt.Fprintf(w, `{"Response":{"Credentials":{"TmpSecretId":"AKIDtmp%d","TmpSecretKey":"k","Token":"t"},"ExpiredTime":%d}}`,
			len(tokens), time.Now().Add(time.Hour).Unix())
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "token")
	env := map[string]string{
		"TKE_PROVIDER_ID": "p", "TKE_WEB_IDENTITY_TOKEN_FILE": file, "TKE_ROLE_ARN": "qcs::cam::uin/1:roleName/r", "TKE_REGION": "ap-guangzhou",
	}
	cfg := Config{Endpoint: srv.URL, Credentials: CredentialsConfig{Provider: providerTKEOIDC, STSEndpoint: srv.URL}}.WithDefaults()
	p, err := NewProvider(cfg, func(name string) string { return env[name] })
	if err != nil {
		t.Fatal(err)
	}
	for i, token := range []string{"one", "two"} {
		if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		p.Invalidate()
		for range 2 { // the second time from memory
			creds, err := p.Get(t.Context())
			if err != nil || creds.SecretID != fmt.Sprint("AKIDtmp", i+1) || creds.Token.Reveal() != "t" {
				t.Errorf("credentials %+v, %v", creds, err)
			}
		}
	}
	if len(tokens) != 2 || tokens[0] != "one" || tokens[1] != "two" {
		t.Errorf("tokens sent: %q", tokens)
	}
	env["TKE_ROLE_ARN"] = ""
	p.Invalidate()
	if _, err := p.Get(t.Context()); err == nil || !strings.Contains(err.Error(), "TKE_ROLE_ARN not set") {
		t.Errorf("error %v", err)
	}
}

// TestRoleOfThePodNamesWhatIsWrong covers what a pod can lack, and STS refusing.
func TestRoleOfThePodNamesWhatIsWrong(t *testing.T) {
	const jwt = "pl4nted.web.identity"
	var region string
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		region = r.Header.Get("X-Tc-Region")
		_, _ = fmt.Fprintf(w, `{"Response":{"Error":{"Code":"InvalidParameter.WebIdentityTokenError","Message":"the token %s has expired"},"RequestId":"r-1"}}`, jwt)
	}))
	defer srv.Close()
	file := filepath.Join(t.TempDir(), "token")
	whole := map[string]string{"TKE_PROVIDER_ID": "p", "TKE_WEB_IDENTITY_TOKEN_FILE": file, "TKE_ROLE_ARN": "qcs::cam::uin/1:roleName/r"}
	for name, tc := range map[string]struct {
		unset, token string
		want         string
	}{
		"no provider":    {"TKE_PROVIDER_ID", jwt, "TKE_PROVIDER_ID not set: is the pod's service account bound to a role?"},
		"no role":        {"TKE_ROLE_ARN", jwt, "TKE_ROLE_ARN not set"},
		"no token file":  {"TKE_WEB_IDENTITY_TOKEN_FILE", jwt, "TKE_WEB_IDENTITY_TOKEN_FILE not set"},
		"no file":        {"", "", "the pod's token: open " + file},
		"empty token":    {"", "\n", "the pod's token: " + file + " is empty"},
		"STS refuses it": {"", jwt, "InvalidParameter.WebIdentityTokenError: the token ******** has expired (request id r-1)"},
	} {
		t.Run(name, func(t *testing.T) {
			_ = os.Remove(file)
			if tc.token != "" {
				if err := os.WriteFile(file, []byte(tc.token), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			cfg := Config{Endpoint: srv.URL, Credentials: CredentialsConfig{Provider: providerTKEOIDC, STSEndpoint: srv.URL}}.WithDefaults()
			p, err := NewProvider(cfg, func(name string) string {
				if name == tc.unset {
					return ""
				}
				return whole[name]
			})
			if err != nil {
				t.Fatal(err)
			}
			if _, err = p.Get(t.Context()); err == nil || !strings.Contains(err.Error(), tc.want) || strings.Contains(err.Error(), jwt) {
				t.Errorf("error %v, want %q", err, tc.want)
			}
		})
	}
	if region != stsRegion {
		t.Errorf("region %q: STS must be told one", region)
	}
}

// TestProfileIsFoundWhereTheVendorsToolsKeepIt reads the files of the SDKs and
// of the command line.
func TestProfileIsFoundWhereTheVendorsToolsKeepIt(t *testing.T) {
	const (
		sdk = "; keys\n[default]\nsecret_id = AKIDdefault\nsecret_key = k1\n\n[audit]\nsecret_id=AKIDaudit\nsecret_key='k2'\n"
		cli = `{"secretId":"AKIDcli","secretKey":"k3","token":"t3"}`
	)
	for name, tc := range map[string]struct {
		profile, file string // file: instead of the usual one
		want          string // id/key/token, or what the error says
	}{
		"default of the SDK":          {"", "", "AKIDdefault/k1/"},
		"section of the SDK":          {"audit", "", "AKIDaudit/k2/"},
		"profile of the command line": {"ops", "", "AKIDcli/k3/t3"},
		"another file":                {"", "elsewhere", "AKIDelse/k4/"},
		"unknown":                     {"nobody", "", "no credentials: profile nobody is neither in HOME/.tencentcloud/credentials nor in HOME/.tccli/nobody.credential"},
	} {
		t.Run(name, func(t *testing.T) {
			home := t.TempDir()
			write := func(name, text string) {
				t.Helper()
				path := filepath.Join(home, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			write(".tencentcloud/credentials", sdk)
			write(".tccli/ops.credential", cli)
			write("elsewhere", "[default]\nsecret_id=AKIDelse\nsecret_key=k4\n")
			env := map[string]string{"HOME": home}
			if tc.file != "" {
				env["TENCENTCLOUD_CREDENTIALS_FILE"] = filepath.Join(home, tc.file)
			}
			cfg := Config{Credentials: CredentialsConfig{Provider: providerProfile, Profile: tc.profile}}.WithDefaults()
			p, err := NewProvider(cfg, func(name string) string { return env[name] })
			if err != nil {
				t.Fatal(err)
			}
			creds, err := p.Get(t.Context())
			got := creds.SecretID + "/" + creds.SecretKey.Reveal() + "/" + creds.Token.Reveal()
			if err != nil {
				got = strings.ReplaceAll(err.Error(), home, "HOME")
			}
			if !strings.Contains(got, tc.want) {
				t.Errorf("got %s, want %s", got, tc.want)
			}
			if tc.profile == "ops" { // keys that were exchanged are read again
				write(".tccli/ops.credential", `{"secretId":"AKIDnew","secretKey":"k5"}`)
				if creds, err := p.Get(t.Context()); err != nil || creds.SecretID != "AKIDnew" {
					t.Errorf("after an exchange: %v, %v", creds.SecretID, err)
				}
			}
		})
	}
}

// TestTemporaryKeysAreReplacedBeforeTheyExpire follows keys of two hours.
func TestTemporaryKeysAreReplacedBeforeTheyExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const life = 2 * time.Hour
		fetched, broken := 0, false
		p := &cached{fetch: func(context.Context) (Credentials, error) {
			fetched++
			if broken {
				return Credentials{}, missing("nobody answers")
			}
			return Credentials{SecretID: fmt.Sprint("AKID", fetched), Expires: time.Now().Add(life)}, nil
		}}
		get := func(want string, fetches int) {
			t.Helper()
			creds, err := p.Get(t.Context())
			got := creds.SecretID
			if err != nil {
				got = err.Error()
			}
			if !strings.Contains(got, want) || fetched != fetches {
				t.Errorf("got %s after %d fetches, want %s after %d", got, fetched, want, fetches)
			}
		}
		get("AKID1", 1)
		time.Sleep(life * 5 / 6)
		get("AKID1", 1)
		time.Sleep(life / 30) // within the last seventh
		get("AKID2", 2)
		broken = true
		time.Sleep(life * 9 / 10)
		get("AKID2", 3) // those in hand are valid for a while
		get("AKID2", 3) // not at every request
		time.Sleep(11 * time.Second)
		get("AKID2", 4)
		time.Sleep(life / 10)
		get("nobody answers", 5) // never with keys that have expired
		broken = false
		get("AKID6", 6)
		p.Invalidate()
		get("AKID7", 7)
	})
}

// TestClockIsCorrectedForSTSToo asks whose account it is by a clock that is off,
// which is what a source does first.
func TestClockIsCorrectedForSTSToo(t *testing.T) {
	calls := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls++
		date := time.Now().Add(time.Hour)
		w.Header().Set("Date", date.UTC().Format(http.TimeFormat))
		at, err := strconv.ParseInt(r.Header.Get("X-TC-Timestamp"), 10, 64)
		if off := date.Unix() - at; err != nil || off > 300 || off < -300 {
			_, _ = fmt.Fprint(w, `{"Response":{"Error":{"Code":"AuthFailure.SignatureExpire","Message":"expired"}}}`)
			return
		}
		if r.Header.Get("X-TC-Region") != "ap-guangzhou" {
			t.Errorf("region %q", r.Header.Get("X-TC-Region"))
		}
		_, _ = fmt.Fprint(w, `{"Response":{"AccountId":"1300000001"}}`)
	}))
	defer srv.Close()
	cfg := Config{Endpoint: srv.URL, Credentials: CredentialsConfig{Provider: providerStatic, SecretID: "AKID", SecretKey: secret.New("k3y"), STSEndpoint: srv.URL}}.WithDefaults()
	p, err := NewProvider(cfg, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := New(cfg, riskProcess(), Options{Credentials: p, Limits: NewLimits()})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if account, err := c.AccountID(t.Context()); err != nil || account != "1300000001" || calls != 2 {
		t.Errorf("account %q after %d calls, %v", account, calls, err)
	}
}
