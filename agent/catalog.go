package agent

import (
	"errors"
	"slices"
	"sync"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
)

// catalog knows every release on this machine, of any app, whole or in part: what
// is served to other machines and cloned into new releases. It is safe for concurrent use.
type catalog struct {
	mu       sync.RWMutex
	releases []*release
	urgent   map[starling.Digest]blobcache.Urgency // of the artifacts that goals want; never changed
}

func (c *catalog) add(r *release) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releases = append(slices.Clip(c.releases), r) // a copy: all may be in use
}

func (c *catalog) remove(r *release) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.releases = slices.DeleteFunc(slices.Clone(c.releases), func(x *release) bool { return x == r })
}

// all returns the releases of this moment; read only.
func (c *catalog) all() []*release {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.releases
}

// setUrgencies takes over how urgent the artifacts are that goals want.
func (c *catalog) setUrgencies(urgent map[starling.Digest]blobcache.Urgency) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.urgent = urgent
}

// urgency returns how urgent an artifact is, and false if no goal wants it.
func (c *catalog) urgency(artifact starling.Digest) (u blobcache.Urgency, known bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	u, known = c.urgent[artifact]
	return u, known
}

// stat returns the size of a chunk that any release holds.
func (c *catalog) stat(d starling.Digest) (bytes int, ok bool) {
	for _, r := range c.all() {
		r.mu.RLock()
		i, ok := r.find(d)
		r.mu.RUnlock()
		if ok {
			return r.manifest.Chunks[i].Size, true
		}
	}
	return 0, false
}

// envelope returns the signed manifest of an artifact; ErrNotFound if there is none here.
func (c *catalog) envelope(artifact starling.Digest) ([]byte, error) {
	for _, r := range c.all() {
		if r.artifact == artifact {
			if b, err := r.envelope(); !errors.Is(err, starling.ErrNotFound) {
				return b, err
			}
		}
	}
	return nil, starling.ErrNotFound
}
