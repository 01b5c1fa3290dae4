package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/starlingdeploy/starling"
)

// Two of three servers are gone: the one that is left says in words what it last knew, that
// nobody leads and how many are needed, and the commands exit as usual.
func TestWhyWithoutAQuorum(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, quick())
	l := r.leader()
	r.apply("a")
	d, err := l.api().Submit(t.Context(), starling.Submission{App: "a", SHA: shaOf("why")})
	if err != nil {
		t.Fatal(err)
	}
	left := r.follower(l)
	r.eventually("it has heard of the deployment", func() error {
		_, err := left.api().Stale().Deployment(t.Context(), d.ID)
		return err
	})
	for _, s := range r.servers {
		if s != left {
			s.kill()
			r.members.fail(s.name)
		}
	}
	r.eventually("it knows that nobody leads", func() error {
		if p, ok := left.node().Leader(); ok {
			return fmt.Errorf("%s leads", p.Name)
		}
		return nil
	})
	var why, status string
	var unknown error
	var asked sync.WaitGroup // each waits as long as an election may take
	asked.Go(func() { why = cliText(t, "why", d.ID, "--addr", "http://"+left.http) })
	asked.Go(func() { status = cliText(t, "status", d.ID, "--addr", "http://"+left.http) })
	asked.Go(func() { _, unknown = left.api().Why(t.Context(), "d-none", "", "") })
	asked.Wait()
	for _, want := range []string{
		d.ID + " of a is queued for ", "It was queued since ", " when server " + left.name + " of region r1 last heard of it",
		"Region r1 has had no leader since ", "servers alive: 1 of 3, and 2 are needed",
	} {
		if !strings.Contains(why, want) {
			t.Errorf("no %q in:\n%s", want, why)
		}
	}
	if !strings.Contains(status, d.ID+" queued in ") {
		t.Errorf("status: %s", status)
	}
	if unknown == nil || !strings.Contains(unknown.Error(), "is not known here, and region r1 has no leader to ask") {
		t.Errorf("of what it does not know: %v", unknown)
	}
	t.Log(why)
}

// cliText runs a command that must succeed, on any goroutine.
func cliText(t *testing.T, args ...string) string {
	out, errs, code := cli(t, args...)
	if code != 0 {
		t.Errorf("starling %s: exit %d: %s", strings.Join(args, " "), code, errs)
	}
	return out
}
