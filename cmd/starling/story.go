package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/raftfsm"
)

const storyStandEvery = 10 * time.Second // between two lines on how far a phase is

// story tells how a deployment goes, a line for each fact and each fact once, whether it
// comes as an event, with the progress, or from the record after a gap. It reads no clock.
type story struct {
	created time.Time
	phase   starling.Phase // told last
	since   time.Time      // the record told all up to here; zero: events did
	told    map[string]bool
	stand   time.Time // when it was last told how far the phase is
	log     logPrinter
	logText strings.Builder
}

func newStory(d *starling.Deployment) *story {
	s := &story{created: d.CreatedAt, told: map[string]bool{}}
	s.log.w = &s.logText
	return s
}

// line is the form of all lines: when, after the submission, what, and the rest.
func (s *story) line(at time.Time, what, text string) string {
	after := max(0, at.Sub(s.created)).Round(100 * time.Millisecond)
	return strings.TrimRight(fmt.Sprintf("%8s  %-12s %s", fmt.Sprintf("+%.1fs", after.Seconds()), what, text), " ")
}

// once returns a line if the fact was not told before.
func (s *story) once(key string, at time.Time, what, text string) []string {
	if s.told[key] {
		return nil
	}
	s.told[key] = true
	return []string{s.line(at, what, text)}
}

// begin tells of the record that the submission gave.
func (s *story) begin(d *starling.Deployment) []string {
	what := shortSHA(d.SHA)
	if what == "" && !d.Artifact.IsZero() {
		what = d.Artifact.Short()
	}
	s.phase = starling.PhaseQueued
	return s.once("queued", d.CreatedAt, "queued", fmt.Sprintf("%s: %s of app %s, by %s, to end within %s", d.ID, what, d.App, d.Actor, d.Deadline.Sub(d.CreatedAt)))
}

// record tells what the record says and was not told: after a gap, and at the end.
func (s *story) record(d *starling.Deployment) []string {
	var out []string
	for _, p := range d.Regions {
		if p.Placed {
			out = append(out, s.once("placed "+p.Name, d.PhaseAt, "placed", p.Name)...)
		}
	}
	s.since = d.PhaseAt
	if d.Phase.Terminal() {
		s.since = d.EndedAt
	}
	out = append(out, s.failures(s.since, d.Machines.Samples)...)
	if d.Phase != s.phase {
		s.phase = d.Phase
		out = append(out, s.line(s.since, string(d.Phase), oneLine(d.Reason)))
	}
	return out
}

// event tells of a committed change.
func (s *story) event(e *client.ServerEvent) []string {
	switch e.Type {
	case raftfsm.EventDeploymentQueued:
		return nil // begin told it
	case raftfsm.EventDeploymentPhase:
		if e.Phase == s.phase || !e.At.After(s.since) {
			return nil
		}
		s.phase, s.stand = e.Phase, e.At
		return []string{s.line(e.At, string(e.Phase), oneLine(e.Detail))}
	case raftfsm.EventDeploymentPlaced:
		return s.once("placed "+e.Detail, e.At, "placed", e.Detail)
	}
	what, text := strings.TrimPrefix(e.Type, "deployment."), oneLine(e.Detail)
	if text == "" {
		text = "by " + e.Actor
	}
	return []string{s.line(e.At, what, text)}
}

// progress tells of machines that failed, and now and then how far the phase is.
func (s *story) progress(p *starling.DeploymentProgress) []string {
	out := s.failures(p.At, p.Machines.Samples)
	for _, r := range p.Regions {
		if r.Placed && !p.Phase.Terminal() {
			out = append(out, s.once("placed "+r.Name, p.At, "placed", r.Name)...)
		}
	}
	if p.Phase == s.phase && !p.Phase.Terminal() && p.At.Sub(s.stand) >= storyStandEvery {
		if text := standing(p); text != "" {
			out = append(out, s.line(p.At, "…", text))
		}
		s.stand = p.At
	}
	return out
}

func (s *story) failures(at time.Time, samples []starling.FailureSample) []string {
	var out []string
	for _, f := range samples {
		out = append(out, s.once("failed "+f.Region+"/"+f.Node+" "+f.Reason, at, "failed", fmt.Sprintf("%s/%s: %s", f.Region, f.Node, oneLine(f.Reason)))...)
	}
	return out
}

// chunk returns the lines of the log that a piece has made whole; the rest is kept for the
// next piece.
func (s *story) chunk(c starling.LogChunk) []string {
	if err := s.log.chunk(c); err != nil {
		return nil // into memory: unreachable
	}
	return s.logLines(false)
}

// logLines takes the whole lines out of the log, at the end also the last.
func (s *story) logLines(last bool) []string {
	text := s.logText.String()
	end := strings.LastIndexByte(text, '\n') + 1
	if last {
		end = len(text)
	}
	s.logText.Reset()
	s.logText.WriteString(text[end:])
	var out []string
	for l := range strings.Lines(text[:end]) {
		out = append(out, "          | "+printable(strings.TrimRight(l, "\r\n")))
	}
	return out
}

// standing says in a few words how far a phase is; empty where there is nothing to count.
func standing(p *starling.DeploymentProgress) string {
	var text string
	n := &p.Machines
	switch p.Phase {
	case starling.PhaseReplicating:
		done, total, placed := 0, 0, 0
		for _, r := range p.Regions {
			done, total = done+max(0, r.ChunksDone), total+max(0, r.ChunksTotal)
			if r.Placed {
				placed++
			}
		}
		text = fmt.Sprintf("%d of %d regions hold it, %d of %d chunks", placed, len(p.Regions), done, total)
	case starling.PhaseStaging:
		text = fmt.Sprintf("%d of %d machines hold it", n.Staged, n.Target)
	case starling.PhaseRollingOut:
		text = fmt.Sprintf("%s: %d of %d machines healthy", cmp.Or(p.Step, fmt.Sprintf("wave %d of %d", p.Wave+1, max(p.Waves, 1))), n.Healthy, n.Target)
	default:
		return ""
	}
	if n.Failed > 0 {
		text += fmt.Sprintf(", %d failed", n.Failed)
	}
	if p.Paused {
		text += "; paused"
	}
	if left := toGo(p, p.At); left != "" {
		text += "; " + left
	}
	return text
}

// toGo tells how long it will take, from now on, to the end or at least that of its phase;
// empty where nobody knows.
func toGo(p *starling.DeploymentProgress, now time.Time) string {
	switch left := p.EndsAt.Sub(now); {
	case left > 0:
		return fmt.Sprintf("about %s to go", roughly(left.Milliseconds()))
	case p.LeftMS > 0:
		return fmt.Sprintf("about %s left in this phase", roughly(p.LeftMS))
	}
	return ""
}

// roughly rounds an estimate to what it is worth.
func roughly(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	switch {
	case d < 10*time.Second:
		return d.Round(time.Second).String()
	case d < 2*time.Minute:
		return d.Round(5 * time.Second).String()
	}
	return strings.TrimSuffix(d.Round(time.Minute).String(), "0s")
}

// oneLine makes one printable line of a text for people.
func oneLine(s string) string {
	return printable(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

// printable drops what would move the cursor or change colours: others wrote it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\t':
			return ' '
		case r < ' ', r >= 0x7f && r < 0xa0, r == 0xfffd:
			return -1
		}
		return r
	}, s)
}
