package delta

import (
	"encoding/binary"
	"slices"
	"testing"

	"github.com/starlingdeploy/starling"
)

const kib = 1 << 10

// content makes a manifest of one file for each name, of the given total size, cut into
// chunks of the given names, of 100 KiB each unless sizes says otherwise.
func content(sizes map[string]int, files map[string]int64, chunks ...string) *starling.Manifest {
	m := &starling.Manifest{Version: starling.ManifestVersion}
	total := int64(0)
	for _, c := range chunks {
		size := 100 * kib
		if s := sizes[c]; s > 0 {
			size = s
		}
		total += int64(size)
		m.Chunks = append(m.Chunks, starling.Chunk{Digest: starling.DigestOf([]byte(c)), Size: size})
	}
	if files == nil {
		files = map[string]int64{"app": total}
	}
	for path, size := range files {
		m.Files = append(m.Files, starling.File{Path: path, Kind: starling.KindFile, Mode: 0o644, Size: size})
	}
	slices.SortFunc(m.Files, func(a, b starling.File) int {
		if a.Path < b.Path {
			return -1
		}
		return 1
	})
	return m
}

func TestBases(t *testing.T) {
	for _, c := range []struct {
		name     string
		old, new *starling.Manifest
		want     [][]int // by new chunk that the old one lacks
	}{
		{"changed in place, all of them", content(nil, nil, "a", "b", "c"), content(nil, nil, "A", "B", "C"), [][]int{{0}, {1}, {2}}},
		{"changed in place, one", content(nil, nil, "a", "b", "c"), content(nil, nil, "a", "B", "c"), [][]int{{1}}},
		{"an insertion in a chunk",
			content(nil, nil, "a", "b", "c"), content(map[string]int{"B": 120 * kib}, nil, "a", "B", "c"), [][]int{{1}}},
		{"a new chunk between two",
			content(nil, nil, "a", "b"), content(nil, nil, "a", "X", "b"), [][]int{nil}},
		{"a deletion of a chunk's half", content(nil, nil, "a", "b", "c"), content(map[string]int{"B": 50 * kib}, nil, "a", "B", "c"), [][]int{{1}}},
		{"files that changed places",
			content(nil, map[string]int64{"x": 100 * kib, "y": 100 * kib, "z": 100 * kib}, "a", "b", "c"),
			content(nil, map[string]int64{"w": 100 * kib, "y": 100 * kib, "z": 100 * kib}, "c", "B", "A"), [][]int{{1}, {2}}},
		{"a cut that moved",
			content(nil, nil, "a", "b", "c", "d"), content(map[string]int{"B": 150 * kib, "C": 50 * kib}, nil, "a", "B", "C", "d"), [][]int{{1, 2}, {2}}},
		{"growth here and there: in proportion",
			content(nil, nil, "a", "b", "c", "d"),
			content(map[string]int{"A": 150 * kib, "B": 150 * kib, "C": 150 * kib, "D": 150 * kib}, nil, "A", "B", "C", "D"),
			[][]int{{0, 1}, {0, 1, 2}, {1, 2, 3}, {2, 3}}},
		{"moved behind another file",
			content(nil, map[string]int64{"x": 200 * kib, "y": 100 * kib}, "a", "b", "c"),
			content(nil, map[string]int64{"w": 300 * kib, "x": 200 * kib, "y": 100 * kib}, "1", "2", "3", "A", "B", "C"),
			[][]int{nil, nil, nil, {0}, {1}, {2}}},
		{"nothing but a beginning and an end in common",
			content(nil, map[string]int64{"app-1": 100 * kib}, "a"), content(nil, map[string]int64{"app-2": 100 * kib}, "A"), [][]int{{0}}},
		{"the nearest of twins",
			content(nil, nil, "z", "a", "z", "b", "z", "c"), content(nil, nil, "z", "a", "z", "B", "z", "c"), [][]int{{3}}},
		{"too little to be of use",
			content(map[string]int{"b": kib}, nil, "a", "b", "c"), content(map[string]int{"B": kib}, nil, "a", "B", "c"), [][]int{nil}},
		{"an empty release before", content(nil, map[string]int64{}), content(nil, nil, "A"), [][]int{nil}},
	} {
		a := Align(c.old, c.new)
		var got [][]int
		for i, chunk := range c.new.Chunks {
			if !slices.ContainsFunc(c.old.Chunks, func(o starling.Chunk) bool { return o.Digest == chunk.Digest }) {
				got = append(got, a.Bases(i, func(int) bool { return true }))
			}
		}
		if !slices.EqualFunc(got, c.want, slices.Equal) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestBasesKeepBounds(t *testing.T) {
	big := map[string]int{"a": 4 << 20, "b": 4 << 20, "c": 4 << 20, "A": 4 << 20, "B": 4 << 20, "C": 4<<20 - 1}
	a := Align(content(big, nil, "a", "b", "c"), content(big, nil, "A", "B", "C"))
	for i := range 3 {
		if got := a.Bases(i, func(int) bool { return true }); len(got) > 2 || !slices.Contains(got, i) {
			t.Errorf("chunk %d: bases %v", i, got)
		}
	}
	if got := a.Bases(1, func(old int) bool { return old == 0 }); !slices.Equal(got, nil) && !slices.Equal(got, []int{0}) {
		t.Errorf("bases that are not held: %v", got)
	}
	old := &starling.Manifest{Files: []starling.File{{Path: "app", Kind: starling.KindFile, Size: 40 * 16 * kib}}}
	for i := range uint32(40) {
		old.Chunks = append(old.Chunks, starling.Chunk{Digest: starling.DigestOf(binary.BigEndian.AppendUint32(nil, i)), Size: 16 * kib})
	}
	if got := Align(old, content(map[string]int{"A": 40 * 16 * kib}, nil, "A")).Bases(0, func(int) bool { return true }); len(got) != MaxBases {
		t.Errorf("%d bases, want %d", len(got), MaxBases)
	}
}

func TestClosest(t *testing.T) {
	v1 := content(nil, nil, "a", "b", "c")
	v2 := content(nil, nil, "a", "b", "d")
	other := content(nil, map[string]int64{"other": 300 * kib}, "x", "y", "z")
	new := content(nil, nil, "a", "B", "d")
	for _, c := range []struct {
		name string
		olds []*starling.Manifest
		want int
	}{
		{"most chunks", []*starling.Manifest{v1, v2, other}, 1},
		{"the first of equals", []*starling.Manifest{v1, v1}, 0},
		{"the same path is enough", []*starling.Manifest{other, content(nil, nil, "1", "2")}, 1},
		{"nothing in common", []*starling.Manifest{other}, -1},
		{"none", nil, -1},
	} {
		if got := Closest(new, c.olds); got != c.want {
			t.Errorf("%s: %d, want %d", c.name, got, c.want)
		}
	}
}
