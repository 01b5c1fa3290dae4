package control

import (
	"slices"
	"sync"

	"github.com/starlingdeploy/starling"
)

// plainDistrust bounds and cleans what a machine says of others.
func plainDistrust(all []starling.Distrust) []starling.Distrust {
	var out []starling.Distrust
	for _, d := range all[:min(len(all), starling.MaxDistrusted)] {
		if d, ok := d.Plain(); ok {
			out = append(out, d)
		}
	}
	return out
}

// checkNamed bounds the machines that the counts of a region, or of a part of it, name.
func checkNamed(c *starling.Counts, region string) {
	c.Distrusted = slices.DeleteFunc(c.Distrusted[:min(len(c.Distrusted), starling.MaxAccusedSamples)], func(a starling.Accused) bool {
		return starling.CheckName("distrusted", a.Node) != nil || starling.CheckName("by", a.By) != nil || a.Accusers < 1
	})
	for i := range c.Distrusted {
		a := &c.Distrusted[i]
		d, _ := starling.Distrust{Reason: a.Reason}.Plain()
		a.Region, a.Reason = region, d.Reason
	}
	c.Slowest = slices.DeleteFunc(c.Slowest[:min(len(c.Slowest), starling.MaxSlowestMachines)], func(m starling.SlowMachine) bool {
		return starling.CheckName("slowest", m.Node) != nil || m.FetchMS < 0 || m.Bound != "" && !m.Bound.Valid()
	})
	for i := range c.Slowest {
		c.Slowest[i].Region = region
	}
}

// namedOnce remembers which sources the log has called distrusted, so that a thousand
// machines with one complaint make one line.
type namedOnce struct {
	mu    sync.Mutex
	named map[starling.Distrust]bool // without reasons; maxAccusedNamed at most
}

func (n *namedOnce) first(d starling.Distrust) bool {
	d.Reason = ""
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.named[d] || len(n.named) >= maxAccusedNamed {
		return false
	}
	if n.named == nil {
		n.named = map[starling.Distrust]bool{}
	}
	n.named[d] = true
	return true
}

// accuse tells the operator of a source that a machine distrusts, once in a term.
func (t *term) accuse(by string, all []starling.Distrust) {
	for _, d := range plainDistrust(all) {
		if t.named.first(d) {
			t.s.cfg.Logger.Warn("a machine distrusts a source", "source", d.Node, "cache", d.Cache, "by", by, "reason", d.Reason)
		}
	}
}
