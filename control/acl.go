package control

import (
	"context"
	"crypto/subtle"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

const (
	secretPrefix = "st_"
	secretBytes  = 32
	maxSecret    = 256
	maxTokenTTL  = 10 * 365 * 24 * time.Hour
)

// Authenticate implements httpapi.ACL. A token is found by the SHA-256 of its secret,
// so that how long the search takes says nothing about any secret.
func (s *Server) Authenticate(secret string) (*starling.Token, error) {
	if len(secret) > maxSecret {
		secret = secret[:maxSecret]
	}
	hash := starling.DigestOf([]byte(secret))
	t, ok := s.cfg.FSM.View().TokenByHash(hash)
	switch {
	case !ok || subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1:
		return nil, fmt.Errorf("the token is not known: %w", starling.ErrForbidden)
	case t.Revoked:
		return nil, fmt.Errorf("token %s was revoked: %w", t.ID, starling.ErrForbidden)
	case !t.ExpiresAt.IsZero() && !s.cfg.Now().Before(t.ExpiresAt):
		return nil, fmt.Errorf("token %s has expired: %w", t.ID, starling.ErrForbidden)
	case !t.Role.Valid():
		return nil, fmt.Errorf("token %s has no known role: %w", t.ID, starling.ErrForbidden)
	}
	return t, nil
}

// BootstrapToken implements httpapi.ACL.
func (s *Server) BootstrapToken(ctx context.Context) (*starling.IssuedToken, error) {
	t, err := s.newToken(starling.NewToken{Name: "bootstrap", Role: starling.ACLOperator})
	if err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, "bootstrap", raftfsm.TypeTokenBootstrap, raftfsm.TokenBootstrap{Token: t.Token})
	return issued(t, res, err)
}

// CreateToken implements httpapi.ACL.
func (s *Server) CreateToken(ctx context.Context, actor string, n starling.NewToken) (*starling.IssuedToken, error) {
	t, err := s.newToken(n)
	if err != nil {
		return nil, err
	}
	res, err := s.propose(ctx, actor, raftfsm.TypeTokenCreate, raftfsm.TokenCreate{Token: t.Token})
	return issued(t, res, err)
}

// issued joins the committed record to the secret, which is shown this once.
func issued(t *starling.IssuedToken, res raftfsm.Result, err error) (*starling.IssuedToken, error) {
	if err != nil {
		return nil, err
	}
	if res.Token != nil {
		t.Token = *res.Token
	}
	return t, nil
}

func (s *Server) newToken(n starling.NewToken) (*starling.IssuedToken, error) {
	switch {
	case n.Name == "" || len(n.Name) > maxTokenNameBytes:
		return nil, starling.Invalidf("name", "want 1 to %d bytes", maxTokenNameBytes)
	case !n.Role.Valid():
		return nil, starling.Invalidf("role", "%.40q: use viewer, deployer, approver or operator", n.Role)
	case n.TTL < 0 || n.TTL.D() > maxTokenTTL:
		return nil, starling.Invalidf("ttl", "%s is not within 0 and %s", n.TTL, maxTokenTTL)
	}
	id, err := s.newID("t-")
	if err != nil {
		return nil, err
	}
	text, err := s.random(secretBytes)
	if err != nil {
		return nil, err
	}
	secret := secretPrefix + text
	t := &starling.IssuedToken{Secret: secret, Token: starling.Token{
		ID: id, Name: n.Name, Role: n.Role, Region: s.cfg.Region,
		Hash: starling.DigestOf([]byte(secret)), CreatedAt: s.cfg.Now().UTC(),
	}}
	if n.TTL > 0 {
		t.ExpiresAt = t.CreatedAt.Add(n.TTL.D())
	}
	return t, nil
}

// Tokens implements httpapi.ACL.
func (s *Server) Tokens() []*starling.Token { return s.cfg.FSM.View().Tokens() }

// RevokeToken implements httpapi.ACL.
func (s *Server) RevokeToken(ctx context.Context, actor, id string) error {
	_, err := s.propose(ctx, actor, raftfsm.TypeTokenRevoke, raftfsm.TokenRevoke{ID: id})
	return err
}
