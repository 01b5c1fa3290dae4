package history

import (
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/starlingdeploy/starling"
)

const within = 20 * time.Second

func art(name string) starling.Digest { return starling.DigestOf([]byte(name)) }

// dep is a deployment as an answer shows it.
func dep(key string, p starling.Phase, more ...func(*starling.Deployment)) *starling.Deployment {
	d := &starling.Deployment{ID: "d-" + key, App: "a", IdempotencyKey: key, Phase: p}
	for _, f := range more {
		f(d)
	}
	return d
}

func leased(worker string, token uint64, attempt int) func(*starling.Deployment) {
	return func(d *starling.Deployment) { d.Worker, d.Lease, d.Attempt = worker, token, attempt }
}

func at(gen uint64, artifact string) func(*starling.Deployment) {
	return func(d *starling.Deployment) { d.Generation, d.Artifact = generation(gen), art(artifact) }
}

func fenced(lease, gen, goal uint64) func(*starling.Deployment) {
	return func(d *starling.Deployment) {
		d.Lease, d.Fence = 0, &starling.Fence{Index: 9, Lease: lease, Generation: generation(gen), Goal: generation(goal)}
	}
}

// call is one step of a history written by hand; it ends before the next begins.
func call(k Kind, key string, a Answer, more ...func(*Call)) porcupine.Operation {
	c := Call{Kind: k, App: "a", Key: key}
	for _, f := range more {
		f(&c)
	}
	if a.Verdict == "" {
		a.Verdict = Done
	}
	return porcupine.Operation{Input: c, Output: a}
}

func submit(key string) porcupine.Operation {
	return call(Submit, key, Answer{Deployment: dep(key, starling.PhaseQueued)})
}

func lease(worker, key string, token uint64, attempt int) porcupine.Operation {
	a := Answer{Key: key, App: "a", Token: token, Attempt: attempt}
	return call(Lease, "", a, func(c *Call) { c.App, c.Worker = "", worker })
}

func complete(key string, token uint64, v Verdict) porcupine.Operation {
	return call(Complete, key, Answer{Verdict: v}, func(c *Call) { c.Token, c.Artifact = token, art(key) })
}

func goal(gen uint64, key, artifact string) porcupine.Operation {
	g := &starling.Goal{Generation: generation(gen)}
	if artifact != "" {
		g.Artifact = art(artifact)
	}
	return call(Goal, "", Answer{Goal: g, GoalKey: key})
}

func list(keys ...string) porcupine.Operation { return call(List, "", Answer{Keys: keys}) }

func unknown(k Kind, key string, more ...func(*Call)) porcupine.Operation {
	return call(k, key, Answer{Verdict: Unknown}, more...)
}

func worker(name string) func(*Call) { return func(c *Call) { c.App, c.Worker = "", name } }

// inOrder gives each step its time, one after the other.
func inOrder(ops []porcupine.Operation) []porcupine.Operation {
	for i := range ops {
		ops[i].Call, ops[i].Return, ops[i].ClientId = int64(10*i), int64(10*i+5), i
	}
	return ops
}

// Each history is possible with its last step as it is, and impossible with another in
// its place: the checker tells them apart.
func TestTheModelTellsRightFromWrong(t *testing.T) {
	type steps []porcupine.Operation
	run := starling.PhaseRollingOut
	for name, tc := range map[string]struct {
		before       steps
		right, wrong steps
	}{
		"an acknowledged submission stays": {
			steps{submit("k1"), submit("k2")}, steps{list("k2", "k1")}, steps{list("k2")},
		},
		"in its order": {
			steps{submit("k1"), submit("k2")}, steps{list("k2", "k1")}, steps{list("k1", "k2")},
		},
		"a key deploys once": {
			steps{unknown(Submit, "k1"), submit("k1")}, steps{list("k1")}, steps{list("k1", "k1")},
		},
		"a lost answer may have been nothing": {
			steps{unknown(Submit, "k1"), submit("k2")}, steps{list("k2", "k1")}, steps{list("k1", "k2", "k3")},
		},
		"the oldest is leased first": {
			steps{submit("k1"), submit("k2")}, steps{lease("w", "k1", 7, 1)}, steps{lease("w", "k2", 7, 1)},
		},
		"one at a time": {
			steps{submit("k1"), submit("k2"), lease("w", "k1", 7, 1)},
			steps{lease("v", "", 0, 0)}, steps{lease("v", "k2", 8, 1), complete("k1", 7, Done)},
		},
		"a result counts under its lease": {
			steps{submit("k1"), lease("w", "k1", 7, 1)}, steps{complete("k1", 7, Done)}, steps{complete("k1", 6, Done)},
		},
		"a worker that asks again has lost its job": {
			steps{submit("k1"), lease("w", "k1", 7, 1), lease("w", "k1", 8, 2)}, steps{complete("k1", 7, Fenced)}, steps{complete("k1", 7, Done)},
		},
		"a result counts once": {
			steps{submit("k1"), lease("w", "k1", 7, 1), complete("k1", 7, Done), complete("k1", 7, Done)},
			steps{goal(1, "k1", "k1")}, steps{goal(2, "k1", "k1")},
		},
		"cancel fences the worker": {
			steps{submit("k1"), lease("w", "k1", 7, 1),
				call(Cancel, "k1", Answer{Deployment: dep("k1", starling.PhaseCancelled, leased("w", 7, 1), fenced(7, 0, 0))})},
			steps{complete("k1", 7, Fenced)}, steps{complete("k1", 7, Done)},
		},
		"cancel takes the goal back": {
			steps{submit("k1"), lease("w", "k1", 7, 1), complete("k1", 7, Done),
				call(Cancel, "k1", Answer{Deployment: dep("k1", starling.PhaseCancelled, leased("w", 7, 1), at(1, "k1"), fenced(7, 1, 2))})},
			steps{goal(2, "k1", "")}, steps{goal(1, "k1", "k1")},
		},
		"its proof names the goal": {
			steps{submit("k1"), lease("w", "k1", 7, 1), complete("k1", 7, Done)},
			steps{call(Cancel, "k1", Answer{Deployment: dep("k1", starling.PhaseCancelled, leased("w", 7, 1), at(1, "k1"), fenced(7, 1, 2))})},
			steps{call(Cancel, "k1", Answer{Deployment: dep("k1", starling.PhaseCancelled, leased("w", 7, 1), at(1, "k1"), fenced(7, 1, 3))})},
		},
		"an unknown cancel may come late": {
			steps{submit("k1"), unknown(Cancel, "k1"), lease("w", "k1", 7, 1)},
			steps{complete("k1", 7, Fenced)}, steps{complete("k1", 7, Done), complete("k1", 7, Missing)},
		},
		"what was cancelled stays so": {
			steps{submit("k1"), call(Cancel, "k1", Answer{Deployment: dep("k1", starling.PhaseCancelled, fenced(0, 0, 0))})},
			steps{call(Show, "k1", Answer{Deployment: dep("k1", starling.PhaseCancelled, fenced(0, 0, 0))})},
			steps{call(Show, "k1", Answer{Deployment: dep("k1", starling.PhaseQueued)})},
		},
		"a goal never goes back": {
			steps{submit("k1"), lease("w", "k1", 7, 1), complete("k1", 7, Done),
				submit("k2"), lease("w", "k2", 9, 1), complete("k2", 9, Done)},
			steps{goal(2, "k2", "k2")}, steps{goal(1, "k1", "k1")},
		},
		"nothing succeeds by itself but what has its goal": {
			steps{submit("k1"), lease("w", "k1", 7, 1), complete("k1", 7, Done)},
			steps{call(Show, "k1", Answer{Deployment: dep("k1", run, leased("w", 7, 1), at(1, "k1"))}),
				call(Show, "k1", Answer{Deployment: dep("k1", starling.PhaseSucceeded, leased("w", 7, 1), at(1, "k1"))})},
			steps{call(Show, "k1", Answer{Deployment: dep("k1", starling.PhaseSucceeded, leased("w", 7, 1), at(1, "k1"))}),
				call(Show, "k1", Answer{Deployment: dep("k1", run, leased("w", 7, 1), at(1, "k1"))})},
		},
		"a lease that nobody heard of": {
			steps{submit("k1"), unknown(Lease, "", worker("w"))},
			steps{call(Show, "k1", Answer{Deployment: dep("k1", starling.PhaseBuilding, leased("w", 7, 1))}), lease("w", "k1", 8, 2)},
			steps{call(Show, "k1", Answer{Deployment: dep("k1", starling.PhaseBuilding, leased("v", 7, 1))})},
		},
		"a rollback restores the release before": {
			steps{submit("k1"), lease("w", "k1", 7, 1), complete("k1", 7, Done),
				submit("k2"), lease("w", "k2", 9, 1), complete("k2", 9, Done),
				call(Show, "k2", Answer{Deployment: dep("k2", starling.PhaseSucceeded, leased("w", 9, 1), at(2, "k2"))})},
			steps{call(Rollback, "k3", Answer{Deployment: dep("k3", starling.PhaseQueued, func(d *starling.Deployment) { d.Artifact = art("k1") })})},
			steps{call(Rollback, "k3", Answer{Deployment: dep("k3", starling.PhaseQueued, func(d *starling.Deployment) { d.Artifact = art("k2") })})},
		},
		"there is no release before": {
			steps{submit("k1")}, steps{call(Rollback, "k2", Answer{Verdict: Refused})}, steps{call(Submit, "k2", Answer{Verdict: Refused})},
		},
	} {
		t.Run(name, func(t *testing.T) {
			right := inOrder(append(append(steps{}, tc.before...), tc.right...))
			if err := CheckOperations("a", right, within, ""); err != nil {
				t.Errorf("the right one: %v", err)
			}
			wrong := inOrder(append(append(steps{}, tc.before...), tc.wrong...))
			if err := CheckOperations("a", wrong, within, ""); err == nil {
				t.Error("the wrong one passes")
			}
		})
	}
}
