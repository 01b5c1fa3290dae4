package raftnode

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// level returns what a server speaks, as far as gossip tells: 1 is what programs spoke
// that did not announce it, and what a server may speak that gossip has forgotten.
func (p *Peer) level() int {
	n, err := strconv.Atoi(p.Tags[tagLevel])
	if err != nil {
		return 1
	}
	return max(1, n)
}

// levelOf returns what a server of the configuration speaks.
func (n *Node) levelOf(id raft.ServerID) int {
	if id == raft.ServerID(n.conf.Name) {
		return raftfsm.Level
	}
	for _, p := range n.directory.peers() {
		if raft.ServerID(p.Name) == id {
			return p.level()
		}
	}
	return 1
}

// lowest returns the server of the configuration that speaks least, dead ones included:
// they come back to the same log.
func (n *Node) lowest() (id raft.ServerID, level int) {
	id, level = raft.ServerID(n.conf.Name), raftfsm.Level
	for _, s := range n.servers() {
		if l := n.levelOf(s.ID); l < level {
			id, level = s.ID, l
		}
	}
	return id, level
}

// tooNew returns why each command must not be committed that a server of this cluster
// could not apply; nil, as a rule, if there is none.
func (n *Node) tooNew(cmds []raftfsm.Command) map[int]error {
	var out map[int]error
	var lowest raft.ServerID
	level := 1
	for i := range cmds {
		needs := cmds[i].Needs()
		if needs <= level {
			continue
		}
		if lowest == "" {
			if lowest, level = n.lowest(); needs <= level {
				continue
			}
		}
		if out == nil {
			out = make(map[int]error)
		}
		out[i] = fmt.Errorf("%w: %w: %.80s needs level %d and server %s speaks level %d: upgrade that server, or remove it if it is gone",
			starling.ErrConflict, ErrServerTooOld, cmds[i].Type, needs, lowest, level)
	}
	if out != nil {
		complaint := fmt.Sprintf("%s %d", lowest, level)
		if old := n.tooOld.Swap(&complaint); old == nil || *old != complaint {
			n.logger.Warn("newer commands are refused until every server is upgraded", "server", string(lowest), "speaks_level", level)
		}
	}
	return out
}

// proposeRest commits those commands that are not refused already.
func (n *Node) proposeRest(ctx context.Context, cmds []raftfsm.Command, refused map[int]error) (results, error) {
	if !n.IsLeader() {
		return nil, fmt.Errorf("propose: %w", starling.ErrNotLeader)
	}
	var rest []raftfsm.Command
	for i := range cmds {
		if refused[i] == nil {
			rest = append(rest, cmds[i])
		}
	}
	var got results
	if len(rest) > 0 {
		var err error
		if got, err = n.proposeSpoken(ctx, rest); err != nil {
			return nil, err
		}
	}
	out := make(results, len(cmds))
	for i := range cmds {
		if err := refused[i]; err != nil {
			out[i].Err = err
			continue
		}
		out[i], got = got[0], got[1:]
	}
	return out, nil
}

// admit refuses a new server that could not apply what is in the log, or to come.
func (n *Node) admit(id raft.ServerID) error {
	if n.conf.Level == nil {
		return nil
	}
	if has, needs := n.levelOf(id), n.conf.Level(); has < needs {
		return fmt.Errorf("%w: it speaks level %d, or has not said more yet, and level %d is in use here: upgrade it first",
			starling.ErrConflict, has, needs)
	}
	return nil
}

// checkLevel refuses to start on a log or a snapshot that a newer program has written.
// Other faults are for Raft to find.
func checkLevel(st *stores) error {
	from := uint64(1)
	metas, err := st.snaps.List() // newest first
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	if len(metas) > 0 {
		from = metas[0].Index + 1
		if _, rd, err := st.snaps.Open(metas[0].ID); err == nil {
			err = raftfsm.CheckSnapshot(rd)
			if cerr := rd.Close(); cerr != nil {
				return fmt.Errorf("snapshot %s: %w", metas[0].ID, cerr)
			}
			if errors.Is(err, raftfsm.ErrTooNew) {
				return fmt.Errorf("snapshot %s: %w", metas[0].ID, err)
			}
		}
	}
	first, err := st.logs.FirstIndex()
	if err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	last, err := st.logs.LastIndex()
	if err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	for i := max(first, from); i != 0 && i <= last; i++ {
		var l raft.Log
		if err := st.logs.GetLog(i, &l); err != nil || l.Type != raft.LogCommand {
			continue
		}
		if err := raftfsm.CheckEntry(l.Data); err != nil {
			return fmt.Errorf("raft log entry %d: %w", i, err)
		}
	}
	return nil
}
