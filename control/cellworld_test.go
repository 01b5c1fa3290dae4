package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/cell"
	"github.com/starlingdeploy/starling/rpc"
)

// speaker is a machine that speaks for its cell over the wire. All its members are alive, and
// in one state with every goal.
type speaker struct {
	w     *world
	node  starling.Node
	state atomic.Pointer[starling.MachineState]
	seq   uint64
	base  uint64
	have  rpc.FeedCursor
	feed  rpc.Feed
	names rpc.Roster
}

// enrolled registers machines and lets the best of each cell speak for it.
func (w *world) enrolled(region string, machines int) []*speaker {
	w.t.Helper()
	cells := map[string][]string{}
	for i := range machines {
		n := node(region, fmt.Sprintf("m%d", i), starling.RoleMachine)
		var ticket rpc.Ticket
		client := w.clientOf(n)
		defer client.HTTP.CloseIdleConnections()
		w.eventually("registering "+n.Name, func() (ok bool) {
			var err error
			ticket, err = client.Register(w.ctx, rpc.RegisterRequest{Name: n.Name, Zone: "a", Tags: n.Tags, Gossip: n.Name + ":7473"})
			return err == nil
		})
		cells[ticket.Cell] = append(cells[ticket.Cell], n.Name)
	}
	var out []*speaker
	for name, members := range cells {
		s := &speaker{w: w, node: node(region, cell.Rank(name, members, 1)[0], starling.RoleMachine), have: rpc.FeedCursor{Cell: name}}
		s.is(starling.MachineFetching)
		w.wire.serve(w.t, s.node.Addr, http.HandlerFunc(s.tellServers))
		w.act(s.node, s.speak)
		out = append(out, s)
	}
	return out
}

func (s *speaker) is(state starling.MachineState) { s.state.Store(&state) }

// tellServers answers a server that asks after a member.
func (s *speaker) tellServers(w http.ResponseWriter, r *http.Request) {
	id, ok := starling.IdentityFrom(r.Context())
	if !ok || !id.Has(starling.RoleServer) {
		rpc.WriteProblem(w, fmt.Errorf("%s: %w", id, starling.ErrForbidden))
		return
	}
	_ = answer(w, rpc.CellMember{Node: node(s.node.Region, r.URL.Query().Get("name"), starling.RoleMachine)}) // never fails
}

// speak hears what is new and tells how the cell stands.
func (s *speaker) speak(ctx context.Context, _ starling.Node, c *rpc.Client) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second) // a server may hang
	defer cancel()
	news, err := c.Feed(ctx, s.have, 400*time.Millisecond)
	if err != nil {
		return err
	}
	if news.Signed != nil {
		var signed rpc.SignedFeed
		if err := errors.Join(json.Unmarshal(news.Signed, &signed), json.Unmarshal(signed.Payload, &s.feed)); err != nil {
			return err
		}
		s.have.Index, s.have.Reign = s.feed.Index, s.feed.Reign
	}
	if news.Cell.Roster != nil {
		s.names, s.have.Version = news.Cell.Roster, news.Cell.Version
	}
	s.seq++
	r := rpc.CellReport{Cell: s.have.Cell, Version: s.have.Version, Relay: s.node, Gossip: s.node.Name + ":7473", Seq: s.seq, Base: s.base}
	tally := cell.NewTally("")
	var nodes []starling.Node
	for slot, name := range s.names {
		if name != "" {
			nodes = append(nodes, node(s.node.Region, name, starling.RoleMachine))
			r.Alive.Set(slot)
		}
	}
	slices.SortFunc(nodes, func(a, b starling.Node) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	tally.SetMembers(nodes)
	for _, g := range s.feed.Goals {
		for _, n := range nodes {
			m := starling.MachineReport{Node: n.Name, App: g.App, Generation: g.Generation, State: *s.state.Load()}
			if m.State == starling.MachineStaged && g.Stage.AtLeast(starling.StageActivate) && g.Cutoff.Selects(n.Name, g.Deployment) {
				m.State = starling.MachineHealthy
			}
			if _, err := tally.Record(m, time.Now()); err != nil {
				return err
			}
		}
		app, _ := tally.Count(g, time.Now())
		r.Apps = append(r.Apps, app)
	}
	res, err := c.ReportCell(ctx, r)
	if err != nil {
		return err
	}
	if s.base = s.seq; res.Whole {
		s.base = 0
	}
	return nil
}

func TestANewLeaderHearsAllCellsWithinSeconds(t *testing.T) {
	t.Parallel()
	w := newWorld(t, map[string]int{"us": 3})
	w.join(node("us", "c1", starling.RoleCache), w.cacheActor())
	speakers := w.enrolled("us", 12)
	if len(speakers) != 6 {
		t.Fatalf("%d cells of 2 for 12 machines", len(speakers))
	}
	for _, s := range speakers[1:] {
		s.is(starling.MachineStaged)
	}
	w.join(node("us", "w1", starling.RoleWorker), w.worker)
	w.home(func(s *Server) error {
		a := starling.App{Name: "web", Source: starling.SourceSpec{Git: "https://git.example/web"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
		a.SetDefaults()
		_, err := s.ApplyApp(w.ctx, "ann", a, nil)
		return err
	})
	id := w.submit(starling.Submission{App: "web", SHA: strings.Repeat("a", 40)})
	w.await(id, starling.PhaseStaging)
	whole := func(s *worldServer) bool {
		d, ok := s.Deployment(id)
		return ok && d.Machines.Target == 12 && d.Machines.Staged == 10 && d.Machines.Absent == 0 && len(d.Fleet) == 1
	}
	us := w.regions["us"]
	t.Cleanup(func() {
		if l := us.leader(); t.Failed() && l != nil {
			d, _ := l.Deployment(id)
			cells, err := l.DeploymentCells(context.Background(), id, "")
			t.Logf("at the end: %s %+v %+v\n%+v, %v", d.Phase, d.Machines, d.Fleet, cells, err)
		}
	})
	patience := 2 * time.Minute // on a busy computer leaders come and go
	w.within(patience, "all cells have reported", func() bool { l := us.leader(); return l != nil && whole(l) })

	old := w.led(us)
	old.hang()
	us.members.alive(old.node.Name, false)
	var lead *worldServer
	var elected time.Time
	w.within(patience, "the new leader has heard all cells", func() bool {
		l := us.leader()
		if l == nil || l == old {
			lead = nil
			return false
		}
		if l != lead {
			lead, elected = l, time.Now()
		}
		return whole(lead)
	})
	took := time.Since(elected)
	t.Logf("the picture was whole %s after the election", took.Round(time.Millisecond))
	if took > rpc.CellSilentAfter+5*time.Second { // seconds, on a computer that is not busy
		t.Errorf("the new leader knew all cells after %s", took)
	}

	for _, s := range us.servers {
		if s == old {
			continue
		}
		var m rpc.CellMember
		var err error
		w.within(patience, "asking where m7 is", func() bool { m, err = s.cellMember(w.ctx, "m7"); return err == nil })
		if err != nil || m.Node.Name != "m7" || m.Node.Addr != "m7.us:7471" {
			t.Errorf("server %s asks where m7 is: %+v, %v", s.node.Name, m, err)
		}
		if _, err := s.cellMember(w.ctx, "m99"); !errors.Is(err, starling.ErrNotFound) {
			t.Errorf("server %s asks where m99 is: %v", s.node.Name, err)
		}
		var cells []starling.CellProgress
		w.within(patience, "asking for all cells", func() bool { cells, err = s.DeploymentCells(w.ctx, id, ""); return err == nil && len(cells) == 6 })
		if err != nil || len(cells) != 6 || cells[0].Alive != 2 || cells[0].Counts.Target != 2 || cells[0].SilentMS < 0 || len(cells[0].Speakers) != 1 {
			t.Errorf("server %s: %+v, %v", s.node.Name, cells, err)
		}
	}
	speakers[0].is(starling.MachineStaged)
	if d := w.await(id, starling.PhaseSucceeded); d.Machines.Healthy != 12 {
		t.Errorf("%+v", d.Machines)
	}
}
