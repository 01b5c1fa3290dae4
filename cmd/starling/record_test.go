package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// knowsWhatWas holds against each other what regions say after v1, v2 and a v3 that was
// reverted: readiness, plans, history, differences, provenance.
func (c *cluster) knowsWhatWas(v1 *starling.Deployment, v1sha, v2sha string) {
	c.t.Helper()
	home, far := c.apis["r1"], c.apis["r2"]
	// A machine tells what it keeps with its next report.
	c.eventually(30*time.Second, func() error {
		all, err := far.Readiness(c.t.Context(), "hello")
		if err != nil {
			return err
		}
		if len(all) != 2 || !all[0].Readiness.Current || all[1].Readiness.Current {
			return fmt.Errorf("releases %+v", all)
		}
		for i := range all {
			if r := all[i].Readiness; r.Share != 1 || r.Held != 4 || len(r.Regions) != 2 || r.RollbackMS <= 0 || r.Basis == "" {
				return fmt.Errorf("release %d: %+v", all[i].Generation.Sequence, r)
			}
		}
		return nil
	})

	back, err := home.Plan(c.t.Context(), starling.PlanRequest{App: "hello", SHA: v1sha})
	if err != nil {
		c.t.Fatal(err)
	}
	if !back.Change || !back.Bytes.Cached || back.Bytes.Estimated || back.Artifact != v1.Artifact || back.Bytes.New <= 0 || back.Bytes.New > back.Bytes.Artifact {
		c.t.Errorf("a plan of what is built: %+v", back)
	}
	if same, err := far.Plan(c.t.Context(), starling.PlanRequest{App: "hello", SHA: v2sha}); err != nil || same.Change || len(same.Changes) != 0 {
		c.t.Errorf("a plan of what runs: %+v, %v", same, err)
	}

	history, err := far.History(c.t.Context(), "hello", "", 10)
	if err != nil || len(history) != 3 {
		c.t.Fatalf("%+v, %v", history, err)
	}
	v2 := &history[1]
	if v2.SHA != v2sha || v2.From == nil || v2.From.Addr != "127.0.0.1" || !strings.HasPrefix(v2.From.Agent, "Go-http-client") {
		c.t.Errorf("v2 in the history: %+v, from %+v", v2, v2.From)
	}
	if l := v2.Commits; l == nil || l.Since != v1sha || len(l.Commits) != 1 || !strings.HasPrefix(v2sha, l.Commits[0].SHA) || l.Problem != "" {
		c.t.Errorf("what v2 brought: %+v", v2.Commits)
	}
	diff, err := home.Diff(c.t.Context(), "hello", v1.ID, v2.ID)
	if err != nil || len(diff.Changes) != 0 || len(diff.Commits) != 1 || len(diff.Gaps) != 0 || diff.SHAs != [2]string{v1sha, v2sha} {
		c.t.Errorf("v1 to v2: %+v, %v", diff, err)
	}
	p, err := far.Provenance(c.t.Context(), v1.ID)
	if err != nil {
		c.t.Fatal(err)
	}
	a, s := p.Artifact, p.Signature
	if a == nil || a.Built == nil || a.Built.Deployment != v1.ID || a.Built.Worker != v1.Worker || !a.Built.EndedAt.After(a.Built.StartedAt) || a.BuildKey == "" || p.Cached {
		c.t.Errorf("provenance %+v, artifact %+v", p, a)
	}
	if s == nil || !slices.Contains(s.Roles, starling.RoleWorker) || s.At.IsZero() {
		c.t.Errorf("signature %+v: %s", s, p.Problem)
	}
}

func TestPlanReadsWell(t *testing.T) {
	p := &starling.Plan{
		App: "web", SHA: strings.Repeat("ab", 20), Change: true, Revision: 7, ID: starling.DigestOf([]byte("plan")),
		Previous: starling.PlanRelease{Artifact: starling.DigestOf([]byte("v1")), Generation: starling.Generation{Epoch: 1, Sequence: 4}},
		Regions:  []starling.PlanRegion{{Name: "eu", Machines: -1}, {Name: "us", Machines: 40, Absent: 1, Held: 12, Placed: true}},
		Strategy: starling.Strategy{Gate: starling.GateAllRegions, Waves: []string{"1%", "100%"}, Bake: starling.Duration(30 * time.Second), MaxFailed: "1%"},
		Bytes:    starling.PlanBytes{Artifact: 33e6, New: 2e6, Estimated: true, Basis: "it is to be built: the median of the app's last 10"},
		Stages:   []starling.StageEstimate{{Stage: starling.StageBuild, MS: 90_000, Of: 10, Basis: "app"}, {Stage: starling.StageRollout, Basis: "none"}},
		TotalMS:  90_000,
		Changes:  []starling.FieldChange{{Field: "deploy.keep", Old: "3", New: "5"}, {Field: "deploy.health.tcp", New: `"127.0.0.1:80"`}},
		WaitsFor: []starling.PlanWait{{Kind: starling.WaitApproval, Text: "somebody with the role approver must approve it"}},
	}
	var out strings.Builder
	if err := printPlan(&out, p); err != nil {
		t.Fatal(err)
	}
	wantLines(t, out.String(), "web: commit abababababab, to be built; after release 4", "new on each machine 2.0 MB (it is to be built", "hash: sha256:",
		"eu no answer - - false", "us 40 1 12 true", "build 1m30s the app's last 10", "rollout 0s nothing to judge by", "total 1m30s",
		"deploy.keep: 3 → 5", `deploy.health.tcp: (not set) → "127.0.0.1:80"`, "waits for: somebody with the role approver")
	asked := func(answer string) error {
		var seen strings.Builder
		err := confirmPlan(&seen, strings.NewReader(answer), p)
		wantLines(t, seen.String(), "hash: sha256:", "roll out? [y/N]")
		return err
	}
	if err := asked("y\n"); err != nil {
		t.Error(err)
	}
	for _, no := range []string{"\n", "", "no\n", "maybe\n"} {
		if err := asked(no); exitCode(err) != exitCancelled {
			t.Errorf("answer %q: %v", no, err)
		}
	}
}
