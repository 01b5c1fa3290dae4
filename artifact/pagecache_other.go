//go:build !linux

package artifact

import (
	"os"
	"sync/atomic"
)

func readAt(f *os.File, b []byte, at int64, _ *atomic.Bool) error {
	_, err := f.ReadAt(b, at)
	return err
}

func startWriteback(*os.File, int64, int64) {}

func evict(*os.File, int64, int64) error { return nil }

func holdsData(*os.File, int64, int64) bool { return true }
