package blobcache

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
)

const maxAskedCaches = 16 // caches asked at the same time for what they hold

// Region uses the caches of a region as one. Each chunk has its responsible caches:
// the first of its rendezvous order over those alive. Safe for concurrent use.
type Region struct {
	client   *Client
	members  func() []starling.Node
	replicas int
}

// NewRegion returns the region whose nodes members tells; those that are no cache, or
// not alive, do not count. replicas caches are responsible for each blob.
func NewRegion(client *Client, members func() []starling.Node, replicas int) *Region {
	return &Region{client: client, members: members, replicas: max(replicas, 1)}
}

// caches are the live caches of a region at one moment.
type caches struct {
	names []string // sorted
	addrs map[string]string
}

func cachesOf(nodes []starling.Node) caches {
	c := caches{addrs: map[string]string{}}
	for i := range nodes {
		if n := &nodes[i]; n.Alive && n.Addr != "" && n.Has(starling.RoleCache) {
			if _, twice := c.addrs[n.Name]; !twice {
				c.names = append(c.names, n.Name)
			}
			c.addrs[n.Name] = n.Addr
		}
	}
	slices.Sort(c.names)
	return c
}

// order returns all caches in a blob's rendezvous order.
func (c caches) order(d starling.Digest) []string {
	return starling.Rendezvous(d, c.names, len(c.names))
}

func (r *Region) caches() (caches, error) {
	c := cachesOf(r.members())
	if len(c.names) == 0 {
		return c, fmt.Errorf("%w: the region has no live cache", starling.ErrUnavailable)
	}
	return c, nil
}

// Missing returns those of the digests, each once and in their order, that no cache
// is known to hold. Caches that do not answer count as holding nothing; it fails
// only if none answers.
func (r *Region) Missing(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	if len(ds) == 0 {
		return nil, nil
	}
	missing, _, err := r.missing(ctx, ds)
	return missing, err
}

// Lacking is Missing for a caller that would refuse for good what is missing: it fails with
// ErrUnavailable where a cache does not answer, or is thought dead, and may hold it.
func (r *Region) Lacking(ctx context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	missing, errs, err := r.missing(ctx, ds)
	if err != nil || len(missing) == 0 {
		return missing, err
	}
	for _, n := range r.members() {
		if n.Has(starling.RoleCache) && !n.Alive {
			errs[n.Name] = errors.New("it is thought dead")
		}
	}
	if len(errs) > 0 {
		return nil, fmt.Errorf("%w: %d chunks are on no cache that answers, %s among them; try again, or push them again: %w",
			starling.ErrUnavailable, len(missing), missing[0], joinErrors(errs))
	}
	return missing, nil
}

// missing is Missing with the errors of caches that did not answer.
func (r *Region) missing(ctx context.Context, ds []starling.Digest) ([]starling.Digest, map[string]error, error) {
	c, err := r.caches()
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[starling.Digest]bool, len(ds))
	var missing []starling.Digest
	for _, d := range ds {
		if !seen[d] {
			seen[d] = true
			missing = append(missing, d)
		}
	}
	// First those that should hold it, then, for what membership has moved, the others.
	responsible, others := map[string][]starling.Digest{}, map[string][]starling.Digest{}
	for _, d := range missing {
		for _, name := range starling.Rendezvous(d, c.names, r.replicas) {
			responsible[name] = append(responsible[name], d)
		}
	}
	held, errs := r.ask(ctx, c, responsible)
	missing = slices.DeleteFunc(missing, func(d starling.Digest) bool { return held[d] })
	if len(missing) > 0 && len(c.names) > r.replicas {
		for _, d := range missing {
			for _, name := range c.order(d)[r.replicas:] {
				others[name] = append(others[name], d)
			}
		}
		held, more := r.ask(ctx, c, others)
		missing = slices.DeleteFunc(missing, func(d starling.Digest) bool { return held[d] })
		for name, err := range more {
			errs[name] = err
		}
	}
	if err := ctx.Err(); err != nil {
		return nil, nil, err
	}
	if len(errs) == len(c.names) {
		return nil, nil, fmt.Errorf("ask caches for missing chunks: %w", joinErrors(errs))
	}
	return missing, errs, nil
}

// ask asks each named cache for its digests, in parallel.
func (r *Region) ask(ctx context.Context, c caches, digests map[string][]starling.Digest) (held map[starling.Digest]bool, errs map[string]error) {
	var mu sync.Mutex
	held, errs = map[starling.Digest]bool{}, map[string]error{}
	var g errgroup.Group
	g.SetLimit(maxAskedCaches)
	for name, ds := range digests {
		g.Go(func() error {
			has, err := r.client.Has(ctx, c.addrs[name], ds)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs[name] = err
				return nil
			}
			for i, d := range ds {
				if has[i] {
					held[d] = true
				}
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	return held, errs
}

// Put uploads a chunk to its responsible caches. For each that fails, the next in
// order takes its place, so that as many copies exist as there are replicas or live
// caches; with at least one copy it succeeds, since replication makes up for the rest.
func (r *Region) Put(ctx context.Context, d starling.Digest, data []byte) error {
	err := r.spread(ctx, d, func(ctx context.Context, addr string) error {
		return r.client.Put(ctx, addr, d, data)
	})
	if err != nil {
		return fmt.Errorf("put chunk %s into the region: %w", d.Short(), err)
	}
	return nil
}

// PutManifest uploads an envelope to the caches responsible for its artifact, as Put does.
func (r *Region) PutManifest(ctx context.Context, artifact starling.Digest, envelope []byte) error {
	err := r.spread(ctx, artifact, func(ctx context.Context, addr string) error {
		return r.client.PutManifest(ctx, addr, artifact, envelope)
	})
	if err != nil {
		return fmt.Errorf("put manifest %s into the region: %w", artifact.Short(), err)
	}
	return nil
}

// spread runs put at the first caches in d's order, and at the next for each that fails.
func (r *Region) spread(ctx context.Context, d starling.Digest, put func(ctx context.Context, addr string) error) error {
	c, err := r.caches()
	if err != nil {
		return err
	}
	order := c.order(d)
	var mu sync.Mutex
	next, copies := 0, 0
	errs := map[string]error{}
	take := func() (string, bool) {
		mu.Lock()
		defer mu.Unlock()
		if next == len(order) {
			return "", false
		}
		next++
		return order[next-1], true
	}
	var g errgroup.Group
	for range min(r.replicas, len(order)) {
		g.Go(func() error {
			for name, ok := take(); ok && ctx.Err() == nil; name, ok = take() {
				err := put(ctx, c.addrs[name])
				mu.Lock()
				if err == nil {
					copies++
				} else {
					errs[name] = err
				}
				mu.Unlock()
				if err == nil {
					return nil
				}
			}
			return nil
		})
	}
	_ = g.Wait() // the errors are in errs
	if copies > 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	err = joinErrors(errs)
	if errors.Is(err, ErrFull) && !errors.Is(err, starling.ErrUnavailable) {
		return fmt.Errorf("%w: %w", starling.ErrUnavailable, err) // caches make room, or get it
	}
	return err
}

// Get fetches a chunk from its responsible caches in order, then from the others.
// ErrNotFound: all caches answered and none holds it.
func (r *Region) Get(ctx context.Context, d starling.Digest) ([]byte, error) {
	return r.Chunk(ctx, d, nil)
}

// Chunk is Get into buf, or into a larger one if buf is too short.
func (r *Region) Chunk(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
	data, err := r.first(ctx, d, func(addr string) ([]byte, error) { return r.client.Get(ctx, addr, d, buf) })
	if err != nil {
		return nil, fmt.Errorf("get chunk %s from the region: %w", d.Short(), err)
	}
	return data, nil
}

// Manifest fetches the envelope of an artifact's manifest, as Get does. It is not verified.
func (r *Region) Manifest(ctx context.Context, artifact starling.Digest) ([]byte, error) {
	envelope, err := r.first(ctx, artifact, func(addr string) ([]byte, error) {
		return r.client.GetManifest(ctx, addr, artifact)
	})
	if err != nil {
		return nil, fmt.Errorf("get manifest %s from the region: %w", artifact.Short(), err)
	}
	return envelope, nil
}

func (r *Region) first(ctx context.Context, d starling.Digest, get func(addr string) ([]byte, error)) ([]byte, error) {
	c, err := r.caches()
	if err != nil {
		return nil, err
	}
	missing := true
	errs := map[string]error{}
	for _, name := range c.order(d) {
		b, err := get(c.addrs[name])
		if err == nil {
			return b, nil
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if !errors.Is(err, starling.ErrNotFound) {
			missing = false
			errs[name] = err
		}
	}
	if missing {
		return nil, starling.ErrNotFound
	}
	return nil, joinErrors(errs)
}

// joinErrors joins errors by cache in the order of names.
func joinErrors(errs map[string]error) error {
	names := make([]string, 0, len(errs))
	for name := range errs {
		names = append(names, name)
	}
	slices.Sort(names)
	all := make([]error, 0, len(errs))
	for _, name := range names {
		all = append(all, fmt.Errorf("%s: %w", name, errs[name]))
	}
	return errors.Join(all...)
}
