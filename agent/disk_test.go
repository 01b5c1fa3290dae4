package agent

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func TestSwitchIsAtomic(t *testing.T) {
	t.Parallel()
	dir := appDir(t.TempDir())
	a, b := starling.DigestOf([]byte("a")), starling.DigestOf([]byte("b"))
	for _, d := range []starling.Digest{a, b} {
		if err := makeDirs(dir.tree(d)); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir.tree(d), "id"), []byte(d.Short()), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := dir.removeCurrent(); err != nil {
		t.Errorf("nothing to remove: %v", err)
	}
	if err := dir.switchTo(a); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case <-stop:
				return
			default:
			}
			if id := readFileOr(dir.join(currentName, "id"), "nothing"); id != a.Short() && id != b.Short() {
				t.Errorf("current leads to %q", id)
				return
			}
		}
	}()
	for i := range 50 {
		if err := dir.switchTo([]starling.Digest{a, b}[i%2]); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	<-done
	if err := dir.removeCurrent(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir.join(currentName)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("current is still there: %v", err)
	}
}

func TestReleaseWithShutDirectoriesIsRemoved(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "release")
	inner := filepath.Join(dir, "a", "b")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(inner, "f"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
	for _, d := range []string{inner, filepath.Dir(inner)} {
		if err := os.Chmod(d, 0o500); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeRelease(dir); err != nil {
		t.Fatal(err)
	}
	if err := removeRelease(dir); err != nil {
		t.Errorf("a second time: %v", err)
	}
	entries, err := os.ReadDir(filepath.Dir(dir))
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

func TestRecordSurvivesAndIsChecked(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	v1 := r.push(versionFiles("v1", "ok"))
	r.leader.setGoal(goal(1, v1))
	m.await(1, starling.MachineHealthy)
	m.stop()
	rec, err := loadRecord(appDir(m.app()))
	if err != nil {
		t.Fatal(err)
	}
	if rec.Goal == nil || rec.Running == nil || !reflect.DeepEqual(rec.Goal, rec.Running) || !rec.holds(v1) {
		t.Errorf("record %+v", rec)
	}
	// A record that a broken disk spoiled is set aside, and the machine converges again.
	if err := os.WriteFile(m.app(recordName), []byte(`{"version":1,"goal":`), 0o600); err != nil {
		t.Fatal(err)
	}
	r.leader.setGoal(goal(2, v1))
	m.start()
	m.await(2, starling.MachineHealthy)
	m.stop()
	// A later version's record is not touched.
	if err := os.WriteFile(m.app(recordName), []byte(`{"version":99}`), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := New(m.agent.conf)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); err == nil {
		t.Error("a record of version 99 was read")
	}
}

func TestLostReleaseIsFetchedAgain(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t)))
	m.await(1, starling.MachineHealthy)
	m.stop()
	if err := removeRelease(m.app(releasesDir)); err != nil {
		t.Fatal(err)
	}
	m.start()
	eventually(t, 20*time.Second, "v1 answers again", func() bool { return m.serves("v1") })
}

func TestSurplusReleases(t *testing.T) {
	d := func(s string) starling.Digest { return starling.DigestOf([]byte(s)) }
	g := func(s string) *starling.Goal { return &starling.Goal{Artifact: d(s)} }
	rec := &record{Goal: g("new"), Running: g("run")}
	rec.Goal.Previous = d("prev")
	for _, name := range []string{"run", "prev", "c", "begun", "b", "a", "new"} {
		rec.use(d(name), time.Unix(1, 0))
		rec.release(d(name)).Complete = name != "begun" && name != "new"
	}
	if got, want := rec.surplus(3), []starling.Digest{d("begun"), d("c")}; !slices.Equal(got, want) {
		// Order of use, the last first: new a b begun c prev run.
		t.Errorf("surplus %v, want %v", got, want)
	}
	if got := rec.surplus(1); len(got) != 4 {
		t.Errorf("keep 1: %d surplus", len(got))
	}
	rec.use(d("c"), time.Unix(2, 0))
	if rec.Releases[0].Artifact != d("c") || !rec.Releases[0].Complete || len(rec.Releases) != 7 {
		t.Errorf("used: %+v", rec.Releases[0])
	}
	if len(rec.kept()) != 5 {
		t.Errorf("kept %d", len(rec.kept()))
	}
}

func TestAdoptable(t *testing.T) {
	a := goal(1, starling.DigestOf([]byte("a")), running(t))
	rec := &record{Running: withDefaults(&a)}
	for name, tt := range map[string]struct {
		edit func(*starling.Goal)
		want bool
	}{
		"the same":         {func(*starling.Goal) {}, true},
		"other generation": {func(g *starling.Goal) { g.Generation.Sequence++ }, true},
		"other artifact":   {func(g *starling.Goal) { g.Artifact[0]++ }, false},
		"other command":    {func(g *starling.Goal) { g.Deploy.Run = append(g.Deploy.Run, "-v") }, false},
		"other check":      {func(g *starling.Goal) { g.Deploy.Health.HTTP += "x" }, false},
		"no check":         {func(g *starling.Goal) { g.Deploy.Health = nil }, false},
	} {
		g := withDefaults(&a)
		tt.edit(g)
		if got := rec.adoptable(g); got != tt.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestBuffersFit(t *testing.T) {
	var b buffers
	for _, size := range []int{0, 1, minBufferBytes, minBufferBytes + 1, 1 << 20, starling.MaxChunkBytes - 1, starling.MaxChunkBytes} {
		buf := b.get(size)
		if len(buf) < size || len(buf) > max(minBufferBytes, 2*size) {
			t.Errorf("%d bytes for %d", len(buf), size)
		}
		b.put(buf[:0])
	}
}
