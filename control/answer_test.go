package control

import (
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// says expects the answer on a deployment to hold all of some words, and returns it.
func says(t *testing.T, b *bench, id string, words ...string) string {
	t.Helper()
	w, err := b.server.Why(t.Context(), id, "", "")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(w.Answer, " ")
	for _, word := range words {
		if !strings.Contains(text, word) {
			t.Errorf("why %s: %q does not say %q", id, text, word)
		}
	}
	return text
}

func TestAnswersInTheQueue(t *testing.T) {
	b := oneRegion(t, 0)
	for _, app := range []string{"web", "api", "hot"} {
		b.app(app, nil)
		b.submit("d-"+app, app, starling.Digest{})
	}
	b.submit("d-web2", "web", starling.Digest{})
	b.must(raftfsm.TypeSubmit, raftfsm.Submit{ID: "d-hot2", App: "hot", SHA: strings.Repeat("c", 40), Priority: 50, Regions: []string{"us"}})
	b.elect()
	if text := says(t, b, "d-web", "number 2 of 3", "d-hot2 of app hot (priority 50 before 0)"); strings.Contains(text, "d-api of app") {
		t.Errorf("one that comes later is named: %s", text)
	}
	says(t, b, "d-api", "number 3 of 3", "d-web of app web (submitted earlier)")
	says(t, b, "d-hot", "d-hot2 of the same app goes first: priority 50 before 0")
	b.members.set(node("us", "s1", starling.RoleServer), node("us", "c1", starling.RoleCache))
	b.elect()
	says(t, b, "d-api", "Nobody can build it: region us has no live worker")
	b.members.set(node("us", "s1", starling.RoleServer), usWorker)
	b.elect()
	job, err := clientOf(b.server, usWorker).Lease(t.Context(), rpc.LeaseRequest{})
	if err != nil || job == nil {
		t.Fatal(job, err)
	}
	b.clock.advance(90 * time.Second)
	says(t, b, job.Deployment, "Attempt 1 of 3", "on worker "+usWorker.Name, "for 1m30s", "last heard")
	says(t, b, "d-api", "No worker has a free slot: 1 live", job.Deployment+" on "+usWorker.Name)
	says(t, b, "d-hot", "waits for deployment d-hot2 of the same app, which is building for 1m30s")
}

func TestAnswersUnderWay(t *testing.T) {
	b := oneRegion(t, 3)
	b.app("web", func(a *starling.App) { a.Deploy.Strategy.Approval = true })
	b.submit("d1", "web", b.artifact("v1"), "eu", "us")
	term := b.elect()
	b.look(term)
	b.clock.advance(time.Minute)
	says(t, b, "d1", "Region eu has not told how far it is; this leader has not heard of it yet", "all regions must hold")
	b.must(raftfsm.TypePause, raftfsm.Pause{ID: "d1", Paused: true})
	b.clock.advance(time.Minute)
	says(t, b, "d1", "It was paused by tester 1m ago", "starling resume d1")

	staging := oneRegion(t, 3)
	term = toStaging(t, staging, func(a *starling.App) { a.Deploy.Strategy.Approval = true })
	g, _ := staging.fsm.View().Goal("web")
	for _, r := range []starling.MachineReport{
		{Node: "m0", State: starling.MachineStaged, FetchMS: 900, Bound: starling.BoundCache},
		{Node: "m1", State: starling.MachineFetching, FetchMS: 5000, Bound: starling.BoundPeerLink},
	} {
		r.App, r.Generation = "web", g.Generation
		if _, err := term.machines.record(g, r, staging.clock.Now()); err != nil {
			t.Fatal(err)
		}
	}
	staging.look(term)
	says(t, staging, "d1", "1 of 3 machines staged in us", "m1 (5s, bound by the links of peers)", "m0 (900ms, bound by the caches)")
	staging.report(term, "web", starling.MachineStaged, "m0", "m1", "m2")
	staging.look(term)
	staging.look(term)
	says(t, staging, "d1", "It waits for an approval", "role approver", "starling approve d1")
}

// A region that is silent, one without caches: what ails them is said.
func TestAnswersOnWhatAilsARegion(t *testing.T) {
	b := oneRegion(t, 0)
	b.app("web", nil)
	d := b.submit("d1", "web", b.artifact("v1"), "eu", "us")
	seen := map[string]starling.RegionStatus{"eu": {Name: "eu", Seen: true}, "ap": {Name: "ap"}}
	now := b.clock.Now()
	c := &deciding{view: b.fsm.View(), obs: &Observations{Now: now}, dep: d}
	s := &surroundings{nodes: []starling.Node{node("us", "s1", starling.RoleServer)}, regions: func(r string) (starling.RegionStatus, bool) { st, ok := seen[r]; return st, ok }}
	for region, want := range map[string]string{"us": "no live cache", "eu": "no live cache", "ap": "lost its quorum", "sa": "not heard of it"} {
		if got := c.ails(s, region, Report{At: now.Add(-12 * time.Second)}, region == "ap"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q", region, got, want)
		}
	}
	if got := c.ails(s, "ap", Report{At: now.Add(-12 * time.Second)}, true); !strings.Contains(got, "silent for 12s") {
		t.Errorf("ap: %q", got)
	}
	var many []string
	for range 9 {
		many = append(many, "x")
	}
	if got := named(many, ""); got != "x, x, x, x, x and 4 more" {
		t.Errorf("named: %q", got)
	}
}
