package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const (
	maxEnvironBytes = 1 << 20
	orphanWait      = 5 * time.Second
)

// killOrphans kills what an agent that was killed left behind of an app: its
// child dies with it, but the child's own children need not. They are known by
// envAppDir in their environment. It returns how many it killed.
func killOrphans(ctx context.Context, dir appDir) (int, error) {
	mark := []byte(envAppDir + "=" + string(dir))
	buf := make([]byte, maxEnvironBytes)
	killed := 0
	deadline := time.Now().Add(orphanWait)
	for {
		left, err := killMarked(mark, buf)
		if err != nil {
			return killed, fmt.Errorf("kill orphans: %w", err)
		}
		killed += left
		if left == 0 {
			return killed, nil
		}
		if time.Now().After(deadline) {
			return killed, fmt.Errorf("kill orphans: %d processes do not end", left)
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return killed, ctx.Err()
		}
	}
}

// killMarked kills every process whose environment, read into buf, holds mark.
func killMarked(mark, buf []byte) (int, error) {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	n := 0
	for _, e := range procs {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		// The descriptor is taken first, so that what is read and what is killed are the same process.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue // it has ended
		}
		if hasEnv(pid, mark, buf) {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			if err == nil {
				n++
			} else if errors.Is(err, unix.ESRCH) {
				err = nil
			}
		}
		if err := errors.Join(err, unix.Close(fd)); err != nil {
			return n, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return n, nil
}

// hasEnv reports whether a process's environment holds the entry mark. Those of
// other users cannot be read, nor have they one: what the agent starts is its user's.
func hasEnv(pid int, mark, buf []byte) bool {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return false
	}
	defer f.Close()
	n := 0
	for n < len(buf) {
		k, err := f.Read(buf[n:])
		n += k
		if err != nil {
			break
		}
	}
	for entry := range bytes.SplitSeq(buf[:n], []byte{0}) {
		if bytes.Equal(entry, mark) {
			return true
		}
	}
	return false
}
