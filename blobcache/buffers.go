package blobcache

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/starlingdeploy/starling"
)

const minBufferBytes = 256 << 10

// buffers hands out buffers for chunks, in sizes from minBufferBytes doubling up to
// MaxChunkBytes, never more than a budget of bytes at once.
type buffers struct {
	budgetBytes int64
	budget      *semaphore.Weighted
	patient     time.Duration // how long to wait for the budget
	pools       [5]sync.Pool  // of *[]byte; 256 KiB << i
}

func newBuffers(budgetBytes int64, patience time.Duration) *buffers {
	budgetBytes = max(budgetBytes, starling.MaxChunkBytes)
	return &buffers{budgetBytes: budgetBytes, budget: semaphore.NewWeighted(budgetBytes), patient: patience}
}

// take returns a buffer of n bytes, ErrUnavailable if the budget is spent for long.
func (b *buffers) take(ctx context.Context, n int) (*[]byte, error) {
	class, size := 0, minBufferBytes
	for size < n {
		class, size = class+1, size*2
	}
	if err := b.reserve(ctx, int64(size)); err != nil {
		return nil, err
	}
	buf, ok := b.pools[class].Get().(*[]byte)
	if !ok {
		p := make([]byte, size)
		buf = &p
	}
	*buf = (*buf)[:n]
	return buf, nil
}

// reserve takes n bytes out of the budget for memory that comes from elsewhere; the
// caller gives them back with unreserve.
func (b *buffers) reserve(ctx context.Context, n int64) error {
	ctx, cancel := context.WithTimeout(ctx, b.patient)
	defer cancel()
	if err := b.budget.Acquire(ctx, min(n, b.budgetBytes)); err != nil {
		return fmt.Errorf("%w: too many transfers at once", starling.ErrUnavailable)
	}
	return nil
}

func (b *buffers) unreserve(n int64) { b.budget.Release(min(n, b.budgetBytes)) }

func (b *buffers) give(buf *[]byte) {
	size := cap(*buf)
	class := 0
	for s := minBufferBytes; s < size; s *= 2 {
		class++
	}
	b.pools[class].Put(buf)
	b.unreserve(int64(size))
}
