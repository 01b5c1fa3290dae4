//go:build !linux

package transport

import (
	"errors"
	"net"
)

const (
	groLevel = 0
	groType  = 0
)

func enableGRO(*net.UDPConn) error { return errors.ErrUnsupported }

func growBuffers(conn *net.UDPConn) (receiveBytes int, err error) {
	if err := conn.SetReadBuffer(socketBufferBytes); err != nil {
		return 0, err
	}
	return socketBufferBytes, conn.SetWriteBuffer(socketBufferBytes)
}
