package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/starlingdeploy/starling"
	"github.com/starlingdeploy/starling/rpc"
)

// tellingMachines answers for machines that know where an artifact came from.
func tellingMachines(region string) func(context.Context, string, starling.Digest) ([]byte, error) {
	return func(_ context.Context, addr string, artifact starling.Digest) ([]byte, error) {
		name, _, _ := strings.Cut(addr, ".")
		switch name {
		case "m2":
			return nil, fmt.Errorf("blob: %w", starling.ErrNotFound)
		case "m3":
			return []byte(`{"node":"m1"}`), nil // speaks for another
		case "m4":
			return nil, errors.New("the stream broke")
		}
		return json.Marshal(starling.Account{Node: name, Region: "forged", Artifact: artifact, Chunks: len(region)})
	}
}

func TestWhyOfMachinesInTwoRegions(t *testing.T) {
	w := newWire()
	us := newBench(t, "us", func(c *Config) {
		c.Regions = map[string][]string{"eu": {"s1.eu:7471"}}
		c.DialControl = w.dialer(identity(node("us", "s1", starling.RoleServer)))
		c.Account = tellingMachines("us")
	}, append(machineNodes("us", 6), node("us", "c1", starling.RoleCache))...)
	t.Cleanup(us.server.transport.CloseIdleConnections)
	euNodes := append(machineNodes("eu", 2), node("eu", "far", starling.RoleMachine))
	eu := newBench(t, "eu", func(c *Config) { c.Account = tellingMachines("european") }, euNodes...)
	eu.elect()
	w.serve(t, "s1.eu:7471", eu.server.RPC())

	us.members.alive("m5", false)
	us.app("web", nil)
	us.submit("d1", "web", us.artifact("v1"), "eu", "us")
	us.elect()
	for _, tt := range []struct {
		machine, region string
		from            string // region of the account; "": the error below
		err             error
		says            string
	}{
		{"far", "", "eu", nil, ""},
		{"far", "eu", "eu", nil, ""},
		{"m0", "us", "us", nil, ""},
		{"m0", "eu", "eu", nil, ""},
		{"m0", "", "", nil, "name the region"},
		{"far", "us", "", starling.ErrNotFound, "no machine"},
		{"nobody", "", "", starling.ErrNotFound, "eu: "},
		{"m0", "asia", "", starling.ErrNotFound, "does not take part"},
		{"m2", "us", "", starling.ErrNotFound, "does not know"},
		{"m3", "us", "", starling.ErrUnavailable, "sound"},
		{"m4", "us", "", starling.ErrUnavailable, "the stream broke"},
		{"m5", "us", "", starling.ErrUnavailable, "does not answer"},
		{"c1", "us", "", starling.ErrNotFound, "no machine"},
		{"s1", "eu", "", starling.ErrNotFound, "no machine"},
	} {
		y, err := us.server.Why(t.Context(), "d1", tt.machine, tt.region)
		switch {
		case tt.from != "":
			if err != nil || y.Account.Region != tt.from || y.Account.Node != tt.machine {
				t.Errorf("%s of %q: %+v, %v", tt.machine, tt.region, y, err)
			}
		case err == nil || !strings.Contains(err.Error(), tt.says) || tt.err != nil && !errors.Is(err, tt.err) || tt.err == nil && !starling.IsInvalid(err):
			t.Errorf("%s of %q: %v, want %v with %q", tt.machine, tt.region, err, tt.err, tt.says)
		}
	}
	if _, err := us.server.Why(t.Context(), "d9", "", ""); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("why of what is not there: %v", err)
	}
	us.app("other", nil)
	us.submit("d2", "other", starling.Digest{})
	if _, err := us.server.Why(t.Context(), "d2", "m0", "us"); !errors.Is(err, starling.ErrConflict) {
		t.Errorf("why of a machine before there is an artifact: %v", err)
	}
	w.cut("s1.eu:7471")
	us.server.hints.put("eu", "s1.eu:7471", us.clock.Now().Add(leaderHintFor)) // as if it had answered a moment ago
	if y, err := us.server.Why(t.Context(), "d1", "m0", ""); err != nil || y.Account.Region != "us" {
		t.Errorf("with eu away: %+v, %v", y, err)
	}
}

func TestWhyOfADeploymentUnderWay(t *testing.T) {
	b := oneRegion(t, 3)
	term := toStaging(t, b, nil)
	g, _ := b.fsm.View().Goal("web")
	for i, r := range []starling.MachineReport{
		{Node: "m0", State: starling.MachineStaged, FetchMS: 900, Bound: starling.BoundCache, Bytes: starling.Bytes{CacheOut: 600, Peer: 400, PeerRack: 400}},
		{Node: "m1", State: starling.MachineFetching, FetchMS: 5000, Bound: starling.BoundPeerLink, Bytes: starling.Bytes{Peer: 300, PeerZone: 300}},
		{Node: "m2", State: starling.MachineFetching, FetchMS: -5, Bound: "\x1b[2J", Bytes: starling.Bytes{Peer: 1 << 60}},
	} {
		r.App, r.Generation = "web", g.Generation
		if _, err := term.machines.record(g, r, b.clock.Now()); err != nil {
			t.Fatal(i, err)
		}
	}
	b.look(term)
	y, err := b.server.Why(t.Context(), "d1", "", "")
	if err != nil {
		t.Fatal(err)
	}
	if len(y.WaitsFor) != 1 || !strings.Contains(y.WaitsFor[0], "1 of 3 machines staged in us") {
		t.Errorf("waits for %q", y.WaitsFor)
	}
	if y.Bytes.CacheOut != 600 || y.Bytes.Peer != 700 || y.Bytes.PeerRack != 400 || y.Bytes.PeerZone != 300 {
		t.Errorf("bytes %+v", y.Bytes)
	}
	want := []starling.SlowMachine{
		{Node: "m1", Region: "us", FetchMS: 5000, Bound: starling.BoundPeerLink}, {Node: "m0", Region: "us", FetchMS: 900, Bound: starling.BoundCache},
	}
	if !slices.Equal(y.Machines.Slowest, want) {
		t.Errorf("slowest %+v", y.Machines.Slowest)
	}
	if len(y.Regions) != 1 || !y.Regions[0].Heard || y.Regions[0].Staged != 1 || y.Regions[0].Target != 3 || y.Regions[0].Bytes.Peer != 700 {
		t.Errorf("regions %+v", y.Regions)
	}
	b.depose()
	b.server.setTerm(nil)
	if y, err := b.server.Why(t.Context(), "d1", "", ""); err != nil || len(y.WaitsFor) != 0 || y.Regions[0].Heard {
		t.Errorf("a follower says %+v, %v", y, err)
	}
}

// A liar is named to the operator: in the log, in the deployment, and still after its
// accusers have restarted.
func TestLiarsAreNamed(t *testing.T) {
	var log bytes.Buffer
	b := newBench(t, "us", func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) },
		append(machineNodes("us", 4), node("us", "c1", starling.RoleCache))...)
	term := toStaging(t, b, nil)
	g, _ := b.fsm.View().Goal("web")
	lies := starling.Distrust{Node: "m3", Reason: "sent a chunk whose bytes do not match its digest\x1b[2J"}
	say := func(name string, state starling.MachineState, all ...starling.Distrust) {
		t.Helper()
		body, err := json.Marshal([]starling.MachineReport{{Node: name, App: "web", Generation: g.Generation, State: state, Distrusted: all}})
		if err != nil {
			t.Fatal(err)
		}
		as := node("us", name, starling.RoleMachine)
		if code, text := call(b.server, rpc.RouteMachineReports, string(body), &as); code != 204 {
			t.Fatalf("%d: %s", code, text)
		}
	}
	say("m1", starling.MachineFetching, lies, lies, starling.Distrust{Node: "\x1b[2J"})
	say("m0", starling.MachineFetching, lies, starling.Distrust{Node: "c1", Cache: true, Reason: "sent nonsense"})
	b.look(term)
	y, err := b.server.Why(t.Context(), "d1", "", "")
	if err != nil {
		t.Fatal(err)
	}
	want := []starling.Accused{
		{Node: "m3", Region: "us", Reason: "sent a chunk whose bytes do not match its digest[2J", By: "m0", Accusers: 2},
		{Node: "c1", Region: "us", Cache: true, Reason: "sent nonsense", By: "m0", Accusers: 1},
	}
	if !slices.Equal(y.Machines.Distrusted, want) {
		t.Errorf("distrusted %+v", y.Machines.Distrusted)
	}
	if n := strings.Count(log.String(), "source=m3"); n != 1 || !strings.Contains(log.String(), "by=m1") || strings.Count(log.String(), "source=c1") != 1 {
		t.Errorf("m3 is named %d times: %s", n, log.String())
	}
	// The record keeps what a checkpoint has seen.
	b.clock.advance(2 * checkpointEvery)
	b.look(term)
	say("m0", starling.MachineStaged)
	say("m1", starling.MachineStaged)
	b.look(term)
	if d, _ := b.server.Deployment("d1"); !slices.Equal(d.Machines.Distrusted, want) {
		t.Errorf("after the accusers' restart: %+v", d.Machines.Distrusted)
	}
}

func TestNamesInRegionReportsAreChecked(t *testing.T) {
	r := starling.RegionReport{Region: "eu"}
	for i := range 20 {
		r.Counts.Distrusted = append(r.Counts.Distrusted, starling.Accused{Node: "m1", Region: "us", Reason: "x\n", By: "m2", Accusers: i % 2})
		r.Counts.Slowest = append(r.Counts.Slowest, starling.SlowMachine{Node: "m1", Region: "us", FetchMS: int64(1 - i%2*2)})
	}
	r.Counts.Distrusted[1].By = "\x1b"
	r.Counts.Slowest[0].Bound = "No!"
	if err := checkReport(&r); err != nil {
		t.Fatal(err)
	}
	d, s := r.Counts.Distrusted, r.Counts.Slowest
	if len(d) != 3 || d[0].Region != "eu" || d[0].Reason != "x" || len(s) != 2 || s[0].Region != "eu" {
		t.Errorf("%+v, %+v", d, s)
	}
}
