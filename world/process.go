package world

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"time"
)

// How long a process may take to stop before it is killed, and to be gone then: on a busy computer
// both wait for a processor.
const (
	stopGrace = 30 * time.Second
	killGrace = time.Minute
)

// spawner starts processes on one thread that lives until close: the kernel ends
// them when that thread does, so that even kill -9 of this process leaves none behind.
func (w *World) spawner() {
	runtime.LockOSThread()
	for f := range w.spawn {
		f()
	}
}

// StartOne runs p, which must not be running; its output is appended to its log.
func (w *World) StartOne(p *Proc) error {
	out, err := os.OpenFile(p.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	words := append(slices.Clone(p.host.Prefix), cmp.Or(p.Bin, w.bin), "agent", "--config="+p.Config)
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Dir = filepath.Dir(p.Config)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM, Setpgid: true}
	started := make(chan error, 1)
	w.spawn <- func() { started <- cmd.Start() }
	err = <-started
	if closing := out.Close(); err == nil {
		err = closing
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", p.Name, err)
	}
	exited := make(chan struct{})
	p.mu.Lock()
	p.cmd, p.exited = cmd, exited
	p.mu.Unlock()
	w.alive.Add(1)
	go func() {
		defer w.alive.Done()
		_ = cmd.Wait() // its own log says why it ended; Crashed looks at it
		close(exited)
	}()
	return nil
}

// Start runs every process, servers first.
func (w *World) Start() error {
	for _, p := range w.Procs {
		if err := w.StartOne(p); err != nil {
			return err
		}
	}
	return nil
}

// Signal sends sig to p and waits until it has ended, grace at most.
func (p *Proc) Signal(sig syscall.Signal, grace time.Duration) error {
	p.mu.Lock()
	cmd, exited := p.cmd, p.exited
	p.mu.Unlock()
	if cmd == nil {
		return nil
	}
	if err := cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal %s: %w", p.Name, err)
	}
	select {
	case <-exited:
		return nil
	case <-time.After(grace):
		return fmt.Errorf("%s did not end within %s of %s", p.Name, grace, sig)
	}
}

// Kill ends p as a crash would.
func (p *Proc) Kill() error { return p.Signal(syscall.SIGKILL, killGrace) }

// PID returns the process ID; 0 before the first start.
func (p *Proc) PID() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cmd == nil {
		return 0
	}
	return p.cmd.Process.Pid
}

// Exited returns a channel that is closed when the run of the last start has ended.
func (p *Proc) Exited() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.exited
}

// Close stops all processes at once, and kills what does not stop in time.
func (w *World) Close() error {
	var errs []error
	var stopping sync.WaitGroup
	var mu sync.Mutex
	for _, p := range w.Procs {
		stopping.Go(func() {
			err := p.Signal(syscall.SIGTERM, stopGrace)
			if err != nil {
				err = errors.Join(err, p.Signal(syscall.SIGKILL, killGrace))
			}
			mu.Lock()
			errs = append(errs, err)
			mu.Unlock()
		})
	}
	stopping.Wait()
	w.alive.Wait()
	close(w.spawn)
	w.ports.release()
	return errors.Join(errs...)
}

// Tail returns the end of a process's log, for a message.
func (p *Proc) Tail() string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}
