package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling/bench/trial"
)

// lineEvery is how often a line tells how far it is where there is no terminal.
const lineEvery = 10 * time.Second

// meter shows how far a measurement is: a bar on a terminal, else a line now and then. It
// writes nothing before the first begins.
type meter struct {
	out      *os.File
	terminal bool

	mu      sync.Mutex
	title   string // of the measurement; "": none yet
	began   time.Time
	step    string
	done    float64
	total   float64 // 0: unknown
	unit    string
	pool    *mpb.Progress // with a terminal
	bar     *mpb.Bar
	stop    chan struct{} // ends the goroutine that writes lines
	stopped sync.WaitGroup
}

func newMeter(out *os.File) *meter {
	_, err := unix.IoctlGetTermios(int(out.Fd()), unix.TCGETS)
	return &meter{out: out, terminal: err == nil}
}

func (m *meter) watch() trial.Watch {
	return trial.Watch{Begin: m.begin, Tell: m.tell, End: m.end}
}

// log is of scenarios that tell much.
func (m *meter) log() *slog.Logger { return slog.New(slog.NewTextHandler(m, nil)) }

// Write writes above the bar.
func (m *meter) Write(b []byte) (int, error) {
	m.mu.Lock()
	pool := m.pool
	m.mu.Unlock()
	if pool != nil {
		return pool.Write(b)
	}
	return m.out.Write(b)
}

// notes writes what a measurement has to say.
func (m *meter) notes(all []string) error {
	for _, note := range all {
		if _, err := io.WriteString(m, note+"\n"); err != nil {
			return err
		}
	}
	return nil
}

func (m *meter) begin(what string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.title, m.began = what, time.Now()
	m.step, m.done, m.total = "", 0, 0
	switch {
	case m.terminal && m.pool == nil:
		m.pool = mpb.New(mpb.WithOutput(m.out), mpb.WithWidth(40))
		m.bar = m.pool.AddBar(barParts+1, // which it never reaches: a full bar would end
			mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + m.line() })))
	case !m.terminal && m.stop == nil:
		m.stop = make(chan struct{})
		m.stopped.Go(m.lines)
	}
}

// barParts is how finely a bar moves.
const barParts = 1000

func (m *meter) tell(what string, done, total float64, unit string) {
	m.mu.Lock()
	m.step, m.done, m.total, m.unit = what, done, total, unit
	bar := m.bar
	m.mu.Unlock()
	if bar != nil { // without the lock, which the bar's goroutine takes to draw
		part := 0.0
		if total > 0 {
			part = min(1, done/total)
		}
		bar.SetCurrent(int64(barParts * part))
	}
}

// end says what came of one of several measurements.
func (m *meter) end(r *trial.Repeat, summary []trial.Summary) {
	m.mu.Lock()
	title := m.title
	m.mu.Unlock()
	if len(summary) > 0 && summary[0].N > 0 && len(r.Figures) > 0 {
		f := r.Figures[0]
		fmt.Fprintf(m, "%s: %s %s %s after %.0f s\n", title, f.Name, trial.Number(f.Value), f.Unit, r.WallS)
	}
}

// line says in a line how far it is.
func (m *meter) line() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := fmt.Sprintf("%s  %4.0f s", m.title, time.Since(m.began).Seconds())
	if m.step != "" {
		s += "  " + m.step
	}
	if m.total > 0 {
		s += fmt.Sprintf(", %s of %s %s", trial.Number(m.done), trial.Number(m.total), m.unit)
	}
	return s
}

// lines writes a line now and then until stop closes.
func (m *meter) lines() {
	tick := time.NewTicker(lineEvery)
	defer tick.Stop()
	for {
		select {
		case <-m.stop:
			return
		case <-tick.C:
			fmt.Fprintln(m.out, m.line())
		}
	}
}

// close ends the drawing.
func (m *meter) close() {
	m.mu.Lock()
	pool, bar, stop := m.pool, m.bar, m.stop
	m.pool, m.bar = nil, nil
	m.mu.Unlock()
	if pool != nil {
		bar.Abort(true)
		pool.Wait()
	}
	if stop != nil {
		close(stop)
		m.stopped.Wait()
	}
}
