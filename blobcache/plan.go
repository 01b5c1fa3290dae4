package blobcache

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/delta"
	"github.com/starlingdeploy/starling/rpc"
)

// planTask finds out what a cache's share of an artifact is, what of it is missing,
// and where to get that.
type planTask struct {
	cfg      *ReplicatorConfig
	job      *job // to know it again; not touched
	artifact starling.Digest
	base     starling.Digest
	sources  []rpc.Source
	chunks   []starling.Chunk // nil: get the manifest
	replicas int

	build       string // not empty: a draft, to be read from after read up to draft
	draft, read rpc.Draft
}

// plan is the result. With err set only chunks may be, too.
type plan struct {
	job      *job
	artifact starling.Digest
	chunks   []starling.Chunk
	read     rpc.Draft // how far a draft was read
	caches   []string
	total    int
	pulls    []pull // in manifest order
	err      error
}

func (r *Replicator) planTask(j *job) planTask {
	return planTask{cfg: &r.cfg, job: j, artifact: j.artifact, base: j.base, sources: j.sources, chunks: j.chunks, replicas: r.replicas,
		build: j.build, draft: j.draft, read: j.read}
}

func (t planTask) run(ctx context.Context) plan {
	p := plan{job: t.job, artifact: t.artifact, chunks: t.chunks, read: t.read}
	near := cachesOf(t.cfg.Members())
	if t.build != "" {
		if p.chunks, p.read, p.err = t.grow(ctx); p.err != nil {
			return p
		}
	} else if p.chunks == nil {
		if p.chunks, p.err = t.manifest(ctx, near); p.err != nil {
			return p
		}
	}
	if !slices.Contains(near.names, t.cfg.Name) {
		p.err = fmt.Errorf("%w: the region's membership does not show this cache", starling.ErrUnavailable)
		return p
	}
	p.caches = near.names
	share := []starling.Digest{}
	var missing []pull
	for _, c := range p.chunks {
		line := starling.Rendezvous(c.Digest, near.names, t.replicas)
		place := slices.Index(line, t.cfg.Name)
		if place < 0 {
			continue
		}
		share = append(share, c.Digest)
		missing = append(missing, pull{chunk: c, leaders: line[:place]})
	}
	p.total = len(share)
	if t.build == "" { // what is fetched ahead must not be in the way of what is wanted
		t.cfg.Store.Pin(t.artifact, share) // before looking, so that what is seen stays
	}
	p.pulls = slices.DeleteFunc(missing, func(one pull) bool {
		_, held := t.cfg.Store.Stat(one.chunk.Digest)
		return held
	})
	t.findHolders(ctx, near, p.pulls)
	t.findBases(ctx, p.pulls)
	p.err = ctx.Err()
	return p
}

// findBases notes which chunks of the release before stand where the missing ones do.
// Without them the transfers are longer, no more: what fails here is not tried again.
func (t planTask) findBases(ctx context.Context, pulls []pull) {
	far := slices.ContainsFunc(pulls, func(one pull) bool { return len(one.holders)+len(one.leaders) == 0 })
	if t.base.IsZero() || !far {
		return
	}
	old, new := t.stored(ctx, t.base), t.stored(ctx, t.artifact)
	if old == nil || new == nil {
		return
	}
	align := delta.Align(old, new)
	first := make(map[starling.Digest]int, len(new.Chunks))
	for i := range new.Chunks {
		if _, twin := first[new.Chunks[i].Digest]; !twin {
			first[new.Chunks[i].Digest] = i
		}
	}
	held := func(i int) bool {
		_, ok := t.cfg.Store.Stat(old.Chunks[i].Digest)
		return ok || t.cfg.ReadBase != nil // the region holds all of it
	}
	for k := range pulls {
		for _, i := range align.Bases(first[pulls[k].chunk.Digest], held) {
			pulls[k].bases = append(pulls[k].bases, old.Chunks[i].Digest)
		}
	}
}

// stored returns a manifest that the store has; nil: it has no good one.
func (t planTask) stored(ctx context.Context, artifact starling.Digest) *starling.Manifest {
	envelope, err := t.cfg.Store.Manifest(ctx, artifact)
	if err == nil {
		var m *starling.Manifest
		if m, err = t.cfg.Verify(envelope, artifact); err == nil {
			return m
		}
	}
	t.cfg.Logger.Debug("no manifest to compare with", "artifact", artifact.String(), "error", err)
	return nil
}

// manifest returns the artifact's chunks, each digest once, from the store, or from
// the first peer that has a good envelope, which it then stores.
func (t planTask) manifest(ctx context.Context, near caches) ([]starling.Chunk, error) {
	envelope, err := t.cfg.Store.Manifest(ctx, t.artifact)
	if err == nil {
		m, err := t.cfg.Verify(envelope, t.artifact)
		if err == nil {
			return unique(m.Chunks), nil
		}
		t.cfg.Logger.Warn("the stored manifest is no good; fetching another", "artifact", t.artifact.String(), "error", err)
	} else if !errors.Is(err, starling.ErrNotFound) && !errors.Is(err, starling.ErrCorrupt) {
		return nil, err
	}
	places := []caches{near}
	for _, s := range t.sources {
		places = append(places, sourceCaches(s))
	}
	errs := fmt.Errorf("manifest %s: %w", t.artifact.Short(), starling.ErrNotFound)
	for _, place := range places {
		for _, name := range place.order(t.artifact) {
			if name == t.cfg.Name && place.addrs[name] == near.addrs[name] {
				continue
			}
			m, err := t.manifestFrom(ctx, place.addrs[name])
			if err == nil {
				return unique(m.Chunks), nil
			}
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if !errors.Is(err, starling.ErrNotFound) {
				errs = errors.Join(errs, err)
			}
		}
	}
	return nil, errs
}

func (t planTask) manifestFrom(ctx context.Context, addr string) (*starling.Manifest, error) {
	envelope, err := t.cfg.Client.GetManifest(ctx, addr, t.artifact)
	if err != nil {
		return nil, err
	}
	m, err := t.cfg.Verify(envelope, t.artifact)
	if err != nil {
		t.cfg.Logger.Warn("a peer has a bad manifest", "peer", addr, "artifact", t.artifact.String(), "error", err)
		return nil, fmt.Errorf("manifest from %s: %w", addr, err)
	}
	return m, t.cfg.Store.PutManifest(ctx, t.artifact, envelope)
}

// findHolders asks the region's other caches which of the missing chunks they hold.
// One that does not answer is left out.
func (t planTask) findHolders(ctx context.Context, near caches, pulls []pull) {
	if len(pulls) == 0 {
		return
	}
	digests := make([]starling.Digest, len(pulls))
	for i := range pulls {
		digests[i] = pulls[i].chunk.Digest
	}
	var mu sync.Mutex
	var g errgroup.Group
	g.SetLimit(maxAskedCaches)
	for _, name := range near.names {
		if name == t.cfg.Name {
			continue
		}
		g.Go(func() error {
			has, err := t.cfg.Client.Has(ctx, near.addrs[name], digests)
			if err != nil {
				t.cfg.Logger.Log(ctx, slog.LevelDebug, "a cache does not say what it holds", "cache", name, "error", err)
				return nil
			}
			mu.Lock()
			defer mu.Unlock()
			for i := range pulls {
				if has[i] {
					pulls[i].holders = append(pulls[i].holders, name)
				}
			}
			return nil
		})
	}
	_ = g.Wait() // nobody returns an error
}

// sourceCaches are the caches of another region. Whether they are alive is known
// there; here they are just tried.
func sourceCaches(s rpc.Source) caches {
	c := caches{addrs: map[string]string{}}
	for i := range s.Caches {
		if n := &s.Caches[i]; n.Addr != "" && c.addrs[n.Name] == "" {
			c.names = append(c.names, n.Name)
			c.addrs[n.Name] = n.Addr
		}
	}
	slices.Sort(c.names)
	return c
}

func unique(chunks []starling.Chunk) []starling.Chunk {
	seen := make(map[starling.Digest]bool, len(chunks))
	out := make([]starling.Chunk, 0, len(chunks))
	for _, c := range chunks {
		if !seen[c.Digest] {
			seen[c.Digest] = true
			out = append(out, c)
		}
	}
	return out
}
