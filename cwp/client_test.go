package cwp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/cwp"
	"github.com/cwprelay/cwprelay/cwp/emulator"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const planted = "pl4nted-secret-key"

func client(t *testing.T, endpoint string, change func(*cwp.Config)) *cwp.Client {
	t.Helper()
	cfg := cwp.Config{Endpoint: endpoint, RequestsPerSecond: 20, Credentials: cwp.CredentialsConfig{
		Provider: "static", SecretID: "AKIDtest", SecretKey: secret.New(planted),
	}}
	if change != nil {
		change(&cfg)
	}
	cfg = cfg.WithDefaults()
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	creds, err := cwp.NewProvider(cfg, os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	c, err := cwp.New(cfg, cwp.KindByName("risk_process"), cwp.Options{Credentials: creds, Limits: cwp.NewLimits(), UserAgent: "test"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func answering(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

func query() cwp.Query { return cwp.Query{Limit: 100} }

// TestCodesHaveTheirClass covers the vendor's list of codes.
func TestCodesHaveTheirClass(t *testing.T) {
	for code, want := range map[string]cwp.Class{
		"RequestLimitExceeded": cwp.ClassRate, "RequestLimitExceeded.UinLimitExceeded": cwp.ClassRate,
		"InternalError": cwp.ClassServer, "InternalError.MainDBFail": cwp.ClassServer, "ResourceUnavailable": cwp.ClassServer, "ResourceInUse.X": cwp.ClassServer,
		"FailedOperation": cwp.ClassVague, "FailedOperation.APIServerFail": cwp.ClassVague, "BrandNewCode": cwp.ClassVague,
		"ResponseSizeLimitExceeded": cwp.ClassAnswerSize, "AuthFailure.SignatureExpire": cwp.ClassClock,
		"AuthFailure": cwp.ClassCredentials, "AuthFailure.TokenFailure": cwp.ClassCredentials, "AuthFailure.SignatureFailure": cwp.ClassCredentials,
		"UnauthorizedOperation": cwp.ClassCredentials, "IpNotInWhitelist": cwp.ClassCredentials,
		"InvalidParameter": cwp.ClassRequest, "InvalidParameter.DateRange": cwp.ClassRequest, "UnknownParameter": cwp.ClassRequest,
		"LimitExceeded": cwp.ClassRequest, "ResourceNotFound.X": cwp.ClassRequest, "InvalidAction": cwp.ClassRequest,
	} {
		t.Run(code, func(t *testing.T) {
			url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = fmt.Fprintf(w, `{"Response":{"Error":{"Code":%q,"Message":"no\nway"},"RequestId":"r-1"}}`, code)
			})
			_, err := client(t, url, nil).List(t.Context(), query())
			e, ok := errors.AsType[*cwp.Error](err)
			if !ok || e.Class != want || e.Code != code || !strings.HasPrefix(e.Message, "no way") || e.RequestID != "r-1" {
				t.Errorf("error %+v, want class %s", e, want)
			}
		})
	}
}

func TestWhatIsNoAnswerIsAnError(t *testing.T) {
	for name, tc := range map[string]struct {
		status int
		body   string
		want   cwp.Class
	}{
		"empty":            {200, "", cwp.ClassNetwork},
		"cut short":        {200, `{"Response":{"TotalCount":1,"List":[{"Ev`, cwp.ClassNetwork},
		"HTML":             {200, "<html>login</html>", cwp.ClassNetwork},
		"no Response":      {200, `{"foo":1}`, cwp.ClassAnswer},
		"no list":          {200, `{"Response":{"TotalCount":1}}`, cwp.ClassAnswer},
		"list is no list":  {200, `{"Response":{"TotalCount":1,"List":{}}}`, cwp.ClassAnswer},
		"bad gateway":      {502, "<html>bad gateway</html>", cwp.ClassServer},
		"API error by 503": {503, `{"Response":{"Error":{"Code":"InternalError","Message":"x"}}}`, cwp.ClassServer},
		"redirect":         {302, "", cwp.ClassNetwork},
		"older shape":      {200, `{"code":4100,"message":"authentication failed","codeDesc":"AuthFailure"}`, cwp.ClassCredentials},
		"too long":         {200, `{"Response":{"List":[],"x":"` + strings.Repeat("x", 70_000) + `"}}`, cwp.ClassAnswerSize},
	} {
		t.Run(name, func(t *testing.T) {
			url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(tc.status)
				_, _ = io.WriteString(w, tc.body)
			})
			_, err := client(t, url, func(c *cwp.Config) { c.MaxBody = 1 << 16 }).List(t.Context(), query())
			e, ok := errors.AsType[*cwp.Error](err)
			if !ok || e.Class != tc.want {
				t.Errorf("error %v (%T), want class %s", err, err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), planted) {
				t.Errorf("the secret is in %v", err)
			}
		})
	}
}

// TestAnswersOfUnknownLengthStay reads answers that do not say how long they
// are: what a page holds is its own, whatever is read after it.
func TestAnswersOfUnknownLengthStay(t *testing.T) {
	n := 0
	url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		n++
		_, _ = fmt.Fprintf(w, `{"Response":{"TotalCount":1,"List":[{"EventId":%d,"CmdLine":%q}`, n, strings.Repeat(fmt.Sprint(n), 5000))
		_ = http.NewResponseController(w).Flush()
		_, _ = io.WriteString(w, `]}}`)
	})
	c := client(t, url, nil)
	var pages []*cwp.Page
	for range 5 {
		page, err := c.List(t.Context(), query())
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, page)
	}
	for i, page := range pages {
		want := fmt.Sprintf(`{"EventId":%d,"CmdLine":%q}`, i+1, strings.Repeat(fmt.Sprint(i+1), 5000))
		if len(page.Items) != 1 || string(page.Items[0].Raw) != want {
			t.Errorf("page %d: %.80s…", i+1, page.Items[0].Raw)
		}
	}
}

// TestSamplesAreReadExactly reads whole answers of the vendor's shapes.
func TestSamplesAreReadExactly(t *testing.T) {
	for name, want := range map[string]string{
		"risk_process.json":           "24/0 25/2 26/4 27/9 9007199254740993/5",
		"risk_process_escaped.json":   "9007199254740993/5",
		"risk_process_list_null.json": "", "risk_process_list_empty.json": "",
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile(filepath.Join("testdata", name))
			if err != nil {
				t.Fatal(err)
			}
			url := answering(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(text) })
			page, err := client(t, url, nil).List(t.Context(), query())
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, item := range page.Items {
				got = append(got, item.ID+"/"+item.Status)
				if !json.Valid(item.Raw) || !strings.Contains(string(text), string(item.Raw)) {
					t.Errorf("the item is not as it was sent: %s", item.Raw)
				}
			}
			if strings.Join(got, " ") != want || !page.HasTotal {
				t.Errorf("items %v, want %s; total %t", got, want, page.HasTotal)
			}
		})
	}
}

func TestOneBadItemNeverFailsItsPage(t *testing.T) {
	url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, `{"Response":{"TotalCount":null,"List":[{"EventId":null,"HandleStatus":null},7,{"EventId":1.5},{"EventId":12345678901234567890,"HandleStatus":"odd"},{"EventId":3,"HandleStatus":0}]}}`)
	})
	page, err := client(t, url, nil).List(t.Context(), query())
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, item := range page.Items {
		id := item.ID
		if item.NoID {
			id = id[:7]
		}
		ids = append(ids, id+"="+item.Status)
	}
	want := "sha256:=null sha256:=null sha256:=null 12345678901234567890=odd 3=0"
	if got := strings.Join(ids, " "); got != want || page.HasTotal {
		t.Errorf("items %s, want %s; total %t", got, want, page.HasTotal)
	}
}

// TestClockIsCorrected asks a server whose clock is an hour ahead.
func TestClockIsCorrected(t *testing.T) {
	server := emulator.New(emulator.Config{Events: 3, SecretID: "AKIDtest", SecretKey: secret.New(planted), ClockSkew: time.Hour})
	srv := httptest.NewServer(server)
	defer srv.Close()
	page, err := client(t, srv.URL, nil).List(t.Context(), query())
	if err != nil || len(page.Items) != 3 {
		t.Fatalf("page %+v, %v", page, err)
	}
	if page.Ahead < 59*time.Minute || page.Ahead > time.Hour {
		t.Errorf("the server is ahead by %s, want an hour", page.Ahead)
	}
}

// TestFileCredentialsAreReadAgain rotates the keys of a running client.
func TestFileCredentialsAreReadAgain(t *testing.T) {
	server := emulator.New(emulator.Config{Events: 1, SecretID: "AKIDone", SecretKey: secret.New("first-key")})
	srv := httptest.NewServer(server)
	defer srv.Close()
	path := filepath.Join(t.TempDir(), "keys")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("secret_id = AKIDone\nsecret_key = first-key\n")
	c := client(t, srv.URL, func(c *cwp.Config) { c.Credentials = cwp.CredentialsConfig{Provider: "file", Path: path} })
	if _, err := c.List(t.Context(), query()); err != nil {
		t.Fatal(err)
	}
	server.SetCredentials("AKIDtwo", "second-key", "tok")
	write(`{"secretId":"AKIDtwo","secretKey":"second-key","token":"tok"}`)
	if _, err := c.List(t.Context(), query()); err != nil {
		t.Errorf("after a rotation: %v", err)
	}
	write("nothing of use")
	if _, err := c.List(t.Context(), query()); err != nil {
		t.Errorf("a useless file must leave the old keys in force: %v", err)
	}
}

func TestMissingCredentialsSayWhatToSet(t *testing.T) {
	t.Setenv("TENCENTCLOUD_SECRET_ID", "")
	c := client(t, "http://127.0.0.1:1", func(c *cwp.Config) { c.Credentials = cwp.CredentialsConfig{} })
	_, err := c.List(t.Context(), query())
	e, ok := errors.AsType[*cwp.Error](err)
	if !ok || e.Class != cwp.ClassCredentials || !strings.Contains(e.Message, "TENCENTCLOUD_SECRET_ID") {
		t.Errorf("error %v", err)
	}
}

// TestAssumedRole asks STS with an external id, and signs with what it gives.
func TestAssumedRole(t *testing.T) {
	server := emulator.New(emulator.Config{Events: 1, SecretID: "AKIDrole", SecretKey: secret.New("role-key"), Token: secret.New("role-token")})
	api := httptest.NewServer(server)
	defer api.Close()
	sts := answering(t, func(w http.ResponseWriter, r *http.Request) {
		var body struct {
			ExternalID string `json:"ExternalId"`
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || body.ExternalID != "ext-1" || r.Header.Get("X-TC-Action") != "AssumeRole" {
			http.Error(w, "no", http.StatusBadRequest)
			return
		}
		_, _ = fmt.Fprintf(w, `{"Response":{"Credentials":{"TmpSecretId":"AKIDrole","TmpSecretKey":"role-key","Token":"role-token"},"ExpiredTime":%d}}`, time.Now().Add(time.Hour).Unix())
	})
	c := client(t, api.URL, func(c *cwp.Config) {
		c.Credentials = cwp.CredentialsConfig{
			Provider: "assume_role", Source: "static", SecretID: "AKIDbase", SecretKey: secret.New(planted),
			RoleARN: "qcs::cam::uin/1:roleName/r", ExternalID: secret.New("ext-1"), STSEndpoint: sts,
		}
	})
	if _, err := c.List(t.Context(), query()); err != nil {
		t.Error(err)
	}
}

// TestBudgetIsNeverPassed counts what arrives in every second over a real
// connection, where a busy machine may note an arrival late. The limit itself is
// tested exactly by TestNoSecondHoldsMoreArrivalsThanTheRate.
func TestBudgetIsNeverPassed(t *testing.T) {
	var arrivals []time.Time
	url := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		arrivals = append(arrivals, time.Now()) // one request at a time
		_, _ = io.WriteString(w, `{"Response":{"TotalCount":0,"List":null}}`)
	})
	c := client(t, url, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2500*time.Millisecond)
	defer cancel()
	for ctx.Err() == nil {
		_, _ = c.List(ctx, query())
	}
	for i := range arrivals {
		n := 0
		for _, later := range arrivals[i:] {
			if later.Sub(arrivals[i]) < 990*time.Millisecond {
				n++
			}
		}
		if n > 25 {
			t.Fatalf("%d requests within a second", n)
		}
	}
	if len(arrivals) < 20 {
		t.Errorf("%d requests in 2.5 s: the budget is not used", len(arrivals))
	}
}

// TestRevisionIsThatOfTheGoldenExamples ties the revision to the published
// examples of the formats.
func TestRevisionIsThatOfTheGoldenExamples(t *testing.T) {
	text, err := os.ReadFile("../format/testdata/01-detected.input.json")
	if err != nil {
		t.Fatal(err)
	}
	const want = "661e868bf6cf0eb1a482d516087e1922b90c0b24d915b9591c45e916e1b495b1"
	if got := cwp.KindByName("risk_process").Revision(text); got != want {
		t.Errorf("revision %s, want %s", got, want)
	}
}
