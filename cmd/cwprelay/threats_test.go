package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/cwprelay/cwprelay/cwp"
)

// TestThreatModelNamesTestsThatExist holds the page to what it says.
func TestThreatModelNamesTestsThatExist(t *testing.T) {
	page, err := os.ReadFile("../../docs/threat-model.md")
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile("`([a-z/]+)/((?:Test|Fuzz)[A-Za-z]+)`").FindAllStringSubmatch(string(page), -1)
	if len(names) < 30 {
		t.Fatalf("%d tests are named: the page is read wrongly", len(names))
	}
	for _, name := range names {
		files, err := filepath.Glob("../../" + name[1] + "/*_test.go")
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "func "+name[2]+"(")
		}) {
			t.Errorf("there is no test %s in %s", name[2], name[1])
		}
	}
	// Each claim, a point of a list, is followed by its tests.
	for claim := range strings.SplitSeq(string(page), "\n- ") {
		if strings.Contains(claim, "not claimed") || strings.HasPrefix(claim, "# ") || strings.Contains(claim, "go.sum") || strings.Contains(claim, "static and reads") {
			continue
		}
		if !strings.Contains(claim, "Test: `") && !strings.Contains(claim, "Tests: `") {
			t.Errorf("a claim without a test: %.100s", claim)
		}
	}
}

// TestPolicyIsWhatIsAsked compares the policy with the actions that cwprelay
// asks for.
func TestPolicyIsWhatIsAsked(t *testing.T) {
	text, err := os.ReadFile("../../deploy/cam-policy.json")
	if err != nil {
		t.Fatal(err)
	}
	var policy struct {
		Statement []struct {
			Effect string
			Action []string
		}
	}
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatal(err)
	}
	want := []string{"sts:GetCallerIdentity"}
	for _, k := range cwp.Kinds() {
		want = append(want, k.Service+":"+k.Action)
	}
	slices.Sort(want)
	if len(policy.Statement) != 1 || policy.Statement[0].Effect != "allow" {
		t.Fatalf("%+v", policy)
	}
	got := slices.Sorted(slices.Values(policy.Statement[0].Action))
	if !slices.Equal(got, want) {
		t.Errorf("the policy allows %v, asked is %v", got, want)
	}
	page, err := os.ReadFile("../../docs/security.md")
	if err != nil || !strings.Contains(string(page), strings.TrimSpace(string(text))) {
		t.Errorf("docs/security.md shows another policy: %v", err)
	}
}
