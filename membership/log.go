package membership

import (
	"bytes"
	"context"
	"log"
	"log/slog"
)

// logWriter turns the lines of Serf and memberlist, "[WARN] serf: text", into records.
type logWriter struct{ to *slog.Logger }

// newLog returns a *log.Logger that writes to l.
func newLog(l *slog.Logger) *log.Logger { return log.New(logWriter{l}, "", 0) }

var logLevels = []struct {
	prefix string
	level  slog.Level
}{
	{"[TRACE] ", slog.LevelDebug},
	{"[DEBUG] ", slog.LevelDebug},
	{"[INFO] ", slog.LevelInfo},
	{"[WARN] ", slog.LevelWarn},
	{"[ERR] ", slog.LevelError},
	{"[ERROR] ", slog.LevelError},
}

// Write implements io.Writer; the log package calls it once a line.
func (w logWriter) Write(line []byte) (int, error) {
	n := len(line)
	level := slog.LevelInfo
	for _, l := range logLevels {
		if rest, ok := bytes.CutPrefix(line, []byte(l.prefix)); ok {
			line, level = rest, l.level
			break
		}
	}
	ctx := context.Background()
	if !w.to.Enabled(ctx, level) {
		return n, nil
	}
	line = bytes.TrimSpace(line)
	w.to.Log(ctx, level, string(line[:min(len(line), maxLogLineBytes)]))
	return n, nil
}
