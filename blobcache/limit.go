package blobcache

import (
	"context"
	"net"
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
	pieceBytes int
}

// NewLimit returns a cap in bytes a second on the wire, nil for 0. It begins without
// credit: there is no burst at the start.
func NewLimit(bytesPerSecond int64) *Limit {
	if bytesPerSecond <= 0 {
		return nil
	}
	r := float64(bytesPerSecond) / wireOverhead
	piece := max(minPieceBytes, int(r*limitPiece.Seconds()))
	burst := max(piece, int(r*limitBurst.Seconds()))
	l := &Limit{bucket: rate.NewLimiter(rate.Limit(r), burst), pieceBytes: piece}
	l.bucket.AllowN(time.Now(), burst)
	return l
}

// write writes b to w within the limit.
func (l *Limit) write(ctx context.Context, w net.Conn, b []byte) error {
	if l == nil {
		_, err := w.Write(b)
		return err
	}
	for len(b) > 0 {
		piece := b[:min(len(b), l.pieceBytes)]
		if err := l.bucket.WaitN(ctx, len(piece)); err != nil {
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
	n, err := c.Conn.Read(b[:min(len(b), c.limit.pieceBytes)])
	if n > 0 && c.limit.bucket.WaitN(c.closed, n) != nil {
		return n, net.ErrClosed
	}
	return n, err
}

// Close implements net.Conn.
func (c *limitedReads) Close() error {
	c.cancel()
	return c.Conn.Close()
}
