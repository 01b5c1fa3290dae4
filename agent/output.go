package agent

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"

	"github.com/starlingdeploy/starling"
)

// Bounds of what is kept of a release's output.
const (
	maxTailBytes = 1536 // for the reason of a failure
	maxTailLines = 12
)

// logFile appends to a file of at most maxBytes and keeps earlier ones beside it, the
// newest as .1, files in all. Its writes never fail: output must not stop a release because a disk is
// full, so the first error of a row is logged and the bytes are dropped.
type logFile struct {
	path string
	log  *slog.Logger

	mu       sync.Mutex
	maxBytes int64
	files    int
	f        *os.File
	size     int64
	failing  bool
}

func newLogFile(path string, maxBytes int64, files int, log *slog.Logger) *logFile {
	return &logFile{path: path, maxBytes: maxBytes, files: files, log: log}
}

// bound changes the bounds and removes the files that are too many now.
func (l *logFile) bound(maxBytes int64, files int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.maxBytes, l.files = maxBytes, files
	for i := max(1, files); i <= starling.MaxLogFiles; i++ {
		if err := os.Remove(l.name(i)); err != nil && !errors.Is(err, os.ErrNotExist) {
			l.log.Warn("an old log cannot be removed", "file", l.name(i), "error", err)
		}
	}
}

// name returns the name of the i-th file before the one being written.
func (l *logFile) name(i int) string { return fmt.Sprintf("%s.%d", l.path, i) }

// Write implements io.Writer.
func (l *logFile) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	err := l.write(b)
	if err != nil && !l.failing {
		l.log.Warn("output of a release is lost", "file", l.path, "error", err)
	}
	l.failing = err != nil
	return len(b), nil
}

func (l *logFile) write(b []byte) error {
	if err := l.open(); err != nil {
		return err
	}
	if l.size > 0 && l.size+int64(len(b)) > l.maxBytes {
		if err := l.rotate(); err != nil {
			return err
		}
		if err := l.open(); err != nil {
			return err
		}
	}
	n, err := l.f.Write(b)
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	return nil
}

func (l *logFile) open() error {
	if l.f != nil {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o640)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	st, err := f.Stat()
	if err != nil {
		return fmt.Errorf("open log: %w", errors.Join(err, f.Close()))
	}
	l.f, l.size = f, st.Size()
	return nil
}

func (l *logFile) rotate() error {
	err := l.f.Close()
	l.f = nil
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	if l.files < 2 {
		if err := os.Remove(l.path); err != nil {
			return fmt.Errorf("rotate log: %w", err)
		}
		return nil
	}
	for i := l.files - 2; i >= 1; i-- { // the oldest is replaced
		if err := os.Rename(l.name(i), l.name(i+1)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	if err := os.Rename(l.path, l.name(1)); err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	return nil
}

// Close closes the file; a later write opens it again.
func (l *logFile) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.f == nil {
		return nil
	}
	err := l.f.Close()
	l.f = nil
	return err
}

// tail is an io.Writer that keeps the last maxTailBytes.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := len(b)
	if len(b) > maxTailBytes {
		b = b[len(b)-maxTailBytes:]
	}
	t.buf = append(t.buf, b...)
	if over := len(t.buf) - maxTailBytes; over > 0 {
		t.buf = append(t.buf[:0], t.buf[over:]...)
	}
	return n, nil
}

// lines returns the last maxTailLines lines, made printable.
func (t *tail) lines() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := bytes.Split(bytes.TrimSpace(t.buf), []byte("\n"))
	all = all[max(0, len(all)-maxTailLines):]
	s := strings.ToValidUTF8(string(bytes.Join(all, []byte("\n"))), "?")
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, s)
}

// withOutput adds what a command printed last to the reason of its failure.
func withOutput(err error, t *tail) error {
	if s := t.lines(); s != "" {
		return fmt.Errorf("%w; its last output:\n%s", err, s)
	}
	return err
}
