package membership

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

func cellConfig(name string, join ...string) Config {
	conf := testConfig(name, join...)
	conf.Cell = "c1"
	return conf
}

// cellOf starts n members of one cell that know each other.
func cellOf(t *testing.T, n int) []*Pool {
	t.Helper()
	pools := []*Pool{start(t, cellConfig("m0"))}
	for i := 1; i < n; i++ {
		pools = append(pools, start(t, cellConfig(fmt.Sprintf("m%d", i), pools[0].Addr())))
	}
	for _, p := range pools {
		eventually(t, p, "all members", func() bool { return alive(p) == n })
	}
	return pools
}

func TestPoolsOfCellsAndRegionsStayApart(t *testing.T) {
	t.Parallel()
	region, cell := start(t, testConfig("server")), start(t, cellConfig("m1"))
	other := cellConfig("m2")
	other.Cell = "c2"
	for name, tc := range map[string]struct {
		conf Config
		to   *Pool
	}{
		"a machine of a cell in the region's pool":    {cellConfig("stray"), region},
		"a member of the region's pool in a cell":     {testConfig("stray"), cell},
		"a machine of another cell with the same key": {other, cell},
	} {
		stray := start(t, tc.conf)
		if _, err := stray.Join([]string{tc.to.Addr()}); err == nil || !strings.Contains(err.Error(), "cell") {
			t.Errorf("%s: %v", name, err)
		}
		if alive(tc.to) != 1 || alive(stray) != 1 {
			t.Errorf("%s: members %+v and %+v", name, tc.to.Members(), stray.Members())
		}
	}
}

// Somebody of whom gossip does not tell is found all the same, and soon: he is on the others' lists.
func TestACellFindsWhomGossipLost(t *testing.T) {
	t.Parallel()
	mute := func(name string, join ...string) *Pool {
		conf := cellConfig(name, join...)
		if err := conf.check(); err != nil {
			t.Fatal(err)
		}
		sc := conf.serfConfig()
		ml := sc.MemberlistConfig
		ml.GossipInterval, ml.ProbeInterval, ml.PushPullInterval = 0, 0, 0 // lists are compared on joining alone
		p, err := open(conf, sc)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		})
		return p
	}
	first := mute("m1")
	second := mute("m2", first.Addr())
	<-second.Joined()
	first.Announce(12)
	third := mute("m3", first.Addr())
	for _, p := range []*Pool{first, second, third} {
		eventually(t, p, "all three", func() bool { return alive(p) == 3 })
	}
	await(t, "what was announced meanwhile", func() (bool, <-chan struct{}) {
		heard, next := second.Heard()
		return heard == 12, next
	})
}

func TestNewsReachTheCell(t *testing.T) {
	t.Parallel()
	pools := cellOf(t, 4)
	_, next := pools[3].Heard()
	for i := range uint64(50) { // far more than may be told one by one
		pools[1].Announce(100 + i)
	}
	pools[1].Announce(7)
	pools[2].Announce(149)
	for _, p := range pools {
		await(t, "the newest index", func() (bool, <-chan struct{}) {
			heard, next := p.Heard()
			return heard == 149, next
		})
	}
	select {
	case <-next:
	default:
		t.Error("news came without a signal")
	}
	if sent := pools[1].serf.Stats()["event_time"]; len(sent) > 1 {
		t.Errorf("Serf's event clock is at %s: announcements were not put together", sent)
	}
}

// await looks at a condition when its channel closes, and now and then without that.
func await(t *testing.T, what string, look func() (bool, <-chan struct{})) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		ok, changed := look()
		if ok {
			return
		}
		select {
		case <-changed:
		case <-time.After(100 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%s: never", what)
		}
	}
}

// The copy of a machine ends, the machine goes on.
func TestCloneLosesToTheElder(t *testing.T) {
	t.Parallel()
	pools := cellOf(t, 3)
	clone := start(t, cellConfig("m2", pools[0].Addr()))
	select {
	case <-clone.Failed():
	case <-time.After(30 * time.Second):
		t.Fatal("the clone goes on")
	}
	err := clone.Err()
	if !errors.Is(err, ErrClone) || !errors.Is(err, starling.ErrConflict) || !strings.Contains(err.Error(), "another machine answers as m2 at 127.0.0.1: if this is a copy of its disk, delete data_dir") {
		t.Errorf("error %v", err)
	}
	if err := pools[2].Err(); err != nil {
		t.Errorf("the elder failed: %v", err)
	}
	if p := pools[0]; p.State("m2") != StateAlive || alive(p) != 3 {
		t.Errorf("members %+v", p.Members())
	}
}

// Two that share a name and know nobody else learn nothing from each other: neither ends.
func TestClonesWithoutWitnessesGoOn(t *testing.T) {
	t.Parallel()
	elder := start(t, cellConfig("m1"))
	clone := start(t, cellConfig("m1", elder.Addr()))
	await(t, "the double is noticed", func() (bool, <-chan struct{}) {
		return len(clone.doubled) > 0 || len(elder.doubled) > 0, nil
	})
	for _, p := range []*Pool{elder, clone} {
		if other, elsewhere := p.askWitnesses(t.Context()); elsewhere {
			t.Errorf("%s is told that it is at %s", p.Addr(), other)
		}
	}
}

// A machine that is killed and comes back at another address is no clone of itself.
func TestReturnAtAnotherAddressIsNoClone(t *testing.T) {
	t.Parallel()
	pools := cellOf(t, 3)
	if err := pools[2].Close(); err != nil {
		t.Fatal(err)
	}
	again := start(t, cellConfig("m2", pools[0].Addr()))
	eventually(t, pools[0], "m2 at its new address", func() bool {
		m, ok := pools[0].member("m2")
		return ok && stateOf(m.Status) == StateAlive && gossipAddr(&m) == again.Addr()
	})
	if _, elsewhere := again.askWitnesses(t.Context()); elsewhere {
		t.Error("others see it elsewhere")
	}
	if err := again.Err(); err != nil {
		t.Error(err)
	}
}

func TestRotationLeavesNobodyBehindForGood(t *testing.T) {
	t.Parallel()
	pools := cellOf(t, 3)
	away := pools[2]
	if err := away.Close(); err != nil {
		t.Fatal(err)
	}
	eventually(t, pools[0], "m2 found dead", func() bool { return pools[0].State("m2") == StateFailed })
	next := bytes.Repeat([]byte{8}, 32)
	for range 2 { // the second time it changes nothing
		if err := pools[0].Rotate(t.Context(), next); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range pools[:2] {
		if keys := p.ring.GetKeys(); len(keys) != 1 || !bytes.Equal(keys[0], next) {
			t.Errorf("keys after the rotation: %x", keys)
		}
	}
	back := start(t, cellConfig("m2", pools[0].Addr()))
	if _, err := back.Join([]string{pools[0].Addr()}); err == nil {
		t.Fatal("joined with the old key")
	}
	if err := back.SetKey(next); err != nil {
		t.Fatal(err)
	}
	eventually(t, back, "back with the new key", func() bool { return alive(back) == 3 })
	if err := back.SetKey([]byte("short")); !starling.IsInvalid(err) {
		t.Errorf("a key of 5 bytes: %v", err)
	}
}
