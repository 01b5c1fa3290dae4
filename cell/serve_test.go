package cell

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/pki"
	"github.com/starlingdeploy/starling/rpc"
)

// inProcess answers requests as a caller of that identity.
type inProcess struct {
	h  http.Handler
	id *starling.Identity
}

func (p inProcess) RoundTrip(r *http.Request) (*http.Response, error) {
	if p.id != nil {
		r = r.WithContext(starling.WithIdentity(r.Context(), *p.id))
	}
	w := httptest.NewRecorder()
	p.h.ServeHTTP(w, r)
	return w.Result(), nil
}

func TestHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.close()
		all, g := rollout(w, "c1", 5)
		speaker := w.speaker("c1")
		other := all[0]
		if other == speaker {
			other = all[1]
		}
		as := func(name, region string, role starling.Role) *rpc.Client {
			id := &starling.Identity{Region: region, Name: name, Roles: []starling.Role{role}}
			return &rpc.Client{HTTP: &http.Client{Transport: inProcess{speaker.Handler(), id}}}
		}
		ctx := context.Background()
		report := []starling.MachineReport{{Node: other.node.Name, App: "web", Generation: g.Generation, State: starling.MachineFailed, Reason: "no port"}}
		if r, err := as(other.node.Name, "us", starling.RoleMachine).ReportToCell(ctx, report); err != nil || r.Term == 0 {
			t.Errorf("%+v, %v", r, err)
		}
		member, err := as("s1", "us", starling.RoleServer).CellMachine(ctx, other.node.Name)
		if err != nil || len(member.Reports) != 1 || member.Reports[0].Reason != "no port" || member.Node.Name != other.node.Name {
			t.Errorf("drill-down: %+v, %v", member, err)
		}
		if members, err := as("s1", "us", starling.RoleServer).CellMembers(ctx); err != nil || len(members) != 5 {
			t.Errorf("%d members, %v", len(members), err)
		}
		feed, err := as(other.node.Name, "us", starling.RoleMachine).CellFeed(ctx, rpc.FeedCursor{})
		if err != nil || feed.Speaker != speaker.node.Name || feed.Term == 0 {
			t.Errorf("%+v, %v", feed, err)
		} else if f, err := verifyTest(feed.Signed); err != nil || f.Index != 11 {
			t.Errorf("%+v, %v", f, err)
		}
		if feed, err := as(other.node.Name, "us", starling.RoleMachine).CellFeed(ctx, rpc.FeedCursor{Index: 11, Reign: "s1/1"}); err != nil || feed.Signed != nil {
			t.Errorf("nothing new: %+v, %v", feed, err)
		}
		for name, tc := range map[string]struct {
			call func(c *rpc.Client) error
			as   *rpc.Client
			want error
		}{
			"another's report":       {func(c *rpc.Client) error { _, err := c.ReportToCell(ctx, report); return err }, as("m9", "us", starling.RoleMachine), starling.ErrForbidden},
			"a report of a server":   {func(c *rpc.Client) error { _, err := c.ReportToCell(ctx, report); return err }, as("s1", "us", starling.RoleServer), starling.ErrForbidden},
			"another region's":       {func(c *rpc.Client) error { _, err := c.CellFeed(ctx, rpc.FeedCursor{}); return err }, as("m1", "eu", starling.RoleMachine), starling.ErrForbidden},
			"a machine drills down":  {func(c *rpc.Client) error { _, err := c.CellMembers(ctx); return err }, as("m1", "us", starling.RoleMachine), starling.ErrForbidden},
			"a machine of no cell":   {func(c *rpc.Client) error { _, err := c.CellMachine(ctx, "m99"); return err }, as("s1", "us", starling.RoleServer), starling.ErrNotFound},
			"nobody":                 {func(c *rpc.Client) error { _, err := c.CellFeed(ctx, rpc.FeedCursor{}); return err }, &rpc.Client{HTTP: &http.Client{Transport: inProcess{h: speaker.Handler()}}}, starling.ErrForbidden},
			"not the cell's speaker": {func(c *rpc.Client) error { _, err := other.take(other.node.Name, report); return err }, nil, starling.ErrUnavailable},
		} {
			if err := tc.call(tc.as); !errors.Is(err, tc.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestSignedFeed(t *testing.T) {
	now := time.Now()
	ca, err := pki.NewCA("prod", now)
	if err != nil {
		t.Fatal(err)
	}
	creds := func(region string, role starling.Role) *pki.Credentials {
		t.Helper()
		cert, key, err := ca.Issue(pki.Request{Region: region, Name: "n1", Roles: []starling.Role{role}}, now)
		if err != nil {
			t.Fatal(err)
		}
		c, err := pki.Load(ca.CertPEM(), cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	reader := creds("us", starling.RoleMachine)
	feed := &rpc.Feed{Index: 7, Region: "us", Goals: []*starling.Goal{goalOf("web", 1)}}
	signed, err := SignFeed(feed, creds("us", starling.RoleServer))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := OpenFeed(signed, "us", reader, now); err != nil || got.Index != 7 || got.Goals[0].App != "web" {
		t.Errorf("%+v, %v", got, err)
	}
	for name, by := range map[string]*pki.Credentials{"a machine": reader, "a server elsewhere": creds("eu", starling.RoleServer)} {
		signed, err := SignFeed(feed, by)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenFeed(signed, "us", reader, now); !errors.Is(err, starling.ErrForbidden) {
			t.Errorf("signed by %s: %v", name, err)
		}
	}
	if _, err := OpenFeed(signed, "eu", reader, now); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("for another region: %v", err)
	}
	var s rpc.SignedFeed
	if err := json.Unmarshal(signed, &s); err != nil {
		t.Fatal(err)
	}
	s.Payload = append(s.Payload, ' ')
	forged, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenFeed(forged, "us", reader, now); !errors.Is(err, starling.ErrForbidden) {
		t.Errorf("changed: %v", err)
	}
	if _, err := OpenFeed([]byte("{"), "us", reader, now); !errors.Is(err, starling.ErrCorrupt) {
		t.Errorf("torn: %v", err)
	}
}

func TestWords(t *testing.T) {
	for _, w := range []Word{{}, {Term: 1<<64 - 1, Moves: 1<<64 - 1, Muted: true}, {Moves: 3}} {
		s := w.String()
		if got := ParseWord(s); got != w || len(s) > 40 {
			t.Errorf("%+v became %q and %+v", w, s, got)
		}
	}
	if ParseWord("no word") != (Word{}) {
		t.Error("nonsense says something")
	}
}
