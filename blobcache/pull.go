package blobcache

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

const (
	followWait = 5 * time.Second // of one request to a cache that should get the chunk soon
	sourceWait = 2 * time.Second // of one request to another region's cache, which may still be getting it
)

// pullTask gets one chunk.
type pullTask struct {
	cfg      *ReplicatorConfig
	buffers  *buffers
	follow   *progress
	job      *job            // to know it again; not touched
	artifact starling.Digest // zero: of a draft
	sources  []rpc.Source
	replicas int
	pull     pull
}

// pulled is the result.
type pulled struct {
	job      *job
	digest   starling.Digest
	lan      bool
	stalled  bool  // nobody in the region has it, nor seems to get it: pull it from afar
	dry      bool  // the sources did not have it at once
	wanBytes int64 // that crossed from another region
	err      error
}

func (r *Replicator) pullTask(j *job, p pull) pullTask {
	t := pullTask{cfg: &r.cfg, buffers: r.buffers, follow: &r.follow, job: j, artifact: j.artifact,
		sources: j.sources, replicas: r.replicas, pull: p}
	if j.build != "" {
		t.artifact = starling.Digest{} // not known yet
	}
	return t
}

func (t pullTask) run(ctx context.Context, lan bool) pulled {
	out := pulled{job: t.job, digest: t.pull.chunk.Digest, lan: lan}
	buf, err := t.buffers.take(ctx, t.pull.chunk.Size)
	if err != nil {
		out.err = err
		return out
	}
	defer t.buffers.give(buf)
	if lan {
		out.stalled, out.err = t.near(ctx, *buf)
	} else {
		out.wanBytes, out.dry, out.err = t.far(ctx, *buf)
	}
	return out
}

// near gets the chunk from a cache of the region: from one that holds it, or from
// the ones before this cache in line as soon as they hold it.
func (t pullTask) near(ctx context.Context, buf []byte) (stalled bool, err error) {
	addrs := cachesOf(t.cfg.Members()).addrs
	for _, name := range t.pull.holders {
		if err := t.from(ctx, addrs[name], 0, buf); err == nil || !t.elsewhere(ctx, err) {
			return false, err
		}
	}
	for _, name := range t.pull.leaders {
		begun := time.Now()
		for failures := 0; time.Since(t.follow.last(name, begun)) < t.cfg.FollowPatience; {
			err := t.from(ctx, addrs[name], min(followWait, t.cfg.FollowPatience), buf)
			switch {
			case err == nil:
				t.follow.note(name)
				return false, nil
			case !t.elsewhere(ctx, err):
				return false, err
			case !errors.Is(err, starling.ErrNotFound):
				pause(ctx, backoff(failures)) // unreachable, busy or worse: not in a tight loop
				failures++
			}
		}
	}
	return true, nil
}

// far gets the chunk from another region: the nearest that has it now, or else one
// that is getting it.
func (t pullTask) far(ctx context.Context, buf []byte) (wanBytes int64, dry bool, err error) {
	last := fmt.Errorf("chunk %s: %w in any region that should have it", t.pull.chunk.Digest.Short(), starling.ErrNotFound)
	try := func(addr string, wait time.Duration) (done bool) {
		if err = t.from(ctx, addr, wait, buf); err == nil {
			wanBytes = int64(t.pull.chunk.Size)
			return true
		}
		if !t.elsewhere(ctx, err) {
			return true
		}
		if !errors.Is(err, starling.ErrNotFound) {
			last = err
		}
		return false
	}
	lines := make([][]string, len(t.sources)) // addresses, by source, best first
	for i, s := range t.sources {
		c := sourceCaches(s)
		for _, name := range c.order(t.pull.chunk.Digest) {
			lines[i] = append(lines[i], c.addrs[name])
		}
	}
	for _, line := range lines {
		for _, addr := range line[:min(t.replicas, len(line))] {
			if try(addr, 0) {
				return wanBytes, false, err
			}
		}
	}
	for _, line := range lines {
		for i, addr := range line {
			wait := time.Duration(0)
			if i == 0 {
				wait = sourceWait
			} else if i < t.replicas {
				continue // asked above
			}
			if try(addr, wait) {
				return wanBytes, true, err
			}
		}
	}
	return 0, true, last
}

// from gets the chunk from one cache and stores it.
func (t pullTask) from(ctx context.Context, addr string, wait time.Duration, buf []byte) error {
	if addr == "" {
		return fmt.Errorf("%w: the cache has left", starling.ErrUnavailable)
	}
	data, err := t.cfg.Client.fetch(ctx, addr, Fetch{Digest: t.pull.chunk.Digest, Artifact: t.artifact, Wait: wait}, buf)
	if err != nil {
		return err
	}
	err = t.cfg.Store.Put(ctx, t.pull.chunk.Digest, data) // checks the data
	if errors.Is(err, starling.ErrCorrupt) {
		t.cfg.Logger.Warn("a cache sent a corrupt chunk", "peer", addr, "error", err)
	} else if err != nil {
		err = &storeError{err}
	}
	return err
}

// storeError is a failure of this cache's own store: asking another peer is no help.
type storeError struct{ err error }

func (e *storeError) Error() string { return "store: " + e.err.Error() }
func (e *storeError) Unwrap() error { return e.err }

// elsewhere reports whether another peer may do better after err.
func (t pullTask) elsewhere(ctx context.Context, err error) bool {
	var own *storeError
	return ctx.Err() == nil && !errors.As(err, &own)
}

// progress remembers when each cache of the region last gave a chunk that was
// waited for: as long as it does, it is worth waiting for.
type progress struct {
	mu sync.Mutex
	at map[string]time.Time
}

func (p *progress) note(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.at[name] = time.Now()
}

// last returns the later of begun and the last sign of life.
func (p *progress) last(name string, begun time.Time) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	if at := p.at[name]; at.After(begun) {
		return at
	}
	return begun
}
