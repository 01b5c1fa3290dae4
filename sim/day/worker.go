package day

import (
	"errors"
	"fmt"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/control"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// worker is one slot that builds.
type worker struct {
	w     *world
	name  string
	job   *fate
	lease uint64
	since time.Duration // that it builds
}

// ask is a worker's question for a job.
type ask struct {
	worker *worker
	at     *control.LeaseAsk
}

// seek asks for a job, and waits for it.
func (k *worker) seek() {
	a := &ask{k, control.NewLeaseAsk(k.name+"/0", nil, false)}
	k.w.desk.Add(a.at)
	k.w.asks = append(k.w.asks, a)
	k.w.grant()
}

// grant hands out jobs as far as there are any.
func (w *world) grant() {
	for {
		batch := w.desk.Take(w.fsm.View())
		if len(batch) == 0 {
			return
		}
		cmds, err := control.LeaseCommands(batch, w.wall())
		if err != nil {
			w.fail(err)
			return
		}
		w.reign.Grant(batch, w.enter(cmds), nil, w.wall())
		w.desk.Done(batch)
		waiting := w.asks
		w.asks = nil
		for _, a := range waiting {
			job, again, ok, err := a.at.Answer()
			switch {
			case err != nil:
				w.fail(fmt.Errorf("%s: %w", a.worker.name, err))
			case again || ok && job == nil:
				a.worker.seek()
			case ok:
				a.worker.build(job)
			default:
				w.asks = append(w.asks, a)
			}
		}
	}
}

// build works on a job as chance has it.
func (k *worker) build(d *starling.Deployment) {
	w, f := k.w, k.w.byID[d.ID]
	k.job, k.lease, k.since = f, d.Lease, w.now
	f.attempts++
	took, lease := f.build, d.Lease
	end := k.complete
	switch {
	case w.rng.IntN(1000) < workersDie:
		took, end = time.Duration(w.rng.Float64()*float64(took)), k.die
	case f.broken:
		took, end = time.Duration(w.rng.Float64()*float64(took)), k.fail
	}
	w.after(took, func() {
		if k.lease == lease {
			end()
		}
	})
}

// free ends the work on a job.
func (k *worker) free(rest time.Duration) {
	k.w.working.add(k.since, k.w.now, 1)
	k.job, k.lease = nil, 0
	k.w.after(rest, k.seek)
}

// die makes the worker silent; another takes its place after a while.
func (k *worker) die() { k.free(workerAway) }

func (k *worker) complete() {
	w, f := k.w, k.job
	bytes := int64(f.bytes / newShare)
	req := rpc.CompleteRequest{Lease: k.lease, NewBytes: int64(f.bytes), Artifact: starling.Artifact{
		Digest: starling.DigestOf([]byte(f.id)), Bytes: bytes, Files: 1, Chunks: int(bytes/chunkBytes) + 1,
	}}
	done, _, err := w.reign.Complete(w.fsm.View(), k.name, f.id, req)
	if err == nil {
		err = w.commit(raftfsm.TypeJobComplete, done).Err
	}
	if err != nil && !errors.Is(err, starling.ErrFenced) && !errors.Is(err, starling.ErrConflict) {
		w.fail(fmt.Errorf("%s completes %s: %w", k.name, f.id, err))
	}
	k.free(askPause)
}

func (k *worker) fail() {
	err := k.w.commit(raftfsm.TypeJobFail, raftfsm.JobFail{ID: k.job.id, Lease: k.lease, Reason: "exit status 2"}).Err
	if err != nil && !errors.Is(err, starling.ErrFenced) && !errors.Is(err, starling.ErrConflict) {
		k.w.fail(fmt.Errorf("%s fails %s: %w", k.name, k.job.id, err))
	}
	k.free(askPause)
}

// beat sends the heartbeats of all that build. One whose job has ended gives it up.
func (w *world) beat() {
	v := w.fsm.View()
	for _, k := range w.workers {
		if k.job == nil {
			continue
		}
		if err := w.reign.Heartbeat(v, k.name, k.job.id, rpc.HeartbeatRequest{Lease: k.lease}, w.wall()); err != nil {
			k.free(askPause)
		}
	}
	w.after(beatEvery, w.beat)
}
