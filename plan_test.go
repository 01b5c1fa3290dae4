package starling

import (
	"reflect"
	"slices"
	"testing"
)

func planned() *Plan {
	return &Plan{
		App: "web", SHA: "aa", Artifact: DigestOf([]byte("v2")), Spec: DigestOf([]byte("spec")),
		Previous: PlanRelease{Artifact: DigestOf([]byte("v1")), Generation: Generation{1, 4}},
		Regions:  []PlanRegion{{Name: "eu", Machines: 5}, {Name: "us", Machines: 7}},
	}
}

func TestPlanHashCoversWhatDecides(t *testing.T) {
	whole := planned().Hash()
	for what, change := range map[string]func(*Plan){
		"app":            func(p *Plan) { p.App = "api" },
		"commit":         func(p *Plan) { p.SHA = "bb" },
		"artifact":       func(p *Plan) { p.Artifact = DigestOf([]byte("v3")) },
		"spec":           func(p *Plan) { p.Spec = DigestOf([]byte("another")) },
		"changed since":  func(p *Plan) { p.ChangedTo = DigestOf([]byte("another")) },
		"previous":       func(p *Plan) { p.Previous.Artifact = DigestOf([]byte("v0")) },
		"generation":     func(p *Plan) { p.Previous.Generation.Sequence++ },
		"epoch":          func(p *Plan) { p.Previous.Generation.Epoch++ },
		"a region less":  func(p *Plan) { p.Regions = p.Regions[:1] },
		"order":          func(p *Plan) { slices.Reverse(p.Regions) },
		"another region": func(p *Plan) { p.Regions[1].Name = "ap" },
	} {
		p := planned()
		if change(p); p.Hash() == whole {
			t.Errorf("%s: the hash stays", what)
		}
	}
	for what, change := range map[string]func(*Plan){
		"machines":   func(p *Plan) { p.Regions[0].Machines, p.Regions[1].Held, p.Regions[0].Absent = 9, 2, 1 },
		"placed":     func(p *Plan) { p.Regions[0].Placed = true },
		"deployment": func(p *Plan) { p.Deployment, p.ID = "d-1", DigestOf(nil) },
		"estimates":  func(p *Plan) { p.Stages, p.TotalMS, p.Bytes.New = []StageEstimate{{StageBuild, 7, 1, "app"}}, 7, 9 },
		"waits":      func(p *Plan) { p.WaitsFor = []PlanWait{{WaitQueue, "long"}} },
		"revision":   func(p *Plan) { p.Revision = 8 },
	} {
		p := planned()
		if change(p); p.Hash() != whole {
			t.Errorf("%s: the hash is another", what)
		}
	}
}

func TestSpecDigestIsOfWhatPeopleWrite(t *testing.T) {
	a := App{Name: "web", Home: "us", Epoch: 3, Line: "eu", Revision: 9}
	b := App{Name: "web"}
	a.SetDefaults()
	b.SetDefaults()
	if a.SpecDigest() != b.SpecDigest() {
		t.Error("home and revision are no part of the spec")
	}
	b.Deploy.Hooks.Pre = []string{"./migrate"}
	if a.SpecDigest() == b.SpecDigest() || a.Revision != 9 {
		t.Error("hooks are")
	}
}

func TestDiffSpecs(t *testing.T) {
	before := &App{Name: "web", Build: &BuildSpec{Command: []string{"make"}, Env: map[string]string{"A": "1"}}}
	before.SetDefaults()
	after := *before
	build := *before.Build
	build.Env = map[string]string{"A": "2"}
	after.Build = &build
	after.Revision, after.Home = 5, "eu"
	after.Deploy.Strategy.Waves = []string{"1%", "100%"}
	after.Deploy.Strategy.AutoRevert = true
	after.Deploy.Health = &Health{TCP: "127.0.0.1:80"}
	want := []FieldChange{
		{"build.env", `{"A":"1"}`, `{"A":"2"}`},
		{"deploy.health.deadline", "", `"0s"`}, {"deploy.health.healthy_after", "", `"0s"`}, {"deploy.health.interval", "", `"0s"`},
		{"deploy.health.tcp", "", `"127.0.0.1:80"`}, {"deploy.health.timeout", "", `"0s"`},
		{"deploy.strategy.auto_revert", "false", "true"},
		{"deploy.strategy.waves", `["100%"]`, `["1%","100%"]`},
	}
	if got := DiffSpecs(before, &after); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	if got := DiffSpecs(before, before); got == nil || len(got) != 0 {
		t.Errorf("of the same spec: %v", got)
	}
	if got := DiffSpecs(nil, before); len(got) == 0 || slices.ContainsFunc(got, func(c FieldChange) bool { return c.Old != "" || c.New == "" }) {
		t.Errorf("of nothing: %v", got)
	}
}
