package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// tableCases hold each rule of the table from both sides.
var tableCases = []struct {
	kind        Kind
	caller, far []starling.Role
	sameRegion  bool
	want        code
}{
	{KindRaft, roles("server"), roles("server"), true, codeNone},
	{KindRaft, roles("server", "cache"), roles("machine", "server"), true, codeNone},
	{KindRaft, roles("machine"), roles("server"), true, codeCallerRole},
	{KindRaft, roles("cache", "worker", "machine"), roles("server"), true, codeCallerRole},
	{KindRaft, roles("server"), roles("cache", "worker", "machine"), true, codeFarRole},
	{KindRaft, roles("server"), roles("server"), false, codeRegion},

	{KindControl, roles("server"), roles("server"), false, codeNone},
	{KindControl, roles("machine"), roles("server"), true, codeNone},
	{KindControl, roles("worker"), roles("server"), true, codeNone},
	{KindControl, roles("cache"), roles("server"), false, codeNone},
	{KindControl, roles("server"), roles("cache", "worker", "machine"), true, codeFarRole},

	{KindBlob, roles("machine"), roles("cache"), true, codeNone},
	{KindBlob, roles("machine"), roles("machine"), true, codeNone},
	{KindBlob, roles("machine"), roles("cache"), false, codeRegion},
	{KindBlob, roles("machine", "cache"), roles("cache"), false, codeNone},
	{KindBlob, roles("worker"), roles("cache"), false, codeNone},
	{KindBlob, roles("server"), roles("cache"), false, codeNone},
	{KindBlob, roles("machine"), roles("server", "worker"), true, codeFarRole},

	{KindSwarm, roles("machine"), roles("machine"), true, codeNone},
	{KindSwarm, roles("machine"), roles("machine"), false, codeRegion},
	{KindSwarm, roles("cache", "server", "worker"), roles("machine"), true, codeCallerRole},
	{KindSwarm, roles("machine"), roles("cache", "server", "worker"), true, codeFarRole},

	{KindCell, roles("machine"), roles("machine"), true, codeNone},
	{KindCell, roles("server"), roles("machine"), true, codeNone},
	{KindCell, roles("server"), roles("machine"), false, codeRegion},
	{KindCell, roles("cache", "worker"), roles("machine"), true, codeCallerRole},
	{KindCell, roles("machine"), roles("server", "cache", "worker"), true, codeFarRole},

	{0, roles("server"), roles("server"), true, codeUnknownKind},
	{7, roles("server"), roles("server"), true, codeUnknownKind},
	{255, roles("server"), roles("server"), true, codeUnknownKind},
}

func roles(names ...starling.Role) []starling.Role { return names }

// TestTable runs every case twice over real connections: by Dial, where the dialling side refuses,
// and past Dial's own checks, where the accepting side does.
func TestTable(t *testing.T) {
	for _, tc := range tableCases {
		t.Run(fmt.Sprintf("%s/%v to %v/same region %t", tc.kind, tc.caller, tc.far, tc.sameRegion), func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, "c")
			far := "r1"
			if !tc.sameRegion {
				far = "r2"
			}
			a, b := w.listen(t, "r1", "a", tc.caller...), w.listen(t, far, "b", tc.far...)
			ctx := testContext(t)

			c, err := a.Dial(ctx, b.Addr(), tc.kind)
			if tc.want == codeNone {
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				accepted, err := b.Accept(ctx, tc.kind)
				if err != nil {
					t.Fatal(err)
				}
				defer accepted.Close()
				if p := accepted.Peer(); p.Name != "a" || p.Region != "r1" || p.Cluster != "c" {
					t.Errorf("the acceptor sees %s", p)
				}
				if p := c.Peer(); p.Name != "b" || p.Region != far {
					t.Errorf("the dialler sees %s", p)
				}
				return
			}
			wantRefusal(t, err, tc.want)

			before := b.Stats().Refused
			_, err = dialPast(t, a, b.Addr(), tc.kind).Read(make([]byte, 1))
			wantRefusal(t, err, tc.want)
			if n := b.Stats().Refused; n != before+1 {
				t.Errorf("%d refusals counted", n-before)
			}
		})
	}
}

func wantRefusal(t *testing.T, err error, why code) {
	t.Helper()
	if !errors.Is(err, starling.ErrForbidden) {
		t.Fatalf("got %v, want a refusal", err)
	}
	part := map[code]string{
		codeCallerRole:  "certificate of r1/a lacks role",
		codeFarRole:     "/b lacks role",
		codeRegion:      "streams stay in one region: r1/a and r2/b",
		codeUnknownKind: "there are no streams of kind",
	}[why]
	if !strings.Contains(err.Error(), part) {
		t.Errorf("error %q does not say %q", err, part)
	}
}

// dialPast opens a stream without the checks of Dial.
func dialPast(t *testing.T, e *Endpoint, addr string, k Kind) *Conn {
	t.Helper()
	ctx := testContext(t)
	l, err := e.connect(ctx, slotKey{addr, laneSmall})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := openStream(ctx, l, k)
	if err != nil {
		t.Fatal(err)
	}
	c := newConn(stream, l, k, true, &e.counters)
	t.Cleanup(func() { closeAll(t, c) })
	return c
}

func TestRefusalByWrite(t *testing.T) {
	w := newWorld(t, "c")
	a, b := w.listen(t, "r1", "a", starling.RoleMachine), w.listen(t, "r1", "b", starling.RoleServer)
	c := dialPast(t, a, b.Addr(), KindRaft)
	var err error
	eventually(t, "a write fails", func() bool {
		_, err = c.Write([]byte("x"))
		return err != nil
	})
	wantRefusal(t, err, codeCallerRole)
	wantRefusal(t, c.CloseWrite(), codeCallerRole)
}

// A far side that opens a stream and never says what for is cut off.
func TestSilentStream(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	b := listenWith(t, Config{
		Credentials: w.credentials(t, "r", "b", starling.RoleMachine),
		kindTimeout: 50 * time.Millisecond,
	})
	ctx := testContext(t)
	l, err := a.connect(ctx, slotKey{b.Addr(), laneSmall})
	if err != nil {
		t.Fatal(err)
	}
	defer l.leave()
	// A stream with a higher number opens those below, RFC 9000, section 3.2.
	silent, err := l.quic.OpenStreamSync(ctx)
	if err != nil {
		t.Fatal(err)
	}
	near, _ := pair(t, a, b, KindSwarm)
	mute := newConn(silent, l, KindSwarm, true, &a.counters)
	l.enter()
	defer mute.Close()
	if _, err := mute.Read(make([]byte, 1)); !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "waited in vain") {
		t.Errorf("got %v", err)
	}
	if _, err := near.Write([]byte("x")); err != nil {
		t.Errorf("the other stream suffers: %v", err)
	}
}

func TestBusyQueue(t *testing.T) {
	w := newWorld(t, "c")
	a := w.listen(t, "r", "a", starling.RoleMachine)
	b := listenWith(t, Config{
		Credentials:        w.credentials(t, "r", "b", starling.RoleMachine),
		AcceptQueueStreams: 2,
	})
	ctx := testContext(t)
	for range 2 { // fill the queue: nobody accepts
		c, err := a.Dial(ctx, b.Addr(), KindSwarm)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
	}
	eventually(t, "the queue is full", func() bool { return b.Stats().Accepted == 2 })
	c, err := a.Dial(ctx, b.Addr(), KindSwarm)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if n := b.Stats().Busy; n != 1 {
		t.Errorf("%d counted", n)
	}
	blob, err := a.Dial(ctx, b.Addr(), KindBlob) // each kind has its own queue
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	if far, err := b.Accept(ctx, KindBlob); err != nil {
		t.Error(err)
	} else {
		closeAll(t, far)
	}
}

// fixedStream feeds readKind.
type fixedStream struct {
	io.Reader
	deadline time.Time
}

func (f *fixedStream) SetReadDeadline(t time.Time) error { f.deadline = t; return nil }

// FuzzFirstBytes: whatever a stream begins with, exactly one byte is taken as its kind, and only the
// kinds of the table get past the rules, whoever asks. As a welcome, only this version is taken.
func FuzzFirstBytes(f *testing.F) {
	f.Add([]byte{}, uint8(15), uint8(15), true)
	f.Add([]byte{1}, uint8(1), uint8(1), true)
	f.Add([]byte{2, 'G', 'E', 'T'}, uint8(8), uint8(1), false)
	f.Add([]byte{0xff, 0}, uint8(15), uint8(15), true)
	f.Fuzz(func(t *testing.T, first []byte, callerBits, farBits uint8, sameRegion bool) {
		s := &fixedStream{Reader: bytes.NewReader(first)}
		k, err := readKind(s, time.Second)
		if welcome := checkWelcome(first); (welcome == nil) != (len(first) > 0 && first[0] == protocolVersion) {
			t.Fatalf("welcome %x: %v", first, welcome)
		}
		if len(first) == 0 {
			if err == nil {
				t.Fatal("a kind out of nothing")
			}
			return
		}
		rest, _ := io.ReadAll(s.Reader)
		if err != nil || k != Kind(first[0]) || !bytes.Equal(rest, first[1:]) || !s.deadline.IsZero() {
			t.Fatalf("%v, %v, %d bytes left, deadline %s", k, err, len(rest), s.deadline)
		}
		caller := starling.Identity{Cluster: "c", Region: "r1", Name: "a", Roles: rolesOf(callerBits)}
		far := starling.Identity{Cluster: "c", Region: "r1", Name: "b", Roles: rolesOf(farBits)}
		if !sameRegion {
			far.Region = "r2"
		}
		why := k.refuse(caller, far)
		if why != codeNone {
			if e := explain(why, k, caller, far); !errors.Is(e, starling.ErrForbidden) {
				t.Fatalf("refusal %d is %v", why, e)
			}
			return
		}
		if k < KindRaft || k > maxKind {
			t.Fatalf("%s is allowed", k)
		}
		if len(caller.Roles) == 0 || len(far.Roles) == 0 {
			t.Fatalf("%s is allowed without roles", k)
		}
		if k == KindRaft && !(caller.Has(starling.RoleServer) && far.Has(starling.RoleServer) && sameRegion) {
			t.Fatalf("raft from %v to %v", caller, far)
		}
	})
}

func rolesOf(bits uint8) []starling.Role {
	var held []starling.Role
	for i, r := range starling.Roles {
		if bits&(1<<i) != 0 {
			held = append(held, r)
		}
	}
	return held
}
