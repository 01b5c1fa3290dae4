package raftfsm

import (
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

func (t *tx) jobLease(p *JobLease) (Result, error) {
	if p.Worker == "" {
		return Result{}, starling.Invalidf("worker", "is missing")
	}
	if err := checkText("worker", p.Worker, MaxWorkerBytes); err != nil {
		return Result{}, err
	}
	if len(p.Holding) > MaxHolding {
		return Result{}, starling.Invalidf("holding", "%d jobs, more than %d", len(p.Holding), MaxHolding)
	}
	for r := range scan[starling.Deployment](t.reader, tableDeployments, byWorker, strKey(p.Worker)) {
		if slices.Contains(p.Holding, r.rec.ID) {
			continue
		}
		if t.leased[r.rec.ID] {
			return Result{Deployment: r.rec}, nil // the question stands twice in one entry
		}
		if err := t.requeue(r, "the worker does not know of it"); err != nil {
			return Result{}, err
		}
	}
	if next := t.toBuild(p.Deployment); next != "" {
		return t.lease(t.deployment(next), p.Worker)
	}
	return Result{}, nil
}

// toBuild returns the picked deployment if it may be leased now, or else the first that may
// be; "" if there is none.
func (t *tx) toBuild(picked string) string {
	if r := t.deployment(picked); r != nil {
		l := get[lane](t.reader, tableLanes, byID, strKey(r.rec.App))
		if l != nil && l.rec.next == picked && l.rec.build && !t.leased[picked] {
			return picked
		}
	}
	for l := range scan[lane](t.reader, tableLanes, byBuild, nil) {
		if !t.leased[l.rec.next] { // else its token would be the same again
			return l.rec.next
		}
	}
	return ""
}

func (t *tx) lease(r *row[starling.Deployment], worker string) (Result, error) {
	d := *r.rec
	if err := t.become(&d, starling.PhaseBuilding, ""); err != nil {
		return Result{}, err
	}
	d.Attempt++
	d.Worker, d.Lease = worker, t.index
	if t.leased == nil {
		t.leased = make(map[string]bool)
	}
	t.leased[d.ID] = true
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}

// building returns the deployment that is being built under a lease.
func (t *tx) building(id string, lease uint64) (*row[starling.Deployment], error) {
	r, err := t.homed(id)
	if err != nil {
		return nil, err
	}
	if lease == 0 || r.rec.Lease != lease || r.rec.Phase != starling.PhaseBuilding {
		return nil, fmt.Errorf("%w: lease %d of deployment %s is not in force: it is %s", starling.ErrFenced, lease, id, r.rec.Phase)
	}
	return r, nil
}

func (t *tx) jobRequeue(p *JobRequeue) (Result, error) {
	r, err := t.building(p.ID, p.Lease)
	if err != nil {
		return Result{}, err
	}
	if err := t.requeue(r, p.Reason); err != nil {
		return Result{}, err
	}
	return Result{Deployment: t.deployment(p.ID).rec}, nil
}

// requeue takes a job back from its worker; after the last attempt it fails.
func (t *tx) requeue(r *row[starling.Deployment], reason string) error {
	d := *r.rec
	to := starling.PhaseQueued
	if d.Attempt >= starling.MaxBuildAttempts {
		to = starling.PhaseFailed
		reason = fmt.Sprintf("worker %s was lost; %d attempts made", d.Worker, d.Attempt)
	}
	if err := t.become(&d, to, reason); err != nil {
		return err
	}
	d.Lease = 0
	if to == starling.PhaseQueued {
		d.Worker = ""
	}
	t.putDeployment(r, &d)
	return nil
}

func (t *tx) jobComplete(p *JobComplete) (Result, error) {
	r, err := t.homed(p.ID)
	if err != nil {
		return Result{}, err
	}
	a := p.Artifact
	if p.Lease != 0 && r.rec.Lease == p.Lease && r.rec.Artifact == a.Digest && !a.Digest.IsZero() {
		return t.completed(r) // a retry
	}
	if r, err = t.building(p.ID, p.Lease); err != nil {
		return Result{}, err
	}
	if p.NewBytes < 0 || p.UploadMS < 0 {
		return Result{}, starling.Invalidf("new_bytes", "%d bytes, uploaded in %d ms: negative", p.NewBytes, p.UploadMS)
	}
	d := *r.rec
	a.App, a.SHA, a.BuildKey = d.App, d.SHA, d.Spec.BuildKey(d.SHA)
	a.Sandboxed = p.Sandboxed
	if a.Actor = t.actor; a.Actor == "" {
		a.Actor = d.Worker
	}
	a.Built = &starling.Built{Deployment: d.ID, Worker: d.Worker, StartedAt: d.PhaseAt, EndedAt: t.now}
	kept, err := t.register(a)
	if err != nil {
		return Result{}, err
	}
	if p.Commits != nil {
		commits := p.Commits.Plain()
		d.Commits = &commits
	}
	d.Artifact, d.BuildLog, d.Sandboxed = a.Digest, p.Log, p.Sandboxed
	d.Bytes.Artifact, d.Bytes.New = kept.Bytes, p.NewBytes
	if err := t.replicate(&d); err != nil {
		return Result{}, err
	}
	if p.UploadMS > 0 {
		built := d.Timings.QueuedMS + d.Timings.BuildMS
		d.Times = []starling.RegionTimes{{Region: t.region, UploadMS: max(1, built-p.UploadMS)}}
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d, Artifact: kept}, nil
}

func (t *tx) completed(r *row[starling.Deployment]) (Result, error) {
	res := Result{Deployment: r.rec}
	if a := get[starling.Artifact](t.reader, tableArtifacts, byID, digKey(r.rec.Artifact)); a != nil {
		res.Artifact = a.rec
	}
	return res, nil
}

func (t *tx) jobFail(p *JobFail) (Result, error) {
	r, err := t.building(p.ID, p.Lease)
	if err != nil {
		return Result{}, err
	}
	d := *r.rec
	d.BuildLog, d.Sandboxed = p.Log, p.Sandboxed
	if err := t.end(&d, starling.PhaseFailed, p.Reason); err != nil {
		return Result{}, err
	}
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}
