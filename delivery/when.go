package delivery

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"

	"github.com/expr-lang/expr"
	"github.com/expr-lang/expr/ast"
	"github.com/expr-lang/expr/file"
	"github.com/expr-lang/expr/vm"
	"go.uber.org/zap"

	"github.com/cwprelay/cwprelay/event"
	"github.com/cwprelay/cwprelay/format"
)

// Bounds on what one condition may cost. It runs for every record.
const (
	conditionLength = 4096  // bytes of its text
	conditionNodes  = 512   // parts of it
	conditionMemory = 10000 // elements that one evaluation may create
	conditionTags   = 100   // of a record's tags, so many are seen
	conditionErrors = 10    // different failures that are logged
)

// A subject is a record as a condition sees it. The tags are the names that
// conditions use; they are documented, so they stay.
type subject struct {
	Severity       int      `expr:"severity"`        // lowered for findings that are trusted or ignored
	ThreatSeverity int      `expr:"threat_severity"` // never lowered
	Open           bool     `expr:"open"`
	Closed         bool     `expr:"closed"`
	Action         string   `expr:"action"` // detected, redetected, status-changed, closed, reopened
	Status         string   `expr:"status"` // pending, processed, …
	Backfill       bool     `expr:"backfill"`
	Replayed       bool     `expr:"replayed"`
	Category       string   `expr:"category"`
	VirusName      string   `expr:"virus_name"`
	VirusTags      []string `expr:"virus_tags"`
	HostName       string   `expr:"host_name"` // the best name of the affected host
	HostIP         string   `expr:"host_ip"`
	FilePath       string   `expr:"file_path"`
	AccountID      string   `expr:"account_id"`
	Source         string   `expr:"source"`
	Kind           string   `expr:"kind"`
	EventID        string   `expr:"event_id"` // as text, whatever the API sends

	// The constants that severities are compared with.
	Informational int `expr:"informational"`
	Low           int `expr:"low"`
	Medium        int `expr:"medium"`
	High          int `expr:"high"`
	Critical      int `expr:"critical"`
}

// Fields lists the names that a condition may use, constants included.
func Fields() []string {
	var names []string
	for f := range reflect.TypeFor[subject]().Fields() {
		names = append(names, f.Tag.Get("expr"))
	}
	return names
}

// functions are those of the expression language that conditions may use:
// none that depends on the time, and none that makes large values.
func functions() []string {
	return []string{"all", "any", "none", "one", "count", "len", "lower", "upper", "trim", "hasPrefix", "hasSuffix"}
}

// A condition decides which records a sink gets. It is used by one goroutine.
type condition struct {
	program *vm.Program
	mu      sync.Mutex // guards vm and failed
	vm      vm.VM
	rules   *format.Rules   // nil: the built-in ones
	failed  map[string]bool // failures that were logged
}

// compile checks a condition: names, types, a boolean result, and its cost.
func compile(text string) (*condition, error) {
	if len(text) > conditionLength {
		return nil, fmt.Errorf("the condition has %d bytes; at most %d", len(text), conditionLength)
	}
	costly := &costs{}
	opts := []expr.Option{
		expr.Env(subject{}), expr.AsBool(), expr.WarnOnAny(), expr.MaxNodes(conditionNodes),
		expr.DisableAllBuiltins(), expr.Patch(costly),
	}
	for _, f := range functions() {
		opts = append(opts, expr.EnableBuiltin(f))
	}
	program, err := expr.Compile(text, opts...)
	if err != nil {
		return nil, explain(err)
	}
	if costly.found != "" {
		return nil, errors.New(costly.found)
	}
	return &condition{program: program, vm: vm.VM{MemoryBudget: conditionMemory}, failed: map[string]bool{}}, nil
}

// explain says what is wrong in one line, and which names there are.
func explain(err error) error {
	f, ok := errors.AsType[*file.Error](err)
	if !ok {
		return err
	}
	msg := fmt.Sprintf("%s (at character %d)", f.Message, f.Column+1)
	if strings.HasPrefix(f.Message, "unknown name") {
		names := Fields()
		slices.Sort(names)
		msg += "; there are: " + strings.Join(names, ", ")
	}
	return errors.New(msg)
}

// costs finds what would make the time of an evaluation unbounded: loops
// within loops, and patterns taken from the record.
type costs struct{ found string }

// Visit looks at one node, after those below it.
func (c *costs) Visit(node *ast.Node) {
	switch n := (*node).(type) {
	case *ast.PredicateNode:
		inner := &loops{}
		ast.Walk(&n.Node, inner)
		if inner.found {
			c.found = "a loop (all, any, none, one, count) within a loop is too costly"
		}
	case *ast.BinaryNode:
		if _, ok := n.Right.(*ast.StringNode); n.Operator == "matches" && !ok {
			c.found = "the pattern of matches must be a text in quotes"
		}
	}
}

type loops struct{ found bool }

// Visit looks at one node.
func (l *loops) Visit(node *ast.Node) {
	if _, ok := (*node).(*ast.PredicateNode); ok {
		l.found = true
	}
}

// match evaluates the condition for a record.
func (c *condition) match(r *event.Record) (ok bool, err error) {
	defer func() {
		if p := recover(); p != nil { // one record must not end the program, at every start again
			ok, err = false, errors.New("reading the record panicked")
		}
	}()
	if c.rules != nil {
		c.rules.Read(r)
	}
	out, err := c.vm.Run(c.program, subjectOf(r))
	if err != nil {
		return false, explain(err)
	}
	if ok, isBool := out.(bool); isBool {
		return ok, nil
	}
	return false, fmt.Errorf("the condition gave %T", out)
}

// wants reports whether the sink gets a record. A condition that fails lets it
// pass: better one too many than one lost.
func (w *Worker) wants(r *event.Record) bool {
	if w.when == nil {
		return true
	}
	w.when.mu.Lock() // the reader, and a request to fill a gap
	defer w.when.mu.Unlock()
	ok, err := w.when.match(r)
	if err == nil {
		return ok
	}
	w.metrics.conditions.Inc()
	if text := err.Error(); len(w.when.failed) < conditionErrors && !w.when.failed[text] {
		w.when.failed[text] = true
		w.log.Warn("condition failed, the record passes",
			zap.String("error", text), zap.String("finding_uid", r.Key.FindingUID()), zap.Uint64("seq", r.Seq))
	}
	return true
}

func subjectOf(r *event.Record) subject {
	f := format.Of(r)
	return subject{
		Severity: int(f.Severity), ThreatSeverity: int(f.ThreatSeverity),
		Open: f.Open, Closed: f.Closed, Action: string(r.Action), Status: r.Status.Symbol,
		Backfill: r.Backfill, Replayed: r.Replayed, Category: f.Category,
		VirusName: f.VirusName, VirusTags: f.VirusTags[:min(len(f.VirusTags), conditionTags)],
		HostName: f.Host, HostIP: f.HostIP, FilePath: f.FilePath,
		AccountID: r.Key.Account, Source: r.Source, Kind: r.Key.Kind, EventID: r.Key.ID,
		Informational: int(format.Informational), Low: int(format.Low), Medium: int(format.Medium),
		High: int(format.High), Critical: int(format.Critical),
	}
}
