package main

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// lost is a world of three regions whose first one, home of an app, is about to be lost
// while a deployment waits for approval.
type lost struct {
	*cluster
	repo   *repo
	server *world.Proc // the first region's
	r1     *client.Client
	r2, r3 *client.Client
	before *starling.Deployment
}

func aboutToBeLost(t *testing.T, takeoverAfter string) *lost {
	if testing.Short() {
		t.Skip("a world of processes of which a region is killed")
	}
	c := asProcesses(t, world.Size{Regions: 3, Servers: 1, Caches: 1, Workers: 1, Machines: 3, TakeoverAfter: takeoverAfter})
	l := &lost{cluster: c, repo: newRepo(t), server: c.w.Named("r1-server-1"), r1: c.apis["r1"], r2: c.apis["r2"], r3: c.apis["r3"]}
	app := l.repo.app("hello", nil)
	c.apply(l.r1, app)
	c.deploy(l.r1, "hello", l.repo.commit(release("v1", true)), starling.PhaseSucceeded)
	c.everywhere("hello", "v1")
	app.Deploy.Strategy.Approval = true
	c.apply(l.r1, app)
	var err error
	l.before, err = l.r1.Submit(t.Context(), starling.Submission{App: "hello", SHA: l.repo.commit(release("v2", true)), IdempotencyKey: "once"})
	if err != nil {
		t.Fatal(err)
	}
	c.until(l.r1, l.before.ID, starling.PhaseAwaitingApproval)
	for name, api := range map[string]*client.Client{"r2": l.r2, "r3": l.r3} {
		c.eventually(20*time.Second, func() error {
			ds, err := api.Deployments(t.Context(), starling.DeploymentFilter{App: "hello", Limit: 1})
			if err != nil {
				return err
			}
			if len(ds) != 1 || ds[0].ID != l.before.ID || ds[0].Phase != starling.PhaseAwaitingApproval {
				return fmt.Errorf("%s has not seen that %s awaits approval: %+v", name, l.before.ID, ds)
			}
			return nil
		})
	}
	return l
}

// goesOn checks that the deployment that was under way ends well in its new home, with
// the machines of the regions that live, and that a retry finds it.
func (l *lost) goesOn(home string) {
	l.t.Helper()
	l.eventually(30*time.Second, func() error { // r3 may not have heard of it yet
		again, err := l.r3.Submit(l.t.Context(), starling.Submission{App: "hello", SHA: l.before.SHA, IdempotencyKey: "once"})
		if err == nil && again.ID != l.before.ID {
			l.t.Fatalf("a retry after the takeover made %+v", again)
		}
		return err
	})
	l.approve(l.r3, l.before)
	d := l.wait(l.r3, l.before)
	if d.Phase != starling.PhaseSucceeded || d.Home != home || d.Generation.Epoch < 2 || d.Machines.Healthy != 2 || len(d.Regions) != 2 {
		l.t.Fatalf("after the takeover it is %+v", d)
	}
	for _, m := range l.w.WithRole(starling.RoleMachine) {
		want := "v2"
		if m.Region == "r1" {
			want = "v1" // nobody has told it, and it runs on
		}
		if got := current(m, "hello"); got != want {
			l.t.Errorf("%s has %s, want %s", m.Name, got, want)
		}
	}
}

func (l *lost) approve(api *client.Client, d *starling.Deployment) {
	l.t.Helper()
	l.eventually(30*time.Second, func() error {
		_, err := api.Act(l.t.Context(), d.ID, starling.ActionApprove)
		return err
	})
}

// returns starts the lost region again: it catches up, and takes part.
func (l *lost) returns(home string) {
	l.t.Helper()
	l.again(l.server)
	for name, api := range map[string]*client.Client{"r1": l.r1, home: l.apis[home]} {
		l.eventually(time.Minute, func() error {
			r, err := api.Region(l.t.Context(), "r1")
			if err != nil {
				return err
			}
			if r.Takeover == nil || r.Takeover.To != home || name == home && r.Lost || len(r.Apps) > 0 {
				return fmt.Errorf("%s says of r1 %+v, %+v", name, r, r.Takeover)
			}
			return nil
		})
	}
	l.everywhere("hello", "v2")
	d, err := l.r1.Submit(l.t.Context(), starling.Submission{App: "hello", SHA: l.repo.commit(release("v3", true))})
	if err != nil {
		l.t.Fatal(err)
	}
	l.until(l.r1, d.ID, starling.PhaseAwaitingApproval)
	l.approve(l.r1, d)
	if d = l.wait(l.r1, d); d.Phase != starling.PhaseSucceeded || d.Home != home || len(d.Regions) != 3 || d.Machines.Healthy != 3 {
		l.t.Fatalf("with r1 back: %+v", d)
	}
	l.everywhere("hello", "v3")
}

// A region is lost for good, as far as the others know. The two worlds mostly wait, and do so together.
func TestTakeover(t *testing.T) {
	t.Run("ordered", orderedTakeover)
	t.Run("voted", votedTakeover)
}

// An operator has another region take over; the one that was lost says what it had.
func orderedTakeover(t *testing.T) {
	t.Parallel()
	l := aboutToBeLost(t, "")
	if _, err := l.r2.TakeOver(t.Context(), "r1", false); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "--force") {
		t.Errorf("taking over a region that lives: %v", err)
	}
	// What r1 accepts while the others stand still, and their last questions have been
	// answered, nobody else sees.
	others := []*world.Proc{l.w.Named("r2-server-1"), l.w.Named("r3-server-1")}
	for _, p := range others {
		sendSignal(t, p, syscall.SIGSTOP)
	}
	time.Sleep(2 * time.Second)
	unseen, err := l.r1.Submit(t.Context(), starling.Submission{App: "hello", SHA: l.repo.commit(release("unseen", true)), IdempotencyKey: "unseen"})
	if err != nil {
		t.Fatal(err)
	}
	l.kill(l.server)
	for _, p := range others {
		sendSignal(t, p, syscall.SIGCONT)
	}
	var tk *starling.Takeover
	l.eventually(time.Minute, func() (err error) { // r1 must have been silent for a while
		tk, err = l.r2.TakeOver(t.Context(), "r1", false)
		return err
	})
	if tk.To != "r2" || tk.Stage != starling.TakeoverDone || tk.Epoch < 2 || len(tk.Votes) > 0 {
		t.Errorf("the takeover is %+v", tk)
	}
	l.goesOn("r2")
	l.returns("r2")

	r, err := l.r1.Region(t.Context(), "r1")
	if err != nil {
		t.Fatal(err)
	}
	told := false
	for _, u := range r.Unseen {
		told = told || u.Kind == "deployment" && u.ID == unseen.ID && strings.Contains(u.Detail, "submit it again")
	}
	if !told {
		t.Errorf("r1 does not tell of %s: %+v", unseen.ID, r.Unseen)
	}
	for _, api := range []*client.Client{l.r1, l.r2, l.r3} {
		l.eventually(20*time.Second, func() error {
			d, err := api.Deployment(t.Context(), unseen.ID)
			if err != nil {
				return err
			}
			if d.Phase != starling.PhaseFailed || !strings.Contains(d.Reason, "r2 took over") {
				return fmt.Errorf("what nobody else saw is %s: %s", d.Phase, d.Reason)
			}
			return nil
		})
	}
}

func sendSignal(t *testing.T, p *world.Proc, sig syscall.Signal) {
	t.Helper()
	if err := syscall.Kill(p.PID(), sig); err != nil {
		t.Fatal(err)
	}
}

// The regions that live vote, and one of them takes over.
func votedTakeover(t *testing.T) {
	t.Parallel()
	l := aboutToBeLost(t, "10s")
	l.kill(l.server)
	var home string
	l.eventually(90*time.Second, func() error {
		r, err := l.r3.Region(t.Context(), "r1")
		if err != nil {
			return err
		}
		if r.Takeover == nil || r.Takeover.Stage != starling.TakeoverDone {
			return fmt.Errorf("nobody has taken over: %+v", r.Takeover)
		}
		if home = r.Takeover.To; len(r.Takeover.Votes) != 2 || !r.Lost {
			t.Errorf("the takeover is %+v", r.Takeover)
		}
		return nil
	})
	l.goesOn(home)
	l.returns(home)
}
