package raftfsm

import (
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
)

func (t *tx) joinToken(id string) *row[starling.JoinToken] {
	return get[starling.JoinToken](t.reader, tableJoinTokens, byID, strKey(id))
}

// proven returns the join token whose secret has a hash, if it still counts.
func proven(r reader, id string, hash starling.Digest, now time.Time) (*row[starling.JoinToken], error) {
	k := get[starling.JoinToken](r, tableJoinTokens, byID, strKey(id))
	switch {
	case k == nil:
		return nil, fmt.Errorf("%w: region %s knows no join token %.80q: was it made in another region?", starling.ErrForbidden, r.region, id)
	case k.rec.Hash != hash:
		return nil, fmt.Errorf("%w: the secret of join token %s is wrong: copy all of it", starling.ErrForbidden, id)
	case k.rec.Revoked:
		return nil, fmt.Errorf("%w: join token %s is revoked: make another: starling node token create", starling.ErrForbidden, id)
	case !k.rec.ExpiresAt.After(now):
		return nil, fmt.Errorf("%w: join token %s expired at %s: make another: starling node token create",
			starling.ErrForbidden, id, k.rec.ExpiresAt.Format(time.RFC3339))
	}
	return k, nil
}

func (t *tx) joinTokenCreate(p *JoinTokenCreate) (Result, error) {
	k := p.Token
	k.Uses, k.CreatedAt, k.Revoked, k.ExpiresAt = 0, t.now, false, k.ExpiresAt.UTC()
	if err := t.checkJoinToken(&k); err != nil {
		return Result{}, err
	}
	if t.joinToken(k.ID) != nil {
		return Result{}, fmt.Errorf("%w: join token %s exists already", starling.ErrConflict, k.ID)
	}
	var all, dead []*row[starling.JoinToken]
	for r := range scan[starling.JoinToken](t.reader, tableJoinTokens, byID, nil) {
		all = append(all, r)
		if r.rec.Revoked || !r.rec.ExpiresAt.After(t.now) {
			dead = append(dead, r)
		}
	}
	if len(all) >= starling.MaxJoinTokens {
		if len(dead) == 0 {
			return Result{}, fmt.Errorf("%w: there are %d join tokens: revoke some", starling.ErrConflict, len(all))
		}
		for _, r := range dead {
			drop(t, tableJoinTokens, r)
		}
	}
	put(t, tableJoinTokens, nil, &row[starling.JoinToken]{rec: &k})
	t.emit(starling.Event{Type: EventJoinTokenCreated, Detail: k.ID})
	return Result{JoinToken: &k, Created: true}, nil
}

func (t *tx) checkJoinToken(k *starling.JoinToken) error {
	if err := checkID("token.id", k.ID); err != nil {
		return err
	}
	switch {
	case k.Hash.IsZero():
		return starling.Invalidf("token.hash", "is missing")
	case k.MaxUses < 1 || k.MaxUses > starling.MaxMachinesPerRegion:
		return starling.Invalidf("uses", "%d machines: use 1 to %d", k.MaxUses, starling.MaxMachinesPerRegion)
	case !k.ExpiresAt.After(t.now) || k.ExpiresAt.Sub(t.now) > MaxJoinTokenLife:
		return starling.Invalidf("expires_at", "%s: a join token lives for a moment at least and %d days at most", k.ExpiresAt.Format(time.RFC3339), MaxJoinTokenLife/(24*time.Hour))
	}
	if err := checkText("name", k.Name, MaxTokenNameBytes); err != nil {
		return err
	}
	if err := checkText("zone", k.Zone, MaxMachineWordBytes); err != nil {
		return err
	}
	return checkTags("tags", k.Tags)
}

func (t *tx) joinTokenRevoke(p *JoinTokenRevoke) (Result, error) {
	old := t.joinToken(p.ID)
	switch {
	case old == nil:
		return Result{}, fmt.Errorf("%w: there is no join token %.80q", starling.ErrNotFound, p.ID)
	case old.rec.Revoked:
		return Result{JoinToken: old.rec}, nil
	}
	k := *old.rec
	k.Revoked = true
	put(t, tableJoinTokens, old, &row[starling.JoinToken]{rec: &k})
	t.emit(starling.Event{Type: EventJoinTokenRevoked, Detail: k.ID})
	return Result{JoinToken: &k}, nil
}
