package raftnode

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/hashicorp/raft"
	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

// Bounds of what Raft takes up on disk.
const (
	defaultReserveBytes = 256 << 20
	reservePart         = 20       // of the disk, where that is less than the default
	fullPart            = 4        // of the reserve: with less, nothing is written
	maxTrailingBytes    = 64 << 20 // of entries kept behind a snapshot
	maxUnsnappedBytes   = 64 << 20 // of entries since the last snapshot
	snapshotRetryWait   = 10 * time.Second
)

// room is how much of a disk is left for Raft.
type room int

const (
	roomEnough room = iota
	roomLow         // less than the reserve: let others lead
	roomFull        // less than a quarter of it: write nothing, lead never
)

// String is the value of the tag that a server announces.
func (r room) String() string { return [...]string{"", "low", "full"}[r] }

// space is a reading of the disk.
type space struct{ freeBytes, totalBytes uint64 }

func (s space) reserve(configured uint64) uint64 {
	if configured > 0 {
		return configured
	}
	return min(defaultReserveBytes, s.totalBytes/reservePart)
}

func (s space) room(configured uint64) room {
	switch reserve := s.reserve(configured); {
	case s.freeBytes < reserve/fullPart:
		return roomFull
	case s.freeBytes < reserve:
		return roomLow
	}
	return roomEnough
}

// spaceOf reads what an unprivileged process may still write to the disk of dir.
func spaceOf(dir string) (space, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return space{}, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return space{st.Bavail * uint64(st.Bsize), st.Blocks * uint64(st.Bsize)}, nil
}

// hasRoom is asked before each write of the log.
func (c *Config) hasRoom() error {
	s, err := c.space(c.DataDir)
	if err != nil {
		return err
	}
	if s.room(c.DiskReserve) == roomFull {
		return fmt.Errorf("%w: %w on server %s: %d MiB are left of the %d in reserve: free some, it goes on by itself",
			starling.ErrUnavailable, errNoRoom, c.Name, s.freeBytes>>20, s.reserve(c.DiskReserve)>>20)
	}
	return nil
}

// heir returns an alive voter with enough room on its disk.
func heir(servers []raft.Server, peers []Peer, self string) (raft.Server, bool) {
	for _, s := range servers {
		if s.Suffrage == raft.Voter && slices.ContainsFunc(peers, func(p Peer) bool {
			return p.Name != self && raft.ServerID(p.Name) == s.ID && p.State == PeerAlive && p.Tags[tagDisk] == ""
		}) {
			return s, true
		}
	}
	return raft.Server{}, false
}

// mayLead says whether this server may ask for votes.
func (n *Node) mayLead() error {
	r := room(n.room.Load())
	if _, other := heir(n.servers(), n.directory.peers(), n.conf.Name); r == roomFull || (r == roomLow && other) {
		return fmt.Errorf("server %s does not stand for election: %w", n.conf.Name, errNoRoom)
	}
	return nil
}

// electoral is the transport of a server that does not always stand for election, which
// hashicorp/raft has no switch for: its questions for votes are not sent.
type electoral struct {
	*raft.NetworkTransport
	mayLead func() error
}

// RequestVote implements raft.Transport.
func (t *electoral) RequestVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestVoteRequest, a *raft.RequestVoteResponse) error {
	if err := t.mayLead(); err != nil {
		return err
	}
	return t.NetworkTransport.RequestVote(id, to, q, a)
}

// RequestPreVote implements raft.WithPreVote.
func (t *electoral) RequestPreVote(id raft.ServerID, to raft.ServerAddress, q *raft.RequestPreVoteRequest, a *raft.RequestPreVoteResponse) error {
	if err := t.mayLead(); err != nil {
		return err
	}
	return t.NetworkTransport.RequestPreVote(id, to, q, a)
}

// watchDisk stops Raft at the first failure of the disk, so that the others elect.
func (n *Node) watchDisk(ctx context.Context) {
	select {
	case <-n.stores.disk.failed:
	case <-ctx.Done():
		return
	}
	n.logger.Error("raft stops on this server", "error", n.stores.disk.failure())
	if err := n.raft.Shutdown().Error(); err != nil {
		n.logger.Error("stop raft", "error", err)
	}
	n.leadershipChanged()
	close(n.failed)
}

// keepRoom bounds what the log takes up, and hands leadership over when the disk fills.
func (n *Node) keepRoom(ctx context.Context) {
	ticker := time.NewTicker(n.conf.Timing.Reconcile)
	defer ticker.Stop()
	var nextSnapshot time.Time
	for {
		n.measure()
		if n.IsLeader() && room(n.room.Load()) != roomEnough {
			n.handOver(ctx)
		}
		if err := n.boundLog(); err != nil {
			n.logger.Error("cannot bound the raft log", "error", err)
		}
		due := n.stores.sizes.sinceSnapshot() > n.conf.maxUnsnapped || n.stores.snaps.due()
		if now := time.Now(); due && now.After(nextSnapshot) {
			if err := n.snapshotDue(ctx); err != nil && ctx.Err() == nil {
				n.logger.Warn("a snapshot is due and fails", "error", err)
				nextSnapshot = now.Add(snapshotRetryWait)
			}
		}
		select {
		case <-ticker.C:
		case <-n.stores.disk.failed:
			return
		case <-ctx.Done():
			return
		}
	}
}

// snapshotDue makes a snapshot even if nothing was applied since the last.
func (n *Node) snapshotDue(ctx context.Context) error {
	n.snapshotMu.Lock()
	defer n.snapshotMu.Unlock()
	return n.snapshot(ctx)
}

// measure looks at the disk, and logs when it becomes full or empty.
func (n *Node) measure() {
	s, err := n.conf.space(n.conf.DataDir)
	if err != nil {
		n.logger.Error("cannot tell how full the disk is", "error", err)
		return
	}
	now := s.room(n.conf.DiskReserve)
	if before := room(n.room.Swap(int32(now))); before == now {
		return
	}
	attrs := []any{"free_bytes", s.freeBytes, "reserve_bytes", s.reserve(n.conf.DiskReserve)}
	switch now {
	case roomEnough:
		n.logger.Info("the disk has room again", attrs...)
	case roomLow:
		n.logger.Warn("the disk is filling up: this server leaves leading to others", attrs...)
	case roomFull:
		n.logger.Error("the disk is almost full: this server writes no more", attrs...)
	}
}

func (n *Node) handOver(ctx context.Context) {
	to, ok := heir(n.servers(), n.directory.peers(), n.conf.Name)
	if !ok {
		return
	}
	addr, err := n.directory.ServerAddr(to.ID)
	if err == nil {
		err = n.await(ctx, "transfer leadership", func() raft.Future { return n.raft.LeadershipTransferToServer(to.ID, addr) })
	}
	if err != nil {
		n.logger.Warn("cannot hand leadership to a server with room on its disk yet", "to", string(to.ID), "error", err)
		return
	}
	n.logger.Warn("handed leadership over: the disk is filling up", "to", string(to.ID))
}

// boundLog has Raft keep no more bytes of entries behind a snapshot than it should.
func (n *Node) boundLog() error {
	rc := n.raft.ReloadableConfig()
	keep := n.stores.sizes.trailing(n.conf.maxTrailing, n.conf.Timing.TrailingLogs)
	if rc.TrailingLogs == keep {
		return nil
	}
	rc.TrailingLogs = keep
	return n.raft.ReloadConfig(rc)
}

// Failed is closed when the disk has failed and Raft has stopped on this server. Then
// Err says why, and the process should end: it must not go on with what it believes to
// be on disk.
func (n *Node) Failed() <-chan struct{} { return n.failed }

// Err returns why this server takes no part in Raft any more, an error that wraps
// starling.ErrUnavailable, or nil.
func (n *Node) Err() error { return n.stores.disk.failure() }

// Ready returns why this server cannot take its full part: its disk failed, or it is
// filling up. The error wraps starling.ErrUnavailable.
func (n *Node) Ready() error {
	if err := n.Err(); err != nil {
		return err
	}
	if r := room(n.room.Load()); r != roomEnough {
		return fmt.Errorf("%w: the disk of server %s is %s, see starling_disk_free_bytes: free some", starling.ErrUnavailable, n.conf.Name, r)
	}
	return nil
}
