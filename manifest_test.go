package starling_test

import (
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
	"pgregory.net/rapid"
)

func chunk(s string) starling.Chunk {
	return starling.Chunk{Digest: starling.DigestOf([]byte(s)), Size: len(s)}
}

func manifest(files []starling.File, chunks ...starling.Chunk) *starling.Manifest {
	return &starling.Manifest{Version: starling.ManifestVersion, Chunker: "test", Files: files, Chunks: chunks}
}

func TestManifestValidate(t *testing.T) {
	file := func(path string, size int64) starling.File {
		return starling.File{Path: path, Kind: starling.KindFile, Mode: 0o644, Size: size}
	}
	link := func(path, to string) starling.File {
		return starling.File{Path: path, Kind: starling.KindSymlink, Mode: 0o777, Link: to}
	}
	for _, c := range []struct {
		name  string
		m     *starling.Manifest
		wrong string // part of the error; empty: valid
	}{
		{"empty", manifest(nil), ""},
		{"one file", manifest([]starling.File{file("a", 3)}, chunk("abc")), ""},
		{"link inside", manifest([]starling.File{file("d/a", 3), link("d/b", "../d/a")}, chunk("abc")), ""},
		{"absolute link", manifest([]starling.File{link("b", "/etc/passwd")}), "absolute"},
		{"escaping link", manifest([]starling.File{link("d/b", "../../x")}), "outside"},
		{"escaping path", manifest([]starling.File{file("../a", 0)}), "clean path"},
		{"absolute path", manifest([]starling.File{file("/a", 0)}), "clean path"},
		{"unclean path", manifest([]starling.File{file("a//b", 0)}), "clean path"},
		{"NUL in path", manifest([]starling.File{file("a\x00b", 0)}), "clean path"},
		{"twice", manifest([]starling.File{file("a", 0), file("a", 0)}), "twice"},
		{"unsorted", manifest([]starling.File{file("b", 0), file("a", 0)}), "out of order"},
		{"below a file", manifest([]starling.File{file("a", 0), file("a/b", 0)}), "lies below"},
		{"below a link", manifest([]starling.File{link("a", "x"), file("a/b", 0)}), "lies below"},
		{"setuid", manifest([]starling.File{{Path: "a", Kind: starling.KindFile, Mode: 0o4755}}), "permission bits"},
		{"unknown kind", manifest([]starling.File{{Path: "a", Kind: "device"}}), "unknown kind"},
		{"sizes differ", manifest([]starling.File{file("a", 4)}, chunk("abc")), "4 bytes, chunks 3"},
		{"negative size", manifest([]starling.File{file("a", -1)}), "size"},
		{"chunk too large", manifest([]starling.File{file("a", starling.MaxChunkBytes+1)},
			starling.Chunk{Digest: starling.DigestOf(nil), Size: starling.MaxChunkBytes + 1}), "chunk 0"},
		{"other version", &starling.Manifest{Version: 9}, "not supported"},
	} {
		err := c.m.Validate()
		if c.wrong == "" {
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.wrong) || !starling.IsInvalid(err) {
			t.Errorf("%s: error %v, want one with %q", c.name, err, c.wrong)
		}
	}
}

// The extents of all chunks, one after the other, are the files' contents in order.
func TestLayoutCoversEveryByteOnce(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.Int64Range(0, 50), 0, 12).Draw(t, "file sizes")
		m := manifest(nil)
		var total int64
		for i, n := range sizes {
			m.Files = append(m.Files, starling.File{Path: string(rune('a' + i)), Kind: starling.KindFile, Size: n})
			total += n
		}
		for left := total; left > 0; {
			n := min(rapid.Int64Range(1, 40).Draw(t, "chunk"), left)
			m.Chunks = append(m.Chunks, starling.Chunk{Digest: starling.DigestOf([]byte{byte(left)}), Size: int(n)})
			left -= n
		}
		if err := m.Validate(); err != nil {
			t.Fatal(err)
		}
		layout := starling.NewLayout(m)
		at := make([]int64, len(sizes))
		last := 0
		for i := range m.Chunks {
			var n int64
			for _, e := range layout.Extents(nil, i) {
				if e.File < last || e.Offset != at[e.File] || e.Length <= 0 {
					t.Fatalf("chunk %d: extent %+v after %d bytes of that file", i, e, at[e.File])
				}
				last = e.File
				at[e.File] += e.Length
				n += e.Length
			}
			if n != int64(m.Chunks[i].Size) {
				t.Fatalf("chunk %d covers %d of its %d bytes", i, n, m.Chunks[i].Size)
			}
		}
		for i, n := range sizes {
			if at[i] != n {
				t.Fatalf("file %d: %d of %d bytes covered", i, at[i], n)
			}
		}
	})
}

func FuzzDecodeManifest(f *testing.F) {
	b, _ := manifest([]starling.File{{Path: "a", Kind: starling.KindFile, Size: 3}}, chunk("abc")).Encode()
	f.Add(b)
	f.Add([]byte(`{"version":1,"files":[{"path":"../x","kind":"file"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := starling.DecodeManifest(b)
		if err != nil {
			return
		}
		layout := starling.NewLayout(m)
		for i := range m.Chunks {
			layout.Extents(nil, i)
		}
		for _, file := range m.Files {
			if strings.HasPrefix(file.Path, "/") || strings.HasPrefix(file.Path, "..") {
				t.Fatalf("accepted path %q", file.Path)
			}
		}
	})
}
