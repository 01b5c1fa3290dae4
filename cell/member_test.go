package cell

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

func TestGoalsComeDownAndReportsGoUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 120
		all := w.add("c1", n)
		w.await(5*time.Second, "the first goals", func() bool { return knows(all, 10) })
		g := goalOf("web", 1)
		w.tell(11, "s1/1", g)
		took := w.await(2*time.Second, "a goal to the last machine", func() bool { return knows(all, 11) })
		t.Logf("told within %s", took)
		time.Sleep(5 * time.Second)
		w.mu.Lock()
		w.count.reports, w.count.cells = 0, 0
		w.mu.Unlock()
		say(g, starling.MachineHealthy, all...)
		took = w.await(2*time.Second, "all reports at the leader", func() bool {
			sum, alive := w.picture("web")
			return sum.Counts.Healthy == n && sum.Counts.Target == n && sum.Unheard == 0 && alive == n
		})
		t.Logf("reported within %s", took)
		w.mu.Lock()
		if w.count.reports > n || w.count.cells > 20 {
			t.Errorf("%d posts of members and %d of cells for %d machines", w.count.reports, w.count.cells, n)
		}
		w.mu.Unlock()
	})
}

func TestCellOfOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all := w.add("c1", 1)
		g := goalOf("web", 1)
		w.tell(11, "s1/1", g)
		w.await(2*time.Second, "the goal", func() bool { return knows(all, 11) })
		say(g, starling.MachineHealthy, all...)
		w.await(3*time.Second, "the report", func() bool {
			sum, alive := w.picture("web")
			return sum.Counts.Healthy == 1 && alive == 1
		})
		goals, err := all[0].Goals(t.Context(), 0, "", time.Second)
		if err != nil || goals.Index != 11 || len(goals.Goals) != 1 || goals.Reign != "" {
			t.Errorf("goals %+v, %v", goals, err)
		}
		w.mu.Lock()
		asks := w.count.asks
		w.mu.Unlock()
		if asks != 0 {
			t.Errorf("asked itself %d times", asks)
		}
	})
}

// Two of three relays do not reach the servers for a moment: the others have news from each
// other, and do not turn to the servers for what is on its way.
func TestNewsThatIsOnItsWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 400
		all, g := rollout(w, "c1", n)
		w.mu.Lock()
		var names []string
		for _, m := range all {
			names = append(names, m.node.Name)
		}
		relays := Rank("c1", names, rpc.CellRelays)
		for _, name := range relays[:2] {
			w.blocked[name] = true
		}
		before := w.count.polls
		w.mu.Unlock()
		g2 := *g
		g2.Revision = 2
		w.tell(12, "s1/1", &g2)
		w.await(4*time.Second, "the news", func() bool { return knows(all, 12) })
		w.mu.Lock()
		defer w.mu.Unlock()
		polls := w.count.polls - before
		t.Logf("%d polls of servers", polls)
		if polls > 3*len(relays) {
			t.Errorf("%d polls of servers for one piece of news", polls)
		}
	})
}

// rollout has a cell with a goal on which everybody has reported.
func rollout(w *world, cell string, n int) ([]*machine, *starling.Goal) {
	w.t.Helper()
	all := w.add(cell, n)
	g := goalOf("web", 1)
	w.tell(11, "s1/1", g)
	w.await(5*time.Second, "the goal", func() bool { return knows(all, 11) })
	say(g, starling.MachineHealthy, all...)
	w.await(5*time.Second, "the reports", func() bool { return w.healthy(n) })
	return all, g
}

// healthy reports whether the leader sees n machines alive and healthy, and nobody twice.
func (w *world) healthy(n int) bool {
	sum, alive := w.picture("web")
	return sum.Counts.Healthy == n && sum.Counts.Target == n && sum.Unheard == 0 && alive == n
}

func TestSpeakersDeathIsHealedInSeconds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 60
		rollout(w, "c1", n)
		killed := time.Now()
		w.kill(w.speaker("c1"))
		most := 0
		took := w.await(10*time.Second, "the picture without the dead one", func() bool {
			_, alive := w.picture("web")
			most = max(most, alive)
			return w.healthy(n - 1)
		})
		if most > n {
			t.Errorf("%d machines counted of %d", most, n)
		}
		if healed := time.Since(killed) - foundDead; healed > 3*time.Second {
			t.Errorf("healed %s after gossip had found the death", healed)
		}
		t.Logf("whole again after %s, of which gossip took %s", took, foundDead)
		// Goals go on.
		w.tell(12, "s1/1", goalOf("web", 2))
		w.await(2*time.Second, "the next goal", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, m := range w.members {
				if f, _ := m.Feed(); f.Index != 12 {
					return false
				}
			}
			return true
		})
	})
}

func TestTwoHalvesOfACellBothCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 60
		all, g := rollout(w, "c1", n)
		var side []string
		for _, m := range all[:25] {
			side = append(side, m.node.Name)
		}
		w.cut(1, side...)
		most := 0
		watch := func(ok func() bool) func() bool {
			return func() bool {
				_, alive := w.picture("web")
				most = max(most, alive)
				return ok()
			}
		}
		w.await(15*time.Second, "both halves at the leader", watch(func() bool { return w.healthy(n) && w.parts("c1") == 2 }))
		// Both halves hear of goals and are counted.
		g2 := *g
		g2.Revision = 2
		w.tell(12, "s1/1", &g2)
		w.await(2*time.Second, "a goal in both halves", watch(func() bool { return knows(all, 12) }))
		time.Sleep(4 * time.Second)
		w.mu.Lock()
		joins := w.pools["c1"].joins
		w.mu.Unlock()
		if joins == 0 {
			t.Error("the halves were not told of each other")
		}
		w.cut(0, side...)
		w.await(15*time.Second, "one cell again", watch(func() bool { return w.healthy(n) && w.parts("c1") == 1 }))
		if most > n {
			t.Errorf("%d machines counted of %d", most, n)
		}
	})
}

// parts counts the speakers that the leader believes.
func (w *world) parts(cell string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	var said []Said
	for name, k := range w.reports[cell] {
		said = append(said, Said{name, k.r.Alive, k.at})
	}
	return len(Merge(cell, said, time.Now()))
}

func TestNewLeaderIsToldEverythingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		rollout(w, "c1", 40)
		time.Sleep(time.Minute)
		w.newLeader("s2/2")
		took := w.await(time.Second, "the picture at the new leader", func() bool { return w.healthy(40) })
		t.Logf("within %s", took)
	})
}

func TestRelaysGoToAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all, g := rollout(w, "c1", 40)
		for i, addr := range servers[:2] { // one after the other, until one is left
			w.mu.Lock()
			w.down[addr] = true
			close(w.changed)
			w.changed = make(chan struct{})
			w.mu.Unlock()
			time.Sleep(time.Minute)
			g2 := *g
			g2.Revision = uint64(2 + i)
			w.tell(uint64(12+i), "s1/1", &g2)
			w.await(3*time.Second, "a goal from a server that lives", func() bool { return knows(all, uint64(12+i)) })
			w.await(5*time.Second, "the picture", func() bool { return w.healthy(40) })
		}
	})
}

func TestRelayWithoutServersStandsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all, g := rollout(w, "c1", 40)
		old := w.speaker("c1")
		w.mu.Lock()
		w.blocked[old.node.Name] = true
		close(w.changed)
		w.changed = make(chan struct{})
		w.mu.Unlock()
		w.await(2*time.Minute, "another speaker", func() bool {
			for _, m := range all {
				m.mu.Lock()
				_, speaks := m.brain.Relaying()
				m.mu.Unlock()
				if speaks && m != old {
					return w.healthy(40)
				}
			}
			return false
		})
		// It still hears of goals from the others.
		g2 := *g
		g2.Revision = 2
		w.tell(12, "s1/1", &g2)
		w.await(3*time.Second, "the next goal, also for the one that stood back", func() bool { return knows(all, 12) })
		w.mu.Lock()
		delete(w.blocked, old.node.Name)
		w.mu.Unlock()
		w.await(2*time.Minute, "the old speaker again", func() bool {
			old.mu.Lock()
			defer old.mu.Unlock()
			_, speaks := old.brain.Relaying()
			return speaks
		})
	})
}

// While no server answers nobody stands back in turn for ever.
func TestWithoutServersFewStandBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all, _ := rollout(w, "c1", 40)
		w.mu.Lock()
		for _, addr := range servers {
			w.down[addr] = true
		}
		close(w.changed)
		w.changed = make(chan struct{})
		before := w.count
		w.mu.Unlock()
		time.Sleep(30 * time.Minute)
		muted := 0
		for _, m := range all {
			m.mu.Lock()
			if m.brain.word.Muted {
				muted++
			}
			m.mu.Unlock()
		}
		w.mu.Lock()
		if polls := w.count.polls - before.polls; muted > maxMuted+3 || polls > 2000 {
			t.Errorf("%d members stand back, %d polls in half an hour", muted, polls)
		}
		clear(w.down)
		w.mu.Unlock()
		w.await(time.Minute, "the picture", func() bool { return w.healthy(40) })
	})
}

func TestForgedAndOldFeedsAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all, g := rollout(w, "c1", 30)
		evil := goalOf("web", 99)
		evil.Artifact = starling.DigestOf([]byte("evil"))
		w.mu.Lock()
		old := w.signed
		w.mu.Unlock()
		g2 := *g
		g2.Revision = 2
		for i, m := range all[:15] { // half of the cell lies, relays among them perhaps
			m.forge = old
			if i%2 == 0 {
				m.forge = signTest(&rpc.Feed{Index: 1 << 40, Region: "us", Goals: []*starling.Goal{evil}}, "m0001")
			}
		}
		w.tell(12, "s1/1", &g2)
		// At worst a member meets liars in patientRounds rounds, of a second each, and asks a server then.
		w.await(fetchSpread+(patientRounds+1)*time.Second, "the true goal", func() bool { return knows(all, 12) })
		time.Sleep(3 * time.Minute)
		for _, m := range all {
			f, _ := m.Feed()
			if f.Index != 12 || f.Goals[0].Artifact != g.Artifact || f.Goals[0].Revision != 2 {
				t.Fatalf("%s has %+v", m.node.Name, f)
			}
		}
	})
}

func TestNoGoalIsLostInAMoveToAnotherCell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 60
		all, g := rollout(w, "c1", n)
		// The region splits the cell: the relays hear that half is gone.
		w.mu.Lock()
		roster := w.rosters["c1"].Roster
		leaving := map[string]bool{}
		for i, m := range all {
			if i%2 == 0 {
				leaving[m.node.Name] = true
			}
		}
		var stay rpc.Roster
		for _, name := range roster {
			if leaving[name] {
				name = ""
			}
			stay = append(stay, name)
		}
		w.setRoster("c1", stay, 1)
		w.mu.Unlock()
		took := w.await(moveSpread+10*time.Second, "all that move to be told", func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, m := range all {
				if leaving[m.node.Name] && m.moved == 0 {
					return false
				}
			}
			return true
		})
		t.Logf("told within %s", took)
		for _, m := range all {
			if f, _ := m.Feed(); f == nil || f.Index != 11 {
				t.Fatal("a goal was lost")
			}
			if leaving[m.node.Name] {
				m.join("c2")
			} else if m.moved != 0 {
				t.Errorf("%s was told to move", m.node.Name)
			}
		}
		w.await(10*time.Second, "everybody in the two cells, without a new report", func() bool { return w.healthy(n) })
		g2 := *g
		g2.Revision = 2
		w.tell(12, "s1/1", &g2)
		w.await(2*time.Second, "a goal in both cells", func() bool { return knows(all, 12) })
		say(&g2, starling.MachineFailed, all...)
		w.await(3*time.Second, "reports of both cells", func() bool {
			sum, _ := w.picture("web")
			return sum.Counts.Failed == n && len(sum.Counts.Samples) == starling.MaxFailureSamples
		})
	})
}

// A speaker that is started again before gossip finds it dead has forgotten everything.
func TestSpeakersRestartIsNoticed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n = 40
		_, g := rollout(w, "c1", n)
		m := w.speaker("c1")
		m.stop()
		<-m.done
		w.mu.Lock()
		m.handle.pool.remove(m.node.Name)
		w.mu.Unlock()
		again := w.start(m.node, "c1", m.signed)
		if f, _ := again.Feed(); f == nil || f.Index != 11 {
			t.Fatal("the goals of its earlier life are lost")
		}
		say(g, starling.MachineHealthy, again)
		w.await(10*time.Second, "everybody's reports again", func() bool {
			w.mu.Lock()
			k := w.reports["c1"][m.node.Name]
			fresh := k != nil && k.r.Base == 0 && k.r.Seq > 0
			w.mu.Unlock()
			return fresh && w.healthy(n)
		})
	})
}

func TestKeyIsRotatedOnceByTheSpeaker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		rollout(w, "c1", 30)
		w.mu.Lock()
		w.setRoster("c1", w.rosters["c1"].Roster, 2)
		w.mu.Unlock()
		time.Sleep(2 * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		if keys := w.pools["c1"].keys; len(keys) != 1 || keys[0] != 2 {
			t.Errorf("rotated to %v", keys)
		}
	})
}

func TestIdleTrafficIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		const n, minutes = 300, 10
		rollout(w, "c1", n)
		time.Sleep(time.Minute)
		w.mu.Lock()
		before := w.count
		clear(w.asked)
		w.mu.Unlock()
		time.Sleep(minutes * time.Minute)
		w.mu.Lock()
		defer w.mu.Unlock()
		per := func(a, b int) float64 { return float64(a-b) / minutes }
		t.Logf("a minute of %d machines: %.1f polls of servers, %.1f reports of the cell, %.1f questions to members, %.1f reports of members", n,
			per(w.count.polls, before.polls), per(w.count.cells, before.cells), per(w.count.asks, before.asks), per(w.count.reports, before.reports))
		if per(w.count.polls, before.polls) > 10 || per(w.count.cells, before.cells) > 31 || per(w.count.asks, before.asks) > 1.2*n || w.count.reports != before.reports {
			t.Error("too much")
		}
		for name, asked := range w.asked { // shared by the relays
			if asked > n*minutes/2 {
				t.Errorf("%s was asked %d times of %d", name, asked, n*minutes)
			}
		}
	})
}
