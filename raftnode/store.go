package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// stores are a server's files: raft.db holds the log and Raft's own state, snapshots/
// the newest snapshots.
type stores struct {
	bolt  *raftboltdb.BoltStore
	logs  raft.LogStore
	snaps raft.SnapshotStore
}

// openStores opens the files in dir. Every write of the log is synced to disk before
// it counts. The lock on raft.db keeps a second process out.
func openStores(dir string, l *hlog) (*stores, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("raft data directory: %w", err)
	}
	path := filepath.Join(dir, "raft.db")
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: path,
		BoltOptions: &bbolt.Options{
			NoFreelistSync: true, // rebuilt at start; saves a page write in each commit
			FreelistType:   bbolt.FreelistMapType,
			Timeout:        storeLockTimeout,
		},
		MsgpackUseNewTimeFormat: true,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("data directory %s is in use by another process: %w", dir, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	cache, err := raft.NewLogCache(logCacheEntries, bolt)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft log cache: %w", err), bolt.Close())
	}
	snaps, err := raft.NewFileSnapshotStoreWithLogger(dir, snapshotsRetained, l)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft snapshots in %s: %w", dir, err), bolt.Close())
	}
	return &stores{bolt: bolt, logs: cache, snaps: snaps}, nil
}
