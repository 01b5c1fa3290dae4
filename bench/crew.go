package bench

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"

	"github.com/starlingdeploy/starling/lab"
)

// crew is the processes of a rival's round. Its methods are for one goroutine.
type crew struct {
	spawn   chan func() // run by one locked thread: the kernel kills the processes when it ends
	members []*member
	alive   sync.WaitGroup
}

// member is one process, with a folder of its own for data, log and the files by
// which it tells how far it is.
type member struct {
	name, dir string
	cmd       *exec.Cmd
	begin     io.WriteCloser // its standard input
	exited    chan struct{}
}

func newCrew() *crew {
	c := &crew{spawn: make(chan func())}
	go func() {
		runtime.LockOSThread()
		for f := range c.spawn {
			f()
		}
	}()
	return c
}

// start runs a command line on a host, in the new folder dir.
func (c *crew) start(h lab.Host, dir string, words ...string) (*member, error) {
	name := filepath.Base(dir)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // the child has its own
	m := &member{name: name, dir: dir, cmd: h.Command(words[0], words[1:]...), exited: make(chan struct{})}
	m.cmd.Dir, m.cmd.Stdout, m.cmd.Stderr = dir, log, log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	if m.begin, err = m.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	started := make(chan error, 1)
	c.spawn <- func() { started <- m.cmd.Start() }
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	c.members = append(c.members, m)
	c.alive.Go(func() {
		_ = m.cmd.Wait() // killed in the end; check tells of others
		close(m.exited)
	})
	return m, nil
}

// check returns an error with the log's end if a process has ended by itself.
func (c *crew) check() error {
	for _, m := range c.members {
		select {
		case <-m.exited:
			return fmt.Errorf("%s ended: %s; the end of its log:\n%s", m.name, m.cmd.ProcessState, m.tail())
		default:
		}
	}
	return nil
}

func (c *crew) pids() []int {
	var out []int
	for _, m := range c.members {
		out = append(out, m.cmd.Process.Pid)
	}
	return out
}

// close kills all, with what they have started, and waits for them.
func (c *crew) close() error {
	var errs []error
	for _, m := range c.members {
		if err := syscall.Kill(-m.cmd.Process.Pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
			errs = append(errs, fmt.Errorf("kill %s: %w", m.name, err))
		}
		m.begin.Close() // of a process that is gone: nothing can be lost
	}
	c.alive.Wait()
	close(c.spawn)
	return errors.Join(errs...)
}

func (m *member) tail() string {
	b, err := os.ReadFile(filepath.Join(m.dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-2000):])
}

// told returns the content of a file that the process writes in its folder, "" before.
func (m *member) told(file string) (string, error) {
	b, err := os.ReadFile(filepath.Join(m.dir, file))
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	return string(b), err
}
