package control

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// sim is a home region and one other region whose workers, caches and machines do
// as chance has it, on virtual time. The state machine, the decisions and the boards
// are the real ones.
type sim struct {
	*bench
	rt       *rapid.T
	rng      *rand.Rand
	term     *term
	apps     []string
	ids      []string
	last     map[string]starling.Generation // by app
	ended    map[string]starling.Phase
	machines []string
	moods    map[string]int // chance in 100 that an actor does its work at a step
	jobs     map[string]*rpc.Job
}

const simStep = time.Second

func newSim(t *testing.T, rt *rapid.T) *sim {
	n := rapid.IntRange(0, 6).Draw(rt, "machines")
	nodes := machineNodes("us", n)
	for _, c := range []string{"c1", "c2"} {
		nodes = append(nodes, node("us", c, starling.RoleCache))
	}
	for _, w := range []string{"w1", "w2"} {
		nodes = append(nodes, node("us", w, starling.RoleWorker))
	}
	s := &sim{
		bench: newBench(t, "us", nil, nodes...), rt: rt, rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(rt, "seed"), 1)), machines: names(machineNodes("us", n)),
		last: map[string]starling.Generation{}, ended: map[string]starling.Phase{},
		moods: map[string]int{}, jobs: map[string]*rpc.Job{},
	}
	for _, actor := range []string{"worker", "cache", "machine", "eu"} {
		s.moods[actor] = rapid.SampledFrom([]int{0, 50, 95, 95}).Draw(rt, actor)
	}
	s.moods["failure"] = rapid.SampledFrom([]int{0, 0, 1, 30}).Draw(rt, "failure")
	s.term = s.elect()
	return s
}

func (s *sim) chance(percent int) bool { return s.rng.IntN(100) < percent }

func (s *sim) newApp(name string) {
	s.apps = append(s.apps, name)
	gates := []starling.Gate{starling.GateAllRegions, starling.GateQuorum, starling.GateEach}
	s.app(name, func(a *starling.App) {
		st := &a.Deploy.Strategy
		a.Deploy.Deadline = starling.Duration(time.Duration(rapid.IntRange(10, 120).Draw(s.rt, "deadline")) * time.Second)
		st.Gate = rapid.SampledFrom(gates).Draw(s.rt, "gate")
		st.Waves = rapid.SampledFrom([][]string{nil, {"30%", "100%"}}).Draw(s.rt, "waves")
		st.Bake = starling.Duration(time.Duration(rapid.IntRange(0, 5).Draw(s.rt, "bake")) * time.Second)
		st.MaxFailed = rapid.SampledFrom([]string{"0%", "50%"}).Draw(s.rt, "max_failed")
		st.Approval = rapid.Bool().Draw(s.rt, "approval")
		st.AutoRevert = rapid.Bool().Draw(s.rt, "auto_revert")
	})
}

// step lets everybody act once, then the leader look.
func (s *sim) step() {
	s.people()
	s.workers()
	s.caches()
	s.activate()
	s.abroadStep()
	s.look(s.term)
	s.check()
	s.clock.advance(simStep)
}

func (s *sim) people() {
	if len(s.ids) < 6 && s.chance(15) {
		sub := raftfsm.Submit{
			ID: fmt.Sprintf("d%d", len(s.ids)), App: s.apps[s.rng.IntN(len(s.apps))],
			Regions: []string{"us", "eu"}, Priority: s.rng.IntN(3),
		}
		switch s.rng.IntN(3) {
		case 0:
			sub.SHA = fmt.Sprintf("%040x", len(s.ids)+1)
		case 1:
			sub.Artifact = s.artifact(sub.ID)
		default:
			sub.Rollback = true
		}
		if s.try(raftfsm.TypeSubmit, sub) {
			s.ids = append(s.ids, sub.ID)
		}
	}
	if len(s.ids) > 0 && s.chance(20) {
		id := s.ids[s.rng.IntN(len(s.ids))]
		switch s.rng.IntN(10) {
		case 0, 1:
			s.try(raftfsm.TypePause, raftfsm.Pause{ID: id, Paused: s.chance(50)})
		case 2, 3, 4, 5, 6, 7, 8:
			s.try(raftfsm.TypeApprove, raftfsm.Approve{ID: id})
		default:
			s.try(raftfsm.TypeFinish, raftfsm.Finish{ID: id, Phase: starling.PhaseCancelled})
		}
	}
	if s.chance(2) {
		s.term = s.elect()
	}
}

// try proposes what may be refused.
func (s *sim) try(t raftfsm.Type, payload any) bool {
	cmd, err := raftfsm.NewCommand(t, s.clock.Now(), "chance", payload)
	if err != nil {
		s.rt.Fatal(err)
	}
	res, err := s.raft.Propose(context.Background(), cmd)
	if err != nil {
		s.rt.Fatal(err)
	}
	return res[0].Err == nil
}

func (s *sim) workers() {
	for _, name := range []string{"w1", "w2"} {
		if !s.chance(s.moods["worker"]) {
			continue // silent for now
		}
		client := clientOf(s.server, node("us", name, starling.RoleWorker))
		job := s.jobs[name]
		if job == nil {
			var err error
			if job, err = client.Lease(context.Background(), rpc.LeaseRequest{}); err != nil {
				s.rt.Fatal(err)
			}
			s.jobs[name] = job
			continue
		}
		switch s.rng.IntN(5) {
		case 0:
			art := starling.Artifact{Digest: s.blobs.built(job.SHA), Bytes: 10, Files: 1, Chunks: 1}
			_ = client.Complete(context.Background(), job.Deployment, rpc.CompleteRequest{Lease: job.Lease, Artifact: art})
			s.jobs[name] = nil
		case 1:
			_ = client.Fail(context.Background(), job.Deployment, rpc.FailRequest{Lease: job.Lease, Reason: "exit status 1"})
			s.jobs[name] = nil
		default:
			if client.Heartbeat(context.Background(), job.Deployment, rpc.HeartbeatRequest{Lease: job.Lease}) != nil {
				s.jobs[name] = nil // fenced
			}
		}
	}
}

func (s *sim) caches() {
	for _, name := range []string{"c1", "c2"} {
		if !s.chance(s.moods["cache"]) {
			continue
		}
		var holds []rpc.CacheHold
		for _, w := range s.term.wants.wait(context.Background(), 0, 0).Wants {
			done := s.rng.IntN(11)
			holds = append(holds, rpc.CacheHold{
				Artifact: w.Artifact, ChunksDone: done, ChunksTotal: 10, Complete: done > 3, Caches: []string{"c1", "c2"},
			})
		}
		if err := s.term.caches.record(rpc.CacheReport{Name: name, Holds: holds}, s.term.now()); err != nil {
			s.rt.Fatal(err)
		}
	}
}

func (s *sim) activate() {
	for _, m := range s.machines {
		if s.chance(3) {
			s.members.alive(m, s.chance(50))
		}
		if !s.chance(s.moods["machine"]) {
			continue
		}
		for _, g := range s.fsm.View().Goals() {
			r := starling.MachineReport{Node: m, App: g.App, Generation: g.Generation, State: starling.MachineFetching}
			if g.Stage.AtLeast(starling.StageFetch) {
				r.State = starling.MachineStaged
				if s.chance(s.moods["failure"]) {
					r.State = starling.MachineFailed
				}
			}
			if g.Stage.AtLeast(starling.StageActivate) && g.Cutoff.Selects(m, g.Deployment) && r.State == starling.MachineStaged {
				r.State = starling.MachineHealthy
			}
			if _, err := s.term.machines.record(g, r, s.clock.Now()); err != nil {
				s.rt.Fatal(err)
			}
		}
	}
}

// abroadStep lets region eu report on some goals, sometimes on an old revision.
func (s *sim) abroadStep() {
	for _, g := range s.fsm.View().Goals() {
		if !s.chance(s.moods["eu"]) {
			continue
		}
		c := starling.Counts{Target: 2, Staged: 2}
		if g.Stage == starling.StageActivate {
			c.Due, c.Healthy = 2, 2
		}
		s.term.home.record(starling.RegionReport{
			Region: "eu", App: g.App, Generation: g.Generation, Revision: g.Revision - uint64(s.rng.IntN(2)),
			Placing: starling.Placing{Name: "eu", Placed: s.chance(50)}, Counts: c,
		}, s.clock.Now())
	}
}

// check holds what must be true at every moment.
func (s *sim) check() {
	now := s.clock.Now()
	v := s.fsm.View()
	for _, g := range v.Goals() {
		if g.Generation.Compare(s.last[g.App]) < 0 {
			s.rt.Fatalf("the goal of %s went back from %s to %s", g.App, s.last[g.App], g.Generation)
		}
		s.last[g.App] = g.Generation
	}
	busy := map[string]string{}
	for _, id := range s.ids {
		d, ok := v.Deployment(id)
		if !ok {
			s.rt.Fatalf("%s is gone", id)
		}
		if was, over := s.ended[id]; over && d.Phase != was {
			s.rt.Fatalf("%s was %s and is %s", id, was, d.Phase)
		}
		switch {
		case d.Phase.Terminal():
			s.ended[id] = d.Phase
			if d.Phase != starling.PhaseSucceeded && d.Reason == "" && d.Phase == starling.PhaseFailed {
				s.rt.Fatalf("%s failed without a reason", id)
			}
		case now.After(d.Deadline.Add(10 * time.Second)):
			s.rt.Fatalf("%s is %s at %s, its deadline was %s", id, d.Phase, now, d.Deadline)
		case d.Phase != starling.PhaseQueued:
			if other := busy[d.App]; other != "" {
				s.rt.Fatalf("%s and %s of app %s are both under way", other, id, d.App)
			}
			busy[d.App] = id
		}
	}
}

func TestEveryDeploymentEndsOnce(t *testing.T) {
	ends := map[starling.Phase]int{}
	defer func() { t.Logf("ends: %v", ends) }()
	rapid.Check(t, func(rt *rapid.T) {
		s := newSim(t, rt)
		for i := range rapid.IntRange(1, 2).Draw(rt, "apps") {
			s.newApp(fmt.Sprintf("app%d", i))
		}
		for range 40 {
			s.step()
		}
		// Whoever is still under way ends by its deadline even if nobody does anything.
		for actor := range s.moods {
			s.moods[actor] = 0
		}
		for end := s.clock.Now().Add(130 * time.Second); s.clock.Now().Before(end) && len(s.ended) < len(s.ids); s.clock.advance(2 * simStep) {
			s.look(s.term)
			s.check()
		}
		for _, id := range s.ids {
			ends[s.ended[id]]++
			if !slices.Contains([]starling.Phase{starling.PhaseSucceeded, starling.PhaseFailed, starling.PhaseCancelled}, s.ended[id]) {
				rt.Fatalf("%s never ended: %+v", id, s.deployment(id))
			}
		}
	})
}
