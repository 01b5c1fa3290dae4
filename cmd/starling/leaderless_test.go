package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftnode"
	"github.com/starlingdeploy/starling/world"
)

// Longer: go test ./cmd/starling -run 'TestALeadersDeath|TestBulk' -v -leaders=30 -bulk.mib=2000
var (
	leadersFlag = flag.Int("leaders", 3, "how many leaders TestALeadersDeathCostsAWait kills")
	bulkFlag    = flag.Int("bulk.mib", 64, "size of the artifact of TestBulkTrafficBesideRaft, in MiB")
)

func medianAndMost(ds []time.Duration) (time.Duration, time.Duration) {
	ds = slices.Sorted(slices.Values(ds))
	return ds[len(ds)/2], ds[len(ds)-1]
}

// A leader's death, with the timing that servers have, leaves the region without one for
// seconds. What is submitted meanwhile at the others waits and succeeds, with a key or
// without, and is there once.
func TestALeadersDeathCostsAWaitAndNoError(t *testing.T) {
	t.Parallel()
	r := newRig(t, 3, raftnode.Timing{})
	r.leader()
	r.apply("a")
	var without, waits []time.Duration
	sent := 0
	for i := range *leadersFlag {
		l := r.leader()
		var others []*rigServer
		for _, s := range r.servers {
			if s != l {
				others = append(others, s)
			}
		}
		died := time.Now()
		type result struct {
			wait time.Duration
			err  error
		}
		results := make(chan result, 2*len(others))
		for n := range cap(results) {
			api, sub := others[n%len(others)].api(), starling.Submission{App: "a", SHA: shaOf(fmt.Sprint(i, n))}
			if n < len(others) {
				sub.IdempotencyKey = fmt.Sprintf("k%d-%d", i, n)
			}
			go func() {
				begun := time.Now()
				_, err := api.Submit(t.Context(), sub)
				results <- result{time.Since(begun), err}
			}()
		}
		l.kill()
		r.leader()
		without = append(without, time.Since(died))
		for range cap(results) {
			got := <-results
			sent++
			waits = append(waits, got.wait)
			if got.err != nil {
				t.Errorf("a submission while the leader died: after %s: %v", got.wait, got.err)
			}
		}
		l.start()
	}
	ds, err := r.leader().api().Consistent().Deployments(t.Context(), starling.DeploymentFilter{App: "a", Limit: 1000})
	if err != nil || len(ds) != sent {
		t.Errorf("%d submissions made %d deployments: %v", sent, len(ds), err)
	}
	median, most := medianAndMost(without)
	wm, wx := medianAndMost(waits)
	t.Logf("%d leaders died: without a leader for %s (median), %s (most); submissions waited %s (median), %s (most)",
		len(without), median.Round(time.Millisecond), most.Round(time.Millisecond), wm.Round(time.Millisecond), wx.Round(time.Millisecond))
	if median > 10*time.Second {
		t.Errorf("without a leader for %s", median)
	}
}

// An artifact goes at full rate through servers that are caches, too, to several machines.
// Its traffic has QUIC connections of its own; whether Raft feels it shows in elections
// and in how long a consistent read takes, a round of Raft, beside what it takes at rest.
func TestBulkTrafficBesideRaft(t *testing.T) {
	if testing.Short() {
		t.Skip("a world of processes")
	}
	c := asProcesses(t, world.Size{Regions: 1, Servers: 3, Workers: 1, Machines: 3, Together: true})
	leader, api := c.leader()
	r := newRepo(t)
	c.apply(api, r.app("bulk", func(a *starling.App) {
		a.Build.Command = []string{"sh", "-c", fmt.Sprintf("cp -R src out; head -c %dM /dev/urandom > out/blob", *bulkFlag)}
	}))
	sha := r.commit(release("one", true))
	rest := c.reads(t.Context(), time.Second)

	d, err := api.Submit(t.Context(), starling.Submission{App: "bulk", SHA: sha})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	bulk := make(chan []time.Duration, 1)
	go func() { bulk <- c.reads(ctx, time.Minute) }()
	d = c.wait(api, d)
	cancel()
	load := <-bulk
	if d.Phase != starling.PhaseSucceeded || d.Attempt != 1 {
		t.Fatalf("%s after %d builds: %s", d.Phase, d.Attempt, d.Reason)
	}
	moved := float64(d.Bytes.Artifact+d.Bytes.New+d.Bytes.CacheOut+d.Bytes.Peer) / 1e6
	rm, rx := medianAndMost(rest)
	lm, lx := medianAndMost(load)
	t.Logf("%.0f MB moved in %s; a round of Raft: at rest %s (median), %s (most) of %d, beside it %s, %s of %d",
		moved, time.Duration(d.Timings.TotalMS)*time.Millisecond, rm, rx, len(rest), lm, lx, len(load))
	now, _ := c.leader()
	if now != leader {
		t.Logf("the lead went from %s to %s", leader.Name, now.Name)
	}
	if terms := c.terms(); terms != 1 {
		t.Errorf("%d leaders' terms: bulk traffic caused elections", terms)
	}
}

// reads makes consistent reads, one after the other, and returns how long each took.
func (c *cluster) reads(ctx context.Context, span time.Duration) []time.Duration {
	api := c.apis["r1"].Consistent()
	var took []time.Duration
	for end := time.Now().Add(span); time.Now().Before(end) && ctx.Err() == nil; {
		begun := time.Now()
		if _, err := api.Apps(ctx); err == nil {
			took = append(took, time.Since(begun).Round(10*time.Microsecond))
		} else if ctx.Err() == nil {
			c.t.Logf("a read failed after %s: %v", time.Since(begun), err)
		}
		wait(ctx, 20*time.Millisecond)
	}
	return took
}

// terms counts how often the servers' logs say that one of them began to lead.
func (c *cluster) terms() int {
	n := 0
	for _, p := range c.w.WithRole(starling.RoleServer) {
		n += c.count(p, "entering leader state")
	}
	return n
}

// count counts the lines of a process's log that hold a text.
func (c *cluster) count(p *world.Proc, text string) int {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		c.t.Fatal(err)
	}
	return strings.Count(string(b), text)
}
