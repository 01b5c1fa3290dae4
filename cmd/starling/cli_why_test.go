package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func wantLines(t *testing.T, out string, lines ...string) {
	t.Helper()
	plain := strings.Join(strings.Fields(out), " ")
	for _, l := range lines {
		if !strings.Contains(plain, l) {
			t.Errorf("%q is not in\n%s", l, out)
		}
	}
}

func TestWhyReadsWell(t *testing.T) {
	var out bytes.Buffer
	y := &starling.Why{
		Deployment: "d-1", App: "hello", Phase: starling.PhaseStaging, PhaseMS: 12_000, WaitsFor: []string{"7 of 9 machines staged in us"},
		Bytes: starling.Bytes{Artifact: 1e9, CacheOut: 2e9, Peer: 8e9, PeerRack: 5e9, PeerZone: 1e9, WAN: 1e9},
		Regions: []starling.RegionWhy{
			{Placing: starling.Placing{Name: "us", Placed: true, ChunksDone: 9, ChunksTotal: 9}, Heard: true, Target: 9, Staged: 7, Failed: 1, Bytes: starling.Bytes{Peer: 8e9}},
			{Placing: starling.Placing{Name: "eu", ChunksTotal: 9}},
		},
		Machines: starling.Counts{
			Slowest:    []starling.SlowMachine{{Node: "m7", Region: "us", FetchMS: 61_000, Bound: starling.BoundPeerLink}},
			Distrusted: []starling.Accused{{Node: "c1", Region: "us", Cache: true, By: "m1", Accusers: 3, Reason: "sent a chunk whose bytes do not match its digest"}},
			Samples:    []starling.FailureSample{{Node: "m2", Region: "us", Reason: "disk full"}},
		},
	}
	if err := printWhy(&out, y); err != nil {
		t.Fatal(err)
	}
	wantLines(t, out.String(), "d-1 of hello is staging for 12s; took: queued", "waits for: 7 of 9 machines staged in us", "caches 2.0 GB 20.0 %", "same rack 5.0 GB 50.0 %",
		"other machines 2.0 GB 20.0 %", "between regions 1.0 GB", "us true 9/9 7/9 0 1", "eu false 0/9 - -", "m7 us 1m1s links of peers",
		"c1 (cache) us m1 and 2 more sent a chunk", "failed: us/m2: disk full")
	t.Log("\n" + out.String())
}

func TestAccountReadsWell(t *testing.T) {
	a := &starling.Account{
		Node: "m1", Region: "us", Zone: "a", Artifact: starling.DigestOf([]byte("v1")), Chunks: 3, TookMS: 4000, EndedAt: time.Now(),
		Bytes: starling.Bytes{Artifact: 3e6, CacheOut: 1e6, Peer: 2e6, PeerRack: 2e6}, BestBytesPerSecond: 12_500_000, CapBytesPerSecond: 25_000_000,
		Time: []starling.BoundTime{{Bound: starling.BoundOwnLink, MS: 3000, Chunks: 2}, {Bound: "moon_phase", MS: 1000, Chunks: 1}, {Bound: starling.BoundCPU}},
		Sources: []starling.SourceAccount{
			{Name: "cache-1", Kind: starling.SourceCache, Bytes: 1e6, Chunks: 1, ActiveMS: 500, WaitMS: 40},
			{Name: "m2", Kind: starling.SourceRack, Bytes: 2e6, Chunks: 2, ActiveMS: 1000, WaitMS: 300, Failures: map[string]int{"timeout": 2, "busy": 1}},
			{Name: "m9", Kind: starling.SourceRack, Failures: map[string]int{"corrupt": 1}, Distrusted: "sent wrong bytes"},
		},
		Trace: starling.ChunkTrace{Chunk: []int32{2, 0, 1}, Source: []int32{0, 1, 1}, TookMS: []int32{50, 60, 70}, Bound: []int32{0, 1, 0}, Omitted: 5},
	}
	for i := range maxSourcesShown {
		a.Sources = append(a.Sources, starling.SourceAccount{Name: "n" + strings.Repeat("x", i), Kind: starling.SourceRegion})
	}
	var out bytes.Buffer
	if err := printAccount(&out, a); err != nil {
		t.Fatal(err)
	}
	wantLines(t, out.String(), "m1 in us (zone a, rack -):", "3.0 MB in 4s, done", "caches 1.0 MB 33.3 %", "its own link 3s 75.0 % 2", "moon_phase 1s 25.0 % 1",
		"12.5 MB/s; download cap 25.0 MB/s", "cache-1 caches 1.0 MB 33.3 % 2.0 MB/s 40ms - ", "m2 same rack 2.0 MB 66.7 % 2.0 MB/s 60ms 1 busy, 2 timeout",
		"m9 same rack 0 B 0.0 % 0.0 MB/s 0s 1 corrupt sent wrong bytes", "and 3 more: --json shows all")
	if strings.Contains(out.String(), "CPU") {
		t.Error("what took no time is shown")
	}
	if strings.Index(out.String(), "m9 ") > strings.Index(out.String(), "m2 ") {
		t.Error("the liar does not come first")
	}
	t.Log("\n" + out.String())
	out.Reset()
	if err := printChunks(&out, a); err != nil {
		t.Fatal(err)
	}
	wantLines(t, out.String(), "2 cache-1 caches 50ms its own link 0 m2 same rack 60ms moon_phase 1 m2", "and 5 more")
}
