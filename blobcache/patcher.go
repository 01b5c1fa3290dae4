package blobcache

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/delta"
)

// Bounds of a Patcher.
const (
	maxPatchesBytes    = 32 << 20        // of patches in memory, for those who ask for the same
	patchOverheadBytes = 256             // that one takes beside its bytes
	baseTimeout        = 5 * time.Second // of reading one from nearby
	patchIdle          = 5 * time.Minute // after which all are forgotten: an idle machine keeps none
	patchBenches       = 4               // patches being made or applied at once, each with 15 MiB at most
	maxPatchPercent    = 70              // of the chunk; a longer patch is not worth the reading of bases
)

// ReadChunk reads a chunk into buf, or into a larger one if buf is too short, and checks it.
type ReadChunk func(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error)

// orElse reads with other, if there is one, what read does not find.
func (read ReadChunk) orElse(other ReadChunk) ReadChunk {
	if other == nil {
		return read
	}
	return func(ctx context.Context, d starling.Digest, buf []byte) ([]byte, error) {
		data, err := read(ctx, d, buf)
		if errors.Is(err, starling.ErrNotFound) {
			ctx, cancel := context.WithTimeout(ctx, baseTimeout)
			defer cancel()
			return other(ctx, d, buf)
		}
		return data, err
	}
}

// Patcher makes chunks of patches, and patches of chunks. It remembers the patches of
// late, those made here and those had from others: so in a swarm each is made about
// once, and passed on by all. Safe for concurrent use.
type Patcher struct {
	slots   *semaphore.Weighted
	benches sync.Pool // of *bench

	mu        sync.Mutex
	known     map[starling.Digest]*list.Element // by key
	lru       list.List                         // of *patch, last used first
	usedBytes int
	idle      *time.Timer // runs forget; nil before the first patch
}

// bench is the memory that one patch takes to make or apply.
type bench struct {
	encoder delta.Encoder
	base    []byte
	patch   []byte
}

type patch struct {
	key  starling.Digest
	data []byte // nil: none is worth it
}

// NewPatcher returns a patcher that knows no patch.
func NewPatcher() *Patcher {
	return &Patcher{
		slots: semaphore.NewWeighted(patchBenches), benches: sync.Pool{New: func() any { return &bench{} }},
		known: map[starling.Digest]*list.Element{},
	}
}

// patchKey names the patch that makes a chunk of the given bases.
func patchKey(target starling.Digest, bases []starling.Digest) starling.Digest {
	b := make([]byte, 0, (delta.MaxBases+1)*digestBytes)
	b = append(b, target[:]...)
	for _, d := range bases {
		b = append(b, d[:]...)
	}
	return starling.DigestOf(b)
}

// Apply makes chunk c, in dst's memory if that is long enough, of a patch against
// bases, which read reads. The result is not checked against c's digest. sound tells
// that an error is the patch's: the bases were read.
func (p *Patcher) Apply(ctx context.Context, read ReadChunk, c starling.Chunk, bases []starling.Digest, data, dst []byte) (chunk []byte, sound bool, err error) {
	b, err := p.enter(ctx)
	if err != nil {
		return nil, false, err
	}
	defer p.leave(b)
	if err := b.read(ctx, read, bases); err != nil {
		return nil, false, err
	}
	chunk, err = delta.Apply(dst, b.base, data, c.Size)
	return chunk, true, err
}

// Remember keeps a patch that was applied and found good, to give it to others. It
// copies data.
func (p *Patcher) Remember(target starling.Digest, bases []starling.Digest, data []byte) {
	p.keep(patchKey(target, bases), data)
}

// lookUp returns a patch that is remembered; known without one: none is worth it.
func (p *Patcher) lookUp(key starling.Digest) (data []byte, known bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	e := p.known[key]
	if e == nil {
		return nil, false
	}
	p.lru.MoveToFront(e)
	p.idle.Reset(patchIdle)
	return e.Value.(*patch).data, true
}

// make returns a patch that makes target, the chunk with digest d, of bases; nil if
// none is worth it. The result is read only.
func (p *Patcher) make(ctx context.Context, read ReadChunk, d starling.Digest, target []byte, bases []starling.Digest) ([]byte, error) {
	b, err := p.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer p.leave(b)
	key := patchKey(d, bases)
	if data, known := p.lookUp(key); known { // somebody else was faster
		return data, nil
	}
	if err := b.read(ctx, read, bases); err != nil {
		return nil, err
	}
	out, ok := b.encoder.Encode(b.patch[:0], b.base, target, len(target)*maxPatchPercent/100)
	b.patch = out[:0]
	if !ok {
		out = nil
	}
	return p.keep(key, out), nil
}

// keep remembers a copy of data, which it returns; nil: that no patch is worth it.
func (p *Patcher) keep(key starling.Digest, data []byte) []byte {
	if data != nil {
		data = append(make([]byte, 0, len(data)), data...)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known[key] != nil {
		return data
	}
	if p.idle == nil {
		p.idle = time.AfterFunc(patchIdle, p.forget)
	} else {
		p.idle.Reset(patchIdle)
	}
	p.known[key] = p.lru.PushFront(&patch{key: key, data: data})
	p.usedBytes += len(data) + patchOverheadBytes
	for p.usedBytes > maxPatchesBytes {
		e := p.lru.Back()
		old := p.lru.Remove(e).(*patch)
		delete(p.known, old.key)
		p.usedBytes -= len(old.data) + patchOverheadBytes
	}
	return data
}

// forget lets go of all patches.
func (p *Patcher) forget() {
	p.mu.Lock()
	defer p.mu.Unlock()
	clear(p.known)
	p.lru.Init()
	p.usedBytes = 0
}

func (p *Patcher) enter(ctx context.Context) (*bench, error) {
	if err := p.slots.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	return p.benches.Get().(*bench), nil
}

func (p *Patcher) leave(b *bench) {
	p.benches.Put(b)
	p.slots.Release(1)
}

// read joins the bases in b.base.
func (b *bench) read(ctx context.Context, read ReadChunk, bases []starling.Digest) error {
	b.base = b.base[:0]
	for _, d := range bases {
		data, err := read(ctx, d, b.base[len(b.base):]) // behind the last, if there is room
		if err != nil {
			return fmt.Errorf("read base %s: %w", d.Short(), err)
		}
		if len(b.base)+len(data) > delta.MaxBaseBytes {
			return fmt.Errorf("read base %s: %w: the bases are longer than %d bytes", d.Short(), starling.ErrCorrupt, delta.MaxBaseBytes)
		}
		b.base = append(b.base, data...)
	}
	return nil
}
