package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// inside marks the environment of a process that came through Isolate.
const inside = "STARLING_LAB"

// Isolated reports whether this process came through Isolate.
func Isolated() bool { return os.Getenv(inside) != "" }

// Possible reports why no lab can be made here, or nil.
func Possible() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	for _, tool := range []string{"ip", "tc", "mount"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("network namespaces need %s (Debian: apt-get install iproute2)", tool)
		}
	}
	return nil
}

// Isolate runs this program again, with the same arguments, in network and mount
// namespaces of its own, and ends with its exit code. In there it returns nil at once.
// It fails where Possible does.
func Isolate() error {
	if Isolated() {
		return nil
	}
	if err := Possible(); err != nil {
		return err
	}
	me, err := os.Executable()
	if err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	if err := os.MkdirAll("/run/netns", 0o755); err != nil { // where a file system is mounted, inside
		return fmt.Errorf("lab: %w", err)
	}
	cmd := exec.Command(me, os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Unshareflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:    syscall.SIGTERM,
	}
	runtime.LockOSThread() // the death signal is of the thread that starts the child
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("lab: %w", err)
	}
	go func() {
		for s := range signals {
			_ = cmd.Process.Signal(s) // it may have ended: Wait tells
		}
	}()
	var ended *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &ended) {
		return fmt.Errorf("lab: %w", err)
	}
	code := cmd.ProcessState.ExitCode()
	if code < 0 { // by a signal
		code = 1
	}
	os.Exit(code)
	return nil
}

// Dial connects from inside the host, so that what listens on its loopback can be
// reached. addr must be an IP address with a port.
func (h Host) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if _, err := netip.ParseAddrPort(addr); err != nil {
		return nil, fmt.Errorf("lab: dial %s: %w", addr, err)
	}
	return onHost(h, func() (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, addr) // one address: dialled by this goroutine
	})
}

// onHost calls f on a thread that is in the host's network namespace; what f opens stays there.
func onHost[T any](h Host, f func() (T, error)) (T, error) {
	type opened struct {
		what T
		err  error
	}
	out := make(chan opened, 1)
	go func() {
		runtime.LockOSThread()
		back, err := enter("/run/netns/" + h.Name)
		if err != nil {
			out <- opened{err: fmt.Errorf("lab: enter %s: %w", h.Name, err)}
			return // with the thread, wherever it is
		}
		what, err := f()
		if back() == nil {
			runtime.UnlockOSThread() // else the thread ends with the goroutine, and nobody inherits its namespace
		}
		out <- opened{what, err}
	}()
	o := <-out
	return o.what, o.err
}

// enter moves the calling thread to a network namespace, and back.
func enter(name string) (back func() error, err error) {
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	there, err := os.Open(name)
	if err == nil {
		err = errors.Join(unix.Setns(int(there.Fd()), unix.CLONE_NEWNET), there.Close())
	}
	if err != nil {
		return nil, errors.Join(err, home.Close())
	}
	return func() error {
		return errors.Join(unix.Setns(int(home.Fd()), unix.CLONE_NEWNET), home.Close())
	}, nil
}
