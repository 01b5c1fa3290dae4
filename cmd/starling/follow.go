package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

const (
	lookEvery     = 5 * time.Second        // at the record, in case that the stream is silent
	endingWithin  = 3 * time.Second        // that the last events and the log may take after the end
	maxFollowNews = 64                     // messages between the readers and the screen
	lookWithin    = 10 * time.Second       // one look at the record
	lookAgainIn   = 200 * time.Millisecond // when nobody could tell
)

// follower watches one deployment until it has ended. Two readers, of the stream and of the log,
// send what they get to its loop, which owns the story; each goes on exactly where it was when
// a server or the leader is lost. It is one run of run.
type follower struct {
	client *client.Client
	id     string
	after  string // id of an event before the submission
	story  *story
	screen screen
	news   chan any // of the readers
	last   starling.DeploymentProgress
	// streams is false once the stream is refused: then the record must do.
	streams bool
	gap     bool // the record must tell what the stream no longer has
}

// What the readers send besides events and pieces of the log. Why they ended is not told: the
// record says what becomes of the deployment.
type (
	streamEnded struct{}
	logEnded    struct{}
)

// run returns the record of the deployment's end.
func (f *follower) run(ctx context.Context, d *starling.Deployment) (*starling.Deployment, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f.news, f.streams = make(chan any, maxFollowNews), true
	f.screen.lines(f.story.begin(d))
	if d.Phase != starling.PhaseQueued { // its key was used before
		f.screen.lines(f.story.record(d))
	}
	f.show(progressFrom(d))
	send := func(m any) {
		select {
		case f.news <- m:
		case <-ctx.Done():
		}
	}
	go func() { // ends with ctx
		_ = f.client.Watch(ctx, client.Watch{After: f.after, Deployment: f.id, Progress: true}, func(e client.ServerEvent) error {
			send(e)
			return ctx.Err()
		})
		send(streamEnded{})
	}()
	go func() { // ends with the log, or with ctx
		_ = f.client.Log(ctx, f.id, starling.LogPlace{}, true, func(c starling.LogChunk) error {
			send(c)
			return ctx.Err()
		})
		send(logEnded{})
	}()
	return f.loop(ctx)
}

// loop takes in what the readers send. Whatever they say, the record says when it is over; then
// the last events and the end of the log may still take a moment.
func (f *follower) loop(ctx context.Context) (*starling.Deployment, error) {
	look := time.NewTimer(lookEvery)
	defer look.Stop()
	if f.after == "" { // the stream begins after the submission
		f.gap = true
		look.Reset(0)
	}
	every := lookEvery
	var end *starling.Deployment
	var late <-chan time.Time // set with end
	logDone := false
	for end == nil || !logDone || f.story.phase != end.Phase {
		select {
		case m := <-f.news:
			switch m := m.(type) {
			case streamEnded: // refused, or by a server of the version before
				every, f.streams = pollEvery, false
				look.Reset(0)
			case logEnded:
				logDone = true
			default:
				if f.take(m) && end == nil {
					look.Reset(0)
				}
			}
		case <-look.C:
			d, err := f.look(ctx)
			switch {
			case err != nil:
				return nil, err
			case d != nil && d.Phase.Terminal():
				end, late = d, time.After(endingWithin)
			case d == nil:
				look.Reset(lookAgainIn)
			default:
				look.Reset(every)
			}
		case <-late:
			return f.end(end), nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	return f.end(end), nil
}

// end tells what was not told yet.
func (f *follower) end(d *starling.Deployment) *starling.Deployment {
	f.screen.lines(f.story.logLines(true))
	f.screen.lines(f.story.record(d))
	f.show(progressFrom(d))
	return d
}

// take shows one message. look: the record says more.
func (f *follower) take(m any) (look bool) {
	switch m := m.(type) {
	case starling.LogChunk:
		f.screen.lines(f.story.chunk(m))
	case client.ServerEvent:
		switch {
		case m.Gap:
			f.gap = true
			return true
		case m.Progress != nil:
			f.screen.lines(f.story.progress(m.Progress))
			f.show(m.Progress)
			return m.Progress.Phase.Terminal()
		default:
			f.screen.lines(f.story.event(&m))
			return m.Phase.Terminal()
		}
	}
	return false
}

// show draws how it stands. At the end nobody tells the counts of regions any more: they stay.
func (f *follower) show(p *starling.DeploymentProgress) {
	now := *p
	now.Regions = slices.Clone(p.Regions)
	for i := range now.Regions {
		for _, r := range f.last.Regions {
			if now.Phase.Terminal() && r.Name == now.Regions[i].Name && !now.Regions[i].Heard {
				r.Placing = now.Regions[i].Placing
				now.Regions[i] = r
			}
		}
	}
	f.last = now
	f.screen.stand(&f.last)
}

// look reads the record. None: nobody can tell for now.
func (f *follower) look(ctx context.Context) (*starling.Deployment, error) {
	ctx, cancel := context.WithTimeout(ctx, lookWithin)
	defer cancel()
	d, err := f.client.Deployment(ctx, f.id)
	switch {
	case errors.Is(err, starling.ErrUnavailable), errors.Is(err, context.DeadlineExceeded):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("deployment %s goes on, but this command does not: %w", f.id, err)
	}
	if d.Phase.Terminal() || f.streams && !f.gap {
		return d, nil // what happened comes by the stream, and in its order
	}
	f.gap = false
	f.screen.lines(f.story.record(d))
	p := progressFrom(d)
	f.screen.lines(f.story.progress(p))
	f.show(p)
	return d, nil
}

// progressFrom is what a record tells of how a deployment stands, for servers that tell
// no more.
func progressFrom(d *starling.Deployment) *starling.DeploymentProgress {
	p := &starling.DeploymentProgress{
		Deployment: d.ID, App: d.App, Home: d.Home, Phase: d.Phase, PhaseAt: d.PhaseAt, CreatedAt: d.CreatedAt, Deadline: d.Deadline,
		Attempt: d.Attempt, Worker: d.Worker, Wave: d.Wave, Waves: len(d.Spec.Deploy.Strategy.Waves), Step: d.StepText(), Paused: d.Paused, Reason: d.Reason,
		Machines: d.Machines, Bytes: d.Bytes, At: time.Now(),
	}
	if d.Phase.Terminal() {
		p.At = d.EndedAt
	}
	for _, r := range d.Regions {
		p.Regions = append(p.Regions, starling.RegionProgress{Placing: r})
	}
	return p
}
