package build

import (
	"bytes"
	"fmt"
	"strings"
	"sync"

	"github.com/starlingdeploy/starling"
)

// A stored log is one chunk at most: the head, a line that says how much was left out,
// and the tail.
const (
	logHeadBytes = 3 << 20
	logTailBytes = starling.MaxChunkBytes - logHeadBytes - 256
)

// buildLog keeps the first and the last part of what a build prints. It never blocks
// its writer for longer than a copy and holds 4 MiB at most.
type buildLog struct {
	headMax, tailMax int
	grown            chan struct{} // one token: there is news
	finished         chan struct{} // closed by finish

	mu    sync.Mutex
	head  []byte
	tail  []byte // ring of tailMax bytes once full
	at    int    // start of the ring
	total int64  // bytes written
	own   int64  // of which were written before the build's command began
	final []byte // the whole text; nil until finished
}

func newBuildLog() *buildLog { return newLog(logHeadBytes, logTailBytes) }

func newLog(headMax, tailMax int) *buildLog {
	return &buildLog{headMax: headMax, tailMax: tailMax, grown: make(chan struct{}, 1), finished: make(chan struct{})}
}

// Write implements io.Writer and never fails. After finish it does nothing.
func (l *buildLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	if l.final == nil {
		l.total += int64(len(p))
		n := min(len(p), l.headMax-len(l.head))
		l.head = append(l.head, p[:n]...)
		l.writeTail(p[n:])
	}
	l.mu.Unlock()
	l.notify()
	return len(p), nil
}

func (l *buildLog) writeTail(p []byte) {
	p = p[max(0, len(p)-l.tailMax):]
	n := min(len(p), l.tailMax-len(l.tail))
	l.tail = append(l.tail, p[:n]...)
	for p = p[n:]; len(p) > 0; {
		c := copy(l.tail[l.at:], p)
		l.at = (l.at + c) % l.tailMax
		p = p[c:]
	}
}

func (l *buildLog) notify() {
	select {
	case l.grown <- struct{}{}:
	default: // there is a token already
	}
}

// printf adds a line of the worker's own.
func (l *buildLog) printf(format string, args ...any) {
	fmt.Fprintf(l, "starling: "+format+"\n", args...)
}

// begin marks that from here on the text is the build's.
func (l *buildLog) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.own = l.total
}

// finish ends the log and returns its whole text.
func (l *buildLog) finish() []byte {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.final == nil {
		defer close(l.finished)
		l.final = append(make([]byte, 0, len(l.head)+len(l.tail)+256), l.head...)
		if left := l.total - int64(len(l.head)) - int64(len(l.tail)); left > 0 {
			l.final = fmt.Appendf(l.final, "\n… %d bytes left out …\n", left)
		}
		l.final = l.appendTail(l.final)
		l.head, l.tail = nil, nil
	}
	return l.final
}

func (l *buildLog) appendTail(dst []byte) []byte {
	return append(append(dst, l.tail[l.at:]...), l.tail[:l.at]...)
}

// from returns a copy of up to limit bytes from offset on, the length of what may be
// read so far, and whether nothing will follow that. Until the log is finished, only
// the head may be read: what comes after it may yet be left out.
func (l *buildLog) from(offset int64, limit int) (piece []byte, size int64, done bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.head
	if l.final != nil {
		text = l.final
	}
	if offset < int64(len(text)) {
		rest := text[offset:]
		piece = bytes.Clone(rest[:min(len(rest), limit)])
	}
	return piece, int64(len(text)), l.final != nil
}

// lastLines returns the last lines that were written after begin, limit bytes at most,
// for a reason. Call it before finish.
func (l *buildLog) lastLines(lines, limit int) string {
	l.mu.Lock()
	limit = int(min(int64(limit), l.total-l.own))
	text := l.head
	if len(l.tail) > 0 {
		text = l.appendTail(nil)
		if l.total == int64(len(l.head)+len(text)) && len(text) < limit {
			text = append(bytes.Clone(l.head[max(0, len(l.head)-limit):]), text...)
		}
	}
	s := strings.ToValidUTF8(string(text[max(0, len(text)-limit):]), "")
	l.mu.Unlock()
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.TrimSpace(strings.Join(all[max(0, len(all)-lines):], "\n"))
}
