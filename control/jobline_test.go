package control

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// build has one worker build all that is queued, a job at a time, with a minute for each,
// and returns the jobs in their order. Between two jobs it calls meanwhile.
func (b *bench) build(desk *LeaseDesk, most int, meanwhile func(done int)) (order []string) {
	b.t.Helper()
	for len(order) < most {
		meanwhile(len(order))
		desk.Add(askOf("w1/0"))
		batch := desk.Take(b.fsm.View())
		if len(batch) == 0 {
			break
		}
		d := b.granted(batch)[0].Deployment
		desk.Done(batch)
		b.clock.advance(time.Minute)
		b.must(raftfsm.TypeJobFail, raftfsm.JobFail{ID: d.ID, Lease: d.Lease, Reason: "it was enough"})
		order = append(order, d.ID)
	}
	return order
}

// usesNew has something of this program's level in use: before that, leaders pick no jobs.
func (b *bench) usesNew() {
	b.t.Helper()
	b.must(raftfsm.TypeJoinTokenCreate, raftfsm.JoinTokenCreate{Token: starling.JoinToken{
		ID: "new", Hash: starling.DigestOf([]byte("secret")), MaxUses: 1, ExpiresAt: b.clock.Now().Add(time.Hour),
	}})
}

// Five apps have 40 jobs queued each, all older than the one job of another app.
func TestNoAppsQueueStarvesAnother(t *testing.T) {
	b := oneRegion(t, 0)
	b.usesNew()
	const apps, each = 5, 40
	for i := range each {
		for a := range apps {
			if i == 0 {
				b.app(fmt.Sprintf("busy-%d", a), nil)
			}
			b.submit(fmt.Sprintf("busy-%d-%d", a, i), fmt.Sprintf("busy-%d", a), starling.Digest{})
		}
		b.clock.advance(time.Second)
	}
	b.app("calm", nil)
	for _, after := range []int{0, 17, 40} { // each time another leader, who knows nothing of before
		id := fmt.Sprintf("calm-%d", after)
		order := b.build(NewLeaseDesk(), after+2*apps, func(done int) {
			if done == after {
				b.submit(id, "calm", starling.Digest{})
			}
		})
		if at := slices.Index(order, id); at < 0 || at-after > apps {
			t.Errorf("the calm app's job came after %d others: %v", at-after, order)
		}
	}
}

// While there are workers enough nobody needs to pick, and entries stay as they were.
func TestNothingIsPickedWithoutNeed(t *testing.T) {
	b := oneRegion(t, 0)
	b.jobs(0, 3)
	desk := NewLeaseDesk()
	for i := range 3 {
		desk.Add(askOf(fmt.Sprintf("w1/%d", i)))
	}
	for _, a := range desk.Take(b.fsm.View()) {
		if a.pick != "" {
			t.Errorf("%s picked %s", a.worker, a.pick)
		}
	}
	if len(desk.line.heads) != 0 {
		t.Errorf("%d apps are remembered", len(desk.line.heads))
	}
}

// Priority first, then who is due first; several workers get different jobs, also while
// the state does not show the first leases yet.
func TestJobsGoByPriorityAndDueTime(t *testing.T) {
	b := oneRegion(t, 0)
	b.usesNew()
	deadline := func(d time.Duration) func(*starling.App) {
		return func(a *starling.App) { a.Deploy.Deadline = starling.Duration(d) }
	}
	b.app("slow", deadline(2*time.Hour))
	b.app("usual", deadline(30*time.Minute))
	b.app("quick", deadline(10*time.Minute))
	b.app("hotfix", deadline(2*time.Hour))
	b.app("more", deadline(3*time.Hour))
	for _, app := range []string{"slow", "usual", "quick"} {
		b.submit(app, app, starling.Digest{})
		b.clock.advance(time.Minute)
	}
	b.must(raftfsm.TypeSubmit, raftfsm.Submit{ID: "hotfix", App: "hotfix", SHA: strings.Repeat("a", 40), Priority: 100})
	b.submit("more", "more", starling.Digest{})
	desk := NewLeaseDesk()
	var order []string
	for i := range 4 { // in one entry each, none of them committed yet
		desk.Add(askOf(fmt.Sprintf("w%d/0", i)))
		for _, a := range desk.Take(b.fsm.View()) {
			order = append(order, a.pick)
		}
	}
	if want := []string{"hotfix", "quick", "usual", "slow"}; !slices.Equal(order, want) {
		t.Errorf("picked %v, want %v", order, want)
	}
}

func TestJobLineForgetsIdleApps(t *testing.T) {
	b := oneRegion(t, 0)
	l := newJobLine()
	for i := range maxIdleHeads + 10 {
		l.heads[fmt.Sprintf("gone-%d", i)] = jobHead{}
	}
	b.jobs(0, 2)
	if l.order(b.fsm.View()); len(l.heads) != 2 {
		t.Errorf("%d apps are remembered", len(l.heads))
	}
}

// A server of the version before would grant another job than the one picked: while there
// is one, jobs go in the state machine's own order.
func TestLeasesWithoutPicksBesideAnOldServer(t *testing.T) {
	b := oneRegion(t, 0)
	b.usesNew()
	b.raft.speaks = 1
	b.app("slow", func(a *starling.App) { a.Deploy.Deadline = starling.Duration(2 * time.Hour) })
	b.submit("slow", "slow", starling.Digest{})
	b.jobs(0, 3) // due before
	term := b.elect()
	d, err := term.lease(context.Background(), "w1/0", nil, true)
	if err != nil || d == nil || d.ID != "slow" {
		t.Fatalf("leased %+v, %v", d, err)
	}
	b.raft.speaks = 0
	// The same slot, so that the desk is done with its first question before it takes this.
	if d, err = term.lease(context.Background(), "w1/0", []string{"slow"}, true); err != nil || d == nil || d.ID != "d0" {
		t.Fatalf("leased %+v, %v", d, err)
	}
	if level := b.fsm.View().Level(); level != 2 {
		t.Errorf("level %d is in use", level)
	}
}
