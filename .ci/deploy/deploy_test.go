// Package deploy judges the files in deploy/ by the parsers of those who read
// them: Helm, the Kubernetes and Prometheus operator types, Compose.
package deploy

import (
	"bytes"
	"flag"
	"io"
	"log"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	monitoring "github.com/prometheus-operator/prometheus-operator/pkg/apis/monitoring/v1"
	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	apps "k8s.io/api/apps/v1"
	core "k8s.io/api/core/v1"
	networking "k8s.io/api/networking/v1"
	policy "k8s.io/api/policy/v1"
	"sigs.k8s.io/yaml"
)

// TestMain silences Helm, which names every symbolic link that it follows.
func TestMain(m *testing.M) {
	log.SetOutput(io.Discard)
	os.Exit(m.Run())
}

const (
	chartDir = "../../deploy/helm/cwprelay"
	baseFile = "../../deploy/kustomize/base/cwprelay.yaml"
)

var update = flag.Bool("update", false, "write the kustomize base anew")

// sets are values to render with, by name.
func sets() map[string]string {
	return map[string]string{
		"defaults": "",
		"everything": `
existingSecret: cwprelay
console: {tokenKey: console-token}
serviceMonitor: {enabled: true, labels: {release: prometheus}}
prometheusRule: {enabled: true, labels: {release: prometheus}}
dashboard: {enabled: true}
networkPolicy:
  enabled: true
  from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: monitoring}}}]
podDisruptionBudget: {enabled: true}
persistence: {size: 20Gi, storageClass: fast, accessModes: [ReadWriteOncePod], annotations: {a: b}}
serviceAccount: {annotations: {tke.cloud.tencent.com/role-arn: "qcs::cam::uin/1:roleName/r"}}
image: {digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
imagePullSecrets: [{name: registry}]
extraEnv: [{name: HTTPS_PROXY, value: "http://proxy:3128"}]
extraVolumes: [{name: ca, configMap: {name: ca}}]
extraVolumeMounts: [{name: ca, mountPath: /etc/ca}]
podAnnotations: {a: "b"}
podLabels: {c: "d"}
nodeSelector: {kubernetes.io/arch: arm64}
tolerations: [{key: siem, operator: Exists}]
affinity: {nodeAffinity: {}}
priorityClassName: high
config:
  sources: {prod: {site: cn, credentials: {provider: tke_oidc}}}
  sinks: {soc: {splunk_hec: {url: "https://splunk:8088", token: "${SPLUNK_HEC_TOKEN}"}}}
  log: {level: debug}
`,
		"stopped, under another name": "replicas: 0\nfullnameOverride: other\nserviceAccount: {create: false}\nexistingSecret: s\n",
	}
}

func render(t *testing.T, values string) (map[string]string, error) {
	t.Helper()
	c, err := loader.Load(chartDir)
	if err != nil {
		t.Fatal(err)
	}
	vals, err := chartutil.ReadValues([]byte(values))
	if err != nil {
		t.Fatal(err)
	}
	release := chartutil.ReleaseOptions{Name: "cwprelay", Namespace: "siem", IsInstall: true}
	all, err := chartutil.ToRenderValues(c, vals, release, chartutil.DefaultCapabilities) // checks the schema
	if err != nil {
		return nil, err
	}
	return engine.Render(c, all)
}

// objects decodes what was rendered, each by the type of its kind; an unknown or
// repeated field is an error.
func objects(t *testing.T, rendered map[string]string) map[string]any {
	t.Helper()
	out := map[string]any{}
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		text := strings.TrimSpace(rendered[name])
		if text == "" || strings.HasSuffix(name, "NOTES.txt") {
			continue
		}
		var head struct{ APIVersion, Kind string }
		if err := yaml.Unmarshal([]byte(text), &head); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		into, ok := map[string]any{
			"v1/ConfigMap": &core.ConfigMap{}, "v1/Service": &core.Service{}, "v1/ServiceAccount": &core.ServiceAccount{}, "v1/Pod": &core.Pod{},
			"apps/v1/StatefulSet": &apps.StatefulSet{}, "networking.k8s.io/v1/NetworkPolicy": &networking.NetworkPolicy{},
			"policy/v1/PodDisruptionBudget":           &policy.PodDisruptionBudget{},
			"monitoring.coreos.com/v1/ServiceMonitor": &monitoring.ServiceMonitor{},
			"monitoring.coreos.com/v1/PrometheusRule": &monitoring.PrometheusRule{},
		}[head.APIVersion+"/"+head.Kind]
		if !ok {
			t.Fatalf("%s: no type for %s %s", name, head.APIVersion, head.Kind)
		}
		if err := yaml.UnmarshalStrict([]byte(text), into); err != nil {
			t.Fatalf("%s: %v\n%s", name, err, text)
		}
		out[filepath.Base(name)] = into
	}
	return out
}

func TestChartPassesLint(t *testing.T) {
	for name, values := range sets() {
		vals, err := chartutil.ReadValues([]byte(values))
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range lint.All(chartDir, vals, "siem", true).Messages {
			if m.Severity > support.InfoSev {
				t.Errorf("%s: %s", name, m)
			}
		}
	}
}

func TestRenderedObjectsAreOfTheirTypes(t *testing.T) {
	for name, values := range sets() {
		rendered, err := render(t, values)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got := objects(t, rendered)
		set := got["statefulset.yaml"].(*apps.StatefulSet)
		pod := set.Spec.Template.Spec
		c := pod.Containers[0]
		if !*pod.SecurityContext.RunAsNonRoot || !*c.SecurityContext.ReadOnlyRootFilesystem || *c.SecurityContext.AllowPrivilegeEscalation || len(c.SecurityContext.Capabilities.Add) > 0 || *pod.AutomountServiceAccountToken {
			t.Errorf("%s: %+v %+v", name, pod.SecurityContext, c.SecurityContext)
		}
		if set.Spec.ServiceName != got["service.yaml"].(*core.Service).Name || len(set.Spec.VolumeClaimTemplates) != 1 {
			t.Errorf("%s: %+v", name, set.Spec)
		}
		mounted := map[string]bool{"state": true}
		for _, v := range pod.Volumes {
			mounted[v.Name] = true
		}
		for _, m := range c.VolumeMounts {
			if !mounted[m.Name] {
				t.Errorf("%s: nothing to mount as %s", name, m.Name)
			}
		}
		if name == "everything" && len(got) != 10 {
			t.Errorf("%d objects: %v", len(got), slices.Sorted(maps.Keys(got)))
		}
	}
}

// The rules that the operator gets are those of deploy/prometheus, and find the
// job.
func TestRulesAreThoseOfPrometheus(t *testing.T) {
	rendered, err := render(t, sets()["everything"])
	if err != nil {
		t.Fatal(err)
	}
	got := objects(t, rendered)
	text, err := os.ReadFile("../../deploy/prometheus/cwprelay.rules.yaml")
	if err != nil {
		t.Fatal(err)
	}
	var want monitoring.PrometheusRuleSpec
	if err := yaml.UnmarshalStrict(text, &want); err != nil {
		t.Fatal(err)
	}
	rules := got["prometheusrule.yaml"].(*monitoring.PrometheusRule).Spec
	a, _ := yaml.Marshal(want)
	b, _ := yaml.Marshal(rules)
	if !bytes.Equal(a, b) || len(rules.Groups) == 0 || len(rules.Groups[0].Rules) < 5 {
		t.Errorf("other rules:\n%s", b)
	}
	service, monitor := got["service.yaml"].(*core.Service), got["servicemonitor.yaml"].(*monitoring.ServiceMonitor)
	if service.Labels[monitor.Spec.JobLabel] != "cwprelay" {
		t.Errorf("the job is called %q, the rules look for cwprelay", service.Labels[monitor.Spec.JobLabel])
	}
}

// A change of the configuration, and nothing else, makes another pod.
func TestConfigurationChangesThePod(t *testing.T) {
	sum := func(values string) string {
		rendered, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		return objects(t, rendered)["statefulset.yaml"].(*apps.StatefulSet).Spec.Template.Annotations["checksum/config"]
	}
	first := sum("")
	if first == "" || first != sum("resources: {}\n") || first == sum("config: {log: {level: debug}}\n") {
		t.Error("the checksum does not follow the configuration")
	}
}

func TestMistakesInValuesAreRefused(t *testing.T) {
	for values, want := range map[string]string{
		"replicas: 2":            "replicas",
		"confg: {}":              "confg",
		"console: {tokenKey: t}": "existingSecret",
		"existingSecret: s\nserviceMonitor: {enabled: true}": "tokenKey",
		"image: {digest: sha256:1}":                          "digest",
		"persistence: {accessModes: [ReadWriteMany]}":        "accessModes",
		"config: {sinks: null}":                              "sinks",
	} {
		if _, err := render(t, values); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want something about %s", values, err, want)
		}
	}
}

// The kustomize base is what the chart makes of its defaults, without what is
// Helm's.
func TestKustomizeBaseIsCurrent(t *testing.T) {
	rendered, err := render(t, "existingSecret: cwprelay\n")
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	out.WriteString("# Made of deploy/helm/cwprelay: cd .ci/deploy && go test -run Kustomize -update\n")
	helms := regexp.MustCompile(`(?m)^ *(app.kubernetes.io/managed-by|helm.sh/chart): .*\n`)
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if text := strings.TrimSpace(rendered[name]); text != "" && !strings.Contains(name, "tests/") && !strings.HasSuffix(name, "NOTES.txt") {
			out.WriteString("---\n" + helms.ReplaceAllString(text, "") + "\n")
		}
	}
	if *update {
		if err := os.WriteFile(baseFile, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	was, err := os.ReadFile(baseFile)
	if err != nil || string(was) != out.String() {
		t.Errorf("%v: the base is not current; write it anew with -update", err)
	}
}

// The configuration that the chart writes is one that cwprelay takes.
func TestConfigurationsAreWritten(t *testing.T) {
	dir := os.Getenv("CWPRELAY_RENDERED")
	if dir == "" {
		t.Skip("CWPRELAY_RENDERED names a directory for them")
	}
	for name, values := range sets() {
		rendered, err := render(t, values)
		if err != nil {
			t.Fatal(err)
		}
		text := objects(t, rendered)["configmap.yaml"].(*core.ConfigMap).Data["cwprelay.yaml"]
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// Compose takes the file, every file that it mounts is there, and profiles take
// parts away.
func TestComposeFileIsTaken(t *testing.T) {
	want := map[string]int{"": 2, "kafka": 4, "search": 6, "metrics": 4, "kafka,search,metrics": 10}
	for profiles, services := range want {
		opts, err := cli.NewProjectOptions([]string{"../../deploy/compose/compose.yaml"},
			cli.WithWorkingDirectory("../../deploy/compose"), cli.WithProfiles(strings.FieldsFunc(profiles, func(r rune) bool { return r == ',' })), cli.WithName("cwprelay"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := opts.LoadProject(t.Context())
		if err != nil {
			t.Fatalf("profiles %q: %v", profiles, err)
		}
		if len(p.Services) != services {
			t.Errorf("profiles %q: services %v, want %d", profiles, p.ServiceNames(), services)
		}
		for name, s := range p.Services {
			if s.Build == nil && !regexp.MustCompile(`:v?[0-9]+(\.[0-9]+)+$`).MatchString(s.Image) {
				t.Errorf("service %s: the version of %s is not pinned", name, s.Image)
			}
			for _, v := range s.Volumes {
				if _, err := os.Stat(v.Source); v.Type == types.VolumeTypeBind && err != nil {
					t.Errorf("service %s: %v", name, err)
				}
			}
			for _, port := range s.Ports {
				if port.HostIP != "127.0.0.1" {
					t.Errorf("service %s: port %s is open to others", name, port.Published)
				}
			}
		}
	}
	env, err := os.ReadFile("../../deploy/compose/.env")
	if err != nil || string(env) != "COMPOSE_PROFILES=kafka,search,metrics\n" {
		t.Errorf("%s, %v", env, err)
	}
}
