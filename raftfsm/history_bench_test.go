package raftfsm

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// ended is a deployment as a busy region has them: ten regions, a spec with all blocks,
// a report with samples, 1,000 apps.
func ended(home string, i int) *starling.Deployment {
	app := fmt.Sprintf("%s-app-%d", home, i%1000)
	hex := starling.DigestOf([]byte(app + fmt.Sprint(i)))
	at := epoch.Add(time.Duration(i) * 17 * time.Second)
	d := &starling.Deployment{
		ID: fmt.Sprintf("d-%.12x", hex[:6]), App: app, Home: home, SHA: hex.Hex()[:40], Artifact: hex,
		Actor: "token:ci", IdempotencyKey: "pipeline-" + hex.Hex()[:24], Generation: starling.Generation{Epoch: 1, Sequence: uint64(i/1000 + 1)},
		Spec: starling.App{
			Name: app, Home: home, Revision: uint64(i%1000 + 1), Source: starling.SourceSpec{Git: "https://git.example/" + app + ".git", Branch: "main"},
			Build: &starling.BuildSpec{Command: []string{"make", "-j4", "release", "VERSION=$SHA"}, Output: "out", Env: map[string]string{"CGO_ENABLED": "0", "GOFLAGS": "-trimpath"}},
			Deploy: starling.DeploySpec{
				Targets: "role == web and zone != b", Run: []string{"./bin/server", "--config", "prod.toml"},
				Health:   &starling.Health{HTTP: "http://127.0.0.1:$PORT/healthz"},
				Hooks:    starling.Hooks{Pre: []string{"./bin/migrate", "--wait"}},
				Strategy: starling.Strategy{Waves: []string{"1%", "10%", "50%", "100%"}, MaxFailed: "1%", AutoRevert: true},
			},
		},
		Phase: starling.PhaseSucceeded, CreatedAt: at, Deadline: at.Add(time.Hour), EndedAt: at.Add(7 * time.Minute), PhaseAt: at.Add(7 * time.Minute),
		Attempt: 1, Worker: fmt.Sprintf("w%d/1", i%50), Lease: uint64(1000 + i), BuildLog: starling.DigestOf([]byte(app)), Sandboxed: true, Wave: 3, WaveAt: at.Add(5 * time.Minute),
		Timings:  starling.Timings{QueuedMS: int64(i % 5000), BuildMS: int64(60000 + i%100000), ReplicateMS: 4000, StageMS: int64(20000 + i%9999), RolloutMS: 90000, TotalMS: int64(180000 + i%99999)},
		Machines: starling.Counts{Target: 100000, Staged: 99990, Due: 100000, Healthy: 99990, Failed: 10},
		Bytes:    starling.Bytes{Artifact: int64(1e9 + i*7919), New: int64(i * 104729 % 1e9), WAN: 9e9, CacheOut: int64(1e11 + i), Peer: int64(1e14 + i*31)},
	}
	d.Spec.SetDefaults()
	for r := range 10 {
		name := fmt.Sprintf("region-%d", r)
		d.Regions = append(d.Regions, starling.Placing{Name: name, Placed: true, ChunksDone: 900 + i%100, ChunksTotal: 900 + i%100})
		d.Times = append(d.Times, starling.RegionTimes{Region: name, PlacedMS: int64(3000 + i%977*r), FetchMS: int64(8000 + i%911*r), StagedMS: int64(19000 + i%733*r), AllStagedMS: int64(20000 + i%701*r)})
	}
	for n := range 5 {
		d.Machines.Slowest = append(d.Machines.Slowest, starling.SlowMachine{Node: fmt.Sprintf("m-%d", i*7%9000+n), Region: "region-3"})
		if i%10 == 0 {
			d.Machines.Samples = append(d.Machines.Samples, starling.FailureSample{Node: fmt.Sprintf("m-%d", i+n), Region: "region-4", Reason: "health: 503 Service Unavailable after 60s; back on the release before"})
		}
	}
	return d
}

// packed is what control makes of deployments for the archive.
func packed(t testing.TB, ds []*starling.Deployment) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	enc := json.NewEncoder(z)
	for _, d := range ds {
		if err := enc.Encode(d); err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// history writes the snapshot of a region with so many ended deployments of each of so
// many homes, those beyond full of each in the archive.
func history(t testing.TB, homes, each, full int) []byte {
	t.Helper()
	var b bytes.Buffer
	sum := sha256.New()
	enc := json.NewEncoder(io.MultiWriter(&b, sum))
	records := -1
	write := func(v any) {
		if err := enc.Encode(v); err != nil {
			t.Fatal(err)
		}
		records++
	}
	rec := func(table string, mod, seq uint64, v any) {
		raw, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		write(line{table, mod, seq, raw})
	}
	level, archived := 1, int64(0)
	if each > full {
		level = 2
	}
	write(header{snapshotFormat, level, "region-0"})
	var segments []*Segment
	for h := range homes {
		name := fmt.Sprintf("region-%d", h)
		for from := 0; from < each-full; from += MaxSegmentDeployments {
			s := &Segment{Home: name, Seq: uint64(h*each + from + 1)}
			var ds []*starling.Deployment
			for i := from; i < min(from+MaxSegmentDeployments, each-full); i++ {
				d := ended(name, i)
				s.Heads = append(s.Heads, Head{ID: d.ID, App: d.App, At: d.CreatedAt.UnixMicro(), Seq: uint64(h*each + i + 1), Line: i - from})
				ds = append(ds, d)
			}
			s.Data = packed(t, ds)
			archived += int64(len(s.Data))
			segments = append(segments, s)
		}
	}
	rec(tableMeta, 0, 0, meta{Index: 9e6, Clock: epoch, Seq: 9e6, Level: level, Archived: archived})
	for h := range homes {
		rec(tableHomes, 0, 0, home{Name: fmt.Sprintf("region-%d", h), Ended: min(each, full), Archived: max(0, each-full)})
	}
	for h := range homes {
		name := fmt.Sprintf("region-%d", h)
		for i := max(0, each-full); i < each; i++ {
			mod := uint64(0)
			if h == 0 {
				mod = uint64(i + 1)
			}
			rec(tableDeployments, mod, uint64(h*each+i+1), ended(name, i))
		}
	}
	for _, s := range segments {
		rec(tableHistory, 0, 0, s)
	}
	end, err := trailerLine(records, sum)
	if err != nil {
		t.Fatal(err)
	}
	b.Write(end)
	return b.Bytes()
}

// historyShapes are 100,000 deployments as programs of level 1 keep them at most, all as
// records, and as this one does: the newest as records, the others in the archive.
func historyShapes() map[string][3]int {
	return map[string][3]int{
		"records": {10, 10_000, 10_000},
		"archive": {1, 100_000, 9_000},
		"both":    {10, 100_000, 9_000},
	}
}

func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// BenchmarkHistory: go test ./raftfsm -run - -bench History -benchtime 1x
func BenchmarkHistory(b *testing.B) {
	for _, name := range []string{"records", "archive"} {
		s := historyShapes()[name]
		b.Run(name, func(b *testing.B) {
			snap := history(b, s[0], s[1], s[2])
			for b.Loop() {
				measureHistory(b, snap)
			}
			b.ReportMetric(float64(len(snap))/1e6, "snapshot-MB")
		})
	}
}

func measureHistory(b *testing.B, snap []byte) {
	b.Helper()
	before := heapBytes()
	f := New("region-0")
	begin := time.Now()
	if err := f.Restore(io.NopCloser(bytes.NewReader(snap))); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(begin).Seconds(), "restore-s")
	b.ReportMetric(float64(heapBytes()-before)/1e6, "heap-MB")

	begin = time.Now()
	taken, err := f.Snapshot()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(time.Since(begin).Microseconds()), "pause-us")
	begin = time.Now()
	file, err := os.Create(filepath.Join(b.TempDir(), "snapshot"))
	if err != nil {
		b.Fatal(err)
	}
	if err := taken.(snapshot).view.WriteSnapshot(file); err != nil {
		b.Fatal(err)
	}
	if err := file.Sync(); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(time.Since(begin).Seconds(), "persist-s")
	if err := file.Close(); err != nil {
		b.Fatal(err)
	}
	v := f.View()
	for what, ask := range map[string]func(){
		"active-us": func() { v.Active() },
		"list-us":   func() { v.History(starling.DeploymentFilter{Limit: 100}) },
		"app-us":    func() { v.History(starling.DeploymentFilter{App: "region-0-app-7", Limit: 100}) },
		"find-us":   func() { v.Archived("d-none") },
	} {
		begin = time.Now()
		for range 10 {
			ask()
		}
		b.ReportMetric(float64(time.Since(begin).Microseconds())/10, what)
	}
	runtime.KeepAlive(f)
}
