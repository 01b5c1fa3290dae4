package blobcache

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/delta"
)

func TestRequestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := request{
			op:   rapid.SampledFrom([]op{opGet, opPut, opHas, opGetManifest, opPutManifest, opGetPatch, opGetAccount}).Draw(t, "op"),
			role: rapid.SampledFrom(roleCodes[:]).Draw(t, "role"),
		}
		copy(q.digest[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "digest"))
		copy(q.artifact[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "artifact"))
		switch q.op {
		case opGetPatch:
			q.bases = rapid.Uint8Range(1, delta.MaxBases).Draw(t, "bases")
			q.arg = rapid.Uint32Range(0, maxWaitMS).Draw(t, "wait")
		case opGet:
			q.arg = rapid.Uint32Range(0, maxWaitMS).Draw(t, "wait")
		case opPut:
			q.arg = rapid.Uint32Range(1, starling.MaxChunkBytes).Draw(t, "size")
		case opHas:
			q.arg = rapid.Uint32Range(1, maxHasDigests).Draw(t, "n")
		case opPutManifest:
			q.arg = rapid.Uint32Range(1, artifact.MaxEnvelopeBytes).Draw(t, "size")
		}
		if got, err := decodeRequest(q.encode()); err != nil || got != q {
			t.Fatalf("got %+v, %v; want %+v", got, err, q)
		}
	})
}

func TestDecodeRequestRefuses(t *testing.T) {
	good := request{op: opPut, arg: 5}.encode()
	for name, edit := range map[string]func(b *[requestBytes]byte){
		"version":           func(b *[requestBytes]byte) { b[0] = 2 },
		"no operation":      func(b *[requestBytes]byte) { b[1] = 0 },
		"unknown operation": func(b *[requestBytes]byte) { b[1] = 200 },
		"unknown role":      func(b *[requestBytes]byte) { b[2] = 5 },
		"reserved byte":     func(b *[requestBytes]byte) { b[3] = 1 },
		"chunk too large":   func(b *[requestBytes]byte) { b[4] = 1 },
		"empty chunk":       func(b *[requestBytes]byte) { b[7] = 0 },
		"long wait":         func(b *[requestBytes]byte) { b[1], b[5] = byte(opGet), 1 },
		"no digests":        func(b *[requestBytes]byte) { b[1], b[7] = byte(opHas), 0 },
		"many digests":      func(b *[requestBytes]byte) { b[1], b[6] = byte(opHas), 0x20 },
		"argument to getm":  func(b *[requestBytes]byte) { b[1] = byte(opGetManifest) },
		"no bases":          func(b *[requestBytes]byte) { b[1] = byte(opGetPatch) },
		"many bases":        func(b *[requestBytes]byte) { b[1], b[3] = byte(opGetPatch), delta.MaxBases+1 },
		"bases of a get":    func(b *[requestBytes]byte) { b[1], b[3] = byte(opGet), 1 },
		"argument to geta":  func(b *[requestBytes]byte) { b[1] = byte(opGetAccount) },
		"huge manifest":     func(b *[requestBytes]byte) { b[1], b[4] = byte(opPutManifest), 0xff },
	} {
		b := good
		edit(&b)
		if q, err := decodeRequest(b); !errors.Is(err, errProtocol) {
			t.Errorf("%s: got %+v, %v", name, q, err)
		}
	}
}

func TestStatusesCarryErrors(t *testing.T) {
	for _, want := range []error{starling.ErrNotFound, starling.ErrUnavailable, starling.ErrForbidden, starling.ErrCorrupt, ErrFull} {
		if got := statusOf(want).err("why"); !errors.Is(got, want) {
			t.Errorf("%v became %v", want, got)
		}
	}
	if got := statusOf(io.ErrNoProgress); got != statusError {
		t.Errorf("status %d", got)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	b := request{op: opGet, role: starling.RoleMachine, arg: 1000, digest: starling.Digest{1}}.encode()
	f.Add(b[:])
	b = request{op: opGetPatch, arg: 1000, digest: starling.Digest{1}, bases: 3}.encode()
	f.Add(b[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readRequest(bytes.NewReader(b))
		if err != nil {
			return
		}
		if again := q.encode(); !bytes.Equal(again[:], b[:requestBytes]) {
			t.Errorf("%x reads as another request", b)
		}
		if q.bodyBytes() > artifact.MaxEnvelopeBytes {
			t.Errorf("a body of %d bytes", q.bodyBytes())
		}
	})
}

func FuzzTalk(f *testing.F) {
	ok := response{status: statusOK, size: 3}.encode()
	missing := response{status: statusMissing}.encode()
	f.Add(append(ok[:], "abc"...))
	f.Add(missing[:])
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, q := range []request{{op: opGet}, {op: opPut, arg: 1}, {op: opHas, arg: 20}, {op: opGetManifest}, {op: opGetPatch, bases: 2}, {op: opGetAccount}} {
			r := bytes.NewReader(b)
			_, whole, err := talk(struct {
				io.Reader
				io.Writer
			}{r, io.Discard}, q, nil, func(r io.Reader, size int) error {
				_, err := io.CopyN(io.Discard, r, int64(size))
				return err
			})
			if err == nil && !whole {
				t.Error("no error, but the stream is not ready for the next request")
			}
		}
	})
}
