package sim

import (
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// maxCaches bounds those of a region, so that their names tell them apart in a fleet.
const maxCaches = 1000

// What caches send is counted by where it goes.
const (
	toMachines = iota
	toCaches   // of the same region
	toRegions
	hauls
)

// site is a region's place in a fleet.
type site struct {
	number  int    // of the region; 0: the home, or a world of its own
	first   int32  // the number in the first machine's name
	content uint64 // the artifact's seed
	// arrivals tells when each chunk comes from the home to the first cache of its line;
	// nil: the caches hold their shares from the beginning.
	arrivals []time.Duration
	// stocked tells when each chunk comes to each cache of its line, the first's times before
	// the second's, and so on; nil: as above.
	stocked  []time.Duration
	away     []away // the regions that get the artifact from here, from number 1
	wanRate  int64  // of the link to each of them, bytes a second; 0: not a bottleneck
	pulling  int    // chunks that a cache asks of the home, or of a cache, at once
	progress func(chunks int64)
}

// away is another region, as the home sees it: its caches.
type away struct {
	latency  time.Duration // one way
	arrivals []time.Duration
	bytes    int64 // that were sent to it
}

// store is what one cache holds of the first artifact.
type store struct {
	has  swarm.Bitmap
	at   map[int32]time.Duration // when chunks came, by chunk
	kept map[int32][]waiting     // requests that wait for a chunk, by chunk
}

// waiting is a request, unless it has moved on.
type waiting struct {
	fetch int32
	gen   uint32
}

// puller brings a cache its share, as blobcache.Replicator does.
type puller struct {
	port   int32
	chunks []haul // to come, in the manifest's order
	flying int
}

// haul is a chunk to get from a port.
type haul struct{ chunk, from int32 }

// forever is longer than any run.
const forever = 1 << 61 * time.Nanosecond

// cacheNames are the names of a region's caches, in order.
func cacheNames(region, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = fmt.Sprintf("c%05d", region*maxCaches+i)
	}
	return out
}

// stock places the caches: those of this region, then those of the others that pull here.
func (w *world) stock() {
	cfg := &w.cfg
	w.origins = cacheNames(w.site.number, cfg.Caches)
	w.addCaches(0)
	if cfg.Replicas == 0 {
		return
	}
	w.stores = make([]store, cfg.Caches)
	for i := range w.stores {
		w.stores[i] = store{has: swarm.NewBitmap(cfg.Chunks), at: map[int32]time.Duration{}, kept: map[int32][]waiting{}}
	}
	lines := w.lines(w.origins)
	switch {
	case w.site.stocked != nil:
		for c, line := range lines {
			for k, i := range line {
				w.clock.at(w.site.stocked[k*cfg.Chunks+c], event{kind: stocking, a: int32(cfg.Machines) + i, b: int32(c)})
				w.pulls++
			}
		}
	case w.site.arrivals != nil:
		w.follow(lines)
	default:
		for c, line := range lines {
			for _, i := range line {
				w.stores[i].has.Set(c)
			}
		}
	}
	w.wan = trunks(len(w.site.away), w.site.wanRate)
	for r := range w.site.away {
		w.serve(r+1, lines)
	}
}

func (w *world) addCaches(region int) {
	for i := range w.cfg.Caches {
		w.ports = append(w.ports, port{
			up: w.cfg.CacheRate, down: w.cfg.CacheRate, zone: int32(i % w.cfg.Zones), rack: int32(-1 - i),
			region: int32(region), slots: w.cfg.CacheSlots,
		})
	}
}

// serve has the caches of another region pull from here: the first of each chunk's line
// there from the first of its line here.
func (w *world) serve(region int, lines [][]int32) {
	first := len(w.pullers)
	for i := range w.cfg.Caches {
		w.pullers = append(w.pullers, puller{port: int32(len(w.ports) + i)})
	}
	w.addCaches(region)
	for c, line := range w.lines(cacheNames(region, w.cfg.Caches)) {
		p := &w.pullers[first+int(line[0])]
		p.chunks = append(p.chunks, haul{int32(c), int32(w.cfg.Machines) + lines[c][0]})
	}
	w.pulls += w.cfg.Chunks
}

// lines returns, by chunk, the caches that are to hold it, first to last: the placement
// of package blobcache.
func (w *world) lines(names []string) [][]int32 {
	index := make(map[string]int32, len(names))
	for i, name := range names {
		index[name] = int32(i)
	}
	chunks := w.jobs[0].chunks
	out := make([][]int32, len(chunks))
	for c := range chunks {
		for _, name := range starling.Rendezvous(chunks[c].Digest, names, w.cfg.Replicas) {
			out[c] = append(out[c], index[name])
		}
	}
	return out
}

// follow has the caches filled: the first of a chunk's line when it comes from the home,
// the others from the first.
func (w *world) follow(lines [][]int32) {
	machines := int32(w.cfg.Machines)
	w.pullers = make([]puller, w.cfg.Caches)
	for i := range w.pullers {
		w.pullers[i].port = machines + int32(i)
	}
	for c, line := range lines {
		w.clock.at(w.site.arrivals[c], event{kind: stocking, a: machines + line[0], b: int32(c)})
		w.pulls += len(line)
		for _, i := range line[1:] {
			p := &w.pullers[i]
			p.chunks = append(p.chunks, haul{int32(c), machines + line[0]})
		}
	}
}

// stockedAt returns site.stocked for others that look at the same caches.
func (w *world) stockedAt() []time.Duration {
	out := make([]time.Duration, w.cfg.Chunks*w.cfg.Replicas)
	for c, line := range w.lines(w.origins) {
		for k, i := range line {
			out[k*w.cfg.Chunks+c] = w.stores[i].at[int32(c)]
		}
	}
	return out
}

// pull asks for as much of a cache's share as may be on its way at once.
func (w *world) pull(i int) {
	p := &w.pullers[i]
	for len(p.chunks) > 0 && p.flying < w.site.pulling {
		h := p.chunks[0]
		p.chunks = p.chunks[1:]
		p.flying++
		n := w.newFetch()
		f := &w.fetches[n]
		f.m, f.from, f.chunk, f.at, f.wait = p.port, h.from, h.chunk, w.clock.now, forever
		f.size = int64(w.jobs[0].chunks[h.chunk].Size)
		w.clock.after(w.latency(p.port, h.from), event{kind: asked, a: n, life: f.gen})
	}
}

// pulled is the arrival of a chunk that a cache asked for.
func (w *world) pulled(f *fetch) {
	i := int(f.m - w.pullers[0].port)
	w.pullers[i].flying--
	if region := w.ports[f.m].region; region > 0 {
		w.site.away[region-1].arrivals[f.chunk] = w.clock.now
		w.pulls--
	} else {
		w.stocked(f.m, f.chunk)
	}
	w.pull(i)
}

// stocked puts a chunk into a cache, and serves those who wait for it.
func (w *world) stocked(port, chunk int32) {
	s := &w.stores[int(port)-w.cfg.Machines]
	s.has.Set(int(chunk))
	s.at[chunk] = w.clock.now
	if w.pulls--; w.pulls == 0 {
		w.placed = w.clock.now
	}
	for _, k := range s.kept[chunk] {
		if f := &w.fetches[k.fetch]; f.gen == k.gen && f.kept {
			f.kept = false
			w.enqueue(k.fetch)
		}
	}
	delete(s.kept, chunk)
}

// askCache is a request's arrival at a cache.
func (w *world) askCache(i int32) {
	f := &w.fetches[i]
	p := &w.ports[f.from]
	answer := func(k kind) { w.clock.after(w.latency(f.from, f.m), event{kind: k, a: i, life: f.gen}) }
	var s *store
	if w.stores != nil && f.job == 0 {
		s = &w.stores[int(f.from)-w.cfg.Machines]
	}
	switch {
	case w.cfg.CacheQueue > 0 && int(f.m) < w.cfg.Machines && len(p.active)+len(p.queue) >= w.cfg.CacheQueue:
		answer(failBusy)
	case s == nil || s.has.Has(int(f.chunk)):
		w.enqueue(i)
	case f.wait == 0:
		answer(failMissing)
	default:
		f.kept = true
		s.kept[f.chunk] = append(s.kept[f.chunk], waiting{i, f.gen})
		if f.wait != forever {
			w.clock.after(f.wait, event{kind: waited, a: i, life: f.gen})
		}
	}
}

// haul notes what a cache sent of a fetch.
func (w *world) haul(f *fetch, n int64) {
	switch {
	case int(f.m) < w.cfg.Machines:
		w.hauled[toMachines] += n
	case w.ports[f.m].region == 0:
		w.hauled[toCaches] += n
	default:
		w.hauled[toRegions] += n
		w.site.away[w.ports[f.m].region-1].bytes += n
	}
}
