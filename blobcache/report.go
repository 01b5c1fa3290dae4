package blobcache

import (
	"cmp"
	"context"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling/rpc"
)

// report sends a report if it is time: one at a time.
func (r *Replicator) report(ctx context.Context, g *errgroup.Group) {
	now := time.Now()
	if !r.informed || r.reporting || now.Before(r.reportAfter) {
		return
	}
	report := r.compose()
	if reflect.DeepEqual(report, r.reported) && now.Sub(r.reportedAt) < reportIdle {
		return
	}
	r.reporting = true
	g.Go(func() error {
		ctx, cancel := context.WithTimeout(ctx, reportTimeout)
		defer cancel()
		r.sent <- sent{report, r.cfg.Control.ReportCache(ctx, report)}
		return nil
	})
}

func (r *Replicator) delivered(s sent) {
	r.reporting = false
	if s.err != nil {
		r.cfg.Logger.Debug("cannot report what is held; retrying", "error", s.err)
		r.reportAfter = time.Now().Add(time.Second)
		return
	}
	r.reported, r.reportedAt = s.report, time.Now()
}

func (r *Replicator) compose() rpc.CacheReport {
	u := r.cfg.Store.Usage()
	report := rpc.CacheReport{Name: r.cfg.Name, UsedBytes: u.UsedBytes, MaxBytes: u.MaxBytes}
	for _, j := range r.jobs {
		if j.build != "" {
			report.Drafts = append(report.Drafts, rpc.DraftHold{Deployment: j.build, WANBytes: j.wanBytes})
			continue
		}
		hold := j.hold()
		if r.cfg.OutBytes != nil {
			hold.OutBytes = r.cfg.OutBytes(j.artifact)
		}
		report.Holds = append(report.Holds, hold)
	}
	slices.SortFunc(report.Holds, func(a, b rpc.CacheHold) int {
		return slices.Compare(a.Artifact[:], b.Artifact[:])
	})
	slices.SortFunc(report.Drafts, func(a, b rpc.DraftHold) int { return cmp.Compare(a.Deployment, b.Deployment) })
	return report
}
