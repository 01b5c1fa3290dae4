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

// The leader is killed in the middle of a build that `starling deploy` follows by
// another server: each line of the log and each fact of the deployment is there once and
// in order; afterwards `starling logs` has the whole log at each server.
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
	var out lockedBuffer
	root := newRoot()
	root.SetOut(&out)
	root.SetErr(&out)
	root.SetArgs([]string{"deploy", "hello", "--addr", "http://" + others[0].HTTP, "--sha", r.commit(release("v1", true))})
	ended := make(chan error, 1)
	go func() { ended <- root.ExecuteContext(t.Context()) }()
	c.eventually(time.Minute, func() error {
		if s := out.String(); !strings.Contains(s, "line 5\n") {
			return fmt.Errorf("so far: %s", s)
		}
		return nil
	})
	c.kill(leader)
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("deploy: %v", err)
		}
	case <-time.After(2 * time.Minute):
		t.Fatalf("deploy goes on: %s", out.String())
	}
	var got, facts []string
	id := ""
	fact := regexp.MustCompile(`^ +\+[0-9.]+s +(\S+) *(.*)`)
	for l := range strings.Lines(out.String()) {
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
	var want []string
	for i := range lines {
		want = append(want, fmt.Sprint(i+1))
	}
	if !slices.Equal(got, want) {
		t.Errorf("the log's lines are %v", got)
	}
	if !slices.Equal(facts, []string{"queued", "building", "replicating", "placed", "staging", "rolling_out", "wave", "succeeded"}) &&
		!slices.Equal(facts, []string{"queued", "building", "replicating", "placed", "staging", "rolling_out", "succeeded"}) {
		t.Errorf("the facts are %v", facts)
	}
	if t.Failed() {
		t.Logf("%s", out.String())
	}
	for _, p := range others {
		text := mustCLI(t, "logs", id, "--addr", "http://"+p.HTTP)
		if n := strings.Count(text, "\nline "); n != lines || !strings.Contains(text, fmt.Sprintf("line %d\n", lines)) {
			t.Errorf("the log at %s has %d lines:\n%s", p.Name, n, text)
		}
	}
}
