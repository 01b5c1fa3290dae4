package agent

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// The frames of a link between two machines, big endian. A frame is a head, its
// type (1 byte) and the length of its body (4 bytes), and the body:
//
//	type           body
//	1 hello        version (1)
//	2 announce     artifact (32), flags (1), if flagAll: length (4) and bitmap, then
//	               chunk indices (4 each) to the end
//
// Each side begins with a hello; the accepting side answers the dialler's, or
// closes the stream to refuse the link. After that both announce, in any order.
// An unknown type is skipped, so that later versions may add some.
const (
	frameHello    = 1
	frameAnnounce = 2

	flagHello = 1 << 0 // answer with all that you hold
	flagAll   = 1 << 1 // a bitmap that replaces what was known

	linkVersion = 1
)

// Bounds of a frame.
const (
	frameHeadBytes    = 5
	maxFrameBytes     = 128 << 10
	maxBitmapBytes    = (starling.MaxChunks + 7) / 8
	maxAnnounceChunks = 8192
	announceMinBytes  = len(starling.Digest{}) + 1
)

// appendHello appends a hello frame.
func appendHello(b []byte) []byte {
	return append(b, frameHello, 0, 0, 0, 1, linkVersion)
}

// appendAnnounce appends an announce frame.
func appendAnnounce(b []byte, a swarm.Announce) ([]byte, error) {
	if len(a.All) > maxBitmapBytes || len(a.Chunks) > maxAnnounceChunks {
		return b, fmt.Errorf("announce: %d bytes of bitmap and %d chunks are too many", len(a.All), len(a.Chunks))
	}
	size := announceMinBytes + 4*len(a.Chunks)
	var flags byte
	if a.Hello {
		flags |= flagHello
	}
	if a.All != nil {
		flags |= flagAll
		size += 4 + len(a.All)
	}
	b = append(b, frameAnnounce)
	b = binary.BigEndian.AppendUint32(b, uint32(size))
	b = append(b, a.Artifact[:]...)
	b = append(b, flags)
	if a.All != nil {
		b = binary.BigEndian.AppendUint32(b, uint32(len(a.All)))
		b = append(b, a.All...)
	}
	for _, c := range a.Chunks {
		b = binary.BigEndian.AppendUint32(b, c)
	}
	return b, nil
}

// decodeAnnounce reads the body of an announce frame. The result shares nothing with b.
func decodeAnnounce(b []byte) (swarm.PeerHas, error) {
	var has swarm.PeerHas
	if len(b) < announceMinBytes {
		return has, fmt.Errorf("announce: %d bytes are too few: %w", len(b), starling.ErrCorrupt)
	}
	copy(has.Artifact[:], b)
	flags := b[len(has.Artifact)]
	b = b[announceMinBytes:]
	if flags&^(flagHello|flagAll) != 0 {
		return has, fmt.Errorf("announce: unknown flags %#x: %w", flags, starling.ErrCorrupt)
	}
	has.Hello = flags&flagHello != 0
	if flags&flagAll != 0 {
		if len(b) < 4 {
			return has, fmt.Errorf("announce: cut short: %w", starling.ErrCorrupt)
		}
		n := binary.BigEndian.Uint32(b)
		b = b[4:]
		if n > maxBitmapBytes || int(n) > len(b) {
			return has, fmt.Errorf("announce: a bitmap of %d bytes: %w", n, starling.ErrCorrupt)
		}
		has.All = append(make(swarm.Bitmap, 0, n), b[:n]...)
		b = b[n:]
	}
	if len(b)%4 != 0 || len(b)/4 > maxAnnounceChunks {
		return has, fmt.Errorf("announce: %d bytes of chunks: %w", len(b), starling.ErrCorrupt)
	}
	if len(b) > 0 {
		has.Chunks = make([]uint32, len(b)/4)
		for i := range has.Chunks {
			has.Chunks[i] = binary.BigEndian.Uint32(b[4*i:])
		}
	}
	return has, nil
}

// readFrame reads one frame into buf, which it grows if need be, up to maxFrameBytes.
func readFrame(r io.Reader, buf []byte) (kind byte, body, next []byte, err error) {
	var head [frameHeadBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, buf, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > maxFrameBytes {
		return 0, nil, buf, fmt.Errorf("a frame of %d bytes, more than %d: %w", n, maxFrameBytes, starling.ErrCorrupt)
	}
	if cap(buf) < int(n) {
		buf = make([]byte, n)
	}
	buf = buf[:n]
	if _, err := io.ReadFull(r, buf); err != nil {
		return 0, nil, buf, fmt.Errorf("a frame cut short: %w", err)
	}
	return head[0], buf, buf, nil
}

// readHello reads the frame that must come first.
func readHello(r io.Reader) error {
	kind, body, _, err := readFrame(r, nil)
	if err != nil {
		return fmt.Errorf("hello: %w", err)
	}
	if kind != frameHello || len(body) < 1 {
		return fmt.Errorf("hello: got frame type %d: %w", kind, starling.ErrCorrupt)
	}
	if body[0] != linkVersion {
		return fmt.Errorf("hello: version %d is not supported (this program speaks %d)", body[0], linkVersion)
	}
	return nil
}
