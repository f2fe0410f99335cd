package syslog_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
	"github.com/cwprelay/cwprelay/sinks"
	"github.com/cwprelay/cwprelay/sinks/sinktest"
	"github.com/cwprelay/cwprelay/sinks/syslog"
)

// parts are what a server made of a message.
type parts struct {
	Host, Program, MsgID, Pri, Msg string
	Cmd, Path, Virus               string // of the structured data; "-" where the server shows it as one text
	Data                           string // the structured data as one text
}

// Tabs are what LEEF is made of; rsyslog shows them as #011 unless told not to.
const rsyslogFields = `
module(load="imptcp")
global(workDirectory="DIR" maxMessageSize="64k" parser.escapeControlCharacterTab="off")
template(name="fields" type="list" option.jsonf="on") {
  property(outname="Host" name="hostname" format="jsonf") property(outname="Program" name="app-name" format="jsonf")
  property(outname="MsgID" name="msgid" format="jsonf") property(outname="Pri" name="pri" format="jsonf")
  property(outname="Msg" name="msg" format="jsonf") property(outname="Data" name="structured-data" format="jsonf")
}
ruleset(name="in" queue.type="Direct") { action(type="omfile" file="DIR/out" template="fields") }
input(type="imptcp" port="PORT" address="127.0.0.1" ruleset="in")
`

const syslogNGFields = `@version: 3.35
options { keep-hostname(yes); log-msg-size(65536); stats-freq(0); };
source s { syslog(ip("127.0.0.1") port(PORT) transport("tcp")); };
destination d { file("DIR/out" template("$(format-json Host=$HOST Program=$PROGRAM MsgID=$MSGID Pri=$PRI Msg=$MSG
  Cmd=${.SDATA.cwp@99999.cmdLine} Path=${.SDATA.cwp@99999.filePath} Virus=${.SDATA.cwp@99999.virusName})\n")); };
log { source(s); destination(d); flags(flow-control); };
`

// What real servers read of a message is what it was made of, hostile records
// included.
func TestRealServersReadEveryField(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *server{
		"rsyslog": func(t *testing.T) *server {
			t.Helper()
			program, modules := rsyslogd(t)
			return startServer(t, rsyslogFields, program, "-n", "-f", "DIR/conf", "-i", "DIR/pid", "-M", modules)
		},
		"syslog-ng": func(t *testing.T) *server {
			t.Helper()
			return startServer(t, syslogNGFields, sinktest.RealProgram(t, "syslog-ng", "syslog-ng-core"),
				"-F", "--no-caps", "-f", "DIR/conf", "-R", "DIR/persist", "-p", "DIR/pid", "-c", "DIR/ctl")
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := start(t)
			cfg := s.config("tcp")
			cfg.Hostname, cfg.EnterpriseNumber, cfg.MaxMessageBytes = "fw-1", 99999, 64000
			var batch []sinks.Message
			var want []parts
			records := []*event.Record{format.Heartbeat{Sink: "siem", Host: "relay-1", Reasons: []string{"sink_halted"}}.Record(time.Unix(1789641070, 0))}
			for _, example := range []string{"01-detected", "02-killed-masked", "03-hostile"} {
				records = append(records, golden(t, example))
			}
			for _, record := range records {
				for _, f := range format.Names() {
					encode, err := format.New(f, format.Config{})
					if err != nil {
						t.Fatal(err)
					}
					m := sinks.Message{Record: record}
					if m.Body, err = encode(nil, m.Record); err != nil {
						t.Fatal(err)
					}
					batch = append(batch, m)
					want = append(want, expected(t, name, cfg, m))
				}
			}
			sink := syslog.New(cfg)
			if _, err := sink.Send(t.Context(), batch); err != nil {
				t.Fatal(err)
			}
			if err := sink.Close(); err != nil {
				t.Fatal(err)
			}
			if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil { // it writes what it has
				t.Fatal(err)
			}
			<-s.over
			text, err := os.ReadFile(filepath.Join(s.dir, "out"))
			if err != nil {
				t.Fatal(err)
			}
			var got []parts
			for line := range strings.Lines(string(text)) {
				var p parts
				if err := json.Unmarshal([]byte(line), &p); err != nil {
					t.Fatalf("%v: %s", err, line)
				}
				got = append(got, p)
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("(-want +got):\n%.4000s", diff)
			}
		})
	}
}

// expected is what a server must make of a message.
func expected(t *testing.T, server string, cfg syslog.Config, m sinks.Message) parts {
	t.Helper()
	whole := parsed(t, syslog.Message(cfg, m)) // by a parser that is not ours either
	p := parts{
		Host: "fw-1", Program: "tencent-cwp", MsgID: format.Of(m.Record).ActionName, Msg: *whole.Message,
		Pri: map[format.Severity]string{format.Informational: "134", format.Medium: "132", format.High: "131"}[format.Of(m.Record).Severity],
	}
	if server == "rsyslog" {
		_, rest, _ := strings.Cut(string(syslog.Message(cfg, m)), " [")
		data, _, _ := strings.Cut(rest, "] "+p.Msg)
		p.Data = "[" + data + "]"
		return p
	}
	data := (*whole.StructuredData)["cwp@99999"]
	p.Cmd, p.Path, p.Virus = data["cmdLine"], data["filePath"], data["virusName"]
	return p
}
