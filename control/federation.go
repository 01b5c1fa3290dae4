package control

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"reflect"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/rpc"
)

// federate keeps, for each other region, a loop that pulls its records and one that
// reports to it. Regions learned later get theirs within a second.
func (t *term) federate(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		running := map[string]bool{}
		for {
			for _, region := range t.s.otherRegions(t.s.cfg.FSM.View()) {
				if running[region] {
					continue
				}
				running[region] = true
				client := &rpc.Client{HTTP: &http.Client{Transport: &regionTransport{s: t.s, region: region, dirs: t.dirs}}}
				g.Go(func() error { return t.pull(ctx, region, client) })
				g.Go(func() error { return t.report(ctx, region, client) })
			}
			if err := sleep(ctx, time.Second); err != nil {
				return err
			}
		}
	})
	return g.Wait()
}

// pull keeps this region's copies of the records homed at another.
func (t *term) pull(ctx context.Context, region string, client *rpc.Client) error {
	var (
		pause  backoff
		cursor uint64 // what this term has seen; an empty batch is not worth a log entry
		up     = true
		known  bool      // who leads it
		asked  time.Time // when
	)
	for {
		if !known || t.now().Sub(asked) > regionSeenWithin {
			known = t.measure(ctx, region, client)
			asked = t.now()
		}
		next, err := t.pullOnce(ctx, region, client, cursor)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if (err == nil) != up {
			up = err == nil
			if up {
				t.s.cfg.Logger.Info("a region answers again", "other", region)
			} else {
				t.s.cfg.Logger.Warn("a region does not answer", "other", region, "err", err)
			}
		}
		if err != nil {
			if err := pause.wait(ctx); err != nil {
				return err
			}
			continue
		}
		cursor = next
		pause.reset()
	}
}

func (t *term) pullOnce(ctx context.Context, region string, client *rpc.Client, cursor uint64) (uint64, error) {
	cursor = max(cursor, t.s.cfg.FSM.View().MirrorIndex(region))
	call, cancel := context.WithTimeout(ctx, regionCallWithin)
	defer cancel()
	batch, err := client.Mirror(call, cursor, mirrorAnswerWithin, t.Echo(t.s.cfg.FSM.View(), region))
	if err != nil {
		return 0, err
	}
	if batch.Mirror.Home != region || batch.Directory.Region != region {
		return 0, fmt.Errorf("region %s answered as %.80q: %w", region, batch.Mirror.Home, starling.ErrForbidden)
	}
	t.Heard(t.s.cfg.FSM.View(), region, batch.Standing, t.now())
	news, worth := t.Learn(batch, cursor, t.now())
	if news {
		t.poke()
	}
	if !worth {
		return max(cursor, batch.Mirror.Index), nil
	}
	if batch.Mirror.Floor <= t.s.cfg.FSM.View().MirrorFloor(region) {
		batch.Mirror.Floor = 0 // an old tale, which programs of level 1 need not understand
	}
	cmd, err := raftfsm.NewCommand(raftfsm.TypeMirror, t.now(), t.actor(), raftfsm.Mirror{Batch: batch.Mirror})
	if err != nil {
		return 0, err
	}
	results, err := t.s.commit(ctx, cmd)
	if err != nil {
		return 0, err
	}
	switch err := results[0].Err; {
	case err == nil:
	case !errors.Is(err, starling.ErrConflict) && !errors.Is(err, starling.ErrFenced),
		errors.Is(err, raftnode.ErrServerTooOld): // which will not last: the batch must come again
		return 0, fmt.Errorf("apply the mirror of %s: %w", region, err)
	}
	return max(cursor, batch.Mirror.Index), nil
}

func emptyMirror(m *starling.Mirror) bool {
	return len(m.Apps)+len(m.Deployments)+len(m.Goals)+len(m.Artifacts)+len(m.Releases)+len(m.Tokens)+len(m.Takeovers) == 0
}

// measure notes how far a region is and who leads it, if anybody does. That it fails
// shows in the pull that follows.
func (t *term) measure(ctx context.Context, region string, client *rpc.Client) bool {
	ctx, cancel := context.WithTimeout(ctx, statusWithin)
	defer cancel()
	begin := t.now()
	st, err := client.Status(ctx)
	if err != nil || st.Region != region {
		return false
	}
	t.dirs.measured(region, st.Leader, t.now().Sub(begin).Round(10*time.Millisecond))
	return st.Leader != ""
}

// report tells a home how this region stands with the goals homed there that are not
// settled: soon after a change, and regularly for the case that it was lost.
func (t *term) report(ctx context.Context, home string, client *rpc.Client) error {
	ticker := time.NewTicker(decideEvery)
	defer ticker.Stop()
	var (
		last  []starling.RegionReport
		sent  time.Time
		pause = backoff{most: reportRetryMax}
	)
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		reports := t.ReportsFor(t.s.cfg.FSM.View(), home, t.now())
		if len(reports) == 0 || !WorthSending(reports, last, t.now().Sub(sent)) {
			continue
		}
		call, cancel := context.WithTimeout(ctx, regionCallWithin)
		stamped := slices.Clone(reports)
		for i := range stamped {
			stamped[i].Marks.Now = t.now()
		}
		err := client.ReportRegion(call, stamped)
		cancel()
		if err == nil {
			last, sent = reports, t.now()
			pause.reset()
			continue
		}
		t.s.cfg.Logger.Debug("cannot report", "home", home, "err", err)
		if err := pause.wait(ctx); err != nil {
			return err
		}
	}
}

// WorthSending tells whether reports should go out now: at once when the home can act
// on them, soon when anything changed, and now and then in any case.
func WorthSending(reports, last []starling.RegionReport, since time.Duration) bool {
	switch {
	case since >= reportRefreshEvery:
		return true
	case slices.EqualFunc(reports, last, sameMilestone):
		return since >= reportEvery && !reflect.DeepEqual(reports, last)
	}
	return true
}

// sameMilestone reports whether two reports lead the home to the same decisions.
func sameMilestone(a, b starling.RegionReport) bool {
	staged := func(c *starling.Counts) bool { return c.Staged+c.Failed >= c.Target }
	settled := func(c *starling.Counts) bool { return c.Healthy+c.Failed >= c.Due }
	return a.App == b.App && a.Generation == b.Generation && a.Revision == b.Revision &&
		a.Placing.Placed == b.Placing.Placed && a.Counts.Failed == b.Counts.Failed &&
		staged(&a.Counts) == staged(&b.Counts) && settled(&a.Counts) == settled(&b.Counts)
}

// serversOf lists the QUIC addresses by which a region may be reached, the surest first.
func (s *Server) serversOf(region string, dirs *directories) []string {
	var out []string
	add := func(addrs []string) {
		for _, a := range addrs {
			if a != "" && !slices.Contains(out, a) {
				out = append(out, a)
			}
		}
	}
	if dirs != nil {
		add(dirs.servers(region))
	}
	for _, r := range s.cfg.FSM.View().Regions() {
		if r.Name == region {
			add(r.Servers)
		}
	}
	add(s.cfg.Regions[region])
	return out
}
