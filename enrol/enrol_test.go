package enrol_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/enrol"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/raftfsm"
)

// One region for all that a machine may do wrong or suffer.
func TestEnrolling(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 3})
	t.Run("well", w.well)
	t.Run("refused", w.refused)
	t.Run("clocks", w.clocks)
	t.Run("lost answer", w.lostAnswer)
	t.Run("removed", w.removed)
	t.Run("a server is gone", w.serverGone)
}

func (w *world) well(t *testing.T) {
	m := w.machine("m1", w.token(func(k *starling.JoinToken) { k.Tags, k.MaxUses = map[string]string{"role": "web"}, 2 }))
	c, err := m.Credentials(w.context())
	if err != nil {
		t.Fatal(err)
	}
	if id := c.Identity; id.Name != "m1" || id.Region != region || len(id.Roles) != 1 || !id.Has(starling.RoleMachine) {
		t.Errorf("identity %v", id)
	}
	if life := time.Until(c.Leaf.NotAfter); life < pki.DefaultMachineTTL-time.Hour || life > pki.DefaultMachineTTL {
		t.Errorf("valid for %s", life)
	}
	r, ok := w.servers[0].fsm.View().Machine("m1")
	w.eventually("s1 knows m1", func() bool { r, ok = w.servers[0].fsm.View().Machine("m1"); return ok })
	if r.Cell == "" || r.Zone != "a" || r.Rack != "r1" || r.Tags["role"] != "web" || r.Gossip != "127.0.0.1:7472" || r.Standing != starling.StandingActive {
		t.Errorf("recorded %+v", r)
	}
	for _, name := range []string{enrol.CAFile, enrol.CertFile, enrol.KeyFile, enrol.TicketFile} {
		st, err := os.Stat(filepath.Join(m.Dir, name))
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, st, err)
		}
	}
	// The next start needs neither token nor servers.
	m.Token, m.Servers = "", func() []string { return nil }
	again, err := m.Credentials(w.context())
	if err != nil || again.Leaf.SerialNumber.Cmp(c.Leaf.SerialNumber) != 0 {
		t.Errorf("the next start: %v", err)
	}
	// A copy of its disk, in another computer.
	m.Machine.Name = "m9"
	_, err = m.Credentials(w.context())
	wants(t, "a copied disk", err, starling.ErrConflict, "holds the identity of machine m1", "delete data_dir and enrol it anew")
}

func (w *world) refused(t *testing.T) {
	many := func(k *starling.JoinToken) { k.MaxUses = 100 }
	good := w.token(many)
	if _, err := w.machine("taken", good).Credentials(w.context()); err != nil {
		t.Fatal(err)
	}
	used := w.token(nil)
	if _, err := w.machine("first", used).Credentials(w.context()); err != nil {
		t.Fatal(err)
	}
	revoked := w.token(many)
	w.propose(raftfsm.TypeJoinTokenRevoke, raftfsm.JoinTokenRevoke{ID: tokenID(t, revoked)})
	old := w.token(func(k *starling.JoinToken) { k.ExpiresAt = time.Now().Add(300 * time.Millisecond) })
	time.Sleep(400 * time.Millisecond)
	zone := w.token(func(k *starling.JoinToken) { k.Zone = "b" })
	tag := w.token(func(k *starling.JoinToken) { k.Tags = map[string]string{"role": "web"} })
	part := strings.Split(good, ".")
	otherPart := strings.Split(used, ".")
	before := w.entries()
	for name, tc := range map[string]struct {
		token  string
		change func(*enrol.Config)
		is     error
		says   string
	}{
		"wrong secret":    {token: strings.Join([]string{part[0], part[1], otherPart[2], part[3]}, "."), is: starling.ErrForbidden, says: "the secret of join token " + part[1] + " is wrong"},
		"unknown token":   {token: strings.Join([]string{part[0], "nobody", part[2], part[3]}, "."), is: starling.ErrForbidden, says: "knows no join token"},
		"expired":         {token: old, is: starling.ErrForbidden, says: "expired at"},
		"used up":         {token: used, is: starling.ErrForbidden, says: "has been used by 1 machines"},
		"revoked":         {token: revoked, is: starling.ErrForbidden, says: "is revoked: make another"},
		"another cluster": {token: strings.Join([]string{part[0], part[1], part[2], strings.Repeat("ab", 32)}, "."), is: starling.ErrForbidden, says: "the join token is an old one"},
		"name taken":      {token: good, change: func(c *enrol.Config) { c.Machine.Name = "taken" }, is: starling.ErrConflict, says: "starling node remove taken"},
		"another region":  {token: good, change: func(c *enrol.Config) { c.Region = "r2" }, is: starling.ErrForbidden, says: "is of region r1, this machine is to be of region r2"},
		"another zone":    {token: zone, is: starling.ErrForbidden, says: "is for machines in zone b, not a"},
		"another tag":     {token: tag, change: func(c *enrol.Config) { c.Machine.Tags = map[string]string{"role": "db"} }, is: starling.ErrForbidden, says: "tag role = web, not db"},
	} {
		m := w.machine("n1", tc.token)
		if tc.change != nil {
			tc.change(m)
		}
		_, err := m.Credentials(w.context())
		wants(t, name, err, tc.is, tc.says)
	}
	for name, tc := range map[string]struct {
		token  string
		change func(*enrol.Config)
		says   string
	}{
		"no token":      {"", nil, "give it a join token"},
		"damaged token": {good[:len(good)-7], nil, "cut off: copy it again"},
		"bad name":      {good, func(c *enrol.Config) { c.Machine.Name = "N 1" }, "name"},
		"no servers":    {good, func(c *enrol.Config) { c.Servers = func() []string { return nil } }, "there is none to enrol at"},
	} {
		m := w.machine("n1", tc.token)
		if tc.change != nil {
			tc.change(m)
		}
		if _, err := m.Credentials(w.context()); !starling.IsInvalid(err) || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Zone and tag are judged by the state machine; all the others write nothing.
	if after := w.entries(); after-before > 4 {
		t.Errorf("%d entries in the log for machines that were refused", after-before)
	}
}

func tokenID(t *testing.T, text string) string {
	t.Helper()
	k, err := starling.ParseJoinToken(text)
	if err != nil {
		t.Fatal(err)
	}
	return k.ID
}

// entries is how far the log has grown.
func (w *world) entries() uint64 {
	var most uint64
	for _, s := range w.servers {
		most = max(most, s.fsm.View().Index())
	}
	return most
}

func (w *world) clocks(t *testing.T) {
	token := w.token(func(k *starling.JoinToken) { k.MaxUses = 100 })
	for off, says := range map[time.Duration]string{24 * time.Hour: "it is 24h0m0s ahead", -24 * time.Hour: "it is 24h0m0s behind", 6 * time.Minute: "6m0s ahead"} {
		m := w.machine("late", token)
		m.Now = func() time.Time { return time.Now().Add(off) }
		_, err := m.Credentials(w.context())
		wants(t, off.String(), err, starling.ErrClock, says)
	}
	m := w.machine("nearly", token)
	m.Now = func() time.Time { return time.Now().Add(4 * time.Minute) }
	if _, err := m.Credentials(w.context()); err != nil {
		t.Errorf("four minutes ahead: %v", err)
	}
}

// lostStream loses the answer of a server that has enrolled the machine.
type lostStream struct{ enrol.Stream }

func (l lostStream) Read(b []byte) (int, error) {
	_, err := l.Stream.Read(b) // the server has done its part by now
	return 0, errors.Join(starling.ErrUnavailable, err)
}

func (w *world) lostAnswer(t *testing.T) {
	token := w.token(nil) // for one machine
	m := w.machine("lost", token)
	var lost atomic.Int64
	m.Dial = func(ctx context.Context, addr string, cas []starling.Digest) (enrol.Stream, error) {
		s, err := w.dial(ctx, addr, cas)
		if err == nil && lost.Add(1) <= 2 {
			return lostStream{s}, nil
		}
		return s, err
	}
	if _, err := m.Credentials(w.context()); err != nil {
		t.Fatal(err)
	}
	if n := lost.Load(); n < 3 {
		t.Errorf("%d attempts", n)
	}
	k, _ := w.leader().fsm.View().JoinToken(tokenID(t, token))
	if k.Uses != 1 {
		t.Errorf("%d uses", k.Uses)
	}
}

func (w *world) leader() *server {
	var l *server
	w.eventually("somebody leads", func() bool {
		for _, s := range w.servers {
			if s.raft.IsLeader() {
				l = s
				return true
			}
		}
		return false
	})
	return l
}

// A machine that an operator has removed does not come back with its key alone.
func (w *world) removed(t *testing.T) {
	m := w.machine("gone", w.token(nil))
	if _, err := m.Credentials(w.context()); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(m.Dir, enrol.CertFile)); err != nil {
		t.Fatal(err)
	}
	m.Token = ""
	if _, err := m.Credentials(w.context()); err != nil {
		t.Errorf("with its key, before: %v", err)
	}
	w.propose(raftfsm.TypeMachineRemove, raftfsm.MachineRemove{Name: "gone"})
	if err := os.Remove(filepath.Join(m.Dir, enrol.CertFile)); err != nil {
		t.Fatal(err)
	}
	_, err := m.Credentials(w.context())
	wants(t, "with its key, after", err, starling.ErrForbidden, "has no machine gone with this key: it needs a join token")
	m.Token = w.token(nil)
	if _, err := m.Credentials(w.context()); err != nil {
		t.Errorf("with a token: %v", err)
	}
}

func (w *world) serverGone(t *testing.T) {
	token := w.token(func(k *starling.JoinToken) { k.MaxUses = 100 })
	w.leader().stop()
	var all sync.WaitGroup
	for _, name := range []string{"a1", "a2", "a3", "a4"} {
		m := w.machine(name, token)
		all.Go(func() {
			if _, err := m.Credentials(w.context()); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
}

// Servers without an enrolment authority say so.
func TestNobodyEnrols(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 1, closed: true})
	_, err := w.machine("m1", w.token(nil)).Credentials(w.context())
	wants(t, "closed", err, starling.ErrForbidden, "it has no enrolment authority", "starling tls ca enrol")
}

// One server whose clock is wrong turns machines away; they go to the others.
func TestServerWithAWrongClock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{servers: 3, clockOff: map[string]time.Duration{"s2": 48 * time.Hour}})
	token := w.token(func(k *starling.JoinToken) { k.MaxUses, k.ExpiresAt = 100, time.Now().Add(96*time.Hour) })
	for _, name := range []string{"m1", "m2", "m3", "m4"} {
		if _, err := w.machine(name, token).Credentials(w.context()); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A machine that nobody answers goes on trying until it is told to stop.
func TestNobodyAnswers(t *testing.T) {
	t.Parallel()
	w := newWorld(t, shape{})
	m := w.machine("m1", starling.JoinTokenText{ID: "t1"}.Text())
	m.Servers = func() []string { return []string{"127.0.0.1:1"} }
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if _, err := m.Credentials(ctx); !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("%v", err)
	}
}
