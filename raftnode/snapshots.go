package raftnode

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/hashicorp/raft"
)

const (
	snapshotsDir = "snapshots"
	tmpSuffix    = ".tmp"      // of a snapshot that is not complete; hashicorp/raft's
	metaFile     = "meta.json" // hashicorp/raft's: index, term, configuration, checksum of the state
	sumFile      = "meta.sum"  // ours: SHA-256 of meta.json, in hex
)

// snapshots is raft.FileSnapshotStore, which checks a snapshot's state and believes its
// metadata, passes over a snapshot whose metadata it cannot read as if there had never
// been one, and leaves incomplete ones on a full disk.
type snapshots struct {
	*raft.FileSnapshotStore
	dir    string
	logger *slog.Logger
	disk   *disk
	sizes  *sizes

	mu      sync.Mutex
	damaged map[string]bool // by ID
	wanted  bool            // one was damaged, and no other has been made since
	newest  uint64          // index of the newest one that is whole
}

func openSnapshots(dir string, l *hlog, d *disk, z *sizes) (*snapshots, error) {
	files, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsRetained, l)
	if err != nil {
		return nil, fmt.Errorf("raft snapshots in %s: %w", dir, err)
	}
	s := &snapshots{
		FileSnapshotStore: files, dir: filepath.Join(dir, snapshotsDir), logger: l.to, disk: d, sizes: z,
		damaged: make(map[string]bool),
	}
	return s, nil
}

// found is a snapshot on disk, by its name.
type found struct {
	id    string
	term  uint64
	index uint64
}

// find lists the snapshots on disk, newest first, and removes what is not complete.
func (s *snapshots) find() ([]found, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var out []found
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if strings.HasSuffix(e.Name(), tmpSuffix) {
			if err := os.RemoveAll(filepath.Join(s.dir, e.Name())); err != nil {
				return nil, fmt.Errorf("remove an incomplete snapshot: %w", err)
			}
			continue
		}
		f := found{id: e.Name()}
		var msec int64
		if _, err := fmt.Sscanf(f.id, "%d-%d-%d", &f.term, &f.index, &msec); err != nil {
			return nil, fmt.Errorf("%s is no snapshot: move it away", filepath.Join(s.dir, f.id))
		}
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b found) int {
		return cmp.Or(cmp.Compare(b.term, a.term), cmp.Compare(b.index, a.index), cmp.Compare(b.id, a.id))
	})
	return out, nil
}

// check reads every snapshot, and returns how far the newest whole one goes, and how far
// the newest of all.
func (s *snapshots) check() (whole, all uint64, err error) {
	list, err := s.find()
	if err != nil {
		return 0, 0, err
	}
	for _, f := range list {
		all = max(all, f.index)
		if err := s.verify(f); err != nil {
			s.logger.Error("a raft snapshot is damaged and will not be used", "snapshot", f.id, "error", err)
			s.damaged[f.id], s.wanted = true, true
			continue
		}
		whole = max(whole, f.index)
	}
	s.newest = whole
	return whole, all, nil
}

// verify reads a whole snapshot and its metadata.
func (s *snapshots) verify(f found) error {
	if err := s.verifyMeta(f.id); err != nil {
		return err
	}
	meta, state, err := s.FileSnapshotStore.Open(f.id) // checks the state
	if err != nil {
		return err
	}
	err = state.Close()
	if meta.ID != f.id || meta.Index != f.index || meta.Term != f.term {
		err = errors.Join(err, damaged("its name is %s, its metadata are of %s, index %d, term %d", f.id, meta.ID, meta.Index, meta.Term))
	}
	return err
}

// verifyMeta compares the metadata with their checksum, if there is one: older programs
// write none, nor does one that is killed just then.
func (s *snapshots) verifyMeta(id string) error {
	meta, err := os.ReadFile(filepath.Join(s.dir, id, metaFile))
	if err != nil {
		return err
	}
	want, err := os.ReadFile(filepath.Join(s.dir, id, sumFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if sum := sha256.Sum256(meta); len(want) == hex.EncodedLen(len(sum)) && string(want) != hex.EncodeToString(sum[:]) {
		return damaged("%s does not match its checksum", metaFile)
	}
	return nil
}

// List implements raft.SnapshotStore. It leaves out those that are damaged.
func (s *snapshots) List() ([]*raft.SnapshotMeta, error) {
	list, err := s.FileSnapshotStore.List()
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.DeleteFunc(list, func(m *raft.SnapshotMeta) bool { return s.damaged[m.ID] }), nil
}

// Open implements raft.SnapshotStore. One that was damaged meanwhile is not tried again.
func (s *snapshots) Open(id string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	meta, state, err := s.FileSnapshotStore.Open(id)
	if err == nil {
		if err = s.verifyMeta(id); err == nil {
			return meta, state, nil
		}
		err = errors.Join(err, state.Close())
	}
	s.mu.Lock()
	s.damaged[id], s.wanted = true, true
	s.mu.Unlock()
	s.logger.Error("a raft snapshot is damaged and will not be used; another will be made", "snapshot", id, "error", err)
	return nil, nil, err
}

// due says that there should be a new snapshot although little was written.
func (s *snapshots) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.wanted
}

// covers says whether a snapshot holds what the entry at an index did.
func (s *snapshots) covers(index uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return index <= s.newest
}

// Create implements raft.SnapshotStore.
func (s *snapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, at uint64, t raft.Transport) (raft.SnapshotSink, error) {
	if err := s.disk.writable(); err != nil {
		return nil, err
	}
	sink, err := s.FileSnapshotStore.Create(v, index, term, c, at, t)
	if err != nil {
		return nil, errors.Join(err, s.sweep())
	}
	return &snapshotSink{SnapshotSink: sink, of: s, index: index}, nil
}

// sweep removes incomplete snapshots, which may be what fills the disk. Raft writes one
// at a time.
func (s *snapshots) sweep() error {
	_, err := s.find()
	return err
}

// snapshotSink is a snapshot that is being written.
type snapshotSink struct {
	raft.SnapshotSink
	of    *snapshots
	index uint64
}

// Close implements raft.SnapshotSink.
func (k *snapshotSink) Close() error {
	if err := k.SnapshotSink.Close(); err != nil {
		return errors.Join(err, k.of.sweep())
	}
	if err := k.of.seal(k.ID()); err != nil {
		return fmt.Errorf("checksum of a snapshot's metadata: %w", err)
	}
	k.of.mu.Lock()
	k.of.newest, k.of.wanted = max(k.of.newest, k.index), false
	k.of.mu.Unlock()
	k.of.sizes.snapshotted()
	return nil
}

// Cancel implements raft.SnapshotSink.
func (k *snapshotSink) Cancel() error {
	return errors.Join(k.SnapshotSink.Cancel(), k.of.sweep())
}

// seal writes the checksum of a snapshot's metadata beside them.
func (s *snapshots) seal(id string) error {
	meta, err := os.ReadFile(filepath.Join(s.dir, id, metaFile))
	if err != nil {
		return err
	}
	sum := sha256.Sum256(meta)
	f, err := os.Create(filepath.Join(s.dir, id, sumFile))
	if err != nil {
		return err
	}
	_, err = f.WriteString(hex.EncodeToString(sum[:]))
	return errors.Join(err, f.Sync(), f.Close())
}
