package agent

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// How a process is stopped.
const (
	outputLinger  = time.Second // for output that is still in the pipe when a process has ended
	outputBufSize = 32 << 10    // bytes
	maxBusyTries  = 50
	busyPause     = 20 * time.Millisecond
)

// command is what to run: a release's run command, a hook or an exec health check.
type command struct {
	argv []string
	dir  string
	env  []string
	out  io.Writer // standard output and error; writes must not fail
}

// process is a running command, the leader of its own process group. It dies with
// the agent: the kernel kills it when the thread that started it ends (PR_SET_PDEATHSIG),
// and that thread is held for as long as the process lives.
type process struct {
	pid  int
	done chan struct{} // closed when the whole group is gone
	err  error         // how it ended; read after done

	mu     sync.Mutex
	reaped bool // the process number may name another group from now on
}

// startProcess starts c. What remains of its group when it ends is killed.
//
// A process that this one is just forking holds, until its exec, what was open at
// the time, perhaps a file of the release for writing; then the kernel refuses to
// run that file (go.dev/issue/22315), and it is tried again.
func startProcess(c command) (*process, error) {
	for tries := 1; ; tries++ {
		p, err := startOnce(c)
		if !errors.Is(err, unix.ETXTBSY) || tries == maxBusyTries {
			return p, err
		}
		time.Sleep(busyPause)
	}
}

func startOnce(c command) (*process, error) {
	if len(c.argv) == 0 {
		return nil, errors.New("start: the command is empty")
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", c.argv[0], err)
	}
	cmd := exec.Command(c.argv[0], c.argv[1:]...)
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = c.dir, c.env, w, w
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}

	p := &process{done: make(chan struct{})}
	started := make(chan error)
	go func() {
		runtime.LockOSThread() // PR_SET_PDEATHSIG is about this thread
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		w.Close()
		if err == nil {
			p.pid = cmd.Process.Pid
		}
		started <- err
		if err != nil {
			r.Close()
			return
		}
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			copyOutput(c.out, r)
		}()
		awaitExit(p.pid)
		// Not yet reaped: its number cannot name another group.
		if err := unix.Kill(-p.pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EPERM) {
			p.err = fmt.Errorf("kill group %d: %w", p.pid, err)
		}
		p.mu.Lock()
		p.err = errors.Join(cmd.Wait(), p.err)
		p.reaped = true
		p.mu.Unlock()
		// Something that left the group may still hold the pipe.
		r.SetReadDeadline(time.Now().Add(outputLinger))
		<-copied
		r.Close()
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", c.argv[0], err)
	}
	return p, nil
}

// awaitExit waits for pid to end, without reaping it.
func awaitExit(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return
		}
	}
}

func copyOutput(dst io.Writer, r *os.File) {
	buf := make([]byte, outputBufSize)
	for {
		n, err := r.Read(buf)
		if n > 0 {
			dst.Write(buf[:n])
		}
		if err != nil {
			return // the end, or the deadline set once the process had ended
		}
	}
}

// stop asks the group to end by a signal, and kills it after grace. It returns when it is gone.
func (p *process) stop(ask unix.Signal, grace time.Duration) {
	p.signal(ask)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		p.signal(unix.SIGKILL)
		<-p.done
	}
}

// signal sends s to the group while its leader is not reaped.
func (p *process) signal(s unix.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		// The group may be ending this very moment: nobody to signal is no failure.
		_ = unix.Kill(-p.pid, s)
	}
}
