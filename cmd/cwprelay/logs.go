package main

import (
	"io"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/cwprelay/cwprelay/config"
)

// logs is a logger whose level and form can be changed while it is used.
type logs struct {
	*zap.Logger
	level    zap.AtomicLevel
	people   *atomic.Bool // for people to read; else JSON
	terminal bool         // it writes to one
}

// newLogger makes the logger of a configuration.
func newLogger(cfg config.Log, w io.Writer) *logs {
	l := &logs{level: zap.NewAtomicLevel(), people: &atomic.Bool{}, terminal: isTerminal(w)}
	l.set(config.Log{}, cfg)
	out := zapcore.Lock(zapcore.AddSync(w))
	enc := zap.NewProductionEncoderConfig()
	enc.EncodeTime = zapcore.ISO8601TimeEncoder
	enc.EncodeDuration = zapcore.StringDurationEncoder
	core := eitherCore{json: zapcore.NewCore(zapcore.NewJSONEncoder(enc), out, l.level), usePeople: l.people}
	enc.EncodeLevel = zapcore.CapitalLevelEncoder
	core.people = zapcore.NewCore(zapcore.NewConsoleEncoder(enc), out, l.level)
	l.Logger = zap.New(core)
	return l
}

// set puts a configuration in force where it differs from the former one: what
// was changed otherwise, by the verb log-level, stays.
func (l *logs) set(former, next config.Log) {
	if level, err := zapcore.ParseLevel(next.Level); err == nil && next.Level != former.Level {
		l.level.SetLevel(level)
	}
	l.people.Store(next.Format == "console" || next.Format == "auto" && l.terminal)
}

// An eitherCore writes by one of two cores.
type eitherCore struct {
	json, people zapcore.Core
	usePeople    *atomic.Bool
}

func (c eitherCore) core() zapcore.Core {
	if c.usePeople.Load() {
		return c.people
	}
	return c.json
}

// Enabled implements zapcore.Core.
func (c eitherCore) Enabled(l zapcore.Level) bool { return c.json.Enabled(l) }

// With implements zapcore.Core.
func (c eitherCore) With(fields []zapcore.Field) zapcore.Core {
	return eitherCore{c.json.With(fields), c.people.With(fields), c.usePeople}
}

// Check implements zapcore.Core.
func (c eitherCore) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	return c.core().Check(e, ce)
}

// Write implements zapcore.Core.
func (c eitherCore) Write(e zapcore.Entry, fields []zapcore.Field) error {
	return c.core().Write(e, fields)
}

// Sync implements zapcore.Core.
func (c eitherCore) Sync() error { return c.core().Sync() }
