package blobcache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/delta"
)

// getPatch answers a getp: with a patch, if it holds chunks of which a good one can be
// made, or with the chunk.
func (s *Server) getPatch(ctx context.Context, conn net.Conn, peer starling.Identity, q request) error {
	digests := make([]byte, q.bodyBytes())
	if _, err := io.ReadFull(conn, digests); err != nil {
		return err
	}
	size, ok, err := s.await(ctx, conn, q)
	if err != nil {
		return err
	}
	if !ok {
		return respond(conn, statusMissing, nil)
	}
	t, err := s.turn(ctx, q.artifact, size) // before anything takes memory
	if err != nil {
		return s.answer(ctx, conn, err)
	}
	defer t.done()
	bases, used, baseBytes := s.heldBases(digests, s.cfg.ReadBase != nil)
	switch data, known := s.cfg.Patcher.lookUp(patchKey(q.digest, bases)); {
	case data != nil:
		return s.sendPatch(ctx, conn, peer, q, t, used, data)
	case known:
		used, baseBytes = 0, 0
	}
	// The chunk, its bases, and the index of these, which is half as long.
	extra := int64(baseBytes + baseBytes/2)
	if err := s.buffers.reserve(ctx, extra); err != nil {
		return s.answer(ctx, conn, err)
	}
	defer s.buffers.unreserve(extra)
	return s.withChunk(ctx, conn, q, size, func(data []byte) error {
		if used == 0 {
			return s.sendPatch(ctx, conn, peer, q, t, 0, data)
		}
		read := ReadChunk(s.cfg.Source.Chunk).orElse(s.cfg.ReadBase)
		patch, err := s.cfg.Patcher.make(ctx, read, q.digest, data, bases)
		if err != nil && s.cfg.ReadBase != nil { // then with what is here
			if bases, used, _ = s.heldBases(digests, false); used != 0 {
				patch, err = s.cfg.Patcher.make(ctx, s.cfg.Source.Chunk, q.digest, data, bases)
			}
		}
		if err != nil { // the chunk does as well
			s.cfg.Logger.Debug("no patch can be made", "digest", q.digest.String(), "error", err)
		} else if patch != nil {
			return s.sendPatch(ctx, conn, peer, q, t, used, patch)
		}
		return s.sendPatch(ctx, conn, peer, q, t, 0, data)
	})
}

// heldBases returns those of the digests whose chunks this node can read, here or also
// nearby, as many as may be used together, in order, and a bit for each. The size of a
// chunk that lies elsewhere is not known; most are shorter than what it is taken for.
func (s *Server) heldBases(digests []byte, nearby bool) (bases []starling.Digest, used byte, bytes int) {
	for i := range len(digests) / digestBytes {
		d := starling.Digest(digests[i*digestBytes:])
		size, ok := s.cfg.Source.Stat(d)
		if !ok && nearby {
			size, ok = delta.MaxBaseBytes/delta.MaxBases*2, true
		}
		if ok && bytes+size <= delta.MaxBaseBytes {
			bases, used, bytes = append(bases, d), used|1<<i, bytes+size
		}
	}
	return bases, used, bytes
}

// sendPatch sends a patch against the used bases, or with none a chunk.
func (s *Server) sendPatch(ctx context.Context, conn net.Conn, peer starling.Identity, q request, t *turn, used byte, data []byte) error {
	if err := s.deadline(ctx, conn, transferTimeout); err != nil {
		return err
	}
	head := response{status: statusOK, size: uint32(1 + len(data))}.encode()
	if _, err := conn.Write(append(head[:], used)); err != nil {
		return err
	}
	return s.transmit(ctx, conn, peer, q, t, data)
}

// Patch is what a peer sent for a chunk.
type Patch struct {
	Data  []byte            // a patch, or the chunk itself
	Bases []starling.Digest // what the patch is against; none: Data is the chunk
}

// FetchPatch is Fetch for a caller that holds other chunks, delta.MaxBases at most, of
// which the wanted one may be made with little: the peer sends a patch against some of
// them, or else the chunk. Nothing is checked: the caller must check what it makes of it.
func (c *Client) FetchPatch(ctx context.Context, addr string, f Fetch, bases []starling.Digest, buf []byte) (Patch, error) {
	if len(bases) == 0 {
		data, err := c.fetch(ctx, addr, f, buf)
		return Patch{Data: data}, err
	}
	wait := min(max(f.Wait, 0), maxWaitMS*time.Millisecond)
	bases = bases[:min(len(bases), delta.MaxBases)]
	q := request{op: opGetPatch, arg: uint32(wait / time.Millisecond), digest: f.Digest, artifact: f.Artifact, bases: uint8(len(bases))}
	body := make([]byte, 0, len(bases)*digestBytes)
	for _, d := range bases {
		body = append(body, d[:]...)
	}
	var used [1]byte
	err := c.exchange(ctx, addr, q, body, func(r io.Reader, size int) error {
		if _, err := io.ReadFull(r, used[:]); err != nil {
			return err
		}
		if f.Answered != nil {
			*f.Answered = time.Now()
		}
		if size--; cap(buf) < size {
			buf = make([]byte, size)
		}
		buf = buf[:size]
		_, err := io.ReadFull(r, buf)
		return err
	})
	if err == nil && int(used[0]) >= 1<<len(bases) {
		err = fmt.Errorf("%w: a patch against bases that were not named", errors.Join(errProtocol, starling.ErrCorrupt))
	}
	if err != nil {
		return Patch{}, fmt.Errorf("get patch for chunk %s from %s: %w", f.Digest.Short(), addr, err)
	}
	p := Patch{Data: buf}
	for i, d := range bases {
		if used[0]&(1<<i) != 0 {
			p.Bases = append(p.Bases, d)
		}
	}
	return p, nil
}
