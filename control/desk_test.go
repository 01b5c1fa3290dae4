package control

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
)

// jobs queues n jobs, of an app each so that none waits for another.
func (b *bench) jobs(from, n int) {
	b.t.Helper()
	for i := from; i < from+n; i++ {
		b.app(fmt.Sprintf("app-%d", i), nil)
		b.submit(fmt.Sprintf("d%d", i), fmt.Sprintf("app-%d", i), starling.Digest{})
	}
}

func askOf(worker string, holding ...string) *LeaseAsk {
	return &LeaseAsk{worker: worker, holding: holding, answer: make(chan leaseAnswer, 1)}
}

func workersOf(batch []*LeaseAsk) (out []string) {
	for _, a := range batch {
		out = append(out, a.worker)
	}
	return out
}

// granted commits a batch's questions, in one entry, without telling the desk.
func (b *bench) granted(batch []*LeaseAsk) []raftfsm.Result {
	b.t.Helper()
	cmds, err := LeaseCommands(batch, b.clock.Now())
	if err != nil {
		b.t.Fatal(err)
	}
	res, err := b.raft.Propose(context.Background(), cmds...)
	if err != nil {
		b.t.Fatal(err)
	}
	return res
}

func TestDeskAsksForNoMoreThanThereAre(t *testing.T) {
	b := oneRegion(t, 0)
	b.jobs(0, 3)
	desk := NewLeaseDesk()
	for i := range 10 {
		desk.Add(askOf(fmt.Sprintf("w1/%d", i)))
	}
	batch := desk.Take(b.fsm.View())
	if got := workersOf(batch); !slices.Equal(got, []string{"w1/0", "w1/1", "w1/2"}) {
		t.Fatalf("asked for %v, want the first three", got)
	}
	if again := desk.Take(b.fsm.View()); len(again) > 0 {
		t.Errorf("%v asked for jobs that were asked for", workersOf(again))
	}
	b.jobs(3, 1)
	more := desk.Take(b.fsm.View()) // four wait, three of them are spoken for
	if got := workersOf(more); !slices.Equal(got, []string{"w1/3"}) {
		t.Errorf("asked for %v, want the one that is new", got)
	}
	seen := map[string]bool{}
	for _, r := range b.granted(append(batch, more...)) {
		if r.Err != nil || r.Deployment == nil || seen[r.Deployment.ID] || r.Deployment.Lease != r.Index {
			t.Fatalf("granted %+v", r)
		}
		seen[r.Deployment.ID] = true
	}
	desk.Done(batch)
	desk.Done(more)
	if again := desk.Take(b.fsm.View()); len(again) > 0 || len(desk.waiting) != 6 || desk.underWay != 0 || len(desk.busy) != 0 {
		t.Errorf("%v asked in vain, %d wait, %d under way of %v", workersOf(again), len(desk.waiting), desk.underWay, desk.busy)
	}
}

func TestDeskSeesToLostJobs(t *testing.T) {
	b := oneRegion(t, 0)
	b.jobs(0, 1)
	b.granted([]*LeaseAsk{askOf("w1/0")})
	desk := NewLeaseDesk()
	desk.Add(askOf("w1/1"))
	desk.Add(askOf("w1/0", "d0"))
	if batch := desk.Take(b.fsm.View()); len(batch) > 0 {
		t.Fatalf("%v asked though no job is free or lost", workersOf(batch))
	}
	desk.Add(askOf("w1/0")) // it has come back without its job
	batch := desk.Take(b.fsm.View())
	if got := workersOf(batch); !slices.Equal(got, []string{"w1/0"}) {
		t.Fatalf("asked for %v, want the one that has lost its job", got)
	}
	// It asks again before it has its answer: only what that was can tell whether the job is lost.
	desk.Add(askOf("w1/0"))
	if batch := desk.Take(b.fsm.View()); len(batch) > 0 {
		t.Fatalf("%v asked twice at once", workersOf(batch))
	}
	b.granted(batch)
	desk.Done(batch)
	if got := workersOf(desk.Take(b.fsm.View())); !slices.Equal(got, []string{"w1/0"}) {
		t.Errorf("asked for %v, want the one whose answer went astray", got)
	}
}

func TestDeskLeavesOutThoseWhoHaveGone(t *testing.T) {
	b := oneRegion(t, 0)
	b.jobs(0, 1)
	desk := NewLeaseDesk()
	gone, old, fresh, once := askOf("w1/0"), askOf("w1/1"), askOf("w1/1"), askOf("w1/2")
	once.once = true
	for _, a := range []*LeaseAsk{gone, old, fresh, once} {
		desk.Add(a)
	}
	if got := <-old.answer; got.job != nil || got.err != nil || got.again {
		t.Errorf("the older question of a slot got %+v", got)
	}
	if !gone.Withdraw() {
		t.Fatal("a question cannot be taken back")
	}
	batch := desk.Take(b.fsm.View())
	if len(batch) != 1 || batch[0] != fresh || len(desk.waiting) != 0 {
		t.Fatalf("asked for %v, %d wait", workersOf(batch), len(desk.waiting))
	}
	if fresh.Withdraw() {
		t.Error("a question was taken back that is under way")
	}
	if got := <-once.answer; got.job != nil || got.err != nil || got.again {
		t.Errorf("who does not wait got %+v", got)
	}
}

func TestDeskIsBounded(t *testing.T) {
	desk := NewLeaseDesk()
	for i := range maxLeaseAsks {
		desk.waiting = append(desk.waiting, askOf(fmt.Sprintf("w%d/0", i)))
	}
	last := askOf("late/0")
	desk.Add(last)
	if got := <-last.answer; got.err == nil || len(desk.waiting) != maxLeaseAsks {
		t.Errorf("%+v, %d wait", got, len(desk.waiting))
	}
}

// Many slots wait, jobs come one by one and in bursts: each is leased once, and the
// questions of those who get none cost nothing.
func TestManyWorkersFewJobs(t *testing.T) {
	b := oneRegion(t, 0)
	b.elect()
	const slots, jobs = 64, 40
	ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
	defer stop()
	w := clientOf(b.server, usWorker)
	var mu sync.Mutex
	leased := map[string]uint64{}
	var wg sync.WaitGroup
	for slot := range slots {
		wg.Go(func() {
			var holding []string
			for ctx.Err() == nil {
				job, err := w.Lease(ctx, rpc.LeaseRequest{Slot: slot, Holding: holding, WaitMS: 20_000})
				if err != nil && ctx.Err() == nil {
					t.Errorf("slot %d: %v", slot, err)
					return
				}
				if job == nil {
					continue
				}
				holding = append(holding, job.Deployment)
				mu.Lock()
				if leased[job.Deployment] != 0 || job.Attempt != 1 {
					t.Errorf("%s was leased twice, attempt %d", job.Deployment, job.Attempt)
				}
				leased[job.Deployment] = job.Lease
				if len(leased) == jobs {
					stop()
				}
				mu.Unlock()
			}
		})
	}
	for i := range jobs / 2 {
		b.jobs(i, 1)
	}
	b.jobs(jobs/2, jobs/2)
	wg.Wait()
	if len(leased) != jobs {
		t.Fatalf("%d of %d jobs were leased", len(leased), jobs)
	}
	// A few more than jobs may be asked for: a job can end between the look and the entry.
	if n := b.raft.written(raftfsm.TypeJobLease); n < jobs || n > jobs+maxGrantEntries {
		t.Errorf("%d questions in the log for %d jobs", n, jobs)
	}
}
