package main

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/world"
)

// lockedBuffer is written by a command while a test reads it.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// The leader is killed in the middle of a build that `starling deploy` follows twice, with one
// key: by another server, and by the very leader, with the others named after it. Each line of
// the log and each fact of the deployment is there once and in order; afterwards
// `starling logs` has the whole log at each server.
func TestDeployFollowsOverTheLeadersDeath(t *testing.T) {
	if testing.Short() {
		t.Skip("a world of processes")
	}
	t.Parallel()
	const lines = 50
	c := asProcesses(t, world.Size{Regions: 1, Servers: 3, Caches: 1, Workers: 1, Machines: 2})
	leader, api := c.leader()
	var others []*world.Proc
	for _, p := range c.w.WithRole(starling.RoleServer) {
		if p != leader {
			others = append(others, p)
		}
	}
	r := newRepo(t)
	c.apply(api, r.app("hello", func(a *starling.App) {
		a.Build.Command = []string{"sh", "-c", fmt.Sprintf("for i in $(seq %d); do echo line $i; sleep 0.1; done; cp -R src out", lines)}
	}))
	sha := r.commit(release("v1", true))
	var follows []*followed
	for _, addrs := range []string{
		"http://" + others[0].HTTP,
		fmt.Sprintf("http://%s,http://%s,http://%s", leader.HTTP, others[0].HTTP, others[1].HTTP),
	} {
		follows = append(follows, followDeploy(t, "deploy", "hello", "--addr", addrs, "--sha", sha, "--idempotency-key", "k1"))
	}
	for _, f := range follows {
		c.eventually(time.Minute, func() error {
			if s := f.out.String(); !strings.Contains(s, "line 5\n") {
				return fmt.Errorf("so far: %s", s)
			}
			return nil
		})
	}
	c.kill(leader)
	id := ""
	for _, f := range follows {
		select {
		case err := <-f.ended:
			if err != nil {
				t.Errorf("deploy: %v", err)
			}
		case <-time.After(2 * time.Minute):
			t.Fatalf("deploy goes on: %s", f.out.String())
		}
		if got := f.check(t, lines); id == "" || got != id && got != "" {
			if id != "" {
				t.Errorf("one key made two deployments, %s and %s", id, got)
			}
			id = got
		}
	}
	for _, p := range others {
		text := mustCLI(t, "logs", id, "--addr", "http://"+p.HTTP)
		if n := strings.Count(text, "\nline "); n != lines || !strings.Contains(text, fmt.Sprintf("line %d\n", lines)) {
			t.Errorf("the log at %s has %d lines:\n%s", p.Name, n, text)
		}
	}
}

// followed is a `starling deploy` that runs.
type followed struct {
	out   lockedBuffer
	ended chan error
}

func followDeploy(t *testing.T, args ...string) *followed {
	f := &followed{ended: make(chan error, 1)}
	root := newRoot()
	root.SetOut(&f.out)
	root.SetErr(&f.out)
	root.SetArgs(args)
	go func() { f.ended <- root.ExecuteContext(t.Context()) }()
	return f
}

// check wants each line of the log and each fact once, in order, and returns the deployment's ID.
func (f *followed) check(t *testing.T, lines int) (id string) {
	t.Helper()
	var got, want, facts []string
	fact := regexp.MustCompile(`^ +\+[0-9.]+s +(\S+) *(.*)`)
	for l := range strings.Lines(f.out.String()) {
		if text, ok := strings.CutPrefix(l, "          | line "); ok {
			got = append(got, strings.TrimSpace(text))
		}
		if m := fact.FindStringSubmatch(l); m != nil && m[1] != "…" {
			facts = append(facts, m[1])
			if m[1] == "queued" {
				id, _, _ = strings.Cut(m[2], ":")
			}
		}
	}
	for i := range lines {
		want = append(want, fmt.Sprint(i+1))
	}
	whole := []string{"queued", "building", "replicating", "placed", "staging", "rolling_out", "succeeded"}
	if !slices.Equal(got, want) || !slices.Equal(facts, whole) && !slices.Equal(facts, slices.Insert(slices.Clone(whole), 6, "wave")) {
		t.Errorf("the log's lines are %v, the facts %v:\n%s", got, facts, f.out.String())
	}
	return id
}
