package main

import (
	"fmt"
	"io"
	"sync/atomic"

	"github.com/starlingdeploy/starling"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows a deployment's way.
type progress interface {
	update(*starling.Deployment)
	close()
}

// lineProgress prints one plain line for each change, for files and pipes.
type lineProgress struct {
	w    io.Writer
	last string
}

func (p *lineProgress) update(d *starling.Deployment) {
	line := fmt.Sprintf("%s  %-11s %s", d.ID, d.Phase, detail(d))
	if line != p.last {
		fmt.Fprintln(p.w, line)
		p.last = line
	}
}

func (p *lineProgress) close() {}

// detail says in a few words how far the phase is.
func detail(d *starling.Deployment) string {
	switch d.Phase {
	case starling.PhaseBuilding:
		return fmt.Sprintf("attempt %d on %s", d.Attempt, d.Worker)
	case starling.PhaseReplicating:
		done, total, placed := placing(d)
		return fmt.Sprintf("%d of %d regions hold it (%d of %d chunks)", placed, len(d.Regions), done, total)
	case starling.PhaseStaging:
		return fmt.Sprintf("%d of %d machines hold it", d.Machines.Staged, d.Machines.Target)
	case starling.PhaseRollingOut:
		return fmt.Sprintf("%s: %d of %d machines healthy, %d failed", d.StepText(), d.Machines.Healthy, d.Machines.Target, d.Machines.Failed)
	default:
		return d.Reason
	}
}

func placing(d *starling.Deployment) (done, total, placed int) {
	for _, r := range d.Regions {
		done += r.ChunksDone
		total += r.ChunksTotal
		if r.Placed {
			placed++
		}
	}
	return done, total, placed
}

// barProgress draws a bar each for replication, staging and roll-out, below the phase.
type barProgress struct {
	pool                  *mpb.Progress
	head                  *mpb.Bar
	place, stage, rollout *mpb.Bar
	phase                 atomic.Value // string; the drawing goroutine reads it
}

func newBarProgress(w io.Writer) *barProgress {
	p := &barProgress{pool: mpb.New(mpb.WithOutput(w), mpb.WithWidth(78))}
	p.phase.Store("")
	p.head = p.pool.New(1, mpb.NopStyle(), mpb.PrependDecorators(
		decor.Any(func(decor.Statistics) string { return p.phase.Load().(string) })))
	bar := func(name string) *mpb.Bar {
		return p.pool.AddBar(0, mpb.PrependDecorators(decor.Name(name, decor.WCSyncSpaceR)),
			mpb.AppendDecorators(decor.CountersNoUnit("%d/%d")))
	}
	p.place, p.stage, p.rollout = bar("chunks in caches"), bar("machines staged"), bar("machines healthy")
	return p
}

func (p *barProgress) update(d *starling.Deployment) {
	p.phase.Store(fmt.Sprintf("%s  %s  %s", d.ID, d.Phase, detail(d)))
	done, total, _ := placing(d)
	set := func(b *mpb.Bar, current, total int) {
		b.SetTotal(int64(total), false)
		b.SetCurrent(int64(current))
	}
	set(p.place, done, total)
	set(p.stage, d.Machines.Staged, d.Machines.Target)
	set(p.rollout, d.Machines.Healthy, d.Machines.Target)
}

func (p *barProgress) close() {
	for _, b := range []*mpb.Bar{p.head, p.place, p.stage, p.rollout} {
		b.Abort(false)
	}
	p.pool.Wait()
}
