package starling

import (
	"encoding/json"
	"fmt"
	"path"
	"strings"
)

// Bounds of a manifest. A peer's manifest is hostile until it passes Validate.
const (
	MaxManifestBytes = 64 << 20
	MaxFiles         = 200_000
	MaxChunks        = 400_000
	MaxChunkBytes    = 4 << 20
	MaxPathBytes     = 4096
	MaxArtifactBytes = 64 << 30
)

// ManifestVersion is the version that Encode writes and DecodeManifest accepts.
const ManifestVersion = 1

// FileKind tells what an entry of a tree is. Devices, sockets and pipes have no kind: they are refused.
type FileKind string

// The kinds of entry that an artifact may hold.
const (
	KindFile    FileKind = "file"
	KindDir     FileKind = "dir"
	KindSymlink FileKind = "symlink"
)

// File is one entry of an artifact's tree.
type File struct {
	Path string   `json:"path"` // slash-separated, relative, clean
	Kind FileKind `json:"kind"`
	Mode uint32   `json:"mode"`             // permission bits only (0o777)
	Size int64    `json:"size,omitempty"`   // bytes; 0 unless KindFile
	Link string   `json:"target,omitempty"` // symlink target, relative, inside the tree
}

// Chunk is one piece of the concatenated contents of a manifest's files.
type Chunk struct {
	Digest Digest `json:"digest"`
	Size   int    `json:"size"` // bytes, 1..MaxChunkBytes
}

// Manifest describes an artifact: a tree of files in path order and the ordered
// chunks of their concatenated content. An artifact's digest is that of its encoded manifest.
type Manifest struct {
	Version int     `json:"version"`
	Chunker string  `json:"chunker"` // versioned algorithm name, e.g. fastcdc-v1.0.0
	Files   []File  `json:"files"`
	Chunks  []Chunk `json:"chunks"`
}

// Encode returns the canonical bytes, the ones that are signed and hashed.
func (m *Manifest) Encode() ([]byte, error) { return json.Marshal(m) }

// DecodeManifest parses and validates encoded manifest bytes from an untrusted source.
func DecodeManifest(b []byte) (*Manifest, error) {
	if len(b) > MaxManifestBytes {
		return nil, Invalidf("manifest", "%d bytes, more than %d", len(b), MaxManifestBytes)
	}
	var m Manifest
	if err := json.Unmarshal(b, &m); err != nil {
		return nil, Invalidf("manifest", "not valid JSON: %v", err)
	}
	if err := m.Validate(); err != nil {
		return nil, err
	}
	return &m, nil
}

// Bytes returns the length of the concatenated content.
func (m *Manifest) Bytes() int64 {
	var n int64
	for i := range m.Chunks {
		n += int64(m.Chunks[i].Size)
	}
	return n
}

// Validate checks every bound, that paths stay inside the tree, are unique, sorted
// and below directories only, and that files and chunks add up to the same size.
func (m *Manifest) Validate() error {
	if m.Version != ManifestVersion {
		return Invalidf("manifest.version", "%d is not supported (this program reads %d)", m.Version, ManifestVersion)
	}
	if len(m.Files) > MaxFiles {
		return Invalidf("manifest.files", "%d entries, more than %d", len(m.Files), MaxFiles)
	}
	if len(m.Chunks) > MaxChunks {
		return Invalidf("manifest.chunks", "%d chunks, more than %d", len(m.Chunks), MaxChunks)
	}
	kinds := make(map[string]FileKind, len(m.Files))
	var total, content int64
	prev := ""
	for i := range m.Files {
		f := &m.Files[i]
		if err := f.validate(); err != nil {
			return err
		}
		if i > 0 && f.Path <= prev {
			return Invalidf("manifest.files", "%q is out of order or twice", f.Path)
		}
		prev = f.Path
		kinds[f.Path] = f.Kind
		for dir := path.Dir(f.Path); dir != "."; dir = path.Dir(dir) {
			if k, ok := kinds[dir]; ok && k != KindDir {
				return Invalidf("manifest.files", "%q lies below %q, which is a %s", f.Path, dir, k)
			}
		}
		total += f.Size
	}
	for i := range m.Chunks {
		c := m.Chunks[i]
		if c.Size < 1 || c.Size > MaxChunkBytes || c.Digest.IsZero() {
			return Invalidf("manifest.chunks", "chunk %d has size %d or no digest", i, c.Size)
		}
		content += int64(c.Size)
	}
	if total != content || total > MaxArtifactBytes {
		return Invalidf("manifest", "files hold %d bytes, chunks %d (limit %d)", total, content, int64(MaxArtifactBytes))
	}
	return nil
}

func (f *File) validate() error {
	if err := CheckPath(f.Path); err != nil {
		return err
	}
	if f.Mode&^0o777 != 0 {
		return Invalidf("manifest.files", "%q has mode %o: only permission bits are allowed", f.Path, f.Mode)
	}
	if f.Size < 0 || f.Size > MaxArtifactBytes || (f.Kind != KindFile && f.Size != 0) {
		return Invalidf("manifest.files", "%q has size %d", f.Path, f.Size)
	}
	switch f.Kind {
	case KindFile, KindDir:
		if f.Link != "" {
			return Invalidf("manifest.files", "%q is no symlink but has a target", f.Path)
		}
		return nil
	case KindSymlink:
		return CheckLink(f.Path, f.Link)
	default:
		return Invalidf("manifest.files", "%q has unknown kind %q", f.Path, f.Kind)
	}
}

// CheckPath refuses names that are empty, absolute, unclean, or leave the tree.
func CheckPath(p string) error {
	if p == "" || p == "." || len(p) > MaxPathBytes || path.IsAbs(p) || path.Clean(p) != p ||
		p == ".." || strings.HasPrefix(p, "../") || strings.ContainsRune(p, 0) {
		return Invalidf("path", "%.200q is not a clean path inside the tree", p)
	}
	return nil
}

// CheckLink refuses a symlink at p whose target is absolute or leaves the tree.
func CheckLink(p, target string) error {
	if target == "" || len(target) > MaxPathBytes || strings.ContainsRune(target, 0) {
		return Invalidf("path", "symlink %.200q has no usable target", p)
	}
	if path.IsAbs(target) {
		return Invalidf("path", "symlink %.200q points to the absolute path %.200q: make it relative", p, target)
	}
	end := path.Join(path.Dir(p), target)
	if end == ".." || strings.HasPrefix(end, "../") {
		return Invalidf("path", "symlink %.200q points outside the tree: %.200q", p, target)
	}
	return nil
}

// Extent is a part of one file: Length bytes from Offset of Files[File].
type Extent struct {
	File           int
	Offset, Length int64
}

// Layout maps chunks to places in files. It is immutable and safe for concurrent use.
type Layout struct {
	m          *Manifest
	chunkStart []int64 // content offset of each chunk
	fileStart  []int64 // content offset of each file
}

// NewLayout returns the layout of a valid manifest.
func NewLayout(m *Manifest) *Layout {
	l := &Layout{m: m, chunkStart: make([]int64, len(m.Chunks)), fileStart: make([]int64, len(m.Files))}
	var at int64
	for i := range m.Chunks {
		l.chunkStart[i] = at
		at += int64(m.Chunks[i].Size)
	}
	at = 0
	for i := range m.Files {
		l.fileStart[i] = at
		at += m.Files[i].Size
	}
	return l
}

// Extents appends to dst the parts of files that chunk i covers, in order.
func (l *Layout) Extents(dst []Extent, i int) []Extent {
	at, left := l.chunkStart[i], int64(l.m.Chunks[i].Size)
	lo, hi := 0, len(l.fileStart) // first file that starts after at
	for lo < hi {
		mid := (lo + hi) / 2
		if l.fileStart[mid] <= at {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for f := lo - 1; left > 0 && f < len(l.m.Files); f++ {
		off := at - l.fileStart[f]
		n := min(l.m.Files[f].Size-off, left)
		if n <= 0 {
			continue
		}
		dst = append(dst, Extent{File: f, Offset: off, Length: n})
		at += n
		left -= n
	}
	return dst
}

func (m *Manifest) String() string {
	return fmt.Sprintf("%d files, %d chunks, %d bytes", len(m.Files), len(m.Chunks), m.Bytes())
}
