package agent

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/swarm"
)

// newTestFlock returns the shell of a machine called "m", whose events the test applies.
func newTestFlock(t *testing.T) *flock {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan event, 100)
	a := &Agent{conf: Config{Node: machineNode("m"), DialSwarm: func(ctx context.Context, _ string) (net.Conn, starling.Identity, error) {
		<-ctx.Done()
		return nil, starling.Identity{}, ctx.Err()
	}}, log: newLog(), catalog: &catalog{}, run: &runner{ctx: ctx, events: events}}
	f := newFlock(a, nil)
	f.setMembers([]starling.Node{machineNode("a"), machineNode("m"), machineNode("z")})
	t.Cleanup(func() {
		cancel()
		for _, l := range f.links {
			f.drop(l)
		}
		a.run.wg.Wait()
		for len(events) > 0 {
			(<-events).discard()
		}
	})
	return f
}

// offer has a machine ask for a link; it returns the machine's end.
func offer(f *flock, peer string) net.Conn {
	near, far := net.Pipe()
	linkOffered{f: f, link: &link{peer: peer, conn: near, in: bufio.NewReader(near)}}.apply()
	return far
}

// refused reports whether the far end of a link was closed without a hello.
func refused(t *testing.T, far net.Conn) bool {
	t.Helper()
	err := far.SetReadDeadline(time.Now().Add(5 * time.Second))
	if err == nil {
		err = readHello(far)
	}
	switch {
	case err == nil:
		return false
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrClosedPipe):
		return true
	default:
		t.Fatal(err)
		return false
	}
}

func TestOfWhichLinkStandsWhenBothDial(t *testing.T) {
	t.Parallel()
	ours := func(f *flock, peer string, age time.Duration) net.Conn {
		near, far := net.Pipe()
		f.adopt(&link{peer: peer, ours: true, conn: near, in: bufio.NewReader(near)})
		f.links[peer].upAt = time.Now().Add(-age)
		return far
	}
	tests := []struct {
		name  string
		peer  string
		setUp func(*flock, string)
		want  bool // the offered link stands
	}{
		{"nothing there", "z", func(*flock, string) {}, true},
		{"we dial, and our name is first", "z", func(f *flock, p string) { f.connect(p) }, false},
		{"we dial, and their name is first", "a", func(f *flock, p string) { f.connect(p) }, true},
		{"ours stands since just now, and our name is first", "z", func(f *flock, p string) { ours(f, p, 0) }, false},
		{"ours stands since just now, and their name is first", "a", func(f *flock, p string) { ours(f, p, 0) }, true},
		{"ours stands for long", "z", func(f *flock, p string) { ours(f, p, time.Minute) }, true},
		{"theirs stands", "z", func(f *flock, p string) { offer(f, p) }, true},
		{"distrusted", "z", func(f *flock, p string) { f.distrust(swarm.Distrust{Peer: p}) }, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newTestFlock(t)
			tt.setUp(f, tt.peer)
			far := offer(f, tt.peer)
			defer far.Close()
			if got := !refused(t, far); got != tt.want {
				t.Errorf("the offered link stands: %v", got)
			}
			if tt.want && (f.links[tt.peer] == nil || f.links[tt.peer].ours || f.dials[tt.peer] != nil) {
				t.Error("the offered link is not the one that stands")
			}
		})
	}
}

func TestLinksAreBounded(t *testing.T) {
	t.Parallel()
	f := newTestFlock(t)
	for i := range maxLinks {
		f.links[fmt.Sprint("peer-", i)] = &link{}
	}
	far := offer(f, "z")
	defer far.Close()
	ok := refused(t, far)
	for name := range f.links {
		if name != "z" {
			delete(f.links, name) // only made to be counted
		}
	}
	if !ok {
		t.Error("one link too many stands")
	}
}

func TestPeerThatTakesNothingLosesItsLink(t *testing.T) {
	t.Parallel()
	f := newTestFlock(t)
	far := offer(f, "z")
	defer far.Close()
	l := f.links["z"]
	for range 2 * maxLinkQueueFrames { // nobody reads
		f.announce(swarm.Announce{To: "z", Artifact: starling.DigestOf([]byte("a")), Chunks: []uint32{1}})
	}
	if f.links["z"] != nil {
		t.Error("the link still stands")
	}
	f.announce(swarm.Announce{To: "z"}) // to nobody
	linkDown{f: f, link: l}.apply()     // late news
	linkHeard{f: f, link: l}.apply()
}

func TestDialledLinkMustBeWhomItShouldBe(t *testing.T) {
	t.Parallel()
	for name, id := range map[string]starling.Identity{
		"another name":   identityOf(machineNode("y")),
		"another region": {Region: "there", Name: "z", Roles: []starling.Role{starling.RoleMachine}},
		"no machine":     {Region: "here", Name: "z", Roles: []starling.Role{starling.RoleCache}},
	} {
		near, far := net.Pipe()
		_, err := dialLink(t.Context(), func(context.Context, string) (net.Conn, starling.Identity, error) { return near, id, nil }, machineNode("z"))
		if !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("%s: %v", name, err)
		}
		far.Close()
	}
}
