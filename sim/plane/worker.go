package plane

import (
	"errors"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// worker builds, or does not.
type worker struct {
	node
	w      *world
	region *region
	life   uint64 // counts starts
	lease  uint64 // of the job it works on; 0: none
}

// slot is how the worker is named in leases.
func (k *worker) slot() string { return plain(&k.node) + "/0" }

// atLeader asks the leader of the worker's region by way of any server.
func (r *region) atLeader(from *node, within time.Duration, serve handler, done reply) {
	r.w.ask(from, r.anyServer(), within, func(s *server, a reply) { s.atLeader(1, serve, a) }, done)
}

// later does something unless the worker has died meanwhile.
func (k *worker) later(d time.Duration, f func()) {
	life := k.life
	k.w.after(d, func() {
		if k.up && k.life == life {
			f()
		}
	})
}

func (k *worker) seek() {
	k.lease = 0
	life := k.life
	k.region.atLeader(&k.node, leaseWaits+hopWithin, func(s *server, a reply) {
		s.leaseFor(k.slot(), nil, a)
	}, func(got any, err error) {
		if !k.up || k.life != life {
			return
		}
		d, _ := got.(*starling.Deployment)
		if err != nil || d == nil {
			k.later(k.w.between(200*time.Millisecond, 2*time.Second), k.seek)
			return
		}
		k.build(d.ID, d.Lease)
	})
}

// build works on a job as chance has it. A worker that goes silent comes back when its
// lease is long over, and does as if nothing had happened.
func (k *worker) build(id string, lease uint64) {
	w := k.w
	k.lease = lease
	w.stats.Builds++
	switch mood := w.rng.IntN(100); {
	case mood < w.plan.workersDie:
		k.later(w.between(time.Second, 10*time.Second), k.die)
		k.beat(id, lease, false)
	case mood < w.plan.workersDie+w.plan.workersHang:
		w.tell("%s goes silent with %s, lease %d", k.name, id, lease)
		k.later(w.between(5*time.Second, 40*time.Second), func() { k.complete(id, lease, 0) })
	case mood < w.plan.workersDie+w.plan.workersHang+w.plan.buildsFail:
		k.later(w.between(time.Second, 20*time.Second), func() { k.fail(id, lease, 0) })
		k.beat(id, lease, false)
	default:
		k.later(w.between(time.Second, 30*time.Second), func() { k.complete(id, lease, 0) })
		k.beat(id, lease, w.chance(10))
	}
}

// beat sends heartbeats until the lease is over; a stubborn worker builds on even then.
func (k *worker) beat(id string, lease uint64, stubborn bool) {
	if k.lease != lease {
		return
	}
	life := k.life
	k.region.atLeader(&k.node, rpc.HeartbeatWithin, func(s *server, a reply) {
		s.heartbeat(plain(&k.node), id, lease, a)
	}, func(_ any, err error) {
		if !k.up || k.life != life || k.lease != lease {
			return
		}
		if err == nil {
			k.region.ledger.heard(id, lease)
		}
		over := errors.Is(err, starling.ErrFenced) || errors.Is(err, starling.ErrNotFound)
		if over && !stubborn {
			k.life++ // gives up the build
			k.seek()
		}
	})
	k.later(rpc.HeartbeatEvery, func() { k.beat(id, lease, stubborn) })
}

func (k *worker) die() {
	k.w.tell("%s dies", k.name)
	k.up = false
	k.life++
	k.lease = 0
	k.region.version++
	k.w.after(k.w.between(2*time.Second, 30*time.Second), func() {
		k.up = true
		k.region.version++
		k.seek()
	})
}

// built is what a build under a lease gives: builds are not reproducible here, so that
// the ledger sees whose work was taken.
func built(id string, lease uint64) starling.Digest {
	return starling.DigestOf(fmt.Appendf(nil, "%s under %d", id, lease))
}

func (k *worker) complete(id string, lease uint64, tries int) {
	if k.lease != lease {
		return
	}
	req := rpc.CompleteRequest{Lease: lease, Artifact: starling.Artifact{Digest: built(id, lease), Bytes: 1000, Files: 1, Chunks: 10}}
	k.finish(id, lease, tries, k.complete, func(s *server, a reply) { s.complete(plain(&k.node), id, req, a) })
}

func (k *worker) fail(id string, lease uint64, tries int) {
	if k.lease != lease {
		return
	}
	k.finish(id, lease, tries, k.fail, func(s *server, a reply) { s.failJob(plain(&k.node), id, lease, a) })
}

// finish tells the leader how the build ended, again until it has heard.
func (k *worker) finish(id string, lease uint64, tries int, again func(string, uint64, int), serve handler) {
	life := k.life
	k.region.atLeader(&k.node, 2*hopWithin, serve, func(_ any, err error) {
		switch {
		case !k.up || k.life != life || k.lease != lease:
		case err != nil && unavailable(err) && tries < 30:
			k.later(k.w.between(300*time.Millisecond, 2*time.Second), func() { again(id, lease, tries+1) })
		default:
			k.life++ // ends the heartbeats
			k.seek()
		}
	})
}
