package plane

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// epoch is when every world begins.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// world is one schedule.
type world struct {
	queue
	conf    Config
	rng     *rand.Rand
	plan    plan
	net     network
	regions []*region
	user    *user
	stats   Stats
	failed  error
	sum     uint64   // FNV-1a over all that happens
	story   []string // the last lines told

	fates   []*fate            // in order of creation
	going   int                // not ended
	orders  map[string][]*fate // by who submitted
	acked   []*order
	ends    map[string]starling.Phase
	meaning map[string]meaning
	homes   map[string]string // by app and epoch
	newest  map[string]uint64 // epoch of an app, anywhere
	ordered time.Duration     // before this no other takeover is ordered
}

// meaning is what one generation of an app stands for, everywhere.
type meaning struct {
	artifact starling.Digest
	home     string
}

func newWorld(conf Config) *world {
	w := &world{
		conf: conf, rng: rand.New(rand.NewPCG(conf.Seed, 0x57a)), sum: 14695981039346656037,
		orders: map[string][]*fate{}, homes: map[string]string{}, newest: map[string]uint64{}, ends: map[string]starling.Phase{}, meaning: map[string]meaning{},
	}
	w.plan = w.draw()
	w.net.loss, w.net.strays = w.plan.loss, w.plan.strays
	for i := range w.plan.regions {
		w.regions = append(w.regions, w.newRegion(i))
	}
	w.user = &user{node: node{num: w.net.add(), region: -1, name: "people", up: true}, w: w}
	return w
}

func (w *world) newRegion(i int) *region {
	r := &region{w: w, num: i, name: regionName(i), wellSince: -1}
	r.ledger = newLedger(r)
	for k := range w.plan.servers {
		s := &server{node: r.newNode("s", k), w: w, region: r, id: k, disk: saved{vote: nobody, first: firstEntryIndex}}
		s.offset = w.between(-w.plan.skew, w.plan.skew)
		r.servers = append(r.servers, s)
	}
	for k := range w.plan.workers {
		r.workers = append(r.workers, &worker{node: r.newNode("w", k), w: w, region: r})
	}
	for k := range w.plan.caches {
		r.caches = append(r.caches, &cache{node: r.newNode("c", k), w: w, region: r, done: map[starling.Digest]int{}})
	}
	for k := range w.plan.machines {
		r.machines = append(r.machines, &machine{node: r.newNode("m", k), w: w, region: r, apps: map[string]*standing{}, ran: map[string]starling.Generation{}, old: w.chance(15)})
	}
	r.version = 1
	return r
}

// run plays the schedule to its quiet end, or to the first violation.
func (w *world) run() {
	for _, r := range w.regions {
		for _, s := range r.servers {
			s.start()
		}
		for _, k := range r.workers {
			k.seek()
		}
		for _, c := range r.caches {
			c.poll()
		}
		for _, m := range r.machines {
			m.start()
		}
	}
	w.survey()
	for i := range w.plan.apps {
		home := w.regions[i%len(w.regions)]
		a := w.app(fmt.Sprintf("app%d", i+1))
		w.after(w.between(3*time.Second, 8*time.Second), func() { w.user.apply(a, home, 0) })
	}
	w.user.meddle()
	if w.plan.orders {
		w.user.order()
	}
	w.faults()
	w.at(w.plan.active, w.heal)
	end := w.plan.active + w.plan.deadline*2 + 3*time.Minute
	for w.failed == nil {
		e, ok := w.next(end)
		if !ok {
			break
		}
		w.stats.Events++
		w.hash(uint64(e.at), e.seq)
		e.do()
		if w.stats.Events > maxEvents {
			w.fail("%d events and no end", maxEvents)
		}
		if w.now > w.plan.active+settlesWithin && w.going == 0 && w.settled() {
			break
		}
	}
	if w.failed == nil {
		w.final()
	}
	w.stats.Virtual = w.now
}

const maxEvents = 5_000_000 // of a schedule; most have some ten thousand

const settlesWithin = 30 * time.Second // after the faults the rest has happened

// heal begins the quiet end: what is left of faults ends by itself at this moment.
func (w *world) heal() {
	w.tell("all heals")
	w.net.loss, w.net.strays = 0, 0
	w.plan.workersDie, w.plan.workersHang = 0, 0
}

// settled is looked at rarely: it reads all states.
func (w *world) settled() bool {
	if w.stats.Events%1024 != 0 {
		return false
	}
	return w.difference() == ""
}

// final holds what must be true once all has healed.
func (w *world) final() {
	for _, f := range w.fates {
		if f.open {
			w.fail("%s of %s is still %s at the end", f.id, f.region.name, f.phase)
			return
		}
	}
	for _, o := range w.acked {
		for _, r := range w.regions {
			if l := r.leader(); l != nil {
				if _, ok := l.fsm.View().Deployment(o.id); !ok {
					w.fail("%s was acknowledged, and %s has no record of it", o.id, r.name)
				}
			}
		}
	}
	w.finalOnce()
	if d := w.difference(); d != "" {
		w.fail("at the end %s", d)
	}
}

// finalOnce holds that no submission was deployed twice: where a region was lost with the
// only record of it, that one has failed. Only where an operator has a region that lives
// taken over, which goes on until it hears of it, may it have succeeded there as well; then
// that region names it.
func (w *world) finalOnce() {
	v := w.regions[0].leader().fsm.View()
	told := map[string]bool{}
	for _, r := range w.regions {
		for _, u := range r.leader().fsm.View().Unseen() {
			told[u.ID] = told[u.ID] || w.plan.orders
		}
	}
	for _, o := range w.acked {
		var going []string
		for _, f := range w.orders[o.actor()] {
			if d, ok := v.Deployment(f.id); ok && d.Phase == starling.PhaseSucceeded && !told[f.id] {
				going = append(going, f.id)
			}
		}
		if len(going) > 1 {
			w.fail("submission %d was deployed twice, as %v", o.n, going)
		}
	}
}

// difference says where servers of a region, or a region and its mirrors, differ; empty:
// nowhere.
func (w *world) difference() string {
	for _, r := range w.regions {
		lead := r.leader()
		if lead == nil {
			return fmt.Sprintf("region %s has no leader", r.name)
		}
		want := state(lead)
		for _, s := range r.servers {
			if s.applied != lead.applied || !bytes.Equal(state(s), want) {
				return fmt.Sprintf("%s differs from %s", s.name, lead.name)
			}
		}
		own := lead.fsm.View().ChangedSince(r.name, 0)
		for _, o := range w.regions {
			if l := o.leader(); o != r && l != nil {
				if d := unlike(own, l.fsm.View()); d != "" {
					return fmt.Sprintf("%s has another %s than its home %s", o.name, d, r.name)
				}
			}
		}
	}
	return ""
}

func state(s *server) []byte {
	var b bytes.Buffer
	if err := s.fsm.View().WriteSnapshot(&b); err != nil {
		s.w.fail("%s: %v", s.name, err)
	}
	return b.Bytes()
}

// unlike names a record of a home that a mirror has otherwise.
func unlike(home starling.Mirror, v raftfsm.View) string {
	for _, d := range home.Deployments {
		if o, ok := v.Deployment(d.ID); !ok || !same(d, o) {
			return "deployment " + d.ID
		}
	}
	for _, g := range home.Goals {
		if o, ok := v.Goal(g.App); !ok || !same(g, o) {
			return "goal of " + g.App
		}
	}
	for _, a := range home.Apps {
		if o, ok := v.App(a.Name); !ok || !same(a, o) {
			return "app " + a.Name
		}
	}
	return ""
}

func same(a, b any) bool {
	x, err1 := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err1 == nil && err2 == nil && bytes.Equal(x, y)
}

// created notes a deployment that a home has committed, or taken over, for the first time.
func (w *world) created(f *fate) {
	w.fates = append(w.fates, f)
	w.watch(f)
	if f.epoch > 1 && w.find(f.id) != f {
		f.excused = w.now
		return
	}
	if all := w.orders[f.actor]; len(all) > 0 && w.stats.Takeovers == 0 {
		w.fail("%s and %s are one submission", all[0].id, f.id)
	}
	w.orders[f.actor] = append(w.orders[f.actor], f)
	w.stats.Deployments++
}

// find returns what was first noted of a deployment.
func (w *world) find(id string) *fate {
	for _, f := range w.fates {
		if f.id == id {
			return f
		}
	}
	return nil
}

// watch looks at a deployment when it should have ended.
func (w *world) watch(f *fate) {
	w.at(max(f.deadline.Sub(epoch)+endsWithin, w.now), func() { f.region.ledger.overdue(f) })
}

// count keeps the number of deployments under way.
func (w *world) count(f *fate) {
	open := !f.phase.Terminal() && !f.moved
	if open && !f.open {
		w.going++
	} else if !open && f.open {
		w.going--
	}
	f.open = open
}

// ended notes the end of a deployment. Only a home of a later epoch may know another one:
// then it had not seen the first.
func (w *world) ended(f *fate, d *starling.Deployment) {
	key := token(f.id, d.CurrentEpoch())
	if was, ok := w.ends[key]; ok && was != d.Phase {
		w.fail("%s ended as %s and as %s", f.id, was, d.Phase)
	}
	w.ends[key] = d.Phase
	switch d.Phase {
	case starling.PhaseSucceeded:
		w.stats.Succeeded++
	case starling.PhaseFailed:
		w.stats.Failed++
	case starling.PhaseCancelled:
		w.stats.Cancelled++
	}
}

// acknowledged holds an answer to a submission to what is committed.
func (w *world) acknowledged(o *order, d *starling.Deployment) {
	o.id = d.ID
	w.acked = append(w.acked, o)
	w.stats.Acknowledged++
	if !slices.ContainsFunc(w.orders[o.actor()], func(f *fate) bool { return f.id == d.ID }) {
		w.fail("submission %d was answered with %s, which is not committed", o.n, d.ID)
	}
}

// answers holds that no home answers for an app when votes have given it another.
func (w *world) answers(s *server, d *starling.Deployment) {
	if w.plan.takeoverAfter == 0 {
		return
	}
	if home := w.homes[token(d.App, w.newest[d.App])]; home != s.region.name {
		w.fail("%s answered for %s, when %s was the home in epoch %d", s.name, d.ID, home, w.newest[d.App])
	}
}

// homed holds that an app has one home in each epoch, everywhere.
func (w *world) homed(a *starling.App) {
	key := token(a.Name, a.CurrentEpoch())
	if home, ok := w.homes[key]; ok && home != a.Home {
		w.fail("app %s has two homes in epoch %d: %s and %s", a.Name, a.CurrentEpoch(), home, a.Home)
	}
	w.homes[key] = a.Home
	w.newest[a.Name] = max(w.newest[a.Name], a.CurrentEpoch())
}

// means holds that a generation of an app stands for one artifact of one home.
func (w *world) means(g *starling.Goal) {
	key := g.App + " " + g.Generation.String()
	m := meaning{g.Artifact, g.Home}
	if old, ok := w.meaning[key]; ok && old != m {
		w.fail("generation %s is artifact %s of %s and artifact %s of %s", key, old.artifact.Short(), old.home, m.artifact.Short(), m.home)
	}
	w.meaning[key] = m
}

// ran holds that a machine never goes back.
func (w *world) ran(m *machine, g *starling.Goal) {
	key := m.name + " " + g.App
	if last := m.ran[g.App]; g.Generation.Compare(last) < 0 {
		w.fail("%s went back from generation %s of %s to %s", key, last, g.App, g.Generation)
	}
	m.ran[g.App] = g.Generation
	w.stats.Activations++
}

// busy reports whether anything is under way, for actors to wait longer where not.
func (w *world) busy() bool { return w.going > 0 || w.now < settlesWithin || w.now > w.plan.active }

// anyFate picks a deployment to act on, mostly one that has not ended.
func (w *world) anyFate() *fate {
	if len(w.fates) == 0 {
		return nil
	}
	for range 4 {
		if f := w.fates[w.rng.IntN(len(w.fates))]; !f.phase.Terminal() {
			return f
		}
	}
	return w.fates[w.rng.IntN(len(w.fates))]
}

func (w *world) nodes() []*node {
	out := []*node{&w.user.node}
	for _, r := range w.regions {
		for _, s := range r.servers {
			out = append(out, &s.node)
		}
		for _, k := range r.workers {
			out = append(out, &k.node)
		}
		for _, c := range r.caches {
			out = append(out, &c.node)
		}
		for _, m := range r.machines {
			out = append(out, &m.node)
		}
	}
	return out
}
