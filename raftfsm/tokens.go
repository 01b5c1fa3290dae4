package raftfsm

import (
	"fmt"

	"github.com/starlingdeploy/starling"
)

func (t *tx) tokenBootstrap(p *TokenBootstrap) (Result, error) {
	for r := range scan[starling.Token](t.reader, tableTokens, byID, nil) {
		// Revoked and expired ones count as well: otherwise whoever comes first would be operator.
		if r.rec.Role == starling.ACLOperator {
			return Result{}, fmt.Errorf("%w: there is an operator token already (%s)", starling.ErrConflict, r.rec.ID)
		}
	}
	if p.Token.Role != starling.ACLOperator {
		return Result{}, starling.Invalidf("token.role", "%.40q: the first token is an %s's", p.Token.Role, starling.ACLOperator)
	}
	return t.addToken(p.Token)
}

func (t *tx) tokenCreate(p *TokenCreate) (Result, error) { return t.addToken(p.Token) }

func (t *tx) addToken(k starling.Token) (Result, error) {
	k.Region, k.CreatedAt, k.Revoked = t.region, t.now, false
	if err := checkToken(&k); err != nil {
		return Result{}, err
	}
	if get[starling.Token](t.reader, tableTokens, byID, strKey(k.ID)) != nil ||
		get[starling.Token](t.reader, tableTokens, byHash, digKey(k.Hash)) != nil {
		return Result{}, fmt.Errorf("%w: token %s exists already", starling.ErrConflict, k.ID)
	}
	t.pruneTokens(t.region)
	if h, _ := t.home(t.region); h.Tokens >= t.limits.tokens {
		return Result{}, fmt.Errorf("%w: there are %d tokens: revoke some", starling.ErrConflict, h.Tokens)
	}
	t.putToken(nil, &k)
	t.emit(starling.Event{Type: EventTokenCreated, Detail: k.ID})
	return Result{Token: &k, Created: true}, nil
}

func checkToken(k *starling.Token) error {
	if err := checkID("token.id", k.ID); err != nil {
		return err
	}
	switch {
	case !k.Role.Valid():
		return starling.Invalidf("token.role", "%.40q: use viewer, deployer, approver or operator", k.Role)
	case k.Hash.IsZero():
		return starling.Invalidf("token.hash", "is missing")
	}
	return checkText("token.name", k.Name, MaxTokenNameBytes)
}

func (t *tx) putToken(old *row[starling.Token], k *starling.Token) {
	put(t, tableTokens, old, &row[starling.Token]{rec: k, mod: t.modOf(k.Region)})
	if old == nil {
		t.count(k.Region, func(h *home) { h.Tokens++ })
	}
}

// pruneTokens makes room for a token by dropping the dead ones of a region, once they
// are many. Operator tokens stay: they show that there was a bootstrap.
func (t *tx) pruneTokens(region string) {
	if h, _ := t.home(region); h.Tokens < t.limits.tokens {
		return
	}
	for r := range scan[starling.Token](t.reader, tableTokens, byID, nil) {
		k := r.rec
		dead := k.Revoked || !k.ExpiresAt.IsZero() && k.ExpiresAt.Before(t.now)
		if k.Region == region && dead && k.Role != starling.ACLOperator {
			drop(t, tableTokens, r)
			t.count(region, func(h *home) { h.Tokens-- })
		}
	}
}

func (t *tx) tokenRevoke(p *TokenRevoke) (Result, error) {
	old := get[starling.Token](t.reader, tableTokens, byID, strKey(p.ID))
	switch {
	case old == nil:
		return Result{}, fmt.Errorf("%w: there is no token %.80q", starling.ErrNotFound, p.ID)
	case old.mod == 0:
		return Result{}, fmt.Errorf("%w: token %s was made in region %s: revoke it there", starling.ErrConflict, p.ID, old.rec.Region)
	case old.rec.Revoked:
		return Result{Token: old.rec}, nil
	}
	k := *old.rec
	k.Revoked = true
	t.putToken(old, &k)
	t.emit(starling.Event{Type: EventTokenRevoked, Detail: k.ID})
	return Result{Token: &k}, nil
}
