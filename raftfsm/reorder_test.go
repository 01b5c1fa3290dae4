package raftfsm

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// Batches of a home's goals come to a mirror late, twice and in any order: its goal only
// ever grows, batch by batch, and a batch that is overtaken changes nothing.
func TestReorderedMirrorBatchesNeverTakeAGoalBack(t *testing.T) {
	at := time.Date(2026, 11, 24, 0, 0, 0, 0, time.UTC)
	var batches []starling.Mirror
	for i := range uint64(12) { // three revisions of each generation
		batches = append(batches, starling.Mirror{Home: "east", Index: 10 + i, Goals: []*starling.Goal{{
			App: "a", Home: "east", Generation: starling.Generation{Epoch: 1, Sequence: 1 + i/3}, Revision: 1 + i%3,
			Deployment: fmt.Sprint("d", i/3), Artifact: starling.DigestOf([]byte{byte(i / 3)}),
			Stage: starling.StageActivate, Cutoff: starling.Cutoff(i%3) * starling.CutoffAll / 2,
		}}})
	}
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		west := New("west")
		var last *starling.Goal
		var newest uint64
		for n := range 40 {
			b := batches[rnd.IntN(len(batches))]
			c, err := NewCommand(TypeMirror, at, "s", Mirror{Batch: b})
			if err != nil {
				t.Fatal(err)
			}
			data, err := Encode([]Command{c})
			if err != nil {
				t.Fatal(err)
			}
			res := west.Apply(&raft.Log{Index: uint64(n + 1), Data: data}).([]Result)[0]
			if fresh := b.Index > newest; fresh != (res.Err == nil) {
				t.Fatalf("seed %d: batch %d after %d: %v", seed, b.Index, newest, res.Err)
			}
			newest = max(newest, b.Index)
			now, _ := west.View().Goal("a")
			if last != nil && now != last && !now.Supersedes(last) {
				t.Fatalf("seed %d: goal %s revision %d after %s revision %d", seed, now.Generation, now.Revision, last.Generation, last.Revision)
			}
			last = now
		}
		if want := batches[newest-10].Goals[0]; last == nil || last.Generation != want.Generation || last.Revision != want.Revision {
			t.Fatalf("seed %d: the goal %+v is not that of batch %d", seed, last, newest)
		}
	}
}
