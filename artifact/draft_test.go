package artifact

import (
	"errors"
	"reflect"
	"testing"

	"github.com/starlingdeploy/starling"
)

func TestDraftPage(t *testing.T) {
	one := starling.Chunk{Digest: starling.DigestOf([]byte("a")), Size: 1}
	page := &DraftPage{Number: 2, Previous: starling.DigestOf([]byte("page 1")), Chunks: []starling.Chunk{one, {Digest: one.Digest, Size: starling.MaxChunkBytes}}}
	got, err := DecodeDraftPage(page.Encode())
	if err != nil || !reflect.DeepEqual(got, page) {
		t.Fatalf("%+v, %v", got, err)
	}
	for name, bad := range map[string]*DraftPage{
		"number 0":               {Number: 0, Chunks: page.Chunks},
		"page 1 with a previous": {Number: 1, Previous: page.Previous, Chunks: page.Chunks},
		"page 2 without":         {Number: 2, Chunks: page.Chunks},
		"too many pages":         {Number: MaxDraftPages + 1, Previous: page.Previous, Chunks: page.Chunks},
		"no chunk":               {Number: 1},
		"too many chunks":        {Number: 1, Chunks: make([]starling.Chunk, MaxDraftPageChunks+1)},
		"a chunk of no bytes":    {Number: 1, Chunks: []starling.Chunk{{Digest: one.Digest}}},
		"a chunk too large":      {Number: 1, Chunks: []starling.Chunk{{Digest: one.Digest, Size: starling.MaxChunkBytes + 1}}},
		"a chunk without digest": {Number: 1, Chunks: []starling.Chunk{{Size: 1}}},
	} {
		if p, err := DecodeDraftPage(bad.Encode()); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func FuzzDraftPage(f *testing.F) {
	page := &DraftPage{Number: 1, Chunks: []starling.Chunk{{Digest: starling.DigestOf([]byte("a")), Size: 1}}}
	f.Add(page.Encode())
	f.Add([]byte("SDP1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := DecodeDraftPage(b)
		if err == nil && string(p.Encode()) != string(b) {
			t.Errorf("%x becomes %x", b, p.Encode())
		}
	})
}
