package delta

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

// noise returns n bytes that do not repeat, the same for a seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16)}).Read(b) // never fails
	return b
}

// overwrite returns a copy of b with n pieces of new bytes, spread evenly with jitter.
func overwrite(b []byte, n, piece int) []byte {
	out := bytes.Clone(b)
	rng := rand.New(rand.NewPCG(uint64(n), uint64(piece)))
	for i := range n {
		at := i * (len(b) / n)
		copy(out[at+rng.IntN(len(b)/n-piece+1):], noise(uint64(1000+i), piece))
	}
	return out
}

func TestPatchesAreSmall(t *testing.T) {
	base := noise(1, 1<<20)
	moved := slices.Concat(base[700<<10:], base[:700<<10])
	for _, c := range []struct {
		name   string
		target []byte
		limit  int // of the patch, in bytes
	}{
		{"nothing changed", base, 16},
		{"a byte changed", overwrite(base, 1, 1), 32},
		{"5 % in pieces of 4 KiB", overwrite(base, 13, 4<<10), 13*(4<<10) + 13*16},
		{"5 % in one piece", overwrite(base, 1, 52<<10), 52<<10 + 32},
		{"5 % in pieces of 64 bytes", overwrite(base, 819, 64), 819 * (64 + 8)},
		{"an insertion", slices.Concat(base[:300_001], noise(2, 5000), base[300_001:]), 5032},
		{"a deletion", slices.Concat(base[:300_001], base[333_333:]), 48},
		{"an insertion at the front", slices.Concat(noise(2, 77), base), 77 + 32},
		{"halves exchanged", moved, 48},
		{"zeros", make([]byte, 1<<20), 1<<20 + 16}, // the base has none
	} {
		var e Encoder
		patch, ok := e.Encode(nil, base, c.target, c.limit)
		if !ok {
			t.Errorf("%s: the patch takes more than %d bytes", c.name, c.limit)
			continue
		}
		if got, err := Apply(nil, base, patch, len(c.target)); err != nil || !bytes.Equal(got, c.target) {
			t.Errorf("%s: applied to something else: %v", c.name, err)
		}
	}
}

func TestPatchRoundTrip(t *testing.T) {
	var e Encoder // used again and again
	rapid.Check(t, func(t *rapid.T) {
		base := noise(rapid.Uint64Range(0, 9).Draw(t, "base"), rapid.IntRange(0, 5000).Draw(t, "base bytes"))
		var target []byte
		for range rapid.IntRange(0, 8).Draw(t, "pieces") {
			if rapid.Bool().Draw(t, "old") && len(base) > 0 {
				from := rapid.IntRange(0, len(base)-1).Draw(t, "from")
				target = append(target, base[from:rapid.IntRange(from, len(base)).Draw(t, "to")]...)
			} else {
				target = append(target, rapid.SliceOfN(rapid.Byte(), 0, 100).Draw(t, "new")...)
			}
		}
		prefix := []byte("before")
		patch, ok := e.Encode(prefix, base, target, len(target)+32)
		if !ok || !bytes.HasPrefix(patch, prefix) {
			t.Fatal("no patch")
		}
		patch = patch[len(prefix):]
		got, err := Apply(make([]byte, 0, 10), base, patch, len(target))
		if err != nil || !bytes.Equal(got, target) {
			t.Fatalf("got %d bytes, %v; want %d", len(got), err, len(target))
		}
		limit := rapid.IntRange(0, len(patch)).Draw(t, "limit")
		if short, ok := e.Encode(nil, base, target, limit); ok && len(short) > limit {
			t.Fatalf("a patch of %d bytes for a limit of %d", len(short), limit)
		}
	})
}

func TestEncodeRefusesWhatIsTooLong(t *testing.T) {
	var e Encoder
	if _, ok := e.Encode(nil, make([]byte, MaxBaseBytes+1), []byte("x"), 100); ok {
		t.Error("a base too long")
	}
	if _, ok := e.Encode(nil, nil, make([]byte, MaxTargetBytes+1), 2*MaxTargetBytes); ok {
		t.Error("a target too long")
	}
}

func TestApplyRefuses(t *testing.T) {
	base := []byte("0123456789")
	for name, patch := range map[string][]byte{
		"nothing":                  {},
		"another size":             {3, 3, 'a', 'b', 'c'},
		"an insertion cut off":     {4, 4, 'a'},
		"an insertion too long":    {4, 5, 'a', 'b', 'c', 'd', 'e'},
		"an empty copy":            {4, 0, 0, 0},
		"a copy before the base":   {4, 0, 4, 1},
		"a copy beyond the base":   {4, 0, 4, 14},
		"a copy beyond the target": {4, 0, 5, 0},
		"an endless number":        {4, 0x80, 0x80},
		"a huge number":            {4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"a huge distance":          {4, 0, 4, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01},
		"more than its end":        {4, 0, 4, 0, 0},
	} {
		if got, err := Apply(nil, base, patch, 4); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := Apply(nil, base, []byte{4, 0, 4, 12}, 4); err != nil || string(got) != "6789" {
		t.Errorf("a good one: %q, %v", got, err)
	}
}

func FuzzApply(f *testing.F) {
	base, target := noise(1, 4000), slices.Concat(noise(1, 4000)[:1000], noise(2, 50), noise(1, 4000)[900:])
	var e Encoder
	patch, _ := e.Encode(nil, base, target, 1<<20)
	f.Add(patch, len(target))
	f.Add([]byte{4, 0, 4, 12}, 4)
	f.Fuzz(func(t *testing.T, patch []byte, size int) {
		got, err := Apply(nil, base, patch, size)
		switch {
		case err == nil && len(got) != size:
			t.Errorf("%d bytes for %d", len(got), size)
		case err != nil && !errors.Is(err, starling.ErrCorrupt):
			t.Error(err)
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add(noise(1, 500), noise(1, 400))
	f.Add([]byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"), []byte("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab"))
	f.Fuzz(func(t *testing.T, base, target []byte) {
		var e Encoder
		patch, ok := e.Encode(nil, base, target, len(target)+32)
		if !ok {
			t.Fatal("more than an insertion of all takes")
		}
		if got, err := Apply(nil, base, patch, len(target)); err != nil || !bytes.Equal(got, target) {
			t.Errorf("%q, %v", got, err)
		}
	})
}

func BenchmarkPatch(b *testing.B) {
	base := noise(1, 1200<<10)
	for _, c := range []struct {
		name   string
		target []byte
	}{
		{"4KiB", overwrite(base, 15, 4<<10)},
		{"50KiB", overwrite(base, 1, 60<<10)},
		{"insertion", slices.Concat(base[:600<<10], noise(2, 1000), base[600<<10:])},
		{"other", noise(3, len(base))},
	} {
		var e Encoder
		patch, _ := e.Encode(nil, base, c.target, 2*len(c.target))
		b.Run(fmt.Sprintf("encode/%s", c.name), func(b *testing.B) {
			b.SetBytes(int64(len(c.target)))
			out := make([]byte, 0, 2*len(c.target))
			for b.Loop() {
				e.Encode(out, base, c.target, cap(out))
			}
		})
		b.Run(fmt.Sprintf("apply/%s", c.name), func(b *testing.B) {
			b.SetBytes(int64(len(c.target)))
			out := make([]byte, 0, len(c.target))
			for b.Loop() {
				if _, err := Apply(out, base, patch, len(c.target)); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
