package control

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// A build's upload, the other region's replication and the machines' staging overlap,
// each of them made to wait for the next: the worker ends only when the far cache has
// heard of its draft, the far cache only when a machine has staged. The timeline shows it.
func TestBytesFlowBeforeTheirSourceIsComplete(t *testing.T) {
	w := newWorld(t, map[string]int{"us": 1, "eu": 1})
	us, eu := w.regions["us"], w.regions["eu"]
	w.eventually("leaders", func() bool { return us.leader() != nil && eu.leader() != nil })
	crossed, staged := make(chan struct{}), make(chan struct{})
	head := rpc.Draft{Head: starling.DigestOf([]byte("page 1")), Pages: 1}
	w.join(node("us", "w1", starling.RoleWorker), func(ctx context.Context, n starling.Node, c *rpc.Client) error {
		job, err := c.Lease(ctx, rpc.LeaseRequest{WaitMS: 5000})
		if err != nil || job == nil {
			return err
		}
		if err := c.Heartbeat(ctx, job.Deployment, rpc.HeartbeatRequest{Lease: job.Lease, Draft: head, UploadMS: 1}); err != nil {
			return err
		}
		select {
		case <-crossed:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := sleep(ctx, time.Second); err != nil { // a timeline is as exact as reports are quick
			return err
		}
		return c.Complete(ctx, job.Deployment, rpc.CompleteRequest{Lease: job.Lease, NewBytes: 100, UploadMS: 1000,
			Artifact: starling.Artifact{Digest: us.blobs.built(job.SHA), Bytes: 100, Files: 1, Chunks: 4}})
	})
	w.join(node("us", "c1", starling.RoleCache), w.cacheActor())
	w.join(node("eu", "c1", starling.RoleCache), farCache(head, crossed, staged))
	for _, region := range []string{"us", "eu"} {
		w.join(node(region, "m0", starling.RoleMachine), w.machineActor())
	}
	app := starling.App{Name: "web", Source: starling.SourceSpec{Git: "https://git.example/web"}, Build: &starling.BuildSpec{Command: []string{"make"}}}
	app.SetDefaults()
	w.home(func(s *Server) error { _, err := s.ApplyApp(w.ctx, "ann", app, nil); return err })
	id := w.submit(starling.Submission{App: "web", SHA: strings.Repeat("a", 40)})
	w.eventually("machines hold it while a region still replicates", func() bool {
		d, ok := w.led(us).Deployment(id)
		return ok && d.Phase == starling.PhaseReplicating && d.Machines.Staged == 2
	})
	close(staged)
	d := w.await(id, starling.PhaseSucceeded)

	order := func(moments ...starling.Moment) {
		t.Helper()
		last := int64(0)
		for _, want := range moments {
			i := slices.IndexFunc(d.Timeline(), func(m starling.Moment) bool { return m.Region == want.Region && m.Event == want.Event })
			if i < 0 {
				t.Errorf("%s of %s is not on the timeline %+v", want.Event, want.Region, d.Timeline())
				continue
			}
			at := d.Timeline()[i].AtMS
			if at < last {
				t.Errorf("%s of %s comes too early on the timeline %+v", want.Event, want.Region, d.Timeline())
			}
			last = at
		}
	}
	at := func(region, event string) starling.Moment { return starling.Moment{Region: region, Event: event} }
	order(at("us", starling.MomentBuildBegan), at("eu", starling.MomentFirstByte), at("us", starling.MomentManifest),
		at("us", starling.MomentAllStaged), at("us", starling.MomentGateOpen), at("us", starling.MomentRolloutBegan), at("us", starling.MomentEnded))
	order(at("us", starling.MomentManifest), at("eu", starling.MomentFirstFetch), at("eu", starling.MomentAllStaged), at("eu", starling.MomentPlaced))
	order(at("us", starling.MomentFirstUpload), at("us", starling.MomentManifest))
	if i := slices.IndexFunc(d.Times, func(r starling.RegionTimes) bool { return r.Region == "eu" }); i < 0 || d.Times[i].EarlyBytes != 60 {
		t.Errorf("60 bytes crossed early: %+v", d.Times)
	}
	if d.Bytes.WAN != 100 {
		t.Errorf("%d bytes crossed, want 100", d.Bytes.WAN)
	}
	kept, _ := w.led(us).cfg.FSM.View().Deployment(id)
	if !slices.Equal(kept.Times, d.Times) {
		t.Errorf("the record holds %+v", kept.Times)
	}
}

// farCache fetches 60 bytes by the draft, says so by closing crossed, and holds the rest
// when staged is closed.
func farCache(head rpc.Draft, crossed chan<- struct{}, staged <-chan struct{}) func(context.Context, starling.Node, *rpc.Client) error {
	var index uint64
	var once sync.Once
	return func(ctx context.Context, n starling.Node, c *rpc.Client) error {
		wants, err := c.Wants(ctx, index, 50*time.Millisecond)
		if err != nil {
			return err
		}
		report := rpc.CacheReport{Name: n.Name}
		for _, x := range wants.Drafts {
			if x.Draft == head && x.Source.Region == "us" && len(x.Source.Caches) == 1 {
				report.Drafts = append(report.Drafts, rpc.DraftHold{Deployment: x.Deployment, WANBytes: 60})
			}
		}
		for _, x := range wants.Wants {
			h := rpc.CacheHold{Artifact: x.Artifact, ChunksDone: 3, ChunksTotal: 4, WANBytes: 60, Caches: []string{n.Name}}
			select {
			case <-staged:
				h.ChunksDone, h.WANBytes, h.Complete = 4, 100, true
			default:
			}
			if x.Build == "" {
				h.WANBytes = 0 // whose draft it was must be said
			}
			report.Holds = append(report.Holds, h)
		}
		if err := c.ReportCache(ctx, report); err != nil {
			return err
		}
		if len(report.Drafts) > 0 {
			once.Do(func() { close(crossed) })
		}
		index = wants.Index
		return nil
	}
}

func TestDraftBoard(t *testing.T) {
	b := newDraftBoard()
	at := time.Unix(1_700_000_000, 0)
	draft := func(pages int) rpc.Draft { return rpc.Draft{Head: starling.Digest{byte(pages)}, Pages: pages} }
	say := func(lease uint64, pages int) {
		t.Helper()
		q := rpc.HeartbeatRequest{Lease: lease, UploadMS: 500}
		if pages > 0 {
			q.Draft = draft(pages)
		}
		if err := b.heard("d1", q, at); err != nil {
			t.Fatal(err)
		}
	}
	pages := func() int {
		all, _ := b.all()
		if len(all) == 0 {
			return 0
		}
		return all[0].Pages
	}
	say(5, 0)
	if pages() != 0 {
		t.Error("a build without a page is offered")
	}
	_, grown := b.all()
	say(5, 2)
	select {
	case <-grown:
	default:
		t.Error("nobody is told that the draft has grown")
	}
	say(5, 1) // overtaken
	if pages() != 2 {
		t.Errorf("%d pages, want 2", pages())
	}
	dep := &starling.Deployment{ID: "d1", Phase: starling.PhaseBuilding, Lease: 5}
	if up := b.uploadAt(dep); !up.Equal(at.Add(-500 * time.Millisecond)) {
		t.Errorf("the upload began at %s", up)
	}
	say(9, 1) // the next attempt
	if pages() != 1 || !b.uploadAt(dep).IsZero() {
		t.Errorf("%d pages of the attempt before", pages())
	}
	for name, q := range map[string]rpc.HeartbeatRequest{
		"too many pages":     {Lease: 9, Draft: draft(artifact.MaxDraftPages + 1)},
		"pages without head": {Lease: 9, Draft: rpc.Draft{Pages: 3}},
		"head without pages": {Lease: 9, Draft: rpc.Draft{Head: starling.Digest{1}}},
		"before it began":    {Lease: 9, UploadMS: -1},
	} {
		if err := b.heard("d1", q, at); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	dep.Lease = 9
	b.keep([]*starling.Deployment{dep})
	if pages() != 1 {
		t.Error("a build under way is forgotten")
	}
	dep.Phase = starling.PhaseReplicating
	b.keep([]*starling.Deployment{dep})
	if pages() != 0 {
		t.Error("a build that is over is offered")
	}
}

// What another region says of its builds counts only while the mirrored record says
// that they are under way.
func TestDraftsOfOtherRegions(t *testing.T) {
	b := newBench(t, "eu", nil)
	dirs := newDirectories()
	at := b.clock.Now()
	caches := []starling.Node{node("us", "c1", starling.RoleCache)}
	offer := func(drafts ...rpc.BuildDraft) uint64 {
		dirs.learn(rpc.MirrorBatch{Directory: rpc.Directory{Region: "us", Caches: caches}, Drafts: drafts}, at)
		return dirs.at()
	}
	one := rpc.BuildDraft{Deployment: "d1", Lease: 7, Draft: rpc.Draft{Head: starling.Digest{1}, Pages: 1}}
	mirror := func(index uint64, phase starling.Phase, lease uint64) {
		t.Helper()
		cmd, err := raftfsm.NewCommand(raftfsm.TypeMirror, at, "test", raftfsm.Mirror{Batch: starling.Mirror{Home: "us", Index: index,
			Deployments: []*starling.Deployment{{ID: "d1", App: "web", Home: "us", Phase: phase, Lease: lease, Priority: 3}}}})
		if err != nil {
			t.Fatal(err)
		}
		if res, err := b.server.commit(t.Context(), cmd); err != nil || res[0].Err != nil {
			t.Fatal(err, res)
		}
	}
	want := func(pages int) {
		t.Helper()
		got := dirs.draftsOf(b.fsm.View())
		switch {
		case pages == 0 && len(got) == 0:
		case len(got) != 1 || got[0].Pages != pages || got[0].Priority != wantDraft+3 || got[0].Source.Region != "us" || len(got[0].Source.Caches) != 1:
			t.Errorf("%+v, want a draft of %d pages", got, pages)
		}
	}
	offer(one)
	want(0) // nothing is known of the build
	mirror(1, starling.PhaseBuilding, 6)
	want(0) // another attempt
	mirror(2, starling.PhaseBuilding, 7)
	want(1)
	older, newer := one, one
	newer.Head, newer.Pages = starling.Digest{2}, 2
	before := dirs.at()
	if offer(newer) == before {
		t.Error("a draft that has grown makes no news")
	}
	offer(older)
	want(2)
	if before = dirs.at(); offer(newer) != before {
		t.Error("the same again is news")
	}
	offer() // the region has a new leader, say
	want(2)
	at = at.Add(draftKeptFor + time.Second)
	offer()
	want(0) // it never heard of it again
	offer(newer)
	mirror(3, starling.PhaseReplicating, 7)
	want(0)
	bad := []rpc.BuildDraft{{Deployment: "d1", Lease: 9}, {Deployment: strings.Repeat("x", 65), Lease: 9, Draft: one.Draft},
		{Deployment: "d1", Lease: 9, Draft: rpc.Draft{Head: starling.Digest{1}, Pages: artifact.MaxDraftPages + 1}}}
	if before = dirs.at(); offer(append(bad, newer)...) != before {
		t.Error("what breaks a bound is news")
	}
}

// A region's clock may differ, and its leader may change: the home's times stand.
func TestMarksSurviveClocksAndElections(t *testing.T) {
	b := newHomeBoard()
	created := time.Unix(1_700_000_000, 0)
	report := func(home time.Duration, clock time.Time, m starling.RegionMarks) starling.RegionTimes {
		m.Now = clock
		b.record(starling.RegionReport{Region: "eu", App: "web", Generation: starling.Generation{Epoch: 1, Sequence: 1}, Marks: m}, created.Add(home))
		r := b.of("web")["eu"]
		return r.Marks.Times("eu", created, r.At)
	}
	fast := created.Add(time.Hour)
	got := report(10*time.Second, fast, starling.RegionMarks{FirstByte: fast.Add(-4 * time.Second), EarlyBytes: 5})
	if got.FirstByteMS != 6000 || got.EarlyBytes != 5 {
		t.Fatalf("%+v", got)
	}
	slow := created.Add(-time.Hour) // another leader, which saw the first byte late
	got = report(30*time.Second, slow, starling.RegionMarks{FirstByte: slow.Add(-time.Second), Placed: slow.Add(-2 * time.Second)})
	if got.FirstByteMS != 6000 || got.PlacedMS != 28_000 || got.EarlyBytes != 5 {
		t.Errorf("%+v", got)
	}
	if got := report(40*time.Second, slow, starling.RegionMarks{Fetch: slow.Add(time.Hour)}); got.FetchMS > 40_000 {
		t.Errorf("a report tells the future: %+v", got)
	}
}
