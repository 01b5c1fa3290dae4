package plane

import (
	"time"
)

// node is anything that sends and receives.
type node struct {
	num    int // in the world
	region int
	name   string
	up     bool
}

// network says who reaches whom. Faults raise and lower the counts.
type network struct {
	n      int
	cut    []uint8 // by sender and receiver: reasons for which nothing passes
	loss   int     // per thousand
	strays int     // messages per thousand that are late, or come twice
}

func (net *network) add() int {
	n := net.n + 1
	cut := make([]uint8, n*n)
	for i := range net.n {
		copy(cut[i*n:], net.cut[i*net.n:(i+1)*net.n])
	}
	net.n, net.cut = n, cut
	return net.n - 1
}

func (net *network) passes(from, to *node) bool { return net.cut[from.num*net.n+to.num] == 0 }

func (net *network) block(from, to *node, by int) {
	i := from.num*net.n + to.num
	net.cut[i] = uint8(int(net.cut[i]) + by)
}

// send carries a message, if it is not lost: deliver runs at the receiver's side. twice
// allows that it comes a second time, later.
func (w *world) send(from, to *node, twice bool, deliver func()) {
	if from == to {
		w.after(0, deliver)
		return
	}
	if !w.net.passes(from, to) || w.rng.IntN(1000) < w.net.loss {
		return
	}
	arrive := func() {
		if w.net.passes(from, to) {
			deliver()
		}
	}
	w.after(w.travel(from, to), arrive)
	if twice && w.rng.IntN(1000) < w.net.strays {
		w.after(w.travel(from, to)+w.between(0, 5*time.Second), arrive)
	}
}

func (w *world) travel(from, to *node) time.Duration {
	d := w.between(time.Millisecond, 8*time.Millisecond)
	if from.region != to.region {
		d += w.between(20*time.Millisecond, 90*time.Millisecond)
	}
	if w.rng.IntN(1000) < w.net.strays {
		d += w.between(0, 2*time.Second)
	}
	return d
}

// ask sends a request to a server and hands its answer, or why there is none, to done.
func (w *world) ask(from *node, to *server, within time.Duration, serve func(*server, func(any, error)), done func(any, error)) {
	over := false
	finish := func(answer any, err error) {
		if !over {
			over = true
			done(answer, err)
		}
	}
	w.after(within, func() { finish(nil, errLost) })
	w.send(from, &to.node, false, func() {
		if !to.up {
			w.send(&to.node, from, false, func() { finish(nil, errRefused) })
			return
		}
		to.run(to.life, func() {
			serve(to, func(answer any, err error) {
				w.send(&to.node, from, false, func() { finish(answer, err) })
			})
		})
	})
}
