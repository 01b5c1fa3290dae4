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
		if _, err := t.from(ctx, addrs[name], 0, nil, buf); err == nil || !t.elsewhere(ctx, err) {
			return false, err
		}
	}
	for _, name := range t.pull.leaders {
		begun := time.Now()
		for failures := 0; time.Since(t.follow.last(name, begun)) < t.cfg.FollowPatience; {
			_, err := t.from(ctx, addrs[name], min(followWait, t.cfg.FollowPatience), nil, buf)
			switch {
			case err == nil:
				t.follow.note(name)
				return false, nil
			case !t.elsewhere(ctx, err):
				return false, err
			case !errors.Is(err, starling.ErrNotFound):
				pause(ctx, max(backoff(failures), AskAgainAfter(err))) // unreachable, busy or worse: not in a tight loop
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
		var moved int
		moved, err = t.from(ctx, addr, wait, t.pull.bases, buf)
		wanBytes += int64(moved)
		if err == nil {
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
	return wanBytes, true, last
}

// from gets the chunk from one cache, perhaps as a patch against bases, and stores it.
// It returns how many bytes came.
func (t pullTask) from(ctx context.Context, addr string, wait time.Duration, bases []starling.Digest, buf []byte) (moved int, err error) {
	if addr == "" {
		return 0, fmt.Errorf("%w: the cache has left", starling.ErrUnavailable)
	}
	c := t.pull.chunk
	p, err := t.cfg.Client.FetchPatch(ctx, addr, Fetch{Digest: c.Digest, Artifact: t.artifact, Wait: wait}, bases, buf)
	if err != nil {
		return 0, err
	}
	if len(p.Bases) == 0 {
		return len(p.Data), t.store(ctx, addr, p.Data)
	}
	whole, err := t.buffers.take(ctx, c.Size)
	if err != nil {
		return len(p.Data), err
	}
	defer t.buffers.give(whole)
	read := ReadChunk(t.cfg.Store.Chunk).orElse(t.cfg.ReadBase)
	data, sound, err := t.cfg.Patcher.Apply(ctx, read, c, p.Bases, p.Data, *whole)
	switch {
	case err != nil && !sound: // a base is gone
		moved, err = t.from(ctx, addr, wait, nil, buf)
		return len(p.Data) + moved, err
	case err != nil:
		t.cfg.Logger.Warn("a cache sent a bad patch", "peer", addr, "error", err)
		return len(p.Data), err
	}
	if err := t.store(ctx, addr, data); err != nil {
		return len(p.Data), err
	}
	t.cfg.Patcher.Remember(c.Digest, p.Bases, p.Data)
	return len(p.Data), nil
}

// store keeps what a cache sent, which is checked.
func (t pullTask) store(ctx context.Context, addr string, data []byte) error {
	err := t.cfg.Store.Put(ctx, t.pull.chunk.Digest, data)
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
