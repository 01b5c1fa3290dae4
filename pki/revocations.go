package pki

import (
	"sync/atomic"

	"github.com/starlingdeploy/starling"
)

// Revocations are the machines of a region whose certificates are void. One goroutine replaces
// the list while others look at it.
type Revocations struct {
	region string
	names  atomic.Pointer[map[string]struct{}]
}

// NewRevocations returns the empty list of a region.
func NewRevocations(region string) *Revocations { return &Revocations{region: region} }

// Set replaces the list.
func (r *Revocations) Set(names []string) {
	m := make(map[string]struct{}, len(names))
	for _, n := range names {
		m[n] = struct{}{}
	}
	r.names.Store(&m)
}

// Check refuses an identity that is on the list. Only machines can be: their region alone enrols them.
func (r *Revocations) Check(id starling.Identity) error {
	if r == nil || id.Region != r.region || !id.Has(starling.RoleMachine) {
		return nil
	}
	names := r.names.Load()
	if names == nil {
		return nil
	}
	if _, revoked := (*names)[id.Name]; revoked {
		return refusedf("machine %s/%s was revoked", id.Region, id.Name)
	}
	return nil
}
