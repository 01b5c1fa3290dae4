package raftnode

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// maxRestoreWait bounds what Raft may take to write a snapshot, to load it and to have
// a quorum follow.
const maxRestoreWait = 5 * time.Minute

// Restore replaces the state of the whole cluster by a snapshot, which write writes in
// the form that the state machine reads. The caller has seen that it is sound: Raft
// gives up a server whose state machine refuses it. The log goes on above index, if that
// is above its end. Proposals under way fail with ErrOutcomeUnknown.
// ErrConflict: a server of the cluster is too old to follow.
func (n *Node) Restore(ctx context.Context, index uint64, write func(io.Writer) error) error {
	if !n.IsLeader() {
		return fmt.Errorf("restore: %w", starling.ErrNotLeader)
	}
	if id, level := n.lowest(); level < raftfsm.RestoredLevel {
		return fmt.Errorf("restore: %w: server %s speaks level %d, a restored state needs %d: upgrade that server, or remove it if it is gone",
			starling.ErrConflict, id, level, raftfsm.RestoredLevel)
	}
	file, size, err := n.spool(write)
	if err != nil {
		return fmt.Errorf("restore: %w", err)
	}
	meta := &raft.SnapshotMeta{Version: raft.SnapshotVersionMax, Index: index, Size: size}
	return n.await(ctx, "restore", func() raft.Future {
		err := n.raft.Restore(meta, bufio.NewReaderSize(file, 1<<20), maxRestoreWait)
		if cerr := file.Close(); err == nil && cerr != nil {
			err = cerr
		}
		return done{err}
	})
}

// spool writes to a file that has no name any more and is set to its beginning: Raft
// wants to know the size ahead.
func (n *Node) spool(write func(io.Writer) error) (file *os.File, size int64, err error) {
	file, err = os.CreateTemp(n.conf.DataDir, "restore-*.tmp")
	if err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	if err = os.Remove(file.Name()); err != nil {
		return nil, 0, err
	}
	if err = write(file); err != nil {
		return nil, 0, err
	}
	if size, err = file.Seek(0, io.SeekCurrent); err != nil {
		return nil, 0, err
	}
	_, err = file.Seek(0, io.SeekStart)
	return file, size, err
}
