package power_test

import (
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/cwprelay/cwprelay/proof/power"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
)

// driver builds the program whose writes are traced.
func driver(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "drive")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", path, "./drive").CombinedOutput(); err != nil {
		t.Fatalf("build the driver: %v: %s", err, out)
	}
	return path
}

func TestRealPowerLossCostsNothingAcknowledged(t *testing.T) {
	sinktest.RealProgram(t, "strace", "strace")
	r, err := power.Run(t.Context(), power.Options{Seed: 1, Images: 400, Driver: driver(t), Dir: t.TempDir()})
	for _, f := range r.Failures {
		t.Error(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Images < 300 || r.Writes < 500 {
		t.Errorf("too little was tried to prove anything: %+v", r)
	}
	t.Logf("%+v", r)
}

func TestRealDiskErrorsCostNothingAcknowledged(t *testing.T) {
	sinktest.RealProgram(t, "strace", "strace")
	r, err := power.InjectFaults(t.Context(), power.Options{Seed: 1, Driver: driver(t), Dir: t.TempDir()}, 6)
	for _, f := range r.Failures {
		t.Error(f)
	}
	if err != nil {
		t.Fatal(err)
	}
	if r.Runs < 30 || r.Injected < r.Runs || r.Stopped == r.Runs {
		t.Errorf("too little was tried to prove anything: %+v", r)
	}
	t.Logf("%+v", r)
}
