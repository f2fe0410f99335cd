package cwp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestRoleOfTheMachine(t *testing.T) {
	expires := time.Now().Add(time.Hour).Unix()
	mux := http.NewServeMux()
	mux.HandleFunc("/roles/{$}", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, "reader\n") })
	mux.HandleFunc("/roles/reader", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"TmpSecretId":"AKIDtmp","TmpSecretKey":"k","Token":"t","ExpiredTime":%d,"Code":"Success"}`, expires)
	})
	mux.HandleFunc("/roles/empty", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, `{"Code":"Failed"}`) })
	srv := httptest.NewServer(mux)
	defer srv.Close()
	for name, tc := range map[string]struct {
		role, want string // what the error says; empty: it succeeds
	}{
		"role of the machine": {"", ""},
		"named role":          {"reader", ""},
		"role without keys":   {"empty", `no keys for role "empty"`},
		"unknown role":        {"nobody", "answers 404"},
	} {
		t.Run(name, func(t *testing.T) {
			creds, err := cvmRole(t.Context(), srv.URL+"/roles/", tc.role)
			if tc.want != "" {
				e, ok := errors.AsType[*Error](err)
				if !ok || e.Class != ClassCredentials || !strings.Contains(err.Error(), tc.want) {
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
