package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

// pageSize is of lists of deployments; maxPages bounds them.
const (
	pageSize = 500
	maxPages = 200
)

// conclude waits until what was acknowledged has ended, looks at all servers and machines,
// and judges.
func (r *run) conclude(ctx context.Context) (*Result, error) {
	r.Log.Info("faults are over", "open", r.ledger.open())
	gaps := r.board.pauses(time.Now())
	for r.ledger.open() > 0 && time.Now().Before(r.ledger.patience()) {
		if err := sleep(ctx, probeEvery); err != nil {
			return nil, err
		}
	}
	counts, problems, all, err := r.settled(ctx)
	if err != nil {
		return nil, err
	}
	astray, where, err := r.agree(ctx)
	if err != nil {
		return nil, err
	}
	res := &Result{
		Counts: counts, AckMS: quantileMS(r.ledger.acks), Astray: astray, Seed: r.Seed, DurationS: r.Duration.Seconds(),
		ErrorsRetried: r.customers.errors.Load(), BrokenRetried: r.customers.broken.Load(),
		Failures: failures(all), ByFault: byFault(r.strikes, gaps), Faults: r.strikes, LeftOut: r.leftOut, Problems: append(problems, where...),
	}
	missed := 0
	for _, n := range r.missed {
		missed += n
	}
	res.Coverage = coverage(r.cells, r.strikes, missed)
	res.leaders(led(gaps, r.strikes))
	r.machines.mu.Lock()
	res.WentBack, res.Problems = r.machines.back, append(res.Problems, r.machines.words...)
	r.machines.mu.Unlock()
	r.stage.mu.Lock()
	defer r.stage.mu.Unlock()
	for _, n := range r.stage.fell {
		res.FellByItself += n
	}
	res.Falls = r.stage.words
	return res, nil
}

// settled judges until nothing is left to say, or settleWithin has passed: mirrors of other
// regions may lag.
func (r *run) settled(ctx context.Context) (Counts, []string, []held, error) {
	end := time.Now().Add(settleWithin)
	for {
		all, err := r.everything(ctx)
		if err == nil {
			counts, problems := r.ledger.judge(all)
			if counts.Verdict() == nil || time.Now().After(end) {
				return counts, problems, all, nil
			}
		} else if time.Now().After(end) {
			return Counts{}, nil, nil, err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return Counts{}, nil, nil, err
		}
	}
}

// everything lists the deployments that each server holds.
func (r *run) everything(ctx context.Context) ([]held, error) {
	var out []held
	for _, a := range r.stage.with("", starling.RoleServer) {
		h := held{server: a.Name, home: map[string]bool{}, keys: map[string][]string{}, phases: map[string]starling.Phase{}, why: map[string]string{}}
		apps, err := a.api.Apps(ctx)
		if err != nil {
			return nil, fmt.Errorf("apps at %s: %w", a.Name, err)
		}
		for _, app := range apps {
			h.home[app.Name] = app.Home == a.Region
		}
		before := ""
		for range maxPages {
			page, err := a.api.Deployments(ctx, starling.DeploymentFilter{Before: before, Limit: pageSize})
			if err != nil {
				return nil, fmt.Errorf("deployments at %s: %w", a.Name, err)
			}
			for _, d := range page {
				h.phases[d.ID] = d.Phase
				if d.Phase == starling.PhaseFailed {
					h.why[d.ID] = d.Reason
				}
				h.keys[d.IdempotencyKey] = append(h.keys[d.IdempotencyKey], d.ID)
				before = d.ID
			}
			if len(page) < pageSize {
				break
			}
		}
		out = append(out, h)
	}
	return out, nil
}

// failures returns reasons of failed deployments, as many as problems at most.
func failures(all []held) []string {
	seen := map[string]bool{}
	out := []string{}
	for _, h := range all {
		for _, id := range slices.Sorted(maps.Keys(h.why)) {
			if !seen[id] && len(out) < maxProblems {
				seen[id] = true
				out = append(out, id+": "+h.why[id])
			}
		}
	}
	return out
}

// agree counts machines that do not run what they should: of each app the artifact of the
// newest release.
func (r *run) agree(ctx context.Context) (int, []string, error) {
	end := time.Now().Add(settleWithin)
	for {
		astray, where, err := r.astray(ctx)
		if err == nil && astray == 0 || time.Now().After(end) {
			return astray, where, err
		}
		if err := sleep(ctx, time.Second); err != nil {
			return 0, nil, err
		}
	}
}

func (r *run) astray(ctx context.Context) (int, []string, error) {
	n := 0
	var where []string
	for i := range r.Regions {
		servers := r.stage.with(regionName(i), starling.RoleServer)
		want, err := newest(ctx, servers[0].api)
		if err != nil {
			return 0, nil, err
		}
		nodes, err := servers[0].api.Nodes(ctx)
		if err != nil {
			return 0, nil, err
		}
		for _, node := range nodes {
			if !node.Has(starling.RoleMachine) {
				continue
			}
			for app, digest := range want {
				if node.Running[app] != digest {
					n++
					where = append(where, fmt.Sprintf("machine %s runs %s of %s, and should run %s: %s", node.Name, node.Running[app].Short(), app, digest.Short(), node.Problem))
				}
			}
		}
	}
	return n, where[:min(len(where), maxProblems)], nil
}

// newest returns of each app the artifact that its machines should hold: that of its
// newest release.
func newest(ctx context.Context, api *client.Client) (map[string]starling.Digest, error) {
	apps, err := api.Apps(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]starling.Digest{}
	for _, a := range apps {
		releases, err := api.Releases(ctx, a.Name)
		if err != nil && !errors.Is(err, starling.ErrNotFound) {
			return nil, err
		}
		if len(releases) > 0 {
			out[a.Name] = releases[0].Artifact
		}
	}
	return out, nil
}
