package control

import (
	"container/heap"
	"fmt"
	"math/rand"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// TestSuccession plays regions on virtual time: links fail in either direction, messages
// and commits take long, leaders and regions die and return, clocks run at rates of their
// own. At no moment may two regions act as the home of one app; and when all is well
// again, one does. STARLING_SEEDS sets how many schedules are played.
func TestSuccession(t *testing.T) {
	seeds := 2
	if n, err := strconv.Atoi(os.Getenv("STARLING_SEEDS")); err == nil {
		seeds = n
	}
	takeovers, handed := 0, 0
	for seed := range seeds {
		p := newPlay(t, int64(seed), 3+2*(seed%2))
		p.run(3 * time.Minute)
		p.heal()
		p.run(2 * time.Minute)
		p.settled()
		takeovers += p.takeovers
		handed += len(p.acted) - 1
	}
	t.Logf("%d schedules, %d takeovers, the app changed hands %d times", seeds, takeovers, handed)
	if handed < seeds/4 || takeovers == 0 {
		t.Error("hardly any takeover: the test shows nothing")
	}
}

// playAfter is takeover_after in the play.
const playAfter = 12 * time.Second

// play is a few regions on virtual time.
type play struct {
	t         *testing.T
	seed      int64
	rnd       *rand.Rand
	at        time.Duration
	queue     agenda
	regions   []*player
	cut       map[[2]int]bool // from, to
	calm      bool
	takeovers int
	acted     []string // homes that acted, in order
	story     []string
}

// player is one region: its committed state and its leader.
type player struct {
	p      *play
	i      int
	name   string
	fsm    *raftfsm.FSM
	index  uint64
	up     bool
	rate   float64
	leader *Succession
	terms  int
	busy   bool // campaigning
	asking map[int]bool
}

type agenda []event

type event struct {
	at time.Duration
	n  int
	do func()
}

func (a agenda) Len() int { return len(a) }
func (a agenda) Less(i, j int) bool {
	return a[i].at < a[j].at || a[i].at == a[j].at && a[i].n < a[j].n
}
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }
func (a *agenda) Push(e any)   { *a = append(*a, e.(event)) }
func (a *agenda) Pop() any {
	e := (*a)[len(*a)-1]
	*a = (*a)[:len(*a)-1]
	return e
}

func newPlay(t *testing.T, seed int64, n int) *play {
	p := &play{t: t, seed: seed, rnd: rand.New(rand.NewSource(seed)), cut: map[[2]int]bool{}}
	for i := range n {
		name := string(rune('a' + i))
		r := &player{p: p, i: i, name: name, fsm: raftfsm.New(name), up: true, rate: 0.9 + 0.2*p.rnd.Float64()}
		p.regions = append(p.regions, r)
	}
	for _, r := range p.regions {
		for _, o := range p.regions {
			r.apply(raftfsm.TypeRegionUpsert, raftfsm.RegionUpsert{Region: raftfsm.Region{Name: o.name}})
		}
	}
	p.regions[0].apply(raftfsm.TypeAppApply, raftfsm.AppApply{App: starling.App{Name: "x"}})
	for _, r := range p.regions {
		for _, o := range p.regions {
			r.copyOf(o)
		}
		r.elect()
		r.live()
	}
	p.after(p.span(time.Second, 10*time.Second), p.trouble)
	return p
}

func (p *play) span(from, to time.Duration) time.Duration {
	return from + time.Duration(p.rnd.Int63n(int64(to-from)))
}

func (p *play) after(d time.Duration, do func()) {
	heap.Push(&p.queue, event{p.at + d, len(p.story) + p.queue.Len(), do})
}

func (p *play) say(format string, args ...any) {
	p.story = append(p.story, fmt.Sprintf("%8s %s", p.at.Round(time.Millisecond), fmt.Sprintf(format, args...)))
}

// run plays on for d and looks after each event.
func (p *play) run(d time.Duration) {
	for end := p.at + d; p.queue.Len() > 0 && p.queue[0].at <= end; {
		e := heap.Pop(&p.queue).(event)
		p.at = e.at
		e.do()
		p.look()
	}
}

// look checks that one region at most acts as the home.
func (p *play) look() {
	var acting []string
	for _, r := range p.regions {
		if r.acts() {
			acting = append(acting, r.name)
		}
	}
	if len(acting) > 1 {
		p.fail("%v act as the home of one app", acting)
	}
	if len(acting) == 1 && (len(p.acted) == 0 || p.acted[len(p.acted)-1] != acting[0]) {
		p.acted = append(p.acted, acting[0])
		p.say("%s acts as the home", acting[0])
	}
}

func (p *play) fail(format string, args ...any) {
	p.t.Helper()
	p.t.Fatalf("seed %d: %s\n%s", p.seed, fmt.Sprintf(format, args...), strings.Join(p.story[max(0, len(p.story)-60):], "\n"))
}

// trouble makes something fail, or work again.
func (p *play) trouble() {
	if p.calm {
		return
	}
	r := p.regions[p.rnd.Intn(len(p.regions))]
	if p.rnd.Intn(3) == 0 {
		r = p.regions[slices.IndexFunc(p.regions, func(r *player) bool { return r.view().hosts() })] // the home
	}
	o := p.regions[p.rnd.Intn(len(p.regions))]
	switch p.rnd.Intn(6) {
	case 0:
		r.up = !r.up
		p.say("%s is up: %v", r.name, r.up)
		if r.up {
			r.elect()
		}
	case 1:
		p.say("%s has another leader", r.name)
		r.elect()
	case 2, 3:
		cut := p.rnd.Intn(2) == 0
		p.say("%s is cut off from all: %v", r.name, cut)
		for _, x := range p.regions {
			p.cut[[2]int{r.i, x.i}], p.cut[[2]int{x.i, r.i}] = cut, cut
		}
	default:
		p.cut[[2]int{r.i, o.i}] = !p.cut[[2]int{r.i, o.i}]
		p.say("what %s says reaches %s: %v", r.name, o.name, !p.cut[[2]int{r.i, o.i}])
	}
	p.after(p.span(time.Second, 15*time.Second), p.trouble)
}

func (p *play) heal() {
	p.calm = true
	p.cut = map[[2]int]bool{}
	for _, r := range p.regions {
		if !r.up {
			r.up = true
			r.elect()
		}
	}
	p.say("all is well again")
}

// settled wants one home that acts, known to all, and nobody lost.
func (p *play) settled() {
	home := ""
	for _, r := range p.regions {
		if r.acts() {
			home = r.name
		}
	}
	for _, r := range p.regions {
		v := r.fsm.View()
		a, _ := v.App("x")
		if a.Home != home {
			p.fail("in the end %s acts, and %s says the home is %s at epoch %d", home, r.name, a.Home, a.CurrentEpoch())
		}
		for _, o := range p.regions {
			if v.Lost(o.name) {
				p.fail("in the end %s says that %s is lost", r.name, o.name)
			}
		}
	}
}

// send brings a message to a region after a delay, unless it is lost.
func (p *play) send(from, to *player, do func()) {
	d := p.span(time.Millisecond, 400*time.Millisecond)
	if !p.calm && p.rnd.Intn(20) == 0 {
		d = p.span(0, 2*playAfter) // stuck in some queue
	}
	p.after(d, func() {
		if from.up && to.up && !p.cut[[2]int{from.i, to.i}] {
			do()
		}
	})
}

type playView struct {
	raftfsm.View
	name string
}

func (r *player) view() playView { return playView{r.fsm.View(), r.name} }

func (v playView) hosts() bool {
	a, ok := v.App("x")
	return ok && a.Home == v.name
}

// now is the region's clock.
func (r *player) now() time.Time {
	return time.Date(2026, 1, 1, r.i, 0, 0, 0, time.UTC).Add(time.Duration(float64(r.p.at) * r.rate))
}

func (r *player) acts() bool {
	v := r.view()
	return r.up && v.hosts() && r.leader.Supported(v.View, r.now()) == nil
}

func (r *player) elect() {
	r.terms++
	r.busy, r.asking = false, map[int]bool{}
	r.leader = NewSuccession(r.name, fmt.Sprint(r.terms), playAfter, r.now())
}

func (r *player) apply(kind raftfsm.Type, payload any) raftfsm.Result {
	c, err := raftfsm.NewCommand(kind, r.now(), "", payload)
	if err != nil {
		r.p.t.Fatal(err)
	}
	b, err := raftfsm.Encode([]raftfsm.Command{c})
	if err != nil {
		r.p.t.Fatal(err)
	}
	r.index++
	return r.fsm.Apply(&raft.Log{Index: r.index, Data: b}).([]raftfsm.Result)[0]
}

// commit applies a command after a while, which may be long, if the leader that proposed
// it still leads, or if the next one finds it in the log.
func (r *player) commit(kind raftfsm.Type, payload any, then func(raftfsm.Result)) {
	term := r.terms
	d := r.p.span(time.Millisecond, 100*time.Millisecond)
	if !r.p.calm && r.p.rnd.Intn(10) == 0 {
		d = r.p.span(0, 2*playAfter)
	}
	r.p.after(d, func() {
		if !r.up || r.terms != term && r.p.rnd.Intn(2) == 0 {
			return
		}
		res := r.apply(kind, payload)
		if r.terms == term {
			then(res)
		}
	})
}

// copyOf pulls everything from another region at once.
func (r *player) copyOf(o *player) {
	v := o.fsm.View()
	if m := v.ChangedSince(o.name, r.fsm.View().MirrorIndex(o.name)); o != r && m.Index > r.fsm.View().MirrorIndex(o.name) {
		r.apply(raftfsm.TypeMirror, raftfsm.Mirror{Batch: m})
	}
}

// live does what a leader's loops do, for ever.
func (r *player) live() {
	r.p.after(r.p.span(100*time.Millisecond, 300*time.Millisecond), r.live)
	if !r.up {
		return
	}
	for _, o := range r.p.regions {
		if o != r && !r.asking[o.i] {
			r.pull(o)
		}
	}
	for _, d := range r.leader.decisions(r.fsm.View()) {
		r.apply(d.Type, d.Payload)
	}
	if vote, due := r.leader.Due(r.fsm.View(), r.now()); due && !r.busy {
		r.campaign(vote)
	}
}

// pull is one question and its answer; nothing else is asked until it comes, or 3 s.
func (r *player) pull(o *player) {
	term := r.terms
	r.asking[o.i] = true
	free := func() {
		if r.terms == term {
			r.asking[o.i] = false
		}
	}
	r.p.after(3*time.Second, free)
	echo, index := r.leader.Echo(r.fsm.View(), o.name), r.fsm.View().MirrorIndex(o.name)
	r.p.send(r, o, func() {
		o.leader.Echoed(r.name, echo, index)
		hold := r.p.span(0, time.Second) // the long poll
		r.p.after(hold, func() {
			st, m := o.leader.Standing(o.fsm.View(), o.now()), o.fsm.View().ChangedSince(o.name, index)
			r.p.send(o, r, func() {
				if r.terms != term {
					return
				}
				r.leader.Heard(r.fsm.View(), o.name, st, r.now())
				if m.Index > r.fsm.View().MirrorIndex(o.name) {
					r.apply(raftfsm.TypeMirror, raftfsm.Mirror{Batch: m})
				}
				free()
			})
		})
	})
}

// campaign asks everybody for votes, without asking first who would give theirs: that
// makes for more trouble.
func (r *player) campaign(vote raftfsm.Vote) {
	term := r.terms
	if r.leader.Promise(r.fsm.View(), vote, r.now()) != nil {
		return
	}
	r.busy = true
	r.p.say("%s campaigns for %s at epoch %d", r.name, vote.Lost, vote.Epoch)
	votes := []string{r.name}
	r.p.after(4*time.Second, func() {
		if r.terms == term {
			r.busy = false
			r.leader.Failed(vote.Lost, r.now())
		}
	})
	won := false
	count := func() {
		if won || r.terms != term || 2*len(votes) <= len(vote.Regions) {
			return
		}
		won = true
		r.commit(raftfsm.TypeTakeover, raftfsm.Takeover{From: vote.Lost, Epoch: vote.Epoch, Votes: slices.Clone(votes)}, func(res raftfsm.Result) {
			r.p.say("%s takes over %s at epoch %d with %v: %v", r.name, vote.Lost, vote.Epoch, votes, res.Err)
			if res.Err == nil {
				r.p.takeovers++
			}
		})
	}
	r.commit(raftfsm.TypeVote, vote, func(res raftfsm.Result) {
		if res.Err != nil {
			return
		}
		for _, o := range r.p.regions {
			if o == r || o.name == vote.Lost {
				continue
			}
			r.p.send(r, o, func() {
				if o.leader.Promise(o.fsm.View(), vote, o.now()) != nil {
					return
				}
				o.commit(raftfsm.TypeVote, vote, func(res raftfsm.Result) {
					if res.Err == nil {
						r.p.send(o, r, func() { votes = append(votes, o.name); count() })
					}
				})
			})
		}
		count()
	})
}

// What a leader may do by itself, step by step.
func TestSuccessionByHand(t *testing.T) {
	p := newPlay(t, 1, 3)
	p.calm = true
	p.run(5 * time.Second)
	a, b := p.regions[0], p.regions[1]
	if !a.acts() {
		t.Fatalf("a does not act: %v", a.leader.Supported(a.fsm.View(), a.now()))
	}
	vote := func() raftfsm.Vote {
		v := b.fsm.View()
		return raftfsm.Vote{Lost: "a", Epoch: v.NextEpoch("a"), Candidate: "b", Regions: v.KnownRegions(), Mirror: v.MirrorIndex("a")}
	}
	if err := b.leader.Promise(b.fsm.View(), vote(), b.now()); err == nil {
		t.Error("b votes although it hears a")
	}
	if err := a.leader.May(a.fsm.View(), vote(), a.now()); err == nil || !strings.Contains(err.Error(), "is here") {
		t.Errorf("a says of its own loss: %v", err)
	}
	for _, x := range p.regions[1:] {
		p.cut[[2]int{0, x.i}], p.cut[[2]int{x.i, 0}] = true, true
	}
	p.run(playAfter * 3 / 5)
	err := a.leader.Supported(a.fsm.View(), a.now())
	if a.acts() || err == nil || !strings.Contains(err.Error(), "cut off from b and c") {
		t.Errorf("a acts without being heard: %v", err)
	}
	if v := b.fsm.View(); v.Lost("a") {
		t.Error("a was taken over while its lease may have been in force elsewhere")
	}
	p.run(4 * playAfter)
	var homes []string
	for _, x := range p.regions[1:] {
		if x.acts() {
			homes = append(homes, x.name)
		}
	}
	if len(homes) != 1 {
		t.Fatalf("%v took over", homes)
	}
	// Promises of an older claim are void, and a program that knows no stamps supports nobody.
	a.leader.Echoed("b", nil, 0)
	a.leader.Echoed("b", &rpc.Echo{Stamp: rpc.Stamp{Term: "another"}}, 0)
	p.heal()
	p.run(time.Minute)
	p.settled()
	if a.acts() || a.view().hosts() {
		t.Error("a is the home again")
	}

	// The home that took over is lost in its turn: what it had taken goes on elsewhere.
	i := slices.IndexFunc(p.regions, func(r *player) bool { return r.acts() })
	for _, x := range p.regions {
		p.cut[[2]int{i, x.i}], p.cut[[2]int{x.i, i}] = true, true
	}
	p.run(5 * playAfter)
	again := slices.IndexFunc(p.regions, func(r *player) bool { return r.acts() })
	if again < 0 || again == i {
		t.Fatalf("after %s was lost, too, the home that acts is %d", p.regions[i].name, again)
	}
	p.heal()
	p.run(time.Minute)
	p.settled()
}
