package agent

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

func TestAnnounceSurvivesTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var all swarm.Bitmap
		if rapid.Bool().Draw(t, "all") {
			all = append(swarm.Bitmap{}, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "bitmap")...)
		}
		a := swarm.Announce{Artifact: starling.DigestOf(rapid.SliceOf(rapid.Byte()).Draw(t, "artifact")), Hello: rapid.Bool().Draw(t, "hello"),
			All: all, Chunks: rapid.SliceOfN(rapid.Uint32(), 0, 300).Draw(t, "chunks")}
		b, err := appendAnnounce(appendHello(nil), a)
		if err != nil {
			t.Fatal(err)
		}
		r := bytes.NewReader(b)
		if err := readHello(r); err != nil {
			t.Fatal(err)
		}
		kind, body, _, err := readFrame(r, nil)
		if err != nil || kind != frameAnnounce || r.Len() != 0 {
			t.Fatalf("type %d, %d bytes left, %v", kind, r.Len(), err)
		}
		got, err := decodeAnnounce(body)
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Chunks) == 0 {
			a.Chunks = nil
		}
		if want := (swarm.PeerHas{Artifact: a.Artifact, Hello: a.Hello, All: a.All, Chunks: a.Chunks}); !reflect.DeepEqual(got, want) {
			t.Fatalf("got %+v, want %+v", got, want)
		}
	})
}

func TestLargestAnnounceFitsAFrame(t *testing.T) {
	b, err := appendAnnounce(nil, swarm.Announce{All: swarm.NewBitmap(starling.MaxChunks), Chunks: make([]uint32, maxAnnounceChunks)})
	if err != nil {
		t.Fatal(err)
	}
	if len(b)-frameHeadBytes > maxFrameBytes {
		t.Errorf("%d bytes", len(b))
	}
	if _, err := appendAnnounce(nil, swarm.Announce{Chunks: make([]uint32, maxAnnounceChunks+1)}); err == nil {
		t.Error("too many chunks were sent")
	}
}

func TestBadFramesAreRefused(t *testing.T) {
	digest := make([]byte, 32)
	tests := map[string][]byte{
		"empty":                  {},
		"short digest":           digest[:31],
		"no flags":               digest,
		"unknown flag":           append(bytes.Clone(digest), 0x80),
		"bitmap without length":  append(bytes.Clone(digest), flagAll, 0, 0),
		"bitmap longer than all": append(bytes.Clone(digest), flagAll, 0, 0, 1, 0, 1),
		"half an index":          append(bytes.Clone(digest), 0, 1, 2),
		"huge bitmap":            append(bytes.Clone(digest), flagAll, 0xff, 0xff, 0xff, 0xff),
	}
	for name, body := range tests {
		if _, err := decodeAnnounce(body); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	head := binary.BigEndian.AppendUint32([]byte{frameAnnounce}, maxFrameBytes+1)
	if _, _, _, err := readFrame(bytes.NewReader(head), nil); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("huge frame: %v", err)
	}
	if _, _, _, err := readFrame(bytes.NewReader([]byte{frameAnnounce, 0, 0, 0, 9, 1}), nil); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut frame: %v", err)
	}
	if err := readHello(bytes.NewReader([]byte{frameHello, 0, 0, 0, 1, linkVersion + 1})); err == nil {
		t.Error("a later version was accepted")
	}
	if err := readHello(bytes.NewReader([]byte{frameAnnounce, 0, 0, 0, 0})); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("no hello: %v", err)
	}
}

func FuzzLinkFrames(f *testing.F) {
	good, err := appendAnnounce(appendHello(nil), swarm.Announce{Hello: true, All: swarm.Bitmap{1, 2}, Chunks: []uint32{7}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add(good[6:])
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		_ = readHello(r) // any error will do
		var buf []byte
		for {
			kind, body, next, err := readFrame(r, buf)
			if err != nil {
				return
			}
			if cap(next) > maxFrameBytes {
				t.Fatalf("a buffer of %d bytes", cap(next))
			}
			buf = next
			if kind != frameAnnounce {
				continue
			}
			has, err := decodeAnnounce(body)
			if err != nil {
				continue
			}
			again, err := appendAnnounce(nil, swarm.Announce{Artifact: has.Artifact, Hello: has.Hello, All: has.All, Chunks: has.Chunks})
			if err != nil || !bytes.Equal(again[frameHeadBytes:], body) {
				t.Fatalf("%x decodes to %+v, which encodes to %x (%v)", body, has, again, err)
			}
		}
	})
}
