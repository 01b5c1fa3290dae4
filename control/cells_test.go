package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling/raftfsm"
)

// population is a region's machines under a cellKeeper, in virtual time.
type population struct {
	t      interface{ Fatalf(string, ...any) }
	fsm    *raftfsm.FSM
	index  uint64
	now    time.Time
	keeper cellKeeper
	splits int
	merges int
}

func newPopulation(t interface{ Fatalf(string, ...any) }, most int) *population {
	return &population{t: t, fsm: raftfsm.New("east"), now: time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC),
		keeper: cellKeeper{most: most, quiet: cellQuiet}}
}

func (f *population) apply(kind raftfsm.Type, payload any) error {
	c, err := raftfsm.NewCommand(kind, f.now, "test", payload)
	if err != nil {
		f.t.Fatalf("%v", err)
	}
	b, err := raftfsm.Encode([]raftfsm.Command{c})
	if err != nil {
		f.t.Fatalf("%v", err)
	}
	f.index++
	return f.fsm.Apply(&raft.Log{Index: f.index, Data: b}).([]raftfsm.Result)[0].Err
}

func (f *population) register(name, zone, rack string) {
	err := f.apply(raftfsm.TypeMachineRegister, raftfsm.MachineRegister{
		MachineFacts: raftfsm.MachineFacts{Name: name, Zone: zone, Rack: rack, Gossip: "h:1"}, Max: f.keeper.most,
	})
	if err != nil {
		f.t.Fatalf("register %s: %v", name, err)
	}
}

// pass lets time go by, as a leader sees it.
func (f *population) pass(d time.Duration) {
	for end := f.now.Add(d); f.now.Before(end); f.now = f.now.Add(10 * time.Second) {
		for _, d := range f.keeper.decide(f.fsm.View(), f.now) {
			if err := f.apply(d.Type, d.Payload); err != nil {
				f.t.Fatalf("%+v: %v", d, err)
			}
			if d.Type == raftfsm.TypeCellSplit {
				f.splits++
			} else {
				f.merges++
			}
		}
	}
}

func (f *population) sizes() (out []int) {
	for _, c := range f.fsm.View().Cells() {
		out = append(out, c.Machines)
	}
	slices.Sort(out)
	return out
}

func TestAFullCellIsSplitWhenItIsQuiet(t *testing.T) {
	f := newPopulation(t, 40)
	for i := range 40 {
		f.register(fmt.Sprintf("m%d", i), "a", fmt.Sprintf("r%d", i%4))
	}
	if f.pass(cellQuiet - time.Second); f.splits != 0 {
		t.Fatalf("split after %d splits in less than %v", f.splits, cellQuiet)
	}
	f.pass(2 * time.Second)
	if got := f.sizes(); !slices.Equal(got, []int{20, 20}) {
		t.Fatalf("%v", got)
	}
	for i := range 8 { // there is room near them
		f.register(fmt.Sprintf("more%d", i), "a", fmt.Sprintf("r%d", i%4))
	}
	f.pass(time.Hour)
	if got := f.sizes(); !slices.Equal(got, []int{24, 24}) || f.splits != 1 || f.merges != 0 {
		t.Errorf("%v after %d splits and %d merges", got, f.splits, f.merges)
	}
}

func TestALowerBoundSplitsAtOnceAndStepByStep(t *testing.T) {
	f := newPopulation(t, 40)
	for i := range 40 {
		f.register(fmt.Sprintf("m%d", i), "a", "")
		f.register(fmt.Sprintf("n%d", i), "b", "")
	}
	f.keeper.most = 10
	f.pass(time.Second)
	if f.splits != 1 {
		t.Errorf("%d splits at once", f.splits)
	}
	f.pass(time.Hour)
	if got := f.sizes(); slices.Max(got) > 10 || f.merges != 0 {
		t.Errorf("%v, %d merges", got, f.merges)
	}
}

func TestSmallCellsOfAZoneAreMerged(t *testing.T) {
	f := newPopulation(t, 40)
	for i := range 80 {
		f.register(fmt.Sprintf("m%02d", i), "a", fmt.Sprintf("r%d", i/20))
	}
	f.register("lone", "b", "")
	f.pass(time.Hour)
	before := len(f.sizes())
	for i := range 80 {
		if i%10 != 0 {
			if err := f.apply(raftfsm.TypeMachineRemove, raftfsm.MachineRemove{Name: fmt.Sprintf("m%02d", i)}); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.pass(time.Hour)
	if got := f.sizes(); !slices.Equal(got, []int{1, 8}) {
		t.Errorf("%v, before %d cells", got, before)
	}
}

// Whatever comes and goes, cells stay within their bounds and come to rest.
func TestCellsComeToRest(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		f := newPopulation(rt, rapid.SampledFrom([]int{2, 3, 7, 40}).Draw(rt, "most"))
		machines := map[string]bool{}
		for range rapid.IntRange(1, 6).Draw(rt, "waves") {
			for range rapid.IntRange(0, 40).Draw(rt, "come") {
				n := rapid.IntRange(0, 200).Draw(rt, "machine")
				name := fmt.Sprintf("m%d", n)
				machines[name] = true
				f.register(name, string(rune('a'+n%2)), []string{"", "r1", "r2", "r3"}[n%4])
			}
			for range rapid.IntRange(0, 40).Draw(rt, "go") {
				name := fmt.Sprintf("m%d", rapid.IntRange(0, 200).Draw(rt, "machine"))
				if err := f.apply(raftfsm.TypeMachineRemove, raftfsm.MachineRemove{Name: name}); (err == nil) != machines[name] {
					rt.Fatalf("remove %s: %v", name, err)
				}
				delete(machines, name)
			}
			f.pass(3 * time.Minute)
		}
		f.pass(time.Hour)
		steps, zones, sum := f.splits+f.merges, map[string]int{}, 0
		f.pass(10 * time.Minute)
		if f.splits+f.merges != steps {
			rt.Fatalf("no rest: %v", f.sizes())
		}
		for _, c := range f.fsm.View().Cells() {
			sum += c.Machines
			if c.Machines > f.keeper.most {
				rt.Fatalf("%+v", c)
			}
			if c.Machines <= f.keeper.most/4 {
				if zones[c.Zone]++; zones[c.Zone] > 1 {
					rt.Fatalf("two small cells of one zone: %v", f.sizes())
				}
			}
		}
		if sum != len(machines) {
			rt.Fatalf("%d machines in cells, want %d", sum, len(machines))
		}
	})
}
