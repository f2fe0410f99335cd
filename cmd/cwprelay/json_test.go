package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/cwprelay/cwprelay/cwp/emulator"
)

// Whoever scripts cwprelay gets JSON, and nothing beside it, from every verb.
func TestEveryVerbSpeaksJSON(t *testing.T) {
	t.Parallel()
	s := newStage(t, emulator.Config{Events: 30})
	says := func(want string, args ...string) {
		t.Helper()
		cmd := s.command(append(args, "-o", "json")...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Errorf("%v: %v: %s", args, err, &stderr)
			return
		}
		dec := json.NewDecoder(bytes.NewReader(out))
		for {
			var v any
			switch err := dec.Decode(&v); {
			case errors.Is(err, io.EOF):
				if !strings.Contains(string(out), want) {
					t.Errorf("%v: no %s in %s", args, want, out)
				}
				return
			case err != nil:
				t.Errorf("%v: %v in %.300s", args, err, out)
				return
			}
		}
	}
	with := func(want string, args ...string) { t.Helper(); says(want, append(args, "-c", s.config)...) }

	says(`"version":"`, "version")
	with(`"valid":true`, "check", "--offline")
	with(`"request_id":"`, "check")
	with(`"soc":{`, "config", "print")
	with(`"sinks.soc.splunk_hec.token"`, "config", "explain")
	says(`"$schema"`, "config", "schema")
	says(`"sinks":{`, "config", "example")
	with(`"name":"archive"`, "sinks", "list")
	with(`"accepted":true`, "sinks", "test", "archive")
	if err := os.Remove(filepath.Join(s.dir, "out.jsonl")); err != nil {
		t.Fatal(err)
	}

	d := s.start("run", "-c", s.config)
	s.until("ready, and all delivered", d, func() bool {
		_, err := os.Stat(filepath.Join(s.dir, "state", socketName))
		return err == nil && s.overview().Ready.Ready && s.sink("archive").Cursor > 0 && s.sink("archive").Behind == 0 && s.sink("soc").Behind == 0
	})
	with(`"running":true`, "status")
	with(`"records"`, "sinks", "pause", "archive")
	with(`"records"`, "sinks", "resume", "archive")
	with(`"request_id":"`, "trace", "#1")
	with(`[]`, "deadletter", "list", "soc")
	with(``, "deadletter", "export", "soc")
	with(`"records":0`, "deadletter", "retry", "soc", "--all")
	with(`"records":0`, "deadletter", "drop", "soc", "--all")
	with(`"from":1`, "replay", "--sink", "archive", "--from", "1")
	with(`"agrees":true`, "reconcile")
	with(`"rows":`, "state", "check")
	backup := filepath.Join(s.dir, "backup")
	with(`backup`, "state", "export", backup)
	with(`"records"`, "log-level", "debug")

	if err := errors.Join(d.Process.Signal(syscall.SIGTERM), d.Wait()); err != nil {
		t.Fatal(err)
	}
	with(`"running":false`, "status")
	with(`before`, "state", "compact")
	if err := os.Rename(filepath.Join(s.dir, "state"), filepath.Join(s.dir, "former")); err != nil {
		t.Fatal(err)
	}
	with(`"rows":`, "state", "import", backup)

	// What is wrong is said as JSON too, and by the code.
	s.write("sinks: {soc: {}}\n")
	var found checked
	if code, errs := s.ask(&found, "check"); code != exitConfig || found.Valid || !strings.Contains(found.Mistakes, "soc") {
		t.Errorf("a mistake: %d, %+v, %s", code, found, errs)
	}
}
