package raftfsm

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"github.com/starlingdeploy/starling"
)

// BenchmarkJobs applies job cycles, 64 of each step to an entry, to a state whose
// history is full: what each server of a region pays for one.
func BenchmarkJobs(b *testing.B) {
	f := New("r1")
	f.limits.ended, f.limits.events = 1000, 1000
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	index := uint64(0)
	apply := func(cmds ...Command) []Result {
		data, err := json.Marshal(Entry{Version: EntryVersion, Commands: cmds})
		if err != nil {
			b.Fatal(err)
		}
		index++
		return f.Apply(&raft.Log{Index: index, Data: data}).([]Result)
	}
	command := func(t Type, payload any) Command {
		c, err := NewCommand(t, at, "bench", payload)
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	const lanes = 64
	for i := range lanes {
		app := starling.App{Name: fmt.Sprintf("app-%d", i), Home: "r1", Source: starling.SourceSpec{Git: "/nowhere"}, Build: &starling.BuildSpec{Command: []string{"true"}, Output: "."}}
		app.SetDefaults()
		if r := apply(command(TypeAppApply, AppApply{App: app}))[0]; r.Err != nil {
			b.Fatal(r.Err)
		}
	}
	n := 0
	for b.Loop() {
		var submits, leases, ends [lanes]Command
		for i := range lanes {
			n++
			submits[i] = command(TypeSubmit, Submit{ID: fmt.Sprintf("d-%d", n), App: fmt.Sprintf("app-%d", i), SHA: fmt.Sprintf("%040x", n), Regions: []string{"r1"}})
			leases[i] = command(TypeJobLease, JobLease{Worker: fmt.Sprintf("w1/%d", i)})
		}
		apply(submits[:]...)
		for i, r := range apply(leases[:]...) {
			if r.Err != nil || r.Deployment == nil {
				b.Fatal(r.Err)
			}
			ends[i] = command(TypeJobFail, JobFail{ID: r.Deployment.ID, Lease: r.Deployment.Lease, Reason: "done"})
		}
		for _, r := range apply(ends[:]...) {
			if r.Err != nil {
				b.Fatal(r.Err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*lanes), "µs/cycle")
}
