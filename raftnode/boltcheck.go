package raftnode

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"

	"github.com/starlingdeploy/starling"
)

// The file format of bbolt, version 2: pages, of which the first two are meta pages,
// written in turn; numbers in the machine's byte order. bbolt trusts it: with a wrong
// page number it panics in a goroutine of its own, faults in its memory map, or goes on
// with the older meta page, and so without the last commit, which may have been an
// acknowledged entry or a vote.
const (
	boltMagic        = 0xED0CDAED
	boltHeadBytes    = 16 // of a page: id 8, flags 2, count 2, overflow 4
	boltElemBytes    = 16 // leaf: flags, pos, key, value bytes; branch: pos, key bytes, page 8
	boltBucketBytes  = 16 // of a bucket's value: root page, sequence
	boltMetaBytes    = 64 // magic, version, page size, flags, root 16, freelist, pages, txid, checksum
	boltMinPageBytes = 1 << 10
	boltMaxPageBytes = 64 << 10
	boltMaxDepth     = 32
	boltBranch       = 1
	boltLeaf         = 2
	boltFreelist     = 16
	boltIsBucket     = 1
	boltNoFreelist   = ^uint64(0)
)

// boltUse says what a file holds.
type boltUse struct {
	pageBytes int64
	pages     uint64 // in use or free
	used      uint64
	buckets   []string // of the root
}

// boltWalk is one walk through a file.
type boltWalk struct {
	r    io.ReaderAt
	use  boltUse
	seen map[uint64]bool
}

// checkBolt walks through a whole bbolt file and returns starling.ErrCorrupt unless
// every page of its tree is as bbolt expects it, and both meta pages are whole. A crash
// does not damage a meta page: what counts of it fits into a disk sector.
func checkBolt(r io.ReaderAt, fileBytes int64) (boltUse, error) {
	w := &boltWalk{r: r, seen: make(map[uint64]bool)}
	meta, err := w.metas(fileBytes)
	if err != nil {
		return boltUse{}, err
	}
	if free := binary.NativeEndian.Uint64(meta[32:]); free != boltNoFreelist {
		if _, err := w.page(free, boltFreelist); err != nil {
			return boltUse{}, err
		}
	}
	if err := w.tree(binary.NativeEndian.Uint64(meta[16:]), nil, nil, boltMaxDepth, true); err != nil {
		return boltUse{}, err
	}
	w.use.used = uint64(len(w.seen)) + 2
	return w.use, nil
}

func damaged(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{starling.ErrCorrupt}, args...)...)
}

// metas checks both meta pages and returns the newer one.
func (w *boltWalk) metas(fileBytes int64) ([]byte, error) {
	head := make([]byte, boltMaxPageBytes+boltHeadBytes+boltMetaBytes)
	n, err := w.r.ReadAt(head, 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	head = head[:n]
	for page := boltMinPageBytes; page+boltHeadBytes+boltMetaBytes <= n; page *= 2 {
		a, b := head[boltHeadBytes:][:boltMetaBytes], head[page+boltHeadBytes:][:boltMetaBytes]
		if !metaOK(a, page) || !metaOK(b, page) {
			continue
		}
		if binary.NativeEndian.Uint64(b[48:]) > binary.NativeEndian.Uint64(a[48:]) {
			a = b
		}
		w.use.pageBytes, w.use.pages = int64(page), binary.NativeEndian.Uint64(a[40:])
		if w.use.pages < 2 || w.use.pages > uint64(fileBytes/w.use.pageBytes) {
			return nil, damaged("the file has %d bytes, its %d pages of %d do not fit", fileBytes, w.use.pages, page)
		}
		return a, nil
	}
	return nil, damaged("a meta page is not whole")
}

func metaOK(meta []byte, page int) bool {
	h := fnv.New64a()
	_, _ = h.Write(meta[:boltMetaBytes-8]) // never fails
	return binary.NativeEndian.Uint32(meta) == boltMagic && int(binary.NativeEndian.Uint32(meta[8:])) == page &&
		binary.NativeEndian.Uint64(meta[boltMetaBytes-8:]) == h.Sum64()
}

// page reads a page of one of the kinds given, with its overflow, and notes it as used.
func (w *boltWalk) page(id uint64, kinds uint16) ([]byte, error) {
	if id < 2 || id >= w.use.pages {
		return nil, damaged("page %d of %d is referred to", id, w.use.pages)
	}
	var head [boltHeadBytes]byte
	if _, err := w.r.ReadAt(head[:], int64(id)*w.use.pageBytes); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	flags, more := binary.NativeEndian.Uint16(head[8:]), uint64(binary.NativeEndian.Uint32(head[12:]))
	switch {
	case binary.NativeEndian.Uint64(head[:]) != id:
		return nil, damaged("page %d calls itself %d", id, binary.NativeEndian.Uint64(head[:]))
	case flags&kinds == 0 || flags&(flags-1) != 0:
		return nil, damaged("page %d is of kind %#x", id, flags)
	case id+more >= w.use.pages:
		return nil, damaged("page %d has %d more", id, more)
	}
	for i := id; i <= id+more; i++ {
		if w.seen[i] {
			return nil, damaged("page %d is used twice", i)
		}
		w.seen[i] = true
	}
	b := make([]byte, int64(more+1)*w.use.pageBytes)
	if _, err := w.r.ReadAt(b, int64(id)*w.use.pageBytes); err != nil {
		return nil, fmt.Errorf("page %d: %w", id, err)
	}
	return b, nil
}

// tree walks through the pages below one. Keys ascend from low, and stay below high. The
// root's tree holds buckets only.
func (w *boltWalk) tree(id uint64, low, high []byte, depth int, root bool) error {
	if depth == 0 {
		return damaged("page %d is too deep", id)
	}
	b, err := w.page(id, boltBranch|boltLeaf)
	if err != nil {
		return err
	}
	count := int(binary.NativeEndian.Uint16(b[10:]))
	if count*boltElemBytes > len(b)-boltHeadBytes || (count == 0 && binary.NativeEndian.Uint16(b[8:]) == boltBranch) {
		return damaged("page %d has %d elements", id, count)
	}
	if binary.NativeEndian.Uint16(b[8:]) == boltLeaf {
		return w.leaf(id, b, count, low, high, depth, root)
	}
	keys, pages := make([][]byte, count+1), make([]uint64, count)
	keys[count] = high
	for i := range count {
		elem := boltHeadBytes + i*boltElemBytes
		pos, n := uint64(binary.NativeEndian.Uint32(b[elem:])), uint64(binary.NativeEndian.Uint32(b[elem+4:]))
		if uint64(elem)+pos+n > uint64(len(b)) {
			return damaged("page %d: element %d lies outside", id, i)
		}
		keys[i] = b[uint64(elem)+pos:][:n]
		pages[i] = binary.NativeEndian.Uint64(b[elem+8:])
	}
	if bytes.Compare(low, keys[0]) > 0 {
		return damaged("page %d: its first key is too low", id)
	}
	for i, page := range pages {
		if keys[i+1] != nil && bytes.Compare(keys[i], keys[i+1]) >= 0 {
			return damaged("page %d: key %d is out of order", id, i)
		}
		if err := w.tree(page, keys[i], keys[i+1], depth-1, root); err != nil {
			return err
		}
	}
	return nil
}

// leaf checks the elements of a leaf page, and walks into buckets.
func (w *boltWalk) leaf(id uint64, b []byte, count int, low, high []byte, depth int, root bool) error {
	for i := range count {
		elem := boltHeadBytes + i*boltElemBytes
		flags, pos := binary.NativeEndian.Uint32(b[elem:]), uint64(binary.NativeEndian.Uint32(b[elem+4:]))
		keyBytes, valueBytes := uint64(binary.NativeEndian.Uint32(b[elem+8:])), uint64(binary.NativeEndian.Uint32(b[elem+12:]))
		if uint64(elem)+pos+keyBytes+valueBytes > uint64(len(b)) || flags > boltIsBucket || pos < boltElemBytes {
			return damaged("page %d: element %d lies outside, or is of no kind", id, i)
		}
		key := b[uint64(elem)+pos:][:keyBytes]
		order := bytes.Compare(low, key)
		if order > 0 || (order == 0 && i > 0) || (high != nil && bytes.Compare(key, high) >= 0) {
			return damaged("page %d: key %d is out of order", id, i)
		}
		low = key
		if flags != boltIsBucket {
			if root {
				return damaged("page %d: key %q stands where buckets should", id, key)
			}
			continue
		}
		if root {
			w.use.buckets = append(w.use.buckets, string(key))
		}
		value := b[uint64(elem)+pos+keyBytes:][:valueBytes]
		if len(value) < boltBucketBytes {
			return damaged("page %d: bucket %q has no head", id, key)
		}
		if page := binary.NativeEndian.Uint64(value); page != 0 { // else it lies inline
			if err := w.tree(page, nil, nil, depth-1, false); err != nil {
				return err
			}
		} else if err := w.inline(id, value[boltBucketBytes:], depth); err != nil {
			return err
		}
	}
	return nil
}

// inline checks a small bucket that lies within a value, as a page without a number.
func (w *boltWalk) inline(id uint64, b []byte, depth int) error {
	if len(b) < boltHeadBytes || binary.NativeEndian.Uint16(b[8:]) != boltLeaf {
		return damaged("page %d: a small bucket is no leaf", id)
	}
	count := int(binary.NativeEndian.Uint16(b[10:]))
	if count*boltElemBytes > len(b)-boltHeadBytes {
		return damaged("page %d: a small bucket has %d elements", id, count)
	}
	return w.leaf(id, b, count, nil, nil, depth-1, false)
}
