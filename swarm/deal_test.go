package swarm

import (
	"fmt"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/starlingdeploy/starling"
)

func equalChunks(n, size int) []starling.Chunk {
	out := make([]starling.Chunk, n)
	for i := range out {
		out[i] = starling.Chunk{Digest: starling.DigestOf(fmt.Append(nil, i)), Size: size}
	}
	return out
}

func deal(seed uint64, members []Member, chunks []starling.Chunk) map[uint32]string {
	owner := make(map[uint32]string)
	for _, m := range members {
		for _, c := range share(seed, m.Name, members, chunks) {
			owner[c] = m.Name
		}
	}
	return owner
}

func TestDealGivesEachChunkToOneMachine(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		members := cell(rapid.IntRange(1, 60).Draw(t, "machines"), 3, 3)
		sizes := rapid.SliceOfN(rapid.IntRange(1, 1000), 0, 200).Draw(t, "sizes")
		chunks := equalChunks(len(sizes), 1)
		for i, s := range sizes {
			chunks[i].Size = s
		}
		seed := rapid.Uint64().Draw(t, "seed")
		got := 0
		for _, m := range members {
			got += len(share(seed, m.Name, members, chunks))
		}
		if owners := deal(seed, members, chunks); len(owners) != len(chunks) || got != len(chunks) {
			t.Fatalf("%d chunks, %d dealt, %d of them distinct", len(chunks), got, len(owners))
		} else {
			for c, m := range dealAll(seed, members, chunks) {
				if owners[uint32(c)] != members[m].Name {
					t.Fatalf("chunk %d is in the share of %s, and dealt to %s", c, owners[uint32(c)], members[m].Name)
				}
			}
		}
	})
}

func TestDealIsEven(t *testing.T) {
	for _, c := range []struct{ machines, chunks, least, most int }{
		{8, 500, 60, 65}, {200, 500, 0, 6}, {200, 10_000, 45, 55}, {1500, 10_000, 3, 11}, {1500, 10, 0, 1},
	} {
		members := cell(c.machines, 3, 3)
		chunks := equalChunks(c.chunks, 1000)
		step := max(1, c.machines/100)
		for i := 0; i < c.machines; i += step {
			if n := len(share(7, members[i].Name, members, chunks)); n < c.least || n > c.most {
				t.Errorf("%d machines, %d chunks: %s has %d, want %d to %d", c.machines, c.chunks, members[i].Name, n, c.least, c.most)
			}
		}
	}
}

func TestDealIsStable(t *testing.T) {
	members := cell(100, 3, 3)
	chunks := equalChunks(2000, 1000)
	before := deal(7, members, chunks)
	after := deal(7, slices.Delete(slices.Clone(members), 40, 41), chunks)
	moved := 0
	for c, name := range before {
		if after[c] != name && name != members[40].Name {
			moved++
		}
	}
	// The lost machine had 20; a naive deal would move nearly all 2,000.
	if moved > 300 {
		t.Errorf("losing one of 100 machines moved %d of 2,000 chunks that it did not have", moved)
	}
	t.Logf("%d chunks moved besides the lost machine's", moved)
}

func TestDealLeavesOutStrangers(t *testing.T) {
	if s := share(1, "stranger", cell(5, 1, 1), equalChunks(100, 1)); len(s) != 0 {
		t.Errorf("a machine that is no member has a share of %d", len(s))
	}
}
