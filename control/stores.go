package control

import (
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// cacheWord is what a cache last said of itself.
type cacheWord struct {
	used, most int64
	at         time.Time
}

// Caches implements httpapi.Stores: the caches of this region, by name. What they hold is
// known to the leader.
func (s *Server) Caches() []starling.CacheStatus {
	out := []starling.CacheStatus{}
	t := s.reigning()
	for _, n := range s.cfg.Members.Members() {
		if !n.Has(starling.RoleCache) {
			continue
		}
		c := starling.CacheStatus{Name: n.Name, Zone: n.Zone, Addr: n.Addr, Alive: n.Alive}
		if t != nil {
			t.caches.tell(&c, t.now())
		}
		out = append(out, c)
	}
	return out
}

// tell adds what a cache last reported.
func (b *cacheBoard) tell(c *starling.CacheStatus, now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	w, ok := b.words[c.Name]
	if !ok {
		return
	}
	c.Heard, c.SilentMS = true, max(0, now.Sub(w.at).Milliseconds())
	c.UsedBytes, c.MaxBytes = w.used, w.most
	for _, h := range b.holds[c.Name] {
		c.Artifacts++
		c.WANBytes += max(0, h.WANBytes)
		c.OutBytes += max(0, h.OutBytes)
		if !h.Complete {
			c.Pulling++
		}
		if c.Problem == "" {
			c.Problem = h.Problem
		}
	}
}

func wordOf(r *rpc.CacheReport, at time.Time) cacheWord {
	return cacheWord{max(0, r.UsedBytes), max(0, r.MaxBytes), at}
}
