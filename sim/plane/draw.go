package plane

import (
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

const storyLines = 400 // kept

// plan is what a seed makes of a schedule. Rates of zero: never.
type plan struct {
	regions, servers, workers, caches, machines, apps int
	submissions                                       int           // of each app
	active                                            time.Duration // then all heals
	deadline                                          time.Duration // of each deployment, at most

	loss, strays                                          int // per thousand messages
	crashEvery, cutEvery, slowEvery, clockEvery, faultFor time.Duration
	machineEvery, ambushEvery, loseEvery                  time.Duration
	skew                                                  time.Duration // of wall clocks, either way
	workersDie, workersHang, buildsFail, cachesMove       int           // per cent
	machinesFail                                          int           // per thousand
	cellMax                                               int           // machines of a cell
	takeoverAfter                                         time.Duration // regions vote; 0: they do not
	orders                                                bool          // an operator has regions taken over
}

// moves reports whether apps may get another home.
func (p *plan) moves() bool { return p.takeoverAfter > 0 || p.orders }

func (w *world) draw() plan {
	p := plan{
		regions: w.pick(1, 1, 2, 2, 2, 3), servers: w.pick(3, 3, 3, 5), workers: w.pick(1, 2, 2, 3), caches: w.pick(1, 2),
		machines: w.pick(0, 1, 3, 5), apps: w.pick(1, 1, 2), submissions: w.pick(2, 3, 4, 6),
		active: w.between(90*time.Second, 5*time.Minute), deadline: w.between(30*time.Second, 3*time.Minute),
		loss: w.pick(0, 0, 10, 50, 120), strays: w.pick(0, 10, 50, 200),
		faultFor: w.between(3*time.Second, 25*time.Second), skew: time.Duration(w.pick(0, 0, 2, 60)) * time.Second,
		workersDie: w.pick(0, 0, 10, 30), workersHang: w.pick(0, 10, 30), buildsFail: w.pick(0, 10), cachesMove: w.pick(30, 95, 95),
		machinesFail: w.pick(0, 0, 5, 50), cellMax: w.pick(3, 4),
	}
	often := func() time.Duration { return time.Duration(w.pick(0, 0, 15, 40, 90)) * time.Second }
	p.crashEvery, p.cutEvery, p.slowEvery, p.clockEvery, p.machineEvery = often(), often(), often(), often(), often()
	p.ambushEvery = often() / 3
	switch w.conf.Moves {
	case Orders:
		p.regions = max(p.regions, 2)
		p.orders = true
	case Votes:
		p.regions, p.servers, p.machines = w.pick(3, 3, 3, 4), 3, w.pick(0, 1)
		p.takeoverAfter = w.between(8*time.Second, 25*time.Second)
		p.loseEvery, p.cutEvery = often(), max(p.cutEvery, 30*time.Second)
		p.faultFor = w.between(5*time.Second, 60*time.Second)
	}
	return p
}

func (w *world) app(name string) starling.App {
	a := starling.App{Name: name, Source: starling.SourceSpec{Git: "https://git.example/" + name}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	a.Deploy.Deadline = starling.Duration(w.between(w.plan.deadline/3, w.plan.deadline))
	st := &a.Deploy.Strategy
	st.Gate = []starling.Gate{starling.GateAllRegions, starling.GateAllRegions, starling.GateQuorum, starling.GateEach}[w.rng.IntN(4)]
	st.Waves = [][]string{nil, {"30%", "100%"}}[w.rng.IntN(2)]
	st.Bake = starling.Duration(w.between(0, 5*time.Second))
	st.MaxFailed = []string{"0%", "50%"}[w.rng.IntN(2)]
	st.Approval = w.chance(25)
	st.AutoRevert = w.chance(50)
	a.SetDefaults()
	return a
}

func (w *world) pick(from ...int) int { return from[w.rng.IntN(len(from))] }

func (w *world) chance(percent int) bool { return w.rng.IntN(100) < percent }

// between draws a time, from included.
func (w *world) between(from, to time.Duration) time.Duration {
	return from + time.Duration(w.rng.Int64N(int64(max(to-from, 1))))
}

// late is how long a report is held up: mostly not.
func (w *world) late() time.Duration {
	if w.rng.IntN(1000) < w.net.strays {
		return w.between(0, 15*time.Second)
	}
	return 0
}

// fail ends the run with the first promise that was broken.
func (w *world) fail(format string, args ...any) {
	if w.failed == nil {
		w.failed = fmt.Errorf("at %s: %s", w.now.Truncate(time.Millisecond), fmt.Sprintf(format, args...))
		w.tell("VIOLATION %v", w.failed)
	}
}

// tell adds a line to the story, if it is kept.
func (w *world) tell(format string, args ...any) {
	if !w.conf.Tell {
		return
	}
	if len(w.story) >= 2*storyLines {
		w.story = append(w.story[:0], w.story[len(w.story)-storyLines:]...)
	}
	w.story = append(w.story, fmt.Sprintf("%10.3fs %s", w.now.Seconds(), fmt.Sprintf(format, args...)))
}

// hash takes something that happened into the sum of all.
func (w *world) hash(all ...uint64) {
	for _, x := range all {
		w.sum = (w.sum ^ x) * 1099511628211
	}
}

// promised is the answer that AckBeforeCommit makes up.
func promised(c raftfsm.Command) raftfsm.Result {
	return raftfsm.Result{Deployment: &starling.Deployment{ID: string(c.Data)}}
}

// disorder is the bug of that name: now and then an old batch comes instead of the new
// one, and looks newer than it is.
func (r *region) disorder(m *starling.Mirror) {
	if r.w.conf.Break != Disorder {
		return
	}
	r.seen = append(r.seen, *m)
	if old := r.seen[r.w.rng.IntN(len(r.seen))]; old.Home == m.Home && r.w.chance(30) {
		old.Index = m.Index
		*m = old
	}
}
