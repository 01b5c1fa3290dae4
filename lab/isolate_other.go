//go:build !linux

package lab

import (
	"context"
	"errors"
	"net"
)

// Isolated reports whether this process came through Isolate.
func Isolated() bool { return false }

// Possible reports why no lab can be made here, or nil.
func Possible() error { return errors.New("network namespaces need Linux") }

// Isolate fails where Possible does.
func Isolate() error { return Possible() }

// Dial fails where Possible does.
func (h Host) Dial(context.Context, string, string) (net.Conn, error) {
	return onHost[net.Conn](h, nil)
}

func onHost[T any](Host, func() (T, error)) (nothing T, err error) { return nothing, Possible() }
