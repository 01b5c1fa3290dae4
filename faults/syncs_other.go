//go:build !linux

package faults

import (
	"errors"
	"time"
)

// Syncs holds up syncs.
type Syncs struct{}

var errLinux = errors.New("faults: syncs are held up on Linux only")

// ListenSyncs fails where there is no seccomp.
func ListenSyncs(string) (*Syncs, error) { return nil, errLinux }

// Delay does nothing.
func (s *Syncs) Delay(string, time.Duration) {}

// Fail does nothing.
func (s *Syncs) Fail(string) {}

// Seen returns 0.
func (s *Syncs) Seen(string) int64 { return 0 }

// Close does nothing.
func (s *Syncs) Close() error { return nil }

// ExecTrapped fails where there is no seccomp.
func ExecTrapped(string, string, []string) error { return errLinux }
