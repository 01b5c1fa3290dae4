package httpapi

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/raftfsm"
)

func (b *backend) Nodes(_ context.Context, f starling.NodeFilter) []starling.NodeStatus {
	out := []starling.NodeStatus{}
	for m := range b.fsm.View().Machines(f.After) {
		n := starling.NodeStatus{Cell: m.Cell, Standing: m.Standing, Node: starling.Node{
			Name: m.Name, Region: b.region, Zone: m.Zone, Roles: []starling.Role{starling.RoleMachine}, Alive: true,
		}}
		if f.Matches(&n) && (f.Limit == 0 && len(out) < starling.MaxListedNodes || len(out) < f.Limit) {
			out = append(out, n)
		}
	}
	return out
}

func (b *backend) Node(_ context.Context, name string) (*starling.NodeDetail, error) {
	m, ok := b.fsm.View().Machine(name)
	if !ok {
		return nil, fmt.Errorf("node %s: %w", name, starling.ErrNotFound)
	}
	return &starling.NodeDetail{NodeStatus: starling.NodeStatus{Node: starling.Node{Name: name}, Standing: m.Standing}, Machine: m}, nil
}

func (b *backend) SetStanding(_ context.Context, actor string, c starling.StandingChange) (*starling.Machine, error) {
	r, err := b.propose(actor, raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: c.Name, Standing: c.To, From: c.From, Unknown: c.Unknown})
	return r.Machine, err
}

func (b *backend) RemoveMachine(_ context.Context, actor, name string, force bool) error {
	_, err := b.propose(actor, raftfsm.TypeMachineRemove, raftfsm.MachineRemove{Name: name, Force: force})
	return err
}

func (b *backend) Cells() []starling.CellStatus {
	out := []starling.CellStatus{}
	for _, c := range b.fsm.View().Cells() {
		out = append(out, starling.CellStatus{Cell: *c})
	}
	return out
}

func (b *backend) RotateCells(_ context.Context, actor, cell string, all bool) error {
	_, err := b.propose(actor, raftfsm.TypeCellRotate, raftfsm.CellRotate{Cell: cell, All: all})
	return err
}

func (b *backend) CreateJoinToken(_ context.Context, actor string, n starling.NewJoinToken) (*starling.IssuedJoinToken, error) {
	text := starling.JoinTokenText{ID: fmt.Sprintf("jt-%d", len(b.JoinTokens())), CA: starling.DigestOf([]byte("ca"))}
	copy(text.Secret[:], text.ID)
	r, err := b.propose(actor, raftfsm.TypeJoinTokenCreate, raftfsm.JoinTokenCreate{Token: starling.JoinToken{
		ID: text.ID, Name: n.Name, Zone: n.Zone, Tags: n.Tags, MaxUses: n.Uses, Hash: text.Hash(), ExpiresAt: time.Now().Add(n.TTL.D()),
	}})
	if err != nil {
		return nil, err
	}
	return &starling.IssuedJoinToken{JoinToken: *r.JoinToken, Text: text.Text()}, nil
}

func (b *backend) JoinTokens() []*starling.JoinToken { return b.fsm.View().JoinTokens() }

func (b *backend) RevokeJoinToken(_ context.Context, actor, id string) error {
	_, err := b.propose(actor, raftfsm.TypeJoinTokenRevoke, raftfsm.JoinTokenRevoke{ID: id})
	return err
}

// machines registers n machines, in zones a and b.
func (b *backend) machines(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		_, err := b.propose("test", raftfsm.TypeMachineRegister, raftfsm.MachineRegister{
			MachineFacts: raftfsm.MachineFacts{Name: fmt.Sprintf("m%04d", i), Zone: string(rune('a' + i%2)), Gossip: "h:1"}, Max: 1500,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func TestNodesByPage(t *testing.T) {
	b := newBackend("r1")
	b.machines(t, starling.MaxListedNodes+200)
	srv := serve(t, Config{Backend: b})
	c, err := client.New(client.Config{Addr: srv.URL, HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	all, err := c.Nodes(t.Context())
	if err != nil || len(all) != starling.MaxListedNodes+200 || all[1100].Name != "m1100" {
		t.Fatalf("%d nodes, %v", len(all), err)
	}
	for what, ask := range map[string]struct {
		f    starling.NodeFilter
		want int
	}{
		"zone":  {starling.NodeFilter{Zone: "a"}, 600},
		"cell":  {starling.NodeFilter{Cell: "c9"}, 0},
		"role":  {starling.NodeFilter{Role: starling.RoleServer}, 0},
		"dead":  {starling.NodeFilter{State: starling.NodeDead}, 0},
		"limit": {starling.NodeFilter{Limit: 7, State: starling.NodeAlive}, 7},
		"after": {starling.NodeFilter{After: "m1100"}, 99},
	} {
		if got, err := c.FindNodes(t.Context(), ask.f); err != nil || len(got) != ask.want {
			t.Errorf("by %s: %d nodes, want %d, %v", what, len(got), ask.want, err)
		}
	}
	for _, bad := range []string{"state=asleep", "role=king", "limit=1001", "limit=-1", "limit=x"} {
		if res, body := request(t, srv, "GET", "/v1/nodes?"+bad, ""); res.StatusCode != 400 && res.StatusCode != 422 {
			t.Errorf("%s: %s %s", bad, res.Status, body)
		}
	}
}

func TestStandings(t *testing.T) {
	b := newBackend("r1")
	b.machines(t, 2)
	srv := serve(t, Config{Backend: b})
	c, err := client.New(client.Config{Addr: srv.URL, HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	standing := func(want starling.Standing, m *starling.Machine, err error) {
		t.Helper()
		if err != nil || m.Standing != want {
			t.Errorf("%+v, %v, want %s", m, err, want)
		}
	}
	m, err := c.DrainNode(ctx, "m0000", false)
	standing(starling.StandingDraining, m, err)
	if drained, err := c.FindNodes(ctx, starling.NodeFilter{State: "draining"}); err != nil || len(drained) != 1 {
		t.Errorf("%v, %v", drained, err)
	}
	m, err = c.DrainNode(ctx, "m0000", true)
	standing(starling.StandingActive, m, err)
	m, err = c.RevokeNode(ctx, "m0000", false)
	standing(starling.StandingRevoked, m, err)
	if _, err := c.DrainNode(ctx, "m0000", true); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("a revoked machine is let in by drain --off: %v", err)
	}
	if err := c.RemoveNode(ctx, "m0000", false); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("a revoked machine is forgotten: %v", err)
	}
	if d, err := c.Node(ctx, "m0000"); err != nil || d.Machine == nil || d.Standing != starling.StandingRevoked {
		t.Errorf("%+v, %v", d, err)
	}
	m, err = c.RevokeNode(ctx, "m0000", true)
	standing(starling.StandingActive, m, err)
	for _, name := range []string{"m0000", "m0001"} {
		if err := c.RemoveNode(ctx, name, false); err != nil {
			t.Error(err)
		}
	}
	if _, err := c.RevokeNode(ctx, "m9", false); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a name that nobody has: %v", err)
	}
	m, err = c.RevokeUnknownNode(ctx, "m9")
	standing(starling.StandingRevoked, m, err)
	if err := c.RemoveNode(ctx, "m9", true); err != nil {
		t.Error(err)
	}
	if res, body := request(t, srv, "POST", "/v1/nodes/m8/drain", `{"unknown":true}`); res.StatusCode != 400 {
		t.Errorf("draining an unknown machine: %s %s", res.Status, body)
	}
	for what, err := range map[string]error{
		"status": func() error { _, err := c.Node(ctx, "m9"); return err }(),
		"drain":  func() error { _, err := c.DrainNode(ctx, "m9", false); return err }(),
		"remove": c.RemoveNode(ctx, "m9", false),
	} {
		if !errors.Is(err, starling.ErrNotFound) {
			t.Errorf("%s of a machine that is not there: %v", what, err)
		}
	}
	if res, body := request(t, srv, "POST", "/v1/nodes/m1/drain", `{"of":true}`); res.StatusCode != 400 || !strings.Contains(body, "of") {
		t.Errorf("an unknown field: %s %s", res.Status, body)
	}
}

func TestCellsAndJoinTokens(t *testing.T) {
	b := newBackend("r1")
	b.machines(t, 3)
	srv := serve(t, Config{Backend: b})
	c, err := client.New(client.Config{Addr: srv.URL, HTTP: srv.Client()})
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if err := errors.Join(c.RotateCells(ctx, "c1", false), c.RotateCells(ctx, "", true)); err != nil {
		t.Error(err)
	}
	cells, err := c.Cells(ctx)
	if err != nil || len(cells) != 1 || cells[0].Machines != 3 || cells[0].KeyEpoch != 3 {
		t.Errorf("%+v, %v", cells, err)
	}
	if err := c.RotateCells(ctx, "c9", false); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a cell that is not there: %v", err)
	}
	if err := c.RotateCells(ctx, "", false); !starling.IsInvalid(err) {
		t.Errorf("no cell: %v", err)
	}

	k, err := c.CreateJoinToken(ctx, starling.NewJoinToken{Name: "rack 7", Uses: 40, TTL: starling.Duration(time.Hour), Tags: map[string]string{"role": "web"}})
	if err != nil {
		t.Fatal(err)
	}
	text, err := starling.ParseJoinToken(k.Text)
	if err != nil || text.ID != k.ID || k.MaxUses != 40 || k.Tags["role"] != "web" {
		t.Errorf("%+v, %v", k, err)
	}
	if kept, _ := b.fsm.View().JoinToken(k.ID); kept.Hash != text.Hash() {
		t.Error("the secret is not the one that is kept")
	}
	res, body := request(t, srv, "GET", "/v1/join-tokens", "")
	if res.StatusCode != http.StatusOK || strings.Contains(body, "hash") || strings.Contains(body, "sha256") || strings.Contains(body, "sjt1") {
		t.Errorf("the list shows secrets: %s", body)
	}
	res, body = request(t, srv, "POST", "/v1/join-tokens", `{"uses":1,"ttl":"1h"}`)
	if res.StatusCode != http.StatusCreated || res.Header.Get("Cache-Control") != "no-store" || strings.Contains(body, "hash") {
		t.Errorf("%s %s", res.Status, body)
	}
	for _, bad := range []string{`{"uses":150001,"ttl":"1h"}`, `{"uses":1,"ttl":"9000h"}`, `{"uses":1,"ttl":"1h","tags":{"zone":"a"}}`, `{"use":1}`, `{`} {
		if res, body := request(t, srv, "POST", "/v1/join-tokens", bad); res.StatusCode != 400 {
			t.Errorf("%s: %s %s", bad, res.Status, body)
		}
	}
	if err := c.RevokeJoinToken(ctx, k.ID); err != nil {
		t.Error(err)
	}
	if err := c.RevokeJoinToken(ctx, "jt-none"); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("a token that is not there: %v", err)
	}
	tokens, err := c.JoinTokens(ctx)
	if err != nil || len(tokens) != 2 || !tokens[0].Revoked {
		t.Errorf("%v, %v", tokens, err)
	}
}
