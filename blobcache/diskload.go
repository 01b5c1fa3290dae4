package blobcache

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
)

// load makes the directories, removes what interrupted puts left, and takes stock of
// what is there, those used last first in line to stay.
func (s *DiskStore) load() error {
	if err := os.RemoveAll(filepath.Join(s.dir, tempDir)); err != nil {
		return err
	}
	for _, d := range []string{tempDir, manifestsDir, chunksDir} {
		if err := os.MkdirAll(filepath.Join(s.dir, d), 0o750); err != nil {
			return err
		}
	}
	found, err := s.scan(manifestsDir, true, artifact.MaxEnvelopeBytes)
	if err != nil {
		return err
	}
	for i := range 256 {
		shard := filepath.Join(chunksDir, fmt.Sprintf("%02x", i))
		if err := os.MkdirAll(filepath.Join(s.dir, shard), 0o750); err != nil {
			return err
		}
		chunks, err := s.scan(shard, false, starling.MaxChunkBytes)
		if err != nil {
			return err
		}
		found = append(found, chunks...)
	}
	// A process that was killed may have left renames that are only in memory.
	if err := s.barrier.wait(); err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b blob) int { return a.touched.Compare(b.touched) })
	for _, b := range found {
		s.index.insert(b)
	}
	return nil
}

// scan lists the blobs of one directory and deletes files that cannot be one of ours.
func (s *DiskStore) scan(dir string, manifest bool, maxBytes int64) ([]blob, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, dir))
	if err != nil {
		return nil, err
	}
	now := time.Now()
	var found []blob
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return nil, err
		}
		d, ok := digestOfName(e.Name())
		if !ok || !info.Mode().IsRegular() {
			s.logger.Warn("cache ignores a stranger in its directory", "file", filepath.Join(s.dir, dir, e.Name()))
			continue
		}
		if info.Size() < 1 || info.Size() > maxBytes {
			s.logger.Warn("cache deletes a file of impossible size", "file", filepath.Join(s.dir, dir, e.Name()), "bytes", info.Size())
			if err := os.Remove(filepath.Join(s.dir, dir, e.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, err
			}
			continue
		}
		touched := info.ModTime()
		if touched.After(now) { // the clock went back: not for ever the most recent
			touched = now
		}
		found = append(found, blob{key: key{d, manifest}, bytes: info.Size(), durable: true, touched: touched})
	}
	return found, nil
}

func digestOfName(name string) (starling.Digest, bool) {
	var d starling.Digest
	if len(name) != hex.EncodedLen(len(d)) {
		return d, false
	}
	b, err := hex.DecodeString(name)
	if err != nil {
		return d, false
	}
	copy(d[:], b)
	return d, d.Hex() == name
}
