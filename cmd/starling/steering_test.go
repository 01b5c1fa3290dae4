package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// steered is a world of two regions in which an app rolls out in r2 first, though its home
// is r1, and is steered with the CLI from either region's server.
type steered struct {
	*cluster
	home, far string // flags that name the servers
	gate      string // file without which the second release's machines are not healthy
	releases  map[string]string
}

func newSteered(t *testing.T) *steered {
	t.Helper()
	c := asProcesses(t, world.Size{Regions: 2, Servers: 1, Caches: 1, Machines: 4})
	s := &steered{cluster: c, home: "--addr=http://" + c.w.Named("r1-server-1").HTTP, far: "--addr=http://" + c.w.Named("r2-server-1").HTTP,
		gate: filepath.Join(t.TempDir(), "gate"), releases: map[string]string{}}
	for _, v := range []string{"v1", "v2", "v3"} {
		files, dir := release(v, true), t.TempDir()
		if v == "v2" {
			files["src/check"] = "#!/bin/sh\ntest -e '" + s.gate + "'\n"
		}
		for name, text := range files {
			if err := os.WriteFile(filepath.Join(dir, filepath.Base(name)), []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		var record starling.Artifact
		s.json(&record, "artifact", "push", dir, s.home)
		s.releases[v] = record.Digest.String()
	}
	return s
}

// json runs a command and reads what it prints.
func (s *steered) json(to any, args ...string) {
	s.t.Helper()
	if err := json.Unmarshal([]byte(mustCLI(s.t, append(args, "--json")...)), to); err != nil {
		s.t.Fatal(err)
	}
}

func (s *steered) applyApp(name, strategy string) {
	s.t.Helper()
	mustCLI(s.t, "app", "apply", s.home, writeFile(s.t, name+".hcl", `
app "`+name+`" {
  deploy {
    targets  = "role == web"
    run      = ["./serve"]
    deadline = "3h"
    health {
      exec          = ["./check"]
      interval      = "100ms"
      healthy_after = "200ms"
      deadline      = "5m"
    }
    strategy {
      `+strategy+`
    }
  }
}
`))
}

// submit begins a deployment and does not wait for it.
func (s *steered) submit(app, version string) string {
	s.t.Helper()
	return strings.TrimSpace(mustCLI(s.t, "deploy", app, "--artifact", s.releases[version], "--detach", s.home))
}

func (s *steered) status(id string) (d starling.Deployment) {
	s.t.Helper()
	s.json(&d, "status", id, s.home)
	return d
}

// versions returns what the machines of a region run as an app.
func (s *steered) versions(region, app string) map[string]int {
	n := map[string]int{}
	for _, m := range s.w.WithRole(starling.RoleMachine) {
		if m.Region == region {
			n[current(m, app)]++
		}
	}
	return n
}

func (s *steered) wantVersions(region string, want map[string]int) {
	s.t.Helper()
	s.eventually(time.Minute, func() error {
		if got := s.versions(region, "hello"); !maps.Equal(got, want) {
			return fmt.Errorf("the machines of %s run %v, want %v", region, got, want)
		}
		return nil
	})
}

// why waits until the answer to why a deployment is where it is has some words in it.
func (s *steered) why(id, words string) {
	s.t.Helper()
	s.eventually(time.Minute, func() error {
		if out := mustCLI(s.t, "why", id, s.far); !strings.Contains(out, words) {
			return fmt.Errorf("no %q in %s", words, out)
		}
		return nil
	})
}

// A roll-out of real machines, region by region, is paused, resumed, promoted and aborted;
// a queued deployment gives way to a newer one.
func TestRollOutIsSteered(t *testing.T) {
	if testing.Short() {
		t.Skip("a world of processes")
	}
	t.Parallel()
	s := newSteered(t)
	const order = "waves = [\"50%\", \"100%\"]\nregions = [[\"r2\"], [\"r1\"]]\n"
	s.applyApp("hello", order)
	s.applyApp("other", "")
	mustCLI(t, "deploy", "hello", "--artifact", s.releases["v1"], s.home)
	s.wantVersions("r1", map[string]int{"v1": 2})
	s.wantVersions("r2", map[string]int{"v1": 2})

	second := s.submit("hello", "v2")
	s.eventually(time.Minute, func() error {
		if got := s.versions("r2", "hello"); got["v2"] == 0 {
			return fmt.Errorf("the machines of r2 run %v", got)
		}
		return nil
	})
	s.applyApp("hello", order+`bake = "1h"`)
	old, newest := s.pausedMeanwhile(second, func() (string, string) { return s.submit("hello", "v1"), s.submit("hello", "v3") })
	if out := mustCLI(t, "resume", second, s.far); strings.Contains(out, "held") {
		t.Errorf("resumed: %s", out)
	}
	s.until(s.apis["r1"], second, starling.PhaseSucceeded)
	if d := s.status(old); d.Phase != starling.PhaseCancelled || d.SupersededBy != newest {
		t.Errorf("the older one is %s, superseded by %q, want %s", d.Phase, d.SupersededBy, newest)
	}
	if out := mustCLI(t, "status", old, s.far); !strings.Contains(out, "superseded by deployment "+newest) {
		t.Errorf("status: %s", out)
	}
	s.promotedAndAborted(newest)
}

// pausedMeanwhile pauses a deployment whose machines in r2 are about to be healthy, has
// others submitted, and checks that it stands still while the machines get and run
// another app, for which its leader and they go many rounds.
func (s *steered) pausedMeanwhile(id string, submit func() (old, newest string)) (old, newest string) {
	s.t.Helper()
	var paused starling.Deployment
	s.json(&paused, "pause", id, s.far)
	if paused.Hold == nil || paused.Hold.Index == 0 || paused.Hold.Revision == 0 || paused.Step().Group != 0 {
		s.t.Fatalf("paused: %+v, %+v", paused.Hold, paused.Step())
	}
	if err := os.WriteFile(s.gate, nil, 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.eventually(time.Minute, func() error { // there is no bake: but for the pause, the next step would begin
		var y starling.Why
		s.json(&y, "why", id, s.home)
		if n := y.Machines; n.Due == 0 || n.Healthy < n.Due {
			return fmt.Errorf("%d of %d machines are healthy", n.Healthy, n.Due)
		}
		return nil
	})
	at := s.versions("r2", "hello")
	old, newest = submit()
	if out, errs, code := cli(s.t, "promote", id, "--all", s.far); code != exitFailed || !strings.Contains(errs, "paused") {
		s.t.Errorf("promote while paused: exit %d: %s%s", code, out, errs)
	}
	mustCLI(s.t, "deploy", "other", "--artifact", s.releases["v3"], s.home)
	d, goal := s.status(id), s.goal()
	if d.Hold == nil || d.Hold.Index != paused.Hold.Index || d.Wave != paused.Wave || d.Phase != starling.PhaseRollingOut {
		s.t.Errorf("while paused: %s, step %d, %+v; when it was paused: step %d, %+v", d.Phase, d.Wave, d.Hold, paused.Wave, paused.Hold)
	}
	if h := paused.Hold; goal.Generation != h.Generation || goal.Revision != h.Revision || goal.In("r1").Cutoff != 0 {
		s.t.Errorf("while paused the goal is %s revision %d, in r1 up to %d; held at %+v", goal.Generation, goal.Revision, goal.In("r1").Cutoff, h)
	}
	if got := s.versions("r1", "hello"); got["v1"] != 2 {
		s.t.Errorf("while paused the machines of r1 run %v", got)
	}
	if got := s.versions("r2", "hello"); !maps.Equal(got, at) {
		s.t.Errorf("while paused the machines of r2 run %v, before %v", got, at)
	}
	return old, newest
}

func (s *steered) goal() *starling.Goal {
	s.t.Helper()
	g, err := s.apis["r1"].Goal(s.t.Context(), "hello")
	if err != nil {
		s.t.Fatal(err)
	}
	return g
}

// promotedAndAborted takes a deployment with a long bake through r2 and into r1 by hand,
// and back everywhere.
func (s *steered) promotedAndAborted(id string) {
	s.t.Helper()
	s.why(id, "wave 1 of 2 in r2 are well; it bakes for 1h")
	if got := s.versions("r1", "hello"); got["v2"] != 2 {
		s.t.Errorf("after the deployment before, and while r2 goes first, the machines of r1 run %v", got)
	}
	mustCLI(s.t, "promote", id, s.far)
	s.why(id, "wave 2 of 2 in r2 are well; it bakes for 1h")
	s.wantVersions("r2", map[string]int{"v3": 2})
	if out := mustCLI(s.t, "promote", id, s.home); !strings.Contains(out, "wave 1 of 2 in r1: 50%") {
		s.t.Errorf("promote: %s", out)
	}
	if out := mustCLI(s.t, "abort", id, "--reason", "the figures fell", s.far); !strings.Contains(out, "is failed") || !strings.Contains(out, "fenced at log index") {
		s.t.Errorf("abort: %s", out)
	}
	s.wantVersions("r1", map[string]int{"v2": 2})
	s.wantVersions("r2", map[string]int{"v2": 2})
	d := s.status(id)
	if d.Phase != starling.PhaseFailed || d.RevertedTo.String() != s.releases["v2"] || !strings.Contains(d.Reason, "the figures fell") {
		s.t.Errorf("aborted: %s, back to %s: %s", d.Phase, d.RevertedTo.Short(), d.Reason)
	}
	if _, errs, code := cli(s.t, "promote", id, s.far); code != exitFailed || !strings.Contains(errs, "has ended") {
		s.t.Errorf("promote after the abort: exit %d: %s", code, errs)
	}
}
