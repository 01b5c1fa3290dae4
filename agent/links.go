package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// Bounds of links.
const (
	maxLinks           = 2 * swarm.MaxLinks // the brain's own, and as many that others ask for
	maxHandshakes      = 64                 // accepted streams whose hello is awaited
	maxLinkQueueFrames = 512
	maxLinkQueueBytes  = 4 << 20
	linkBufBytes       = 4 << 10
	linkDialTimeout    = 10 * time.Second
	helloTimeout       = 10 * time.Second
	linkWriteTimeout   = 30 * time.Second
	crossingTime       = 5 * time.Second // within which two machines may have dialled each other
)

// link is a stream to another machine over which both announce what they hold. It
// has two goroutines, a reader and a writer, which end when the stream is closed.
type link struct {
	peer    string
	ours    bool // dialled here
	upAt    time.Time
	conn    net.Conn
	in      *bufio.Reader
	out     chan []byte // frames; the loop sends and closes
	pending atomic.Int64
}

type dialing struct{ cancel context.CancelFunc }

// connect dials a peer unless a link stands already.
func (f *flock) connect(peer string) {
	if f.links[peer] != nil || f.dials[peer] != nil {
		return
	}
	n, ok := f.machines[peer]
	if !ok || f.distrusted[peer] {
		f.step(swarm.PeerDown{Peer: peer})
		return
	}
	ctx, cancel := context.WithTimeout(f.run.ctx, linkDialTimeout)
	d := &dialing{cancel: cancel}
	f.dials[peer] = d
	f.run.work(func() {
		defer cancel()
		l, err := dialLink(ctx, f.dial, n)
		f.run.post(linkDialled{f: f, d: d, peer: peer, link: l, err: err})
	})
}

// dialLink opens a stream to n and exchanges hellos.
func dialLink(ctx context.Context, dial SwarmDial, n starling.Node) (*link, error) {
	conn, id, err := dial(ctx, n.Addr)
	if err != nil {
		return nil, fmt.Errorf("link to %s: %w", n.Name, err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	l := &link{peer: n.Name, ours: true, conn: conn, in: bufio.NewReaderSize(conn, linkBufBytes)}
	if id.Name != n.Name || id.Region != n.Region || !id.Has(starling.RoleMachine) {
		err = fmt.Errorf("%w: %s answers", starling.ErrForbidden, id)
	} else if _, err = conn.Write(appendHello(nil)); err == nil {
		err = readHello(l.in)
	}
	if !stop() { // too late: closed
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("link to %s: %w", n.Name, err)
	}
	return l, nil
}

// linkDialled ends a dial.
type linkDialled struct {
	f    *flock
	d    *dialing
	peer string
	link *link
	err  error
}

func (e linkDialled) discard() {
	if e.link != nil {
		e.link.conn.Close()
	}
}

func (e linkDialled) apply() {
	f := e.f
	if f.dials[e.peer] != e.d { // taken back, or the other side's dial was preferred
		e.discard()
		return
	}
	delete(f.dials, e.peer)
	if e.err != nil {
		f.log.Debug("no link", "peer", e.peer, "error", e.err)
		if f.links[e.peer] == nil {
			f.step(swarm.PeerDown{Peer: e.peer})
		}
		return
	}
	f.adopt(e.link)
}

// linkOffered asks for a link that another machine has dialled; its hello is read.
type linkOffered struct {
	f    *flock
	link *link
}

func (e linkOffered) discard() { e.link.conn.Close() }

func (e linkOffered) apply() {
	f, l := e.f, e.link
	old := f.links[l.peer]
	refuse := f.distrusted[l.peer] ||
		old == nil && len(f.links) >= maxLinks ||
		// Both dialled: the dial of the machine whose name comes first stands.
		f.dials[l.peer] != nil && f.node.Name < l.peer ||
		old != nil && old.ours && f.node.Name < l.peer && time.Since(old.upAt) < crossingTime
	if refuse {
		l.conn.Close()
		return
	}
	if d := f.dials[l.peer]; d != nil {
		d.cancel()
		delete(f.dials, l.peer)
	}
	if old != nil { // the other side has lost it: it would not dial otherwise
		f.drop(old)
		f.step(swarm.PeerDown{Peer: l.peer})
	}
	f.adopt(l)
}

// adopt makes a link stand and tells the brain.
func (f *flock) adopt(l *link) {
	f.rouse()
	l.upAt = time.Now()
	l.out = make(chan []byte, maxLinkQueueFrames)
	f.links[l.peer] = l
	if !l.ours {
		l.send(appendHello(nil))
	}
	stop := context.AfterFunc(f.run.ctx, func() { l.conn.Close() })
	f.run.work(func() { l.write() })
	f.run.work(func() {
		err := l.read(func(has swarm.PeerHas) { f.run.post(linkHeard{f: f, link: l, has: has}) })
		stop()
		f.run.post(linkDown{f: f, link: l, err: err})
	})
	f.step(swarm.PeerUp{Peer: l.peer})
}

// drop closes a link without telling the brain.
func (f *flock) drop(l *link) {
	if f.links[l.peer] == l {
		delete(f.links, l.peer)
		close(l.out)
		l.conn.Close()
	}
}

func (f *flock) disconnect(peer string) {
	if d := f.dials[peer]; d != nil {
		d.cancel()
		delete(f.dials, peer)
	}
	if l := f.links[peer]; l != nil {
		f.drop(l)
	}
}

func (f *flock) announce(a swarm.Announce) {
	l := f.links[a.To]
	if l == nil {
		return // it went down; the brain hears, or has heard
	}
	b, err := appendAnnounce(nil, a)
	if err == nil && l.send(b) {
		return
	}
	f.log.Warn("link given up", "peer", a.To, "error", errors.Join(err, errSlowLink))
	f.drop(l)
	f.step(swarm.PeerDown{Peer: a.To})
}

var errSlowLink = errors.New("the other side does not take what is announced")

// send queues a frame; false if the queue is full.
func (l *link) send(frame []byte) bool {
	if l.pending.Add(int64(len(frame))) > maxLinkQueueBytes {
		return false
	}
	select {
	case l.out <- frame:
		return true
	default:
		return false
	}
}

// write sends what is queued until the queue or the stream is closed. An error
// closes the stream, which the reader notices.
func (l *link) write() {
	w := bufio.NewWriterSize(l.conn, linkBufBytes)
	for frame := range l.out {
		if err := l.writeFrame(w, frame); err != nil {
			l.conn.Close()
			for range l.out { // until drop closes it
			}
			return
		}
	}
}

func (l *link) writeFrame(w *bufio.Writer, frame []byte) error {
	l.pending.Add(-int64(len(frame)))
	if err := l.conn.SetWriteDeadline(time.Now().Add(linkWriteTimeout)); err != nil {
		return err
	}
	if _, err := w.Write(frame); err != nil {
		return err
	}
	if len(l.out) > 0 {
		return nil
	}
	return w.Flush()
}

// read hands on announcements until the stream ends.
func (l *link) read(heard func(swarm.PeerHas)) error {
	var buf []byte
	for {
		kind, body, next, err := readFrame(l.in, buf)
		if err != nil {
			return err
		}
		buf = next
		if kind != frameAnnounce {
			continue
		}
		has, err := decodeAnnounce(body)
		if err != nil {
			return err
		}
		has.Peer = l.peer
		heard(has)
	}
}

// linkHeard is an announcement.
type linkHeard struct {
	light
	f    *flock
	link *link
	has  swarm.PeerHas
}

func (e linkHeard) apply() {
	if f := e.f; f.links[e.link.peer] == e.link {
		if p := f.parts[e.has.Artifact]; p != nil && p.resting {
			f.rouse()
		}
		f.step(e.has)
	}
}

// linkDown says that a link's stream has ended.
type linkDown struct {
	light
	f    *flock
	link *link
	err  error
}

func (e linkDown) apply() {
	if e.f.links[e.link.peer] != e.link {
		return // dropped here
	}
	e.f.log.Debug("link down", "peer", e.link.peer, "error", e.err)
	e.f.drop(e.link)
	e.f.step(swarm.PeerDown{Peer: e.link.peer})
}

// acceptLinks reads the hello of streams that other machines open, and offers them
// to the loop. It returns when accept fails.
func (f *flock) acceptLinks(ctx context.Context, accept Accept) error {
	slots := make(chan struct{}, maxHandshakes)
	for {
		conn, id, err := accept(ctx)
		if err != nil {
			return fmt.Errorf("accept links: %w", err)
		}
		if !id.Has(starling.RoleMachine) || id.Region != f.node.Region || id.Name == f.node.Name {
			f.log.Warn("link refused", "peer", id)
			conn.Close()
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close() // the other side tries again
			continue
		}
		f.run.work(func() {
			defer func() { <-slots }()
			l := &link{peer: id.Name, conn: conn, in: bufio.NewReaderSize(conn, linkBufBytes)}
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			err := conn.SetReadDeadline(time.Now().Add(helloTimeout))
			if err == nil {
				err = readHello(l.in)
			}
			if err = errors.Join(err, conn.SetReadDeadline(time.Time{})); err != nil {
				f.log.Debug("link refused", "peer", id.Name, "error", err)
				conn.Close()
				return
			}
			f.run.post(linkOffered{f: f, link: l})
		})
	}
}
