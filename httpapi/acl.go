package httpapi

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/starlingdeploy/starling"
)

// tokenDoc is a token's record without the hash of its secret.
type tokenDoc struct {
	ID        string           `json:"id"`
	Name      string           `json:"name"`
	Role      starling.ACLRole `json:"role"`
	Region    string           `json:"region"`
	CreatedAt time.Time        `json:"created_at"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
	Revoked   bool             `json:"revoked"`
}

// issuedDoc shows a secret, this once.
type issuedDoc struct {
	tokenDoc
	Secret string `json:"secret"`
}

func documentToken(t *starling.Token) tokenDoc {
	return tokenDoc{t.ID, t.Name, t.Role, t.Region, t.CreatedAt, t.ExpiresAt, t.Revoked}
}

// selfDoc is what a caller may know of itself.
type selfDoc struct {
	Name      string           `json:"name" doc:"Of the token"`
	Role      starling.ACLRole `json:"role"`
	Tokens    bool             `json:"tokens" doc:"False: this server runs without tokens, and everybody may do everything"`
	ExpiresAt time.Time        `json:"expires_at,omitzero"`
	Region    string           `json:"region" doc:"Of this server"`
	Version   string           `json:"version" doc:"Of this server"`
}

type tokenID struct {
	ID string `path:"id"`
}

func (a *api) registerACL() {
	register(a, route{
		method: http.MethodPost, path: "/v1/acl/bootstrap", id: "bootstrap-acl", summary: "Make the first token, an operator's; once",
		place: atLeader, status: http.StatusCreated,
	}, func(ctx context.Context, _ *none) (*secret[issuedDoc], error) {
		if !a.ACLEnabled {
			return nil, fmt.Errorf("this server runs without tokens, everybody may do everything: %w", starling.ErrConflict)
		}
		return issued(a.Backend.BootstrapToken(ctx))
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/acl/self", id: "get-self", summary: "Show who asks, and what their role is",
		role: starling.ACLViewer,
	}, func(ctx context.Context, _ *none) (*answer[selfDoc], error) {
		l := a.Backend.Leader()
		self := selfDoc{Name: "anonymous", Role: starling.ACLOperator, Region: l.Region, Version: a.Version}
		if t := callOf(ctx).token; t != nil {
			self.Name, self.Role, self.Tokens, self.ExpiresAt = t.Name, t.Role, true, t.ExpiresAt
		}
		return &answer[selfDoc]{l.Index, self}, nil
	})
	register(a, route{
		method: http.MethodGet, path: "/v1/acl/tokens", id: "list-tokens", summary: "List tokens, without their secrets",
		role: starling.ACLOperator,
	}, func(ctx context.Context, in *listRead) (*answer[[]tokenDoc], error) {
		index, err := a.block(ctx, in.Blocking)
		if err != nil {
			return nil, err
		}
		docs := []tokenDoc{}
		for _, t := range a.Backend.Tokens() {
			docs = append(docs, documentToken(t))
		}
		return &answer[[]tokenDoc]{index, docs}, nil
	})
	register(a, route{
		method: http.MethodPost, path: "/v1/acl/tokens", id: "create-token", summary: "Make a token",
		role: starling.ACLOperator, place: atLeader, body: starling.NewToken{}, status: http.StatusCreated,
	}, func(ctx context.Context, _ *none) (*secret[issuedDoc], error) {
		c := callOf(ctx)
		var t starling.NewToken
		if err := decode(c.body, &t); err != nil {
			return nil, err
		}
		switch {
		case t.Name == "":
			return nil, starling.Invalidf("name", "is missing: say who will hold the token")
		case !t.Role.Valid():
			return nil, starling.Invalidf("role", "%.40q: use viewer, deployer, approver or operator", string(t.Role))
		}
		return issued(a.Backend.CreateToken(ctx, c.actor, t))
	})
	register(a, route{
		method: http.MethodDelete, path: "/v1/acl/tokens/{id}", id: "revoke-token", summary: "Revoke a token",
		role: starling.ACLOperator, place: atLeader, status: http.StatusNoContent,
	}, func(ctx context.Context, in *tokenID) (*none, error) {
		return nothing(a.Backend.RevokeToken(ctx, callOf(ctx).actor, in.ID))
	})
}

func issued(t *starling.IssuedToken, err error) (*secret[issuedDoc], error) {
	if err != nil {
		return nil, err
	}
	return &secret[issuedDoc]{"no-store", issuedDoc{documentToken(&t.Token), t.Secret}}, nil
}
