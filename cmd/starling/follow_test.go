package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
)

var storyBegan = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func storyDeployment() *starling.Deployment {
	return &starling.Deployment{
		ID: "d-1", App: "web", SHA: strings.Repeat("ab", 20), Actor: "token:ann", Phase: starling.PhaseQueued,
		CreatedAt: storyBegan, Deadline: storyBegan.Add(30 * time.Minute), PhaseAt: storyBegan,
	}
}

func happened(after time.Duration, kind string, phase starling.Phase, detail string) *client.ServerEvent {
	return &client.ServerEvent{Event: starling.Event{At: storyBegan.Add(after), Type: kind, Phase: phase, Detail: detail, Actor: "token:bob", Deployment: "d-1"}}
}

// Whatever tells a fact first, and however often it is told, it is one line.
func TestAStoryTellsEachFactOnce(t *testing.T) {
	d := storyDeployment()
	s := newStory(d)
	var got []string
	add := func(lines []string) { got = append(got, lines...) }
	add(s.begin(d))
	add(s.event(happened(0, "deployment.queued", starling.PhaseQueued, "")))
	add(s.event(happened(time.Second, "deployment.phase", starling.PhaseBuilding, "")))
	add(s.chunk(starling.LogChunk{Section: "build.1", Data: []byte("one\ntw")}))
	add(s.chunk(starling.LogChunk{Section: "build.1", Data: []byte("o\x1b[2J\nlast")}))
	add(s.event(happened(9*time.Second, "deployment.phase", starling.PhaseReplicating, "")))
	p := &starling.DeploymentProgress{Deployment: "d-1", Phase: starling.PhaseReplicating, PhaseAt: storyBegan.Add(9 * time.Second), At: storyBegan.Add(12 * time.Second),
		Regions: []starling.RegionProgress{{Placing: starling.Placing{Name: "us", Placed: true, ChunksDone: 9, ChunksTotal: 9}}, {Placing: starling.Placing{Name: "eu", ChunksDone: 1, ChunksTotal: 9}}}}
	add(s.progress(p))
	add(s.event(happened(12*time.Second, "deployment.placed", starling.PhaseReplicating, "us")))
	p.At, p.LeftMS = storyBegan.Add(20*time.Second), 93_000
	add(s.progress(p))
	add(s.progress(p))
	p.At, p.EndsAt = p.At.Add(storyStandEvery), p.At.Add(storyStandEvery+4*time.Minute)
	add(s.progress(p))
	p.At = storyBegan.Add(20 * time.Second)
	p.Machines.Samples = []starling.FailureSample{{Node: "m1", Region: "eu", Reason: "disk\nfull"}}
	add(s.progress(p))
	add(s.progress(p))
	add(s.event(happened(21*time.Second, "deployment.paused", starling.PhaseReplicating, "")))
	d.Phase, d.PhaseAt, d.EndedAt, d.Reason = starling.PhaseFailed, storyBegan.Add(time.Minute), storyBegan.Add(time.Minute), "too many\nfailed"
	d.Regions, d.Machines = []starling.Placing{{Name: "us", Placed: true}}, p.Machines
	add(s.logLines(true))
	add(s.record(d))
	add(s.event(happened(time.Minute, "deployment.phase", starling.PhaseFailed, "again")))
	want := []string{
		"   +0.0s  queued       d-1: abababababab of app web, by token:ann, to end within 30m0s",
		"   +1.0s  building",
		"          | one",
		"          | two[2J",
		"   +9.0s  replicating",
		"  +12.0s  placed       us",
		"  +20.0s  …            1 of 2 regions hold it, 10 of 18 chunks; about 1m35s left in this phase",
		"  +30.0s  …            1 of 2 regions hold it, 10 of 18 chunks; about 4m to go",
		"  +20.0s  failed       eu/m1: disk; full",
		"  +21.0s  paused       by token:bob",
		"          | last",
		"  +60.0s  failed       too many; failed",
	}
	if strings.ReplaceAll(strings.Join(got, "\n"), shortSHA(d.SHA), "abababababab") != strings.Join(want, "\n") {
		t.Errorf("the story is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// After a gap the record tells how it stands, and events that it has told of are no news.
func TestAStoryGoesOnAfterAGap(t *testing.T) {
	d := storyDeployment()
	s := newStory(d)
	s.begin(d)
	d.Phase, d.PhaseAt = starling.PhaseStaging, storyBegan.Add(time.Minute)
	d.Regions = []starling.Placing{{Name: "us", Placed: true}}
	got := s.record(d)
	got = append(got, s.event(happened(30*time.Second, "deployment.phase", starling.PhaseReplicating, ""))...)
	got = append(got, s.event(happened(time.Minute, "deployment.phase", starling.PhaseStaging, ""))...)
	got = append(got, s.event(happened(2*time.Minute, "deployment.phase", starling.PhaseRollingOut, ""))...)
	want := []string{"  +60.0s  placed       us", "  +60.0s  staging", " +120.0s  rolling_out"}
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// The frame fits, whatever is in it, and shows the budget, regions and waves.
func TestFrameFitsTheTerminal(t *testing.T) {
	p := &starling.DeploymentProgress{
		Deployment: "d-0123456789abcdef", App: strings.Repeat("long", 15), Phase: starling.PhaseRollingOut, Wave: 1, Waves: 3, Step: "wave 2 of 3 in eu", Paused: true,
		CreatedAt: storyBegan, Deadline: storyBegan.Add(30 * time.Minute), PhaseAt: storyBegan, At: storyBegan, LeftMS: 95_000,
		Machines: starling.Counts{Target: 100_000, Staged: 100_000, Healthy: 12_345, Failed: 678},
	}
	for i := range 20 {
		r := starling.RegionProgress{Placing: starling.Placing{Name: fmt.Sprintf("a-region-with-a-long-name-%d", i), ChunksDone: i, ChunksTotal: 20}, Heard: i%3 != 0, Target: 10_000, Staged: 10_000, Healthy: 500 * i, Failed: i % 2}
		if i%5 == 4 {
			r.SilentMS = 75_000
		}
		p.Regions = append(p.Regions, r)
	}
	for _, columns := range []int{40, 79, 200} {
		for _, phase := range []starling.Phase{starling.PhaseBuilding, starling.PhaseStaging, starling.PhaseRollingOut, starling.PhaseFailed} {
			p.Phase = phase
			all := frame(p, storyBegan.Add(10*time.Minute), columns)
			for _, l := range all {
				if n := utf8.RuneCountInString(l); n > columns {
					t.Errorf("%d columns, want %d at most: %s", n, columns, l)
				}
			}
			if len(all) > frameMaxRegions+5 {
				t.Errorf("%d lines", len(all))
			}
		}
	}
	p.Phase, p.Regions, p.Paused, p.App = starling.PhaseRollingOut, p.Regions[7:9], false, "web"
	got := strings.Join(frame(p, storyBegan.Add(10*time.Minute), 79), "\n")
	want := `d-0123456789abcdef  web  rolling out: wave 2 of 3 in eu
budget         [====>          ] 10m0s of 30m, about 1m35s left in this phase
a-region-with… caches [=>      ] machines [====>          ] 3500/10000 1 failed
a-region-with… caches [==>     ] machines [=====>         ] 4000/10000
hold it        [=======================] 100000/100000
healthy        [=>                     ] 12345/100000 678 failed`
	if got != want {
		t.Errorf("the frame is\n%s\nwant\n%s", got, want)
	}
}
