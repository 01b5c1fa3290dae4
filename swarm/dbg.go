package swarm
import "fmt"
func (p *Peer) Debug() string {
	d := p.downloads[0]
	s := fmt.Sprintf("left %d wants %d lvl0 %d phase %d links %d took %v gap %v;", d.left, d.wants, d.counts[0], d.phase, p.Links(), p.took, d.gap)
	for _, x := range p.sources { if x.up||x.origin { s += fmt.Sprintf(" %s[f%d dbt %v pz %v str %d]", x.name, len(x.fetches), x.doubted, x.pausedTo-p.now, x.strikes) } else { s += fmt.Sprintf(" %s(down wanted %v dist %v)", x.name, x.wanted, x.distrusted)} }
	return s
}
