package sim

import (
	"context"
	"encoding/binary"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// world is one run.
type world struct {
	cfg   Config
	clock clock
	jobs  []job

	machines []machine
	ports    []port // of the machines, by number, then of the caches
	origins  []string
	fetches  []fetch
	unused   []int32 // of fetches
	news     []announcement
	unread   []int32 // of news: not in use

	rackUp, rackDown, zoneUp, zoneDown []trunk

	all     []swarm.Member // by machine number
	cells   []cell
	stores  []store // of the caches; nil: they hold everything
	pullers []puller
	site    site
	wan     []trunk       // to the other regions, by number less 1
	hauled  [hauls]int64  // bytes that caches sent
	arrived int64         // chunks at machines
	placed  time.Duration // when the caches held all that they are to
	pulls   int           // chunks that caches have still to get
	left    int           // machines that can finish and have not
	due     int           // returns to come
	wasted  int64
	hash    uint64
	record  []swarm.Record
	samples []Sample
}

// job is one artifact.
type job struct {
	artifact starling.Digest
	chunks   []starling.Chunk
	fresh    int64 // bytes of it that machines lack at first
	have     swarm.Bitmap
	at       time.Duration
	priority int
}

// announcement is one on its way.
type announcement struct {
	from, to int32
	say      swarm.Announce
}

// The kinds of events; a is a machine, unless another meaning is given.
const (
	boot        kind = iota + 1
	tick             // life: the machine's
	asked            // a request reaches its source; a: fetch, life: its generation
	quantumSent      // a: port, life: its crashes
	portWake         // a: port
	arrival          // of a chunk's last byte; a: fetch, life: its generation
	failMissing      // likewise, as the two that follow
	failBusy
	failGone
	cancel    // reaches the source; a: fetch, life: its generation
	handshake // a and b: machines, life: a's
	dialFail  // likewise
	linkGone  // likewise: a learns that its link to b ended
	heard     // a: announcement, life: the receiver's
	freeze
	death
	rise
	gossip     // a: cell
	waited     // a: fetch that a cache keeps, life: its generation
	stocking   // a: port of a cache, b: chunk that comes from another region
	cacheDeath // a: port
	cacheRise  // a: port
	sampling
	jobDue // a: machine, b: job, life: the machine's
)

// Run simulates a world until the last machine that can finish has done so.
func Run(cfg Config) (Result, error) {
	cfg.setDefaults()
	if err := cfg.validate(); err != nil {
		return Result{}, err
	}
	w := newWorld(cfg, site{content: cfg.Seed})
	w.run(context.Background())
	return w.result(), nil
}

// run carries events out until nobody waits for anything, or ctx ends.
func (w *world) run(ctx context.Context) {
	w.start()
	for n := 0; w.left > 0 || w.due > 0 || w.pulls > 0; n++ {
		e, ok := w.clock.next(w.cfg.Limit)
		if !ok || n%(1<<16) == 0 && ctx.Err() != nil {
			break
		}
		w.happen(e)
	}
}

// progress tells of the chunks that have come to machines, now and then.
func (w *world) progress() {
	const every = 1 << 14
	if w.arrived++; w.site.progress != nil && w.arrived%every == 0 {
		w.site.progress(every)
	}
}

// draw is the world's hash of a few numbers, evenly spread.
func (w *world) draw(ns ...uint64) uint64 { return draw(w.cfg.Seed, ns...) }

// contentDraw is the same for what all regions have in common.
func (w *world) contentDraw(ns ...uint64) uint64 { return draw(w.site.content, ns...) }

func draw(seed uint64, ns ...uint64) uint64 {
	h := seed ^ 0x5851f42d4c957f2d
	for _, n := range ns {
		h = fold(h, n)
	}
	return h
}

func fold(h, n uint64) uint64 {
	h = (h ^ n) * 0x9e3779b97f4a7c15
	h = (h ^ h>>29) * 0xbf58476d1ce4e5b9
	return h ^ h>>32
}

func newWorld(cfg Config, at site) *world {
	w := &world{cfg: cfg, site: at}
	w.jobs = append(w.jobs, w.newJob(0, Job{Chunks: cfg.Chunks, ChunkBytes: cfg.ChunkBytes, Priority: cfg.Priority}))
	for i, j := range cfg.Also {
		w.jobs = append(w.jobs, w.newJob(i+1, j))
	}
	racks := cfg.Zones * cfg.Racks
	if cfg.RackMachines > 0 {
		racks = cfg.Cells * cfg.racksOfCell()
	}
	w.rackUp, w.rackDown = trunks(racks, cfg.RackRate), trunks(racks, cfg.RackRate)
	w.zoneUp, w.zoneDown = trunks(cfg.Zones, cfg.ZoneRate), trunks(cfg.Zones, cfg.ZoneRate)
	w.machines = make([]machine, cfg.Machines)
	w.cells = make([]cell, cfg.Cells)
	w.ports = make([]port, cfg.Machines, cfg.Machines+cfg.Caches)
	for i := range w.machines {
		c := i * cfg.Cells / cfg.Machines
		zone, rack := w.place(i, c)
		w.ports[i] = port{up: cfg.UpRate, down: cfg.DownRate, zone: zone, rack: rack, slots: cfg.UploadSlots}
		m := &w.machines[i]
		*m = machine{w: w, index: int32(i), cell: int32(c), name: fmt.Sprintf("m%05d", int(at.first)+i), known: true}
		if w.cells[c].end == 0 {
			w.cells[c].begin = int32(i)
		}
		w.cells[c].end = int32(i + 1)
		w.all = append(w.all, swarm.Member{Name: m.name, Zone: fmt.Sprint("z", zone), Rack: fmt.Sprint("r", rack)})
	}
	w.stock()
	return w
}

// place returns a machine's zone and rack.
func (w *world) place(i, cell int) (zone, rack int32) {
	cfg := &w.cfg
	if cfg.RackMachines > 0 {
		within := i - (cell*cfg.Machines+cfg.Cells-1)/cfg.Cells
		return int32(cell % cfg.Zones), int32(cell*cfg.racksOfCell() + within/cfg.RackMachines)
	}
	zone = int32(w.draw(3, uint64(i)) % uint64(cfg.Zones))
	return zone, zone*int32(cfg.Racks) + int32(w.draw(4, uint64(i))%uint64(cfg.Racks))
}

// racksOfCell is how many racks of RackMachines a cell has at most.
func (c *Config) racksOfCell() int {
	machines := (c.Machines + c.Cells - 1) / c.Cells
	return (machines + c.RackMachines - 1) / c.RackMachines
}

func trunks(n int, rate int64) []trunk {
	out := make([]trunk, n)
	for i := range out {
		out[i].rate = rate
	}
	return out
}

func (w *world) newJob(i int, c Job) job {
	name := binary.BigEndian.AppendUint64([]byte("artifact"), w.site.content)
	if i > 0 {
		name = binary.BigEndian.AppendUint64(name, uint64(i))
	}
	j := job{artifact: starling.DigestOf(name), at: c.At, priority: c.Priority}
	j.chunks = make([]starling.Chunk, c.Chunks)
	j.have = swarm.NewBitmap(c.Chunks)
	for i := range j.chunks {
		size := c.ChunkBytes
		if w.cfg.VarySizes { // an eighth to 15 eighths, 1 on average
			size = max(1, size/8+int(w.contentDraw(1, uint64(i))%uint64(size*7/4)))
		}
		d := starling.DigestOf(binary.BigEndian.AppendUint64(j.artifact[:], uint64(i)))
		j.chunks[i] = starling.Chunk{Digest: d, Size: size}
		if float64(w.contentDraw(2, uint64(i))>>11)/(1<<53) < w.cfg.Held {
			j.have.Set(i)
		} else {
			j.fresh += int64(size)
		}
	}
	return j
}

func (w *world) start() {
	w.spoil()
	for i := range w.cells {
		w.cells[i].members = w.known(&w.cells[i])
	}
	for i := range w.pullers {
		w.pull(i)
	}
	if w.cfg.SampleEvery > 0 {
		w.clock.at(0, event{kind: sampling})
	}
	for i := range w.machines {
		m := &w.machines[i]
		m.done = make([]time.Duration, len(w.jobs))
		for j := range w.jobs {
			have := slices.Clone(w.jobs[j].have)
			if m.fault.pretends() {
				clear(have)
			}
			m.held = append(m.held, have)
		}
		if w.ports[i].dead {
			continue // it rises later
		}
		if m.fault.finishes() {
			w.left++
		}
		if w.cfg.StartSpread > 0 {
			m.startsAt = time.Duration(w.draw(6, uint64(i)) % uint64(w.cfg.StartSpread))
		}
		w.clock.at(0, event{kind: boot, a: int32(i)})
	}
}

// happen carries an event out.
func (w *world) happen(e event) {
	switch e.kind {
	case asked, arrival, failMissing, failBusy, failGone, cancel:
		if w.fetches[e.a].gen == e.life {
			w.fetchMoves(e)
		}
	case quantumSent:
		if w.ports[e.a].crashes == e.life {
			w.sent(e.a)
		}
	case portWake:
		if p := &w.ports[e.a]; p.wakeAt == e.at {
			p.wakeAt = 0
		}
		w.pump(e.a)
	case cacheDeath:
		w.crash(e.a)
	case cacheRise:
		w.ports[e.a].dead = false
	case gossip:
		w.spread(e.a)
	case waited:
		if f := &w.fetches[e.a]; f.gen == e.life && f.kept {
			f.kept = false
			w.clock.after(w.latency(f.from, f.m), event{kind: failMissing, a: e.a, life: f.gen})
		}
	case stocking:
		w.stocked(e.a, e.b)
	case sampling:
		w.sample()
	case heard:
		w.hear(e)
	case tick, handshake, dialFail, linkGone, jobDue:
		if m := &w.machines[e.a]; m.life == e.life && m.peer != nil {
			m.happen(e)
		}
	case boot:
		w.machines[e.a].boot()
	case freeze:
		w.ports[e.a].frozen = true
	case death:
		w.machines[e.a].die()
	case rise:
		w.due--
		w.machines[e.a].rise()
	}
}

// hear hands an announcement to its receiver.
func (w *world) hear(e event) {
	a := w.news[e.a]
	w.news[e.a] = announcement{}
	w.unread = append(w.unread, e.a)
	m := &w.machines[a.to]
	if m.life != e.life || m.peer == nil || !slices.Contains(m.links, a.from) {
		return
	}
	m.step(swarm.PeerHas{
		Peer: w.machines[a.from].name, Artifact: a.say.Artifact, Hello: a.say.Hello, All: a.say.All, Chunks: a.say.Chunks,
	})
}

// number returns the number in a name of a machine or cache.
func number(name string) int32 {
	n, err := strconv.Atoi(name[1:])
	if err != nil {
		panic("sim: a brain names " + name) // names come from newWorld alone
	}
	return int32(n)
}

// named returns the number of the machine of a name.
func (w *world) named(name string) int32 { return number(name) - w.site.first }

// port returns the port that a request goes to.
func (w *world) port(r *swarm.Request) int32 {
	if r.Origin {
		return number(r.From) + int32(len(w.machines)-w.site.number*maxCaches)
	}
	return w.named(r.From)
}

func (w *world) jobOf(artifact starling.Digest) int {
	for j := range w.jobs {
		if w.jobs[j].artifact == artifact {
			return j
		}
	}
	panic("sim: a brain asks for an artifact that does not exist")
}

// note adds a step to the run's hash, and to the record if this machine's is kept.
func (w *world) note(m *machine, ev swarm.Event, effects []swarm.Effect) {
	h := fold(w.hash, uint64(w.clock.now)<<20^uint64(m.index))
	switch ev := ev.(type) {
	case swarm.Got:
		h = fold(h, 1<<56|uint64(ev.Chunk))
	case swarm.Failed:
		h = fold(h, 2<<56|uint64(ev.Chunk)<<8|uint64(ev.Reason))
	case swarm.PeerHas:
		h = fold(h, 3<<56|uint64(len(ev.Chunks)))
	}
	for _, e := range effects {
		switch e := e.(type) {
		case swarm.Fetch:
			h = fold(h, 4<<56|uint64(w.port(&e.Request))<<32|uint64(e.Chunk))
		case swarm.CancelFetch:
			h = fold(h, 5<<56|uint64(w.port(&e.Request))<<32|uint64(e.Chunk))
		case swarm.Announce:
			h = fold(h, 6<<56|uint64(w.named(e.To))<<32|uint64(len(e.Chunks)))
			for _, c := range e.Chunks {
				h += uint64(c)
			}
		case swarm.WakeAt:
			h = fold(h, 7<<56|uint64(e.At))
		case swarm.Connect:
			h = fold(h, 8<<56|uint64(w.named(e.Peer)))
		case swarm.Disconnect:
			h = fold(h, 9<<56|uint64(w.named(e.Peer)))
		case swarm.Distrust:
			h = fold(h, 10<<56|uint64(len(e.Reason)))
		case swarm.Done:
			h = fold(h, 11<<56)
		}
	}
	w.hash = h
	if w.cfg.Record == int(m.index)+1 {
		w.record = append(w.record, swarm.Record{At: w.clock.now, Event: ev, Effects: slices.Clone(effects)})
	}
}
