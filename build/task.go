package build

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// task is one command to run, with everything that it starts.
type task struct {
	argv   []string // argv[0] is absolute
	dir    string
	env    []string
	mark   string   // value of markVar, unique
	args   *os.File // descriptor 3 of the command, or nil
	info   bool     // bubblewrap: tells its child's pid on descriptor 4
	cgroup *cgroup  // or nil
	output io.Writer

	memoryBytes  int64
	maxProcesses int
}

// exitError says how a build's command ended.
type exitError struct {
	code   int
	signal syscall.Signal
}

func (e *exitError) Error() string {
	if e.signal == 0 && e.code > 128 && unix.SignalName(syscall.Signal(e.code-128)) != "" {
		return fmt.Sprintf("exit status %d (%s)", e.code, unix.SignalName(syscall.Signal(e.code-128)))
	}
	if e.signal != 0 {
		return "killed by " + unix.SignalName(e.signal)
	}
	return fmt.Sprintf("exit status %d", e.code)
}

// tooBig reports whether the command died of writing a file larger than it may.
func (e *exitError) tooBig() bool {
	return e.signal == syscall.SIGXFSZ || e.code == 128+int(syscall.SIGXFSZ)
}

// run runs the command until it ends, ctx ends or it breaks a limit. When it returns,
// no process of it is left; should one outlive its kill, the error says so. The error
// is an *exitError, the cause of ctx, a *limitError, or about the worker itself.
func (t *task) run(ctx context.Context) error {
	running, err := t.start()
	if err != nil {
		return errors.Join(err, t.cgroup.remove())
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	watched := make(chan struct{})
	go func() { // ends with ctx
		defer close(watched)
		if err := t.watch(ctx, running); err != nil {
			cancel(err)
		}
	}()
	stopped := running.broken
	if stopped == nil {
		select {
		case <-running.ended:
		case <-ctx.Done():
			stopped = context.Cause(ctx)
		}
	}
	cancel(nil)
	<-watched
	killErr := running.kill()
	state, waitErr := running.wait()
	oom := t.cgroup.ranOutOfMemory()
	killErr = errors.Join(killErr, t.cgroup.remove())
	switch {
	case killErr != nil:
		return errors.Join(stopped, killErr)
	case stopped != nil:
		return stopped
	case oom:
		return &limitError{what: "memory", allowed: fmt.Sprintf("%d MB", t.memoryBytes>>20)}
	case waitErr != nil:
		return fmt.Errorf("running the build: %w", waitErr)
	}
	return exitOf(state)
}

func exitOf(state *os.ProcessState) error {
	ws, ok := state.Sys().(syscall.WaitStatus)
	switch {
	case !ok:
		return fmt.Errorf("running the build: unknown end %s", state)
	case ws.Signaled():
		return &exitError{signal: ws.Signal()}
	case ws.ExitStatus() != 0:
		return &exitError{code: ws.ExitStatus()}
	}
	return nil
}

// runningTask is a task under way.
type runningTask struct {
	cmd     *exec.Cmd
	mark    string
	cgroup  *cgroup
	family  *family
	initFD  int           // pidfd of the sandbox's first process, -1 without
	broken  error         // the sandbox did not come up
	ended   chan struct{} // the command itself has ended; it is not yet reaped
	reap    chan struct{} // closed: it may be reaped
	reaped  chan error
	output  *os.File
	drained chan error
}

// start starts the command. The thread that starts a process with a parent-death
// signal must live as long as the process does: one goroutine holds it until the end.
func (t *task) start() (*runningTask, error) {
	out, in, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("starting the build: %w", err)
	}
	defer in.Close()
	r := &runningTask{
		mark: t.mark, cgroup: t.cgroup, initFD: -1, output: out,
		ended: make(chan struct{}), reap: make(chan struct{}),
		reaped: make(chan error, 1), drained: make(chan error, 1),
	}
	r.cmd = &exec.Cmd{
		Path: t.argv[0], Args: t.argv, Dir: t.dir,
		Env:    append(append([]string{}, t.env...), markVar+"="+t.mark),
		Stdout: in, Stderr: in,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	if t.cgroup != nil {
		r.cmd.SysProcAttr.UseCgroupFD = true
		r.cmd.SysProcAttr.CgroupFD = int(t.cgroup.dir.Fd())
	}
	var infoOut, infoIn *os.File
	if t.args != nil {
		r.cmd.ExtraFiles = []*os.File{t.args}
	}
	if t.info {
		if infoOut, infoIn, err = os.Pipe(); err != nil {
			return nil, errors.Join(fmt.Errorf("starting the build: %w", err), out.Close())
		}
		defer infoOut.Close()
		defer infoIn.Close()
		r.cmd.ExtraFiles = append(r.cmd.ExtraFiles, infoIn)
	}
	started := make(chan error, 1)
	go r.own(started)
	if err := <-started; err != nil {
		return nil, errors.Join(fmt.Errorf("starting the build: %w", err), out.Close())
	}
	go func() { // ends when the last writer does, or at the deadline that kill sets
		_, err := io.CopyBuffer(struct{ io.Writer }{t.output}, struct{ io.Reader }{out}, make([]byte, 64<<10))
		r.drained <- err
	}()
	r.family = &family{known: make(map[int]uint64)}
	if p, err := statOf(r.cmd.Process.Pid); err == nil {
		r.family.known[p.pid] = p.start
	}
	if t.info {
		// An error here: it ended before it had a child, and says why in the log; or it
		// cannot be controlled, and must not go on.
		r.broken = errors.Join(infoIn.Close(), r.findInit(infoOut))
	}
	return r, nil
}

// own starts the command and holds its thread until it is reaped.
func (r *runningTask) own(started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := r.cmd.Start()
	started <- err
	if err != nil {
		return
	}
	for {
		// Look without reaping: as long as the process is a zombie, its pid and
		// group cannot become someone else's.
		err = unix.Waitid(unix.P_PID, r.cmd.Process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	close(r.ended)
	<-r.reap
	r.reaped <- r.cmd.Wait()
}

// findInit learns the first process of the sandbox from what bubblewrap says.
func (r *runningTask) findInit(info *os.File) error {
	if err := info.SetReadDeadline(time.Now().Add(killTimeout)); err != nil {
		return err
	}
	var said struct {
		Child int `json:"child-pid"`
	}
	if err := json.NewDecoder(io.LimitReader(info, 4096)).Decode(&said); err != nil {
		return fmt.Errorf("the sandbox did not start: %w", err)
	}
	fd, err := unix.PidfdOpen(said.Child, 0)
	if err != nil {
		if errors.Is(err, unix.ESRCH) {
			return nil // it has ended already
		}
		return fmt.Errorf("the sandbox's first process: %w", err)
	}
	r.initFD = fd
	return nil
}

// kill kills every process of the task and returns when none is left.
func (r *runningTask) kill() error {
	var errs []error
	if err := syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
		errs = append(errs, fmt.Errorf("killing the build: %w", err))
	}
	errs = append(errs, r.cgroup.kill())
	if r.initFD >= 0 {
		// The kernel kills a PID namespace with its first process, and lets that one
		// end only when the others are gone.
		if err := unix.PidfdSendSignal(r.initFD, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("killing the sandbox: %w", err))
		}
		errs = append(errs, waitPidfd(r.initFD), unix.Close(r.initFD))
	} else {
		errs = append(errs, killAll(func(all []proc) []proc {
			return append(r.family.look(all), marked(all, r.mark)...)
		}))
	}
	return errors.Join(errs...)
}

// wait reaps the command and takes in the end of its output. Call it after kill.
func (r *runningTask) wait() (*os.ProcessState, error) {
	close(r.reap)
	err := <-r.reaped
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
		err = nil // the state says it
	}
	// Nobody is left to write, so the end of the pipe is near; but never wait for one
	// that could not be killed.
	err = errors.Join(err, r.output.SetReadDeadline(time.Now().Add(2*time.Second)))
	if derr := <-r.drained; derr != nil && !errors.Is(derr, os.ErrDeadlineExceeded) {
		err = errors.Join(err, fmt.Errorf("output: %w", derr))
	}
	return r.cmd.ProcessState, errors.Join(err, r.output.Close())
}

func waitPidfd(fd int) error {
	end := time.Now().Add(killTimeout)
	for {
		left := time.Until(end)
		if left <= 0 {
			return fmt.Errorf("the sandbox did not die within %s", killTimeout)
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("waiting for the sandbox: %w", err)
		case n > 0:
			return nil
		}
	}
}

func statOf(pid int) (proc, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return proc{}, err
	}
	return parseStat(b)
}
