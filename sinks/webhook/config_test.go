package webhook_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/config/secret"
	"github.com/cwprelay/cwprelay/sinks/internal/httpx"
	"github.com/cwprelay/cwprelay/sinks/webhook"
)

func headers(pairs ...string) map[string]secret.String {
	all := map[string]secret.String{}
	for i := 0; i < len(pairs); i += 2 {
		all[pairs[i]] = secret.New(pairs[i+1])
	}
	return all
}

func TestMistakes(t *testing.T) {
	ok := webhook.Config{URL: secret.New("https://x.example/hook")}
	with := func(change func(*webhook.Config)) webhook.Config {
		c := ok
		change(&c)
		return c
	}
	for name, x := range map[string]struct {
		cfg  webhook.Config
		want []string
	}{
		"least":   {ok, nil},
		"nothing": {webhook.Config{}, []string{"url"}},
		"all": {with(func(c *webhook.Config) {
			c.Method, c.Headers, c.Secrets = http.MethodPut, headers("X-A", "b"), []secret.String{secret.New(oldSecret), secret.New(newSecret)}
			c.Batch, c.Compression, c.Template, c.Values = webhook.BatchNDJSON, webhook.CompressionGzip, `{"a":{{json (value "a")}}}`, headers("a", "b")
			c.OAuth2 = webhook.OAuth2{TokenURL: "https://id.example/token", ClientID: "c", ClientSecret: secret.New("s")}
			c.TLS = httpx.TLS{CertFile: "c", KeyFile: "k"}
		}), nil},
		"every": {webhook.Config{
			URL: secret.New("ftp://x"), Method: "GET", Headers: headers("Host", "a", "a b", "c"),
			Secrets: []secret.String{secret.New("abc"), secret.New("whsec_AAAA")}, Token: secret.New("a"), Username: "u",
			OAuth2: webhook.OAuth2{TokenURL: "x"}, Batch: "all", MaxBatchRecords: -1, MaxBatchBytes: 1, Compression: "zip",
			Template: "{{", Proxy: secret.New("x"), TLS: httpx.TLS{CertFile: "c"},
		}, []string{
			"url", "method", "headers.Host", "headers.a b", "secrets", "secrets", "token", "username", "oauth2.token_url", "oauth2.client_id",
			"oauth2.client_secret", "batch", "max_batch_records", "max_batch_bytes", "compression", "template", "proxy", "tls.key_file",
		}},
		"no media type":     {with(func(c *webhook.Config) { c.ContentType = "a\nb" }), []string{"content_type"}},
		"useless values":    {with(func(c *webhook.Config) { c.Values = headers("a", "b") }), []string{"values"}},
		"header twice":      {with(func(c *webhook.Config) { c.Headers = headers("X-A", "1", "x-a", "2") }), []string{"headers.x-a"}},
		"header break":      {with(func(c *webhook.Config) { c.Headers = headers("X-A", "1\r\nX-B: 2") }), []string{"headers.X-A"}},
		"two authorization": {with(func(c *webhook.Config) { c.Headers, c.Token = headers("authorization", "GenieKey x"), secret.New("t") }), []string{"headers.authorization"}},
		"one authorization": {with(func(c *webhook.Config) { c.Headers = headers("Authorization", "GenieKey x") }), nil},
		"token break":       {with(func(c *webhook.Config) { c.Token = secret.New("a\nb") }), []string{"token"}},
		"user with colon":   {with(func(c *webhook.Config) { c.Username, c.Password = "a:b", secret.New("p") }), []string{"username"}},
		"user in address":   {webhook.Config{URL: secret.New("https://u:p@x.example/")}, []string{"url"}},
		"fragment":          {webhook.Config{URL: secret.New("https://x.example/#a")}, []string{"url"}},
		"key of 23": {with(func(c *webhook.Config) {
			c.Secrets = []secret.String{secret.New("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")}
		}), []string{"secrets"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			if err := x.cfg.Validate(); err != nil {
				for line := range strings.SplitSeq(err.Error(), "\n") {
					key, _, _ := strings.Cut(line, ": ")
					key, _, _ = strings.Cut(key, ": number")
					got = append(got, key)
				}
			}
			if diff := cmp.Diff(x.want, got); diff != "" {
				t.Errorf("keys of %v (-want +got):\n%s", x.cfg.Validate(), diff)
			}
		})
	}
}

// No header that belongs to the connection or to the signature can be set, and
// no mistake repeats a secret.
func TestRefusedHeaders(t *testing.T) {
	for _, name := range []string{
		"connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Proxy-Connection", "TE", "Trailer", "Transfer-Encoding", "Upgrade",
		"Host", "Content-Length", "Content-Type", "Content-Encoding", "Expect", "webhook-id", "Webhook-Timestamp", "WEBHOOK-SIGNATURE", "", "a:b", "ä",
	} {
		err := webhook.Config{URL: secret.New("https://x.example/"), Headers: headers(name, "s3cr3t")}.Validate()
		if err == nil || !strings.HasPrefix(err.Error(), "headers."+name+": ") || strings.Contains(err.Error(), "s3cr3t") {
			t.Errorf("%q: %v", name, err)
		}
	}
}

// A template is tried with a sample event before anything is sent.
func TestMistakesOfTemplates(t *testing.T) {
	for name, x := range map[string]struct {
		template, contentType, says string // says is empty for none
	}{
		"plain":                  {`{"a":{{json .message}},"b":{{json uid}},"c":{{.event.severity}},"d":"{{uid}} {{action}} {{kind}} {{status}}"}`, "", ""},
		"another format":         {`{"a":{{json .signature}},"b":{{json (index .vendor_tags 0)}}}`, "", ""},
		"the vendor's":           {`{"a":{{json .MachineExtraInfo.InstanceID}}}`, "", ""},
		"not JSON":               {`{"a":{{.message}}}`, "", "{{json …}}"},
		"JSON, if nobody quotes": {`{"a":"{{.message}}"}`, "", "{{json …}}"},
		"JSON of a part":         {`{"a":"{{get "process.command_line"}}"}`, "application/x+json", "{{json …}}"},
		"text":                   {`{{.message}}`, "text/plain", ""},
		"no such value":          {`{"a":{{json (value "a")}}}`, "", "it cannot be executed"},
		"no such function":       {`{"a":{{jsn .message}}}`, "", "jsn"},
		"of nothing":             {`{"a":{{json .not.there}}}`, "", ""},
		"get of nothing":         {`{"a":{{json (get "not.there")}}}`, "", ""},
		"of no format":           {`{"a":{{json (index .not 0)}}}`, "", "format ecs: it cannot be executed"},
		"open":                   {`{"a":{{if closed}}1}`, "", "unexpected EOF"},
	} {
		t.Run(name, func(t *testing.T) {
			err := webhook.Config{URL: secret.New("https://x.example/"), Template: x.template, ContentType: x.contentType}.Validate()
			switch {
			case x.says == "" && err != nil:
				t.Error(err)
			case x.says != "" && (err == nil || !strings.HasPrefix(err.Error(), "template: ") || !strings.Contains(err.Error(), x.says)):
				t.Errorf("%v, want one that says %q", err, x.says)
			}
		})
	}
}
