package membership

import (
	"context"
	"strconv"
	"time"

	"github.com/hashicorp/serf/serf"
)

// The user event that tells a cell how new its region's goals are.
const (
	newsEvent     = "goals"
	newsEvery     = 200 * time.Millisecond // between two announcements of one member
	maxNewsDigits = 20                     // of an index in decimal
)

// news is the highest index that was announced in the pool.
type news struct {
	heard uint64
	want  uint64        // to be announced by this member
	next  chan struct{} // closed when heard rises
	nudge chan struct{} // room for one: want has risen
}

// Announce tells the pool that goals of an index are to be had. It never waits: of
// several within newsEvery only the highest is told, and none that was heard already.
func (p *Pool) Announce(index uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if index <= max(p.news.want, p.news.heard) {
		return
	}
	p.news.want = index
	select {
	case p.news.nudge <- struct{}{}:
	default:
	}
}

// Heard returns the highest index that was announced, and a channel that is closed when
// it rises. It is a hint: whoever gossips may announce anything.
func (p *Pool) Heard() (index uint64, next <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.news.heard, p.news.next
}

// hear takes in an announcement.
func (p *Pool) hear(e serf.UserEvent) {
	if e.Name != newsEvent || len(e.Payload) > maxNewsDigits {
		return
	}
	index, err := strconv.ParseUint(string(e.Payload), 10, 64)
	if err != nil {
		return // of a later version, perhaps
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if index > p.news.heard {
		p.news.heard = index
		close(p.news.next)
		p.news.next = make(chan struct{})
	}
}

// keepAnnouncing sends what Announce wants. It is a goroutine of its own, since Serf hands
// an event to its own member too, and waits until that is taken.
func (p *Pool) keepAnnouncing(ctx context.Context) {
	for {
		select {
		case <-p.news.nudge:
		case <-ctx.Done():
			return
		}
		p.mu.Lock()
		want, told := p.news.want, p.news.want <= p.news.heard
		p.mu.Unlock()
		if told {
			continue
		}
		if err := p.serf.UserEvent(newsEvent, strconv.AppendUint(nil, want, 10), true); err != nil {
			p.logger.Warn("cannot announce new goals; machines will find them by polling", "error", err)
		}
		select {
		case <-time.After(newsEvery):
		case <-ctx.Done():
			return
		}
	}
}
