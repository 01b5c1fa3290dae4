package raftnode

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// Recovery says which server's files shall begin a cluster of one.
type Recovery struct {
	Name, Region string
	DataDir      string // of Config; no process may have it open
	Addr         string // QUIC host:port of the server
	Actor        string // who asked, for the events
	Logger       *slog.Logger
}

// Survivor is what one server's files hold.
type Survivor struct {
	LastIndex uint64                `json:"last_index"` // of the last log entry
	LastTerm  uint64                `json:"last_term"`
	Servers   []string              `json:"servers"` // of the last configuration in them, by name
	State     starling.SnapshotInfo `json:"state"`
}

// Survey tells what a server's files hold, and changes nothing.
func Survey(r Recovery) (Survivor, error) {
	st, err := r.open()
	if err != nil {
		return Survivor{}, err
	}
	s, _, err := r.replay(st)
	return s, errors.Join(err, st.disk.Close())
}

// Recover makes the server of these files the only one of its cluster, for when most
// servers are gone for good. All that is in its log counts as committed from here on;
// what only the lost servers had is lost. Since machines and other regions may have seen
// that, the state goes on as View.Recovered says. The lost servers must never start
// again on their old files: they would not know of it, and lead each other.
func Recover(r Recovery, at time.Time) (Survivor, error) {
	st, err := r.open()
	if err != nil {
		return Survivor{}, err
	}
	s, err := r.recover(st, at)
	return s, errors.Join(err, st.disk.Close())
}

func (r *Recovery) open() (*stores, error) {
	path := filepath.Join(r.DataDir, "raft.db")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("recover: %s holds no server's raft log: name the data_dir of a server that took part (%w)", r.DataDir, err)
	}
	conf := Config{Name: r.Name, DataDir: r.DataDir, Logger: r.Logger}
	conf.withDefaults()
	st, err := openStores(&conf, &hlog{to: r.Logger})
	if err != nil {
		return nil, fmt.Errorf("recover: %w", err)
	}
	if err := checkLevel(st); err != nil {
		return nil, errors.Join(fmt.Errorf("recover: %w", err), st.disk.Close())
	}
	return st, nil
}

// replay loads the newest snapshot and applies the log behind it.
func (r *Recovery) replay(st *stores) (Survivor, *raftfsm.FSM, error) {
	var s Survivor
	fsm := raftfsm.New(r.Region)
	metas, err := st.snaps.List() // newest first
	if err != nil {
		return s, nil, fmt.Errorf("recover: list snapshots: %w", err)
	}
	if len(metas) > 0 {
		m, rd, err := st.snaps.Open(metas[0].ID)
		if err == nil {
			err = fsm.Restore(rd)
		}
		if err != nil {
			return s, nil, fmt.Errorf("recover: snapshot %s: %w", metas[0].ID, err)
		}
		s.LastIndex, s.LastTerm, s.Servers = m.Index, m.Term, serverIDs(m.Configuration)
	}
	last, err := st.logs.LastIndex()
	if err != nil {
		return s, nil, fmt.Errorf("recover: raft log: %w", err)
	}
	for i := s.LastIndex + 1; i <= last; i++ {
		var l raft.Log
		if err := st.logs.GetLog(i, &l); err != nil {
			return s, nil, fmt.Errorf("recover: raft log entry %d: %w", i, err)
		}
		switch l.Type {
		case raft.LogCommand:
			fsm.Apply(&l)
		case raft.LogConfiguration:
			s.Servers = serverIDs(raft.DecodeConfiguration(l.Data))
		}
		s.LastIndex, s.LastTerm = l.Index, l.Term
	}
	if len(s.Servers) == 0 {
		return s, nil, fmt.Errorf("recover: the server of %s has never been part of a cluster: %w", r.DataDir, starling.ErrConflict)
	}
	s.State, err = fsm.View().Summary()
	return s, fsm, err
}

func serverIDs(c raft.Configuration) []string {
	var out []string
	for _, s := range c.Servers {
		out = append(out, string(s.ID))
	}
	slices.Sort(out)
	return out
}

// recover writes a snapshot that holds all, with a configuration of one server, and
// drops the log before it. Until the log is dropped, doing it again does no harm.
func (r *Recovery) recover(st *stores, at time.Time) (Survivor, error) {
	s, fsm, err := r.replay(st)
	if err != nil {
		return s, err
	}
	if !slices.Contains(s.Servers, r.Name) {
		return s, fmt.Errorf("recover: %w: the last configuration is of %v, and %s is not among them", starling.ErrConflict, s.Servers, r.Name)
	}
	view, err := fsm.View().Recovered(at, r.Actor)
	if err != nil {
		return s, fmt.Errorf("recover: %w", err)
	}
	addr, trans := raft.NewInmemTransport(raft.ServerAddress(r.Addr))
	conf := raft.Configuration{Servers: []raft.Server{{ID: raft.ServerID(r.Name), Address: addr}}}
	sink, err := st.snaps.Create(raft.SnapshotVersionMax, view.Index()+1, s.LastTerm, conf, 1, trans)
	if err == nil {
		err = persist(view, sink)
	}
	if err != nil {
		return s, fmt.Errorf("recover: write a snapshot: %w", err)
	}
	first, err := st.logs.FirstIndex()
	if err != nil {
		return s, fmt.Errorf("recover: raft log: %w", err)
	}
	if first > 0 {
		if err := st.logs.DeleteRange(first, s.LastIndex); err != nil {
			return s, fmt.Errorf("recover: drop the log: %w", err)
		}
	}
	s.State, err = view.Summary()
	return s, err
}

func persist(v raftfsm.View, sink raft.SnapshotSink) error {
	if err := v.WriteSnapshot(sink); err != nil {
		return errors.Join(err, sink.Cancel())
	}
	return sink.Close()
}
