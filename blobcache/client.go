package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/starlingdeploy/starling"
)

// Dial opens a stream of the blob protocol to the process at addr.
type Dial func(ctx context.Context, addr string) (net.Conn, error)

// Bounds of a Client.
const (
	maxStreamsPerAddr = 64               // requests under way to one address; others wait
	maxIdlePerAddr    = 16               // streams kept for later
	clientIdle        = 20 * time.Second // how long; less than the server's patience
	exchangeTimeout   = 60 * time.Second // one request with its response, besides any wait asked for
)

// Client speaks the blob protocol to any number of peers. It keeps streams for later
// requests. Safe for concurrent use.
//
// Errors wrap ErrNotFound, ErrUnavailable (unreachable or busy: try another, or
// later), ErrForbidden, ErrCorrupt or ErrFull.
type Client struct {
	// Role says as what this process acts towards peers, for their accounting, when its
	// certificate has several roles. Set it before the first call.
	Role starling.Role

	streams *streams
}

// NewClient returns a client that reaches peers by dial. Close it in the end.
func NewClient(dial Dial) *Client { return &Client{streams: newStreams(dial)} }

// Close closes idle streams. Requests under way go on; their streams close after.
func (c *Client) Close() { c.streams.close() }

// Fetch says what to get, beyond the digest.
type Fetch struct {
	Digest   starling.Digest
	Artifact starling.Digest // what it is for; zero: not said
	Wait     time.Duration   // how long the peer may wait for the chunk to arrive, 30 s at most
	// Unchecked leaves the check against Digest to the caller, who must not use the data before it.
	Unchecked bool
	// Answered, if not nil, is set to the time at which the first bytes of the chunk came.
	Answered *time.Time
}

// Get fetches a chunk into buf, or a larger one if buf is too short, and checks it.
func (c *Client) Get(ctx context.Context, addr string, d starling.Digest, buf []byte) ([]byte, error) {
	return c.Fetch(ctx, addr, Fetch{Digest: d}, buf)
}

// Fetch is Get with more to say. ErrCorrupt: the peer sent something else.
func (c *Client) Fetch(ctx context.Context, addr string, f Fetch, buf []byte) ([]byte, error) {
	data, err := c.fetch(ctx, addr, f, buf)
	if err == nil && !f.Unchecked && starling.DigestOf(data) != f.Digest {
		err = fmt.Errorf("get chunk %s from %s: %w", f.Digest.Short(), addr, starling.ErrCorrupt)
	}
	if err != nil {
		return nil, err
	}
	return data, nil
}

// fetch is Fetch for callers that check the data themselves.
func (c *Client) fetch(ctx context.Context, addr string, f Fetch, buf []byte) ([]byte, error) {
	wait := min(max(f.Wait, 0), maxWaitMS*time.Millisecond)
	q := request{op: opGet, arg: uint32(wait / time.Millisecond), digest: f.Digest, artifact: f.Artifact}
	err := c.exchange(ctx, addr, q, nil, func(r io.Reader, size int) error {
		if cap(buf) < size {
			buf = make([]byte, size)
		}
		buf = buf[:size]
		n, err := io.ReadAtLeast(r, buf, 1)
		if f.Answered != nil {
			*f.Answered = time.Now()
		}
		if err == nil {
			_, err = io.ReadFull(r, buf[n:])
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get chunk %s from %s: %w", f.Digest.Short(), addr, err)
	}
	return buf, nil
}

// Put uploads a chunk; when it returns nil, the peer holds it durably.
func (c *Client) Put(ctx context.Context, addr string, d starling.Digest, data []byte) error {
	if err := checkChunk(d, data); err != nil {
		return err
	}
	q := request{op: opPut, arg: uint32(len(data)), digest: d}
	if err := c.exchange(ctx, addr, q, data, nil); err != nil {
		return fmt.Errorf("put chunk %s to %s: %w", d.Short(), addr, err)
	}
	return nil
}

// Has reports for each digest whether the peer holds the chunk.
func (c *Client) Has(ctx context.Context, addr string, ds []starling.Digest) ([]bool, error) {
	out := make([]bool, 0, len(ds))
	body := make([]byte, 0, min(len(ds), maxHasDigests)*digestBytes)
	for len(ds) > 0 {
		n := min(len(ds), maxHasDigests)
		body = body[:0]
		for _, d := range ds[:n] {
			body = append(body, d[:]...)
		}
		var bitmap [maxHasDigests / 8]byte
		err := c.exchange(ctx, addr, request{op: opHas, arg: uint32(n)}, body, func(r io.Reader, size int) error {
			_, err := io.ReadFull(r, bitmap[:size])
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("ask %s for chunks: %w", addr, err)
		}
		for i := range n {
			out = append(out, bitmap[i/8]&(1<<(i%8)) != 0)
		}
		ds = ds[n:]
	}
	return out, nil
}

// GetManifest fetches the envelope of an artifact's manifest. It is not verified.
func (c *Client) GetManifest(ctx context.Context, addr string, artifact starling.Digest) ([]byte, error) {
	var envelope bytes.Buffer
	err := c.exchange(ctx, addr, request{op: opGetManifest, digest: artifact}, nil, func(r io.Reader, size int) error {
		_, err := io.CopyN(&envelope, r, int64(size)) // grows as bytes come, not as the peer promises
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get manifest %s from %s: %w", artifact.Short(), addr, err)
	}
	return envelope.Bytes(), nil
}

// PutManifest uploads the envelope of an artifact's manifest.
func (c *Client) PutManifest(ctx context.Context, addr string, artifact starling.Digest, envelope []byte) error {
	if err := checkEnvelope(artifact, envelope); err != nil {
		return err
	}
	q := request{op: opPutManifest, arg: uint32(len(envelope)), digest: artifact}
	if err := c.exchange(ctx, addr, q, envelope, nil); err != nil {
		return fmt.Errorf("put manifest %s to %s: %w", artifact.Short(), addr, err)
	}
	return nil
}

// GetAccount asks a machine how an artifact came to it; the answer is to be read by
// starling.DecodeAccount. Only servers are told.
func (c *Client) GetAccount(ctx context.Context, addr string, artifact starling.Digest) ([]byte, error) {
	var account bytes.Buffer
	err := c.exchange(ctx, addr, request{op: opGetAccount, digest: artifact}, nil, func(r io.Reader, size int) error {
		_, err := io.CopyN(&account, r, int64(size))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("get account of %s from %s: %w", artifact.Short(), addr, err)
	}
	return account.Bytes(), nil
}

// exchange sends one request and has receive read what follows an OK response. A
// stream kept from before may have been closed by the peer meanwhile: then it tries
// once more on a new one. All requests may be repeated safely.
func (c *Client) exchange(ctx context.Context, addr string, q request, body []byte, receive func(r io.Reader, size int) error) error {
	q.role = c.Role
	release, err := c.streams.enter(ctx, addr)
	if err != nil {
		return err
	}
	defer release()
	if conn := c.streams.idle(addr); conn != nil {
		answered, err := c.exchangeOn(ctx, conn, addr, q, body, receive)
		if answered || err == nil || ctx.Err() != nil {
			return err
		}
	}
	conn, err := c.streams.dial(ctx, addr)
	if err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return unavailable(err)
	}
	_, err = c.exchangeOn(ctx, conn, addr, q, body, receive)
	return err
}

// exchangeOn uses conn up: it keeps it for later after a full exchange and closes it
// otherwise. answered reports whether the peer sent anything.
func (c *Client) exchangeOn(ctx context.Context, conn net.Conn, addr string, q request, body []byte, receive func(r io.Reader, size int) error) (answered bool, err error) {
	deadline := exchangeTimeout
	if q.op == opGet || q.op == opGetPatch {
		deadline += time.Duration(q.arg) * time.Millisecond
	}
	err = conn.SetDeadline(time.Now().Add(deadline))
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) }) // a closed stream needs none
	whole := false
	if err == nil {
		answered, whole, err = talk(conn, q, body, receive)
	}
	stopped := stop()
	if whole && stopped && conn.SetDeadline(time.Time{}) == nil {
		c.streams.keep(addr, conn)
		return answered, err
	}
	_ = conn.Close() // it broke, or was cut off: err says so
	switch {
	case whole:
		return answered, err
	case ctx.Err() != nil:
		return answered, ctx.Err()
	case errors.Is(err, errProtocol):
		return answered, err
	default:
		return answered, unavailable(err)
	}
}

// unavailable is a failure of the network, unless it was the far side's refusal.
func unavailable(err error) error {
	if errors.Is(err, starling.ErrForbidden) || errors.Is(err, starling.ErrUnavailable) {
		return err
	}
	return fmt.Errorf("%w: %w", starling.ErrUnavailable, err)
}

// talk does one exchange. whole reports whether the stream is ready for the next,
// whatever the peer's answer was.
func talk(conn io.ReadWriter, q request, body []byte, receive func(r io.Reader, size int) error) (answered, whole bool, err error) {
	head := q.encode()
	if _, err := conn.Write(head[:]); err != nil {
		return false, false, err
	}
	if len(body) > 0 {
		if _, err := conn.Write(body); err != nil {
			return false, false, err
		}
	}
	p, err := readResponse(conn, q)
	if err != nil {
		return errors.Is(err, errProtocol) || errors.Is(err, io.ErrUnexpectedEOF), false, err
	}
	if p.status == statusOK && receive != nil {
		err := receive(conn, int(p.size))
		return true, err == nil, err
	}
	text := make([]byte, p.size)
	if _, err := io.ReadFull(conn, text); err != nil {
		return true, false, err
	}
	if p.status != statusOK {
		return true, true, p.status.err(string(text))
	}
	return true, true, nil
}
