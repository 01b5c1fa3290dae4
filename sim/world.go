package sim

import (
	"encoding/binary"
	"fmt"
	"slices"
	"sort"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// world is one run.
type world struct {
	cfg      Config
	clock    clock
	artifact starling.Digest
	chunks   []starling.Chunk
	sizes    int64 // bytes of the artifact
	fresh    int64 // bytes of it that machines lack at first
	have     swarm.Bitmap

	machines []*machine
	caches   []*cache
	byName   map[string]*machine
	members  []swarm.Member // as gossip has them
	left     int            // honest machines not done
	due      int            // returns to come
	wasted   int64
	hash     uint64
	record   []swarm.Record
}

type cache struct {
	port
	name string
}

// Run simulates a world until its last honest machine is done.
func Run(cfg Config) (Result, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return Result{}, err
	}
	w := newWorld(cfg)
	w.start()
	for w.left > 0 || w.due > 0 {
		if !w.clock.next(cfg.Limit) {
			break
		}
	}
	return w.result(), nil
}

// draw is the world's hash of a few numbers, evenly spread.
func (w *world) draw(ns ...uint64) uint64 {
	h := w.cfg.Seed ^ 0x5851f42d4c957f2d
	for _, n := range ns {
		h = (h ^ n) * 0x9e3779b97f4a7c15
		h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
		h ^= h >> 32
	}
	return h
}

func newWorld(cfg Config) *world {
	w := &world{cfg: cfg, byName: make(map[string]*machine)}
	w.artifact = starling.DigestOf(binary.BigEndian.AppendUint64([]byte("artifact"), cfg.Seed))
	w.chunks = make([]starling.Chunk, cfg.Chunks)
	w.have = swarm.NewBitmap(cfg.Chunks)
	for i := range w.chunks {
		size := cfg.ChunkBytes
		if cfg.VarySizes { // an eighth to 15 eighths, 1 on average
			size = max(1, cfg.ChunkBytes/8+int(w.draw(1, uint64(i))%uint64(cfg.ChunkBytes*7/4)))
		}
		d := starling.DigestOf(binary.BigEndian.AppendUint64(w.artifact[:], uint64(i)))
		w.chunks[i] = starling.Chunk{Digest: d, Size: size}
		w.sizes += int64(size)
		if float64(w.draw(2, uint64(i))>>11)/(1<<53) < cfg.Held {
			w.have.Set(i)
		} else {
			w.fresh += int64(size)
		}
	}
	for i := range cfg.Caches {
		c := &cache{name: fmt.Sprintf("cache-%d", i)}
		c.port = port{w: w, up: cfg.CacheRate, down: cfg.CacheRate, zone: i % cfg.Zones, rack: -1 - i}
		w.caches = append(w.caches, c)
	}
	for i := range cfg.Machines {
		m := &machine{w: w, index: i, name: fmt.Sprintf("m%05d", i)}
		m.port = port{w: w, up: cfg.UpRate, down: cfg.DownRate}
		m.zone = int(w.draw(3, uint64(i)) % uint64(cfg.Zones))
		m.rack = int(w.draw(4, uint64(i)) % uint64(cfg.Racks))
		w.machines = append(w.machines, m)
		w.byName[m.name] = m
		w.members = append(w.members, swarm.Member{
			Name: m.name, Zone: fmt.Sprint("z", m.zone), Rack: fmt.Sprint("r", m.rack),
		})
	}
	w.spoil()
	return w
}

// spoil deals out the faults, to machines that the seed chooses.
func (w *world) spoil() {
	order := slices.Clone(w.machines)
	sort.Slice(order, func(i, j int) bool {
		a, b := w.draw(5, uint64(order[i].index)), w.draw(5, uint64(order[j].index))
		return a < b
	})
	take := func(n int, f func(*machine)) {
		for _, m := range order[:n] {
			f(m)
		}
		order = order[n:]
	}
	take(w.cfg.Corrupt, func(m *machine) { m.corrupts = true })
	take(w.cfg.Claim, func(m *machine) { m.claims = true })
	take(w.cfg.Stall, func(m *machine) { m.stalls = true })
	take(w.cfg.Slow, func(m *machine) {
		m.up = max(1, int64(float64(m.up)*w.cfg.SlowFactor))
		m.down = max(1, int64(float64(m.down)*w.cfg.SlowFactor))
	})
}

func (w *world) start() {
	for _, m := range w.machines {
		m.held = slices.Clone(w.have)
		if m.honest() {
			w.left++
		}
		at := time.Duration(0)
		if w.cfg.StartSpread > 0 {
			at = time.Duration(w.draw(6, uint64(m.index)) % uint64(w.cfg.StartSpread))
		}
		w.clock.at(at, m.boot)
	}
	for _, o := range w.cfg.Outages {
		m := w.machines[o.Machine]
		w.clock.at(o.At, m.die)
		if o.For > 0 {
			w.due++
			w.clock.at(o.At+o.For, func() {
				w.due--
				m.rise()
			})
		}
	}
	for _, o := range w.cfg.CacheDown {
		c := w.caches[o.Machine]
		w.clock.at(o.At, c.crash)
		if o.For > 0 {
			w.clock.at(o.At+o.For, func() { c.dead = false })
		}
	}
}

// gossip tells all machines of the new membership, after a while.
func (w *world) gossip() {
	w.clock.after(w.cfg.MembersAfter, func() {
		members := make([]swarm.Member, 0, len(w.machines))
		for _, m := range w.machines {
			if !m.dead {
				members = append(members, swarm.Member{
					Name: m.name, Zone: fmt.Sprint("z", m.zone), Rack: fmt.Sprint("r", m.rack),
				})
			}
		}
		w.members = members
		for _, m := range w.machines {
			if m.peer != nil {
				m.step(swarm.Members{Artifact: w.artifact, Members: members})
			}
		}
	})
}

func (w *world) cacheNamed(name string) *cache {
	for _, c := range w.caches {
		if c.name == name {
			return c
		}
	}
	return nil
}

func (w *world) originNames() []string {
	var names []string
	for _, c := range w.caches {
		names = append(names, c.name)
	}
	return names
}

func (w *world) result() Result {
	r := Result{
		Machines: len(w.machines), Bytes: w.fresh, Unfinished: w.left,
		Wasted: w.wasted, Hash: w.hash, Record: w.record,
	}
	var done []time.Duration
	var out, allUp int64
	slowest := w.cfg.DownRate
	for _, m := range w.machines {
		r.PerMachine = append(r.PerMachine, Machine{
			Name: m.name, Faulty: !m.honest(), Done: m.done, FromPeers: m.fromPeers,
			FromCaches: m.fromCaches, Sent: m.sent, Steps: m.steps,
		})
		r.Steps += m.steps
		allUp += m.up
		slowest = min(slowest, m.down)
		if m.honest() && m.done > 0 {
			done = append(done, m.done)
			r.Last = max(r.Last, m.done)
		}
	}
	for _, c := range w.caches {
		out += c.sent
	}
	cacheUp := w.cfg.CacheRate * int64(w.cfg.Caches)
	r.Bound = span(w.fresh, slowest)
	if cacheUp > 0 {
		r.Bound = max(r.Bound, span(w.fresh, cacheUp))
	}
	r.Bound = max(r.Bound, span(w.fresh*int64(len(w.machines)), allUp+cacheUp))
	if w.fresh > 0 {
		r.OriginCopies = float64(out) / float64(w.fresh)
	}
	if len(done) > 0 {
		slices.Sort(done)
		r.Median = done[len(done)/2]
	}
	return r
}
