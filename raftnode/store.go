package raftnode

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/starlingdeploy/starling"
)

const boltFile = "raft.db"

// stores are a server's files: raft.db holds the log and Raft's own state, snapshots/
// the newest snapshots. Raft sees logs, stable and snaps, each of which checks what it
// reads; all of them end at disk, which remembers the first failure.
type stores struct {
	bolt   *raftboltdb.BoltStore
	disk   *disk
	logs   *logs
	stable stable
	snaps  *snapshots
	sizes  *sizes
}

// openStores opens and checks the files. Every write of the log is synced to disk before
// it counts. The lock on raft.db keeps a second process out. starling.ErrCorrupt: what
// is there is damaged, or not all that this server has promised to keep.
func openStores(c *Config, l *hlog) (*stores, error) {
	dir := c.DataDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("raft data directory: %w", err)
	}
	path := filepath.Join(dir, boltFile)
	exists, err := prepareBolt(path, c.compactMin, c.Logger)
	if err != nil {
		return nil, refuse(dir, fmt.Errorf("%s: %w", path, err))
	}
	s, err := openUnchecked(c, l)
	if err != nil {
		return nil, refuse(dir, err)
	}
	if err := s.check(exists); err != nil {
		return nil, errors.Join(refuse(dir, err), s.disk.Close())
	}
	return s, nil
}

// openUnchecked opens the files and believes them.
func openUnchecked(c *Config, l *hlog) (*stores, error) {
	path := filepath.Join(c.DataDir, boltFile)
	bolt, err := raftboltdb.New(raftboltdb.Options{Path: path, BoltOptions: boltOptions(), MsgpackUseNewTimeFormat: true})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, inUse(path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	var f files = bolt
	if c.faults != nil {
		f = c.faults(f)
	}
	s := &stores{bolt: bolt, sizes: newSizes(c.Timing.TrailingLogs), disk: newDisk(f, c.Name)}
	s.disk.room = c.hasRoom
	s.stable = stable{s.disk}
	cache, err := raft.NewLogCache(logCacheEntries, s.disk)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("raft log cache: %w", err), bolt.Close())
	}
	if s.snaps, err = openSnapshots(c.DataDir, l, s.disk, s.sizes); err != nil {
		return nil, errors.Join(err, bolt.Close())
	}
	s.logs = &logs{LogStore: cache, disk: s.disk, sizes: s.sizes, covered: s.snaps.covers}
	return s, nil
}

// refuse tells what to do about damage.
func refuse(dir string, err error) error {
	if errors.Is(err, starling.ErrCorrupt) {
		return fmt.Errorf("%w; this server will not start on it: move %s away and start again, so that it joins as a new server and gets all from the others", err, dir)
	}
	return err
}

// check reads everything: what is acknowledged must be in the log or a snapshot.
func (s *stores) check(exists bool) error {
	whole, all, err := s.snaps.check()
	if err != nil {
		return err
	}
	if all > 0 && !exists {
		return damaged("there are snapshots but no %s", boltFile)
	}
	first, err := s.logs.FirstIndex()
	if err != nil {
		return err
	}
	last, err := s.logs.LastIndex()
	if err != nil {
		return err
	}
	switch {
	case whole < all && last < all:
		return damaged("the newest snapshot, up to entry %d, is damaged and the log ends at %d", all, last)
	case first > whole+1:
		return damaged("the log begins at entry %d and the newest whole snapshot ends at %d", first, whole)
	}
	term, err := s.stable.GetUint64([]byte("CurrentTerm"))
	if err != nil && err.Error() != keyNotFound {
		return err
	}
	unsealed := 0
	for i := first; first > 0 && i <= last; i++ {
		var e raft.Log
		err := s.logs.GetLog(i, &e)
		if errors.Is(err, raft.ErrLogNotFound) {
			// A snapshot has it. There may be a billion more of them, after a restore.
			i = max(i, whole-min(whole, uint64(len(s.sizes.bytes))))
			continue
		}
		if err != nil {
			return err
		}
		if e.Term > term { // the term is written first
			return damaged("log entry %d is of term %d, and the server knows of %d", i, e.Term, term)
		}
		if len(e.Extensions) == 0 {
			unsealed++
		}
		s.sizes.add(i, len(e.Data))
		if i <= whole {
			s.sizes.snapshotted()
		}
	}
	if unsealed > 0 {
		s.snaps.logger.Info("log entries without a checksum, by an older program", "entries", unsealed)
	}
	return nil
}
