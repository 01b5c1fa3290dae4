package world

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// Worlds on one computer, those of tests that run side by side for instance, take blocks
// of ports below the ones that the kernel deals out (32768 and above on Linux), each
// under a lock of its own: a port stays a process's while it is down.
const (
	firstPort  = 10240
	blockPorts = 256
	portBlocks = 88
)

// ports deals out loopback ports of the blocks that this world holds.
type ports struct {
	locks []*os.File // of the blocks held; the kernel unlocks them when this process ends
	block int        // to look at next
	next  int        // port to deal out
	left  int        // in the present block
}

// take returns a port of 127.0.0.1 that is free for TCP and UDP.
func (p *ports) take() (int, error) {
	for {
		for ; p.left > 0; p.left-- {
			port := p.next
			p.next++
			if free(port) {
				p.left--
				return port, nil
			}
		}
		if err := p.hold(); err != nil {
			return 0, err
		}
	}
}

// hold locks the next block that no other world has.
func (p *ports) hold() error {
	for ; p.block < portBlocks; p.block++ {
		name := filepath.Join(os.TempDir(), fmt.Sprintf("starling-ports-%d.lock", p.block))
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return fmt.Errorf("free ports: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
			f.Close()
			continue
		}
		p.locks = append(p.locks, f)
		p.next, p.left = firstPort+p.block*blockPorts, blockPorts
		p.block++
		return nil
	}
	return errors.New("free ports: other worlds on this computer have them all: stop some")
}

// release gives the blocks back.
func (p *ports) release() {
	for _, f := range p.locks {
		f.Close()
	}
	*p = ports{}
}

// free reports whether nobody uses a port now.
func free(port int) bool {
	addr := loopback(port)
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return false
	}
	defer l.Close()
	u, err := net.ListenPacket("udp", addr)
	if err != nil {
		return false
	}
	return u.Close() == nil
}

func loopback(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
