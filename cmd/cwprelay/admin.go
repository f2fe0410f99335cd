package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/cwprelay/cwprelay/config"
	"github.com/cwprelay/cwprelay/console"
	"github.com/cwprelay/cwprelay/delivery"
	"github.com/cwprelay/cwprelay/journal"
	"github.com/cwprelay/cwprelay/poller"
)

// socketName is the admin socket in the state directory. Only the owner of the
// directory can reach it.
const socketName = "admin.sock"

// maxSocketPath is the longest path of a socket that every system takes.
const maxSocketPath = 100

// listenAdmin opens the admin socket; a socket that a former process left is
// replaced. The journal's lock says that there is no other process.
func (a *app) listenAdmin(ctx context.Context) (net.Listener, error) {
	path := filepath.Join(a.cfg().State.Dir, socketName)
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("the path %s is too long for a socket: use a shorter state.dir", path)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return ln, os.Chmod(path, 0o600)
}

// admin answers the operator's verbs.
func (a *app) admin() *console.Admin {
	return console.NewAdmin(console.AdminOptions{
		Options: a.consoleOptions(), Store: a.journal, Show: a.show, Check: a.journal.Check, Export: a.journal.Export, Level: func(name string) error { return a.logs.level.UnmarshalText([]byte(name)) },
		Sink: func(name string) console.Steered {
			if s, ok := a.now.Load().find("sink " + name).(*sinkPart); ok {
				return s.worker
			}
			return nil
		},
	})
}

// An operator asks what answers the verbs: the daemon over its socket, or,
// where none runs, the journal in this process.
type operator struct {
	client http.Client
	close  func() error
	file   *journal.File // nil: a daemon has it
}

// answers reports whether a daemon runs on a state directory.
func answers(ctx context.Context, dir string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, socketName))
	if err != nil {
		return false
	}
	_ = conn.Close()
	return true
}

// newOperator finds out which; otherwise is called where no daemon runs.
func newOperator(ctx context.Context, cfg *config.Config, otherwise func(*config.Config) (*operator, error)) (*operator, error) {
	path := filepath.Join(cfg.State.Dir, socketName)
	dial := func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "unix", path) }
	conn, err := dial(ctx)
	if err == nil {
		err = conn.Close()
	}
	switch {
	case err == nil:
		transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
		return &operator{client: http.Client{Transport: transport}, close: func() error { transport.CloseIdleConnections(); return nil }}, nil
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s: permission denied: run this as the user that cwprelay runs as", path)
	case !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("ask the running cwprelay: %w", err)
	}
	if !journal.IsThere(cfg.State.Dir) { // looking must not make one
		return nil, noJournal(cfg)
	}
	return otherwise(cfg)
}

// offline answers from the journal of a directory that no daemon runs on.
func offline(cfg *config.Config) (*operator, error) {
	file, err := journal.Open(cfg.State, journal.Options{Sinks: sinkRules(cfg)})
	if err != nil {
		return nil, err
	}
	admin := console.NewAdmin(console.AdminOptions{Store: file, Check: file.Check, Export: file.Export, Options: console.Options{
		Version: version, Journal: file.Status, Metrics: prometheus.NewRegistry(),
		Sources: func() []poller.Status { return nil }, Sinks: func() []delivery.Status { return nil },
	}})
	return &operator{client: inProcessClient(admin), close: file.Close, file: file}, nil
}

func inProcessClient(admin *console.Admin) http.Client {
	return http.Client{Transport: inProcess{admin}}
}

// inProcess answers requests by a handler of this process.
type inProcess struct{ handler http.Handler }

// RoundTrip implements http.RoundTripper.
func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if r.Body == nil {
		r.Body = http.NoBody
	}
	w := &recorder{header: http.Header{}, status: http.StatusOK}
	p.handler.ServeHTTP(w, r)
	return &http.Response{StatusCode: w.status, Header: w.header, Body: io.NopCloser(&w.body), Request: r}, nil
}

// A recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *recorder) Header() http.Header         { return w.header }
func (w *recorder) WriteHeader(status int)      { w.status = status }
func (w *recorder) Write(b []byte) (int, error) { return w.body.Write(b) }

// get asks a question.
func (o *operator) get(ctx context.Context, path string, query url.Values, answer any) error {
	return o.do(ctx, http.MethodGet, path+"?"+query.Encode(), nil, answer)
}

// post asks for something to be done.
func (o *operator) post(ctx context.Context, path string, question, answer any) error {
	body, err := json.Marshal(question)
	if err != nil {
		return err
	}
	return o.do(ctx, http.MethodPost, path, body, answer)
}

// export writes a snapshot of the journal to w.
func (o *operator) export(ctx context.Context, w io.Writer) error {
	if o.file != nil {
		return o.file.Export(ctx, w)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://cwprelay/v1/state/export", http.NoBody)
	if err != nil {
		return err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running cwprelay: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("the running cwprelay answered %d", resp.StatusCode)
	} else if _, err = io.Copy(w, resp.Body); err != nil {
		err = fmt.Errorf("the export is not whole: %w", err)
	}
	return errors.Join(err, resp.Body.Close())
}

func (o *operator) do(ctx context.Context, method, path string, body []byte, answer any) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://cwprelay"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return fmt.Errorf("ask the running cwprelay: %w", err)
	}
	text, err := io.ReadAll(resp.Body)
	if err = errors.Join(err, resp.Body.Close()); err != nil {
		return fmt.Errorf("ask the running cwprelay: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		var refused console.AdminError
		if json.Unmarshal(text, &refused) != nil || refused.Message == "" {
			return fmt.Errorf("the running cwprelay answered %d", resp.StatusCode)
		}
		if refused.Status == http.StatusBadRequest || refused.Status == http.StatusNotFound {
			return exit(exitUsage, &refused)
		}
		return &refused
	}
	return json.Unmarshal(text, answer)
}
