package main

import (
	"cmp"
	"context"
	"flag"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/history"
)

// Longer campaigns: go test ./cmd/starling -run TestHistor -history.for=10m -history.seed=7
var (
	historyFor  = flag.Duration("history.for", 0, "how long recorded histories run under faults; 0: a few seconds")
	historySeed = flag.Uint64("history.seed", 0, "of the clients and the faults; 0: a new one")
)

func historySpan(short time.Duration) (time.Duration, uint64) {
	span, seed := *historyFor, *historySeed
	if span == 0 {
		span = short
	}
	if seed == 0 {
		seed = rand.Uint64()
	}
	return span, seed
}

// historyRound is how much of a campaign is judged at a time: the price grows faster than the length.
const historyRound = 5 * time.Second

// judgeWithin bounds the judgement of one app.
const judgeWithin = 6 * time.Second

// What clients see of three servers whose leaders are killed, cut off (both ways, one way),
// and made to hand over, is what one server without faults could have shown them.
func TestHistoriesUnderFaultsInOneProcess(t *testing.T) {
	t.Parallel()
	span, seed := historySpan(historyRound)
	r := newRig(t, 3, quick())
	r.leader()
	r.cache(t.Context(), "c1")
	workers := []history.Worker{}
	for _, name := range []string{"w1", "w2"} {
		workers = append(workers, history.Worker{Name: name + "/0", RPC: r.agent(name, starling.RoleWorker), Build: r.blobs.build})
	}
	for round := 0; span > 0; round++ {
		now := min(span, historyRound)
		span -= now
		seed := seed + uint64(round)
		apps := []string{appName("a", round), appName("b", round), appName("c", round), appName("d", round)}
		r.apply(apps...)
		load := &history.Load{Seed: seed, Apps: apps, APIs: r.apis(), Clients: 5, Workers: workers, Record: history.NewRecorder()}
		judge(t, load, seed, now, func(ctx context.Context) { r.faults(ctx, rand.New(rand.NewPCG(seed, 1))) })
	}
}

func appName(prefix string, round int) string {
	return prefix + string(rune('0'+round/10%10)) + string(rune('0'+round%10))
}

// judge runs a load with faults for a while and checks what was recorded.
func judge(t *testing.T, load *history.Load, seed uint64, span time.Duration, faults func(context.Context)) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), span)
	defer cancel()
	faulty := make(chan struct{})
	go func() { defer close(faulty); faults(ctx) }()
	loaded := make(chan error, 1)
	go func() { loaded <- load.Run(ctx) }()
	<-faulty
	if err := <-loaded; err != nil {
		t.Errorf("seed %d: %v", seed, err)
	}
	calls, unknown := load.Record.Count()
	begun := time.Now()
	judged, err := load.Record.Check(load.Apps, judgeWithin, historyDir(t))
	if err != nil || judged == 0 {
		t.Errorf("seed %d: %d of %d apps judged: %v", seed, judged, len(load.Apps), err)
	}
	t.Logf("seed %d: %d calls, %d with an unknown outcome; %d of %d apps judged in %s",
		seed, calls, unknown, judged, len(load.Apps), time.Since(begun).Round(time.Millisecond))
	if calls < 50 {
		t.Errorf("only %d calls: there is nothing to judge", calls)
	}
	for _, app := range load.Apps {
		falsified(t, app, load.Record.Operations(app))
	}
}

// falsified falsifies a history that was found good, and wants it to be found bad: an
// acknowledged deployment that is not listed, a goal that was in force before.
func falsified(t *testing.T, app string, ops []porcupine.Operation) {
	t.Helper()
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Return, b.Return) })
	acked := func(key string, before int64) bool {
		return slices.ContainsFunc(ops, func(o porcupine.Operation) bool {
			c := o.Input.(history.Call)
			return c.Kind == history.Submit && c.Key == key && o.Return < before && o.Output.(history.Answer).Verdict == history.Done
		})
	}
	for i, o := range ops {
		a := o.Output.(history.Answer)
		switch k := o.Input.(history.Call).Kind; {
		case k == history.List && len(a.Keys) > 1 && acked(a.Keys[len(a.Keys)-1], o.Call):
			a.Keys = a.Keys[:len(a.Keys)-1]
		case k == history.Goal && a.Goal != nil && a.Goal.Generation.Sequence > 2:
			old := *a.Goal
			old.Generation.Sequence -= 2
			a.Goal = &old
		default:
			continue
		}
		bad := slices.Clone(ops[:i+1]) // what comes after makes it no truer
		bad[i].Output = a
		if err := history.CheckOperations(app, bad, judgeWithin, ""); err == nil {
			t.Errorf("a falsified %s of %s passes", o.Input.(history.Call).Kind, app)
		}
		return
	}
}

// historyDir keeps pictures of what went wrong after the test.
func historyDir(t *testing.T) string { return t.ArtifactDir() }

// faults does one harm after the other, never to more than one server, and mends each.
func (r *rig) faults(ctx context.Context, rnd *rand.Rand) {
	for wait(ctx, time.Duration(300+rnd.IntN(700))*time.Millisecond) {
		l := r.leads()
		if l == nil {
			continue
		}
		var others []string
		for _, s := range r.servers {
			if s != l {
				others = append(others, s.name)
			}
		}
		span := time.Duration(200+rnd.IntN(1000)) * time.Millisecond
		harm := []string{"kill the leader", "kill a follower", "cut the leader off", "cut the leader's words", "cut the leader's ears", "hand over"}[rnd.IntN(6)]
		r.t.Logf("%s %s for %s", harm, l.name, span)
		switch harm {
		case "kill the leader":
			r.bounce(ctx, l, span)
		case "kill a follower":
			r.bounce(ctx, r.follower(l), span)
		case "cut the leader off":
			r.net.isolate(l.name, others...)
			wait(ctx, span)
		case "cut the leader's words":
			r.net.oneWay(l.name, others...)
			wait(ctx, span)
		case "cut the leader's ears":
			for _, o := range others {
				r.net.oneWay(o, l.name)
			}
			wait(ctx, span)
		case "hand over":
			if n := l.node(); n != nil {
				call, cancel := context.WithTimeout(ctx, 2*time.Second)
				if err := n.TransferLeadership(call); err != nil {
					r.t.Logf("hand over: %v", err)
				}
				cancel()
			}
		}
		r.net.heal()
	}
}

// bounce kills a server and starts it again on its disk after a while.
func (r *rig) bounce(ctx context.Context, s *rigServer, after time.Duration) {
	s.kill()
	wait(ctx, after)
	if err := s.reopen(); err != nil {
		r.t.Errorf("start %s again: %v", s.name, err)
	}
}
