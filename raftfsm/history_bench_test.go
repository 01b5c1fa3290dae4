package raftfsm

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"

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

// pastOf is how many deployments of a home have ended, and how many of them are records.
type pastOf struct{ ended, records int }

// pasts are 100,000 deployments of this region's apps, alone and with 10,000 of each of
// nine other regions, as the leader keeps them; and as many as records, which is what
// nine full regions beside this one come to at level 1.
func pasts(scale int) map[string][]pastOf {
	own, copies := pastOf{100_000 / scale, 9_000 / scale}, pastOf{10_000 / scale, 1_000 / scale}
	record := pastOf{10_000 / scale, 10_000 / scale}
	return map[string][]pastOf{
		"own":     {own},
		"regions": append([]pastOf{own}, slices.Repeat([]pastOf{copies}, 9)...),
		"records": slices.Repeat([]pastOf{record}, 10),
	}
}

// history writes the snapshot of region-0 with such pasts of region-0, region-1, …
func history(t testing.TB, past []pastOf) []byte {
	t.Helper()
	w := &snapshotText{t: t, sum: sha256.New(), records: -1}
	w.line(header{snapshotFormat, 2, "region-0"})
	var segments []*Segment
	archived, seq := int64(0), uint64(0)
	name := func(h int) string { return fmt.Sprintf("region-%d", h) }
	for h, p := range past {
		for from := 0; from < p.ended-p.records; from += MaxSegmentDeployments {
			s := &Segment{Home: name(h), Seq: seq + 1}
			var ds []*starling.Deployment
			for i := from; i < min(from+MaxSegmentDeployments, p.ended-p.records); i++ {
				d := ended(s.Home, i)
				seq++
				s.Heads = append(s.Heads, Head{ID: d.ID, App: d.App, At: d.CreatedAt.UnixMicro(), Seq: seq, Line: i - from, Key: keyHash(d.App, d.IdempotencyKey)})
				ds = append(ds, d)
			}
			s.Data = packed(t, ds)
			archived += int64(len(s.Data))
			segments = append(segments, s)
		}
	}
	w.record(tableMeta, 0, 0, meta{Index: 9e6, Clock: epoch, Seq: 9e6, Level: 2, Archived: archived})
	for h, p := range past {
		w.record(tableHomes, 0, 0, home{Name: name(h), Ended: p.records, Archived: p.ended - p.records})
	}
	for h, p := range past {
		for i := p.ended - p.records; i < p.ended; i++ {
			mod := uint64(0)
			if h == 0 {
				mod = uint64(i + 1)
			}
			seq++
			w.record(tableDeployments, mod, seq, ended(name(h), i))
		}
	}
	for _, s := range segments {
		w.record(tableHistory, 0, 0, s)
	}
	end, err := trailerLine(w.records, w.sum)
	if err != nil {
		t.Fatal(err)
	}
	return append(w.Bytes(), end...)
}

// snapshotText is a snapshot being written by hand.
type snapshotText struct {
	bytes.Buffer
	t       testing.TB
	sum     hash.Hash
	records int
}

func (w *snapshotText) line(v any) {
	w.t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	b = append(b, '\n')
	w.sum.Write(b)
	w.Write(b)
	w.records++
}

func (w *snapshotText) record(table string, mod, seq uint64, v any) {
	w.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		w.t.Fatal(err)
	}
	w.line(line{table, mod, seq, raw})
}

func heapBytes() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// sizes is what a past costs.
type sizes struct {
	restore, pause, persist time.Duration
	heapBytes               uint64
	view                    View
}

// measure restores a snapshot and persists it again, to a synced file.
func measure(t testing.TB, snap []byte) (m sizes) {
	t.Helper()
	before := heapBytes()
	f := New("region-0")
	timed := func(to *time.Duration, do func() error) {
		t.Helper()
		begin := time.Now()
		if err := do(); err != nil {
			t.Fatal(err)
		}
		*to = time.Since(begin)
	}
	timed(&m.restore, func() error { return f.Restore(io.NopCloser(bytes.NewReader(snap))) })
	m.heapBytes = heapBytes() - before
	var taken raft.FSMSnapshot
	timed(&m.pause, func() (err error) { taken, err = f.Snapshot(); return err })
	file, err := os.Create(filepath.Join(t.TempDir(), "snapshot"))
	if err != nil {
		t.Fatal(err)
	}
	timed(&m.persist, func() error {
		return errors.Join(taken.(snapshot).view.WriteSnapshot(file), file.Sync(), file.Close())
	})
	// Records come in another order than history wrote them, and are the same.
	if info, err := os.Stat(file.Name()); err != nil || info.Size() != int64(len(snap)) {
		t.Fatalf("a state of %d bytes was written as %+v, %v", len(snap), info, err)
	}
	m.view = f.View()
	return m
}

// BenchmarkHistory: go test ./raftfsm -run - -bench History -benchtime 1x
func BenchmarkHistory(b *testing.B) {
	for _, name := range []string{"own", "regions", "records"} {
		b.Run(name, func(b *testing.B) {
			snap := history(b, pasts(1)[name])
			for b.Loop() {
				m := measure(b, snap)
				b.ReportMetric(m.restore.Seconds(), "restore-s")
				b.ReportMetric(m.persist.Seconds(), "persist-s")
				b.ReportMetric(float64(m.pause.Microseconds()), "pause-us")
				b.ReportMetric(float64(m.heapBytes)/1e6, "heap-MB")
				for what, ask := range map[string]func(){
					"active-us": func() { m.view.Active() },
					"list-us":   func() { m.view.History(starling.DeploymentFilter{Limit: 100}) },
					"app-us":    func() { m.view.History(starling.DeploymentFilter{App: "region-0-app-7", Limit: 100}) },
					"find-us":   func() { m.view.Archived("d-none") },
					"key-us":    func() { m.view.submitted("region-0-app-7", "none") },
				} {
					begin := time.Now()
					for range 10 {
						ask()
					}
					b.ReportMetric(float64(time.Since(begin).Microseconds())/10, what)
				}
			}
			b.ReportMetric(float64(len(snap))/1e6, "snapshot-MB")
		})
	}
}

// TestHistoryToTry writes 100,000 ended deployments as a snapshot that a server of a region
// "region-0" can be restored from, to the file that STARLING_HISTORY_FILE names.
func TestHistoryToTry(t *testing.T) {
	file := os.Getenv("STARLING_HISTORY_FILE")
	if file == "" {
		t.Skip("STARLING_HISTORY_FILE names no file to write")
	}
	if err := os.WriteFile(file, history(t, pasts(1)["own"]), 0o600); err != nil {
		t.Fatal(err)
	}
}

// 100,000 deployments of this region's apps and 10,000 of each of nine other regions fit
// into 500 MB, and a snapshot of them takes 2 s on a quiet machine; this one may not be.
func TestHistoryStaysSmall(t *testing.T) {
	scale := 1
	if rounds == 1 || testing.Short() { // times and sizes mean nothing with the race detector
		scale = 50
	}
	m := measure(t, history(t, pasts(scale)["regions"]))
	t.Logf("1/%d: %d MB, restored in %v, persisted in %v, Apply waited %v", scale, m.heapBytes>>20, m.restore, m.persist, m.pause)
	if limit := uint64(500e6) / uint64(scale); m.heapBytes > limit {
		t.Errorf("%d bytes in memory, more than %d", m.heapBytes, limit)
	}
	if m.persist > 20*time.Second || m.pause > time.Second {
		t.Errorf("persisted in %v, Apply waited %v", m.persist, m.pause)
	}
	for _, app := range []string{"", "region-0-app-7"} {
		f := starling.DeploymentFilter{App: app, Limit: MaxListed}
		seen := 0
		for {
			page := m.view.History(f)
			if seen += len(page); len(page) < MaxListed || seen > 20_000 {
				break
			}
			f.Before = page[len(page)-1].id()
		}
		if want := 100 / scale; seen < want {
			t.Errorf("%q: listed %d, want %d", app, seen, want)
		}
	}
}
