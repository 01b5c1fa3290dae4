//go:build !(linux && amd64)

package faults

import (
	"errors"
	"time"
)

// Clock is the wall clock of one process.
type Clock struct{}

// TakeClock fails where there is no way to step one process's clock.
func TakeClock(int) (*Clock, error) {
	return nil, errors.New("faults: the clock of one process is stepped on Linux and amd64 only")
}

// Step does nothing.
func (c *Clock) Step(time.Duration) error { return nil }

// Close does nothing.
func (c *Clock) Close() error { return nil }
