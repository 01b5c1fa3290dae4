package main

import (
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestTimelineBars(t *testing.T) {
	created := time.Unix(1_700_000_000, 0)
	d := &starling.Deployment{
		ID: "d-1", App: "web", Home: "eu", Phase: starling.PhaseSucceeded, Attempt: 1,
		Generation: starling.Generation{Epoch: 1, Sequence: 1},
		CreatedAt:  created, PhaseAt: created.Add(60 * time.Second), EndedAt: created.Add(60 * time.Second),
		Regions: []starling.Placing{{Name: "eu", Placed: true}, {Name: "us", Placed: true}},
		Timings: starling.Timings{QueuedMS: 1000, BuildMS: 29_000, ReplicateMS: 10_000, StageMS: 5000, RolloutMS: 15_000, TotalMS: 60_000},
		Times: []starling.RegionTimes{
			{Region: "eu", UploadMS: 10_000, PlacedMS: 31_000, FetchMS: 30_500, StagedMS: 33_000, AllStagedMS: 35_000},
			{Region: "us", FirstByteMS: 12_000, PlacedMS: 40_000, FetchMS: 31_000, StagedMS: 43_000, AllStagedMS: 45_000, EarlyBytes: 60_000_000},
		},
		Bytes: starling.Bytes{Artifact: 100_000_000, WAN: 100_000_000},
	}
	var b strings.Builder
	if err := printTimeline(&b, d, created.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	want := strings.Join([]string{
		"  build         | =============================                              | 1s - 30s",
		"  upload        |          ====================                              | 10s - 30s",
		"  eu: stage     |                              =====                         | 30.5s - 35s",
		"  us: replicate |            ============================                    | 12s - 40s",
		"  us: stage     |                               ==============               | 31s - 45s",
		"  roll out      |                                             ===============| 45s - 1m0s",
		"  between regions before the manifest was known: " + humanBytes(60_000_000) + " of " + humanBytes(100_000_000) + " (60 %)",
		"  bytes moved for 35s; the longest upload, replication and staging one after the other: 1m2s",
		"",
	}, "\n")
	if b.String() != want {
		t.Errorf("got\n%swant\n%s", b.String(), want)
	}

	b.Reset()
	d = &starling.Deployment{Home: "eu", Phase: starling.PhaseBuilding, Attempt: 1, CreatedAt: created, PhaseAt: created.Add(time.Second),
		Times: []starling.RegionTimes{{Region: "eu", UploadMS: 4000}}}
	if err := printTimeline(&b, d, created.Add(8*time.Second)); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(b.String(), ">|"); n != 2 {
		t.Errorf("%d bars are open, want those of build and upload:\n%s", n, b.String())
	}
	b.Reset()
	if err := printTimeline(&b, &starling.Deployment{Phase: starling.PhaseQueued, CreatedAt: created}, created); err != nil || !strings.Contains(b.String(), "nothing") {
		t.Errorf("before anything moved: %q, %v", b.String(), err)
	}
}
