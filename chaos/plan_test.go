package chaos

import (
	"slices"
	"testing"

	"github.com/starlingdeploy/starling"
)

func TestParseKinds(t *testing.T) {
	for text, want := range map[string][]Kind{
		"": Kinds, "kill": {Kill}, " clock, stop,clock ,": {Clock, Stop},
	} {
		if got, err := ParseKinds(text); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
	if _, err := ParseKinds("kill,meteor"); !starling.IsInvalid(err) {
		t.Errorf("meteor: %v", err)
	}
}

// Every kind befalls servers, at every boundary.
func TestCells(t *testing.T) {
	all := Cells(Kinds, 2)
	for _, k := range Kinds {
		for _, target := range []Target{Leader, Follower} {
			for _, b := range Boundaries {
				if !slices.Contains(all, Cell{k, target, b}) {
					t.Errorf("no %s", Cell{k, target, b})
				}
			}
		}
	}
	for _, c := range Cells(Kinds, 1) {
		if c.Target == Region {
			t.Errorf("%s, with one region", c)
		}
	}
}

// In as many rounds as there are regions each region goes through each cell once, in lanes
// of which only one is for servers; the same seed deals alike, another one does not.
func TestDeal(t *testing.T) {
	cells := Cells(Kinds, 3)
	for regions := range 4 {
		if regions == 0 {
			continue
		}
		for _, l := range lanes(regions) {
			count := map[Cell]int{}
			for round := range regions {
				dealt := l.deal(cells, regions, 7, round)
				if !slices.Equal(dealt, l.deal(cells, regions, 7, round)) {
					t.Fatal("the same seed deals otherwise")
				}
				if slices.Equal(dealt, l.deal(cells, regions, 8, round)) {
					t.Error("another seed deals alike")
				}
				for _, c := range dealt {
					count[c]++
				}
			}
			for _, c := range cells {
				want := btoi(c.Target.onServers() == l.servers)
				if count[c] != want {
					t.Errorf("%d regions, %+v: %s is dealt %d times, want %d", regions, l, c, count[c], want)
				}
			}
		}
		for round := range 2 * regions { // a round has each cell once
			count := 0
			for _, l := range lanes(regions) {
				count += len(l.deal(cells, regions, 7, round))
			}
			if count != len(cells) {
				t.Errorf("%d regions: round %d has %d of %d cells", regions, round, count, len(cells))
			}
		}
	}
}

func TestCheckRefuses(t *testing.T) {
	good := Config{Regions: 2, Servers: 3, Caches: 1, Workers: 1, Machines: 2, Duration: 1e9}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*Config){
		"one server": func(c *Config) { c.Servers = 1 }, "no cache": func(c *Config) { c.Caches = 0 },
		"no worker": func(c *Config) { c.Workers = 0 }, "a region without a machine": func(c *Config) { c.Machines = 1 },
		"no time": func(c *Config) { c.Duration = 0 }, "too long": func(c *Config) { c.Duration = MaxDuration + 1 },
	} {
		c := good
		change(&c)
		if err := c.Check(); !starling.IsInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := good.Run(t.Context()); err == nil {
		t.Error("it runs outside of namespaces of its own")
	}
}
