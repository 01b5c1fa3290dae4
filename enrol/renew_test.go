package enrol_test

import (
	"context"
	"crypto/ed25519"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/enrol"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftfsm"
	"github.com/starlingdeploy/starling/rpc"
	"github.com/starlingdeploy/starling/transport"
)

// toServer sends requests to one server over a machine's endpoint.
func toServer(t *testing.T, e *transport.Endpoint, s *server) *rpc.Client {
	via := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return e.Dial(ctx, s.endpoint.Addr(), transport.KindControl)
	}}
	t.Cleanup(via.CloseIdleConnections)
	return &rpc.Client{HTTP: &http.Client{Transport: via}}
}

// Certificates of seconds are renewed while a long transfer between two machines is under way,
// which does not notice, and the roster grows no entry by it.
func TestRenewal(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 1, ttl: 3 * time.Second})
	m := w.machine("m1", w.token(nil))
	have, err := m.Credentials(w.context())
	if err != nil {
		t.Fatal(err)
	}
	e, peer := w.endpoint(have, nil), w.endpoint(w.credentials("m2", starling.RoleMachine), nil)
	near, err := peer.Dial(w.context(), e.Addr(), transport.KindBlob)
	if err != nil {
		t.Fatal(err)
	}
	far, err := e.Accept(w.context(), transport.KindBlob)
	if err != nil {
		t.Fatal(err)
	}
	before := w.entries()
	renewed := make(chan *pki.Credentials, 16)
	ctx, cancel := context.WithCancel(t.Context())
	var loop sync.WaitGroup
	loop.Go(func() {
		_ = m.Renew(ctx, have, toServer(t, e, w.servers[0]), func(c *pki.Credentials) { // it ends with ctx
			e.SetCredentials(c)
			renewed <- c
		})
	})
	defer loop.Wait()
	defer cancel()
	last := have
	for range 2 {
		select {
		case next := <-renewed:
			if !next.Leaf.NotAfter.After(last.Leaf.NotAfter) || next.Identity.Name != "m1" {
				t.Errorf("%v until %s, after %s", next.Identity, next.Leaf.NotAfter, last.Leaf.NotAfter)
			}
			if pki.KeyDigest(next.Signer().Public().(ed25519.PublicKey)) != pki.KeyDigest(have.Signer().Public().(ed25519.PublicKey)) {
				t.Error("the key has changed")
			}
			last = next
		case <-time.After(30 * time.Second):
			t.Fatal("not renewed")
		}
		if _, err := near.Write([]byte("more")); err != nil {
			t.Errorf("the transfer: %v", err)
		}
		if _, err := io.ReadFull(far, make([]byte, 4)); err != nil {
			t.Errorf("the transfer: %v", err)
		}
	}
	if n := w.entries() - before; n != 0 {
		t.Errorf("%d log entries", n)
	}
	kept, err := enrol.Read(m.Dir)
	if err != nil {
		t.Fatal(err)
	}
	onDisk, err := kept.Credentials(m.Dir)
	if err != nil || onDisk.Leaf.NotAfter.Before(last.Leaf.NotAfter) {
		t.Errorf("on disk: %v", err)
	}
	// A new connection shows the new certificate, though the first one has expired by now.
	time.Sleep(time.Until(have.Leaf.NotAfter.Add(time.Second)))
	if c, err := e.Dial(w.context(), w.servers[0].endpoint.Addr(), transport.KindControl); err != nil {
		t.Errorf("after the first one's end: %v", err)
	} else {
		_ = c.Close()
	}
}

// A machine that was off when its certificate expired comes back with its key alone; in the end
// so does one that ran all the time, but could reach nobody.
func TestExpiredWhileOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 1, ttl: 2 * time.Second})
	token := w.token(nil)
	m := w.machine("m1", token)
	old, err := m.Credentials(w.context())
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Until(old.Leaf.NotAfter.Add(100 * time.Millisecond)))
	m.Token = ""
	again, err := m.Credentials(w.context())
	if err != nil || !again.Leaf.NotAfter.After(old.Leaf.NotAfter) {
		t.Fatalf("after it expired: %v", err)
	}
	if k, _ := w.servers[0].fsm.View().JoinToken(tokenID(t, token)); k.Uses != 1 {
		t.Errorf("%d uses of the token", k.Uses)
	}
	ctx, cancel := context.WithCancel(w.context())
	nobody := &rpc.Client{HTTP: &http.Client{Transport: unreachable{}}}
	err = m.Renew(ctx, old, nobody, func(*pki.Credentials) { cancel() })
	if w.context().Err() != nil || err == nil {
		t.Errorf("one that ran: %v", err)
	}
}

type unreachable struct{}

func (unreachable) RoundTrip(*http.Request) (*http.Response, error) {
	return nil, starling.ErrUnavailable
}

// A machine that an operator revokes is out within seconds, and stays out until the operator lets it in.
func TestRevokedMachine(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 3})
	m := w.machine("m1", w.token(nil))
	have, err := m.Credentials(w.context())
	if err != nil {
		t.Fatal(err)
	}
	e := w.endpoint(have, nil)
	renew := func(s *server) error {
		ctx, cancel := context.WithTimeout(w.context(), 10*time.Second)
		defer cancel()
		kept, err := enrol.Read(m.Dir)
		if err != nil {
			return err
		}
		csr, err := pki.NewCSR(kept.Key)
		if err != nil {
			return err
		}
		_, err = toServer(t, e, s).Renew(ctx, rpc.RenewRequest{CSR: csr})
		return err
	}
	var open []*transport.Conn
	for _, s := range w.servers {
		w.eventually(s.name+" renews", func() bool { return renew(s) == nil })
		c, err := e.Dial(w.context(), s.endpoint.Addr(), transport.KindControl)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		open = append(open, c)
	}
	w.propose(raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: "m1", Standing: starling.StandingRevoked})
	began := time.Now()
	for i, s := range w.servers {
		if err := open[i].SetReadDeadline(time.Now().Add(60 * time.Second)); err != nil {
			t.Fatal(err)
		}
		_, err := open[i].Read(make([]byte, 1))
		wants(t, "its open stream to "+s.name, err, starling.ErrForbidden, "this machine was revoked")
		wants(t, "it comes to "+s.name, renew(s), starling.ErrUnavailable, "refused this node's certificate")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("refused everywhere after %s", took)
	}
	if err := os.Remove(filepath.Join(m.Dir, enrol.CertFile)); err != nil {
		t.Fatal(err)
	}
	_, err = m.Credentials(w.context())
	wants(t, "it enrols with its key", err, starling.ErrForbidden, "machine m1 is revoked")
	m.Token = w.token(nil)
	_, err = m.Credentials(w.context())
	wants(t, "it enrols with another token", err, starling.ErrForbidden, "machine m1 is revoked")
	w.propose(raftfsm.TypeMachineStanding, raftfsm.MachineStanding{Name: "m1", Standing: starling.StandingActive})
	if _, err := m.Credentials(w.context()); err != nil {
		t.Errorf("let in again: %v", err)
	}
	for _, s := range w.servers {
		w.eventually(s.name+" renews again", func() bool { return renew(s) == nil })
	}
}

// Who may not renew: other processes, machines by hand, and other keys.
func TestRenewRefusals(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 1})
	m := w.machine("m1", w.token(nil))
	have, err := m.Credentials(w.context())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	csr, err := pki.NewCSR(keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		who  *pki.Credentials
		csr  []byte
		is   error
		says string
	}{
		"another key":      {have, csr, starling.ErrForbidden, "machine m1 enrolled with another key"},
		"unknown":          {w.credentials("m7", starling.RoleMachine), csr, starling.ErrForbidden, "machine m7 was removed from region r1: enrol it anew"},
		"more than that":   {w.credentials("m1", starling.RoleMachine, starling.RoleCache), csr, starling.ErrForbidden, "was made by hand"},
		"no machine":       {w.credentials("c1", starling.RoleCache), csr, starling.ErrForbidden, "is not a machine"},
		"admits by itself": {have, nil, starling.ErrForbidden, "is not a server"},
	} {
		c := toServer(t, w.endpoint(tc.who, nil), w.servers[0])
		var err error
		if tc.csr == nil {
			_, err = c.Admit(w.context(), rpc.Admission{})
		} else {
			_, err = c.Renew(w.context(), rpc.RenewRequest{CSR: tc.csr})
		}
		wants(t, name, err, tc.is, tc.says)
	}
}
