package swarm

import (
	"testing"
	"time"
)

func TestSendPace(t *testing.T) {
	var p SendPace
	if got := p.Patience(1<<20, 0); got != SlotPatience {
		t.Errorf("%s before anything is known", got)
	}
	p.Sent(1<<20, 400*time.Millisecond)
	if none, half := p.Patience(1<<20, 0), p.Patience(1<<20, 1<<19); none != 300*time.Millisecond || half != 900*time.Millisecond {
		t.Errorf("%s for one of which nothing came, %s for half of one", none, half)
	}
	if got := p.Patience(1, 0); got != minSlot {
		t.Errorf("%s for a byte", got)
	}
	p.Sent(1<<20, time.Hour) // one that was stuck counts as slow, not as an hour
	if got := p.Patience(1<<20, 0); got > 450*time.Millisecond {
		t.Errorf("%s after a stuck one", got)
	}
	for range 100 { // but when all are slow, that is the pace
		p.Sent(1<<20, 4*time.Second)
	}
	if got := p.Patience(1<<20, 0); got < 950*time.Millisecond || p.Patience(1<<20, 1<<20) != SlotPatience {
		t.Errorf("%s when all are slow", got)
	}
}
