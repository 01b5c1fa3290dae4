package blobcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/starlingdeploy/starling"
)

// caches starts n caches of a region, at addresses "<region>-<i>", and returns their
// stores by name, how to stop each, and the nodes.
func startCaches(net *network, region string, n int) (stores map[string]*MemStore, stop map[string]func(), nodes []starling.Node) {
	stores, stop = map[string]*MemStore{}, map[string]func(){}
	for i := range n {
		name := fmt.Sprintf("%s-%d", region, i)
		store := NewMemStore(256 << 20)
		stores[name] = store
		stop[name] = net.serve(name, NewServer(ServerConfig{Region: region, Source: store, Store: store, Logger: quiet()}))
		nodes = append(nodes, cacheNode(region, name))
	}
	return stores, stop, nodes
}

func cacheNode(region, name string) starling.Node {
	return starling.Node{Name: name, Region: region, Roles: []starling.Role{starling.RoleCache}, Addr: name, Alive: true}
}

func holders(stores map[string]*MemStore, d starling.Digest) (names []string) {
	for name, s := range stores {
		if _, ok := s.Stat(d); ok {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

func sorted(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func TestRegionSpreadsCopies(t *testing.T) {
	n := newNetwork(t, false)
	stores, stop, nodes := startCaches(n, "eu", 4)
	names := []string{"eu-0", "eu-1", "eu-2", "eu-3"}
	nodes = append(nodes, starling.Node{Name: "m", Region: "eu", Roles: []starling.Role{starling.RoleMachine}, Addr: "m", Alive: true},
		starling.Node{Name: "dead", Region: "eu", Roles: []starling.Role{starling.RoleCache}, Addr: "dead"})
	r := NewRegion(n.client(worker), func() []starling.Node { return nodes }, 2)
	ctx := within(t, 60*time.Second)
	for i := range 20 {
		d, data := chunkOf(t, i, 1000)
		if err := r.Put(ctx, d, data); err != nil {
			t.Fatal(err)
		}
		if got, want := holders(stores, d), sorted(starling.Rendezvous(d, names, 2)); !slices.Equal(got, want) {
			t.Errorf("chunk %d is on %v, want %v", i, got, want)
		}
		if got, err := r.Get(ctx, d); err != nil || !bytes.Equal(got, data) {
			t.Errorf("get: %v", err)
		}
	}
	if err := r.PutManifest(ctx, starling.Digest{1}, []byte("envelope")); err != nil {
		t.Fatal(err)
	}
	if env, err := r.Manifest(ctx, starling.Digest{1}); err != nil || string(env) != "envelope" {
		t.Errorf("manifest %q, %v", env, err)
	}
	if _, err := r.Get(ctx, starling.Digest{9}); !errors.Is(err, starling.ErrNotFound) {
		t.Errorf("get nothing: %v", err)
	}

	// One goes down, though gossip still shows it: the next in order takes its place.
	stop["eu-2"]()
	for i := 100; i < 120; i++ {
		d, data := chunkOf(t, i, 1000)
		if err := r.Put(ctx, d, data); err != nil {
			t.Fatal(err)
		}
		left := slices.DeleteFunc(starling.Rendezvous(d, names, 4), func(name string) bool { return name == "eu-2" })
		if got, want := holders(stores, d), sorted(left[:2]); !slices.Equal(got, want) {
			t.Errorf("chunk %d is on %v, want %v", i, got, want)
		}
	}
	for i := range 20 { // and what it held is had from the other copy
		d, _ := chunkOf(t, i, 1000)
		if _, err := r.Get(ctx, d); err != nil {
			t.Error(err)
		}
	}
	for _, name := range names {
		stop[name]()
	}
	d, data := chunkOf(t, 0, 1000)
	if err := r.Put(ctx, d, data); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("put with all down: %v", err)
	}
	if _, err := r.Get(ctx, d); !errors.Is(err, starling.ErrUnavailable) || errors.Is(err, starling.ErrNotFound) {
		t.Errorf("get with all down: %v", err)
	}
	if _, err := r.Missing(ctx, []starling.Digest{d}); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("missing with all down: %v", err)
	}
	nodes = nil
	if err := r.Put(ctx, d, data); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("put without caches: %v", err)
	}
}

func TestRegionMissing(t *testing.T) {
	n := newNetwork(t, false)
	stores, stop, nodes := startCaches(n, "eu", 4)
	names := []string{"eu-0", "eu-1", "eu-2", "eu-3"}
	r := NewRegion(n.client(worker), func() []starling.Node { return nodes }, 2)
	ctx := within(t, 60*time.Second)
	var ask, want []starling.Digest
	for i := range 30 {
		d, data := chunkOf(t, i, 1000)
		ask = append(ask, d, d)
		switch i % 3 {
		case 0: // nowhere
			want = append(want, d)
		case 1: // where it should be
			if err := r.Put(ctx, d, data); err != nil {
				t.Fatal(err)
			}
		case 2: // where it was before the membership changed
			if err := stores[starling.Rendezvous(d, names, 4)[3]].Put(ctx, d, data); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := r.Missing(ctx, ask)
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d missing, want %d: %v", len(got), len(want), err)
	}
	if got, err := r.Missing(ctx, nil); err != nil || len(got) != 0 {
		t.Errorf("nothing missing of nothing: %v, %v", got, err)
	}
	if got, err := r.Lacking(ctx, ask); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d lacking, want %d: %v", len(got), len(want), err)
	}
	nodes[1].Alive = false // rightly or not: what it holds is not known to be missing
	if got, err := r.Lacking(ctx, ask); !errors.Is(err, starling.ErrUnavailable) || !strings.Contains(err.Error(), "eu-1") {
		t.Errorf("%d lacking with a cache thought dead: %v", len(got), err)
	}
	nodes[1].Alive = true
	stop["eu-1"]() // it counts as holding nothing; the rest answers for what it holds
	got, err = r.Missing(ctx, ask)
	if err != nil || len(got) < len(want) {
		t.Errorf("%d missing, want %d or more: %v", len(got), len(want), err)
	}
	if _, err := r.Lacking(ctx, ask); !errors.Is(err, starling.ErrUnavailable) {
		t.Errorf("lacking with a cache that does not answer: %v", err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := r.Missing(gone, ask); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A region whose caches are full is no fault of the one who asks: try again later.
func TestRegionFull(t *testing.T) {
	n := newNetwork(t, false)
	store := NewMemStore(500)
	n.serve("eu-0", NewServer(ServerConfig{Region: "eu", Source: store, Store: store, Logger: quiet()}))
	r := NewRegion(n.client(worker), func() []starling.Node { return []starling.Node{cacheNode("eu", "eu-0")} }, 2)
	d, data := chunkOf(t, 0, 1000)
	if err := r.Put(within(t, 60*time.Second), d, data); !errors.Is(err, starling.ErrUnavailable) || !errors.Is(err, ErrFull) {
		t.Errorf("put into full caches: %v", err)
	}
}
