package build

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testLeader is a leader with one queue. It keeps what a real one would keep.
type testLeader struct {
	mu         sync.Mutex
	jobs       []*rpc.Job
	leases     []rpc.LeaseRequest
	heartbeats int
	beats      chan rpc.HeartbeatRequest // those with a draft, if not nil
	log        []byte
	completed  *rpc.CompleteRequest
	failed     *rpc.FailRequest
	ended      chan struct{} // closed at the first end of a job
	news       chan struct{}

	// Answers to give instead, if they return an error.
	onHeartbeat, onComplete, onFail, onLog func(n int) error
	logCalls, completeCalls, failCalls     int
}

func newTestLeader(jobs ...*rpc.Job) *testLeader {
	return &testLeader{jobs: jobs, ended: make(chan struct{}), news: make(chan struct{}, 1)}
}

func (l *testLeader) Lease(ctx context.Context, req rpc.LeaseRequest) (*rpc.Job, error) {
	wait := time.NewTimer(time.Duration(req.WaitMS) * time.Millisecond)
	defer wait.Stop()
	for {
		l.mu.Lock()
		if len(l.jobs) > 0 {
			job := l.jobs[0]
			l.jobs = l.jobs[1:]
			l.leases = append(l.leases, req)
			l.mu.Unlock()
			return job, nil
		}
		l.mu.Unlock()
		select {
		case <-l.news:
		case <-wait.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (l *testLeader) Heartbeat(_ context.Context, _ string, req rpc.HeartbeatRequest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.heartbeats++
	if l.beats != nil && req.Draft.Pages > 0 {
		select {
		case l.beats <- req:
		default: // the test has seen enough
		}
	}
	if l.onHeartbeat != nil {
		return l.onHeartbeat(l.heartbeats)
	}
	return nil
}

func (l *testLeader) JobLog(_ context.Context, _ string, req rpc.LogRequest) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.logCalls++
	if l.onLog != nil {
		if err := l.onLog(l.logCalls); err != nil {
			return 0, err
		}
	}
	if len(req.Data) > rpc.MaxLogPostBytes {
		return 0, starling.Invalidf("data", "%d bytes", len(req.Data))
	}
	if req.Offset <= int64(len(l.log)) {
		l.log = append(l.log[:req.Offset], req.Data...)
	}
	return int64(len(l.log)), nil
}

func (l *testLeader) Complete(_ context.Context, _ string, req rpc.CompleteRequest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.completeCalls++
	if l.onComplete != nil {
		if err := l.onComplete(l.completeCalls); err != nil {
			return err
		}
	}
	l.completed = &req
	l.end()
	return nil
}

func (l *testLeader) Fail(_ context.Context, _ string, req rpc.FailRequest) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failCalls++
	if l.onFail != nil {
		if err := l.onFail(l.failCalls); err != nil {
			return err
		}
	}
	l.failed = &req
	l.end()
	return nil
}

func (l *testLeader) end() {
	select {
	case <-l.ended:
	default:
		close(l.ended)
	}
}

// logText returns what has been streamed so far.
func (l *testLeader) logText() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.log)
}

// testBlobs is caches in memory.
type testBlobs struct {
	mu        sync.Mutex
	chunks    map[starling.Digest][]byte
	manifests map[starling.Digest][]byte
	puts      int
	down      error                           // every call fails
	onPut     func(ctx context.Context) error // called first, without the lock
}

func newTestBlobs() *testBlobs {
	return &testBlobs{chunks: make(map[starling.Digest][]byte), manifests: make(map[starling.Digest][]byte)}
}

func (b *testBlobs) Missing(_ context.Context, ds []starling.Digest) ([]starling.Digest, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []starling.Digest
	for _, d := range ds {
		if _, ok := b.chunks[d]; !ok {
			out = append(out, d)
		}
	}
	return out, b.down
}

func (b *testBlobs) Put(ctx context.Context, d starling.Digest, data []byte) error {
	if b.onPut != nil {
		if err := b.onPut(ctx); err != nil {
			return err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.down != nil {
		return b.down
	}
	if starling.DigestOf(data) != d || len(data) > starling.MaxChunkBytes {
		return starling.ErrCorrupt
	}
	b.puts++
	b.chunks[d] = bytes.Clone(data)
	return nil
}

func (b *testBlobs) PutManifest(_ context.Context, artifact starling.Digest, envelope []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.manifests[artifact] = envelope
	return b.down
}

// files returns the content of an artifact by path, from its chunks.
func (b *testBlobs) files(t testing.TB, artifact starling.Digest) map[string]string {
	t.Helper()
	m, all := b.manifest(t, artifact), ""
	for _, c := range m.Chunks {
		all += string(b.chunks[c.Digest])
	}
	out := make(map[string]string)
	for _, f := range m.Files {
		out[f.Path] = all[:f.Size]
		all = all[f.Size:]
	}
	return out
}

func (b *testBlobs) manifest(t testing.TB, artifact starling.Digest) *starling.Manifest {
	t.Helper()
	payload, ok := bytes.CutPrefix(b.manifests[artifact], []byte("signed:"))
	if !ok || starling.DigestOf(payload) != artifact {
		t.Fatalf("no signed manifest %s", artifact)
	}
	m, err := starling.DecodeManifest(payload)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// repo is a real git repository on disk.
type repo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB) *repo {
	r := &repo{t, filepath.Join(t.TempDir(), "repo")}
	if err := os.Mkdir(r.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	r.git("init", "--quiet", "--initial-branch=main")
	return r
}

func (r *repo) git(args ...string) string {
	r.t.Helper()
	return r.feed("", args...)
}

// feed is git with a text on its standard input.
func (r *repo) feed(in string, args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"}, args...)...)
	cmd.Dir = r.dir
	cmd.Stdin = strings.NewReader(in)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=/dev/null", "GIT_COMMITTER_DATE=1700000000 +0000")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit writes files, name and content in turn, and returns the SHA of a commit of them.
func (r *repo) commit(nameContent ...string) string {
	r.t.Helper()
	for i := 0; i < len(nameContent); i += 2 {
		path := filepath.Join(r.dir, nameContent[i])
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			r.t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(nameContent[i+1]), 0o755); err != nil {
			r.t.Fatal(err)
		}
	}
	r.git("add", "--all")
	r.git("commit", "--quiet", "--allow-empty", "--message=c")
	return r.git("rev-parse", "HEAD")
}

// jobFor is a job that runs a shell script in a checkout of sha.
func jobFor(repo, sha, script string) *rpc.Job {
	app := starling.App{
		Name:   "hello",
		Source: starling.SourceSpec{Git: repo},
		Build:  &starling.BuildSpec{Command: []string{"/bin/sh", "-c", script}, Output: "out", DiskMB: 512, MemoryMB: 512},
	}
	app.SetDefaults()
	return &rpc.Job{
		Deployment: "d-1", App: app, SHA: sha, BuildKey: app.BuildKey(sha),
		Attempt: 1, Lease: 7, Deadline: time.Now().Add(2 * time.Minute),
	}
}

// modes runs a test with the sandbox and without.
func modes(t *testing.T, f func(t *testing.T, mode SandboxMode)) {
	t.Run("sandboxed", func(t *testing.T) {
		needBwrap(t)
		f(t, SandboxRequire)
	})
	t.Run("unsandboxed", func(t *testing.T) { f(t, SandboxOff) })
}

func needBwrap(t testing.TB) {
	t.Helper()
	if _, err := exec.LookPath("bwrap"); err != nil {
		t.Skip("bubblewrap is not installed here: apt-get install bubblewrap")
	}
}

// rig is a worker with what it needs.
type rig struct {
	cfg    Config
	leader *testLeader
	blobs  *testBlobs
	worker *Worker
}

func newRig(t testing.TB, mode SandboxMode, jobs ...*rpc.Job) *rig {
	t.Helper()
	r := &rig{leader: newTestLeader(jobs...), blobs: newTestBlobs()}
	r.cfg = Config{
		Name: "w1", Region: "r1", DataDir: t.TempDir(), Slots: 1, Leader: r.leader, Blobs: r.blobs,
		Sign:    func(m []byte) ([]byte, error) { return append([]byte("signed:"), m...), nil },
		Sandbox: mode, AllowFileRepos: true, MinFreeBytes: 1 << 20,
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	r.open(t)
	return r
}

// open makes the worker anew from the configuration.
func (r *rig) open(t testing.TB) {
	t.Helper()
	w, err := New(t.Context(), r.cfg)
	if err != nil {
		t.Fatal(err)
	}
	w.heartbeatEvery, w.logPostEvery, w.uploadFor = 20*time.Millisecond, 20*time.Millisecond, 100*time.Millisecond
	r.worker = w
}

// start runs the worker; stop ends it and checks that it leaves nothing.
func (r *rig) start(t testing.TB) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- r.worker.Run(ctx) }()
	var once sync.Once
	stop = func() {
		t.Helper()
		once.Do(func() {
			cancel()
			if err := <-ran; err != nil {
				t.Errorf("Run: %v", err)
			}
			r.checkNothingLeft(t)
		})
	}
	t.Cleanup(stop)
	return stop
}

// checkNothingLeft fails if a process or workspace of a build is still there.
func (r *rig) checkNothingLeft(t testing.TB) {
	t.Helper()
	all, err := listProcs()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range marked(all, r.worker.markPrefix) {
		t.Errorf("process %d of a build is left", p.pid)
	}
	for _, p := range using(all, r.cfg.DataDir) {
		t.Errorf("process %d still works in the data directory", p.pid)
	}
	entries, err := os.ReadDir(filepath.Join(r.cfg.DataDir, "work"))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) > 0 {
		t.Errorf("%d workspaces are left", len(entries))
	}
}

// using returns the living processes whose working directory lies below dir or is one
// that a sandbox shows, in a root that is not ours.
func using(all []proc, dir string) []proc {
	var out []proc
	for _, p := range all {
		cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", p.pid))
		if err == nil && !p.dead && strings.HasPrefix(cwd, dir) {
			out = append(out, p)
		}
	}
	return out
}

// findArg returns the living processes that have arg among their arguments.
func findArg(t testing.TB, arg string) []int {
	t.Helper()
	all, err := listProcs()
	if err != nil {
		t.Fatal(err)
	}
	var out []int
	for _, p := range all {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", p.pid))
		if err == nil && !p.dead && slices.Contains(strings.Split(string(b), "\x00"), arg) {
			out = append(out, p.pid)
		}
	}
	return out
}

// wait returns when the job has ended, in a minute at most.
func (r *rig) wait(t testing.TB) {
	t.Helper()
	select {
	case <-r.leader.ended:
	case <-time.After(time.Minute):
		t.Fatalf("the job did not end; log so far:\n%.2000s", r.leader.logText())
	}
}

// build runs one job to its end with a worker of its own.
func build(t testing.TB, mode SandboxMode, job *rpc.Job) *rig {
	t.Helper()
	r := newRig(t, mode, job)
	stop := r.start(t)
	r.wait(t)
	stop()
	return r
}

func (r *rig) mustComplete(t testing.TB) *rpc.CompleteRequest {
	t.Helper()
	if r.leader.completed == nil {
		t.Fatalf("the job failed: %s\nlog:\n%.3000s", r.leader.failed.Reason, r.leader.logText())
	}
	return r.leader.completed
}

func (r *rig) mustFail(t testing.TB, words ...string) *rpc.FailRequest {
	t.Helper()
	if r.leader.failed == nil {
		t.Fatal("the job was completed")
	}
	for _, w := range words {
		if !strings.Contains(r.leader.failed.Reason, w) {
			t.Errorf("the reason lacks %q: %s", w, r.leader.failed.Reason)
		}
	}
	if len(r.leader.failed.Reason) > starling.MaxReasonBytes {
		t.Errorf("the reason is %d bytes long", len(r.leader.failed.Reason))
	}
	return r.leader.failed
}

// eventually polls until ok returns true.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within 30s: %s", what)
		}
	}
}

// testWriter writes to a test's log, which ends with the test.
type testWriter struct{ t testing.TB }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

var _ io.Writer = testWriter{}
