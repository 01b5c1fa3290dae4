package control

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

func namesOfNodes(all []starling.NodeStatus) (names []string) {
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names
}

// Members of the region's pool and machines of its roster are one list.
func TestNodesOfPoolAndRoster(t *testing.T) {
	b := newBench(t, "us", withCells(4), node("us", "a-old", starling.RoleMachine), node("us", "m1", starling.RoleServer), node("us", "z-cache", starling.RoleCache))
	term := b.elect()
	b.look(term)
	tickets := b.enlist(3)
	b.look(term)
	b.cellReport(term, "m0", tickets[0].Cell, []int{tickets[0].Slot, tickets[1].Slot})

	all := b.server.Nodes(t.Context(), starling.NodeFilter{})
	if got := namesOfNodes(all); !slices.Equal(got, []string{"a-old", "m0", "m1", "m2", "s1", "z-cache"}) {
		t.Fatalf("%v", got)
	}
	if m1 := all[2]; m1.Cell != tickets[1].Cell || !m1.Has(starling.RoleServer) || !m1.Has(starling.RoleMachine) || m1.Standing != starling.StandingActive {
		t.Errorf("both a server and a machine: %+v", m1)
	}
	if !all[1].Alive || all[3].Alive {
		t.Errorf("the cell sees m0 and m1, not m2: %+v", all)
	}
	for what, ask := range map[string]struct {
		f    starling.NodeFilter
		want []string
	}{
		"a page":   {starling.NodeFilter{Limit: 2}, []string{"a-old", "m0"}},
		"the next": {starling.NodeFilter{After: "m0", Limit: 2}, []string{"m1", "m2"}},
		"the last": {starling.NodeFilter{After: "s1"}, []string{"z-cache"}},
		"a cell":   {starling.NodeFilter{Cell: tickets[0].Cell, State: starling.NodeDead}, []string{"m2"}},
		"servers":  {starling.NodeFilter{Role: starling.RoleServer}, []string{"m1", "s1"}},
	} {
		if got := namesOfNodes(b.server.Nodes(t.Context(), ask.f)); !slices.Equal(got, ask.want) {
			t.Errorf("%s: %v, want %v", what, got, ask.want)
		}
	}
	if cells := b.server.Cells(); len(cells) != 1 || cells[0].Alive != 2 || !slices.Equal(cells[0].Speakers, []string{"m0"}) || cells[0].SilentMS != 0 {
		t.Errorf("%+v", cells)
	}
	if rs := b.server.RegionStatuses(); rs[0].Machines != 3 { // a-old, m0, m1
		t.Errorf("%d machines", rs[0].Machines)
	}
	b.depose()
	term = b.elect()
	b.look(term)
	if cells := b.server.Cells(); cells[0].SilentMS != -1 || cells[0].Alive != 0 {
		t.Errorf("a new leader has not heard the cell: %+v", cells)
	}
}

func TestDrainRevokeRemove(t *testing.T) {
	b := newBench(t, "us", withCells(4))
	b.look(b.elect())
	b.enlist(2)
	s, ctx := b.server, t.Context()
	m, err := s.SetStanding(ctx, "ann", starling.StandingChange{Name: "m0", To: starling.StandingDraining})
	if err != nil || m.Standing != starling.StandingDraining {
		t.Errorf("%+v, %v", m, err)
	}
	if _, err := s.SetStanding(ctx, "ann", starling.StandingChange{Name: "m0", To: starling.StandingActive, From: starling.StandingRevoked}); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("revoke --off of one that is draining: %v", err)
	}
	if _, err := s.SetStanding(ctx, "ann", starling.StandingChange{Name: "m0", To: starling.StandingRevoked}); err != nil {
		t.Error(err)
	}
	if d, err := s.Node(ctx, "m0"); err != nil || d.Standing != starling.StandingRevoked || d.Cell != "" || d.Machine.Name != "m0" {
		t.Errorf("%+v, %v", d, err)
	}
	if err := s.RemoveMachine(ctx, "ann", "m0", false); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("a revoked machine: %v", err)
	}
	if err := errors.Join(s.RemoveMachine(ctx, "ann", "m0", true), s.RemoveMachine(ctx, "ann", "m1", false)); err != nil {
		t.Error(err)
	}
	if _, err := s.Node(ctx, "m0"); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("removed: %v", err)
	}
	if cells := s.Cells(); len(cells) != 0 {
		t.Errorf("an empty cell is left: %+v", cells)
	}
	events, _ := b.fsm.View().EventsAfter(0, 0, 100)
	var said []string
	for _, e := range events {
		if e.Type == raftfsm.EventMachineStanding || e.Type == raftfsm.EventMachineRemoved {
			said = append(said, e.Actor+": "+e.Detail)
		}
	}
	if want := []string{"ann: m0 is draining", "ann: m0 is revoked", "ann: m0", "ann: m1"}; !slices.Equal(said, want) {
		t.Errorf("events %v", said)
	}
}

func TestJoinTokensAreShownOnce(t *testing.T) {
	b := newBench(t, "us", func(c *Config) {
		c.CA = starling.DigestOf([]byte("ca"))
		c.Enrolment = &Enrolment{CA: []byte("ca"), Sign: func(string, ed25519.PublicKey, time.Duration, time.Time) ([]byte, error) {
			return nil, errors.New("nobody enrols in this test")
		}}
	})
	b.look(b.elect())
	s, ctx := b.server, t.Context()
	k, err := s.CreateJoinToken(ctx, "ann", starling.NewJoinToken{})
	if err != nil {
		t.Fatal(err)
	}
	text, err := starling.ParseJoinToken(k.Text)
	if err != nil || text.CA != starling.DigestOf([]byte("ca")) || text.Hash() != k.Hash || k.MaxUses != 1 || k.ExpiresAt.Sub(b.clock.Now()) != 24*time.Hour {
		t.Errorf("%+v, %v", k, err)
	}
	other, err := s.CreateJoinToken(ctx, "ann", starling.NewJoinToken{Uses: 7, TTL: starling.Duration(time.Hour)})
	if err != nil || other.ID == k.ID || other.Hash == k.Hash || other.MaxUses != 7 {
		t.Errorf("%+v, %v", other, err)
	}
	for what, n := range map[string]starling.NewJoinToken{
		"uses": {Uses: -1}, "too many": {Uses: starling.MaxMachinesPerRegion + 1}, "ttl": {TTL: -1},
		"long": {TTL: starling.Duration(400 * 24 * time.Hour)}, "a tag": {Tags: map[string]string{"name": "m1"}},
	} {
		if _, err := s.CreateJoinToken(ctx, "ann", n); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := s.RevokeJoinToken(ctx, "ann", k.ID); err != nil || !s.JoinTokens()[0].Revoked && !s.JoinTokens()[1].Revoked {
		t.Errorf("%v", err)
	}

	without := newBench(t, "us", withCells(4))
	without.look(without.elect())
	if _, err := without.server.CreateJoinToken(ctx, "ann", starling.NewJoinToken{}); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "starling tls ca enrol") {
		t.Errorf("without an enrolment authority: %v", err)
	}
}

// A feed has room for all machines that can be revoked.
func TestAllRevokedFitIntoAFeed(t *testing.T) {
	if rpc.MaxRevoked < raftfsm.MaxRevokedMachines {
		t.Errorf("%d names in a feed, %d machines can be revoked", rpc.MaxRevoked, raftfsm.MaxRevokedMachines)
	}
}

// A leader splits and merges: the decisions reach the state.
func TestALeaderSplitsFullCells(t *testing.T) {
	b := newBench(t, "us", withCells(4))
	term := b.elect()
	b.look(term)
	for _, name := range []string{"a", "b", "c", "d"} {
		if _, err := b.register(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	b.look(term)
	if n := len(b.server.Cells()); n != 1 {
		t.Fatalf("%d cells", n)
	}
	b.clock.advance(cellQuiet + time.Second)
	b.look(term)
	if cells := b.server.Cells(); len(cells) != 2 || cells[0].Machines != 2 || cells[1].Machines != 2 {
		t.Errorf("%+v", cells)
	}
}

// relayOf serves what a cell's relay answers.
func relayOf(t *testing.T, members ...rpc.CellMember) func(context.Context, string) (net.Conn, error) {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc(rpc.RouteCellMembers, func(w http.ResponseWriter, _ *http.Request) {
		if err := json.NewEncoder(w).Encode(members); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc(rpc.RouteCellMachine, func(w http.ResponseWriter, r *http.Request) {
		for _, m := range members {
			if m.Node.Name == r.URL.Query().Get("name") {
				if err := json.NewEncoder(w).Encode(m); err != nil {
					t.Error(err)
				}
			}
		}
	})
	relay := httptest.NewServer(mux)
	t.Cleanup(relay.Close)
	return func(ctx context.Context, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", relay.Listener.Addr().String())
	}
}

// What a machine in a cell runs is asked of its cell.
func TestCellsTellWhatTheirMachinesRun(t *testing.T) {
	runs := starling.DigestOf([]byte("v1"))
	member := func(name string, state starling.MachineState, reason string) rpc.CellMember {
		n := node("us", name, starling.RoleMachine)
		return rpc.CellMember{Node: n, SeenAt: newFakeClock().Now(), Reports: []starling.MachineReport{
			{Node: name, App: "web", State: state, Running: runs, Reason: reason},
		}}
	}
	with := withCells(4)
	b := newBench(t, "us", func(c *Config) {
		with(c)
		c.DialCell = relayOf(t, member("m0", starling.MachineHealthy, ""), member("m1", starling.MachineFailed, "no disk"))
	})
	t.Cleanup(func() { b.server.toCells.CloseIdleConnections() })
	term := b.elect()
	b.look(term)
	tickets := b.enlist(3)
	b.look(term)
	if d, err := b.server.Node(t.Context(), "m1"); err != nil || !strings.Contains(d.Unasked, "silent") {
		t.Errorf("nobody speaks for the cell yet: %+v, %v", d, err)
	}
	b.cellReport(term, "m0", tickets[0].Cell, []int{tickets[0].Slot, tickets[1].Slot})
	all := b.server.Nodes(t.Context(), starling.NodeFilter{Role: starling.RoleMachine})
	if len(all) != 3 || all[0].Running["web"] != runs || all[1].Problem != "web: no disk" || all[0].Addr == "" || all[2].Running != nil {
		t.Errorf("%+v", all)
	}
	d, err := b.server.Node(t.Context(), "m1")
	if err != nil || d.Unasked != "" || len(d.Reports) != 1 || d.Running["web"] != runs || d.SeenAt.IsZero() {
		t.Errorf("%+v, %v", d, err)
	}
}
