package artifact

import (
	"encoding/binary"
	"fmt"

	"github.com/starlingdeploy/starling"
)

// A draft is the list of chunks that a build under way has brought to the caches of its
// region, in the order in which it did, so that others can fetch them before there is a
// manifest. It grows page by page. A page never changes and names the page before it by
// digest, so the newest page's digest stands for the whole list, and the pages are kept
// by the caches as chunks are. A draft promises nothing: chunks that it lists may be no
// part of the artifact in the end.
//
//	page
//	 0  "SDP1"
//	 4  number of the page, from 1 (4, big endian)
//	 8  digest of the page before; zero in page 1 (32)
//	40  chunks, 36 each: digest (32), size (4)
const (
	draftMagic      = "SDP1"
	draftHeadBytes  = 40
	draftChunkBytes = 36

	// MaxDraftPageChunks bounds a page: 72 KiB.
	MaxDraftPageChunks = 2048
	// MaxDraftPages bounds a draft. What a build uploads beyond it waits for the manifest.
	MaxDraftPages = 4096
)

// DraftPage is one page of a draft.
type DraftPage struct {
	Number   int
	Previous starling.Digest
	Chunks   []starling.Chunk
}

// Encode returns the bytes of a page, fit to be stored as a chunk.
func (p *DraftPage) Encode() []byte {
	b := make([]byte, 0, draftHeadBytes+draftChunkBytes*len(p.Chunks))
	b = append(b, draftMagic...)
	b = binary.BigEndian.AppendUint32(b, uint32(p.Number))
	b = append(b, p.Previous[:]...)
	for _, c := range p.Chunks {
		b = append(b, c.Digest[:]...)
		b = binary.BigEndian.AppendUint32(b, uint32(c.Size))
	}
	return b
}

// DecodeDraftPage reads a page from whoever sent it. ErrCorrupt: it breaks the format or a bound.
func DecodeDraftPage(b []byte) (*DraftPage, error) {
	bad := func(why string) error { return fmt.Errorf("draft page: %w: %s", starling.ErrCorrupt, why) }
	if len(b) < draftHeadBytes || string(b[:4]) != draftMagic {
		return nil, bad("not a page")
	}
	p := &DraftPage{Number: int(binary.BigEndian.Uint32(b[4:])), Previous: starling.Digest(b[8:draftHeadBytes])}
	body := b[draftHeadBytes:]
	switch {
	case p.Number < 1 || p.Number > MaxDraftPages:
		return nil, bad("page number out of bounds")
	case (p.Number == 1) != p.Previous.IsZero():
		return nil, bad("the first page, and only that, has none before it")
	case len(body) == 0 || len(body)%draftChunkBytes != 0 || len(body)/draftChunkBytes > MaxDraftPageChunks:
		return nil, bad("length out of bounds")
	}
	p.Chunks = make([]starling.Chunk, 0, len(body)/draftChunkBytes)
	for ; len(body) > 0; body = body[draftChunkBytes:] {
		c := starling.Chunk{Digest: starling.Digest(body[:32]), Size: int(binary.BigEndian.Uint32(body[32:]))}
		if c.Digest.IsZero() || c.Size < 1 || c.Size > starling.MaxChunkBytes {
			return nil, bad("a chunk without digest or of a size out of bounds")
		}
		p.Chunks = append(p.Chunks, c)
	}
	return p, nil
}
