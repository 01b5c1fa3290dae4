package plane

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

const mostTries = 60 // of one request, seconds apart

// user stands for all people: they submit, act, and try again at any server when they
// do not hear how it went.
type user struct {
	node
	w      *world
	orders int // submissions so far
}

// order is one submission, however often it is sent.
type order struct {
	n   int
	sub raftfsm.Submit
	id  string // as acknowledged
}

// actor is how its submitter is named in the log.
func (o *order) actor() string { return fmt.Sprintf("user:%d", o.n) }

// apply makes an app known at its home, then deploys it.
func (u *user) apply(a starling.App, home *region, tries int) {
	u.w.ask(&u.node, home.anyServer(), 2*hopWithin, func(s *server, r reply) {
		s.atLeader(1, func(s *server, r reply) { s.commit("user", raftfsm.TypeAppApply, raftfsm.AppApply{App: a}, r) }, r)
	}, func(_ any, err error) {
		if err != nil && tries < mostTries {
			u.w.after(time.Second, func() { u.apply(a, home, tries+1) })
			return
		}
		for range u.w.plan.submissions {
			u.w.after(u.w.between(0, u.w.plan.active-u.w.now), func() { u.deploy(a.Name) })
		}
	})
}

// deploy submits something new, something old, or a rollback.
func (u *user) deploy(app string) {
	u.orders++
	o := &order{n: u.orders, sub: raftfsm.Submit{App: app, IdempotencyKey: fmt.Sprintf("key-%d", u.orders), Priority: u.w.rng.IntN(3)}}
	switch u.w.rng.IntN(6) {
	case 0:
		o.sub.Rollback = true
	case 1: // a commit that may have been built before
		o.sub.SHA = fmt.Sprintf("%040x", 1+u.w.rng.IntN(3))
	default:
		o.sub.SHA = fmt.Sprintf("%040x", 100+o.n)
	}
	u.w.stats.Orders++
	u.submit(o, 0)
}

// anywhere picks a server to send to.
func (u *user) anywhere() *server {
	return u.w.regions[u.w.rng.IntN(len(u.w.regions))].anyServer()
}

func (u *user) submit(o *order, tries int) {
	w := u.w
	w.ask(&u.node, u.anywhere(), 3*hopWithin, func(s *server, r reply) {
		s.atHome(o.sub.App, "", func(s *server, r reply) { s.submit(o.actor(), o.sub, r) }, r)
	}, func(got any, err error) {
		switch {
		case err == nil:
			w.acknowledged(o, got.(*starling.Deployment))
		case (unavailable(err) || errors.Is(err, starling.ErrNotFound)) && tries < mostTries:
			w.after(w.between(300*time.Millisecond, 3*time.Second), func() { u.submit(o, tries+1) })
		}
	})
}

// meddle lets people act on what is under way, now and then.
func (u *user) meddle() {
	w := u.w
	if w.now > w.plan.active {
		return
	}
	w.after(w.between(time.Second, 8*time.Second), u.meddle)
	f := w.anyFate()
	if f == nil {
		return
	}
	switch n := w.rng.IntN(20); {
	case n < 2:
		u.cancel(f, 0)
	case n < 5:
		u.act(f.id, raftfsm.TypePause, raftfsm.Pause{ID: f.id, Paused: n < 3})
	default:
		u.act(f.id, raftfsm.TypeApprove, raftfsm.Approve{ID: f.id})
	}
}

func (u *user) act(id string, t raftfsm.Type, payload any) {
	u.w.ask(&u.node, u.anywhere(), 3*hopWithin, func(s *server, r reply) {
		s.atHome("", id, func(s *server, r reply) { s.commit("user", t, payload, r) }, r)
	}, func(any, error) {})
}

// cancel insists on an answer: with it comes the proof that nothing goes on.
func (u *user) cancel(f *fate, tries int) {
	w := u.w
	w.ask(&u.node, u.anywhere(), 3*hopWithin, func(s *server, r reply) {
		s.atHome("", f.id, func(s *server, r reply) {
			s.commit("user", raftfsm.TypeFinish, raftfsm.Finish{ID: f.id, Phase: starling.PhaseCancelled, Reason: "cancelled"}, r)
		}, r)
	}, func(_ any, err error) {
		if errors.Is(err, starling.ErrConflict) && w.cancelled(f.id) {
			err = nil // an earlier try was done
		}
		switch {
		case err == nil && !w.cancelled(f.id):
			w.fail("the cancel of %s was answered, and it is %s", f.id, f.phase)
		case err == nil:
			w.stats.Cancels++
		case unavailable(err) && tries < mostTries:
			w.after(w.between(300*time.Millisecond, 3*time.Second), func() { u.cancel(f, tries+1) })
		}
	})
}

// cancelled reports whether any home has committed that a deployment is cancelled.
func (w *world) cancelled(id string) bool {
	return slices.ContainsFunc(w.fates, func(f *fate) bool { return f.id == id && f.phase == starling.PhaseCancelled })
}
