package starling_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
	"pgregory.net/rapid"
)

func TestPhaseTransitions(t *testing.T) {
	all := []starling.Phase{
		starling.PhaseQueued, starling.PhaseBuilding, starling.PhaseReplicating, starling.PhaseStaging,
		starling.PhaseAwaitingApproval, starling.PhaseRollingOut,
		starling.PhaseSucceeded, starling.PhaseFailed, starling.PhaseCancelled,
	}
	legal := map[string]bool{
		"queued building": true, "queued replicating": true, "building replicating": true, "building queued": true,
		"replicating staging": true, "staging awaiting_approval": true, "staging rolling_out": true,
		"awaiting_approval rolling_out": true, "rolling_out succeeded": true,
	}
	for _, p := range all {
		for _, q := range all {
			want := legal[fmt.Sprint(p, " ", q)] ||
				!p.Terminal() && (q == starling.PhaseFailed || q == starling.PhaseCancelled)
			if got := p.CanBecome(q); got != want {
				t.Errorf("%s → %s: %v, want %v", p, q, got, want)
			}
		}
	}
}

func TestGoalSupersedes(t *testing.T) {
	goal := func(epoch, seq, rev uint64) *starling.Goal {
		return &starling.Goal{Generation: starling.Generation{Epoch: epoch, Sequence: seq}, Revision: rev}
	}
	ordered := []*starling.Goal{goal(1, 1, 1), goal(1, 1, 2), goal(1, 2, 1), goal(1, 2, 9), goal(2, 1, 1)}
	for i, old := range ordered {
		for j, g := range ordered {
			if got := g.Supersedes(old); got != (j > i) {
				t.Errorf("%s r%d supersedes %s r%d: %v", g.Generation, g.Revision, old.Generation, old.Revision, got)
			}
		}
	}
	if !ordered[0].Supersedes(nil) {
		t.Error("the first goal supersedes nothing")
	}
}

// A wave that is wider holds every machine of a narrower one, and about its share.
func TestCutoffSelects(t *testing.T) {
	const machines = 20_000
	tenth, half := 0, 0
	for i := range machines {
		name := fmt.Sprintf("m%d", i)
		t10 := (starling.CutoffAll / 10).Selects(name, "d-1")
		t50 := (starling.CutoffAll / 2).Selects(name, "d-1")
		if t10 && !t50 {
			t.Fatalf("%s is in the narrow wave but not in the wide one", name)
		}
		if !starling.CutoffAll.Selects(name, "d-1") || starling.Cutoff(0).Selects(name, "d-1") {
			t.Fatalf("%s: all must select it, none must not", name)
		}
		if t10 {
			tenth++
		}
		if t50 {
			half++
		}
	}
	if tenth < 1800 || tenth > 2200 || half < 9700 || half > 10300 {
		t.Errorf("10%% selected %d, 50%% selected %d of %d", tenth, half, machines)
	}
}

func TestSelector(t *testing.T) {
	node := &starling.Node{Name: "m1", Region: "eu", Zone: "a", Rack: "r2", Tags: map[string]string{"role": "web"}}
	for text, want := range map[string]bool{
		"":                             true,
		"role == web":                  true,
		`role == "web" and zone == a`:  true,
		"role != web":                  false,
		"rack in (r1, r2)":             true,
		"rack not in (r1,r2)":          false,
		"name in [m1] && region == eu": true,
		"missing == x":                 false,
		"missing != x":                 true,
	} {
		s, err := starling.ParseSelector(text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := s.Matches(node); got != want {
			t.Errorf("%q matches: %v, want %v", text, got, want)
		}
	}
	for _, text := range []string{"role", "role = web", "== web", "role == web or zone == a", strings.Repeat("x", 2000)} {
		if _, err := starling.ParseSelector(text); !starling.IsInvalid(err) {
			t.Errorf("%.40q: error %v, want an invalid one", text, err)
		}
	}
}

// Losing a name moves only its own share; every name gets about its share.
func TestRendezvous(t *testing.T) {
	names := []string{"c1", "c2", "c3", "c4"}
	count := map[string]int{}
	for i := range 4000 {
		key := starling.DigestOf([]byte(fmt.Sprint(i)))
		first := starling.Rendezvous(key, names, 2)
		count[first[0]]++
		without := starling.Rendezvous(key, []string{"c1", "c2", "c4"}, 2)
		if first[0] != "c3" && without[0] != first[0] {
			t.Fatalf("losing c3 moved a key from %s to %s", first[0], without[0])
		}
		if first[0] == "c3" && without[0] != first[1] {
			t.Fatalf("the second of %v must take over, not %s", first, without[0])
		}
	}
	for name, n := range count {
		if n < 850 || n > 1150 {
			t.Errorf("%s is first for %d of 4000 keys", name, n)
		}
	}
	if got := starling.Rendezvous(starling.Digest{}, names, 9); len(got) != 4 {
		t.Errorf("asking for more than all gives %d names", len(got))
	}
}

func TestAppDefaultsAndValidation(t *testing.T) {
	valid := func() starling.App {
		a := starling.App{
			Name: "hello", Source: starling.SourceSpec{Git: "https://git.example/hello.git"},
			Build:  &starling.BuildSpec{Command: []string{"make"}},
			Deploy: starling.DeploySpec{Health: &starling.Health{HTTP: "http://127.0.0.1:$PORT/"}},
		}
		return a
	}
	for name, c := range map[string]struct {
		change func(*starling.App)
		field  string
	}{
		"valid":           {func(*starling.App) {}, ""},
		"name":            {func(a *starling.App) { a.Name = "Hello World" }, "name"},
		"no command":      {func(a *starling.App) { a.Build.Command = nil }, "build.command"},
		"no repository":   {func(a *starling.App) { a.Source.Git = "" }, "source.git"},
		"option as URL":   {func(a *starling.App) { a.Source.Git = "--upload-pack=x" }, "source.git"},
		"output escapes":  {func(a *starling.App) { a.Build.Output = "../x" }, "build.output"},
		"two checks":      {func(a *starling.App) { a.Deploy.Health.TCP = "x:1" }, "deploy.health"},
		"gate":            {func(a *starling.App) { a.Deploy.Strategy.Gate = "some" }, "deploy.strategy.gate"},
		"waves fall":      {func(a *starling.App) { a.Deploy.Strategy.Waves = []string{"50%", "10%", "100%"} }, "deploy.strategy.waves"},
		"waves end early": {func(a *starling.App) { a.Deploy.Strategy.Waves = []string{"50%"} }, "deploy.strategy.waves"},
		"max failed":      {func(a *starling.App) { a.Deploy.Strategy.MaxFailed = "NaN%" }, "deploy.strategy.max_failed"},
		"deadline":        {func(a *starling.App) { a.Deploy.Deadline = starling.Duration(1) }, "deploy.deadline"},
		"targets":         {func(a *starling.App) { a.Deploy.Targets = "role ~ web" }, "deploy.targets"},
	} {
		a := valid()
		a.SetDefaults()
		c.change(&a)
		err := a.Validate()
		switch {
		case c.field == "" && err != nil:
			t.Errorf("%s: %v", name, err)
		case c.field != "" && (err == nil || !strings.HasPrefix(err.Error(), c.field+":")):
			t.Errorf("%s: error %v, want one about %s", name, err, c.field)
		}
	}
	a := valid()
	a.SetDefaults()
	cutoffs, err := (&starling.Strategy{Waves: []string{"1%", "10%", "100%"}}).Cutoffs()
	if err != nil || !slices.Equal(cutoffs, []starling.Cutoff{10_000, 100_000, starling.CutoffAll}) {
		t.Errorf("cutoffs %v, %v", cutoffs, err)
	}
}

func TestBuildKeyTellsBuildsApart(t *testing.T) {
	app := func(command string) *starling.App {
		return &starling.App{Name: "a", Build: &starling.BuildSpec{Command: []string{command}, Env: map[string]string{"X": "1", "Y": "2"}}}
	}
	key := app("make").BuildKey("s1")
	for range 50 { // Go's maps have no order of their own
		if again := app("make").BuildKey("s1"); again != key {
			t.Fatalf("the same build has two keys, %s and %s", key, again)
		}
	}
	if key == app("make").BuildKey("s2") || key == app("ninja").BuildKey("s1") {
		t.Error("different builds share a key")
	}
}

func TestDigestText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := starling.DigestOf(rapid.SliceOf(rapid.Byte()).Draw(t, "content"))
		back, err := starling.ParseDigest(d.String())
		if err != nil || back != d {
			t.Fatalf("%v, %v", back, err)
		}
	})
	for _, s := range []string{"sha256:", "sha256:zz", "md5:" + strings.Repeat("0", 64), strings.Repeat("0", 64)} {
		if _, err := starling.ParseDigest(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
}

func TestCountsAdd(t *testing.T) {
	var sum starling.Counts
	for i := range 9 {
		sum = sum.Add(starling.Counts{Target: 2, Failed: 1, Samples: []starling.FailureSample{{Node: fmt.Sprint("m", 9-i)}}})
	}
	if sum.Target != 18 || sum.Failed != 9 || len(sum.Samples) != starling.MaxFailureSamples || sum.Samples[0].Node != "m1" {
		t.Errorf("%+v", sum)
	}
}
