package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/blobcache"
	"github.com/starlingdeploy/starling/rpc"
)

// longBuild is a job that prints "up" and then waits for ever.
func longBuild(t *testing.T) (repoDir, sha, script, arg string) {
	repo := newRepo(t)
	arg = fmt.Sprintf("2000.%d", time.Now().UnixNano())
	return repo.dir, repo.commit("f", "x"), "echo up; setsid sleep " + arg + " & sleep " + arg, arg
}

func TestFencedJobIsKilledAtOnce(t *testing.T) {
	for name, answer := range map[string]error{"fenced": starling.ErrFenced, "not found": starling.ErrNotFound} {
		t.Run(name, func(t *testing.T) {
			modes(t, func(t *testing.T, mode SandboxMode) {
				dir, sha, script, arg := longBuild(t)
				r := newRig(t, mode, jobFor(dir, sha, script))
				up := make(chan struct{})
				r.leader.onHeartbeat = func(int) error {
					select {
					case <-up:
						return fmt.Errorf("heartbeat: %w", answer)
					default:
						return nil
					}
				}
				stop := r.start(t)
				eventually(t, "the build runs", func() bool { return len(findArg(t, arg)) >= 2 })
				close(up)
				eventually(t, "the build is killed", func() bool { return len(findArg(t, arg)) == 0 })
				stop()
				if r.leader.completeCalls+r.leader.failCalls > 0 {
					t.Error("the result of a lost job was reported")
				}
			})
		})
	}
}

func TestUnavailableLeaderStopsNothing(t *testing.T) {
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "sleep 0.5; mkdir out; echo x >out/x")
	r := newRig(t, SandboxAuto, job)
	away := func(n int) error {
		if n < 4 {
			return fmt.Errorf("no leader: %w", starling.ErrUnavailable)
		}
		return nil
	}
	r.leader.onHeartbeat, r.leader.onLog, r.leader.onComplete = away, away, away
	stop := r.start(t)
	r.wait(t)
	stop()
	r.mustComplete(t)
	if r.leader.completeCalls != 4 {
		t.Errorf("%d calls of Complete", r.leader.completeCalls)
	}
}

func TestRefusedResultFailsTheJob(t *testing.T) {
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir out; echo x >out/x")
	r := newRig(t, SandboxOff, job)
	r.leader.onComplete = func(int) error { return starling.Invalidf("artifact", "no good") }
	stop := r.start(t)
	r.wait(t)
	stop()
	r.mustFail(t, "the leader refused the result", "no good")
}

func TestDeadlineEndsABuild(t *testing.T) {
	dir, sha, script, arg := longBuild(t)
	job := jobFor(dir, sha, script)
	job.Deadline = time.Now().Add(time.Second)
	build(t, SandboxAuto, job).mustFail(t, "the deadline of the deployment passed during the build")
	if left := findArg(t, arg); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestShutdownKillsAndReportsNothing(t *testing.T) {
	modes(t, func(t *testing.T, mode SandboxMode) {
		dir, sha, script, arg := longBuild(t)
		r := newRig(t, mode, jobFor(dir, sha, script))
		stop := r.start(t)
		eventually(t, "the build runs", func() bool { return len(findArg(t, arg)) >= 2 })
		stop()
		if left := findArg(t, arg); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
		if r.leader.completeCalls+r.leader.failCalls > 0 {
			t.Error("a job was ended by a shutdown: the leader should give it to another worker")
		}
	})
}

// TestKilledWorkerLeavesNothing runs a worker in a process of its own, kills it, and
// starts another on the same data directory.
func TestKilledWorkerLeavesNothing(t *testing.T) {
	if dir := os.Getenv("STARLING_TEST_WORKER"); dir != "" {
		workUntilKilled(t, dir)
		return
	}
	modes(t, func(t *testing.T, mode SandboxMode) {
		r := newRig(t, mode)
		repoDir, sha, _, arg := longBuild(t)
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilledWorkerLeavesNothing$")
		cmd.Env = append(os.Environ(), "STARLING_TEST_WORKER="+r.cfg.DataDir, "STARLING_TEST_MODE="+string(mode),
			"STARLING_TEST_REPO="+repoDir, "STARLING_TEST_SHA="+sha, "STARLING_TEST_ARG="+arg)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the build runs", func() bool { return len(findArg(t, arg)) >= 2 })
		if err := secondIsRefused(t, r); err != nil {
			t.Error(err)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed: its error says so
		stop := r.start(t)
		eventually(t, "no process is left", func() bool { return len(findArg(t, arg)) == 0 })
		eventually(t, "no workspace is left", func() bool {
			entries, err := os.ReadDir(filepath.Join(r.cfg.DataDir, "work"))
			return err == nil && len(entries) == 0
		})
		stop()
	})
}

// secondIsRefused checks that a second worker refuses a data directory in use.
func secondIsRefused(t *testing.T, r *rig) error {
	t.Helper()
	if err := r.worker.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "another worker uses it") {
		return fmt.Errorf("a second worker on the same directory: %v", err)
	}
	return nil
}

func workUntilKilled(t *testing.T, dir string) {
	arg := os.Getenv("STARLING_TEST_ARG")
	job := jobFor(os.Getenv("STARLING_TEST_REPO"), os.Getenv("STARLING_TEST_SHA"), "setsid sleep "+arg+" & sleep "+arg)
	r := newRig(t, SandboxMode(os.Getenv("STARLING_TEST_MODE")), job)
	r.cfg.DataDir = dir
	r.open(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.worker.Run(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestSlotsLeaseWhatTheyHold(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	first, second := jobFor(repo.dir, sha, "sleep 1000"), jobFor(repo.dir, sha, "mkdir out; echo x >out/x")
	second.Deployment, second.App.Name = "d-2", "other"
	r := newRig(t, SandboxAuto, first, second)
	r.cfg.Slots = 2
	r.open(t)
	stop := r.start(t)
	r.wait(t)
	stop()
	r.mustComplete(t)
	if len(r.leader.leases) != 2 || len(r.leader.leases[0].Holding) != 0 || strings.Join(r.leader.leases[1].Holding, ",") != "d-1" {
		t.Errorf("leases: %+v", r.leader.leases)
	}
}

func TestOnlyMissingChunksAreUploaded(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	r := newRig(t, SandboxOff)
	script := func(word string) string {
		return "mkdir out; awk 'BEGIN { for (i = 0; i < 600000; i++) print i, (i == 300000 ? \"" + word + "\" : i * 7) }' >out/big"
	}
	var records []int64
	for i, word := range []string{"one", "one", "two"} {
		job := jobFor(repo.dir, sha, script(word))
		r.leader = newTestLeader(job)
		r.cfg.Leader = r.leader
		r.open(t)
		stop := r.start(t)
		r.wait(t)
		stop()
		done := r.mustComplete(t)
		records = append(records, done.NewBytes)
		if i == 0 && done.NewBytes != done.Artifact.Bytes {
			t.Errorf("%d bytes new of %d", done.NewBytes, done.Artifact.Bytes)
		}
		if got := r.blobs.files(t, done.Artifact.Digest)["big"]; int64(len(got)) != done.Artifact.Bytes || !strings.Contains(got, "300000 "+word) {
			t.Error("the artifact's content is wrong")
		}
	}
	if records[1] != 0 || records[2] == 0 || records[2] > records[0]*2/3 {
		t.Errorf("new bytes: %d, then the same %d, then one line changed %d", records[0], records[1], records[2])
	}
}

func TestCachesDownFailsTheJob(t *testing.T) {
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir out; echo x >out/x")
	r := newRig(t, SandboxOff, job)
	r.blobs.down = errors.New("no caches in r1")
	stop := r.start(t)
	r.wait(t)
	stop()
	failed := r.mustFail(t, "the blob caches did not", "no caches in r1")
	if !failed.Log.IsZero() {
		t.Error("the log cannot have been stored")
	}
}

func TestBadJobs(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	tests := map[string]func(j *rpc.Job){
		"sha: ":          func(j *rpc.Job) { j.SHA = "main" },
		"no build block": func(j *rpc.Job) { j.App.Build = nil },
		"build.output: ": func(j *rpc.Job) { j.App.Build.Output = "../x" },
		"name: ":         func(j *rpc.Job) { j.App.Name = "../x" },
		"source.git: ":   func(j *rpc.Job) { j.App.Source.Git = "ext::sh -c true" },
		"build.env: ":    func(j *rpc.Job) { j.App.Build.Env = map[string]string{"A=B": "c"} },
	}
	for want, change := range tests {
		t.Run(want, func(t *testing.T) {
			job := jobFor(repo.dir, sha, "true")
			change(job)
			build(t, SandboxOff, job).mustFail(t, want)
		})
	}
}

func TestLowDiskLeasesNothing(t *testing.T) {
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "true")
	r := newRig(t, SandboxOff, job)
	r.worker.cfg.MinFreeBytes = 1 << 60
	if _, err := r.worker.askForJob(t.Context(), 0); err == nil || !strings.Contains(err.Error(), "nearly full") {
		t.Errorf("got %v", err)
	}
	if len(r.leader.leases) > 0 {
		t.Error("a job was leased")
	}
}

func TestJanitor(t *testing.T) {
	r := newRig(t, SandboxOff)
	made := make(map[string]string)
	for _, name := range []string{"cache/old", "cache/new", "cache/busy", "mirrors/old"} {
		dir := filepath.Join(r.cfg.DataDir, name)
		made[name] = dir
		if err := os.MkdirAll(filepath.Join(dir, "locked"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Join(dir, "locked"), 0o555); err != nil {
			t.Fatal(err)
		}
		if name != "cache/new" {
			at := time.Now().Add(-2 * unusedFor)
			if err := os.Chtimes(dir, at, at); err != nil {
				t.Fatal(err)
			}
		}
	}
	unlock, err := r.worker.caches.lock(t.Context(), "busy")
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	left := func() (out []string) {
		for _, name := range []string{"cache/old", "cache/new", "cache/busy", "mirrors/old"} {
			if _, err := os.Stat(made[name]); err == nil {
				out = append(out, name)
			}
		}
		return out
	}
	if err := r.worker.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(left(), " "); got != "cache/new cache/busy" {
		t.Errorf("left: %s", got)
	}
	r.worker.cfg.MinFreeBytes = 1 << 60 // the disk is full
	if err := r.worker.clean(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(left(), " "); got != "cache/busy" {
		t.Errorf("left on a full disk: %s", got)
	}
}

func TestLocks(t *testing.T) {
	l := newLocks()
	unlock, err := l.lock(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := l.tryLock("a"); ok {
		t.Error("locked twice")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := l.lock(ctx, "a"); err == nil {
		t.Error("locked twice")
	}
	unlock()
	unlock, ok := l.tryLock("a")
	if !ok {
		t.Fatal("still locked")
	}
	got := make(chan struct{})
	go func() {
		defer close(got)
		if u, err := l.lock(context.Background(), "a"); err != nil {
			t.Error(err)
		} else {
			u()
		}
	}()
	eventually(t, "the other waits", func() bool { l.mu.Lock(); defer l.mu.Unlock(); return l.named["a"].users == 2 })
	unlock()
	<-got
	if len(l.named) != 0 {
		t.Error("locks are left behind")
	}
}

func TestConfigIsChecked(t *testing.T) {
	good := newRig(t, SandboxOff).cfg
	for want, change := range map[string]func(*Config){
		"must be set":    func(c *Config) { c.Sign = nil },
		"absolute path":  func(c *Config) { c.DataDir = "here" },
		"worker.slots":   func(c *Config) { c.Slots = 0 },
		"worker.sandbox": func(c *Config) { c.Sandbox = "maybe" },
		"read_only":      func(c *Config) { c.ReadOnlyPaths = []string{"/"} },
		"no-such-path":   func(c *Config) { c.ReadOnlyPaths = []string{"/no-such-path"} },
		"cgroup":         func(c *Config) { c.CgroupDir = "/no-such-path" },
	} {
		cfg := good
		change(&cfg)
		if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}

// TestCgroup needs a cgroup v2 hierarchy that it may write to.
func TestCgroup(t *testing.T) {
	parent := ""
	for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil {
			parent = filepath.Join(root, fmt.Sprintf("starling-test-%d", os.Getpid()))
		}
	}
	if parent == "" || os.Mkdir(parent, 0o755) != nil {
		t.Skip("no writable cgroup v2 hierarchy here")
	}
	t.Cleanup(func() {
		if err := os.Remove(parent); err != nil {
			t.Error(err)
		}
	})
	controllers, err := enableControllers(parent)
	if err != nil {
		t.Skipf("no controllers to use here: %v", err)
	}
	t.Logf("controllers: %v", controllers)
	modes(t, func(t *testing.T, mode SandboxMode) {
		repo := newRepo(t)
		arg := fmt.Sprintf("3000.%d", time.Now().UnixNano())
		// Leaves its session, its parent and its environment.
		job := jobFor(repo.dir, repo.commit("f", "x"), "env -i setsid sh -c 'sleep "+arg+" &' ; mkdir out; cat /proc/self/cgroup >out/x")
		r := newRig(t, mode, job)
		r.cfg.CgroupDir = parent
		r.open(t)
		if err := os.Mkdir(filepath.Join(parent, r.worker.newMark()), 0o755); err != nil { // stale
			t.Fatal(err)
		}
		stop := r.start(t)
		r.wait(t)
		stop()
		r.mustComplete(t)
		if left := findArg(t, arg); len(left) > 0 {
			t.Errorf("processes %v are left", left)
			for _, pid := range left {
				if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
					t.Error(err)
				}
			}
		}
		entries, err := filepath.Glob(filepath.Join(parent, "*-*"))
		if err != nil || len(entries) > 0 {
			t.Errorf("groups are left: %v, %v", entries, err)
		}
	})
}

func TestParseStat(t *testing.T) {
	line := "42 (a ) (b) S 7 42 42 0 -1 4194304 1 0 0 0 0 0 0 0 20 0 1 0 12345 1000 25 18446744073709551615 1 1 0"
	p, err := parseStat([]byte(line))
	if err != nil || p.pid != 42 || p.parent != 7 || p.start != 12345 || p.rssBytes != 25*int64(os.Getpagesize()) || p.dead {
		t.Errorf("%+v, %v", p, err)
	}
	for _, bad := range []string{"", "42", "42 (a", "x (a) S 1", ") (", "42 (a) S 7"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestClip(t *testing.T) {
	if got := clip("aé\x00\xff"+strings.Repeat("é", 20), 10); len(got) > 10 || !strings.HasPrefix(got, "aéé") || !strings.HasSuffix(got, "…") {
		t.Errorf("got %q", got)
	}
}

// The real counterparts fit.
var (
	_ Leader = (*rpc.Client)(nil)
	_ Blobs  = (*blobcache.Region)(nil)
)
