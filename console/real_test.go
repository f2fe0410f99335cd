package console_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// In a real browser the page brings itself up to date and runs nothing that
// an event says.
func TestRealBrowser(t *testing.T) {
	chromium := sinktest.RealProgram(t, "chromium", "the package chromium")
	var shown atomic.Int64
	hostile := `<img src=x onerror="document.title='owned'"><script>document.title='owned'</script>`
	s := console.New(console.Options{
		Version: "1", Metrics: prometheus.NewRegistry(), ShowCommands: true,
		Sources: func() []poller.Status {
			return []poller.Status{{Source: "prod", Kind: "risk_process", Error: hostile, ErrorClass: "server"}}
		},
		Sinks: func() []delivery.Status {
			return []delivery.Status{{Name: "soc", LastAnswer: hostile, State: delivery.Halted, HaltReason: hostile}}
		},
		Journal: func(context.Context) (journal.Status, error) { return journal.Status{Last: 1}, nil },
		Records: func(context.Context, uint64, int) ([]*event.Record, error) {
			return []*event.Record{{Seq: 1, ObservedAt: time.Now()}}, nil
		},
		Describe: func(*event.Record) console.Description {
			return console.Description{Severity: "high", What: fmt.Sprintf("look-%d", shown.Add(1)), Threat: hostile, Host: strings.Repeat("very-long-host-name.", 20), Command: hostile + strings.Repeat("x", 2000)}
		},
	})
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	browse := func(args ...string) string {
		t.Helper()
		args = append([]string{
			"--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
			"--disable-sync", "--user-data-dir=" + t.TempDir(), "--virtual-time-budget=12000",
		}, args...)
		out, err := exec.CommandContext(ctx, chromium, args...).Output()
		if err != nil {
			t.Fatalf("chromium: %v", err)
		}
		return string(out)
	}
	for _, width := range []int{1200, 500} {
		before := shown.Load()
		page := browse(fmt.Sprintf("--window-size=%d,900", width), "--dump-dom", web.URL+"/")
		if strings.Contains(page, "<title>owned") || !strings.Contains(page, "<title>NOT READY: cwprelay</title>") {
			t.Errorf("width %d: an event changed the page:\n%.2000s", width, page)
		}
		if strings.Contains(page, fmt.Sprintf("look-%d<", before+1)) || !strings.Contains(page, "look-") || shown.Load() < before+2 {
			t.Errorf("width %d: the page did not bring itself up to date: %d looks", width, shown.Load()-before)
		}
		if strings.Contains(page, `id="lost"`) {
			t.Errorf("width %d: the page's own request was refused", width)
		}
	}
}
