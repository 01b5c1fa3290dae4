package starling_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestNearness(t *testing.T) {
	at := func(zone, rack string) *starling.Node { return &starling.Node{Zone: zone, Rack: rack} }
	for _, tt := range []struct {
		a, b *starling.Node
		want starling.SourceKind
	}{
		{at("a", "r1"), at("a", "r1"), starling.SourceRack},
		{at("a", "r1"), at("a", "r2"), starling.SourceZone},
		{at("a", "r1"), at("b", "r1"), starling.SourceRegion}, // racks are numbered per zone
		{at("a", ""), at("a", ""), starling.SourceZone},
		{at("", ""), at("", ""), starling.SourceRegion},
		{at("", "r1"), at("", "r1"), starling.SourceRack},
	} {
		if got := starling.Nearness(tt.a, tt.b); got != tt.want {
			t.Errorf("%+v and %+v: %s, want %s", tt.a, tt.b, got, tt.want)
		}
	}
}

func TestBytesBySource(t *testing.T) {
	var b starling.Bytes
	for i, k := range []starling.SourceKind{starling.SourceCache, starling.SourceRack, starling.SourceZone, starling.SourceRegion, starling.SourceLocal} {
		b = b.From(k, 1<<i)
	}
	if want := (starling.Bytes{CacheOut: 1, PeerRack: 2, PeerZone: 4, PeerRegion: 8, Peer: 14, Local: 16}); b != want {
		t.Errorf("%+v", b)
	}
	if twice := b.Add(b); twice.Peer != 28 || twice.PeerRack+twice.PeerZone+twice.PeerRegion != 28 || twice.Max(b) != twice || b.Max(twice) != twice {
		t.Errorf("%+v", twice)
	}
	if b.Within(15) || !b.Within(16) || (starling.Bytes{PeerZone: -1}).Within(1) {
		t.Error("bounds do not hold")
	}
}

// soundAccount is an account with n chunks in its trace and as many sources as may be.
func soundAccount(n int) *starling.Account {
	a := &starling.Account{Node: "m1", Region: "eu", Artifact: starling.DigestOf([]byte("v1")), Chunks: n, StartedAt: time.Now(), TookMS: 4}
	for i, b := range starling.Bounds {
		a.Time = append(a.Time, starling.BoundTime{Bound: b, MS: int64(i % 4)})
	}
	for range starling.MaxAccountSources {
		a.Sources = append(a.Sources, starling.SourceAccount{
			Name: strings.Repeat("m", 63), Kind: starling.SourceRegion, Zone: strings.Repeat("z", 63), Rack: strings.Repeat("r", 63), Bytes: 1 << 40, Chunks: 1e6,
			Failures: map[string]int{"timeout": 1e6, "busy": 1e6, "gone": 1e6, "missing": 1e6, "corrupt": 1e6, "cancelled": 1e6, "local": 1e6},
			ActiveMS: 1e9, WaitMS: 1e9, Distrusted: strings.Repeat("x", starling.MaxDistrustBytes)})
	}
	for i := range n {
		a.Trace.Chunk = append(a.Trace.Chunk, int32(i))
		a.Trace.Source = append(a.Trace.Source, int32(i%len(a.Sources)))
		a.Trace.TookMS = append(a.Trace.TookMS, 120_000)
		a.Trace.Bound = append(a.Trace.Bound, int32(i%len(starling.Bounds)))
	}
	return a
}

func encodeAccount(t *testing.T, a *starling.Account) []byte {
	t.Helper()
	b, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAccountStaysWithinItsBound(t *testing.T) {
	a := soundAccount(starling.MaxTraceChunks)
	b := encodeAccount(t, a)
	if len(b) > starling.MaxAccountBytes {
		t.Errorf("%d bytes", len(b))
	}
	got, err := starling.DecodeAccount(b, "m1", a.Artifact)
	if err != nil {
		t.Fatal(err)
	}
	if len(got.Trace.Chunk) != starling.MaxTraceChunks || got.Main() != starling.BoundDisk {
		t.Errorf("%d chunks, mostly %s", len(got.Trace.Chunk), got.Main())
	}
	t.Logf("the largest account is %d bytes", len(b))
}

func TestBadAccountsAreRefused(t *testing.T) {
	art := starling.DigestOf([]byte("v1"))
	for name, spoil := range map[string]func(a *starling.Account){
		"another machine":    func(a *starling.Account) { a.Node = "m2" },
		"another artifact":   func(a *starling.Account) { a.Artifact = starling.Digest{} },
		"negative bytes":     func(a *starling.Account) { a.Bytes.PeerRack = -1 },
		"negative time":      func(a *starling.Account) { a.Time[0].MS = -1 },
		"short column":       func(a *starling.Account) { a.Trace.Bound = a.Trace.Bound[1:] },
		"source of nowhere":  func(a *starling.Account) { a.Trace.Source[1] = int32(len(a.Sources)) },
		"negative source":    func(a *starling.Account) { a.Trace.Source[1] = -1 },
		"bound of nowhere":   func(a *starling.Account) { a.Trace.Bound[1] = int32(len(a.Time)) },
		"strange bound":      func(a *starling.Account) { a.Time[0].Bound = "\x1b[2J" },
		"strange kind":       func(a *starling.Account) { a.Sources[0].Kind = "rack\n" },
		"strange name":       func(a *starling.Account) { a.Sources[0].Name = "m1\x1b[2J" },
		"strange failure":    func(a *starling.Account) { a.Sources[0].Failures = map[string]int{"Oh no": 1} },
		"too many sources":   func(a *starling.Account) { a.Sources = append(a.Sources, slices.Repeat(a.Sources[:1], 300)...) },
		"endless":            func(a *starling.Account) { a.Zone = strings.Repeat("x", starling.MaxAccountBytes) },
		"negative held":      func(a *starling.Account) { a.HeldBytes = -1 },
		"negative of source": func(a *starling.Account) { a.Sources[3].WaitMS = -1 },
	} {
		a := soundAccount(3)
		spoil(a)
		if _, err := starling.DecodeAccount(encodeAccount(t, a), "m1", art); !errors.Is(err, starling.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := soundAccount(1)
	a.Sources[0].Distrusted, a.Rack = "it \x1b[31mlies\n\u009b", "r1\r\n"
	got, err := starling.DecodeAccount(encodeAccount(t, a), "m1", art)
	if err != nil || got.Sources[0].Distrusted != "it [31mlies" || got.Rack != "r1" {
		t.Errorf("%v: %+v", err, got)
	}
}

func FuzzDecodeAccount(f *testing.F) {
	b, err := json.Marshal(soundAccount(2))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := starling.DecodeAccount(b, "m1", starling.DigestOf([]byte("v1")))
		if err != nil {
			return
		}
		for i := range a.Trace.Chunk { // what readers do
			_, _, _ = a.Sources[a.Trace.Source[i]], a.Time[a.Trace.Bound[i]], a.Trace.TookMS[i]
		}
	})
}

func TestAccusersAreAddedUp(t *testing.T) {
	one := func(region, node, by string, cache bool) starling.Counts {
		return starling.Counts{Distrusted: []starling.Accused{{Node: node, Region: region, Cache: cache, Reason: "sent wrong bytes", By: by, Accusers: 1}}}
	}
	var sum starling.Counts
	for _, c := range []starling.Counts{
		one("eu", "m9", "m2", false), one("us", "m9", "m1", false), one("eu", "m9", "m1", true), one("eu", "m9", "m1", false),
	} {
		sum = sum.Add(c)
	}
	want := []starling.Accused{
		{Node: "m9", Region: "eu", Reason: "sent wrong bytes", By: "m1", Accusers: 2},
		{Node: "m9", Region: "eu", Cache: true, Reason: "sent wrong bytes", By: "m1", Accusers: 1},
		{Node: "m9", Region: "us", Reason: "sent wrong bytes", By: "m1", Accusers: 1},
	}
	if !slices.Equal(sum.Distrusted, want) {
		t.Errorf("got %+v", sum.Distrusted)
	}
	// Nobody accuses m9 of eu any more, and somebody another.
	now := one("eu", "m3", "m1", false).Distrusted
	if got := starling.KeepAccused(now, want); len(got) != 4 || got[0].Node != "m3" || len(now) != 1 {
		t.Errorf("kept %+v", got)
	}
	if got := starling.KeepAccused(want, want); !slices.Equal(got, want) {
		t.Errorf("kept twice: %+v", got)
	}
}

func TestSlowestAreKept(t *testing.T) {
	var sum starling.Counts
	for i := range int64(20) {
		sum = sum.Add(starling.Counts{Slowest: []starling.SlowMachine{{Node: "m", Region: "eu", FetchMS: 7 * i % 20}}})
	}
	if n := len(sum.Slowest); n != starling.MaxSlowestMachines || sum.Slowest[0].FetchMS != 19 || sum.Slowest[n-1].FetchMS != 15 {
		t.Errorf("%+v", sum.Slowest)
	}
}
