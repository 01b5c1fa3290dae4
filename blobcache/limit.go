package blobcache

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// A cap is of bytes on the wire, as operators and switches count them; a Limit counts
// bytes of chunks. wireOverhead is between them: a full packet of 1,452 bytes of UDP
// holds 1,413 of a chunk behind QUIC's and the frame's headers and before the AEAD
// tag, and 42 of Ethernet, IPv4 and UDP come on top.
const wireOverhead = 1494.0 / 1413.0

// Bounds of a Limit. What it lets pass within any t seconds is at most its rate times
// t, and what burst allows on top after a time without use.
const (
	limitBurst    = 50 * time.Millisecond // of the rate, made up for after a pause
	limitPiece    = 10 * time.Millisecond // of the rate, moved at once
	minPieceBytes = 16 << 10
)

// Limit caps the rate of chunks' bytes over any number of streams, which share it
// evenly. Nil: no cap.
type Limit struct {
	bucket     *rate.Limiter
	pieceBytes atomic.Int64
}

// NewLimit returns a cap in bytes a second on the wire, nil for 0. It begins without
// credit: there is no burst at the start.
func NewLimit(bytesPerSecond int64) *Limit {
	if bytesPerSecond <= 0 {
		return nil
	}
	l := &Limit{bucket: rate.NewLimiter(0, 0)}
	l.bucket.AllowN(time.Now(), l.set(bytesPerSecond))
	return l
}

// Set changes the cap, to 1 byte a second at least. What waits within it goes on at the new one.
func (l *Limit) Set(bytesPerSecond int64) { l.set(max(bytesPerSecond, 1)) }

func (l *Limit) set(bytesPerSecond int64) (burst int) {
	r := float64(bytesPerSecond) / wireOverhead
	piece := max(minPieceBytes, int(r*limitPiece.Seconds()))
	burst = max(piece, int(r*limitBurst.Seconds()))
	// A piece may never be above the burst: the greater is there before it is used.
	if burst >= l.bucket.Burst() {
		l.bucket.SetBurst(burst)
		l.pieceBytes.Store(int64(piece))
	} else {
		l.pieceBytes.Store(int64(piece))
		l.bucket.SetBurst(burst)
	}
	l.bucket.SetLimit(rate.Limit(r))
	return burst
}

// bytesPerSecond returns the cap in bytes of chunks; 0: none.
func (l *Limit) bytesPerSecond() float64 {
	if l == nil {
		return 0
	}
	return float64(l.bucket.Limit())
}

// wait waits until n bytes may pass, a burst at a time: the cap may have fallen since they
// were cut.
func (l *Limit) wait(ctx context.Context, n int) error {
	for n > 0 {
		part := min(n, l.bucket.Burst())
		if err := l.bucket.WaitN(ctx, part); err == nil {
			n -= part
		} else if part <= l.bucket.Burst() { // else the cap fell in between
			return err
		}
	}
	return nil
}

// write writes b to w within the limit.
func (l *Limit) write(ctx context.Context, w net.Conn, b []byte) error {
	if l == nil {
		_, err := w.Write(b)
		return err
	}
	for len(b) > 0 {
		piece := b[:min(len(b), int(l.pieceBytes.Load()))]
		if err := l.wait(ctx, len(piece)); err != nil {
			return net.ErrClosed
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		b = b[len(piece):]
	}
	return nil
}

// Reads returns dial with what is read from its streams within the limit. The far
// side is slowed down by the streams' flow control.
func (l *Limit) Reads(dial Dial) Dial {
	if l == nil {
		return dial
	}
	return func(ctx context.Context, addr string) (net.Conn, error) {
		conn, err := dial(ctx, addr)
		if err != nil {
			return nil, err
		}
		life, cancel := context.WithCancel(context.Background()) // ended by Close
		return &limitedReads{Conn: conn, limit: l, closed: life, cancel: cancel}, nil
	}
}

// limitedReads is a stream that is read within a limit.
type limitedReads struct {
	net.Conn
	limit  *Limit
	closed context.Context // ends with Close
	cancel context.CancelFunc
}

// Read implements net.Conn.
func (c *limitedReads) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), int(c.limit.pieceBytes.Load()))])
	if n > 0 && c.limit.wait(c.closed, n) != nil {
		return n, net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c *limitedReads) Close() error {
	c.cancel()
	return c.Conn.Close()
}
