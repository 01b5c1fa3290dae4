package sim

import "time"

// clock is the virtual time and what is to come, in order of time, then of entry.
type clock struct {
	now  time.Duration
	seq  uint64
	heap []entry
}

type entry struct {
	at  time.Duration
	seq uint64
	do  func()
}

func (e entry) before(o entry) bool { return e.at < o.at || e.at == o.at && e.seq < o.seq }

// at runs do at time t, or now if t is past.
func (c *clock) at(t time.Duration, do func()) {
	c.seq++
	c.heap = append(c.heap, entry{max(t, c.now), c.seq, do})
	for i := len(c.heap) - 1; i > 0; {
		up := (i - 1) / 4
		if !c.heap[i].before(c.heap[up]) {
			break
		}
		c.heap[i], c.heap[up] = c.heap[up], c.heap[i]
		i = up
	}
}

func (c *clock) after(d time.Duration, do func()) { c.at(c.now+d, do) }

// next runs the next entry; it returns false if there is none before limit.
func (c *clock) next(limit time.Duration) bool {
	if len(c.heap) == 0 || c.heap[0].at > limit {
		return false
	}
	top := c.heap[0]
	n := len(c.heap) - 1
	last := c.heap[n]
	c.heap[n] = entry{}
	c.heap = c.heap[:n]
	if n > 0 {
		i := 0
		for {
			least := 4*i + 1
			if least >= n {
				break
			}
			for k := least + 1; k < min(4*i+5, n); k++ {
				if c.heap[k].before(c.heap[least]) {
					least = k
				}
			}
			if !c.heap[least].before(last) {
				break
			}
			c.heap[i] = c.heap[least]
			i = least
		}
		c.heap[i] = last
	}
	c.now = top.at
	top.do()
	return true
}
