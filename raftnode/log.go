package raftnode

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// hlog is an hclog.Logger that writes to a slog.Logger, whose level rules.
type hlog struct {
	to   *slog.Logger
	name string
	args []any
}

var _ hclog.Logger = (*hlog)(nil)

func slogLevel(l hclog.Level) slog.Level {
	switch l {
	case hclog.Warn:
		return slog.LevelWarn
	case hclog.Error:
		return slog.LevelError
	case hclog.Info, hclog.NoLevel:
		return slog.LevelInfo
	default:
		return slog.LevelDebug
	}
}

func (h *hlog) Log(l hclog.Level, msg string, args ...any) {
	level := slogLevel(l)
	ctx := context.Background()
	if !h.to.Enabled(ctx, level) {
		return
	}
	out := make([]any, len(args))
	for i, a := range args {
		if f, ok := a.(hclog.Format); ok && len(f) > 0 {
			a = fmt.Sprintf(fmt.Sprint(f[0]), f[1:]...)
		}
		out[i] = a
	}
	h.to.Log(ctx, level, "raft: "+msg, out...)
}

func (h *hlog) Trace(msg string, args ...any) { h.Log(hclog.Trace, msg, args...) }
func (h *hlog) Debug(msg string, args ...any) { h.Log(hclog.Debug, msg, args...) }
func (h *hlog) Info(msg string, args ...any)  { h.Log(hclog.Info, msg, args...) }
func (h *hlog) Warn(msg string, args ...any)  { h.Log(hclog.Warn, msg, args...) }
func (h *hlog) Error(msg string, args ...any) { h.Log(hclog.Error, msg, args...) }

func (h *hlog) enabled(l hclog.Level) bool {
	return h.to.Enabled(context.Background(), slogLevel(l))
}

func (h *hlog) IsTrace() bool { return h.enabled(hclog.Trace) }
func (h *hlog) IsDebug() bool { return h.enabled(hclog.Debug) }
func (h *hlog) IsInfo() bool  { return h.enabled(hclog.Info) }
func (h *hlog) IsWarn() bool  { return h.enabled(hclog.Warn) }
func (h *hlog) IsError() bool { return h.enabled(hclog.Error) }

func (h *hlog) ImpliedArgs() []any { return h.args }

func (h *hlog) With(args ...any) hclog.Logger {
	return &hlog{to: h.to.With(args...), name: h.name, args: append(h.args[:len(h.args):len(h.args)], args...)}
}

func (h *hlog) Name() string { return h.name }

func (h *hlog) Named(name string) hclog.Logger {
	if h.name != "" {
		name = h.name + "." + name
	}
	return h.ResetNamed(name)
}

func (h *hlog) ResetNamed(name string) hclog.Logger {
	return &hlog{to: h.to, name: name, args: h.args}
}

// SetLevel does nothing: the slog handler decides.
func (h *hlog) SetLevel(hclog.Level) {}

func (h *hlog) GetLevel() hclog.Level {
	for _, l := range []hclog.Level{hclog.Debug, hclog.Info, hclog.Warn} {
		if h.enabled(l) {
			return l
		}
	}
	return hclog.Error
}

func (h *hlog) StandardLogger(o *hclog.StandardLoggerOptions) *log.Logger {
	return log.New(h.StandardWriter(o), "", 0)
}

func (h *hlog) StandardWriter(*hclog.StandardLoggerOptions) io.Writer {
	return slog.NewLogLogger(h.to.Handler(), slog.LevelInfo).Writer()
}
