package swarm

import (
	"cmp"
	"slices"
)

// rank notes whether there are downloads of different priorities.
func (p *Peer) rank() {
	p.mixed = slices.ContainsFunc(p.downloads, func(d *download) bool { return d.priority != p.downloads[0].priority })
}

// order returns the downloads that may fetch, the most deserving first.
func (p *Peer) order() []*download {
	if len(p.downloads) == 1 {
		if d := p.downloads[0]; d.seed || d.left == 0 {
			return nil
		}
		return p.downloads
	}
	out := make([]*download, 0, len(p.downloads))
	for _, d := range p.downloads {
		if !d.seed && d.left > 0 {
			out = append(out, d)
		}
	}
	slices.SortStableFunc(out, func(a, b *download) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.bytes, b.bytes))
	})
	return out
}

// preempt takes back what was asked of the caches for less urgent downloads: requests of
// the whole cell wait there, and d's would stand behind them all. What peers were asked
// for is less, and comes soon.
func (p *Peer) preempt(d *download) {
	if !p.mixed || d.seed || d.left == 0 {
		return
	}
	for _, s := range p.origins {
		for _, f := range slices.Clone(s.fetches) {
			if f.d.priority < d.priority {
				p.giveUp(s, f)
			}
		}
	}
}

// hurries reports whether what is less urgent than d must wait: while chunks of d come,
// or have not failed to come for long. A download that nobody can give stops nobody.
func (p *Peer) hurries(d *download) bool {
	until := max(d.gotAt, d.begunAt) + max(hurryLeast, hurryTooks*p.took)
	if p.now >= until {
		return false
	}
	p.reviewAt(until)
	return true
}
