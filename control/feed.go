package control

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// machineFeed holds what the region's machines are told, signed once for all. Every
// server has one, so that goals come through while there is no leader.
type machineFeed struct {
	mu      sync.Mutex
	edition rpc.Edition
	signed  json.RawMessage // nil: nothing yet
	changed chan struct{}   // closed when the feed or any cell changes
}

func (f *machineFeed) set(e rpc.Edition, signed json.RawMessage) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.edition, f.signed = e, signed
	f.wakeLocked()
}

// wake lets those who wait look at the state again.
func (f *machineFeed) wake() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.wakeLocked()
}

func (f *machineFeed) wakeLocked() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// newer returns the feed if it is newer than the one that a relay has, and a channel that
// is closed when that may be otherwise.
func (f *machineFeed) newer(have rpc.FeedCursor) (json.RawMessage, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.signed == nil || f.edition.Compare(have.Edition()) <= 0 {
		return nil, f.changed
	}
	return f.signed, f.changed
}

// told is what the state says that machines are told, and whose relays are told it. Records
// are never changed in place: the same pointers say the same.
type told struct {
	goals     []*starling.Goal
	directory *raftfsm.Region
	cells     []*starling.Cell
	draining  []*starling.Machine
	revoked   []*starling.Machine
	lookedAt  time.Time // for those that are draining or revoked, who may be many
}

// toldBy reads a state, of which another was read before. late: who is draining or revoked
// is to be looked at again, in a while.
func toldBy(v raftfsm.View, last *told, now time.Time) (t told, late bool) {
	t = *last
	t.goals, t.directory, t.cells = v.Goals(), v.Directory(), v.Cells()
	if late = now.Sub(t.lookedAt) < standingsEvery; !late {
		t.draining, t.revoked, t.lookedAt = v.MachinesIn(starling.StandingDraining), v.MachinesIn(starling.StandingRevoked), now
	}
	return t, late
}

func (t *told) same(o *told) bool {
	return slices.Equal(t.goals, o.goals) && t.directory == o.directory &&
		slices.Equal(t.draining, o.draining) && slices.Equal(t.revoked, o.revoked)
}

func namesOf(all []*starling.Machine) []string {
	var out []string
	for _, m := range all[:min(len(all), rpc.MaxRevoked)] {
		out = append(out, m.Name)
	}
	return out
}

// signFeed makes the feed of what is told since an index.
func (s *Server) signFeed(index uint64, reign string, t *told) (rpc.Edition, json.RawMessage, error) {
	feed := rpc.Feed{
		Index: index, Region: s.cfg.Region, Reign: reign, At: s.cfg.Now().UTC(),
		Goals:   slices.Concat([]*starling.Goal{}, starling.GoalsIn(t.goals, s.cfg.Region)),
		Servers: []starling.Node{}, Caches: []starling.Node{},
		Draining: namesOf(t.draining), Revoked: namesOf(t.revoked),
	}
	if t.directory != nil {
		for _, n := range t.directory.Nodes {
			if n.Has(starling.RoleServer) {
				feed.Servers = append(feed.Servers, n)
			}
			if n.Has(starling.RoleCache) {
				feed.Caches = append(feed.Caches, n)
			}
		}
	}
	signed, err := s.cfg.SignFeed(&feed)
	return feed.Edition(), signed, err
}

// serveFeed answers a cell's relay as soon as there is a feed that it does not have, or
// news of the cell, which may be a second late: while a fleet enrols they change all the time.
func (s *Server) serveFeed(w http.ResponseWriter, r *http.Request, c *caller) error {
	_, wait, err := blocking(r)
	if err != nil {
		return err
	}
	have, err := rpc.ParseFeedCursor(r.URL.Query())
	if err != nil {
		return err
	}
	if s.cfg.SignFeed == nil {
		return fmt.Errorf("server %s does not sign feeds: %w", s.cfg.Name, starling.ErrUnavailable)
	}
	answered, err := s.awaitFeed(r.Context(), c.Name, have, wait)
	if err != nil {
		return err
	}
	return answer(w, answered)
}

func (s *Server) awaitFeed(ctx context.Context, machine string, have rpc.FeedCursor, wait time.Duration) (rpc.FeedResponse, error) {
	over := time.NewTimer(wait)
	defer over.Stop()
	rested := time.NewTimer(cellNewsEvery)
	defer rested.Stop()
	waited, resting := false, have.Version > 0
	for {
		signed, changed := s.feed.newer(have)
		v, cell, err := s.cellOf(ctx, machine, have.Cell)
		if err != nil {
			return rpc.FeedResponse{}, err
		}
		news := cell.Version > have.Version
		if signed != nil || news && !resting || waited {
			out := rpc.FeedResponse{Signed: signed}
			out.Cell, err = s.cellNews(v, cell, news)
			return out, err
		}
		select {
		case <-changed:
		case <-rested.C:
			resting = false
		case <-over.C:
			waited = true
		case <-ctx.Done():
			waited = true
		}
	}
}

// cellOf returns a machine's cell, which must be the one that it names, and the state that it is
// from. This server may not yet have heard of a machine that is new there.
func (s *Server) cellOf(ctx context.Context, machine, name string) (at raftfsm.View, cell *starling.Cell, err error) {
	found := func(v raftfsm.View) bool {
		m, ok := v.Machine(machine)
		if !ok || m.Cell != name || m.Standing == starling.StandingRevoked {
			return false
		}
		at = v
		cell, ok = v.Cell(name)
		return ok
	}
	if !found(s.cfg.FSM.View()) && !s.waitView(ctx, mirrorWait, found) {
		return at, nil, fmt.Errorf("machine %s is not of cell %.80q: it must register again: %w", machine, name, starling.ErrFenced)
	}
	return at, cell, nil
}

// cellNews tells a relay of its cell. Those who belong to it are listed where that is news.
func (s *Server) cellNews(v raftfsm.View, cell *starling.Cell, roster bool) (rpc.CellNews, error) {
	key, err := s.cellKey(cell)
	if err != nil {
		return rpc.CellNews{}, err
	}
	news := rpc.CellNews{Name: cell.Name, Version: cell.Version, KeyEpoch: cell.KeyEpoch, Key: key}
	if !roster {
		return news, nil
	}
	news.Roster = rpc.Roster{}
	for m := range v.MachinesOf(cell.Name) {
		for len(news.Roster) <= m.Slot {
			news.Roster = append(news.Roster, "")
		}
		news.Roster[m.Slot] = m.Name
	}
	return news, nil
}

// cellKey is the secret of a cell's gossip; empty: plain text.
func (s *Server) cellKey(cell *starling.Cell) ([]byte, error) {
	if s.cfg.CellKey == nil {
		return nil, nil
	}
	key, err := s.cfg.CellKey(cell.Name, cell.KeyEpoch)
	if err != nil {
		return nil, fmt.Errorf("gossip key of cell %s: %w", cell.Name, err)
	}
	return key, nil
}
