package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// unsigned is a signed feed without a signature.
func unsigned(feed *rpc.Feed) (json.RawMessage, error) {
	payload, err := json.Marshal(feed)
	if err != nil {
		return nil, err
	}
	return json.Marshal(rpc.SignedFeed{Payload: payload})
}

// withCells makes a server that has cells of so many machines at most.
func withCells(most int) func(*Config) {
	return func(c *Config) {
		c.CellMax, c.SignFeed = most, unsigned
		c.CellKey = func(cell string, epoch uint64) ([]byte, error) { return fmt.Appendf(nil, "%s/%d", cell, epoch), nil }
	}
}

// fed keeps the feed of a bench until the test ends.
func (b *bench) fed() {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { _ = b.server.feedGoals(ctx) }) // it ends with ctx
	b.t.Cleanup(func() { cancel(); wg.Wait() })
}

// register makes a machine known, or known again, in the name of its certificate.
func (b *bench) register(name string, change func(*rpc.RegisterRequest)) (rpc.Ticket, error) {
	req := rpc.RegisterRequest{Name: name, Zone: "a", Rack: "r1", Tags: map[string]string{"role": "web"}, Gossip: name + ":7473"}
	if change != nil {
		change(&req)
	}
	return clientOf(b.server, node("us", name, starling.RoleMachine)).Register(b.t.Context(), req)
}

// enlist registers machines m0, m1, and so on.
func (b *bench) enlist(n int) []rpc.Ticket {
	b.t.Helper()
	var out []rpc.Ticket
	for i := range n {
		t, err := b.register(fmt.Sprintf("m%d", i), nil)
		if err != nil {
			b.t.Fatal(err)
		}
		out = append(out, t)
	}
	return out
}

func feedOf(t *testing.T, r rpc.FeedResponse) rpc.Feed {
	t.Helper()
	var signed rpc.SignedFeed
	var feed rpc.Feed
	if err := errors.Join(json.Unmarshal(r.Signed, &signed), json.Unmarshal(signed.Payload, &feed)); err != nil {
		t.Fatalf("%s: %v", r.Signed, err)
	}
	return feed
}

func TestARelayIsToldWhatItDoesNotHave(t *testing.T) {
	t.Parallel()
	b := newBench(t, "us", withCells(4), usCache)
	term := b.elect()
	b.look(term)
	b.fed()
	ticket := b.enlist(2)[0]
	c := clientOf(b.server, node("us", "m0", starling.RoleMachine))
	have := rpc.FeedCursor{Cell: ticket.Cell}
	first, err := c.Feed(t.Context(), have, 10*time.Second)
	for err == nil && first.Signed == nil { // the server has only just begun
		first, err = c.Feed(t.Context(), have, 10*time.Second)
	}
	if err != nil {
		t.Fatal(err)
	}
	feed := feedOf(t, first)
	if feed.Region != "us" || feed.Reign == "" || len(feed.Servers) != 1 || len(feed.Caches) != 1 || len(feed.Goals) != 0 || feed.At.IsZero() {
		t.Errorf("%+v", feed)
	}
	if n := first.Cell; n.Name != ticket.Cell || !slices.Equal(n.Roster, rpc.Roster{"m0", "m1"}) || string(n.Key) != ticket.Cell+fmt.Sprintf("/%d", n.KeyEpoch) {
		t.Errorf("news of the cell: %+v", n)
	}
	have.Index, have.Reign, have.Version = feed.Index, feed.Reign, first.Cell.Version
	if again, err := c.Feed(t.Context(), have, 0); err != nil || again.Signed != nil || again.Cell.Roster != nil {
		t.Errorf("nothing is new, and yet %s %+v, %v", again.Signed, again.Cell, err)
	}

	next := func(what string, change func()) rpc.FeedResponse {
		t.Helper()
		got := make(chan rpc.FeedResponse, 1)
		go func() {
			r, err := c.Feed(t.Context(), have, 20*time.Second)
			if err != nil {
				t.Errorf("%s: %v", what, err)
			}
			got <- r
		}()
		change()
		r := <-got
		if r.Signed != nil {
			f := feedOf(t, r)
			have.Index, have.Reign = f.Index, f.Reign
		}
		have.Version = max(have.Version, r.Cell.Version)
		return r
	}
	b.app("web", nil)
	art := b.artifact("v1")
	goal := next("a goal", func() { b.submit("d1", "web", art); b.look(term) })
	if f := feedOf(t, goal); len(f.Goals) != 1 || f.Goals[0].Deployment != "d1" || f.Index <= feed.Index {
		t.Errorf("a goal: %+v", f)
	}
	another := func() {
		if _, err := b.register("m2", nil); err != nil {
			t.Error(err)
		}
	}
	if r := next("another member", another); r.Signed != nil || len(r.Cell.Roster) != 3 {
		t.Errorf("another member: %s %+v", r.Signed, r.Cell)
	}
	b.look(term)
	if r := next("a dead cache", func() { b.members.alive(usCache.Name, false); b.look(term) }); feedOf(t, r).Caches[0].Alive {
		t.Errorf("a dead cache is told to be alive")
	}
	drain := raftfsm.MachineStanding{Name: "m1", Standing: starling.StandingDraining}
	if r := next("draining", func() { b.must(raftfsm.TypeMachineStanding, drain) }); !slices.Equal(feedOf(t, r).Draining, []string{"m1"}) {
		t.Errorf("draining: %+v", feedOf(t, r))
	}
	b.must(raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: "m1", Standing: starling.StandingActive})
	next("not any more", func() {})
	if r := next("another leader", func() { b.raft.lead(true) }); feedOf(t, r).Reign == feed.Reign {
		t.Errorf("another leader: %+v", feedOf(t, r))
	}
	revoke := raftfsm.MachineStanding{Name: "m2", Standing: starling.StandingRevoked}
	if r := next("revoked", func() { b.must(raftfsm.TypeMachineStanding, revoke) }); r.Signed == nil && r.Cell.Version == 0 {
		t.Errorf("revoked: %+v", r)
	}
	_, err = clientOf(b.server, node("us", "m2", starling.RoleMachine)).Feed(t.Context(), have, 0)
	if !errors.Is(err, starling.ErrFenced) {
		t.Errorf("a revoked machine asks for the cell's key: %v", err)
	}
	_, err = c.Feed(t.Context(), rpc.FeedCursor{Cell: "another"}, 0)
	if !errors.Is(err, starling.ErrFenced) {
		t.Errorf("a machine asks for another cell's key: %v", err)
	}
}

func TestRegistration(t *testing.T) {
	b := newBench(t, "us", withCells(2))
	b.look(b.elect())
	tickets := b.enlist(3)
	if tickets[0].Cell != tickets[1].Cell || tickets[0].Slot == tickets[1].Slot || tickets[2].Cell == tickets[0].Cell {
		t.Errorf("cells of two: %+v", tickets)
	}
	if len(tickets[1].Seeds) != 1 || tickets[1].Seeds[0] != "m0:7473" || len(tickets[1].Servers) != 1 || len(tickets[1].Key) == 0 || tickets[1].Region != "us" {
		t.Errorf("%+v", tickets[1])
	}
	before := b.raft.written(raftfsm.TypeMachineRegister)
	again, err := b.register("m1", nil)
	if err != nil || again.Cell != tickets[1].Cell || again.Slot != tickets[1].Slot {
		t.Errorf("again: %+v, %v", again, err)
	}
	if n := b.raft.written(raftfsm.TypeMachineRegister); n != before {
		t.Errorf("the same registration again wrote %d entries", n-before)
	}
	if _, err := b.register("m1", func(r *rpc.RegisterRequest) { r.Name = "m0" }); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("in another's name: %v", err)
	}
	b.must(raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: "m1", Standing: starling.StandingRevoked})
	if _, err := b.register("m1", nil); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("revoked: %v", err)
	}
	old := newBench(t, "us", nil)
	old.elect()
	if _, err := old.register("m1", nil); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("servers without cells: %v", err)
	}
}

func TestACopyOfAMachineIsRefused(t *testing.T) {
	b := newBench(t, "us", withCells(4))
	term := b.elect()
	b.look(term)
	tickets := b.enlist(2)
	alive := func(slots ...int) {
		t.Helper()
		b.cellReport(term, "m0", tickets[0].Cell, slots)
	}
	elsewhere := func(r *rpc.RegisterRequest) { r.Gossip = "10.9.9.9:7473" }
	moving := func(during func()) error {
		t.Helper()
		done := make(chan error, 1)
		go func() {
			_, err := b.register("m1", elsewhere)
			done <- err
		}()
		for {
			select {
			case err := <-done:
				return err
			case <-time.After(20 * time.Millisecond):
				b.clock.advance(time.Second)
				during()
			}
		}
	}
	alive(tickets[0].Slot, tickets[1].Slot)
	err := moving(func() { alive(tickets[0].Slot, tickets[1].Slot) })
	if !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "another machine answers as m1 at m1:7473") {
		t.Errorf("a copy: %v", err)
	}
	if err := moving(func() { alive(tickets[0].Slot) }); err != nil {
		t.Errorf("a machine that has moved: %v", err)
	}
	if m, _ := b.fsm.View().Machine("m1"); m.Gossip != "10.9.9.9:7473" || m.Cell != tickets[1].Cell {
		t.Errorf("%+v", m)
	}
}

// cellReport lets a machine speak for its cell: which slots it sees, and what it says of apps.
func (b *bench) cellReport(term *term, relay, cell string, alive []int, apps ...rpc.CellApp) rpc.CellReportResponse {
	b.t.Helper()
	c, _ := b.fsm.View().Cell(cell)
	r := rpc.CellReport{Cell: cell, Version: c.Version, Relay: node("us", relay, starling.RoleMachine), Gossip: relay + ":7473", Apps: apps}
	for _, slot := range alive {
		r.Alive.Set(slot)
	}
	res, _, err := term.CellReport(b.fsm.View(), r, b.clock.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}
