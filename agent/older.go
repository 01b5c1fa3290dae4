package agent

import (
	"context"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/delta"
)

// older is the release on this machine that one being fetched resembles most: chunks
// come as patches against its chunks. It is safe for concurrent use.
type older struct {
	rel   *release
	align *delta.Alignment
}

// findOlder chooses among an app's releases, the likeliest first; nil: there is none.
func findOlder(rel *release, olds []*release) *older {
	if len(olds) == 0 {
		return nil
	}
	manifests := make([]*starling.Manifest, len(olds))
	for i, o := range olds {
		manifests[i] = o.manifest
	}
	best := olds[max(0, delta.Closest(rel.manifest, manifests))] // all may have been renamed
	return &older{rel: best, align: delta.Align(best.manifest, rel.manifest)}
}

// bases returns the chunks that a patch for chunk i of the new release may be against.
func (o *older) bases(i int) []starling.Digest {
	if o == nil {
		return nil
	}
	var out []starling.Digest
	for _, j := range o.align.Bases(i, o.rel.holds) {
		out = append(out, o.rel.manifest.Chunks[j].Digest)
	}
	return out
}

// read reads a base and checks it.
func (o *older) read(_ context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	return o.rel.read(d, buf)
}

// holds reports whether chunk i can be read.
func (r *release) holds(i int) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return !r.closed && r.tree.Has(i)
}

// olds lists the complete releases of an app, what runs first, then the last used.
func (p *app) olds() []*release {
	var out []*release
	add := func(d starling.Digest) {
		if rel := p.releases[d]; rel != nil {
			out = append(out, rel)
		}
	}
	running := starling.Digest{}
	if p.rec.Running != nil {
		running = p.rec.Running.Artifact
	}
	add(running)
	for _, e := range p.rec.Releases {
		if e.Artifact != running {
			add(e.Artifact)
		}
	}
	return out
}
