package cwp_test

import (
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/cwp"
)

// The vendor's limit is the most for the vendor's endpoints only.
func TestMostRequestsPerSecond(t *testing.T) {
	for name, tc := range map[string]struct {
		endpoint string
		rate     float64
		ok       bool
	}{
		"a site":                     {"", 20, true},
		"a site, too many":           {"", 20.5, false},
		"a region":                   {"cwp.ap-singapore.tencentcloudapi.com", 21, false},
		"an own endpoint":            {"http://127.0.0.1:9811", 5000, true},
		"an own endpoint, too many":  {"http://127.0.0.1:9811", 10_001, false},
		"an own endpoint, too few":   {"http://127.0.0.1:9811", 0.01, false},
		"like the vendor's and none": {"http://tencentcloudapi.com.example", 5000, true},
	} {
		t.Run(name, func(t *testing.T) {
			err := cwp.Config{Endpoint: tc.endpoint, RequestsPerSecond: tc.rate}.WithDefaults().Validate()
			if refused := err != nil && strings.Contains(err.Error(), "requests_per_second"); refused == tc.ok {
				t.Errorf("%g requests per second at %q: %v", tc.rate, tc.endpoint, err)
			}
		})
	}
}
