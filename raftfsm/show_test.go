package raftfsm

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
)

// show prints records of a state for transcripts.
func show(v View, kind, name string) string {
	var out strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	list := func(ds []*starling.Deployment) {
		for _, d := range ds {
			p("%s", deploymentText(d))
		}
	}
	switch kind {
	case "deployment":
		d, ok := v.Deployment(name)
		if !ok {
			return "none\n"
		}
		p("%s", deploymentText(d))
		p("  priority %d, created %s, phase at %s, deadline %s, wave at %s, ended %s", d.Priority, clockText(d.CreatedAt), clockText(d.PhaseAt), clockText(d.Deadline), clockText(d.WaveAt), clockText(d.EndedAt))
		p("  regions %v, timings %+v, bytes %+v", d.Regions, d.Timings, d.Bytes)
	case "steps":
		d, _ := v.Deployment(name)
		for _, s := range d.Steps() {
			p("%d: group %d wave %d, %s of %v", s.Index, s.Group, s.Wave, s.Share, s.Regions)
		}
	case "hold":
		d, _ := v.Deployment(name)
		if h := d.Hold; h != nil {
			p("held by %s at %d: goal %s rev %d, %d %v", h.By, h.Index, h.Generation, h.Revision, h.Cutoff, h.Ahead)
		}
	case "timeline":
		d, ok := v.Deployment(name)
		if !ok {
			return "none\n"
		}
		for _, m := range d.Timeline() {
			p("%6d ms %s %s", m.AtMS, m.Region, m.Event)
		}
	case "deployments":
		list(v.Deployments(starling.DeploymentFilter{App: name}))
	case "active":
		list(v.Active())
	case "startable":
		list(v.Startable())
	case "hooks":
		for _, w := range v.HooksWaiting(name, "") {
			p("%s %s", w.Deployment.ID, w.Run.Name())
		}
	case "buildable":
		list(v.Buildable())
	case "goals":
		for _, g := range v.Goals() {
			urgent := ""
			if g.Priority > 0 {
				urgent = fmt.Sprintf("; priority %d", g.Priority)
			}
			if len(g.Held) > 0 {
				urgent += fmt.Sprintf("; held %v", g.Held)
			}
			ahead := ""
			if len(g.Ahead) > 0 {
				ahead = fmt.Sprintf(" %v", g.Ahead)
			}
			p("%s@%s %s rev %d by %s: %s from %s, %s to %d%s, waves %v; previous %s%s", g.App, g.Home, g.Generation, g.Revision, g.Deployment,
				g.Artifact.Short(), g.Origin, g.Stage, g.Cutoff, ahead, g.Deploy.Strategy.Waves, g.Previous.Short(), urgent)
		}
	case "releases":
		for _, r := range v.Releases(name) {
			p("%s@%s %s by %s: %s from %s at %s", r.App, r.Home, r.Generation, r.Deployment, r.Artifact.Short(), r.Origin, clockText(r.At))
		}
	case "artifacts":
		for _, a := range v.Artifacts() {
			p("%s placed=%v", artifactText(a), v.Placed(a.Digest))
		}
	case "apps":
		for _, a := range v.Apps() {
			epoch := ""
			if a.Epoch > 1 {
				epoch = fmt.Sprintf(" epoch %d", a.Epoch)
			}
			p("%s@%s revision %d%s", a.Name, a.Home, a.Revision, epoch)
		}
	case "tokens":
		for _, k := range v.Tokens() {
			p("%s %s@%s revoked=%v", k.ID, k.Role, k.Region, k.Revoked)
		}
	case "machines":
		for m := range v.Machines("") {
			p("%s", machineText(m))
		}
	case "cells":
		for _, c := range v.Cells() {
			p("%s, racks %d, version %d, changed %s", cellText(c), c.Racks, c.Version, clockText(c.ChangedAt))
		}
	case "jointokens":
		for _, k := range v.JoinTokens() {
			p("%s", joinTokenText(k))
		}
	case "regions":
		for _, g := range v.Regions() {
			p("%s %v", g.Name, g.Servers)
		}
	case "takeovers":
		for _, tk := range v.Takeovers() {
			p("%s by %s epoch %d %s, seen up to %d, votes %v, lost=%v", tk.From, tk.To, tk.Epoch, tk.Stage, tk.Mirror, tk.Votes, v.Lost(tk.From))
		}
	case "unseen":
		for _, u := range v.Unseen() {
			p("%s at epoch %d had not seen %s %s %s: %s", u.By, u.Epoch, u.Kind, u.App, u.ID, u.Detail)
		}
	case "claims":
		for _, c := range v.Claims() {
			p("%s epoch %d", c.Line, c.Epoch)
		}
	case "events":
		events, gap := v.EventsAfter(0, 0, MaxEventsKept)
		if gap {
			p("gap")
		}
		for _, e := range events {
			if name == "" || strings.HasPrefix(e.Type, name) {
				p("%d/%d %s %s %s", e.Index, e.N, e.Region, clockText(e.At), strings.Join(strings.Fields(
					fmt.Sprintln(e.Type, e.App, e.Deployment, e.Phase, e.Actor, e.Detail)), " "))
			}
		}
	default:
		return "what is " + kind + "?\n"
	}
	if out.Len() == 0 {
		return "none\n"
	}
	return out.String()
}

func clockText(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format("15:04:05")
}

func deploymentText(d *starling.Deployment) string {
	parts := []string{d.ID, d.App + "@" + d.Home, string(d.Phase)}
	add := func(set bool, format string, args ...any) {
		if set {
			parts = append(parts, fmt.Sprintf(format, args...))
		}
	}
	add(!d.Artifact.IsZero(), "artifact=%s", d.Artifact.Short())
	add(d.CacheHit, "cached")
	add(!d.Generation.IsZero(), "gen=%s", d.Generation)
	add(d.Attempt > 0, "attempt=%d", d.Attempt)
	add(d.Worker != "", "worker=%s", d.Worker)
	add(d.Lease > 0, "lease=%d", d.Lease)
	add(d.Wave > 0, "wave=%d", d.Wave)
	add(d.Paused, "paused")
	for _, h := range d.Hooks {
		add(h.State == starling.HookRunning, "%s=running:%s:%d", h.Name(), h.Worker, h.Lease)
		add(h.State != starling.HookRunning, "%s=%s", h.Name(), h.State)
	}
	add(d.SupersededBy != "", "superseded_by=%s", d.SupersededBy)
	add(d.IgnoreFreeze != nil, "ignores_freezes")
	add(d.RollbackOf != "", "rollback_of=%s", d.RollbackOf)
	add(!d.RevertedTo.IsZero(), "reverted_to=%s", d.RevertedTo.Short())
	add(d.Reason != "", "reason=%q", d.Reason)
	if f := d.Fence; f != nil {
		add(true, "fence=%d", f.Index)
		add(f.Lease > 0, "void_lease=%d", f.Lease)
		add(!f.Goal.IsZero(), "void_gen=%s->%s", f.Generation, f.Goal)
	}
	return strings.Join(parts, " ")
}

func artifactText(a *starling.Artifact) string {
	return fmt.Sprintf("artifact %s of %q from %s by %q, %d bytes", a.Digest.Short(), a.App, a.Region, a.Actor, a.Bytes)
}

func machineText(m *starling.Machine) string {
	return fmt.Sprintf("machine %s in %q/%q tags %v granted %v: %s, cell %q slot %d at %q, by %q at %s",
		m.Name, m.Zone, m.Rack, m.Tags, m.Granted, m.Standing, m.Cell, m.Slot, m.Gossip, m.Token, clockText(m.EnrolledAt))
}

func cellText(c *starling.Cell) string {
	return fmt.Sprintf("cell %s in %q: %d machines, key %d", c.Name, c.Zone, c.Machines, c.KeyEpoch)
}

func joinTokenText(k *starling.JoinToken) string {
	return fmt.Sprintf("join token %s in %q tags %v: %d of %d uses, revoked=%v, until %s", k.ID, k.Zone, k.Tags, k.Uses, k.MaxUses, k.Revoked, clockText(k.ExpiresAt))
}

// bytesOf returns a snapshot of a state.
func bytesOf(f *FSM) io.ReadCloser {
	var b bytes.Buffer
	if err := f.View().WriteSnapshot(&b); err != nil {
		panic(err)
	}
	return io.NopCloser(&b)
}
