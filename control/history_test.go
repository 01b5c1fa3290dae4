package control

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
)

// past submits and cancels deployments of two apps in turn, with their IDs as idempotency
// keys, and returns their records as JSON, newest first.
func (b *bench) past(n int) (ids []string, records map[string]string) {
	b.t.Helper()
	one, two := b.server.cfg.Region+"-one", b.server.cfg.Region+"-two"
	b.app(one, nil)
	b.app(two, nil)
	art := b.artifact("x")
	records = map[string]string{}
	for i := range n {
		b.clock.advance(time.Minute)
		id := fmt.Sprintf("%s-%d", b.server.cfg.Region, i)
		b.must(raftfsm.TypeSubmit, raftfsm.Submit{ID: id, App: []string{one, two, two}[i%3], Artifact: art, IdempotencyKey: id})
		d := b.must(raftfsm.TypeFinish, raftfsm.Finish{ID: id, Phase: starling.PhaseCancelled, Reason: fmt.Sprint("enough of ", i)}).Deployment
		ids = append([]string{d.ID}, ids...)
		records[d.ID] = text(b.t, d)
	}
	return ids, records
}

func text(t testing.TB, v any) string {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// tidy archives and drops until there is nothing to do, and returns how many steps it took.
func (b *bench) tidy(t *term) int {
	b.t.Helper()
	for steps := 0; ; steps++ {
		more, err := t.archiveNext(b.t.Context())
		if err != nil {
			b.t.Fatal(err)
		}
		if !more {
			return steps
		}
	}
}

// pages lists everything in pages.
func (b *bench) pages(app string, limit int) (ids []string, records map[string]string) {
	b.t.Helper()
	records = map[string]string{}
	for f := (starling.DeploymentFilter{App: app, Limit: limit}); ; f.Before = ids[len(ids)-1] {
		page := b.server.Deployments(f)
		for _, d := range page {
			ids = append(ids, d.ID)
			records[d.ID] = text(b.t, d)
		}
		if len(page) < limit {
			return ids, records
		}
	}
}

func TestTheArchiveReadsLikeTheRest(t *testing.T) {
	b := newBench(t, "east", func(c *Config) { c.History.Recent = 100 })
	lead := b.elect()
	ids, want := b.past(700)
	if steps := b.tidy(lead); steps != 2 {
		t.Fatalf("%d steps, want two segments of %d", steps, raftfsm.MaxSegmentDeployments)
	}
	if h := b.fsm.View().HistoryOf("east"); h.Ended != 700-512 || h.Archived != 512 {
		t.Fatalf("%+v", h)
	}
	check := func(when string) {
		t.Helper()
		for id, record := range want {
			d, ok := b.server.Deployment(id)
			if !ok || text(t, d) != record {
				t.Fatalf("%s: %s is %v, %+v", when, id, ok, d)
			}
		}
		for _, limit := range []int{1000, 256, 37} {
			got, records := b.pages("", limit)
			if strings.Join(got, " ") != strings.Join(ids, " ") {
				t.Fatalf("%s: in pages of %d: %v", when, limit, got)
			}
			for id, record := range records {
				if want[id] != record {
					t.Fatalf("%s: listed %s as %s", when, id, record)
				}
			}
		}
		if got, _ := b.pages("east-one", 50); len(got) != 234 || got[233] != "east-0" || got[0] != "east-699" {
			t.Fatalf("%s: of an app: %d, %v", when, len(got), got)
		}
	}
	check("archived")

	if region := homeIn(b.fsm.View(), "", "east-0"); region != "east" {
		t.Errorf("the home of an archived deployment is %q", region)
	}
	if region := homeIn(b.fsm.View(), "east-one", "none"); region != "" {
		t.Errorf("the home of an unknown deployment is %q", region)
	}
	if _, err := b.server.Act(t.Context(), "ann", "east-0", starling.ActionPause, starling.ActionOptions{}); !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "has ended") {
		t.Errorf("pause of an archived deployment: %v", err)
	}
	if d, err := b.server.Act(t.Context(), "ann", "east-0", starling.ActionCancel, starling.ActionOptions{}); err != nil || d.ID != "east-0" {
		t.Errorf("its cancellation again: %v", err)
	}
	if part, err := b.server.BuildLog(t.Context(), "east-0", 0); err != nil || !part.Done {
		t.Errorf("its log: %+v, %v", part, err)
	}
	if ds := b.server.Deployments(starling.DeploymentFilter{Before: "east-none"}); len(ds) != 0 {
		t.Errorf("before an unknown one: %d", len(ds))
	}

	var snap bytes.Buffer
	if err := b.fsm.View().WriteSnapshot(&snap); err != nil {
		t.Fatal(err)
	}
	if err := b.fsm.Restore(io.NopCloser(&snap)); err != nil {
		t.Fatal(err)
	}
	check("restored")
}

func TestRetention(t *testing.T) {
	b := newBench(t, "east", func(c *Config) { c.History = History{Keep: 400, Recent: 100} })
	ids, _ := b.past(800)
	b.tidy(b.elect())
	got, _ := b.pages("", 1000)
	if len(got) < 400 || len(got) > 400+raftfsm.MaxSegmentDeployments || strings.Join(got, " ") != strings.Join(ids[:len(got)], " ") {
		t.Errorf("%d are left, want the newest 400 and less than a segment more", len(got))
	}
	if _, ok := b.server.Deployment("east-0"); ok {
		t.Error("the oldest is still there")
	}

	b = newBench(t, "east", func(c *Config) { c.History = History{MaxAge: 2 * time.Hour, Recent: 100} })
	b.past(800)
	lead := b.elect()
	b.tidy(lead)
	if got, _ := b.pages("", 1000); len(got) != 800-512 {
		t.Errorf("%d of one a minute are left, want those that were not archived", len(got))
	}
	b.clock.advance(time.Hour)
	if n := b.tidy(lead); n != 0 {
		t.Errorf("%d steps more: what is not archived stays", n)
	}
	for _, h := range []History{{Keep: -1}, {Keep: MaxHistoryKeep + 1}, {MaxAge: time.Minute}, {Recent: MaxHistoryRecent + 1}} {
		if err := h.setDefaults(); !starling.IsInvalid(err) {
			t.Errorf("%+v: %v", h, err)
		}
	}
}

// Of other regions' apps less is kept, and none of it as the first to use the archive.
func TestCopiesAreArchivedToo(t *testing.T) {
	b := newBench(t, "east", func(c *Config) { c.History.Recent = 5_000 })
	west := newBench(t, "west", nil)
	west.past(1_400)
	from := uint64(0)
	for {
		m := west.fsm.View().ChangedSince("west", from)
		if m.Index == from {
			break
		}
		from = m.Index
		b.must(raftfsm.TypeMirror, raftfsm.Mirror{Batch: m})
	}
	// What has ended, in the archive or not, follows its app when another region takes over.
	defer func() {
		epoch := b.fsm.View().NextEpoch("west")
		for i := range 3 {
			if r := b.must(raftfsm.TypeTakeover, raftfsm.Takeover{From: "west", Epoch: epoch}); r.Takeover.Stage == starling.TakeoverDone {
				break
			} else if i == 2 {
				t.Fatalf("takeover: %+v", r.Takeover)
			}
		}
		for _, id := range []string{"west-0", "west-1399"} {
			if home := homeIn(b.fsm.View(), "", id); home != "east" {
				t.Errorf("%s is to be read in %q", id, home)
			}
			if d, ok := b.server.Deployment(id); !ok || d.Home != "west" {
				t.Errorf("%s: %+v", id, d)
			}
			// And a retry that had been meant for the old home finds it.
			app := map[string]string{"west-0": "west-one", "west-1399": "west-two"}[id]
			d, created, err := b.server.Submit(t.Context(), "ann", starling.Submission{App: app, SHA: strings.Repeat("a", 40), IdempotencyKey: id})
			if err != nil || created || d.ID != id {
				t.Errorf("the retry of %s: %+v, created %v, %v", id, d, created, err)
			}
		}
	}()
	lead := b.elect()
	if n := b.tidy(lead); n != 0 || b.fsm.View().Level() != 1 {
		t.Fatalf("%d steps, level %d: archiving begins before it must", n, b.fsm.View().Level())
	}
	lead.s.cfg.History.Recent = 100 // an archive of its own: the level is in use
	b.past(400)
	b.tidy(lead)
	if h := b.fsm.View().HistoryOf("west"); h.Ended+h.Archived != 1_400 || h.Archived == 0 {
		t.Errorf("%+v", h)
	}
	// Sent again, as by a home that was restored, they are not doubled.
	again := west.fsm.View().ChangedSince("west", 0)
	again.Index = from + 1
	b.must(raftfsm.TypeMirror, raftfsm.Mirror{Batch: again})
	if h := b.fsm.View().HistoryOf("west"); h.Ended+h.Archived != 1_400 {
		t.Errorf("sent again: %+v", h)
	}
}

// A retry gets the deployment it made, also out of the archive, for as long as that is there.
func TestARetryOfWhatIsArchived(t *testing.T) {
	b := newBench(t, "east", func(c *Config) { c.History.Recent = 100 })
	lead := b.elect()
	ids, want := b.past(600)
	b.tidy(lead)
	submit := func(app, key string) (*starling.Deployment, bool, error) {
		return b.server.Submit(t.Context(), "ann", starling.Submission{App: app, SHA: strings.Repeat("a", 40), IdempotencyKey: key})
	}
	apps := []string{"east-one", "east-two", "east-two"}
	for _, when := range []string{"archived", "restored"} {
		for i, id := range ids {
			app := apps[(len(ids)-1-i)%3]
			d, created, err := submit(app, id)
			if err != nil || created || text(t, d) != want[id] {
				t.Fatalf("%s: the retry of %s: %+v, created %v, %v", when, id, d, created, err)
			}
		}
		if d, created, err := b.server.Rollback(t.Context(), "ann", "east-one", 0, "east-0", starling.Origin{}); err != nil || created || d.ID != "east-0" {
			t.Errorf("%s: a rollback with that key: %+v, created %v, %v", when, d, created, err)
		}
		var snap bytes.Buffer
		if err := errors.Join(b.fsm.View().WriteSnapshot(&snap), b.fsm.Restore(io.NopCloser(&snap))); err != nil {
			t.Fatal(err)
		}
	}
	if d, created, err := submit("east-two", "east-0"); err != nil || !created {
		t.Errorf("the same key for another app: %+v, created %v, %v", d, created, err)
	}
	lead.s.cfg.History.Keep = 200
	b.tidy(lead)
	if _, ok := b.server.Deployment("east-0"); ok {
		t.Fatal("the oldest is still there")
	}
	if d, created, err := submit("east-one", "east-0"); err != nil || !created {
		t.Errorf("the key of what was dropped: %+v, created %v, %v", d, created, err)
	}
}

// A retry whose deployment cannot be read is refused rather than deployed again.
func TestARetryOfWhatCannotBeRead(t *testing.T) {
	b := newBench(t, "east", func(c *Config) { c.History.Recent = 10 })
	b.elect()
	b.past(300)
	p, err := pack("east", b.fsm.View().Archivable("east", 10))
	if err != nil {
		t.Fatal(err)
	}
	p.Data = p.Data[:len(p.Data)/2]
	b.must(raftfsm.TypeHistoryArchive, p)
	sub := starling.Submission{App: "east-one", SHA: strings.Repeat("a", 40), IdempotencyKey: "east-255"}
	if d, _, err := b.server.Submit(t.Context(), "ann", sub); err == nil || errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("a segment that is cut off: %+v, %v", d, err)
	}
	l, _ := b.fsm.View().Archived("east-0")
	if d, err := submittedLongAgo(l, "another key with its hash"); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("another key: %+v, %v", d, err)
	}
	if n := len(b.fsm.View().Active()); n != 0 {
		t.Errorf("%d new deployments", n)
	}
}

func TestABrokenSegmentIsToldAndLeftOut(t *testing.T) {
	b := newBench(t, "east", func(c *Config) { c.History.Recent = 10 })
	ids, _ := b.past(300)
	ds := b.fsm.View().Archivable("east", 10)
	p, err := pack("east", ds)
	if err != nil {
		t.Fatal(err)
	}
	whole := p.Data
	p.Data = whole[:len(whole)/2]
	b.must(raftfsm.TypeHistoryArchive, p)
	if got, _ := b.pages("", 1000); len(got) != 300-256 {
		t.Errorf("%d of %d listed", len(got), len(ids))
	}
	if _, ok := b.server.Deployment(ds[255].ID); ok {
		t.Error("read from a segment that is cut off")
	}
}
