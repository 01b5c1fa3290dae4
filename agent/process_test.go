package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/starlingdeploy/starling"
)

func TestProcessTakesItsGroupAlong(t *testing.T) {
	t.Parallel()
	for _, how := range []string{"stay", "leave"} {
		var out tail
		p, err := startProcess(command{argv: []string{exe(t), "helper-family", how}, out: &out})
		if err != nil {
			t.Fatal(err)
		}
		var child int
		eventually(t, 30*time.Second, "the child is named", func() bool { n, _ := fmt.Sscanf(out.lines(), "child %d", &child); return n == 1 })
		if how == "stay" {
			p.stop(unix.SIGTERM, 5*time.Second)
		}
		select {
		case <-p.done:
		case <-time.After(10 * time.Second):
			t.Fatal("the process does not end")
		}
		// Killed, it is a zombie of whoever adopts it, or gone.
		eventually(t, 30*time.Second, "the child is gone", func() bool { return !alive(child) })
	}
}

func alive(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(rest, "Z")
}

func TestDeafProcessIsKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mode"), []byte("deaf"), 0o600); err != nil {
		t.Fatal(err)
	}
	port := freePort(t)
	p, err := startProcess(command{argv: []string{exe(t), "helper-serve"}, dir: dir, env: []string{fmt.Sprintf("PORT=%d", port)}, out: &tail{}})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "it listens", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	began := time.Now()
	p.stop(unix.SIGTERM, 150*time.Millisecond)
	if took := time.Since(began); took < 150*time.Millisecond || took > 5*time.Second {
		t.Errorf("stopped after %s", took)
	}
	if p.err == nil || !strings.Contains(p.err.Error(), "killed") {
		t.Errorf("it ended with %v", p.err)
	}
	p.signal(unix.SIGKILL) // nobody is there any more: no harm
}

func TestOrphansAreKilled(t *testing.T) {
	t.Parallel()
	dir := appDir(t.TempDir())
	start := func(env ...string) *process {
		p, err := startProcess(command{argv: []string{"/bin/sleep", "1000"}, env: env, out: &tail{}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.stop(unix.SIGKILL, 0) })
		return p
	}
	orphan := start("A=b", envAppDir+"="+string(dir))
	other := start(envAppDir + "=" + string(dir) + "2")
	n, err := killOrphans(t.Context(), dir)
	if err != nil || n != 1 {
		t.Errorf("killed %d: %v", n, err)
	}
	<-orphan.done
	if !alive(other.pid) {
		t.Error("another app's process was killed")
	}
}

func TestRunToEnd(t *testing.T) {
	t.Parallel()
	if err := runToEnd(t.Context(), "check", command{argv: []string{"/bin/true"}}, nil); err != nil {
		t.Error(err)
	}
	err := runToEnd(t.Context(), "check", command{argv: []string{"/bin/sh", "-c", "echo no room >&2; exit 4"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 4") || !strings.Contains(err.Error(), "no room") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	err = runToEnd(ctx, "check", command{argv: []string{"/bin/sh", "-c", "sleep 100 & wait"}}, nil)
	if err == nil || !strings.Contains(err.Error(), "not ended in time") {
		t.Errorf("got %v", err)
	}
	if err := runToEnd(t.Context(), "check", command{}, nil); err == nil {
		t.Error("an empty command ran")
	}
}

func TestHealthMustLast(t *testing.T) {
	spec := starling.Health{Interval: dur(time.Second), Timeout: dur(time.Second), HealthyAfter: dur(3 * time.Second), Deadline: dur(time.Minute)}
	sick := errors.New("not ready")
	tests := []struct {
		name  string
		probe func(since time.Duration) error
		after time.Duration // success; 0: never
	}{
		{"at once", func(time.Duration) error { return nil }, 3 * time.Second},
		{"after ten seconds", func(d time.Duration) error {
			if d < 10*time.Second {
				return sick
			}
			return nil
		}, 13 * time.Second},
		{"a relapse starts the count anew", func(d time.Duration) error {
			if d < 5*time.Second || d == 7*time.Second {
				return sick
			}
			return nil
		}, 11 * time.Second},
		{"never", func(time.Duration) error { return sick }, 0},
		{"never for long", func(d time.Duration) error {
			if d/time.Second%3 == 0 {
				return sick
			}
			return nil
		}, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				err := awaitHealthy(t.Context(), spec, func(context.Context) error { return tt.probe(time.Since(began)) })
				took := time.Since(began)
				switch {
				case tt.after > 0 && (err != nil || took != tt.after):
					t.Errorf("healthy after %s: %v", took, err)
				case tt.after == 0 && (!errors.Is(err, sick) || took != time.Minute || !strings.Contains(err.Error(), "not healthy within 1m0s")):
					t.Errorf("gave up after %s: %v", took, err)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(5*time.Second, func() { cancel(errSuperseded) })
		if err := awaitHealthy(ctx, spec, func(context.Context) error { return sick }); !errors.Is(err, errSuperseded) {
			t.Errorf("interrupted: %v", err)
		}
	})
}

func TestHealthChecks(t *testing.T) {
	t.Parallel()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
			return
		}
		status, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, "/"))
		if err != nil {
			status = http.StatusNotFound
		}
		w.WriteHeader(status)
	}))
	defer srv.Close()
	addr := strings.TrimPrefix(srv.URL, "http://")
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	closed := fmt.Sprint(freePort(t))
	env := environment{"PORT": port, "CLOSED": closed, "PATH": os.Getenv("PATH")}
	tests := []struct {
		name string
		spec starling.Health
		want string // part of the error; empty: none
	}{
		{"http", starling.Health{HTTP: "http://127.0.0.1:$PORT/204"}, ""},
		{"http with braces", starling.Health{HTTP: "http://127.0.0.1:${PORT}/200"}, ""},
		{"http redirect", starling.Health{HTTP: "http://127.0.0.1:$PORT/302"}, "302"},
		{"http error", starling.Health{HTTP: "http://127.0.0.1:$PORT/503"}, "503"},
		{"http too slow", starling.Health{HTTP: "http://127.0.0.1:$PORT/slow", Timeout: dur(100 * time.Millisecond)}, "deadline"},
		{"http nobody", starling.Health{HTTP: "http://127.0.0.1:$CLOSED/"}, "refused"},
		{"tcp", starling.Health{TCP: "127.0.0.1:$PORT"}, ""},
		{"tcp nobody", starling.Health{TCP: "127.0.0.1:$CLOSED"}, "refused"},
		{"exec", starling.Health{Exec: []string{"/bin/sh", "-c", "test $PORT = " + port}}, ""},
		{"exec fails", starling.Health{Exec: []string{"/bin/sh", "-c", "echo ill; false"}}, "ill"},
		{"unknown name", starling.Health{TCP: "127.0.0.1:$NOTHING"}, "health check"},
	}
	for _, tt := range tests {
		if tt.spec.Timeout == 0 {
			tt.spec.Timeout = dur(20 * time.Second)
		}
		c := checker{spec: tt.spec, dir: t.TempDir(), env: env}
		err := c.once(t.Context())
		if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestLogFileIsBounded(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "output.log")
	l := newLogFile(path, 1000, 2, newLog())
	for i := range 100 {
		fmt.Fprintf(l, "line %03d %s\n", i, strings.Repeat("x", 90))
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(l, "after a close")
	now, before := readFileOr(path, ""), readFileOr(path+".1", "")
	if len(now) > 1000 || len(before) > 1000 || !strings.Contains(before+now, "line 099") || !strings.HasSuffix(now, "after a close\n") || len(before) == 0 {
		t.Errorf("%d and %d bytes, the last: %q", len(now), len(before), now)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 2 {
		t.Errorf("%v, %v", entries, err)
	}
	// A disk that refuses must not stop the release.
	bad := newLogFile(filepath.Join(t.TempDir(), "no", "such", "directory"), 1000, 2, newLog())
	if n, err := bad.Write([]byte("hello")); n != 5 || err != nil {
		t.Errorf("wrote %d, %v", n, err)
	}
	if err := l.Close(); err != nil {
		t.Error(err)
	}
}

func TestTailKeepsTheLastLines(t *testing.T) {
	var tl tail
	if err := withOutput(errBroken, &tl); err != errBroken {
		t.Errorf("without output: %v", err)
	}
	for i := range 1000 {
		fmt.Fprintf(&tl, "line %d\x1b\xff\n", i)
	}
	lines := strings.Split(tl.lines(), "\n")
	if len(lines) != maxTailLines || lines[len(lines)-1] != "line 999?" {
		t.Errorf("%q", lines)
	}
	if n, err := tl.Write([]byte(strings.Repeat("y", 10*maxTailBytes))); n != 10*maxTailBytes || err != nil || len(tl.lines()) != maxTailBytes {
		t.Errorf("a long line: %d, %v, kept %d", n, err, len(tl.lines()))
	}
	if err := withOutput(errBroken, &tl); !errors.Is(err, errBroken) {
		t.Error(err)
	}
}

var errBroken = errors.New("broken")

func TestKeptServiceOutlivesItsCrashes(t *testing.T) {
	t.Parallel()
	statuses := make(chan bool, 100)
	var s *service
	ready := make(chan struct{})
	s, err := startService(serviceConfig{cmd: command{argv: []string{"/bin/sh", "-c", "echo once more; exit 5"}}, out: &tail{}, log: newLog(), kept: true,
		deploy: &starling.DeploySpec{}, changed: func() { <-ready; now, _ := s.status(); statuses <- now == up }})
	if err != nil {
		t.Fatal(err)
	}
	close(ready)
	for range 2 { // the second comes after the first pause
		if well := <-statuses; well {
			t.Error("a crashed service is up")
		}
	}
	if _, reason := s.status(); !strings.Contains(reason, "exit status 5") || !strings.Contains(reason, "once more") || !strings.Contains(reason, "after 2s") {
		t.Errorf("reason %q", reason)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := s.awaitUp(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("await: %v", err)
	}
	s.stop()
	s.stop()
	good, err := startService(serviceConfig{cmd: command{argv: []string{"/bin/sleep", "1000"}}, out: &tail{}, log: newLog(), kept: true, changed: func() {}, deploy: &starling.DeploySpec{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := good.awaitUp(t.Context()); err != nil {
		t.Errorf("await: %v", err)
	}
	good.stop()
}

func TestTrialEndsWithTheProcess(t *testing.T) {
	t.Parallel()
	s, err := startService(serviceConfig{cmd: command{argv: []string{"/bin/sh", "-c", "exit 0"}}, out: &tail{}, log: newLog(), changed: func() {}, deploy: &starling.DeploySpec{}})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.awaitTrial(t.Context()); !errors.Is(err, errEnded) {
		t.Errorf("trial: %v", err)
	}
	s.stop()
	if _, err := startService(serviceConfig{cmd: command{argv: []string{"/no/such/program"}}, out: &tail{}, log: newLog(), changed: func() {}, deploy: &starling.DeploySpec{}}); !errors.Is(err, syscall.ENOENT) {
		t.Errorf("start: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	n := machineNode("m1")
	n.Tags = map[string]string{"role": "web", "data-centre.1": "x"}
	g := goal(3, starling.DigestOf([]byte("a")))
	env := environmentOf(map[string]string{"PORT": "80", "STARLING_APP": "spoofed"}, &n, &g, "/data/apps/hello")
	for k, want := range map[string]string{"PORT": "80", "STARLING_APP": "hello", "STARLING_TAG_ROLE": "web", "STARLING_TAG_DATA_CENTRE_1": "x",
		"STARLING_GENERATION": "1.3", "STARLING_APP_DIR": "/data/apps/hello"} {
		if env[k] != want {
			t.Errorf("%s is %q", k, env[k])
		}
	}
	if got := env.expand("$PORT-${STARLING_APP}-$NONE"); got != "80-hello-" {
		t.Errorf("expanded to %q", got)
	}
}
