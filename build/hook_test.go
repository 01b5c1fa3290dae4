package build

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/artifact"
	"github.com/starlingdeploy/starling/rpc"
)

// hookLeader grants one hook and keeps what it is told.
type hookLeader struct {
	mu     sync.Mutex
	jobs   []*rpc.HookJob
	log    []byte
	ends   chan rpc.HookEndRequest
	fenced bool
}

func (l *hookLeader) HookLease(ctx context.Context, _ rpc.HookLeaseRequest) (*rpc.HookJob, error) {
	l.mu.Lock()
	if len(l.jobs) > 0 {
		defer l.mu.Unlock()
		job := l.jobs[0]
		l.jobs = l.jobs[1:]
		return job, nil
	}
	l.mu.Unlock()
	<-ctx.Done()
	return nil, ctx.Err()
}

func (l *hookLeader) HookHeartbeat(context.Context, string, rpc.HookCall) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fenced {
		return starling.ErrFenced
	}
	return nil
}

func (l *hookLeader) HookLog(_ context.Context, _ string, req rpc.HookLogRequest) (int64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if req.Offset <= int64(len(l.log)) {
		l.log = append(l.log[:req.Offset], req.Data...)
	}
	return int64(len(l.log)), nil
}

func (l *hookLeader) HookEnd(_ context.Context, _ string, req rpc.HookEndRequest) error {
	l.ends <- req
	return nil
}

func (l *hookLeader) text() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.log)
}

// Chunk and Manifest make testBlobs a source of artifacts.
func (b *testBlobs) Chunk(_ context.Context, d starling.Digest, _ []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if data, ok := b.chunks[d]; ok {
		return data, nil
	}
	return nil, starling.ErrNotFound
}

func (b *testBlobs) Manifest(_ context.Context, d starling.Digest) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if env, ok := b.manifests[d]; ok {
		return env, nil
	}
	return nil, starling.ErrNotFound
}

// store packs files, name and content in turn, into the caches.
func (b *testBlobs) store(t testing.TB, nameContent ...string) starling.Digest {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(nameContent); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, nameContent[i]), []byte(nameContent[i+1]), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	m, err := artifact.Pack(t.Context(), root, func(p artifact.Piece) error { return b.Put(t.Context(), p.Digest, p.Data) })
	if err != nil {
		t.Fatal(err)
	}
	payload, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	d := starling.DigestOf(payload)
	if err := b.PutManifest(t.Context(), d, append([]byte("signed:"), payload...)); err != nil {
		t.Fatal(err)
	}
	return d
}

func verifyTest(envelope []byte, want starling.Digest) (*starling.Manifest, []byte, error) {
	payload, ok := bytes.CutPrefix(envelope, []byte("signed:"))
	if !ok || starling.DigestOf(payload) != want {
		return nil, nil, starling.ErrCorrupt
	}
	m, err := starling.DecodeManifest(payload)
	return m, payload, err
}

// hookRig is a worker that is given one hook: argv in the artifact.
func hookRig(t testing.TB, mode SandboxMode, hooks *starling.OnceHooks, nameContent ...string) (*rig, *hookLeader) {
	t.Helper()
	r := newRig(t, mode)
	l := &hookLeader{ends: make(chan rpc.HookEndRequest, 1)}
	app := starling.App{Name: "hello", Deploy: starling.DeploySpec{Hooks: starling.Hooks{Region: hooks}}}
	app.SetDefaults()
	l.jobs = []*rpc.HookJob{{
		Deployment: "d-1", App: app, SHA: strings.Repeat("a", 40), Artifact: r.blobs.store(t, nameContent...), Deadline: time.Now().Add(2 * time.Minute),
		Run: starling.HookRun{Scope: starling.HookRegion, Region: "r1", State: starling.HookRunning, Attempt: 2, Lease: 9},
	}}
	r.cfg.Hooks, r.cfg.Artifacts, r.cfg.Verify = l, r.blobs, verifyTest
	r.open(t)
	return r, l
}

func (l *hookLeader) end(t testing.TB) rpc.HookEndRequest {
	t.Helper()
	select {
	case e := <-l.ends:
		return e
	case <-time.After(time.Minute):
		t.Fatalf("the hook did not end; output so far:\n%s", l.text())
		panic("unreachable")
	}
}

func TestHookRunsInTheArtifact(t *testing.T) {
	modes(t, func(t *testing.T, mode SandboxMode) {
		r, l := hookRig(t, mode, &starling.OnceHooks{Pre: []string{"./migrate", "now"}, Env: map[string]string{"LEVEL": "3"}},
			"migrate", "#!/bin/sh\necho $1 $LEVEL $(cat data) $STARLING_APP $STARLING_REGION $STARLING_HOOK $STARLING_HOOK_ATTEMPT $STARLING_HOOK_KEY $STARLING_HOOK_TOKEN\necho scratch >new\n",
			"data", "content")
		stop := r.start(t)
		e := l.end(t)
		stop()
		const want = "now 3 content hello r1 pre.region.r1 2 d-1/pre.region.r1 9\n"
		if e.Failed || !strings.Contains(string(e.Output), want) || e.Lease != 9 || e.Hook != "pre.region.r1" || e.Sandboxed != (mode == SandboxRequire) {
			t.Errorf("end %+v with\n%s", e, e.Output)
		}
		if l.text() != string(e.Output) {
			t.Errorf("streamed %q, at the end %q", l.text(), e.Output)
		}
	})
}

func TestHookFailsWithItsOutput(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   []string
	}{
		"exit":    {"echo no such table; exit 3", []string{"exit status 3", "no such table"}},
		"hung":    {"echo up; sleep 1000", []string{"no end after 1s", "up"}},
		"missing": {"", []string{"exit status"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			argv := []string{"/bin/sh", "-c", c.script}
			if c.script == "" {
				argv = []string{"/bin/sh", "./absent"}
			}
			r, l := hookRig(t, SandboxAuto, &starling.OnceHooks{Pre: argv, Timeout: starling.Duration(time.Second)}, "data", "x")
			stop := r.start(t)
			e := l.end(t)
			stop()
			for _, w := range c.want {
				if !e.Failed || !strings.Contains(e.Reason, w) {
					t.Errorf("the reason lacks %q: %+v", w, e.Reason)
				}
			}
		})
	}
}

func TestHookWithoutItsArtifactFails(t *testing.T) {
	r, l := hookRig(t, SandboxOff, &starling.OnceHooks{Pre: []string{"/bin/true"}}, "data", "x")
	clear(r.blobs.chunks)
	stop := r.start(t)
	if e := l.end(t); !e.Failed || !strings.Contains(e.Reason, "artifact") {
		t.Errorf("%+v", e)
	}
	stop()
}

func TestFencedHookIsKilledAtOnce(t *testing.T) {
	arg := fmt.Sprintf("2001.%d", time.Now().UnixNano())
	r, l := hookRig(t, SandboxAuto, &starling.OnceHooks{Pre: []string{"/bin/sh", "-c", "sleep " + arg + " & sleep " + arg}}, "data", "x")
	stop := r.start(t)
	eventually(t, "the hook runs", func() bool { return len(findArg(t, arg)) >= 2 })
	l.mu.Lock()
	l.fenced = true
	l.mu.Unlock()
	eventually(t, "the hook is killed", func() bool { return len(findArg(t, arg)) == 0 })
	stop()
	if len(l.ends) > 0 {
		t.Error("the end of a hook that was lost was told")
	}
}

func TestHookOutputIsBounded(t *testing.T) {
	r, l := hookRig(t, SandboxAuto, &starling.OnceHooks{Pre: []string{"/bin/sh", "-c", "head -c 2000000 /dev/zero | tr '\\0' x; echo; echo last"}}, "data", "x")
	stop := r.start(t)
	e := l.end(t)
	stop()
	if len(e.Output) > starling.MaxHookLogBytes+256 || !bytes.Contains(e.Output, []byte("last")) || !bytes.Contains(e.Output, []byte("left out")) {
		t.Errorf("%d bytes, failed: %v", len(e.Output), e.Failed)
	}
	if l.text() != string(e.Output) {
		t.Errorf("streamed %d bytes, %d at the end", len(l.text()), len(e.Output))
	}
}
