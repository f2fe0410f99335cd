package elastictest_test

import (
	"bytes"
	"compress/gzip"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/cwprelay/cwprelay/sinks/elastic/elastictest"
)

func bulk(s *elastictest.Server, body []byte, encoding string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(http.MethodPost, "/cwp/_bulk?filter_path=errors", bytes.NewReader(body))
	if encoding != "" {
		r.Header.Set("Content-Encoding", encoding)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

func TestItemsAreAnsweredOneByOne(t *testing.T) {
	var told []string
	s := elastictest.New(elastictest.Config{
		Refuse: func(id string, _ []byte) (int, string) {
			if id == "b" {
				return http.StatusTooManyRequests, `{"type":"q"}`
			}
			return 0, ""
		},
		Take: func(id string, document []byte, created bool) {
			if created {
				told = append(told, id+string(document))
			}
		},
	})
	body := []byte("{\"create\":{\"_id\":\"a\"}}\n{}\n{\"create\":{\"_id\":\"b\"}}\n{}\n")
	var packed bytes.Buffer
	gz := gzip.NewWriter(&packed)
	_, _ = gz.Write(body)
	_ = gz.Close()
	for i, w := range []*httptest.ResponseRecorder{bulk(s, body, ""), bulk(s, packed.Bytes(), "gzip")} {
		want := []string{
			`{"errors":true,"items":[{"create":{"status":201}},{"create":{"status":429,"error":{"type":"q"}}}]}`,
			`{"errors":true,"items":[{"create":{"status":409,"error":{"type":"version_conflict_engine_exception","reason":"document already exists"}}},{"create":{"status":429,"error":{"type":"q"}}}]}`,
		}[i]
		if w.Code != http.StatusOK || w.Body.String() != want {
			t.Errorf("request %d: %d %s", i, w.Code, w.Body)
		}
	}
	if created, again := s.Created(); created != 1 || again != 1 || !slices.Equal(told, []string{"a{}"}) {
		t.Errorf("%d created, %d again, told %v", created, again, told)
	}
}

func TestBodiesOfAnotherFormAreRefusedWhole(t *testing.T) {
	s := elastictest.New(elastictest.Config{})
	for name, body := range map[string]string{
		"no newline":  "{\"create\":{\"_id\":\"a\"}}\n{}",
		"no document": "{\"create\":{\"_id\":\"a\"}}\n",
		"no create":   "{\"index\":{\"_id\":\"a\"}}\n{}\n",
	} {
		if w := bulk(s, []byte(body), ""); w.Code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if created, _ := s.Created(); created > 0 || len(s.Violations()) != 3 {
		t.Errorf("%d created, violations %v", created, s.Violations())
	}
}
