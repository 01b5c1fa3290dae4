package raftnode

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hashicorp/raft"
	"pgregory.net/rapid"
)

func peer(name string, state PeerState, tags ...string) Peer {
	p := Peer{Name: name, Addr: name + ":1", State: state, Tags: map[string]string{}}
	for i := 0; i+1 < len(tags); i += 2 {
		p.Tags[tags[i]] = tags[i+1]
	}
	return p
}

func TestBootstrapSet(t *testing.T) {
	three := func(extra ...Peer) []Peer {
		return append([]Peer{
			peer("c", PeerAlive, "expect", "3"), peer("a", PeerAlive, "expect", "3"), peer("b", PeerAlive, "expect", "3"),
		}, extra...)
	}
	noAddr := peer("c", PeerAlive, "expect", "3")
	noAddr.Addr = ""
	tests := map[string]struct {
		peers []Peer
		self  string
		want  string
		fails bool
	}{
		"enough":                    {three(), "a", "[a b c]", false},
		"more: the first by name":   {three(peer("d", PeerAlive, "expect", "3")), "b", "[a b c]", false},
		"more, self not among":      {three(peer("d", PeerAlive, "expect", "3")), "d", "[]", false},
		"too few":                   {three()[:2], "a", "[]", false},
		"one has failed":            {append(three()[:2], peer("b", PeerFailed, "expect", "3")), "a", "[]", false},
		"one without address":       {append(three()[1:], noAddr), "a", "[]", false},
		"one is bootstrapped":       {three(peer("d", PeerAlive, "boot", "1")), "a", "[]", false},
		"a failed one has been":     {three(peer("d", PeerFailed, "boot", "1")), "a", "[]", false},
		"one that left had been":    {three(peer("d", PeerLeft, "boot", "1")), "a", "[a b c]", false},
		"one waits to be added":     {three(peer("d", PeerAlive)), "a", "[a b c]", false},
		"another expects otherwise": {three(peer("d", PeerAlive, "expect", "5")), "a", "[]", true},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			got, err := bootstrapSet(tc.peers, tc.self, 3)
			if fmt.Sprint(names(got)) != tc.want || (err != nil) != tc.fails {
				t.Errorf("got %v, %v, want %s", names(got), err, tc.want)
			}
		})
	}
}

// However little of each other the servers see, no two sets that all their members
// agree on share a server; so where more than half are expected there is but one.
func TestAgreedBootstrapSetIsOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := rapid.IntRange(1, 7).Draw(t, "servers")
		expect := rapid.IntRange(all/2+1, all).Draw(t, "expect")
		intents := make(map[string]string) // by server: the set it announces
		sets := make(map[string][]Peer)
		for i := range all {
			self := string(rune('a' + i))
			var seen []Peer
			for j := range all {
				if i == j || rapid.IntRange(0, 3).Draw(t, "sees") > 0 {
					seen = append(seen, peer(string(rune('a'+j)), PeerAlive, "expect", fmt.Sprint(expect)))
				}
			}
			set, err := bootstrapSet(seen, self, expect)
			if err != nil {
				t.Fatal(err)
			}
			if set != nil {
				intents[self] = intentOf(set)
				sets[intentOf(set)] = set
			}
		}
		agreed := 0
		for intent, set := range sets {
			all := true
			for _, p := range set {
				all = all && intents[p.Name] == intent
			}
			if all {
				agreed++
			}
		}
		if agreed > 1 {
			t.Fatalf("%d sets could begin a cluster", agreed)
		}
	})
}

func TestChanges(t *testing.T) {
	servers := []raft.Server{
		{ID: "a", Address: "a:1"}, {ID: "b", Address: "b:1"}, {ID: "c", Address: "c:1"},
	}
	moved := peer("b", PeerAlive)
	moved.Addr = "b:2"
	taker := peer("d", PeerAlive)
	taker.Addr = "c:1"
	same := []Peer{peer("a", PeerAlive), peer("b", PeerAlive), peer("c", PeerAlive)}
	tests := map[string]struct {
		peers []Peer
		addr  raft.ServerAddress
		want  string
	}{
		"nothing":          {same, "a:1", ""},
		"new":              {append(same[:3:3], peer("d", PeerAlive)), "a:1", "+d@d:1"},
		"moved":            {[]Peer{same[0], moved, same[2]}, "a:1", "+b@b:2"},
		"self moved":       {same, "a:9", "+a@a:9"},
		"failed stays":     {[]Peer{same[0], peer("b", PeerFailed), same[2]}, "a:1", ""},
		"unseen stays":     {same[:1], "a:1", ""},
		"left goes":        {[]Peer{same[0], peer("b", PeerLeft), same[2]}, "a:1", "-b"},
		"self never goes":  {[]Peer{peer("a", PeerLeft), same[1], same[2]}, "a:1", ""},
		"failed not added": {append(same[:3:3], peer("d", PeerFailed)), "a:1", ""},
		"address taken":    {[]Peer{same[0], same[1], peer("c", PeerFailed), taker}, "a:1", "+d@c:1"},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, c := range changes(servers, tc.peers, "a", tc.addr) {
				if c.remove {
					got = append(got, "-"+string(c.id))
				} else {
					got = append(got, fmt.Sprintf("+%s@%s", c.id, c.addr))
				}
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("got %q, want %q", s, tc.want)
			}
		})
	}
}
