package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

func TestRestartPolicy(t *testing.T) {
	sec := func(n int) starling.Duration { return dur(time.Duration(n) * time.Second) }
	for name, c := range map[string]struct {
		policy *starling.Restart
		ran    []int // seconds, of one run after another
		want   []int // seconds of pause; -1: none, it stays down
	}{
		"defaults":                     {nil, []int{0, 0, 0, 0, 0, 0, 29, 30, 0}, []int{1, 2, 4, 8, 16, 30, 30, 1, 2}},
		"delay goes on":                {&starling.Restart{Attempts: 2}, []int{0, 0, 0, 0}, []int{1, 2, 30, 30}},
		"fail gives up":                {&starling.Restart{Mode: starling.RestartFail, Attempts: 2}, []int{0, 0, 0}, []int{1, 2, -1}},
		"a long run begins it anew":    {&starling.Restart{Mode: starling.RestartFail, Attempts: 1, Interval: sec(60)}, []int{0, 60, 59}, []int{1, 1, -1}},
		"pauses of one's own":          {&starling.Restart{Delay: sec(3), MaxDelay: sec(5)}, []int{0, 0, 0}, []int{3, 5, 5}},
		"a pause above the usual most": {&starling.Restart{Delay: sec(60)}, []int{0, 0}, []int{60, 60}},
	} {
		r := restarts{policy: (&starling.DeploySpec{Restart: c.policy}).RestartOrDefault()}
		var got []int
		for _, ran := range c.ran {
			pause, again := r.next(time.Duration(ran) * time.Second)
			if !again {
				pause = -time.Second
			}
			got = append(got, int(pause/time.Second))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: pauses %v, want %v", name, got, c.want)
		}
	}
}

func TestServiceThatIsGivenUpStaysDown(t *testing.T) {
	t.Parallel()
	deploy := &starling.DeploySpec{Restart: &starling.Restart{Mode: starling.RestartFail, Attempts: 2, Delay: dur(10 * time.Millisecond)}}
	var out tail
	s, err := startService(serviceConfig{cmd: command{argv: []string{"/bin/sh", "-c", "echo run; exit 5"}}, out: &out, log: newLog(), kept: true, deploy: deploy, changed: func() {}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.awaitUp(t.Context()); !errors.Is(err, errEnded) {
		t.Errorf("await: %v", err)
	}
	now, reason := s.status()
	if now != ended || !strings.Contains(reason, "given up after 2 restarts") || !strings.Contains(reason, "exit status 5") {
		t.Errorf("%d: %s", now, reason)
	}
	if n := strings.Count(out.lines(), "run"); n != 3 {
		t.Errorf("it ran %d times", n)
	}
	s.stop()
}

func TestStopSignal(t *testing.T) {
	t.Parallel()
	deploy := &starling.DeploySpec{StopSignal: "SIGINT", StopTimeout: dur(30 * time.Second)}
	var out tail
	s, err := startService(serviceConfig{
		cmd: command{argv: []string{"/bin/sh", "-c", `trap "" TERM; trap "echo interrupted; exit 0" INT; echo ready; while :; do sleep 0.05; done`}},
		out: &out, log: newLog(), kept: true, deploy: deploy, changed: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "it is ready", func() bool { return strings.Contains(out.lines(), "ready") })
	s.stop()
	if !strings.Contains(out.lines(), "interrupted") {
		t.Errorf("output %q", out.lines())
	}
}

func TestStopTimeoutKillsTheGroup(t *testing.T) {
	t.Parallel()
	deploy := &starling.DeploySpec{StopTimeout: dur(100 * time.Millisecond)}
	var out tail
	s, err := startService(serviceConfig{
		cmd: command{argv: []string{"/bin/sh", "-c", `trap "" TERM; sh -c 'trap "" TERM; echo child $$; while :; do sleep 1; done' & wait`}},
		out: &out, log: newLog(), kept: true, deploy: deploy, changed: func() {},
	})
	if err != nil {
		t.Fatal(err)
	}
	var child int
	eventually(t, 30*time.Second, "the child is named", func() bool { n, _ := fmt.Sscanf(out.lines(), "child %d", &child); return n == 1 })
	s.stop()
	eventually(t, 30*time.Second, "the child is gone", func() bool { return !alive(child) })
}

func TestLogFilesAreRotated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "output.log")
	names := func() []string {
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var out []string
		for _, e := range entries {
			out = append(out, e.Name())
			if info, err := e.Info(); err != nil || info.Size() > 100 {
				t.Errorf("%s: %v, %v", e.Name(), info, err)
			}
		}
		return out
	}
	l := newLogFile(path, 100, 4, newLog())
	line := 0
	write := func(n int) {
		for range n {
			line++
			fmt.Fprintf(l, "line %04d %s\n", line, strings.Repeat("x", 30))
		}
	}
	write(20) // two to a file
	if got := names(); !slices.Equal(got, []string{"output.log", "output.log.1", "output.log.2", "output.log.3"}) {
		t.Errorf("files %v", got)
	}
	for i, want := range []string{"line 0019", "line 0017", "line 0015", "line 0013"} {
		name := path
		if i > 0 {
			name = l.name(i)
		}
		if got := readFileOr(name, ""); !strings.HasPrefix(got, want) {
			t.Errorf("%s begins with %.9q, want %s", name, got, want)
		}
	}
	l.bound(100, 2)
	if got := names(); !slices.Equal(got, []string{"output.log", "output.log.1"}) {
		t.Errorf("files after a smaller bound: %v", got)
	}
	l.bound(100, 1)
	write(9)
	if got := names(); !slices.Equal(got, []string{"output.log"}) || !strings.Contains(readFileOr(path, ""), "line 0029") {
		t.Errorf("a single file: %v", got)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

// deafPort returns an address on loopback where connecting hangs: nobody accepts, and the
// queue of those who wait is full.
func deafPort(t *testing.T) string {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port)
	for range 8 { // the kernel's queue is a little longer than it was asked for
		c, err := net.DialTimeout("tcp", addr, 100*time.Millisecond)
		if err != nil {
			return addr
		}
		t.Cleanup(func() { c.Close() })
	}
	t.Fatal("the queue never fills")
	return ""
}

// TestHealthCheckTimeouts holds that no check lasts longer than its time-out, whatever it is.
func TestHealthCheckTimeouts(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0") // takes connections and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	for name, spec := range map[string]starling.Health{
		"http": {HTTP: "http://" + silent.Addr().String() + "/"},
		"exec": {Exec: []string{"/bin/sh", "-c", "echo busy; sleep 1000"}},
		"tcp":  {TCP: deafPort(t)},
	} {
		spec.Timeout = dur(50 * time.Millisecond)
		c := checker{spec: spec, dir: t.TempDir(), env: environment{"PATH": os.Getenv("PATH")}}
		began := time.Now()
		err := c.once(t.Context())
		if took := time.Since(began); err == nil || took > 20*time.Second {
			t.Errorf("%s: %v after %s", name, err, took)
		}
		if name == "exec" && (!strings.Contains(err.Error(), "not ended in time") || !strings.Contains(err.Error(), "busy")) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A release that crashes again and again takes the fix like any other, and so does a machine
// that is just waiting for a bad release to become healthy.
func TestBrokenReleaseNeverBlocksTheFix(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), running(t)))
	m.await(1, starling.MachineHealthy)
	if err := os.WriteFile(filepath.Join(m.app("current"), "mode"), []byte("crash"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.get("/die"); err == nil {
		t.Fatal("it did not die")
	}
	eventually(t, 30*time.Second, "v1 crashes", func() bool { return m.report().Reason != "" })
	r.leader.setGoal(goal(2, r.push(versionFiles("v2", "ok")), running(t)))
	if rep := m.await(2, starling.MachineHealthy); rep.Reason != "" || !m.serves("v2") {
		t.Errorf("the fix runs, and the report is %+v", rep)
	}

	slow := func(g *starling.Goal) {
		running(t)(g)
		g.Deploy.Health.Deadline = dur(10 * time.Minute)
	}
	r.leader.setGoal(goal(3, r.push(versionFiles("v3", "sick")), slow))
	m.await(3, starling.MachineActivating)
	r.leader.setGoal(goal(4, r.push(versionFiles("v4", "ok")), running(t)))
	m.await(4, starling.MachineHealthy) // within its 40 s, not the bad one's 10 minutes
	if !m.serves("v4") {
		t.Error("v4 does not answer")
	}
}

// min_healthy_time counts where there is no health check, too.
func TestWithoutACheckAReleaseMustRunForMinHealthyTime(t *testing.T) {
	t.Parallel()
	r := newRegion(t)
	r.startCache()
	m := r.machine("m1")
	begun := time.Now()
	r.leader.setGoal(goal(1, r.push(versionFiles("v1", "ok")), func(g *starling.Goal) {
		running(t)(g)
		g.Deploy.Health = nil
		g.Deploy.Strategy.MinHealthyTime = dur(2 * time.Second)
	}))
	m.await(1, starling.MachineHealthy)
	if took := time.Since(begun); took < 2*time.Second {
		t.Errorf("healthy after %s", took)
	}
}
