package main

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// An acknowledged submission survives any server killed at any instant with its disk, and
// its key finds it at whoever leads then: it never deploys twice.
func TestAcknowledgedSubmissionsSurviveAMinorityAndItsDisk(t *testing.T) {
	t.Parallel()
	_, seed := historySpan(0)
	rnd := rand.New(rand.NewPCG(seed, 0))
	t.Logf("seed %d", seed)
	r := newRig(t, 3, quick())
	r.leader()
	r.apply("a")
	acked := map[string]string{} // ID by key
	for round := range 3 {
		victim := r.leader()
		if round == 2 {
			victim = r.follower(victim)
		}
		for k, id := range r.submitUntil(rnd, round, victim) {
			acked[k] = id
		}
		victim.wipe() // nothing of it is left; the others must have everything
		r.sameAgain(acked)
		victim.start()
		l := r.leader()
		r.eventually("the server whose disk was new has everything, and its vote", func() error {
			have, want := victim.node().Stats(), l.node().Stats()
			if have.AppliedIndex < want.CommitIndex || have.Voters < len(r.servers) || want.Voters < len(r.servers) {
				return fmt.Errorf("%+v of %+v", have, want)
			}
			return nil
		})
	}
	if len(acked) < 30 {
		t.Errorf("only %d submissions were acknowledged", len(acked))
	}
	t.Logf("%d acknowledged", len(acked))
}

// submitUntil submits from several clients at all servers until the victim is killed in
// their midst, and returns what was acknowledged.
func (r *rig) submitUntil(rnd *rand.Rand, round int, victim *rigServer) map[string]string {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	defer cancel()
	acked, enough := map[string]string{}, make(chan struct{})
	want := 10 + rnd.IntN(20)
	var mu sync.Mutex
	var clients sync.WaitGroup
	for i, api := range r.apis() {
		clients.Go(func() {
			for n := 0; ctx.Err() == nil; n++ {
				key := fmt.Sprintf("k%d-%d-%d", round, i, n)
				d, err := api.Submit(ctx, starling.Submission{App: "a", SHA: shaOf(key), IdempotencyKey: key})
				if err != nil {
					continue // not acknowledged: it may be there or not
				}
				mu.Lock()
				if acked[key] = d.ID; len(acked) == want {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	select {
	case <-enough:
	case <-time.After(30 * time.Second):
		r.t.Errorf("%d submissions were not acknowledged within 30 s", want)
	}
	victim.kill()
	cancel()
	clients.Wait()
	return acked
}

func shaOf(key string) string {
	sum := sha1.Sum([]byte(key))
	return hex.EncodeToString(sum[:])
}

// sameAgain submits every key again, at every server that is up, and wants the deployment
// that it made before.
func (r *rig) sameAgain(acked map[string]string) {
	r.t.Helper()
	r.leader()
	for _, s := range r.servers {
		if s.node() == nil {
			continue
		}
		api := s.api()
		for key, id := range acked {
			d, err := api.Submit(r.t.Context(), starling.Submission{App: "a", SHA: shaOf(key), IdempotencyKey: key})
			if err != nil || d.ID != id {
				r.t.Fatalf("%s again at %s: %+v, %v, want %s", key, s.name, d, err, id)
			}
		}
	}
	ds, err := r.follower(nil).api().Consistent().Deployments(r.t.Context(), starling.DeploymentFilter{App: "a", Limit: 1000})
	if err != nil {
		r.t.Fatal(err)
	}
	keys := map[string]int{}
	for _, d := range ds {
		keys[d.IdempotencyKey]++
	}
	for key := range acked {
		if keys[key] != 1 {
			r.t.Errorf("%s made %d deployments", key, keys[key])
		}
	}
}
