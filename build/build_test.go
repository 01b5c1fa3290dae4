package build

import (
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

func TestBuildOfASmallRepository(t *testing.T) {
	modes(t, func(t *testing.T, mode SandboxMode) {
		repo := newRepo(t)
		sha := repo.commit("greeting", "hello\n", "sub/dir/file", "deep\n")
		job := jobFor(repo.dir, sha, `mkdir -p out/bin && cp greeting out/ && cp sub/dir/file out/bin/
			echo "sha=$STARLING_SHA app=$STARLING_APP own=$OWN epoch=$SOURCE_DATE_EPOCH"; echo on stderr >&2; ls -a`)
		job.App.Build.Env = map[string]string{"OWN": "value"}
		r := build(t, mode, job)
		done := r.mustComplete(t)

		files := r.blobs.files(t, done.Artifact.Digest)
		if files["greeting"] != "hello\n" || files["bin/file"] != "deep\n" || len(files) != 3 {
			t.Errorf("files: %q", files)
		}
		a := done.Artifact
		if a.App != "hello" || a.SHA != sha || a.BuildKey != job.BuildKey || a.Bytes != 11 || a.Files != 3 || a.Chunks == 0 ||
			a.Region != "r1" || a.CreatedAt.IsZero() || done.NewBytes != 11 || done.Lease != 7 {
			t.Errorf("record: %+v", done)
		}
		sandboxed := mode != SandboxOff
		if done.Sandboxed != sandboxed || a.Sandboxed != sandboxed {
			t.Errorf("sandboxed: %v, %v", done.Sandboxed, a.Sandboxed)
		}
		log := r.leader.logText()
		if string(r.blobs.chunks[done.Log]) != log {
			t.Errorf("the stored log differs from the streamed one:\n%s\n---\n%s", r.blobs.chunks[done.Log], log)
		}
		if strings.HasPrefix(log, "UNSANDBOXED: ") == sandboxed {
			t.Errorf("the log begins with %.40q", log)
		}
		for _, want := range []string{"sha=" + sha + " app=hello own=value epoch=1700000000", "on stderr"} {
			if !strings.Contains(log, want) {
				t.Errorf("the log lacks %q:\n%s", want, log)
			}
		}
		if strings.Contains(log, ".git") {
			t.Errorf("the build sees .git:\n%s", log)
		}
	})
}

func TestFailures(t *testing.T) {
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	tests := []struct {
		name, script string
		change       func(*starling.BuildSpec)
		want         []string
	}{
		{name: "exit status", script: "echo almost; echo the last words >&2; exit 3", want: []string{"build failed: exit status 3\nalmost\nthe last words"}},
		{name: "killed", script: "kill -9 $$", want: []string{"build failed: ", "SIGKILL"}},
		{name: "no such program", change: func(b *starling.BuildSpec) { b.Command = []string{"no-such-program"} }, want: []string{"no-such-program"}},
		{name: "no output", script: "true", want: []string{"the build left no output at out"}},
		{name: "empty output", script: "mkdir out", want: []string{"the build left no output at out", "empty"}},
		{name: "output is a pipe", script: "mkfifo out", want: []string{"neither a directory nor a regular file"}},
		{name: "pipe in output", script: "mkdir out; mkfifo out/p", want: []string{`p`}},
		{name: "output leads out", script: "ln -s /etc out", want: []string{"output at out cannot be used"}},
		{name: "output climbs out", script: "ln -s ../.. out", want: []string{"output at out cannot be used"}},
		{name: "absolute symlink", script: "mkdir out; ln -s /etc/passwd out/l", want: []string{`"l"`, "/etc/passwd"}},
		{name: "escaping symlink", script: "mkdir out; ln -s ../../x out/l", want: []string{`"l"`, "outside"}},
		{
			name: "hang", script: "echo before; sleep 1000",
			change: func(b *starling.BuildSpec) { b.Timeout = starling.Duration(time.Second) },
			want:   []string{"build hung: no end after 1s", "before"},
		},
		{
			name:   "memory",
			script: `exec awk 'BEGIN { s = "x"; while (1) s = s s }'`,
			change: func(b *starling.BuildSpec) { b.MemoryMB = 48 },
			want:   []string{"it filled its memory allowance of 48 MB"},
		},
		{
			name:   "disk, many files",
			script: `i=0; while :; do head -c 1000000 /dev/zero >f$i; i=$((i+1)); done`,
			change: func(b *starling.BuildSpec) { b.DiskMB = 20 },
			want:   []string{"it filled its disk allowance of 20 MB"},
		},
		{
			name:   "disk, one file",
			script: `exec cat /dev/zero >big`,
			change: func(b *starling.BuildSpec) { b.DiskMB = 20 },
			want:   []string{"it filled its disk allowance of 20 MB"},
		},
		{
			name:   "disk, temporary files",
			script: `exec cat /dev/zero >${TMPDIR:-/tmp}/big`,
			change: func(b *starling.BuildSpec) { b.DiskMB = 20 },
			want:   []string{"it filled its disk allowance of 20 MB"},
		},
	}
	modes(t, func(t *testing.T, mode SandboxMode) {
		for _, tt := range tests {
			t.Run(tt.name, func(t *testing.T) {
				t.Parallel()
				job := jobFor(repo.dir, sha, tt.script)
				if tt.change != nil {
					tt.change(job.App.Build)
				}
				r := build(t, mode, job)
				failed := r.mustFail(t, tt.want...)
				if failed.Sandboxed != (mode != SandboxOff) || failed.Lease != 7 {
					t.Errorf("request: %+v", failed)
				}
				text := string(r.blobs.chunks[failed.Log])
				if text == "" || text != r.leader.logText() {
					t.Errorf("stored log %q, streamed %q", text, r.leader.logText())
				}
			})
		}
	})
}

func TestDeviceInOutputIsRefused(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can make devices")
	}
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir out && mknod out/null c 1 3")
	build(t, SandboxOff, job).mustFail(t, "null")
}

func TestDeviceCannotBeMadeInTheSandbox(t *testing.T) {
	needBwrap(t)
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir out && mknod out/null c 1 3")
	build(t, SandboxRequire, job).mustFail(t, "build failed: exit status 1", "mknod")
}

func TestOneFileAsOutput(t *testing.T) {
	modes(t, func(t *testing.T, mode SandboxMode) {
		repo := newRepo(t)
		job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir -p real && echo binary >real/app && chmod 755 real/app && ln -s real link")
		job.App.Build.Output = "link/app"
		r := build(t, mode, job)
		a := r.mustComplete(t).Artifact.Digest
		files := r.blobs.files(t, a)
		if len(files) != 1 || files["app"] != "binary\n" {
			t.Errorf("files: %q", files)
		}
		if m := r.blobs.manifest(t, a); m.Files[0].Mode != 0o755 {
			t.Errorf("mode %o", m.Files[0].Mode)
		}
	})
}

func TestWholeCheckoutAsOutput(t *testing.T) {
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("a", "1", "b/c", "2"), "true")
	job.App.Build.Output = "."
	r := build(t, SandboxAuto, job)
	files := r.blobs.files(t, r.mustComplete(t).Artifact.Digest)
	if len(files) != 3 || files["a"] != "1" || files["b/c"] != "2" {
		t.Errorf("files: %q", files)
	}
}

func TestHundredThousandFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"),
		// Links, since making 100,000 files takes half a minute on some disks.
		`mkdir -p out/1 && cd out && (cd 1 && seq 999 | xargs touch) && echo x >1/1 && for d in $(seq 2 100); do cp -rl 1 $d; done`)
	r := build(t, SandboxAuto, job)
	if a := r.mustComplete(t).Artifact; a.Files != 100_000 {
		t.Errorf("%d files", a.Files)
	}
}

func TestGigabyteOfLog(t *testing.T) {
	if testing.Short() {
		t.Skip("takes some seconds")
	}
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "echo the start; head -c 1000000000 /dev/zero; echo; echo the end; mkdir out; echo x >out/x")
	r := build(t, SandboxAuto, job)
	text := string(r.blobs.chunks[r.mustComplete(t).Log])
	if len(text) < logHeadBytes || len(text) > starling.MaxChunkBytes {
		t.Errorf("the log has %d bytes", len(text))
	}
	if !strings.Contains(text, "the start\n") || !strings.Contains(text, "the end\n") || !strings.Contains(text, " bytes left out …") {
		t.Error("the log lacks its start, its end or the note between")
	}
	if text != r.leader.logText() {
		t.Errorf("%d bytes were streamed, %d stored", len(r.leader.logText()), len(text))
	}
}

// TestNothingOutlivesABuild starts processes that try to stay.
func TestNothingOutlivesABuild(t *testing.T) {
	scripts := map[string]string{
		"child":       `sleep %s & `,
		"new session": `setsid sleep %s & `,
		"twice away":  `(setsid sh -c 'sleep %s & sleep 0.1' &) ; sleep 0.3; `,
		"ignores":     `sh -c 'trap "" TERM HUP INT; sleep %s' & `,
	}
	repo := newRepo(t)
	sha := repo.commit("f", "x")
	modes(t, func(t *testing.T, mode SandboxMode) {
		for name, script := range scripts {
			for end, tail := range map[string]string{"ends": "mkdir out; echo x >out/x", "hangs": "sleep 1000"} {
				if end == "hangs" && name == "child" {
					continue // "ignores" is the harder case of the same
				}
				t.Run(name+" "+end, func(t *testing.T) {
					t.Parallel()
					arg := fmt.Sprintf("1000.%d", time.Now().UnixNano())
					job := jobFor(repo.dir, sha, fmt.Sprintf(script, arg)+tail)
					job.App.Build.Timeout = starling.Duration(time.Second)
					r := newRig(t, mode, job)
					stop := r.start(t)
					if end == "hangs" {
						eventually(t, "the process runs", func() bool { return len(findArg(t, arg)) > 0 })
					}
					r.wait(t)
					if left := findArg(t, arg); len(left) > 0 {
						t.Errorf("processes %v are left", left)
					}
					stop()
				})
			}
		}
	})
}

func TestSandboxWalls(t *testing.T) {
	needBwrap(t)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Setenv("STARLING_TEST_SECRET", "leak")
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), `
		fail() { echo "WALL $*"; }
		[ "$(id -u):$(id -g)" = 1000:1000 ] || fail id
		[ -z "$STARLING_TEST_SECRET" ] || fail environment
		[ "$LD_PRELOAD" = /nowhere.so ] || fail "own environment"
		[ -e `+secret+` ] && fail "sees the host's files"
		[ -e /root ] && fail root
		[ -e /etc/shadow ] && fail shadow
		[ -e /etc/ssl/private ] && fail keys
		touch /x 2>/dev/null && fail "writes /"
		touch /usr/x 2>/dev/null && fail "writes /usr"
		touch /etc/x 2>/dev/null && fail "writes /etc"
		touch /dev/x 2>/dev/null && fail "writes /dev"
		[ -z "$(find /proc/sys /proc/sysrq-trigger -writable 2>/dev/null)" ] || fail "writes /proc"
		[ "$(find /proc/sys -readable 2>/dev/null | wc -l)" -gt 10 ] || fail "the test of /proc tests nothing"
		[ "$(ls /proc | grep -c '^[0-9]')" -lt 12 ] || fail "sees other processes"
		[ "$(wc -l </proc/net/dev)" = 3 ] || fail "has a network"
		grep -q 'CapEff:.0*$' /proc/self/status || fail capabilities
		grep -q 'NoNewPrivs:.1' /proc/self/status || fail "new privileges"
		unshare -U true 2>/dev/null && fail "makes user namespaces"
		[ "$(pwd)" = /src ] && [ "$HOME" = /home/build ] && [ "$GOCACHE" = /cache/go-build ] || fail places
		touch /cache/x $HOME/x /tmp/x /var/tmp/y /dev/shm/x x || fail "cannot write"
		mkdir out; echo done >out/done`)
	// Would break bubblewrap itself, were it to reach it.
	job.App.Build.Env = map[string]string{"LD_PRELOAD": "/nowhere.so"}
	r := build(t, SandboxRequire, job)
	r.mustComplete(t)
	if log := r.leader.logText(); regexp.MustCompile(`(?m)^WALL`).MatchString(log) {
		t.Errorf("the sandbox leaks:\n%s", log)
	}
	if _, err := os.Stat(filepath.Join(r.cfg.DataDir, "cache", "hello", "x")); err != nil {
		t.Errorf("the cache does not last: %v", err)
	}
}

func TestNetworkWhenAsked(t *testing.T) {
	needBwrap(t)
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir out; readlink /proc/self/ns/net >out/net")
	job.App.Build.Network = true
	r := build(t, SandboxRequire, job)
	ours, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if got := r.blobs.files(t, r.mustComplete(t).Artifact.Digest)["net"]; strings.TrimSpace(got) != ours {
		t.Errorf("network %q, want the worker's %q", got, ours)
	}
}

func TestUnsandboxedSaysWhy(t *testing.T) {
	bin := t.TempDir() // everything but bwrap
	for _, name := range []string{"git", "sh", "mkdir"} {
		p, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(p, filepath.Join(bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	repo := newRepo(t)
	job := jobFor(repo.dir, repo.commit("f", "x"), "mkdir out && echo x >out/x")
	t.Setenv("PATH", bin)
	t.Run("missing", func(t *testing.T) {
		r := build(t, SandboxAuto, job)
		if r.mustComplete(t).Sandboxed {
			t.Error("the result says sandboxed")
		}
		if log := r.leader.logText(); !strings.HasPrefix(log, "UNSANDBOXED: bubblewrap is not installed on this worker\n") {
			t.Errorf("the log begins with %.80q", log)
		}
	})
	t.Run("broken", func(t *testing.T) {
		broken := "#!/bin/sh\necho no user namespaces here >&2\nexit 1\n"
		if err := os.WriteFile(filepath.Join(bin, "bwrap"), []byte(broken), 0o755); err != nil {
			t.Fatal(err)
		}
		r := build(t, SandboxAuto, job)
		if log := r.leader.logText(); !strings.HasPrefix(log, "UNSANDBOXED: bubblewrap does not work on this worker: ") || !strings.Contains(log, "no user namespaces here") {
			t.Errorf("the log begins with %.200q", log)
		}
		cfg := r.cfg
		cfg.Sandbox = SandboxRequire
		if _, err := New(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "a sandbox is required") {
			t.Errorf("New: %v", err)
		}
	})
}

func TestProcessLimit(t *testing.T) {
	r := newRig(t, SandboxOff)
	ws := workspace{dir: t.TempDir(), cache: t.TempDir()}
	if err := ws.make(); err != nil {
		t.Fatal(err)
	}
	tk := task{
		argv: []string{"/bin/sh", "-c", "for i in $(seq 50); do sleep 1000 & done; wait"}, dir: ws.src(),
		env: []string{"PATH=" + defaultPath}, mark: r.worker.newMark(), output: newBuildLog(), memoryBytes: 1 << 30, maxProcesses: 20,
	}
	err := tk.run(t.Context())
	if err == nil || err.Error() != "it filled its process allowance of 20" {
		t.Errorf("got %v", err)
	}
	r.checkNothingLeft(t)
}

// BenchmarkSmallBuild is the whole way of a trivial build on a warm mirror, from lease
// to completion.
func BenchmarkSmallBuild(b *testing.B) {
	for _, mode := range []SandboxMode{SandboxRequire, SandboxOff} {
		b.Run(string(mode), func(b *testing.B) {
			if mode == SandboxRequire {
				needBwrap(b)
			}
			repo := newRepo(b)
			sha := repo.commit("f", "x")
			r := newRig(b, mode)
			r.worker.log = slog.New(slog.DiscardHandler)
			r.worker.heartbeatEvery, r.worker.logPostEvery = rpc.HeartbeatEvery, logPostEvery
			for b.Loop() {
				r.leader.ended = make(chan struct{})
				r.worker.build(b.Context(), jobFor(repo.dir, sha, "mkdir out; echo x >out/x"))
				r.mustComplete(b)
			}
		})
	}
}
