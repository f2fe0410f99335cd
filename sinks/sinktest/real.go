package sinktest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// RealServers is the environment variable that asks for the tests against real
// servers. Where it is "1", a server that is missing fails its test.
const RealServers = "CWPRELAY_REAL_SERVERS"

// RealProgram returns the path of a program that a test against a real server
// needs. Without RealServers the test is skipped; what it would need to run is
// said then, and in the failure when the program is missing: install names the
// package.
func RealProgram(t *testing.T, program, install string) string {
	t.Helper()
	wantReal(t, install)
	for _, dir := range []string{"", "/usr/sbin", "/usr/local/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, program)); err == nil {
			return path
		}
	}
	t.Fatalf("%s is missing: install %s", program, install)
	return ""
}

// RealFolder returns the folder that an environment variable names, where a
// test finds the files of a real server (jars, for example).
func RealFolder(t *testing.T, variable, install string) string {
	t.Helper()
	wantReal(t, install)
	dir := os.Getenv(variable)
	if info, err := os.Stat(dir); dir == "" || err != nil || !info.IsDir() { //nolint:gosec // a test of whoever sets the variable
		t.Fatalf("%s=%q is not a folder: install %s", variable, dir, install)
	}
	return dir
}

func wantReal(t *testing.T, install string) {
	t.Helper()
	if os.Getenv(RealServers) != "1" {
		t.Skipf("to run against the real server, install %s and set %s=1", install, RealServers)
	}
}

// FreeAddress returns an address of this machine on which nobody listens, for a
// real server that is about to.
func FreeAddress(t *testing.T) string {
	t.Helper()
	ln, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }() // whoever wants it listens now
	return ln.Addr().String()
}

// FreePort is the port of a FreeAddress.
func FreePort(t *testing.T) string {
	t.Helper()
	_, port, err := net.SplitHostPort(FreeAddress(t))
	if err != nil {
		t.Fatal(err)
	}
	return port
}
