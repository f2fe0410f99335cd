package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"go.yaml.in/yaml/v3"

	"github.com/cwprelay/cwprelay/cwp/emulator"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

var update = flag.Bool("update", false, "write the pages anew") //nolint:gochecknoglobals // a flag of the tests

// metricsOf are what a running daemon exports.
func metricsOf(t *testing.T) (text string, families map[string]*dto.MetricFamily) {
	t.Helper()
	s := newStage(t, emulator.Config{Events: 120, Rate: 5})
	conf, err := os.ReadFile(s.config)
	if err != nil {
		t.Fatal(err)
	}
	s.write(strings.Replace(string(conf), `listen: "off"`, `listen: "127.0.0.1:0"`, 1))
	d := s.start("run", "-c", s.config)
	address := ""
	s.until("listening", d, func() bool {
		m := regexp.MustCompile(`http://127\.0\.0\.1:\d+`).FindString(d.stderr.String())
		address = m
		return m != ""
	})
	get := func(path string) (int, string) {
		resp, err := http.Get(address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	s.until("ready", d, func() bool { code, _ := get("/readyz"); return code == http.StatusOK && s.hec.Distinct() > 0 })
	_, text = get("/metrics")
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err = parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	return text, families
}

// labelsOf are the names of a metric's labels.
func labelsOf(f *dto.MetricFamily) []string {
	var names []string
	for _, m := range f.GetMetric() {
		for _, l := range m.GetLabel() {
			if !slices.Contains(names, l.GetName()) {
				names = append(names, l.GetName())
			}
		}
	}
	slices.Sort(names)
	return names
}

// The page lists exactly what is exported: names are a promise to whoever
// alerts on them.
func TestMetricsPage(t *testing.T) {
	_, families := metricsOf(t)
	var table strings.Builder
	table.WriteString("| metric | type | labels | meaning |\n| --- | --- | --- | --- |\n")
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range families {
			if strings.HasPrefix(name, "cwprelay_") && !yield(name) {
				return
			}
		}
	}) {
		f := families[name]
		labels := "–"
		if l := labelsOf(f); len(l) > 0 {
			labels = "`" + strings.Join(l, "`, `") + "`"
		}
		fmt.Fprintf(&table, "| `%s` | %s | %s | %s |\n", name, strings.ToLower(f.GetType().String()), labels, f.GetHelp())
		if counter := f.GetType() == dto.MetricType_COUNTER; counter != strings.HasSuffix(name, "_total") {
			t.Errorf("%s: a counter, and nothing else, ends with _total", name)
		}
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if !slices.Contains([]string{"source", "kind", "sink", "verdict", "action", "check", "what", "code", "outcome", "class", "reason", "state", "version"}, l.GetName()) {
					t.Errorf("%s: label %s is not among those whose values are few", name, l.GetName())
				}
			}
		}
	}
	page := filepath.Join("..", "..", "docs", "metrics.md")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	start, end := "<!-- metrics -->\n", "<!-- end of metrics -->"
	before, rest, found := strings.Cut(string(text), start)
	_, after, closed := strings.Cut(rest, end)
	if !found || !closed {
		t.Fatalf("%s lacks its marks", page)
	}
	switch want := before + start + table.String() + end + after; {
	case *update:
		if err := os.WriteFile(page, []byte(want), 0o600); err != nil {
			t.Fatal(err)
		}
	case want != string(text):
		t.Errorf("%s does not list what is exported: go test ./cmd/cwprelay -run MetricsPage -update", page)
	}
	for _, name := range []string{"go_goroutines", "process_cpu_seconds_total"} {
		if families[name] == nil {
			t.Errorf("%s is not exported", name)
		}
	}
	checkQueries(t, families)
}

// expressions are all queries of the rules and the dashboard, by where they
// stand.
func expressions(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	text, err := os.ReadFile(filepath.Join(deploy, "prometheus", "cwprelay.rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			out["alert "+r.Alert] = r.Expr
		}
	}
	text, err = os.ReadFile(filepath.Join(deploy, "grafana", "cwprelay.json"))
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name  string
				Query any
			}
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	for _, p := range board.Panels {
		for i, target := range p.Targets {
			out[fmt.Sprintf("panel %s, query %d", p.Title, i)] = target.Expr
		}
	}
	if len(out) < 20 {
		t.Fatalf("only %d expressions found", len(out))
	}
	return out
}

const deploy = "../../deploy"

// checkQueries looks for each metric and label of the rules and the dashboard
// among those that are exported. promtool, in the tests with real programs,
// checks the expressions themselves.
func checkQueries(t *testing.T, families map[string]*dto.MetricFamily) {
	t.Helper()
	selector := regexp.MustCompile(`\b((?:cwprelay|process|go)_[a-z0-9_]+)(?:\{([^}]*)\})?`)
	grouping := regexp.MustCompile(`\b(?:by|without|on|ignoring) *\(([^)]*)\)`)
	matcher := regexp.MustCompile(`([a-z_]+) *(?:=~|!~|!=|=)`)
	for where, expr := range expressions(t) {
		known := []string{"instance", "job", "le"}
		found := selector.FindAllStringSubmatch(expr, -1)
		if len(found) == 0 && !strings.Contains(expr, "up{") {
			t.Errorf("%s: no metric in %s", where, expr)
		}
		for _, m := range found {
			name := m[1]
			f := families[name]
			for _, suffix := range []string{"_bucket", "_sum", "_count"} {
				if base := strings.TrimSuffix(name, suffix); f == nil && families[base].GetType() == dto.MetricType_HISTOGRAM {
					f = families[base]
				}
			}
			if f == nil {
				t.Errorf("%s: %s is not exported", where, name)
				continue
			}
			labels := labelsOf(f)
			known = append(known, labels...)
			for _, l := range matcher.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(append(labels, "instance", "job", "le"), l[1]) {
					t.Errorf("%s: %s has no label %s", where, name, l[1])
				}
			}
		}
		for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
			for l := range strings.SplitSeq(g[1], ",") {
				if l = strings.TrimSpace(l); l != "" && !slices.Contains(known, l) {
					t.Errorf("%s: nothing in it has the label %s", where, l)
				}
			}
		}
	}
}

// promtool is the judge of metrics, rules and queries.
func TestRealPromtool(t *testing.T) {
	promtool := sinktest.RealProgram(t, "promtool", "the package prometheus")
	run := func(stdin string, args ...string) {
		t.Helper()
		cmd := exec.Command(promtool, args...)
		cmd.Stdin = strings.NewReader(stdin)
		if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(string(out), "cwprelay_") && args[1] == "metrics" {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	text, _ := metricsOf(t)
	run(text, "check", "metrics")
	rules := filepath.Join(deploy, "prometheus", "cwprelay.rules.yaml")
	run("", "check", "rules", rules)
	run("", "test", "rules", filepath.Join(deploy, "prometheus", "cwprelay.rules.test.yaml"))
	run("", "check", "config", "--syntax-only", filepath.Join(deploy, "prometheus", "prometheus.yaml"))

	// The queries of the dashboard, as rules.
	var queries strings.Builder
	queries.WriteString("groups:\n- name: dashboard\n  rules:\n")
	n := 0
	for where, expr := range expressions(t) {
		if strings.HasPrefix(where, "panel") {
			n++
			expr = strings.NewReplacer("$__rate_interval", "5m", "$instance", "x").Replace(expr)
			fmt.Fprintf(&queries, "  - {record: \"dashboard:query%d\", expr: %q}\n", n, expr)
		}
	}
	file := filepath.Join(t.TempDir(), "queries.yaml")
	if err := os.WriteFile(file, []byte(queries.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	run("", "check", "rules", file)
}
