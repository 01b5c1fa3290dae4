package blobcache

import (
	"cmp"
	"slices"
	"sync"

	"github.com/starlingdeploy/starling"
)

// Traffic is what a Server has sent to the nodes of one region and role.
type Traffic struct {
	Region string
	Role   starling.Role
	Chunks int64
	Bytes  int64
}

// traffic counts chunks sent. What peers say (role, artifact) is counted as they say
// it, within their certificates; it decides nothing.
type traffic struct {
	mu       sync.Mutex
	peers    map[Traffic]*Traffic      // by region and role, the counts zero in the key
	machines map[starling.Digest]int64 // bytes sent to machines, by artifact
}

func newTraffic() *traffic {
	return &traffic{peers: map[Traffic]*Traffic{}, machines: map[starling.Digest]int64{}}
}

func (t *traffic) count(peer starling.Identity, q request, n int) {
	role := q.role
	if role == "" && len(peer.Roles) > 0 {
		role = peer.Roles[0]
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	k := Traffic{Region: peer.Region, Role: role}
	sum := t.peers[k]
	if sum == nil && len(t.peers) < maxCountedPeers {
		sum = &Traffic{Region: peer.Region, Role: role}
		t.peers[k] = sum
	}
	if sum != nil {
		sum.Chunks++
		sum.Bytes += int64(n)
	}
	if role != starling.RoleMachine {
		return
	}
	if _, known := t.machines[q.artifact]; known || len(t.machines) < maxCountedBlobs {
		t.machines[q.artifact] += int64(n)
	}
}

// Traffic returns what was sent since the start, sorted by region and role.
func (s *Server) Traffic() []Traffic {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	out := make([]Traffic, 0, len(s.traffic.peers))
	for _, t := range s.traffic.peers {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(a, b Traffic) int {
		return cmp.Or(cmp.Compare(a.Region, b.Region), cmp.Compare(a.Role, b.Role))
	})
	return out
}

// OutBytes returns how many chunk bytes went to machines for an artifact since the start.
func (s *Server) OutBytes(artifact starling.Digest) int64 {
	s.traffic.mu.Lock()
	defer s.traffic.mu.Unlock()
	return s.traffic.machines[artifact]
}
