package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Syncs holds up fsync and fdatasync of the processes that were started by ExecTrapped
// with its socket. Its methods are safe for concurrent use.
type Syncs struct {
	listener *net.UnixListener
	ends     chan struct{}
	owned    sync.WaitGroup

	mu    sync.Mutex
	rules map[string]rule
	seen  map[string]int64
}

// rule is what befalls a process's syncs.
type rule struct {
	delay time.Duration
	errno syscall.Errno
}

// maxNameBytes bounds the name that a process comes with.
const maxNameBytes = 256

// pollEvery is how often the serving goroutines look whether they are to end.
const pollEvery = 200 * time.Millisecond

// ListenSyncs begins to serve processes that come to the Unix socket at path.
func ListenSyncs(path string) (*Syncs, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("faults: %w", err)
	}
	s := &Syncs{listener: l, ends: make(chan struct{}), rules: map[string]rule{}, seen: map[string]int64{}}
	s.owned.Go(s.accept)
	return s, nil
}

// Delay makes each sync of the named process take d longer; 0: no longer.
func (s *Syncs) Delay(name string, d time.Duration) { s.set(name, rule{delay: d}) }

// Fail makes each sync of the named process fail with EIO, unsynced.
func (s *Syncs) Fail(name string) { s.set(name, rule{errno: syscall.EIO}) }

func (s *Syncs) set(name string, r rule) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rules[name] = r
}

// Seen returns how many syncs the named process has asked for.
func (s *Syncs) Seen(name string) int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seen[name]
}

func (s *Syncs) meet(name string) rule {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen[name]++
	return s.rules[name]
}

// Close ends the service. Processes that are still there get ENOSYS for their syncs.
func (s *Syncs) Close() error {
	close(s.ends)
	err := s.listener.Close()
	s.owned.Wait()
	return err
}

func (s *Syncs) accept() {
	for {
		c, err := s.listener.AcceptUnix()
		if err != nil {
			return // closed
		}
		name, fd, err := receive(c)
		c.Close()
		if err != nil {
			continue // it sees its connection end, and fails to start
		}
		s.owned.Go(func() { s.serve(name, fd) })
	}
}

// receive reads a name and the file descriptor of a seccomp listener.
func receive(c *net.UnixConn) (string, int, error) {
	name, oob := make([]byte, maxNameBytes), make([]byte, unix.CmsgSpace(4))
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		return "", 0, err
	}
	n, oobn, _, _, err := c.ReadMsgUnix(name, oob)
	if err != nil {
		return "", 0, err
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(messages) != 1 {
		return "", 0, errors.Join(errors.New("no file descriptor"), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		return "", 0, errors.Join(errors.New("no file descriptor"), err)
	}
	_, err = c.Write([]byte{1})
	return string(name[:n]), fds[0], err
}

// notification is struct seccomp_notif; answer is struct seccomp_notif_resp (linux/seccomp.h).
type notification struct {
	id         uint64
	pid, flags uint32
	nr         int32
	arch       uint32
	ip         uint64
	args       [6]uint64
}

type answer struct {
	id    uint64
	val   int64
	errno int32
	flags uint32
}

// Requests of ioctl(2) on a listener, and what they do.
const (
	notifyReceive  = 0xc0502100 // SECCOMP_IOCTL_NOTIF_RECV
	notifySend     = 0xc0182101 // SECCOMP_IOCTL_NOTIF_SEND
	answerContinue = 1          // SECCOMP_USER_NOTIF_FLAG_CONTINUE
)

// serve answers a process until it has ended. Each open sync has a goroutine: the
// process's threads bound them.
func (s *Syncs) serve(name string, fd int) {
	var open sync.WaitGroup
	defer func() {
		open.Wait()
		unix.Close(fd)
	}()
	for {
		select {
		case <-s.ends:
			return
		default:
		}
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(ready, int(pollEvery/time.Millisecond))
		if errors.Is(err, unix.EINTR) || err == nil && n == 0 {
			continue
		}
		if err != nil || ready[0].Revents&unix.POLLIN == 0 {
			return // all who have the filter are gone
		}
		var asked notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifyReceive, uintptr(unsafe.Pointer(&asked))); errno != 0 {
			continue // it was interrupted, or killed
		}
		r := s.meet(name)
		open.Go(func() { s.reply(fd, asked.id, r) })
	}
}

func (s *Syncs) reply(fd int, id uint64, r rule) {
	if r.delay > 0 {
		timer := time.NewTimer(r.delay)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-s.ends:
		}
	}
	a := answer{id: id, flags: answerContinue}
	if r.errno != 0 {
		a.flags, a.errno = 0, -int32(r.errno)
	}
	// It fails where the process has been killed meanwhile.
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifySend, uintptr(unsafe.Pointer(&a)))
}

// ExecTrapped becomes the program argv, whose syncs, and those of its children, are asked
// for at the Unix socket, under a name. It returns only if that fails.
func ExecTrapped(socket, name string, argv []string) error {
	if len(argv) == 0 || name == "" || len(name) > maxNameBytes {
		return fmt.Errorf("faults: want a name of %d bytes at most and a command", maxNameBytes)
	}
	program, err := exec.LookPath(argv[0])
	if err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	runtime.LockOSThread() // the filter is this thread's, which becomes the program
	fd, err := trapSyncs()
	if err != nil {
		return fmt.Errorf("faults: seccomp: %w", err)
	}
	if _, _, err := c.WriteMsgUnix([]byte(name), unix.UnixRights(fd), nil); err != nil {
		return fmt.Errorf("faults: %w", err)
	}
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("faults: nobody answers for syncs: %w", err)
	}
	return syscall.Exec(program, argv, os.Environ()) // closes fd and c: they are close-on-exec
}

// Flags of seccomp(2).
const (
	setModeFilter    = 1
	flagNewListener  = 1 << 3
	flagWaitKillable = 1 << 5 // signals do not interrupt a sync that is being answered; since Linux 5.19
)

func trapSyncs() (fd int, err error) {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	if arch == 0 {
		return 0, errors.New("not on " + runtime.GOARCH)
	}
	const load, jumpEqual, ret = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, unix.BPF_RET | unix.BPF_K
	filter := []unix.SockFilter{
		{Code: load, K: 4}, // arch
		{Code: jumpEqual, K: arch, Jf: 3},
		{Code: load, K: 0}, // number
		{Code: jumpEqual, K: unix.SYS_FSYNC, Jt: 2},
		{Code: jumpEqual, K: unix.SYS_FDATASYNC, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_ALLOW},
		{Code: ret, K: unix.SECCOMP_RET_USER_NOTIF},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	for _, flags := range []uintptr{flagNewListener | flagWaitKillable, flagNewListener} {
		n, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, flags, uintptr(unsafe.Pointer(&program)))
		if errno == 0 {
			return int(n), nil
		}
		if err = errno; errno != unix.EINVAL {
			break
		}
	}
	return 0, err
}
