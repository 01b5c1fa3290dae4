package day

import (
	"cmp"
	"slices"
	"time"
)

// nearestShare is what the transfer with the nearest deadline gets of a link that others of
// its priority want too; see blobcache's turns.
const nearestShare = 0.75

// link is what many transfers share: the highest priority alone, of that three quarters
// for the nearest deadline and the rest for the others alike.
type link struct {
	w       *world
	rate    float64 // bytes a second
	all     []*transfer
	since   time.Duration // when the rates were last dealt
	version int           // of the deal; an older one's event is void
	busy    meter
}

type transfer struct {
	priority int
	deadline time.Duration
	left     float64 // bytes
	rate     float64
	done     func()
}

func (w *world) newLink(rate float64) *link {
	return &link{w: w, rate: rate, busy: newMeter(w.conf.Span)}
}

// send begins a transfer; done is called at its end, but not after a cancel.
func (l *link) send(bytes float64, priority int, deadline time.Duration, done func()) *transfer {
	t := &transfer{priority: priority, deadline: deadline, left: bytes, done: done}
	l.settle()
	l.all = append(l.all, t)
	l.deal()
	return t
}

// cancel takes a transfer off the link.
func (l *link) cancel(t *transfer) {
	if i := slices.Index(l.all, t); i >= 0 {
		l.settle()
		l.all = slices.Delete(l.all, i, i+1)
		l.deal()
	}
}

// settle accounts for what has moved since the last deal.
func (l *link) settle() {
	d := l.w.now - l.since
	if len(l.all) > 0 {
		l.busy.add(l.since, l.w.now, 1)
	}
	for _, t := range l.all {
		t.left -= t.rate * d.Seconds()
	}
	l.since = l.w.now
}

// deal gives each transfer its rate and waits for the first to end.
func (l *link) deal() {
	l.version++
	if len(l.all) == 0 {
		return
	}
	slices.SortStableFunc(l.all, func(a, b *transfer) int {
		return cmp.Or(cmp.Compare(b.priority, a.priority), cmp.Compare(a.deadline, b.deadline))
	})
	top := 0
	for top < len(l.all) && l.all[top].priority == l.all[0].priority {
		top++
	}
	first := 1e18
	for i, t := range l.all {
		switch {
		case i >= top:
			t.rate = 0
		case top == 1:
			t.rate = l.rate
		case i == 0:
			t.rate = l.rate * nearestShare
		default:
			t.rate = l.rate * (1 - nearestShare) / float64(top-1)
		}
		if t.rate > 0 {
			first = min(first, max(t.left, 0)/t.rate)
		}
	}
	version := l.version
	l.w.after(time.Duration(first*1e9)+time.Microsecond, func() {
		if l.version == version {
			l.end()
		}
	})
}

// end ends the transfers that are through.
func (l *link) end() {
	l.settle()
	var done []*transfer
	l.all = slices.DeleteFunc(l.all, func(t *transfer) bool {
		through := t.left < 1
		if through {
			done = append(done, t)
		}
		return through
	})
	l.deal()
	for _, t := range done {
		t.done()
	}
}

// meter sums up the use of something by the hour.
type meter struct{ hours []float64 } // seconds

func newMeter(span time.Duration) meter {
	return meter{make([]float64, int(span/time.Hour)+3)}
}

// add counts n uses from one time to another.
func (m meter) add(from, to time.Duration, n float64) {
	for from < to {
		h := int(from / time.Hour)
		end := min(to, time.Duration(h+1)*time.Hour)
		if h < len(m.hours) {
			m.hours[h] += (end - from).Seconds() * n
		}
		from = end
	}
}

// peak returns the busiest hour's mean use, mean that of all until the span's end.
func (m meter) peak() float64 { return slices.Max(m.hours) / 3600 }

func (m meter) mean(span time.Duration) float64 {
	sum := 0.0
	for _, s := range m.hours {
		sum += s
	}
	return sum / span.Seconds()
}
