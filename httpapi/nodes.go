package httpapi

import (
	"context"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
)

type (
	nodeList struct {
		Blocking
		Role  string `query:"role" doc:"server, cache, worker or machine"`
		Cell  string `query:"cell" doc:"Machines of this cell only"`
		Zone  string `query:"zone" doc:"Of this zone only"`
		State string `query:"state" doc:"alive, dead, active, draining or revoked"`
		After string `query:"after" doc:"Go on after this name: that of the last one of the page before"`
		Limit int    `query:"limit" doc:"1 to 1000; 1000 unless given"`
	}
	nodeName struct {
		Name string `path:"name" doc:"Its name"`
	}
	nodeRemoval struct {
		Name  string `path:"name" doc:"Its name"`
		Force bool   `query:"force" doc:"Even if it is revoked: its old certificates are good again until they expire"`
	}
	standingBody struct {
		Off     bool `json:"off,omitempty" doc:"Take it back"`
		Unknown bool `json:"unknown,omitempty" doc:"Revoke it also if no machine of that name is known: it has a certificate made by hand and never registered"`
	}
	rotateBody struct {
		Cell string `json:"cell,omitempty" doc:"Its name"`
		All  bool   `json:"all,omitempty" doc:"All cells"`
	}
)

// joinTokenDoc is a join token without the hash of its secret.
type joinTokenDoc struct {
	ID        string            `json:"id"`
	Name      string            `json:"name,omitempty"`
	Zone      string            `json:"zone,omitempty"`
	Tags      map[string]string `json:"tags,omitempty"`
	Uses      int               `json:"uses"`
	MaxUses   int               `json:"max_uses"`
	CreatedAt time.Time         `json:"created_at"`
	ExpiresAt time.Time         `json:"expires_at"`
	Revoked   bool              `json:"revoked"`
}

// issuedJoinDoc shows a join token, this once.
type issuedJoinDoc struct {
	joinTokenDoc
	Text string `json:"text" doc:"What machines are given, shown only now"`
}

func documentJoinToken(k *starling.JoinToken) joinTokenDoc {
	return joinTokenDoc{k.ID, k.Name, k.Zone, k.Tags, k.Uses, k.MaxUses, k.CreatedAt, k.ExpiresAt, k.Revoked}
}

func (a *api) registerNodes() {
	register(a, route{
		method: http.MethodGet, path: "/v1/nodes", id: "list-nodes", summary: "List the members of this region and its machines, by name",
		role: starling.ACLViewer, place: atLeader,
	}, func(ctx context.Context, in *nodeList) (*answer[[]starling.NodeStatus], error) {
		f := starling.NodeFilter{Role: starling.Role(in.Role), Cell: in.Cell, Zone: in.Zone, State: in.State, After: in.After, Limit: in.Limit}
		if err := f.Check(); err != nil {
			return nil, err
		}
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		return &answer[[]starling.NodeStatus]{index, list(a.Backend.Nodes(ctx, f))}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/nodes/{name}", id: "get-node", summary: "Show a member of this region or a machine",
		role: starling.ACLViewer, place: atLeader,
	}, func(ctx context.Context, in *nodeName) (*answer[*starling.NodeDetail], error) {
		d, err := a.Backend.Node(ctx, in.Name)
		if err != nil {
			return nil, err
		}
		return &answer[*starling.NodeDetail]{a.Backend.Leader().Index, d}, nil
	})
	register(a, route{
		method: http.MethodDelete, path: "/v1/nodes/{name}", id: "remove-node", summary: "Forget a machine",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, in *nodeRemoval) (*none, error) {
		return nothing(a.Backend.RemoveMachine(ctx, callOf(ctx).actor, in.Name, in.Force))
	})
	a.registerStanding("drain", "Make a machine no goal's target; what it runs goes on", starling.StandingDraining)
	a.registerStanding("revoke", "Make a machine's certificates void", starling.StandingRevoked)
}

// registerStanding adds a change of a machine's standing, and of it back to active.
func (a *api) registerStanding(verb, summary string, to starling.Standing) {
	register(a, route{
		method: http.MethodPost, path: "/v1/nodes/{name}/" + verb, id: verb + "-node", summary: summary,
		role: starling.ACLOperator, place: atLeader, body: standingBody{},
	}, func(ctx context.Context, in *nodeName) (*answer[*starling.Machine], error) {
		var body standingBody
		if c := callOf(ctx); len(c.body) > 0 {
			if err := decode(c.body, &body); err != nil {
				return nil, err
			}
		}
		if body.Unknown && (to != starling.StandingRevoked || body.Off) {
			return nil, starling.Invalidf("unknown", "goes with revoking only")
		}
		change := starling.StandingChange{Name: in.Name, To: to, Unknown: body.Unknown}
		if body.Off {
			change.To, change.From = starling.StandingActive, to
		}
		m, err := a.Backend.SetStanding(ctx, callOf(ctx).actor, change)
		if err != nil {
			return nil, err
		}
		return &answer[*starling.Machine]{a.Backend.Leader().Index, m}, nil
	})
}

func (a *api) registerCells() {
	register(a, route{
		method: http.MethodGet, path: "/v1/cells", id: "list-cells", summary: "List the cells of this region's machines",
		role: starling.ACLViewer, place: atLeader,
	}, func(ctx context.Context, in *listRead) (*answer[[]starling.CellStatus], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		return &answer[[]starling.CellStatus]{index, list(a.Backend.Cells())}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/caches", id: "list-caches", summary: "List this region's caches, what they hold and how full they are",
		role: starling.ACLViewer, place: atLeader,
	}, func(ctx context.Context, in *listRead) (*answer[[]starling.CacheStatus], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		return &answer[[]starling.CacheStatus]{index, list(a.Backend.Caches())}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/operator/gossip/rotate-cell", id: "rotate-cell", summary: "Give a cell, or all, another gossip key",
		role: starling.ACLOperator, place: atLeader, body: rotateBody{}, status: http.StatusNoContent,
	}, func(ctx context.Context, _ *none) (*none, error) {
		c := callOf(ctx)
		var body rotateBody
		if err := decode(c.body, &body); err != nil {
			return nil, err
		}
		return nothing(a.Backend.RotateCells(ctx, c.actor, body.Cell, body.All))
	})
}

func (a *api) registerJoining() {
	register(a, route{
		method: http.MethodGet, path: "/v1/join-tokens", id: "list-join-tokens", summary: "List join tokens, without their secrets",
		role: starling.ACLOperator, place: atLeader,
	}, func(ctx context.Context, in *listRead) (*answer[[]joinTokenDoc], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		docs := []joinTokenDoc{}
		for _, k := range a.Backend.JoinTokens() {
			docs = append(docs, documentJoinToken(k))
		}
		return &answer[[]joinTokenDoc]{index, docs}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/join-tokens", id: "create-join-token", summary: "Make a token with which machines enrol; it is shown this once",
		role: starling.ACLOperator, place: atLeader, body: starling.NewJoinToken{}, status: http.StatusCreated,
	}, func(ctx context.Context, _ *none) (*secret[issuedJoinDoc], error) {
		c := callOf(ctx)
		var n starling.NewJoinToken
		if err := decode(c.body, &n); err != nil {
			return nil, err
		}
		k, err := a.Backend.CreateJoinToken(ctx, c.actor, n)
		if err != nil {
			return nil, err
		}
		return &secret[issuedJoinDoc]{"no-store", issuedJoinDoc{documentJoinToken(&k.JoinToken), k.Text}}, nil
	})
	register(a, route{
		method: http.MethodDelete, path: "/v1/join-tokens/{id}", id: "revoke-join-token", summary: "Revoke a join token; machines that came with it stay",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, in *tokenID) (*none, error) {
		return nothing(a.Backend.RevokeJoinToken(ctx, callOf(ctx).actor, in.ID))
	})
}
