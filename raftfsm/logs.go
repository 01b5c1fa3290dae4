package raftfsm

import (
	"fmt"
	"slices"

	"github.com/starlingdeploy/starling"
)

// TypeLogStored names the command LogStored.
const TypeLogStored Type = "log.stored"

// LogStored records where the caches of the home hold a section of a deployment's log.
// Each section once: again it changes nothing. The deployment may have ended. Result: Deployment.
type LogStored struct {
	ID      string              `json:"id"`
	Section starling.LogSection `json:"section"`
}

func (t *tx) logStored(p *LogStored) (Result, error) {
	r, err := t.homed(p.ID)
	if err != nil {
		return Result{}, err
	}
	s := p.Section
	if err := starling.CheckLogName(s.Name); err != nil {
		return Result{}, starling.Invalidf("section.name", "%v", err)
	}
	if s.Log.IsZero() || s.Bytes < 1 || s.Bytes > starling.MaxLogSectionBytes {
		return Result{}, starling.Invalidf("section", "%d bytes with digest %s: want 1 to %d, stored", s.Bytes, s.Log, starling.MaxLogSectionBytes)
	}
	if slices.ContainsFunc(r.rec.Logs, func(o starling.LogSection) bool { return o.Name == s.Name }) {
		return Result{Deployment: r.rec}, nil
	}
	if len(r.rec.Logs) >= starling.MaxLogSections {
		return Result{}, fmt.Errorf("%w: the log of deployment %s has %d sections", starling.ErrConflict, p.ID, starling.MaxLogSections)
	}
	d := *r.rec
	d.Logs = append(slices.Clone(d.Logs), s)
	t.putDeployment(r, &d)
	return Result{Deployment: &d}, nil
}
