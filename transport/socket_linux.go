package transport

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// The control message that carries the segment size of a super-datagram, see udp(7).
const (
	groLevel = unix.SOL_UDP
	groType  = unix.UDP_GRO
)

// enableGRO asks the kernel (Linux 5.0 or later) to merge received packets.
func enableGRO(conn *net.UDPConn) error {
	if unix.SizeofCmsghdr != cmsgHeaderBytes {
		return fmt.Errorf("control messages have headers of %d bytes here", unix.SizeofCmsghdr)
	}
	return withFD(conn, func(fd int) error {
		return unix.SetsockoptInt(fd, unix.IPPROTO_UDP, unix.UDP_GRO, 1)
	})
}

// growBuffers sets both buffers of the socket to socketBufferBytes, past the system's limit
// where the process may, and returns the size of the receive buffer.
func growBuffers(conn *net.UDPConn) (receiveBytes int, err error) {
	err = withFD(conn, func(fd int) error {
		for _, opt := range []struct{ force, plain int }{
			{unix.SO_RCVBUFFORCE, unix.SO_RCVBUF},
			{unix.SO_SNDBUFFORCE, unix.SO_SNDBUF},
		} {
			if unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt.force, socketBufferBytes) == nil {
				continue
			}
			if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, opt.plain, socketBufferBytes); err != nil {
				return fmt.Errorf("set the socket's buffers: %w", err)
			}
		}
		var err error
		receiveBytes, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF)
		return err
	})
	return receiveBytes, err
}

func withFD(conn *net.UDPConn, do func(fd int) error) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var inner error
	if err := raw.Control(func(fd uintptr) { inner = do(int(fd)) }); err != nil {
		return err
	}
	return inner
}
