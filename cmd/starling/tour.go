package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/client"
	"github.com/starlingdeploy/starling/world"
)

// tour is the scripted main job: what `make demo` shows. Every step checks what it
// claims over HTTP at the machines themselves.
type tour struct {
	out   io.Writer
	w     *world.World
	api   *client.Client // of a server that the tour never kills
	repo  string
	began time.Time
	rows  []tourRow
}

type tourRow struct {
	what string
	d    *starling.Deployment
}

// Sizes of the example's data, which stays almost the same from version to version.
const (
	catalogBytes = 48 << 20
	patchBytes   = 64 << 10
)

func runTour(ctx context.Context, out io.Writer, w *world.World, example string) error {
	t := &tour{out: out, w: w, repo: filepath.Join(w.Dir, "hello.git"), began: time.Now()}
	steps := []struct {
		title string
		run   func(context.Context, string) error
	}{
		{"a world of real processes starts", t.start},
		{"a git repository is made from " + example, func(ctx context.Context, _ string) error { return t.makeRepo(ctx, example) }},
		{"v1: the first release reaches every machine", t.first},
		{"v2: a small change moves few bytes", t.second},
		{"v3: its health check fails, so it is reverted", t.broken},
		{"roll back to v1 without moving a byte", t.rollBack},
		{"v4: the leader is killed in mid-deployment", t.leaderKilled},
	}
	for i, s := range steps {
		fmt.Fprintf(out, "\n[%5.1fs] %d/%d %s\n", time.Since(t.began).Seconds(), i+1, len(steps), s.title)
		if err := s.run(ctx, s.title); err != nil {
			return fmt.Errorf("%s: %w", s.title, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return t.summary()
}

func (t *tour) start(ctx context.Context, _ string) error {
	if _, err := t.w.Ready(ctx); err != nil {
		return err
	}
	for _, p := range t.w.WithRole(starling.RoleServer) {
		c, err := client.New(client.Config{Addr: "http://" + p.HTTP})
		if err != nil {
			return err
		}
		leader, err := c.Leader(ctx)
		if err != nil {
			return err
		}
		if leader.Self {
			t.say("region %s is led by %s", p.Region, p.Name)
		} else if t.api == nil {
			t.api = c
		}
	}
	t.say("%d processes run, each with its own data and log below %s", len(t.w.Procs), t.w.Dir)
	return nil
}

func (t *tour) say(format string, args ...any) {
	fmt.Fprintf(t.out, "         "+format+"\n", args...)
}

// git runs a git command in the example's repository.
func (t *tour) git(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "git", append([]string{"-C", t.repo, "-c", "user.name=Demo", "-c", "user.email=demo@starling.example"}, args...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("git %s: %w: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

func (t *tour) makeRepo(ctx context.Context, example string) error {
	if err := os.CopyFS(t.repo, os.DirFS(example)); err != nil {
		return fmt.Errorf("example app: %w (run this from the repository, or name it with --example)", err)
	}
	if err := os.MkdirAll(filepath.Join(t.repo, "data"), 0o755); err != nil {
		return err
	}
	if _, err := t.git(ctx, "init", "--quiet", "--initial-branch=main"); err != nil {
		return err
	}
	sha, err := t.commit(ctx, "v1", 1)
	if err != nil {
		return err
	}
	t.say("commit %s, with %s of data beside the program", shortSHA(sha), humanBytes(catalogBytes))
	return t.applyApp(ctx, example)
}

// applyApp applies the example's own app file with the repository's place put in.
func (t *tour) applyApp(ctx context.Context, example string) error {
	name := filepath.Join(example, "starling.hcl")
	src, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	apps, err := parseAppFile(name, src)
	if err != nil {
		return err
	}
	apps[0].Source.Git = t.repo
	app, err := t.api.ApplyApp(ctx, apps[0], nil)
	if err != nil {
		return err
	}
	t.say("app %s has its home in %s", app.Name, app.Home)
	return nil
}

// commit writes a version: its name and, beyond the first, a patch of the data.
func (t *tour) commit(ctx context.Context, version string, seed uint64) (string, error) {
	if err := os.WriteFile(filepath.Join(t.repo, "VERSION"), []byte(version+"\n"), 0o644); err != nil {
		return "", err
	}
	catalog := filepath.Join(t.repo, "data", "catalog.bin")
	var key [32]byte
	key[0] = byte(seed)
	random := rand.NewChaCha8(key)
	f, err := os.OpenFile(catalog, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer f.Close()
	if seed == 1 {
		_, err = io.CopyN(f, random, catalogBytes)
	} else {
		_, err = io.CopyN(io.NewOffsetWriter(f, int64(seed)<<20), random, patchBytes)
	}
	if err != nil {
		return "", err
	}
	if _, err := t.git(ctx, "add", "--all"); err != nil {
		return "", err
	}
	if _, err := t.git(ctx, "commit", "--quiet", "--message", version); err != nil {
		return "", err
	}
	return t.git(ctx, "rev-parse", "HEAD")
}

// deploy submits a commit and follows it to its end.
func (t *tour) deploy(ctx context.Context, what, version string, seed uint64) (*starling.Deployment, error) {
	sha := ""
	var err error
	if seed == 1 {
		sha, err = t.git(ctx, "rev-parse", "HEAD")
	} else {
		sha, err = t.commit(ctx, version, seed)
	}
	if err != nil {
		return nil, err
	}
	d, err := t.api.Submit(ctx, starling.Submission{App: "hello", SHA: sha, IdempotencyKey: sha})
	if err != nil {
		return nil, err
	}
	return t.follow(ctx, what, d)
}

func (t *tour) follow(ctx context.Context, what string, d *starling.Deployment) (*starling.Deployment, error) {
	f := &follower{client: t.api, id: d.ID, story: newStory(d), screen: &lineScreen{t.out}}
	if file, ok := t.out.(*os.File); ok && isTerminal(file) {
		f.screen = newLiveScreen(file)
	}
	end, err := f.run(ctx, d)
	f.screen.close()
	if err != nil {
		return nil, err
	}
	t.rows = append(t.rows, tourRow{what, end})
	return end, nil
}

func (t *tour) first(ctx context.Context, title string) error {
	d, err := t.deploy(ctx, title, "v1", 1)
	if err != nil {
		return err
	}
	return t.expect(ctx, d, starling.PhaseSucceeded, "v1")
}

func (t *tour) second(ctx context.Context, title string) error {
	d, err := t.deploy(ctx, title, "v2", 2)
	if err != nil {
		return err
	}
	if err := t.expect(ctx, d, starling.PhaseSucceeded, "v2"); err != nil {
		return err
	}
	each := (d.Bytes.CacheOut + d.Bytes.Peer) / int64(max(d.Machines.Target, 1))
	t.say("of %s, %s were new, and each machine received %s", humanBytes(d.Bytes.Artifact), humanBytes(d.Bytes.New), humanBytes(each))
	if each > d.Bytes.Artifact/4 {
		return fmt.Errorf("each machine received %s of %s: no small share", humanBytes(each), humanBytes(d.Bytes.Artifact))
	}
	return nil
}

func (t *tour) broken(ctx context.Context, title string) error {
	d, err := t.deploy(ctx, title, "v3-broken", 3)
	if err != nil {
		return err
	}
	t.say("reason: %s", d.Reason)
	return t.expect(ctx, d, starling.PhaseFailed, "v2")
}

func (t *tour) rollBack(ctx context.Context, title string) error {
	d, err := t.api.Rollback(ctx, "hello", 0, "tour-rollback")
	if err != nil {
		return err
	}
	if d, err = t.follow(ctx, title, d); err != nil {
		return err
	}
	if err := t.expect(ctx, d, starling.PhaseSucceeded, "v1"); err != nil {
		return err
	}
	if moved := d.Bytes.New + d.Bytes.WAN + d.Bytes.CacheOut + d.Bytes.Peer; moved != 0 {
		return fmt.Errorf("%s moved, although every machine held the release", humanBytes(moved))
	}
	t.say("0 bytes moved")
	return nil
}

// leaderKilled deploys v4 and ends the home's leader with kill -9 once the build is done.
func (t *tour) leaderKilled(ctx context.Context, title string) error {
	sha, err := t.commit(ctx, "v4", 4)
	if err != nil {
		return err
	}
	d, err := t.api.Submit(ctx, starling.Submission{App: "hello", SHA: sha, IdempotencyKey: sha})
	if err != nil {
		return err
	}
	for d.Phase == starling.PhaseQueued {
		time.Sleep(20 * time.Millisecond)
		if d, err = t.api.Deployment(ctx, d.ID); err != nil {
			return err
		}
	}
	leader, err := t.api.Leader(ctx)
	if err != nil {
		return err
	}
	victim := t.w.Named(leader.Name)
	if victim == nil {
		return fmt.Errorf("the leader %q is no process of this world", leader.Name)
	}
	t.say("%s is %s: kill -9 %s (pid %d)", d.ID, d.Phase, victim.Name, victim.PID())
	if err := victim.Kill(); err != nil {
		return err
	}
	killed := time.Now()
	for {
		now, err := t.api.Leader(ctx)
		if err == nil && now.Name != "" && now.Name != victim.Name {
			t.say("%s leads, %s after the kill", now.Name, time.Since(killed).Round(time.Millisecond))
			break
		}
		if time.Since(killed) > 30*time.Second {
			return fmt.Errorf("no new leader for 30 s")
		}
		time.Sleep(20 * time.Millisecond)
	}
	if d, err = t.follow(ctx, title, d); err != nil {
		return err
	}
	if d.Attempt > 1 {
		return fmt.Errorf("the build was started %d times: a leader's death must not cost a build", d.Attempt)
	}
	return t.expect(ctx, d, starling.PhaseSucceeded, "v4")
}

// expect checks a deployment's end, and what every machine serves.
func (t *tour) expect(ctx context.Context, d *starling.Deployment, phase starling.Phase, version string) error {
	if d.Phase != phase {
		return fmt.Errorf("%s ended as %s, not %s: %s", d.ID, d.Phase, phase, d.Reason)
	}
	// A revert is under way when a deployment ends as failed; success must show at once.
	patience := time.Now()
	if phase != starling.PhaseSucceeded {
		patience = patience.Add(20 * time.Second)
	}
	for {
		served := t.served(ctx)
		if len(served) == 1 && served[version] > 0 {
			t.say("all %d machines serve %s", served[version], version)
			return nil
		}
		if time.Now().After(patience) {
			return fmt.Errorf("want %s everywhere, machines serve %v", version, served)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// served counts the machines by what they answer over HTTP.
func (t *tour) served(ctx context.Context) map[string]int {
	out := map[string]int{}
	for _, m := range t.w.WithRole(starling.RoleMachine) {
		out[get(ctx, fmt.Sprintf("http://127.0.0.1:%d/", m.AppPort))]++
	}
	return out
}

func get(ctx context.Context, url string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(io.LimitReader(res.Body, 1<<10))
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(b))
}

func (t *tour) summary() error {
	fmt.Fprintf(t.out, "\n")
	err := printTable(t.out, "DEPLOYMENT\tEND\tQUEUED\tBUILD\tREPLICATE\tSTAGE\tROLL-OUT\tTOTAL\tARTIFACT\tNEW\tWAN\tCACHES\tPEERS\tREUSED", func(row func(...any)) {
		for _, r := range t.rows {
			d := r.d
			name, _, _ := strings.Cut(r.what, ":")
			name, _, _ = strings.Cut(name, " without")
			row(name, d.Phase, ms(d.Timings.QueuedMS), ms(d.Timings.BuildMS), ms(d.Timings.ReplicateMS), ms(d.Timings.StageMS), ms(d.Timings.RolloutMS), ms(d.Timings.TotalMS),
				humanBytes(d.Bytes.Artifact), humanBytes(d.Bytes.New), humanBytes(d.Bytes.WAN), humanBytes(d.Bytes.CacheOut), humanBytes(d.Bytes.Peer), humanBytes(d.Bytes.Local))
		}
	})
	counts := map[starling.Phase]int{}
	for _, r := range t.rows {
		counts[r.d.Phase]++
	}
	fmt.Fprintf(t.out, "\n%d deployments, every one with an end: ", len(t.rows))
	for _, p := range slices.Sorted(maps.Keys(counts)) {
		fmt.Fprintf(t.out, "%d %s ", counts[p], p)
	}
	fmt.Fprintf(t.out, "in %.1f s\n", time.Since(t.began).Seconds())
	return err
}
